"""Stops (75), damage (1) and notices (0) through the installed command; what the other verbs print last."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.stages.lock import read_holder
from tests.conftest import CONSOLE, ROOT, run_gfs

CONTRACTS = ROOT.parent / "shared/contracts/check.py"
HOLDER = """
import sys, time
from pipeline.stages.lock import Lock
with Lock(sys.argv[1], "the test"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory, shards) -> dict:
    """A finished run of the tiny network (trained here), its config and its runs directory."""
    root = tmp_path_factory.mktemp("finished")
    config = root / "small.yaml"
    config.write_text(
        f"name: small\ndata: {{source: {shards}}}\n"
        "network: {model: 'pipeline.networks.small:tiny', num_classes: 3, in_chans: 1, img_size: 28, mean: [0.5], std: [0.25]}\n"
        "dense: {epochs: 40, batch: 16, threads: 1}\nprune: {calibration_samples: 64}\ntrain: {epochs: 1, batch: 16, threads: 1}\n"
        "scoring: {batch: 16, block_samples: 32, block_candidates: 4}\nevaluate: {recalibration_samples: 32, latency: false}\n"
    )
    done = run_gfs("run", "-c", config, f"runs_dir={root / 'runs'}")
    assert done.returncode == 0, done.stderr
    return {"config": config, "runs": root / "runs", "last": done.stdout.splitlines()[-1]}


@pytest.fixture
def copied(finished, tmp_path) -> dict:
    """The finished run, copied so that it may be damaged."""
    return finished | {"runs": Path(shutil.copytree(finished["runs"], tmp_path / "runs"))}


def again(given, *overrides):
    return run_gfs("run", "-c", given["config"], f"runs_dir={given['runs']}", *overrides)


def unfinish(runs: Path, *stages) -> None:
    """Make a finished run unfinished from the named stages on."""
    for path in [*runs.glob("small-*/result.json"), *(p for s in stages for p in runs.glob(f"stages/{s}-*/done.json"))]:
        path.unlink()


def one_line(process_stderr: str) -> str:
    lines = [line for line in process_stderr.splitlines() if line.startswith("gfs: error: ")]
    assert len(lines) == 1 and "Traceback" not in process_stderr, process_stderr
    return lines[0]


