"""The tracker with real W&B: run after run, run beside run, faults of W&B's, a server that answers, one that does not."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.config.settings import Tracking
from pipeline.tracking import tracker as room
from pipeline.tracking.tracker import About, Tracker
from tests.conftest import ROOT
from tests.tracking.loopback import Server
from tests.tracking.mirrors import KEY, assert_mirrored, events, history, records, small_run, summary

ABOUT = About("0123abcd" * 4, "run-0", "group-1", "finetune", {"name": "x", "search": {"seed": 0, "budget": None}})


class Notes:
    """A recorder that keeps notices and appends every event to metrics.jsonl, as the real one does."""

    def __init__(self, run: Path):
        self.path, self.notices = run / "metrics.jsonl", []

    def __call__(self, event: dict) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps({"time": "2026-01-02T03:05:00Z", **event}) + "\n")
        if event["event"] == "notice":
            self.notices.append(event["message"])


def tracked(run: Path, mode: str = "offline", **more) -> Tracker:
    return Tracker(Tracking(mode=mode, **more), run, ABOUT, Notes(run))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    """A home of the test's own, which W&B must leave empty."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    yield
    assert list(home.iterdir()) == []


def test_an_offline_mirror_has_the_runs_identity_its_events_its_summary_and_its_tables(tmp_path):
    run, row = small_run(tmp_path)
    track = tracked(run, project="mine", entity="us")
    track.begin()
    assert not (run / "wandb").exists()  # an offline mirror is made at the end
    track.finish(row)
    track.close()
    (record,) = records(run, "run")
    told = {name: record[name] for name in ("run_id", "run_group", "job_type", "display_name", "project", "entity")}
    assert told == {"run_id": ABOUT.id, "run_group": "group-1", "job_type": "finetune", "display_name": "run-0", "project": "mine", "entity": "us"}
    assert {name: value for name, value in record["config"]["update"].items() if name != "_wandb"} == ABOUT.config
    assert_mirrored(run)
    assert history(run)[2]["search/score"] == 1 / 3
    assert summary(run).items() >= {"top1": 88.25, "latency/1/ms": 2.5, "width/a": 2, "width_dense/a": 4}.items()
    (artifact,) = records(run, "artifact")
    names = [entry["path"] for entry in artifact["manifest"]["contents"]]
    assert set(names) == {"result.table.json", "units.table.json", "path.table.json", "result.json"}
    assert json.loads(artifact_file(artifact, "path.table.json"))["data"] == [["a", 0, 2, 0.5, None, 4], ["a", 1, 0, 0.25, None, 4]]
    assert track.recorder.notices == []


def artifact_file(artifact: dict, name: str) -> str:
    (entry,) = [entry for entry in artifact["manifest"]["contents"] if entry["path"] == name]
    return Path(entry["local_path"]).read_text()


def test_runs_after_each_other_in_one_process_have_a_mirror_each(tmp_path):
    for name in ("run-0", "run-1"):
        run, row = small_run(tmp_path, name)
        track = tracked(run)
        track.begin()
        track.finish(row)
        track.close()
        assert_mirrored(run)
        shutil.copytree(run, tmp_path / "copies" / name)  # nothing in it points elsewhere


def test_two_runs_at_once_have_a_mirror_each(tmp_path):
    script = (
        "import sys; from tests.tracking.test_tracker import *\n"
        "run = Path(sys.argv[1]); track = tracked(run); track.begin(); track.finish(json.loads(sys.argv[2])); track.close()"
    )
    runs = [small_run(tmp_path, f"run-{n}") for n in range(2)]
    both = [subprocess.Popen([sys.executable, "-c", script, run, json.dumps(row)], cwd=ROOT) for run, row in runs]
    assert [process.wait(120) for process in both] == [0, 0]
    for run, _ in runs:
        assert_mirrored(run)


def test_a_mirror_of_an_earlier_attempt_is_replaced(tmp_path):
    run, row = small_run(tmp_path)
    for _ in range(2):
        track = tracked(run)
        track.finish(row)
        track({"event": "run", "run": "run-0", "state": "running"})  # killed here, begun again
    track.finish(row)
    assert len(list(run.glob("wandb/*run-*"))) == 1 and len(history(run)) == 4
    track.mode = "offline"
    track.finish(row)
    assert_mirrored(run)


def test_a_directory_whose_name_is_too_long_for_a_socket_is_no_hindrance(tmp_path):
    run, row = small_run(tmp_path / ("long" * 40))
    tracked(run).finish(row)
    assert_mirrored(run)


