"""`gfs bench coordinator`: how much one coordinator can take in, with 64 workers simulated behind the executor protocol.

Every answer comes at once, so that the coordinator alone is measured: questions sent, answers added in order, choices committed to a
journal on disk. Seconds inside the simulated workers are left out. A choice's time is that between its last answer and the first
question of the next: losses put together, the best found, its line fsynced, the next candidates drawn.
"""

import os
import statistics
import tempfile
import time
from collections import deque
from pathlib import Path

import numpy as np
import torch

from pipeline.bench.crowd import dispatched
from pipeline.bench.rows import Row
from pipeline.bench.simulated import Simulated
from pipeline.cluster.session import connected
from pipeline.config.errors import Failed
from pipeline.config.rules import resolve_prune
from pipeline.config.settings import Cluster, Prune, Scoring
from pipeline.journal import Journal
from pipeline.networks.shrink import Choice, reader_columns
from pipeline.networks.units import find_units
from pipeline.networks.zoo import blueprint, build
from pipeline.pruners.pruner import Job, prune_units
from pipeline.search.coordinator import Coordinator
from pipeline.search.question import Answer, Question

NETWORK, WORKERS = "mobilenetv2_100", 64
LAST, PICKS = 3, 16  # units searched, the last of the network (at most half), and neurons taken of each
ANSWERS_TARGET, COMMIT_TARGET = 2000.0, 10.0  # per second; milliseconds
GRAMS = {"8": 1000, "170": 512 * 9}  # megabytes of one answer: columns of its Gram matrix
GRAM_BYTES, ROUNDS = 2 * 10**9, 3  # added in each round, about
RAY_CALLS = 2000
CROWDS, CROWD_QUESTIONS = (1, 8, 64, 1024), 4096  # workers to which the Ray executor gives out that many questions


def bench_coordinator(say, network: str = NETWORK, grams=None, ray: bool = True) -> list[Row]:
    """Rows `answers_per_second`, `commit_ms` and `gram_answers_per_second`.

    `grams`: {megabytes: columns}, the last is the row's; `ray`: whether Ray's own calls are counted beside.
    """
    with tempfile.TemporaryDirectory(prefix="gfs-bench-") as root:
        rows = _search_rows(network, Path(root), _ray_calls if ray else lambda: {}, say)
        return [*rows, _gram_row(grams or GRAMS, Path(root), say)]


def _search_rows(network: str, root: Path, ray_calls, say) -> list[Row]:
    found = {engine: _searched(network, engine, root / engine) for engine in ("exhaustive", "stochastic")}
    for engine, one in found.items():
        say(f"{engine}: {one['answers']} answers, {one['answers_per_second']:.0f}/s; {one['picks']} choices, {one['commit_ms']:.2f} ms each")
    every, calls = found["exhaustive"], ray_calls()
    if calls:
        say(f"Ray's own calls: {calls['ray_calls_per_second'] or calls['ray_not_run']}")
    given = {str(workers): _given_out_per_second(workers) for workers in CROWDS}
    say("given out and collected by the Ray executor, Ray itself left out: " + ", ".join(f"{w} workers {rate:.0f}/s" for w, rate in given.items()))
    detail = {"workers": WORKERS, "network": network, **found, "fsync_ms": _sync_ms(root), "given_out_per_second": given}
    rate = Row("answers_per_second", every["answers_per_second"], ANSWERS_TARGET, "the target", "answers/s", detail | calls, more_is_better=True)
    return [rate, Row("commit_ms", every["commit_ms"], COMMIT_TARGET, "the target", "ms", detail)]


