"""Stages: done once and found ever after; what stops, fails or is bad input leaves what the next command needs, and no more."""

import json
import threading

import pytest
import torch

from pipeline.config.errors import BadInput, Failed, Stopped
from pipeline.config.files import read_json, replacing, write_json, write_text
from pipeline.stages.store import Stage, Store

STAGE = Stage("search", 1, {"seed": 3}, {"data": "abc"})


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path, torch.device("cpu"))


def work(folder, guard):
    write_text(folder / "units/a.txt", "artifact")
    return ["units/a.txt"], {"images": 7}


def run(store, does=work, stage=STAGE):
    events = []
    return store.run(stage, does, events.append), [event.get("state") or event["event"] for event in events]


def raising(error):
    def does(folder, guard):
        work(folder, guard)
        raise error
    return does


def test_a_stage_is_done_once_and_found_ever_after(store):
    done, events = run(store)
    assert events == ["running", "done"] and done.facts == {"images": 7} and list(done.artifacts) == ["units/a.txt"]
    found, events = run(store, raising(AssertionError("must not work again")))
    assert events == ["found"] and found == done
    assert read_json(done.folder / "settings.json") == STAGE.settings and read_json(done.folder / "inputs.json") == STAGE.inputs
    assert not (done.folder / "lock.json").exists()


@pytest.mark.parametrize("other", [
    Stage("shrink", 1, {"seed": 3}, {"data": "abc"}), Stage("search", 2, {"seed": 3}, {"data": "abc"}),
    Stage("search", 1, {"seed": 4}, {"data": "abc"}), Stage("search", 1, {"seed": 3}, {"data": "abd"}),
], ids=["name", "version", "settings", "inputs"])
def test_whatever_a_stage_reads_is_in_its_key(other):
    assert other.key != STAGE.key == Stage("search", 1, {"seed": 3}, {"data": "abc"}).key


def test_bad_input_removes_a_stage_that_this_call_began(store):
    with pytest.raises(BadInput):
        run(store, raising(BadInput("bad")))
    assert list((store.root / "stages").iterdir()) == []


@pytest.mark.parametrize("error", [Stopped("stop"), Failed("failed"), RuntimeError("fault")])
def test_a_stop_and_a_failure_leave_the_stage_to_be_resumed(store, error):
    with pytest.raises(type(error)):
        run(store, raising(error))
    folder = store.folder(STAGE)
    assert (folder / "units/a.txt").exists() and not (folder / "done.json").exists() and not (folder / "lock.json").exists()
    assert store.find(STAGE) is None
    with pytest.raises(BadInput):
        run(store, raising(BadInput("bad")))
    assert (folder / "units/a.txt").exists()  # an earlier call began it
    assert run(store)[1] == ["running", "done"]


def test_what_a_kill_left_is_removed_before_a_stage_goes_on(store):
    with pytest.raises(Stopped):
        run(store, raising(Stopped("stop")))
    folder = store.folder(STAGE)
    (folder / "units/.b.txt.77.tmp").write_text("half")
    (folder / ".walk-77").mkdir()
    run(store)
    assert not (folder / "units/.b.txt.77.tmp").exists() and not (folder / ".walk-77").exists()


def test_a_half_done_stage_is_refused_under_another_environment_and_a_finished_one_is_used(store):
    with pytest.raises(Stopped):
        run(store, raising(Stopped("stop")))
    path = store.folder(STAGE) / "environment.json"
    began = read_json(path)
    write_json(path, began | {"torch": "1.0", "device": "cuda"})
    with pytest.raises(BadInput) as caught:
        run(store)
    assert "torch was 1.0" in str(caught.value) and "device was cuda, is cpu" in str(caught.value) and str(path.parent) in str(caught.value)
    assert path.exists()
    path.write_text("{")
    with pytest.raises(Failed, match="environment.json is damaged"):
        run(store)
    write_json(path, began)
    run(store)
    write_json(path, began | {"torch": "1.0"})
    assert run(store)[1] == ["found"]


@pytest.mark.parametrize("damage, words", [
    (lambda folder: (folder / "units/a.txt").write_text("artifacT"), "units/a.txt is damaged"),
    (lambda folder: (folder / "units/a.txt").unlink(), "units/a.txt is missing"),
    (lambda folder: (folder / "done.json").write_text("{"), "done.json is damaged"),
    (lambda folder: write_text(folder / "done.json", (folder / "done.json").read_text().replace(": 7", ": 8")), "done.json is damaged"),
    (lambda folder: (folder / "done.json").write_text("[]"), "done.json is damaged"),
    (lambda folder: (folder / "done.json").write_text('{"artifacts": [], "facts": {}}'), "done.json is damaged"),
])
def test_damage_in_a_finished_stage_is_named_with_what_to_delete(store, damage, words):
    folder = run(store)[0].folder
    damage(folder)
    with pytest.raises(Failed) as caught:
        run(store)
    assert words in str(caught.value) and f"stage {folder}" in str(caught.value) and "delete this folder" in str(caught.value)


def test_a_stage_that_was_taken_over_is_not_committed(store):
    def does(folder, guard):
        (folder / "lock.json").write_text(json.dumps({"token": "another"}))
        return work(folder, guard)

    with pytest.raises(Stopped, match="taken over"):
        run(store, does)
    assert not (store.folder(STAGE) / "done.json").exists()


def test_two_that_want_the_same_stage_do_it_once(store):
    began, results, calls = threading.Event(), [], []

    def does(folder, guard):
        calls.append(folder)
        began.set()
        return work(folder, guard)

    def slow(folder, guard):
        began.set()
        threading.Event().wait(1.0)
        return does(folder, guard)

    first = threading.Thread(target=lambda: results.append(run(store, slow)))
    first.start()
    began.wait(10)
    results.append(run(store, does))
    first.join(timeout=10)
    assert len(calls) == 1 and results[0][0].artifacts == results[1][0].artifacts


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    write_text(tmp_path / "a", "old")
    with pytest.raises(RuntimeError), replacing(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["a"]
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new" and (tmp_path / "a").stat().st_mode & 0o044
