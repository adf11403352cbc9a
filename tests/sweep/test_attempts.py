"""Attempts at a group on one Ray: what Tune knows, against what the run directories say."""

import json
import shutil

import pytest

from pipeline.chain.plan import plan_sweep
from pipeline.cluster.session import connected
from pipeline.cluster.sweep import run_sweep
from pipeline.config.errors import Stopped
from pipeline.config.settings import Cluster
from pipeline.stages.lock import Lock
from tests.sweep.conftest import text_of
from tests.sweep.processes import differing, events, outcome

ARMS = "sweep: {arm: [none, finetune]}\n"


@pytest.fixture(scope="module", autouse=True)
def ray():
    with connected(Cluster(), cpus=2) as ray:
        yield ray


@pytest.fixture(scope="module")
def pristine(tmp_path_factory, image_folder):
    """(config, plan, a copy of the runs directory) of a group of two runs that is finished."""
    place = tmp_path_factory.mktemp("group")
    config = place / "sweep.yaml"
    config.write_text(text_of(image_folder, place / "runs", sweep=ARMS))
    sweep = plan_sweep(str(config))
    assert [run["state"] for run in run_sweep(sweep, report)["runs"]] == ["done", "done"]
    shutil.copytree(place / "runs", place / "finished")
    return config, sweep, place / "finished"


@pytest.fixture
def group(pristine):
    """The plan of that group, its directories as they were."""
    _, sweep, copy = pristine
    shutil.rmtree(sweep.runs_dir)
    shutil.copytree(copy, sweep.runs_dir)
    return sweep


def report(folder):
    (folder / "report").mkdir(exist_ok=True)
    (folder / "report/report.html").write_text("a report")


def unreported(folder):
    pytest.fail("nothing is to be reported")


def break_off(sweep, lost=-1):
    """As a kill leaves it while its last run was at work: that run and Tune's attempt have no end."""
    (sweep.folder / "tune/0/finished").unlink()
    (sweep.runs[lost].folder / "result.json").unlink()
    return sweep.folder / "tune/0"


def notices(sweep):
    return [event["message"] for event in events(sweep.folder) if event["event"] == "notice" and "Tune's state" in event["message"]]


def states(group):
    return [run["state"] for run in group["runs"]]


def test_a_finished_group_is_found_as_it_is(group):
    before = {path: path.stat().st_mtime_ns for path in group.folder.rglob("*")}
    assert states(run_sweep(group, unreported)) == ["done", "done"]
    assert {path: path.stat().st_mtime_ns for path in group.folder.rglob("*")} == before


def test_a_missing_report_is_made_without_a_trial(group):
    shutil.rmtree(group.folder / "report")
    shutil.rmtree(group.folder / "tune")
    assert states(run_sweep(group, report)) == ["done", "done"]
    assert (group.folder / "report/report.html").exists()
    assert not (group.folder / "tune").exists()


def test_a_deleted_run_is_run_again_though_tune_called_it_finished(group, pristine):
    """The attempt was cut off after Tune had noted the run's end."""
    break_off(group)
    shutil.rmtree(group.runs[-1].folder)
    assert states(run_sweep(group, report)) == ["done", "done"]
    assert len(notices(group)) == 1 and notices(group)[0].endswith("is restored")
    assert not differing(outcome(pristine[2]), outcome(group.runs_dir))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "its pickle is garbage": lambda state: (state / "tuner.pkl").write_bytes(b"garbage"),
    "its pickle is cut short": lambda state: truncate(state / "tuner.pkl"),
    "its pickle is missing": lambda state: (state / "tuner.pkl").unlink(),
    "the state of its trials is garbage": lambda state: next(state.glob("experiment_state*")).write_bytes(b"\xff{nonsense"),
    "the state of its trials is cut short": lambda state: truncate(next(state.glob("experiment_state*"))),
    "the state of its trials is missing": lambda state: next(state.glob("experiment_state*")).unlink(),
    "it was begun with other settings": lambda state: (state / "begun").write_bytes(b"\xff"),
    "only its directory is there": lambda state: (shutil.rmtree(state), state.mkdir()),
}
HARMLESS = {
    "nothing": lambda state: None,
    "the directories of its trials are missing": lambda state: [shutil.rmtree(path) for path in state.iterdir() if path.is_dir()],
    "the state of its searcher is garbage": lambda state: next(state.glob("basic-variant*")).write_bytes(b"{no"),
    "something else lies there": lambda state: ((state.parent / "7-old").mkdir(), (state.parent / "notes.txt").write_text("mine")),
    "group.json is garbage": lambda state: (state.parents[1] / "group.json").write_text("{"),
}