def _searched(network: str, engine: str, folder: Path) -> dict:
    """The end of the paper's search of a whole network, where questions carry the most commits; losses are drawn by name."""
    folder.mkdir()
    torch.manual_seed(0)
    model = build(blueprint(network, 10, 1, 28, {}) if ":" in network else blueprint(network, 1000, 3, 224, {}))
    units, scoring = find_units(model), Scoring()
    workers, journal = Simulated(WORKERS, drawn_losses), Journal(folder / "journal.jsonl", lambda event: None)
    coordinator = Coordinator(workers, journal, folder, scoring, 0, lambda event: None)
    names, commits = list(units.units), []
    end = len(names) - min(LAST, len(names) // 2)
    for name in names[:end]:
        unit = units.units[name]
        kept = tuple(range(0, unit.width, 2))
        weights = [reader_columns(model, reader)[:, : len(kept) * reader.columns].clone() for reader in unit.consumers]
        began = time.perf_counter()
        coordinator.commit(name, Choice(kept, weight=weights[0], further=tuple(weights[1:])), "width reached", 0.5)
        commits.append(time.perf_counter() - began)
    prune = resolve_prune(Prune(selector="loss", refit="none", engine=engine), "gfs bench coordinator", "width")
    last = {name: units.units[name] for name in names[end:]}
    widths = {name: min(PICKS, unit.width // 2) for name, unit in last.items()}
    job = Job(model, type(units)(units.graph, last, {}, ()), widths, prune, 0)
    began = time.perf_counter()
    prune_units(job, coordinator)
    seconds = time.perf_counter() - began - workers.working
    journal.close()
    picks = sum(line["kind"] == "pick" for line in journal.lines)
    told = {"answers": workers.answers, "picks": picks, "seconds": seconds, "workers_seconds": workers.working}
    told |= {"answers_per_second": workers.answers / seconds, "largest_question_bytes": workers.largest_question}
    told |= {"committed_units": len(commits), "unit_commit_ms": 1000 * statistics.mean(commits)}
    wall, busy = ([1000 * pause for pause in pauses] for pauses in zip(*workers.pauses))
    told |= {"commit_ms": statistics.mean(wall), "commit_ms_median": statistics.median(wall), "commit_ms_most": max(wall)}
    return told | {"commit_cpu_ms": statistics.mean(busy)}


def drawn_losses(question: Question) -> Answer:
    """A loss for each candidate that hangs on nothing but step and candidate, over the question's samples."""
    candidates, count = np.array(question.candidates, np.uint64), question.samples[1] - question.samples[0]
    mixed = (candidates * np.uint64(2654435761) + np.uint64(2246822519 * (question.step + 1))) % np.uint64(2**32)
    return Answer({"loss": count * (1 + mixed / 2**32)}, count)


def _given_out_per_second(workers: int) -> float:
    """Questions that the Ray executor gives out, and answers that it collects in order, with so many workers that answer at once."""
    asked = [Question("loss", (), "unit", 0, (0, 128), (candidate,)) for candidate in range(CROWD_QUESTIONS)]
    answers, seconds = dispatched(workers, asked, drawn_losses)
    if any(answer.sums["loss"].tobytes() != drawn_losses(question).sums["loss"].tobytes() for question, answer in zip(asked, answers, strict=True)):
        raise Failed(f"bench: the Ray executor gave other answers with {workers} workers")
    return CROWD_QUESTIONS / seconds


def _sync_ms(folder: Path) -> float:
    """Milliseconds of a bare append of a line and its fsync, where the journals lay: the median of 100."""
    times = []
    with open(folder / "bare", "ab", buffering=0) as file:
        for _ in range(100):
            began = time.perf_counter()
            file.write(b"0" * 250)
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


class Echo:
    """What Ray's own call rate is measured on: a worker that does nothing."""

    def answer(self, question):
        return {"loss": np.zeros(5)}


def _ray_calls() -> dict:
    """Calls per second through Ray to one actor that does nothing, 64 of them under way: no coordinator gets more from one."""
    try:
        with connected(Cluster(workers=1), cpus=1) as ray:
            actor = ray.remote(num_cpus=1)(Echo).remote()
            question = Question("loss", (), "unit", 0, (0, 128), tuple(range(5)))
            ray.get(actor.answer.remote(question))
            waiting, began = deque(), time.perf_counter()
            for _ in range(RAY_CALLS):
                waiting.append(actor.answer.remote(question))
                if len(waiting) == WORKERS:
                    ray.get(waiting.popleft())
            ray.get(list(waiting))
            return {"ray_calls_per_second": RAY_CALLS / (time.perf_counter() - began)}
    except ImportError as error:
        return {"ray_calls_per_second": None, "ray_not_run": str(error)}


def _gram_row(grams: dict[str, int], root: Path, say) -> Row:
    detail = {"workers": WORKERS}
    for name, columns in grams.items():
        detail[f"mb_{name}"] = one = _grams_added(columns, root / f"gram-{name}")
        say(f"Gram answers of {one['bytes'] / 1e6:.1f} MB: {one['answers_per_second']:.2f}/s added, {one['copies_per_second']:.2f}/s copied")
    what = f"copies of the same {one['bytes'] / 1e6:.0f} MB made in the same run: the machine's memory speed"
    return Row("gram_answers_per_second", one["answers_per_second"], one["copies_per_second"], what, "answers/s", detail, more_is_better=True)


def _grams_added(columns: int, folder: Path) -> dict:
    """Answers {gram, sums} added in order by a coordinator, and the same bytes copied, in turns; medians of the rounds."""
    folder.mkdir()
    pool = [np.full((columns, columns), float(i + 1)) for i in range(3)]  # more than a cache holds, of the large ones
    sums = np.ones(columns + 1)
    number = max(3, GRAM_BYTES // pool[0].nbytes)
    scoring = Scoring(block_samples=1)
    target, rates = np.zeros_like(pool[0]), {"added": [], "copied": []}
    for _ in range(ROUNDS):
        workers = Simulated(WORKERS, lambda question: Answer({"gram": pool[question.samples[0] % 3], "sums": sums}, 1))
        coordinator = Coordinator(workers, None, folder, scoring, number, lambda event: None)
        began = time.perf_counter()
        (answer,) = coordinator.ask("gram", "unit", coordinator.calibration_blocks())
        rates["added"].append(number / (time.perf_counter() - began - workers.working))
        if answer.sums["gram"][0, 0] != sum(i % 3 + 1 for i in range(number)) or answer.count != number:
            raise Failed("bench: the sum of the Gram answers is wrong")
        began = time.perf_counter()
        for i in range(number):
            np.copyto(target, pool[i % 3])
        rates["copied"].append(number / (time.perf_counter() - began))
        del answer
    added, copied = (statistics.median(rates[name]) for name in ("added", "copied"))
    size = pool[0].nbytes + sums.nbytes
    return {"bytes": size, "answers": number, "answers_per_second": added, "copies_per_second": copied, "copied_gb_per_second": copied * size / 1e9}
