"""Cleaning: what a run names or may need stays, the rest goes, and a kill in between leaves no half stage."""

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.errors import BadInput, Stopped
from pipeline.config.files import write_json
from pipeline.stages import cleaning
from pipeline.stages.cleaning import ASIDE, DAY, clean
from pipeline.stages.lock import Lock

TIME = {"time": "2026-01-01T00:00:00.000000Z"}


def key(number: int) -> str:
    return f"{number:032x}"


def make_stage(root: Path, kind: str, number: int, done=True, age=0.0) -> Path:
    folder = root / "stages" / f"{kind}-{key(number)}"
    write_json(folder / "settings.json", {})
    (folder / "weights.safetensors").write_bytes(b"x" * 1000)
    if done:
        write_json(folder / "done.json", {})
    return grow_old(folder, age)


def grow_old(path: Path, age: float) -> Path:
    for each in [*path.rglob("*"), path]:
        os.utime(each, (time.time() - age,) * 2, follow_symlinks=False)
    return path


def make_run(root: Path, name: str, done=True, events=(), **stages) -> Path:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("name: x\n")
    named = {kind: key(number) for kind, number in stages.items()}
    write_json(folder / "stages.json", named)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(TIME | {"event": "stage", "stage": k, "key": key(n), "state": "running"}) + "\n" for k, n in events))
    if done:
        write_json(folder / "result.json", {"stages": named})
    return folder


def left(root: Path) -> set[str]:
    return {path.name for path in (root / "stages").iterdir()}


@settings(max_examples=25, deadline=None)
@given(numbers=st.sets(st.integers(0, 12)), named=st.sets(st.integers(0, 12)))
def test_exactly_those_stages_go_that_no_run_names(tmp_path_factory, numbers, named):
    root = tmp_path_factory.mktemp("runs")
    (root / "stages").mkdir()
    for number in numbers:
        make_stage(root, "search", number)
    for number in named:
        make_run(root, f"x-{number}", search=number)
    would, did = clean(str(root), dry_run=True), clean(str(root))
    assert left(root) == {f"search-{key(number)}" for number in numbers & named}
    assert would == did and {path.name for path in did.stages} == {f"search-{key(number)}" for number in numbers - named}
    assert all(size > 1000 for size in did.stages.values())


def test_a_dry_run_removes_nothing(tmp_path):
    make_stage(tmp_path, "dense", 1)
    (tmp_path / "stages" / f"{ASIDE}x").mkdir()
    before = sorted(tmp_path.rglob("*"))
    found = clean(str(tmp_path), dry_run=True)
    assert len(found.stages) == 1 and len(found.leftovers) == 1 and sorted(tmp_path.rglob("*")) == before


def test_an_unfinished_run_keeps_what_its_events_tell_of(tmp_path):
    make_stage(tmp_path, "dense", 1, age=9 * DAY)
    make_stage(tmp_path, "train", 2, done=False, age=9 * DAY)  # half done, not yet in stages.json
    make_run(tmp_path, "x-1", done=False, events=[("train", 2)], dense=1)
    assert clean(str(tmp_path)).stages == {} and len(left(tmp_path)) == 2


def test_an_unfinished_stage_without_a_run_stays_for_a_day(tmp_path):
    young, old = make_stage(tmp_path, "train", 1, done=False, age=DAY / 2), make_stage(tmp_path, "train", 2, done=False, age=2 * DAY)
    found = clean(str(tmp_path))
    assert left(tmp_path) == {young.name} and list(found.stages) == [old] and "less than a day" in found.kept[young.name]


def test_a_stage_that_a_live_process_works_on_stays(tmp_path):
    stage = make_stage(tmp_path, "dense", 1, done=False, age=9 * DAY)
    with Lock(stage, "stage"):
        assert "live process" in clean(str(tmp_path)).kept[stage.name]
    assert list(clean(str(tmp_path)).stages) == [stage]


