"""The lock: exclusive while its holder lives, taken over when it does not, never kept by the dead."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from pipeline.config.errors import Stopped
from pipeline.stages import lock as module
from pipeline.stages.lock import STALE_SECONDS, Lock, boot_id, is_live, read_holder
from tests.conftest import ROOT

HERE = {"host": socket.gethostname(), "boot": boot_id()}


def left_behind(folder, age=0.0, **holder):
    """A lock file as some other process left it."""
    path = folder / "lock.json"
    path.write_text(json.dumps({**HERE, "pid": 1, "started": "0", "token": "old"} | holder))
    os.utime(path, (time.time() - age,) * 2)
    return path


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_second_holder_is_refused_at_once_naming_the_first_and_may_come_after_it(tmp_path):
    with Lock(tmp_path, "run x"):
        assert is_live(tmp_path / "lock.json")
        began = time.monotonic()
        with pytest.raises(Stopped, match=f"run x: is locked by live process {os.getpid()} on {socket.gethostname()}"):
            Lock(tmp_path, "run x").__enter__()
        assert time.monotonic() - began < 0.4
    assert not is_live(tmp_path / "lock.json")
    with Lock(tmp_path, "run x"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_waiting_holder_says_once_for_whom_and_goes_on_when_it_is_free(tmp_path):
    said, order = [], []

    def second():
        with Lock(tmp_path, "stage x", wait=said.append):
            order.append("second")

    with Lock(tmp_path, "stage x"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(1.3)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"] and len(said) == 1 and str(os.getpid()) in said[0]


@pytest.mark.parametrize("holder, age", [
    ({"pid": dead_pid()}, 0), ({"pid": os.getpid(), "started": "1"}, 0), ({"pid": os.getpid(), "boot": "another boot"}, 0),
    ({"host": "elsewhere"}, STALE_SECONDS + 5),
], ids=["dead", "pid used again", "before a reboot", "another host, untouched"])
def test_a_lock_of_the_dead_is_taken_over(tmp_path, holder, age):
    path = left_behind(tmp_path, age, **holder)
    assert not is_live(path)
    with Lock(tmp_path, "run x") as lock:
        assert read_holder(path)["token"] == lock.token
        lock.check()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_another_host_holds_as_long_as_it_is_touched(tmp_path):
    path = left_behind(tmp_path, STALE_SECONDS - 20, host="elsewhere")
    assert is_live(path)
    with pytest.raises(Stopped, match="on elsewhere"):
        Lock(tmp_path, "run x").__enter__()
    assert read_holder(path)["token"] == "old"


def test_a_holder_touches_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TOUCH_SECONDS", 0.05)
    with Lock(tmp_path, "run x") as lock:
        os.utime(lock.path, (0, 0))
        end = time.monotonic() + 10
        while lock.path.stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.02)
        assert time.time() - lock.path.stat().st_mtime < 5


def test_a_holder_notices_that_it_was_taken_over_and_leaves_the_others_lock(tmp_path):
    with Lock(tmp_path, "run x") as lock:
        lock.check()
        path = left_behind(tmp_path)
        with pytest.raises(Stopped, match="taken over"):
            lock.check()
    assert read_holder(path)["token"] == "old"


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"{}"])
def test_a_lock_file_that_says_nothing_is_taken_over_once_it_is_old(tmp_path, data):
    path = tmp_path / "lock.json"
    path.write_bytes(data)
    assert is_live(path)
    os.utime(path, (time.time() - STALE_SECONDS - 5,) * 2)
    with Lock(tmp_path, "run x"):
        pass
    assert not path.exists()


RACER = """
import sys, time
from pathlib import Path
from pipeline.stages.lock import Lock
folder = Path(sys.argv[1])
for _ in range(3):
    with Lock(folder, "race", wait=lambda text: None):
        (folder / "inside").touch(exist_ok=False)
        time.sleep(0.02)
        (folder / "inside").unlink()
        with open(folder / "count", "a") as file:
            file.write("x")
"""


def test_processes_that_race_for_a_stale_lock_are_never_inside_together(tmp_path):
    left_behind(tmp_path, pid=dead_pid())
    racers = [subprocess.Popen([sys.executable, "-c", RACER, tmp_path], cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(5)]
    for racer in racers:
        _, stderr = racer.communicate(timeout=60)
        assert racer.returncode == 0, stderr
    assert (tmp_path / "count").read_text() == "x" * 15
    assert sorted(path.name for path in tmp_path.iterdir()) == ["count"]