@pytest.mark.parametrize("mode, fault, words", [
    ("offline", "raise RuntimeError('broken wheel')", "RuntimeError: broken wheel"),
    ("online", "raise RuntimeError('broken wheel')", "RuntimeError: broken wheel"),
    ("offline", "raise SystemExit(3)", "SystemExit: 3"),
    ("offline", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "its process ended with code -11"),
    ("offline", "import time; time.sleep(1000)", "no end within 2 s"),
])
def test_a_wandb_that_breaks_hangs_or_crashes_gives_one_warning(tmp_path, monkeypatch, mode, fault, words):
    (tmp_path / "site/wandb").mkdir(parents=True)
    (tmp_path / "site/wandb/__init__.py").write_text(fault)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    if "time" in fault:
        monkeypatch.setattr(room, "WAIT_SECONDS", 2.0)
    run, row = small_run(tmp_path)
    track = tracked(run, mode)
    track.begin()
    track.finish(row)
    track.close()
    (notice,) = track.recorder.notices
    assert words in notice and "the run goes on" in notice and "metrics.jsonl has everything" in notice


def test_a_place_that_cannot_be_written_gives_one_warning(tmp_path):
    run, row = small_run(tmp_path)
    (run / "wandb").symlink_to(tmp_path / "nowhere/else")
    track = tracked(run)
    track.finish(row)
    (notice,) = track.recorder.notices
    assert "wandb" in notice and "the run goes on" in notice


def test_damage_in_the_metrics_gives_one_warning(tmp_path):
    run, row = small_run(tmp_path)
    with open(run / "metrics.jsonl", "a") as file:
        file.write("{broken\n")
    track = tracked(run)
    track.finish(row)
    assert len(track.recorder.notices) == 1 and "JSONDecodeError" in track.recorder.notices[0]


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)


def wait_until(condition, seconds=60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_online_a_run_goes_to_the_server_with_its_identity_each_step_once(tmp_path, monkeypatch, key):
    run, row = small_run(tmp_path)
    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        track = tracked(run, "online")
        track.begin()
        track({"stage": "train", "event": "epoch", "epoch": 0, "train_loss": 0.125})
        track.finish(row)
        track.close()
    assert track.recorder.notices == []
    assert server.steps() == list(range(len(events(run)))) and server.rows[3]["train/train_loss"] == 0.125
    first = server.upserts[0]
    assert (first["name"], first["groupName"], first["jobType"]) == (ABOUT.id, "group-1", "finetune")
    assert server.ends == [0] and [artifact["artifactTypeName"] for artifact in server.artifacts] == ["result"]
    assert not list(run.glob("wandb/offline-run-*"))


def test_online_a_run_that_was_cut_off_goes_on_where_the_server_is(tmp_path, monkeypatch, key):
    run, row = small_run(tmp_path)
    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        track = tracked(run, "online")
        track.begin()
        wait_until(lambda: server.upserts)
        track.close(75)
        assert server.steps() == [0, 1, 2] and server.ends == [75]
        track = tracked(run, "online")
        track({"stage": "train", "event": "epoch", "epoch": 0, "train_loss": 0.125})
        track.begin()
        track.finish(row)
        track.close()
    assert server.steps() == [0, 1, 2, 3] and server.rows[3]["train/train_loss"] == 0.125
    assert track.recorder.notices == [] and len(list(run.glob("wandb/*run-*"))) == 1


def test_a_server_that_goes_away_leaves_one_warning_and_an_offline_mirror(tmp_path, monkeypatch, key):
    run, row = small_run(tmp_path)
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "3")
    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        track = tracked(run, "online")
        track.begin()
        wait_until(lambda: server.upserts)
    track.finish(row)
    track.close()
    assert len(track.recorder.notices) == 1 and "written offline" in track.recorder.notices[0]
    assert_mirrored(run)


@pytest.mark.parametrize("server", ["closed", "silent", "refusing"])
def test_a_server_that_cannot_be_used_leaves_one_warning_and_an_offline_mirror(tmp_path, monkeypatch, key, server):
    run, row = small_run(tmp_path)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
    with socket.create_server(("127.0.0.1", 0)) as ear, Server(refuse=True) as refusing:
        place = {"silent": ear.getsockname()[1], "closed": 9}.get(server)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{place}" if place else refusing.url)
        track = tracked(run, "online")
        track.begin()
        began = time.monotonic()
        while not track.recorder.notices:  # told while the run is at work, not only at its end
            track({"stage": "search", "event": "answer", "done": 1, "total": 2})
            assert time.monotonic() - began < 60
            time.sleep(0.3)
        track.finish(row)
        track.close()
    assert len(track.recorder.notices) == 1 and KEY not in track.recorder.notices[0]
    assert_mirrored(run)


def test_without_a_key_one_warning_says_so(tmp_path):
    run, row = small_run(tmp_path)
    track = tracked(run, "online")
    track.begin()
    track.finish(row)
    assert len(track.recorder.notices) == 1 and "No API key configured" in track.recorder.notices[0]
    assert_mirrored(run)


def test_off_starts_nothing(tmp_path):
    run, row = small_run(tmp_path)
    track = tracked(run, "off")
    track.begin()
    track.finish(row)
    track.close()
    assert not (run / "wandb").exists() and track.process is None
