"""`gfs bench scaling`: two Ray workers of one thread beside two bare processes that answer the two halves of the same questions."""

import multiprocessing
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.bench.rows import Row
from pipeline.bench.timed import Timed
from pipeline.chain.asking import Place, executor_of, open_bench
from pipeline.chain.context import Context, device_of
from pipeline.chain.sources import run_data, run_dense
from pipeline.chain.target import find_target
from pipeline.cluster.executor import on_ray
from pipeline.cluster.session import connected
from pipeline.config.errors import Failed
from pipeline.config.load import assign, check_plain
from pipeline.config.settings import Cluster
from pipeline.journal import Journal
from pipeline.pruners.pruner import Job, prune_units
from pipeline.search.actor import Actor
from pipeline.search.coordinator import Coordinator
from pipeline.stages.store import Store

ROUNDS = 3
SETTINGS = {
    "name": "bench",
    "data": {"source": "fashion-mnist", "train_samples": 6000, "test_samples": 500},
    "network": {"model": "pipeline.networks.small:mobilenetv2_28", "num_classes": 10, "in_chans": 1, "img_size": 28, "mean": [0.286], "std": [0.353]},
    "dense": {"epochs": 1, "samples": 256, "threads": 1},
    "prune": {"allocation": "uniform"},
    "scoring": {"batch": 128, "block_samples": 512, "block_candidates": 5, "threads": 1},
    "tracking": {"mode": "off"},
}
SEARCHES = {
    "reconstruction": {"prune": {"selector": "reconstruction", "calibration_samples": 4096}, "budget": {"prunable_macs": "50%"}},
    "loss": {"prune": {"selector": "loss", "refit": "none"}, "budget": {"width": 0.01}},
}


@dataclass(frozen=True)
class Scene:
    """One search made ready: what a coordinator and the workers need."""

    context: Context
    dense: object
    data: object
    target: object

    def search(self, executor, folder: Path) -> float:
        """Run the whole search on an executor that is warm; seconds."""
        config = self.context.config
        journal = Journal(folder / "journal.jsonl", lambda event: None)
        job = Job(self.dense.network, self.target.units, self.target.sharing.widths(None).widths, config.prune, config.seed)
        coordinator = Coordinator(executor, journal, folder, config.scoring, config.prune.calibration_samples or 0, lambda event: None)
        began = time.perf_counter()
        prune_units(job, coordinator)
        return time.perf_counter() - began

    def place(self, folder: Path) -> Place:
        return Place.of(self.context, self.dense, self.data, folder)


class Recording:
    """An executor that keeps the questions it passes on, asking by asking."""

    def __init__(self, executor):
        self.executor, self.askings = executor, []

    def ask(self, questions):
        questions = list(questions)
        self.askings.append(questions)
        return self.executor.ask(questions)


def bench_scaling(say) -> list[Row]:
    """Rows `workers.2/reconstruction` and `workers.2/loss`; seconds are medians of three rounds, all in turns."""
    with tempfile.TemporaryDirectory(prefix="gfs-bench-") as root:
        return [_bench(name, more, Path(root), say) for name, more in SEARCHES.items()]


def _scene(more: dict, root: Path) -> Scene:
    plain = SETTINGS | {"runs_dir": str(root)}
    for key, value in more.items():
        assign(plain, key, value)
    config = check_plain(plain, "gfs bench scaling")
    context = Context(config, Store(root, device_of(config)), lambda event: None)
    data = run_data(context)
    dense = run_dense(context, data)
    return Scene(context, dense, data, find_target(context, dense))


def _bench(name: str, more: dict, root: Path, say) -> Row:
    scene, folder = _scene(more, root), root / name / "recorded"
    folder.mkdir(parents=True)
    with executor_of(scene.context, scene.dense, scene.data, scene.target.units, folder) as inner:
        recording = Recording(timed := Timed(inner))
        alone = scene.search(recording, folder)
    choosing = alone - timed.seconds
    say(f"{name}: in process {alone:.2f} s, of it {choosing:.2f} s between questions; {sum(map(len, recording.askings))} questions")
    times: dict[str, list[float]] = {"bare halves": [], "workers 1": [], "workers 2": []}
    for number in range(ROUNDS):
        times["bare halves"].append(_bare_pair(scene.place(folder), recording.askings))
        for workers in (1, 2):
            times[f"workers {workers}"].append(_on_ray(scene, workers, root / name / f"{workers}-{number}", folder))
        say(f"{name}: " + ", ".join(f"{key} {values[-1]:.2f} s" for key, values in times.items()))
    middle = {key: statistics.median(values) for key, values in times.items()}
    detail = {"in_process": alone, "choosing": choosing, "rounds": times, **{key.replace(" ", "_"): value for key, value in middle.items()}}
    reference = "two bare processes answering every other question, and the choosing between them, done once"
    return Row(f"workers.2/{name}", middle["workers 2"], middle["bare halves"] + choosing, reference, "s", detail)


def _on_ray(scene: Scene, workers: int, folder: Path, recorded: Path) -> float:
    """Seconds of the search on warm workers; its journal must be the recorded one."""
    folder.mkdir(parents=True)
    cluster = Cluster(workers=workers)
    with connected(cluster, workers), on_ray(scene.place(folder), cluster, lambda event: None) as executor:
        executor.warm()
        seconds = scene.search(executor, folder)
    if (folder / "journal.jsonl").read_bytes() != (recorded / "journal.jsonl").read_bytes():
        raise Failed("bench: the journal on Ray is not the one in process")
    return seconds


def _bare_pair(place: Place, askings) -> float:
    """Seconds until two processes that share nothing have answered every other question each."""
    context = multiprocessing.get_context("spawn")
    barrier, ends = context.Barrier(3), context.Queue()
    halves = [[question for questions in askings for question in questions[half::2]] for half in (0, 1)]
    processes = [context.Process(target=_answer, args=(place, half, barrier, ends)) for half in halves]
    for process in processes:
        process.start()
    barrier.wait()
    began = time.perf_counter()
    for _ in processes:
        ends.get()
    seconds = time.perf_counter() - began
    for process in processes:
        process.join()
    return seconds


def _answer(place: Place, questions, barrier, ends) -> None:
    actor = Actor(open_bench(place))
    barrier.wait()
    for question in questions:
        actor.answer(question)
    ends.put(True)
