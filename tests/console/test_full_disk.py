"""A disk that fills while one stage writes: exit 75 naming the file, nothing half-written; with room the same bytes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import run_gfs

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux") or os.geteuid() != 0, reason="mounting a small file system needs root on Linux")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, shards) -> tuple[Path, Path]:
    """A config whose training writes a checkpoint after every step, and the runs directory of its finished run."""
    root = tmp_path_factory.mktemp("full")
    config = root / "small.yaml"
    config.write_text(
        f"name: small\ndata: {{source: {shards}}}\ntracking: {{mode: off}}\n"
        "network: {model: 'pipeline.networks.small:tiny', num_classes: 3, in_chans: 1, img_size: 28, mean: [0.5], std: [0.25]}\n"
        "dense: {epochs: 1, batch: 16, threads: 1}\nprune: {calibration_samples: 64}\n"
        "train: {epochs: 1, batch: 16, threads: 1, checkpoint_seconds: 0}\n"
        "scoring: {batch: 16, block_samples: 32, block_candidates: 4}\nevaluate: {recalibration_samples: 32, latency: false, threads: 1}\n"
    )
    done = run_gfs("run", "-c", config, f"runs_dir={root / 'runs'}")
    assert done.returncode == 0, done.stderr
    return config, root / "runs"


@pytest.mark.parametrize("stage, kibibytes, file", [
    ("search", 16, "journal.jsonl"), ("search", 20, "units/conv_stem.safetensors"), ("train", 24, "checkpoint.safetensors"),
])
def test_a_disk_that_fills_at_any_file_stops_resumably_and_ends_in_the_same_bytes(finished, tmp_path, stage, kibibytes, file):
    config, runs = finished[0], tmp_path / "runs"
    shutil.copytree(finished[1], runs)
    for path in [*runs.glob("small-*/result.json"), *runs.glob("stages/evaluate-*/done.json")]:
        path.unlink()
    (folder,) = runs.glob(f"stages/{stage}-*")
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.suffix in (".jsonl", ".safetensors")}
    shutil.rmtree(folder)
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "none", folder], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        stopped = run_gfs("run", "-c", config, f"runs_dir={runs}")
        errors = [line for line in stopped.stderr.splitlines() if line.startswith("gfs: error: ")]
        assert stopped.returncode == 75 and len(errors) == 1, stopped.stderr
        assert f"{folder / file}: No space left" in errors[0]
        assert not list(folder.rglob(".*.tmp")) and not list(runs.rglob("error.json"))
        subprocess.run(["mount", "-o", "remount,size=16m", folder], check=True)
        assert run_gfs("run", "-c", config, f"runs_dir={runs}").returncode == 0
        assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.suffix in (".jsonl", ".safetensors")} == before
    finally:
        subprocess.run(["umount", folder], check=False)
