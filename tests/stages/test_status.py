"""The state of a run from its files alone, and the files that observing leaves."""

import io
import json
from pathlib import Path

import pytest

from pipeline.config.errors import BadInput
from pipeline.config.files import write_json
from pipeline.stages.lock import Lock
from pipeline.stages.recorder import Recorder
from pipeline.stages.runs import run_folder, safe_name
from pipeline.stages.status import read_status
from pipeline.view.words import describe
from tests.conftest import ROOT

SCHEMA = ROOT.parent / "shared/contracts/schemas/status.json"


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "small-01234567"
    folder.mkdir()
    (folder / "config.yaml").write_text("name: small\n")
    return folder


def state(run) -> dict:
    found = read_status(str(run))
    if SCHEMA.exists():
        import jsonschema

        jsonschema.validate(found, json.loads(SCHEMA.read_text()))
    assert found["run"] == run.name and run.name in describe(found)
    return found


def test_the_state_follows_the_files(run):
    assert state(run)["state"] == "stopped"
    with Lock(run, "run"):
        assert (state(run)["state"], state(run)["workers"]) == ("running", 1)
    write_json(run / "error.json", {"code": 2, "message": "bad"})
    assert state(run)["state"] == "failed"
    write_json(run / "result.json", {})
    found = state(run)
    assert (found["state"], found["progress"], found["eta_seconds"], found["workers"]) == ("done", 1.0, 0.0, 0)


def test_stage_unit_step_and_progress_come_from_the_last_events(run):
    recorder = Recorder(run, io.StringIO())
    recorder({"event": "stage", "stage": "search", "key": "0" * 32, "state": "running"})
    recorder({"event": "pick", "unit": "blocks.0", "step": 3, "done": 4, "total": 8})
    recorder.close()
    found = state(run)
    assert (found["stage"], found["unit"], found["step"], found["progress"]) == ("search", "blocks.0", 3, 0.5)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no run or group directory"):
        read_status(str(tmp_path))


def test_lines_that_are_no_events_and_a_torn_last_one_do_not_matter(run):
    line = json.dumps({"time": "2026-01-01T00:00:00.000000Z", "event": "stage", "stage": "data", "state": "running", "key": "0"})
    (run / "metrics.jsonl").write_text(f'[1]\n3\n{{"other": 1}}\n{line}\n{{"event": "st')
    assert state(run)["stage"] == "data"
    recorder = Recorder(run, io.StringIO())
    recorder({"event": "stage", "stage": "dense", "state": "running", "key": "0" * 32})
    recorder.close()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert lines[3] == line and json.loads(lines[4])["stage"] == "dense" and len(lines) == 5


def test_progress_carries_a_rate_and_what_is_left_and_is_not_shown_too_often():
    stream = io.StringIO()
    recorder = Recorder(None, stream)
    for done in range(1, 200):
        recorder({"event": "shard", "split": "train", "done": done, "total": 200, "unit_name": "images"})
    assert len(stream.getvalue().splitlines()) <= 2 and "shard train" in stream.getvalue() and "/200 images" in stream.getvalue()


@pytest.mark.parametrize("name, safe", [
    ("quickstart", "quickstart"), ("../../etc", "etc"), ("a b/c", "a-b-c"), ("$(rm -rf)\n", "rm--rf"), ("...", "run"), ("é", "run"),
    ("x" * 99, "x" * 60),
])
def test_a_hostile_name_is_made_safe_for_a_path(tmp_path, name, safe):
    assert safe_name(name) == safe
    assert run_folder(str(tmp_path), name, "0123456789").parent == tmp_path