def test_a_run_at_work_keeps_stages_of_every_kind_that_it_has_not_named_yet(tmp_path):
    dense, train = make_stage(tmp_path, "dense", 1), make_stage(tmp_path, "train", 2)
    run = make_run(tmp_path, "x-1", done=False, dense=3)
    with Lock(run, "run"):
        found = clean(str(tmp_path))
    assert list(found.stages) == [dense] and "x-1 is at work" in found.kept[train.name]
    assert list(clean(str(tmp_path)).stages) == [train]


def test_a_run_that_comes_to_name_a_stage_at_the_last_moment_keeps_it(tmp_path, monkeypatch):
    stage, real = make_stage(tmp_path, "dense", 1), cleaning.Lock

    def late(*given):
        make_run(tmp_path, "x-1", dense=1)  # between the first look and the lock
        return real(*given)

    monkeypatch.setattr(cleaning, "Lock", late)
    found = clean(str(tmp_path))
    assert found.stages == {} and "come to name it" in found.kept[stage.name] and (stage / "done.json").exists()
    assert not (stage / "lock.json").exists()


def test_a_kill_while_a_stage_is_deleted_leaves_none_that_looks_finished_and_the_next_clean_ends_it(tmp_path, monkeypatch):
    stage = make_stage(tmp_path, "dense", 1)

    def killed(path):
        raise Stopped("killed")

    with monkeypatch.context() as patch:
        patch.setattr(cleaning.shutil, "rmtree", killed)
        with pytest.raises(Stopped):
            clean(str(tmp_path))
    (aside,) = left(tmp_path)
    assert aside.startswith(f"{ASIDE}{stage.name}.") and not stage.exists()
    found = clean(str(tmp_path))
    assert left(tmp_path) == set() and found.stages == {} and sum(found.leftovers.values()) > 1000


def test_leftovers_of_kills_go_after_a_day_but_not_from_under_a_live_process(tmp_path):
    stage, run, busy = make_stage(tmp_path, "data", 1), make_run(tmp_path, "x-1", data=1), make_run(tmp_path, "x-2", data=1)
    (stage / "train").mkdir()
    (stage / ".walk-a").mkdir()
    (stage / ".walk-a" / ".0.tmp").write_text("spilled")
    paths = [run / ".lock.ab", run / ".stale.ab", run / ".result.json.7.tmp", stage / "train" / ".0.tar.7.tmp", busy / ".x.tmp"]
    for path in paths:
        path.write_text("half")
    assert clean(str(tmp_path)).leftovers == {}
    for path in [*paths, stage / ".walk-a" / ".0.tmp", stage / ".walk-a"]:
        grow_old(path, 2 * DAY)
    with Lock(busy, "run"):
        found = clean(str(tmp_path))
    assert set(found.leftovers) == {*paths[:4], stage / ".walk-a"} and not any(path.exists() for path in found.leftovers)
    assert paths[4].exists() and (stage / "done.json").exists()


def test_what_is_no_stage_is_left_alone(tmp_path):
    make_stage(tmp_path, "dense", 1)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "stages" / f"dense-{key(2)}").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "stages" / "notes").mkdir()
    (tmp_path / "stages" / "README-mine").write_text("mine")
    assert len(clean(str(tmp_path)).stages) == 1
    assert left(tmp_path) == {f"dense-{key(2)}", "notes", "README-mine"} and (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name, text", [("stages.json", "{"), ("stages.json", "[1]"), ("result.json", "{}"), ("result.json", '{"stages": 3}')])
def test_nothing_is_removed_when_a_run_cannot_be_read(tmp_path, name, text):
    stage = make_stage(tmp_path, "dense", 1)
    (make_run(tmp_path, "x-1", dense=1) / name).write_text(text)
    with pytest.raises(BadInput, match="x-1: what it names cannot be read"):
        clean(str(tmp_path))
    assert stage.exists()


def test_a_folder_without_stages_is_refused(tmp_path):
    with pytest.raises(BadInput, match="holds no stages/"):
        clean(str(tmp_path))
    with pytest.raises(BadInput, match="holds no stages/"):
        clean(str(tmp_path / "nowhere"))
