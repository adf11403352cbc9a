"""Cancelling: the holder of the lock, nobody else, is asked to stop; what cannot be stopped from here is told."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config.errors import BadInput, Stopped
from pipeline.stages.cancel import cancel
from pipeline.stages.command import command_of
from pipeline.stages.groups import write_group
from pipeline.stages.lock import boot_id, is_live
from tests.conftest import ROOT

WORK = """
import signal, sys, time
from pathlib import Path
from pipeline.config.errors import Stopped
from pipeline.config.stopping import raise_on_signals
from pipeline.stages.lock import Lock
raise_on_signals() if sys.argv[2] == "heeds" else signal.signal(signal.SIGTERM, signal.SIG_IGN)
try:
    with Lock(Path(sys.argv[1]), "the test"):
        print("held", flush=True)
        time.sleep(600)
except Stopped:
    sys.exit(75)
"""


@pytest.fixture
def run(tmp_path) -> Path:
    return make_run(tmp_path / "runs", "x-01234567")


def make_run(root: Path, name: str) -> Path:
    (root / name).mkdir(parents=True)
    (root / name / "config.yaml").write_text("name: x\nruns_dir: runs\n")
    return root / name


@pytest.fixture
def hold():
    """hold(folder): a process that holds the folder's lock and stops at a signal, unless it is deaf."""
    made = []

    def start(folder: Path, manner="heeds") -> subprocess.Popen:
        made.append(subprocess.Popen([sys.executable, "-c", WORK, folder, manner], cwd=ROOT, stdout=subprocess.PIPE, text=True))
        assert made[-1].stdout.readline() == "held\n"
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.communicate()


def left_behind(folder: Path, **holder) -> None:
    known = {"host": socket.gethostname(), "boot": boot_id(), "pid": os.getpid(), "started": "1", "token": "old"}
    (folder / "lock.json").write_text(json.dumps(known | holder))


def stopped(path, **given) -> tuple[str, list[str]]:
    said: list[str] = []
    return cancel(str(path), said.append, **given), said


def test_the_holder_stops_and_the_command_that_goes_on_is_told(run, hold):
    process = hold(run)
    line, said = stopped(run)
    assert process.wait(timeout=60) == 75 and not (run / "lock.json").exists()
    assert line == f"x-01234567: stopped; go on with: cd {run.parents[1]} && gfs run -c runs/x-01234567/config.yaml"
    assert str(process.pid) in said[0]


def test_where_nothing_runs_nothing_is_stopped(run):
    assert stopped(run) == ("x-01234567: nothing is running; it is stopped", [])
    (run / "result.json").write_text("{}")
    assert stopped(run)[0].endswith("it is done")


def test_a_process_that_merely_got_the_number_of_a_dead_holder_is_not_signalled(run):
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        left_behind(run, pid=other.pid)
        assert "nothing is running" in stopped(run)[0]
        assert other.poll() is None
    finally:
        other.kill()
        assert other.wait() == -signal.SIGKILL


def test_a_holder_on_another_host_is_named(run):
    left_behind(run, host="elsewhere", pid=77)
    with pytest.raises(BadInput, match="runs on elsewhere as process 77; give `gfs cancel` there"):
        stopped(run)


def test_a_holder_that_does_not_end_in_time_is_told_and_left(run, hold):
    process = hold(run, "deaf")
    with pytest.raises(Stopped, match=f"process {process.pid} has not stopped within 0.5 s; .*kill -9 {process.pid}"):
        stopped(run, wait_seconds=0.5)
    assert is_live(run / "lock.json")


def test_a_group_is_stopped_through_its_driver_and_its_runs_only_through_the_group(run, hold):
    folder = make_run(run.parent, "all-89abcdef")
    write_group(folder, "all", "89abcdef", [(run.name, "0" * 32)])
    driver, trial = hold(folder), hold(run)
    with pytest.raises(BadInput, match=f"is at work in a group, .* gfs cancel {re.escape(str(folder))}"):
        stopped(run)
    assert driver.poll() is None and trial.poll() is None
    line, _ = stopped(folder)
    assert driver.wait(timeout=60) == 75 and line.endswith("gfs sweep -c runs/all-89abcdef/config.yaml")
    assert trial.poll() is None  # it is the driver's to end
    line, _ = stopped(folder)  # left behind by a driver that is gone
    assert trial.wait(timeout=60) == 75 and line.startswith("all-89abcdef: stopped")


@pytest.mark.parametrize("name", ["runs", "a b/it's $(x)"])
def test_the_command_leads_back_to_the_same_directory_from_anywhere(tmp_path, monkeypatch, name):
    """It is given to a shell, with a `gfs` that tells where it stands and what it was given."""
    run = make_run(tmp_path / name, "x-01234567")
    (run / "config.yaml").write_text(json.dumps({"name": "x", "runs_dir": name}))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/gfs").write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n')
    (tmp_path / "bin/gfs").chmod(0o755)
    for place in (tmp_path, tmp_path / "bin"):
        monkeypatch.chdir(place)
        environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        told = subprocess.run(["sh", "-c", command_of(run, "run")], env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
        assert told[0] == str(tmp_path) and told[1:3] == ["run", "-c"] and (tmp_path / told[3]).samefile(run / "config.yaml")
    (run / "config.yaml").write_text(json.dumps({"name": "x", "runs_dir": str(tmp_path / name)}))
    assert command_of(run, "run") == f"gfs run -c {shlex.quote(str(run / 'config.yaml'))}"
