"""SIGKILL of the coordinator and of workers in runs of configs/tiny.yaml on Ray: the same bytes as in one process."""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import CONSOLE, ROOT
from tests.proofs.test_kills import PRUNERS, journal

QUIET = ("arm=none", "evaluate.latency=false", "tracking.mode=off")
POINTS = {"slow": (1, 3, 1), "proof": (5, 10, 5)}  # before the first pick, within the journal, after its end


def start(runs_dir, pruner, workers):
    command = [CONSOLE, "run", "-c", ROOT / "configs/tiny.yaml", f"runs_dir={runs_dir}", f"cluster.workers={workers}", *QUIET, *PRUNERS[pruner]]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def outcome(runs_dir) -> dict[str, bytes]:
    """What must not depend on kills: journal, selection artifacts, shrunk weights."""
    files = {}
    for pattern in ("search-*/journal.jsonl", "search-*/units/*", "shrink-*/model.safetensors", "dense-*/weights.safetensors"):
        files |= {str(path.relative_to(runs_dir)): path.read_bytes() for path in sorted(Path(runs_dir).glob(f"stages/{pattern}"))}
    return files


def finish(process) -> None:
    _, stderr = process.communicate(timeout=400)
    assert process.returncode == 0, stderr


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Finished stages data, dense and baseline, which every run here begins from."""
    runs = tmp_path_factory.mktemp("prepared") / "runs"
    command = [CONSOLE, "run", "-c", ROOT / "configs/tiny.yaml", f"runs_dir={runs}", *QUIET, "--until", "baseline"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return runs


@pytest.fixture(scope="module", params=list(PRUNERS))
def reference(request, prepared, tmp_path_factory) -> tuple[str, dict[str, bytes]]:
    """(pruner, files of its unbroken run in one process)."""
    runs = tmp_path_factory.mktemp("alone") / "runs"
    shutil.copytree(prepared, runs)
    finish(start(runs, request.param, 0))
    return request.param, outcome(runs)


def descendants(pid: int, name: str) -> list[int]:
    """Processes below `pid` whose command begins with `name`."""
    parents, found = {}, []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
    for child in parents:
        above = child
        while above in parents and above != pid:
            above = parents[above]
        if above == pid and child != pid:
            try:
                found += [child] if Path(f"/proc/{child}/cmdline").read_bytes().startswith(name.encode()) else []
            except OSError:
                continue
    return found


def moments(reference_files, counts, seed):
    """(name, condition on (journal, seconds since the journal's end)) of each kill."""
    chance, (before, within, after) = random.Random(seed), counts
    text = next(data for name, data in reference_files.items() if name.endswith("journal.jsonl"))
    begin = text.index(b"\n") + 1
    for n in range(before):
        delay = 6.0 * (n + chance.random()) / before  # Ray and the workers start meanwhile
        yield f"before, {delay:.1f} s", lambda text, since, seconds, delay=delay: seconds >= delay or b'"kind":"pick"' in text
    for n in range(within):
        at, delay = begin + 1 + int((len(text) - begin - 1) * n / within), chance.random() * 0.05
        yield f"within, {at} of {len(text)} bytes", lambda text, since, seconds, at=at, delay=delay: len(text) >= at and (time.sleep(delay) or True)
    for _ in range(after):
        delay = chance.random()
        yield f"after, {delay:.2f} s", lambda text, since, seconds, delay=delay: since is not None and since >= delay


def wait_for(process, runs, condition) -> bool:
    """Whether the condition held while the process lived."""
    began, ended = time.monotonic(), None
    while process.poll() is None:
        text = journal(runs)
        if ended is None and b'"kind":"end"' in text:
            ended = time.monotonic()
        if condition(text, None if ended is None else time.monotonic() - ended, time.monotonic() - began):
            return True
        time.sleep(0.001)
    return False


def last_line(runs) -> str:
    return journal(runs).rstrip(b"\n").rpartition(b"\n")[2].decode()[:120] or "(no journal yet)"


def prove_coordinator(tmp_path, prepared, reference, counts, seed):
    pruner, files = reference
    killed = 0
    for number, (name, condition) in enumerate(moments(files, counts, seed)):
        runs = tmp_path / f"kill-{number}"
        shutil.copytree(prepared, runs)
        process = start(runs, pruner, 2)
        if wait_for(process, runs, condition):
            process.kill()
            process.wait()
            killed += 1
        last, workers = last_line(runs), (1, 4, 0, 2)[number % 4]
        finish(start(runs, pruner, workers))
        print(f"{pruner}: coordinator killed {name}, resumed with {workers} workers; last journal line: {last}")
        assert outcome(runs) == files, f"after a kill {name}"
        shutil.rmtree(runs)
    assert killed >= sum(counts) - 1, f"only {killed} of {sum(counts)} kills came in time"


def prove_workers(tmp_path, prepared, reference, counts, seed):
    """A worker lives during the search alone, so that all kills lie before its end."""
    pruner, files = reference
    killed = 0
    for number, (name, condition) in enumerate(moments(files, (counts[0], counts[1] + counts[2], 0), seed)):
        runs = tmp_path / f"kill-{number}"
        shutil.copytree(prepared, runs)
        process = start(runs, pruner, 2)
        if wait_for(process, runs, condition):
            victims = descendants(process.pid, "ray::Worker")
            last = last_line(runs)
            for victim in victims[:1]:
                os.kill(victim, signal.SIGKILL)
                killed += 1
                print(f"{pruner}: worker killed {name}; last journal line: {last}")
        finish(process)
        assert outcome(runs) == files, f"after a worker's kill {name}"
        shutil.rmtree(runs)
    assert killed >= sum(counts) // 2, f"only {killed} of {sum(counts)} kills met a worker"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_five_kills_of_the_coordinator_leave_no_trace(tmp_path, prepared, reference):
    prove_coordinator(tmp_path, prepared, reference, POINTS["slow"], seed=3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_five_kills_of_a_worker_leave_no_trace(tmp_path, prepared, reference):
    prove_workers(tmp_path, prepared, reference, POINTS["slow"], seed=4)


@pytest.mark.proof
@pytest.mark.timeout(7200)
def test_twenty_kills_of_the_coordinator_leave_no_trace(tmp_path, prepared, reference):
    prove_coordinator(tmp_path, prepared, reference, POINTS["proof"], seed=5)


@pytest.mark.proof
@pytest.mark.timeout(7200)
def test_twenty_kills_of_a_worker_leave_no_trace(tmp_path, prepared, reference):
    prove_workers(tmp_path, prepared, reference, POINTS["proof"], seed=6)
