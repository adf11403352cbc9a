"""A Ray that is already there: the sweep joins it, and leaves it as it was."""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sweep.processes import wait_for, working

pytestmark = pytest.mark.slow


@pytest.fixture
def joined(make_group):
    """A group, and the address of a Ray of two cores with a token, started by `ray start`."""
    group = make_group(sweep="sweep: {arm: [none, finetune]}\n")
    group.environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "RAY_USAGE_STATS_ENABLED": "0"}
    port = free_port()
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    environment = os.environ | group.environment | {"TMPDIR": str(group.scratch)}
    told = group.scratch / "head.txt"
    with open(told, "w") as out:
        command += [f"--temp-dir={group.scratch / 'head'}"]
        head = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    address = wait_for(lambda: (found := re.search(r"Local node IP: (\S+)", told.read_text())) and f"{found[1]}:{port}", patience=120)
    yield group, head, address
    group.end()
    head.wait()


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("", 0))
        return place.getsockname()[1]


def test_a_sweep_joins_a_ray_with_a_token_and_leaves_it_running(joined):
    group, head, address = joined
    group.run(f"cluster.address={address}", "cluster.workers=1")
    assert group.states() == {"done": 2}
    assert head.poll() is None
    assert not list(group.scratch.glob("gfs-ray-*")), "no Ray of its own"
    _, err = group.run(f"cluster.address={address}", "cluster.workers=50", "cluster.wait_seconds=5", "seed=1", code=75)
    assert "no room for a trial" in err.splitlines()[-1] and "within 5 s" in err.splitlines()[-1]
    del group.environment["RAY_AUTH_TOKEN"]
    group.environment["RAY_AUTH_MODE"] = "disabled"
    _, err = group.run(f"cluster.address={address}", "cluster.workers=1", "seed=1", code=2)
    assert err.splitlines()[-1].startswith(f"gfs: error: cluster.address: {address}: no Ray ")
    assert head.poll() is None


def test_a_head_that_dies_under_a_training_stops_the_sweep_resumably(joined):
    group, head, address = joined
    sweeping = group.start(f"cluster.address={address}", "cluster.workers=0", "train.epochs=100000", "sweep={seed: [0, 1]}")
    wait_for(lambda: working(group.runs_dir), sweeping)
    os.killpg(head.pid, signal.SIGKILL)
    _, err = sweeping.communicate(timeout=120)
    assert sweeping.returncode == 75, err
    assert "went down" in err.splitlines()[-1] and "run the same command" in err.splitlines()[-1]