def sampled(kinds, fast=(), slow=()):
    """All of `kinds` for the proofs, some of them more often."""
    marks = {kind: () for kind in fast} | {kind: pytest.mark.slow for kind in slow}
    return [pytest.param(kind, marks=marks.get(kind, pytest.mark.proof)) for kind in kinds]


@pytest.mark.parametrize(
    "damage", sampled(DAMAGE, fast=["its pickle is garbage"], slow=["the state of its trials is cut short", "it was begun with other settings"])
)
def test_a_state_of_tune_that_cannot_be_restored_is_set_aside(group, pristine, damage):
    DAMAGE[damage](break_off(group))
    assert states(run_sweep(group, report)) == ["done", "done"]
    assert len(notices(group)) == 1 and "cannot be restored" in notices(group)[0] and "set aside" in notices(group)[0]
    assert (group.folder / "tune/1/finished").exists(), "the new attempt has a place of its own"
    assert not differing(outcome(pristine[2]), outcome(group.runs_dir))


@pytest.mark.parametrize("damage", sampled(HARMLESS, slow=["the directories of its trials are missing", "group.json is garbage"]))
def test_a_state_that_tune_can_restore_is(group, pristine, damage):
    HARMLESS[damage](break_off(group))
    assert states(run_sweep(group, report)) == ["done", "done"]
    assert len(notices(group)) == 1 and notices(group)[0].endswith("is restored")
    assert json.loads((group.folder / "group.json").read_text())["runs"][0]["state"] == "done"
    assert not differing(outcome(pristine[2]), outcome(group.runs_dir))


def test_a_group_at_work_is_locked_and_its_holder_named(group):
    break_off(group)
    with Lock(group.folder, "another sweep"), pytest.raises(Stopped, match=rf"group {group.folder.name}: is locked by live process \d+ on "):
        run_sweep(group, unreported)


@pytest.mark.slow
def test_a_run_that_another_process_holds_is_left_to_it(group, monkeypatch):
    """The others finish; the command says 75 and goes on once the run is free."""
    monkeypatch.setattr("pipeline.cluster.sweep.ENDING_SECONDS", 0.5)
    break_off(group)
    for path in group.folder.glob("tune/*"):
        shutil.rmtree(path)
    (group.runs[0].folder / "result.json").unlink()
    held = group.runs[1].folder
    with Lock(held, "a run"), pytest.raises(Stopped, match=rf"run {held.name}: .*is locked by live process"):
        run_sweep(group, report)
    assert (group.runs[0].folder / "result.json").exists()
    assert states(run_sweep(group, report)) == ["done", "done"]


@pytest.mark.slow
def test_a_run_that_cannot_even_begin_is_a_hole(group, image_folder):
    """Its images are gone by the time the trial looks for them."""
    break_off(group)
    shutil.rmtree(group.folder / "tune")
    shutil.rmtree(group.runs[1].folder)
    away = image_folder.rename(image_folder.with_name("away"))
    try:
        end = run_sweep(group, report)
    finally:
        away.rename(image_folder)
    assert states(end) == ["done", "failed"]
    assert end["runs"][1]["error"].startswith(f"data.source: {image_folder}: no such folder; ")
    assert states(run_sweep(group, report)) == ["done", "done"]


def test_a_failed_run_is_a_hole_and_is_tried_once_more_by_the_next_command(pristine):
    """`lr` makes one arm's loss infinite; the other run is found finished."""
    config, _, _ = pristine
    sweep = plan_sweep(str(config), ["sweep={train.lr: [0.01, 1.0e+30], arm: [finetune]}", "train.warmup=0", "train.clip=null"])
    reported = []
    for attempts in (1, 2):
        group = run_sweep(sweep, lambda folder: reported.append(folder) or report(folder))
        (hole,) = [run for run in group["runs"] if run["state"] == "failed"]
        assert sorted(states(group)) == ["done", "failed"]
        folder = sweep.folder.parent / hole["run"]
        assert hole["error"] == json.loads((folder / "error.json").read_text())["message"]
        assert "loss" in hole["error"]
        assert len([event for event in events(folder) if event["event"] == "error"]) == attempts
        assert len(reported) == attempts