def stopped_in_training(command, runs: Path, name: str) -> str:
    """Send a signal while stage dense trains; what the process printed to stderr."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    while not any(read_holder(path).get("pid") == process.pid for path in runs.glob("stages/dense-*/lock.json")):
        time.sleep(0.01)
        assert process.poll() is None, process.stderr.read()
    time.sleep(0.2)
    process.send_signal(getattr(signal, name))
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    return stderr


@pytest.mark.parametrize("names", [("SIGINT", "SIGTERM"), ("SIGHUP", "SIGUSR2")], ids=" ".join)
def test_each_signal_stops_resumably_and_the_same_command_ends_in_the_same_bytes(finished, tmp_path, names):
    command = [CONSOLE, "run", "-c", finished["config"], f"runs_dir={tmp_path / 'runs'}"]
    for name in names:
        stderr = stopped_in_training(command, tmp_path / "runs", name)
        assert name in one_line(stderr) and "same command" in one_line(stderr)
        assert not list(tmp_path.rglob("lock.json")) and not list(tmp_path.rglob("error.json")) and not list(tmp_path.rglob(".*.tmp"))
        (run,) = tmp_path.glob("runs/small-*")
        assert json.loads(run_gfs("status", run, "--json").stdout)["state"] == "stopped"
    assert again({"config": finished["config"], "runs": tmp_path / "runs"}).returncode == 0
    for pattern in ("stages/search-*/journal.jsonl", "small-*/model.safetensors"):
        (here,), (there,) = tmp_path.glob(f"runs/{pattern}"), finished["runs"].glob(pattern)
        assert here.read_bytes() == there.read_bytes()


def test_a_run_locked_by_a_live_process_refuses_at_once_and_a_dead_ones_lock_is_taken_over(copied):
    unfinish(copied["runs"])
    (run,) = copied["runs"].glob("small-*")
    with subprocess.Popen([sys.executable, "-c", HOLDER, run], stdout=subprocess.PIPE, cwd=ROOT) as holder:
        try:
            assert holder.stdout.readline() == b"held\n"
            refused = again(copied)
            assert refused.returncode == 75 and run.name in one_line(refused.stderr) and str(holder.pid) in refused.stderr
            assert json.loads(run_gfs("status", run, "--json").stdout)["state"] == "running"
        finally:
            holder.kill()
    assert (run / "lock.json").exists()
    assert json.loads(run_gfs("status", run, "--json").stdout)["state"] == "stopped"
    assert again(copied).returncode == 0
    assert not (run / "lock.json").exists()


def test_shard_bytes_that_changed_after_they_were_verified_stop_resumably(copied, shards, tmp_path):
    data = Path(shutil.copytree(shards, tmp_path / "shards"))
    shutil.rmtree(next(copied["runs"].glob("stages/search-*")))
    unfinish(copied["runs"])
    shard = data / "train/train-00000.tar"
    good = shard.read_bytes()
    shard.write_bytes(good[:5000] + b"X" + good[5001:])
    stopped = again(copied, f"data.source={data}")
    assert stopped.returncode == 75 and str(shard) in one_line(stopped.stderr) and "sha256" in stopped.stderr
    shard.write_bytes(good)
    assert again(copied, f"data.source={data}").returncode == 0


def test_a_damaged_artifact_of_a_finished_stage_is_named_with_what_to_delete(copied):
    unfinish(copied["runs"])
    (weights,) = copied["runs"].glob("stages/shrink-*/model.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    failed = again(copied)
    assert failed.returncode == 1
    assert weights.parent.name in one_line(failed.stderr) and "delete this folder" in failed.stderr
    shutil.rmtree(weights.parent)
    assert again(copied).returncode == 0


def test_a_flipped_bit_in_the_middle_of_a_journal_is_refused_with_its_line(copied):
    unfinish(copied["runs"], "search")
    (journal,) = copied["runs"].glob("stages/search-*/journal.jsonl")
    lines = journal.read_bytes().split(b"\n")
    lines[3] = lines[3].replace(b'"step":2', b'"step":3')
    journal.write_bytes(b"\n".join(lines))
    failed = again(copied)
    assert failed.returncode == 1 and "line 4" in one_line(failed.stderr) and journal.parent.name in failed.stderr


def test_a_torn_last_journal_line_is_cut_with_a_notice_and_the_journal_ends_the_same(copied):
    unfinish(copied["runs"], "search")
    (journal,) = copied["runs"].glob("stages/search-*/journal.jsonl")
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-7])
    resumed = again(copied)
    assert resumed.returncode == 0 and "torn last line" in resumed.stderr
    assert journal.read_bytes() == whole


@pytest.mark.skipif(not sys.platform.startswith("linux") or os.geteuid() != 0, reason="mounting a small file system needs root on Linux")
def test_a_full_disk_stops_resumably(finished, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "none", small], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        stopped = run_gfs("run", "-c", finished["config"], f"runs_dir={small / 'runs'}")
        assert stopped.returncode == 75 and "No space left" in one_line(stopped.stderr), stopped.stderr
        assert not list(small.rglob("error.json"))
        assert not list(small.rglob(".*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
        assert run_gfs("run", "-c", finished["config"], f"runs_dir={small / 'runs'}").returncode == 0
    finally:
        subprocess.run(["umount", small], check=False)


def test_what_a_finished_run_lacks_is_named_and_a_stage_it_has_not_is_refused_at_once(copied):
    (run,) = copied["runs"].glob("small-*")
    (run / "model.safetensors").unlink()
    failed = again(copied)
    assert failed.returncode == 1 and "model.safetensors is missing" in one_line(failed.stderr)
    (run / "result.json").write_text("{")
    failed = again(copied)
    assert failed.returncode == 1 and "result.json is damaged" in one_line(failed.stderr)
    refused = again(copied, "name=fresh", "prune.allocation=uniform", "--until", "statistics")
    assert refused.returncode == 2 and "no stage statistics" in one_line(refused.stderr)
    assert not list(copied["runs"].glob("fresh-*"))


def test_a_run_whose_progress_nobody_reads_goes_on_to_its_end(finished, tmp_path):
    command = f"{CONSOLE} run -c {finished['config']} runs_dir={tmp_path / 'runs'} 2>&1 >/dev/null | head -1; exit ${{PIPESTATUS[0]}}"
    assert subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True).returncode == 0
    assert len(list(tmp_path.glob("runs/small-*/result.json"))) == 1


def test_the_last_lines_of_the_verbs_are_those_of_the_contract(finished, image_folder, tmp_path):
    assert Path(finished["last"]).name.startswith("small-") and Path(finished["last"]).parent == finished["runs"]
    found = again(finished)
    assert found.stdout.splitlines()[-1] == finished["last"] and "training" not in found.stderr
    until = again(finished, "--until", "search")
    assert Path(until.stdout.splitlines()[-1]).name.startswith("search-")
    checked = run_gfs("check", "-c", finished["config"], f"runs_dir={finished['runs']}")
    assert checked.returncode == 0 and checked.stdout.splitlines()[-1] == "ok"
    assert "smallest" in checked.stdout and "estimate" in checked.stdout
    made = run_gfs("shards", "make", image_folder, tmp_path / "made")
    assert made.stdout.splitlines()[-1] == str(tmp_path / "made")
    assert run_gfs("shards", "verify", tmp_path / "made").stdout.splitlines()[-1] == "ok"
    assert run_gfs("shards", "verify", tmp_path / "made/train/manifest.json").stdout.splitlines()[-1] == "ok"


@pytest.mark.parametrize("verb", [[], ["run"], ["check"], ["status"], ["shards"], ["shards", "make"], ["shards", "verify"]], ids=" ".join)
def test_every_verb_has_help(verb):
    helped = run_gfs(*verb, "--help")
    assert helped.returncode == 0 and helped.stdout.startswith("usage: gfs") and helped.stderr == ""


def test_only_debug_shows_a_traceback(tmp_path):
    plain, debug = (run_gfs("run", "-c", tmp_path / "none.yaml", *more) for more in ([], ["--debug"]))
    assert plain.returncode == debug.returncode == 2
    assert "Traceback" not in plain.stderr and "Traceback" in debug.stderr
    assert debug.stderr.splitlines()[-1] == plain.stderr.splitlines()[-1] == plain.stderr.strip()


def test_a_config_can_come_through_a_pipe(finished):
    command = f"cat {finished['config']} | {CONSOLE} run -c /dev/stdin runs_dir={finished['runs']}"
    piped = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert piped.returncode == 0 and piped.stdout.splitlines()[-1] == finished["last"], piped.stderr


def test_what_a_finished_run_wrote_meets_the_contracts(finished):
    if not CONTRACTS.exists():
        pytest.skip("the contracts are not beside this checkout")
    status = run_gfs("status", "--json", finished["last"])
    (finished["runs"] / "status.json").write_text(status.stdout)
    try:
        for path in (finished["last"], finished["runs"] / "status.json", *finished["runs"].glob("stages/*")):
            checked = subprocess.run([sys.executable, CONTRACTS, path], capture_output=True, text=True)
            assert checked.returncode == 0, checked.stdout
    finally:
        (finished["runs"] / "status.json").unlink()
