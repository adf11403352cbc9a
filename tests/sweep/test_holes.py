"""Runs that fail for good, whatever happens to their process: holes beside finished runs."""

import json
import os
from pathlib import Path

import pytest

from tests.sweep.processes import events

SWEEP = "sweep: {network.arguments: [{fault: null}, {fault: raise}, {fault: die}], arm: [none]}\n"


@pytest.mark.slow
def test_a_module_that_raises_and_one_whose_process_dies_are_holes(make_group):
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    group = make_group(sweep=SWEEP, model="fragile:build", environment={"PYTHONPATH": path})
    out, err = group.run(code=1)
    assert group.states() == {"done": 1, "failed": 2}
    assert out.splitlines()[-1] == str(group.folder)
    assert (group.folder / "report/report.html").exists()
    messages = {run["run"]: run["error"] for run in group.runs if run["state"] == "failed"}
    for run, message in messages.items():
        assert json.loads((group.runs_dir / run / "error.json").read_text()) == {"code": 1, "message": message}
    raised, died = sorted(messages.values(), key=lambda message: "died" in message)
    assert raised == "the user's own module cannot be trained"
    assert died.startswith("the process of the trial died 4 times")
    first = next(run for run in group.runs if run["state"] == "failed")
    assert err.splitlines()[-1] == f"gfs: error: group {group.folder.name}: 2 of 3 runs failed; {first['run']}: {first['error']}"
    (dead,) = [run for run, message in messages.items() if message == died]
    began = [event for event in events(group.runs_dir / dead) if event["event"] == "run"]
    assert len(began) == 4
    assert len([note for note in group.notices() if dead in note and "started again" in note]) == 3
