"""Runs of the installed command with W&B: every number is in the mirror, kills leave one, the key is nowhere."""

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.conftest import CONSOLE, ROOT
from tests.tracking.loopback import Server
from tests.tracking.mirrors import KEY, assert_mirrored, events, history, outside, records, summary


@pytest.fixture
def start(small_config, tmp_path):
    """Start `gfs run` on the small config, in a home of its own with a key in netrc; the process."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".netrc").write_text(f"machine api.wandb.ai login user password {KEY}\nmachine 127.0.0.1 login user password {KEY}\n")
    (home / ".netrc").chmod(0o600)
    begun = []

    def start(*arguments, **environment):
        env = outside(OMP_NUM_THREADS="1", HOME=str(home), **environment)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        begun.append(subprocess.Popen([CONSOLE, "run", "-c", small_config, *arguments], cwd=ROOT, env=env, **pipes))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()
    assert [path.name for path in home.iterdir() if path.name not in (".netrc", ".cache", ".config", ".triton", ".nv")] == []
    assert not (home / ".config/wandb").exists() and not (home / ".cache/wandb").exists()


def ended(process) -> tuple[str, str]:
    """(stdout, stderr) of a run that ended well."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


def finished(start, *arguments, **environment) -> Path:
    return ROOT / ended(start(*arguments, **environment))[0].splitlines()[-1]


def wait_for(condition, process) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def tracking_processes(run: Path) -> list[str]:
    """Command lines of living processes that were started in the run's wandb directory."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(place / "cwd").startswith(str(run / "wandb")):
                found.append((place / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.mark.parametrize("selector", ["loss", pytest.param("reconstruction", marks=pytest.mark.slow)])
def test_every_number_of_an_offline_run_is_in_its_mirror(start, selector):
    run = finished(start, "tracking.mode=offline", f"prune.selector={selector}", "prune.refit=lsq")
    assert_mirrored(run)
    told = next(record for record in records(run, "run"))
    assert (told["job_type"], told["display_name"]) == ("finetune", run.name) and "run_group" not in told
    assert told["run_id"].startswith(run.name[-8:]) and told["config"]["update"]["search"]["prune"]["selector"] == selector
    assert told["config"]["update"]["name"] == "small"
    result = events(run)[-1]
    assert result["event"] == "result" and summary(run)["top1"] == result["top1"] and summary(run)["width_dense/conv_head"] == 16
    scores = [row["search/score"] for row in history(run).values() if row.get("search/event") == "pick"]
    assert (len(scores) > 0) == (selector == "loss")  # the other's path is committed unit by unit: it is in the table
    (artifact,) = records(run, "artifact")
    assert {entry["path"] for entry in artifact["manifest"]["contents"]} >= {"path.table.json", "epochs.table.json", "result.json"}
    assert tracking_processes(run) == []
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert finished(start, "tracking.mode=offline", f"prune.selector={selector}", "prune.refit=lsq") == run
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_run_killed_in_its_search_and_while_its_mirror_is_written_has_one_mirror_with_every_event_once(start, tmp_path):
    def run() -> Path:
        (found,) = (tmp_path / "runs").glob("small-*")
        return found

    first = start("tracking.mode=offline", "prune.selector=loss")
    wait_for(lambda: any('"pick"' in path.read_text() for path in tmp_path.glob("runs/small-*/metrics.jsonl")), first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not (run() / "wandb").exists()
    second = start("tracking.mode=offline", "prune.selector=loss")
    wait_for(lambda: list(run().glob("wandb/offline-run-*")), second)
    second.send_signal(signal.SIGKILL)
    second.wait()
    assert not (run() / "result.json").exists()  # it comes after the mirror: a run without one is not done
    third = start("tracking.mode=offline", "prune.selector=loss")
    ended(third)
    assert_mirrored(run())
    assert [event["event"] for event in events(run())].count("run") == 3


def test_an_online_run_killed_in_its_middle_goes_on_at_the_server_without_doubling_a_step(start, tmp_path):
    with Server() as server:
        environment = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        first = start("tracking.mode=online", "prune.selector=loss", "dense.epochs=60", **environment)
        wait_for(lambda: server.upserts, first)
        first.send_signal(signal.SIGKILL)
        first.wait()
        run = finished(start, "tracking.mode=online", "prune.selector=loss", "dense.epochs=60", **environment)
    assert server.steps() == list(range(len(events(run)))) and server.ends[-1] == 0
    assert not [event for event in events(run) if event["event"] == "notice"]


def below(*places: Path) -> list[Path]:
    return [path for place in places for path in place.rglob("*") if path.is_file() and not path.is_symlink()]


@pytest.mark.parametrize("mode, key_from", [
    ("offline", "environment"), ("online", "netrc"), pytest.param("online", "environment", marks=pytest.mark.slow),
])
def test_the_key_is_in_no_file_no_output_and_no_argument_list(start, tmp_path, mode, key_from):
    environment = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "3", "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    if key_from == "environment":
        environment["WANDB_API_KEY"] = KEY
    process = start(f"tracking.mode={mode}", **environment)
    arguments = []
    while process.poll() is None:
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                arguments.append(place.read_bytes())
            except OSError:
                continue
        time.sleep(0.1)
    out, err = ended(process)
    assert any(b"pipeline.tracking" in line for line in arguments)
    assert not any(KEY.encode() in line for line in arguments) and KEY not in out + err
    files = below(tmp_path / "runs", tmp_path / "tmp")
    assert len(files) > 30 and not [path for path in files if KEY.encode() in path.read_bytes()]
    assert err.count("notice: tracking") == (mode == "online")
    assert_mirrored(ROOT / out.splitlines()[-1])


IMPORTED = """
import os, traceback
files = [frame.filename for frame in traceback.extract_stack() if "importlib" not in frame.filename]
with open(os.environ["SEEN"], "a") as file:
    file.write(files[-2] + "\\n")
