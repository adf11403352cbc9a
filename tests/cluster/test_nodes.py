"""Several raylets on one machine: nodes that come and go in mid-run, a cluster that goes down."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from tests.cluster.braked import FINE
from tests.cluster.conftest import PRUNERS, QUIET, TINY
from tests.cluster.nodes import Nodes
from tests.cluster.searches import chain, events, outcome, search
from tests.conftest import CONSOLE, ROOT

PATIENCE = 240  # seconds, on a busy machine
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes():
    found = Nodes(cpus=1)
    yield found
    found.end()


def start(*command):
    return subprocess.Popen(
        [*map(str, command)], cwd=ROOT, env=os.environ | ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def wait_until(process, condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("pruner", ["loss", "reconstruction-sequential"])
def test_a_node_that_comes_is_used_and_the_blocks_of_one_that_goes_move(prepared, nodes, tmp_path, pruner):
    place = tmp_path / "nodes"
    place.mkdir()
    (place / "brake").touch()
    process = start(sys.executable, "-m", "tests.cluster.braked", prepared, place, pruner, nodes.address)

    def told(kind) -> list[dict]:
        lines = (place / "events").read_text().split("\n")[:-1] if (place / "events").exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    wait_until(process, lambda: told("answer"))
    assert [event["alive"] for event in told("workers")] == [1]
    nodes.add("second", cpus=1)
    wait_until(process, lambda: told("workers")[-1]["alive"] == 2)
    before = len(told("answer"))
    wait_until(process, lambda: len(told("answer")) > before + 10)
    nodes.remove("second")
    wait_until(process, lambda: told("workers")[-1]["lost"] == 1)
    (place / "brake").unlink()
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, stderr
    (shares,) = told("shares")
    print(f"{pruner}: {shares}")
    assert all(share["0"] >= 1 and share["1"] >= 1 for share in shares["shares"].values())
    assert (place / "search/journal.jsonl").read_bytes() == search(prepared, tmp_path / "alone", pruner, None, overrides=FINE)[0]


def test_a_run_joins_a_cluster_and_one_that_goes_down_stops_it_resumably(prepared, nodes, tmp_path):
    runs, pruner = tmp_path / "runs", "loss"
    shutil.copytree(prepared, runs)
    common = [CONSOLE, "run", "-c", TINY, f"runs_dir={runs}", "--until", "shrink", *QUIET, *PRUNERS[pruner]]
    process = start(*common, "cluster.workers=1", f"cluster.address={nodes.address}")
    wait_until(process, lambda: any(b'"kind":"pick"' in path.read_bytes() for path in runs.glob("stages/search-*/journal.jsonl")))
    assert events(runs, "workers")
    nodes.remove("head")
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 75, stderr
    assert "went down" in stderr
    resumed = start(*common, "cluster.workers=1")
    _, stderr = resumed.communicate(timeout=PATIENCE)
    assert resumed.returncode == 0, stderr
    assert outcome(runs) == chain(prepared, tmp_path / "alone", pruner)
