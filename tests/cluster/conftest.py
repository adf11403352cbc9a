"""One Ray for many searches, and the tiny network's finished stages they all begin from."""

import contextlib
import os
from pathlib import Path

import pytest

from pipeline.config.settings import Cluster
from tests.conftest import ROOT, run_gfs

TINY = ROOT / "configs/tiny.yaml"
QUIET = ("arm=none", "evaluate.latency=false", "tracking.mode=off")
PRUNERS = {
    "reconstruction-sequential": ("prune.selector=reconstruction",),
    "reconstruction-independent": ("prune.selector=reconstruction", "prune.mode=independent"),
    "affine": ("prune.refit=affine",),
    "loss": ("prune.selector=loss", "prune.refit=none"),
    "marginal-independent": ("prune.selector=reconstruction", "prune.mode=independent", "prune.allocation=marginal"),
}


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """A runs directory of configs/tiny.yaml with stages data, dense and baseline finished."""
    runs = tmp_path_factory.mktemp("prepared") / "runs"
    done = run_gfs("run", "-c", TINY, f"runs_dir={runs}", "--until", "baseline", *QUIET)
    assert done.returncode == 0, done.stderr
    return runs


@pytest.fixture(scope="module")
def ray_of_four():
    """A local Ray with room for four workers; a search in this process joins it, and so would tests of other modules, if it stayed."""
    from pipeline.cluster.session import connected

    with connected(Cluster(), 4) as ray:
        yield ray


@contextlib.contextmanager
def working_in(folder):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
