"""SIGKILL anywhere in a run of configs/tiny.yaml: the same command goes on to the same bytes."""

import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import CONSOLE, ROOT

PRUNERS = {"reconstruction": ("prune.selector=reconstruction",), "loss": ("prune.selector=loss", "prune.refit=none")}
POINTS = {"slow": (1, 3, 1), "proof": (5, 10, 5)}  # kills before the first pick, within the journal, after it


@dataclass(frozen=True)
class Reference:
    """An unbroken run: its files, and when things happened (seconds after the start)."""

    files: dict[str, bytes]
    first_pick: float
    end: float
    finished: float


def start(runs_dir, pruner):
    command = [CONSOLE, "run", "-c", ROOT / "configs/tiny.yaml", f"runs_dir={runs_dir}", "evaluate.latency=false", *PRUNERS[pruner]]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def journal(runs_dir) -> bytes:
    found = list(Path(runs_dir).glob("stages/search-*/journal.jsonl"))
    return found[0].read_bytes() if found else b""


def outcome(runs_dir) -> dict[str, bytes]:
    """What must not depend on kills: journal, selection artifacts, shrunk and trained weights, arch."""
    (run,) = Path(runs_dir).glob("tiny-*")
    files = {name: (run / name).read_bytes() for name in ("arch.json", "model.safetensors", "stages.json")}
    for pattern in ("search-*/journal.jsonl", "search-*/units/*", "shrink-*/model.safetensors", "train-*/*.safetensors", "dense-*/weights.safetensors"):
        files |= {str(path.relative_to(runs_dir)): path.read_bytes() for path in sorted(Path(runs_dir).glob(f"stages/{pattern}"))}
    return {name: data for name, data in files.items() if "checkpoint" not in name}


def unbroken(runs_dir, pruner) -> Reference:
    process, began = start(runs_dir, pruner), time.monotonic()
    first = end = None
    while process.poll() is None:
        text = journal(runs_dir) if end is None else b""
        if first is None and b'"kind":"pick"' in text:
            first = time.monotonic() - began
        if end is None and b'"kind":"end"' in text:
            end = time.monotonic() - began
        time.sleep(0.001)
    assert process.returncode == 0, process.stderr.read()
    return Reference(outcome(runs_dir), first, end, time.monotonic() - began)


def kill_points(reference: Reference, counts, seed):
    """(name, condition on (seconds, journal, seconds since the journal's end)) of each kill."""
    chance, (before, within, after) = random.Random(seed), counts
    text = reference.files[next(name for name in reference.files if name.endswith("journal.jsonl"))]
    begin = text.index(b"\n") + 1
    for n in range(before):
        at = 0.9 * reference.first_pick * (n + chance.random()) / before
        yield f"before, {at:.2f} s", lambda seconds, size, since, at=at: seconds >= at
    for n in range(within):
        at, delay = begin + 1 + int((len(text) - begin - 1) * n / within), chance.random() * 0.02
        yield f"within, {at} of {len(text)} bytes", lambda seconds, size, since, at=at, delay=delay: size >= at and (time.sleep(delay) or True)
    for n in range(after):
        at = (reference.finished - reference.end) * (n + chance.random()) / after * 0.9
        yield f"after, {at:.2f} s", lambda seconds, size, since, at=at: since is not None and since >= at


def kill_when(condition, runs_dir, pruner) -> bool:
    """Start a run and SIGKILL it when the condition holds; False if it finished first."""
    process, began, ended = start(runs_dir, pruner), time.monotonic(), None
    while process.poll() is None:
        text = journal(runs_dir) if ended is None else text
        if ended is None and b'"kind":"end"' in text:
            ended = time.monotonic()
        if condition(time.monotonic() - began, len(text), None if ended is None else time.monotonic() - ended):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.0005)
    return False


def prove(tmp_path, pruner, counts, seed):
    reference = unbroken(tmp_path / "unbroken", pruner)
    killed = 0
    for number, (name, condition) in enumerate(kill_points(reference, counts, seed)):
        runs_dir = tmp_path / f"kill-{number}"
        hit = kill_when(condition, runs_dir, pruner)
        killed += hit
        last = journal(runs_dir).rstrip(b"\n").rpartition(b"\n")[2].decode()[:150] or "(no journal yet)"
        resumed = start(runs_dir, pruner)
        assert resumed.wait(timeout=300) == 0, resumed.stderr.read()
        print(f"{pruner}: kill {number + 1} {name}{'' if hit else ' (came too late)'}; last journal line: {last}")
        found = outcome(runs_dir)
        assert found.keys() == reference.files.keys()
        differing = [file for file in found if found[file] != reference.files[file]]
        assert not differing, f"after a kill {name}: {differing}"
        shutil.rmtree(runs_dir)
    assert killed >= sum(counts) - 1, f"only {killed} of {sum(counts)} kills came in time"


@pytest.mark.slow
@pytest.mark.parametrize("pruner", PRUNERS)
def test_five_kills_leave_no_trace_in_journal_selection_or_weights(tmp_path, pruner):
    prove(tmp_path, pruner, POINTS["slow"], seed=1)


@pytest.mark.proof
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("pruner", PRUNERS)
def test_twenty_kills_leave_no_trace_in_journal_selection_or_weights(tmp_path, pruner):
    prove(tmp_path, pruner, POINTS["proof"], seed=2)