raise ImportError("not for this test")
"""


@pytest.mark.parametrize("mode, importers", [("off", {"summary.py"}), ("offline", {"summary.py", "scribe.py"})])
def test_wandb_is_imported_by_the_scribe_alone_and_by_timm_which_can_do_without(start, tmp_path, mode, importers):
    (tmp_path / "site/wandb").mkdir(parents=True)
    (tmp_path / "site/wandb/__init__.py").write_text(IMPORTED)
    environment = {"PYTHONPATH": str(tmp_path / "site"), "SEEN": str(tmp_path / "seen")}
    process = start(f"tracking.mode={mode}", "prune.selector=l1", "prune.refit=none", "arm=none", **environment)
    _, err = ended(process)
    assert err.count("notice: tracking: W&B cannot be used (ImportError: not for this test)") == (mode == "offline")
    assert {Path(line).name for line in (tmp_path / "seen").read_text().splitlines()} == importers


@pytest.mark.slow
def test_a_sweep_is_the_group_of_its_runs_and_ray_never_sees_the_key(small_config, tmp_path):
    small_config.write_text(small_config.read_text().replace("{mode: off}", "{mode: offline}") + "sweep: {arm: [none, finetune]}\n")
    command = [CONSOLE, "sweep", "-c", small_config, "prune.selector=l1", "cluster.workers=1"]
    process = subprocess.Popen(command, cwd=ROOT, env=outside(OMP_NUM_THREADS="1", WANDB_API_KEY=KEY), stdout=subprocess.PIPE, text=True)
    looked = 0
    while process.poll() is None:
        for path in [*below(*Path(tempfile.gettempdir()).glob(f"gfs-ray-{process.pid}-*")), *Path("/proc").glob("[0-9]*/cmdline")]:
            try:
                looked += path.suffix in (".log", ".out", ".err")
                assert KEY.encode() not in path.read_bytes(), path
            except OSError:
                continue
        time.sleep(1)
    out, _ = process.communicate()
    assert process.returncode == 0 and looked > 10
    group = ROOT / out.splitlines()[-1]
    runs = [path.parent for path in (tmp_path / "runs").glob("*/result.json")]
    assert len(runs) == 2
    for run in runs:
        (told,) = records(run, "run")
        assert told["run_group"] == group.name
        assert_mirrored(run)
    assert not [path for path in below(tmp_path / "runs") if KEY.encode() in path.read_bytes()]
