"""The state of a run from its files alone, and the files that observing leaves."""

import io
import json
from pathlib import Path

import pytest

from pipeline.config.errors import BadInput
from pipeline.config.files import write_json
from pipeline.stages.groups import write_group
from pipeline.stages.lock import Lock
from pipeline.stages.recorder import Recorder
from pipeline.stages.runs import run_folder, safe_name
from pipeline.stages.status import open_status, read_status
from pipeline.view.table import print_group
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


def group_of(tmp_path, *names) -> Path:
    """A group directory with these runs; those that begin with `no-` have not begun."""
    folder = tmp_path / "all-89abcdef"
    folder.mkdir()
    (folder / "config.yaml").write_text("name: all\nsweep: {seed: [0, 1], budget: [{prunable_macs: 50%}], prune: [{selector: l1, refit: none}]}\n")
    for name in names:
        if not name.startswith("no-"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "config.yaml").write_text("name: all\nseed: 0\narm: none\nbudget: {prunable_macs: 0.5}\nprune: {selector: l1, refit: none}\n")
    write_group(folder, "all", "89abcdef", [(name, "0" * 32) for name in names])
    return folder


def tell(run: Path, *events) -> None:
    lines = [json.dumps({"time": f"2026-01-01T00:{minute:02d}:00.000000Z"} | event) for minute, event in events]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def finish(run: Path, minutes=10) -> None:
    tell(run, (0, {"event": "run", "run": run.name, "state": "running"}), (minutes, {"event": "result", "top1": 1.0}))
    write_json(run / "result.json", {"top1": 90.0, "top1_selected": 80.5})


def test_the_state_of_a_group_follows_its_runs_and_its_driver(tmp_path):
    folder = group_of(tmp_path, "a-1", "b-2", "no-c")
    assert state(folder)["state"] == "stopped"
    with Lock(folder, "group"):
        assert (state(folder)["state"], state(folder)["workers"]) == ("running", 0)
    with Lock(tmp_path / "a-1", "run"):
        assert (state(folder)["state"], state(folder)["workers"]) == ("running", 1)
    finish(tmp_path / "a-1")
    write_json(tmp_path / "b-2" / "error.json", {"code": 1, "message": "the loss is not finite"})
    assert state(folder)["state"] == "stopped"  # one has not begun
    (tmp_path / "no-c").mkdir()
    (tmp_path / "no-c" / "config.yaml").write_text("name: all\n")
    finish(tmp_path / "no-c")
    found = state(folder)
    assert found["state"] == "failed" and [run["error"] for run in found["runs"]] == [None, "the loss is not finite", None]
    (tmp_path / "b-2" / "error.json").unlink()
    finish(tmp_path / "b-2")
    found = state(folder)
    assert (found["state"], found["progress"], found["eta_seconds"]) == ("done", 1.0, 0.0)
    assert [(run["top1_untrained"], run["top1"]) for run in found["runs"]] == [(80.5, 90.0)] * 3


def test_a_group_s_share_counts_running_runs_in_part_and_its_estimate_comes_from_the_finished_ones(tmp_path):
    folder = group_of(tmp_path, "a-1", "b-2", "no-c")
    with Lock(folder, "group"):
        assert state(folder)["eta_seconds"] is None
        finish(tmp_path / "a-1", minutes=10)
        found = state(folder)
        assert found["progress"] == pytest.approx(1 / 3) and found["eta_seconds"] == pytest.approx(2 * 600)
        with Lock(tmp_path / "b-2", "run"):
            dense = [(0, {"event": "stage", "stage": "dense", "state": "running", "key": "0"}), (6, {"event": "shard", "done": 1, "total": 2})]
            tell(tmp_path / "b-2", *dense)
            whole = state(folder)["runs"][1]["whole"]
            found = state(folder)
            assert found["stage"] == "dense" and 0 < whole < 0.5 and found["progress"] == pytest.approx((1 + whole) / 3)
            took = 360 / whole
            assert found["eta_seconds"] == pytest.approx(took * (1 - whole) + (took + 600) / 2)


def test_a_second_look_sees_what_is_new_and_what_began_anew(tmp_path):
    folder = group_of(tmp_path, "a-1")
    looked = open_status(str(folder))
    assert looked.look()["runs"][0]["stage"] is None
    tell(tmp_path / "a-1", (0, {"event": "stage", "stage": "dense", "state": "running", "key": "0"}))
    assert looked.look()["runs"][0]["stage"] == "dense"
    with open(tmp_path / "a-1" / "metrics.jsonl", "a") as metrics:
        metrics.write(json.dumps({"time": "2026-01-01T00:00:00Z", "event": "stage", "stage": "search", "state": "running", "key": "1"}) + "\n")
    assert looked.look()["runs"][0]["stage"] == "search"
    tell(tmp_path / "a-1", (1, {"event": "stage", "stage": "data", "state": "running", "key": "2"}))
    looked.look()
    assert looked.look()["runs"][0]["stage"] == "data"


def test_workers_are_those_that_live_while_the_stage_they_are_for_is_at_work(run):
    with Lock(run, "run"):
        search = (0, {"event": "stage", "stage": "search", "state": "running", "key": "0"})
        tell(run, search, (1, {"event": "workers", "alive": 4}), (2, {"event": "workers", "alive": 3}))
        assert state(run)["workers"] == 3
        tell(run, search, (1, {"event": "workers", "alive": 4}), (3, {"event": "stage", "stage": "train", "state": "running", "key": "1"}))
        assert state(run)["workers"] == 1
    assert state(run)["workers"] == 0


@pytest.mark.parametrize("text", ["", "[]", '{"runs": 3}', '{"name": "a", "hash": "0", "runs": [{"run": "../../etc", "hash": "0"}]}'])
def test_a_damaged_group_file_is_refused_by_name(tmp_path, text):
    folder = group_of(tmp_path, "a-1")
    (folder / "group.json").write_text(text)
    with pytest.raises(BadInput, match=f"{folder.name}: .*group.json is damaged .*run the same `gfs sweep` again"):
        read_status(str(folder))


def test_the_place_of_runs_is_answered_with_what_lies_there(run):
    with pytest.raises(BadInput, match=f"{run.parent}: is no run or group directory; give one .*, such as {run}"):
        read_status(str(run.parent))


def test_the_table_of_a_group_has_a_row_per_run_with_what_differs_and_every_failure_in_full(tmp_path):
    folder = group_of(tmp_path, "a-1", "b-2", "no-c")
    finish(tmp_path / "a-1")
    write_json(tmp_path / "b-2" / "error.json", {"code": 1, "message": "long " * 60 + "[red]end[/red]\x1b[2J"})
    out, looked = io.StringIO(), open_status(str(folder))
    print_group(looked, looked.look(), out)
    head, first, second, third, *rest = [line.rstrip() for line in out.getvalue().splitlines()]
    assert head.split() == ["run", "seed", "budget", "selector", "refit", "state", "stage", "done", "left", "untrained", "top-1"]
    assert first.split() == ["a-1", "0", "prunable_macs", "0.5", "l1", "none", "done", "100", "%", "80.50", "90.00"]
    assert "failed" in second and third.split() == ["no-c", "pending"]
    assert rest[0] == "b-2: " + "long " * 60 + "[red]end[/red]\\x1b[2J" and "\x1b" not in out.getvalue()
