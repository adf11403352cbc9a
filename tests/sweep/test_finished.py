"""One real `gfs sweep`, looked at from all sides."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.sweep.processes import computed, events, wait_for

CHECK = ROOT.parent / "shared/contracts/check.py"


@pytest.fixture(scope="module")
def finished(make_shared_group):
    """(group, stdout, stderr) of a sweep that ran to its end."""
    group = make_shared_group()
    return group, *group.run()


def test_every_run_is_done_and_the_last_line_is_the_group(finished):
    group, out, _ = finished
    assert out.splitlines()[-1] == str(group.folder)
    assert group.states() == {"done": 6}
    assert all(run["error"] is None for run in group.runs)
    assert sorted(path.parent.name for path in group.runs_dir.glob("*/result.json")) == sorted(run["run"] for run in group.runs)
    for run in group.runs:
        row = json.loads((group.runs_dir / run["run"] / "result.json").read_text())
        assert (row["run"], row["run_hash"], row["group"]) == (run["run"], run["hash"], group.folder.name)


@pytest.mark.skipif(not CHECK.exists(), reason="the contracts do not lie beside this checkout")
def test_the_group_and_its_runs_keep_the_contract(finished):
    group = finished[0]
    paths = [group.folder, *(group.runs_dir / run["run"] for run in group.runs)]
    result = subprocess.run([sys.executable, CHECK, *map(str, paths)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_stage_is_computed_once_as_often_as_check_says(finished):
    group = finished[0]
    times = computed(group.runs_dir)
    assert set(times.values()) == {1}
    assert set(times) == {path.name for path in (group.runs_dir / "stages").iterdir()}
    out, _ = group.run(verb="check")
    promised = dict(line.split()[:2] for line in out.splitlines() if line.startswith("  ") and " for " in line)
    by_name = {name: sum(key.startswith(f"{name}-") for key in times) for name in promised}
    assert by_name == {name: int(count) for name, count in promised.items()}
    assert f"sweep: {len(group.runs)} runs in {group.folder}; " in out
    assert re.search(r"^estimate: about \d+\.\d\d core hours, ", out, re.MULTILINE)
    assert out.splitlines()[-1] == "ok"


def test_the_log_of_the_group_tells_each_end(finished):
    group = finished[0]
    seen = [event for event in events(group.folder) if event["event"] == "run"]
    assert {event["run"] for event in seen if event["state"] == "done"} == {run["run"] for run in group.runs}
    assert seen[-1]["done"] == seen[-1]["total"] == 6


def test_no_process_and_no_temporary_directory_of_ray_is_left(finished):
    group = finished[0]
    wait_for(lambda: not group.processes(), patience=20)
    assert not list(group.scratch.glob("gfs-ray-*"))


def test_the_same_command_again_starts_no_ray_and_writes_nothing(finished, tmp_path):
    group, out, _ = finished
    (tmp_path / "ray.py").write_text("raise SystemExit('Ray was imported')\n")
    before = {path: path.stat().st_mtime_ns for path in group.runs_dir.rglob("*")}
    group.environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    again, err = group.run()
    assert again == out
    assert err == ""
    assert {path: path.stat().st_mtime_ns for path in group.runs_dir.rglob("*")} == before
