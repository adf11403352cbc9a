"""One SLURM for all these tests, and the finished stages that their runs begin from."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
import yaml

from pipeline.chain.run import run_chain
from pipeline.config.load import load_config
from tests.cluster.slurm.machine import INSTALL, Jobs, Machine, is_installed
from tests.conftest import ROOT

LOSS = {"selector": "loss", "refit": "none", "engine": "exhaustive"}


@pytest.fixture(scope="session")
def machine():
    """Two nodes, brought up for this session and taken down after it."""
    if not is_installed():
        pytest.skip(INSTALL)
    place = Path(tempfile.mkdtemp(prefix="slurm-"))
    running = Machine(place)
    os.environ |= running.environment  # status asks in this process
    try:
        running.order("up")
        yield running
    finally:
        running.order("down")
        for name in running.environment:
            del os.environ[name]
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="session")
def config(tmp_path_factory) -> Path:
    """configs/tiny.yaml with the paper's search, on a network that a test can slow down."""
    plain = yaml.safe_load((ROOT / "configs/tiny.yaml").read_text())
    plain["network"]["model"] = "tests.cluster.slurm.slow:build"
    plain |= {"prune": {"allocation": "uniform", **LOSS}, "arm": "none", "evaluate": plain["evaluate"] | {"latency": False}, "tracking": {"mode": "off"}}
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(plain))
    return path


@pytest.fixture(scope="session")
def reference(tmp_path_factory, config) -> tuple[Path, bytes]:
    """(runs directory with data, dense and baseline finished, the journal of the search in one process)."""
    place = tmp_path_factory.mktemp("reference")
    run_chain(load_config(str(config), [f"runs_dir={place / 'prepared'}"]), until="baseline")
    shutil.copytree(place / "prepared", place / "whole")
    run_chain(load_config(str(config), [f"runs_dir={place / 'whole'}"]))
    (path,) = (place / "whole").glob("stages/search-*/journal.jsonl")
    return place / "prepared", path.read_bytes()


@pytest.fixture
def jobs(machine, tmp_path, config, reference):
    """Submits to an idle SLURM, below a runs directory with the first stages finished; nothing of it is left in the queue."""
    machine.empty()
    (tmp_path / "runs").mkdir()
    shutil.copytree(reference[0] / "stages", tmp_path / "runs/stages")
    made = Jobs(machine, tmp_path, config)
    yield made
    made.brake.unlink(missing_ok=True)
    machine.empty()
