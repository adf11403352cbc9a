"""Stop signals while a library's own code runs."""

import os
import subprocess
import sys
import textwrap

from tests.conftest import ROOT

MOMENTS = """
    import os, signal, sys, threading, torch
    from pipeline.config import stopping
    from pipeline.config.errors import Stopped
    from pipeline.tensorfile import load_tensors, save_tensors

    stopping.raise_on_signals()
    tensors = {str(number): torch.zeros(7) for number in range(50)}
    save_tensors(sys.argv[1], tensors)
    for moment in range(100):
        stopping._told = float("-inf")
        timer = threading.Timer(0.01 + 0.0002 * moment, os.kill, (os.getpid(), signal.SIGTERM))
        try:
            timer.start()
            while True:
                if moment % 20 == 0:
                    save_tensors(sys.argv[1], tensors)
                load_tensors(sys.argv[1])
        except Stopped:
            timer.join()
            print("stopped")
"""


def test_a_stop_while_tensors_are_read_or_written_is_a_stop_and_no_damage(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(MOMENTS), str(tmp_path / "file.safetensors")]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["stopped"] * 100
