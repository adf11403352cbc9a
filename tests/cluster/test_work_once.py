"""Work that is done once: images decoded, prefixes computed. Answers that wait: no more of them than is said."""

import os
import re
import threading
from collections import Counter
from pathlib import Path

import pytest

from pipeline.config.settings import Cluster
from tests.cluster import wide
from tests.cluster.conftest import QUIET, TINY
from tests.cluster.searches import search
from tests.conftest import ROOT, run_gfs

CALIBRATION, BATCH, BLOCKS = 512, 64, 4  # samples and blocks of samples, as configs/tiny.yaml has them
ANSWER = wide.WIDTH**2 * 8  # bytes


class Counted:
    """Each image decoded and each batch of a prefix computed in a worker adds a line to a file."""

    def __init__(self, file: Path):
        self.file, self.counts = str(file), False

    def __call__(self, number, question):
        if not self.counts:
            self.counts = True
            self._count(number)
        self.question = question

    def _count(self, number):
        from pipeline.data import streams
        from pipeline.search import statistics

        decode, prefix = streams.evaluation_image, statistics._prefix
        file = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

        def evaluation_image(split, i, preprocess):
            os.write(file, f"image {number} {self.question.unit} {self.question.step} {i}\n".encode())
            return decode(split, i, preprocess)

        def _prefix(actor, unit, picks, batch):
            os.write(file, f"prefix {number} {unit.name} {self.question.step} {len(batch.labels)}\n".encode())
            return prefix(actor, unit, picks, batch)

        streams.evaluation_image, statistics._prefix = evaluation_image, _prefix


def lines(file: Path) -> list[tuple]:
    return [tuple(line.split()) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("pruner", ["reconstruction-sequential", "reconstruction-independent"])
def test_an_image_is_decoded_once_for_all_gram_passes_of_a_walk(prepared, ray_of_four, tmp_path, pruner):
    counted = tmp_path / "counted"
    journal, seen = search(prepared, tmp_path / "search", pruner, Cluster(workers=2), Counted(counted), warm=True)
    assert all(event["ignored"] == event["lost"] == 0 for event in seen if event["event"] == "shares")
    decoded = Counter((line[1], line[-1]) for line in lines(counted))
    assert set(decoded.values()) == {1}, "no worker decodes an image twice"
    assert len({image for _, image in decoded}) == CALIBRATION
    assert len(decoded) - CALIBRATION in (0, CALIBRATION // BLOCKS), "a block moves once, to a worker that has two less than the other"
    assert len({worker for worker, _ in decoded}) == 2, "both workers decoded"


def test_a_step_decodes_its_images_and_computes_its_prefix_once_on_each_worker(prepared, ray_of_four, tmp_path):
    counted = tmp_path / "counted"
    _, seen = search(prepared, tmp_path / "search", "loss", Cluster(workers=2), Counted(counted), warm=True)
    steps = [event for event in seen if event["event"] == "answer" and event["done"] == event["total"]]
    images, prefixes = Counter(), Counter()
    for kind, worker, unit, step, last in lines(counted):
        if kind == "image":
            images[worker, unit, step] += 1
        else:
            prefixes[worker, unit, step] += int(last)
    assert images == prefixes and set(images.values()) == {BATCH}
    assert len({worker for worker, _, _ in images}) == 2 and len({(unit, step) for _, unit, step in images}) == len(steps)


def anonymous() -> int:
    """Bytes of this process that no other shares."""
    return int(re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def in_the_store(ray) -> float:
    """Bytes that objects take in the object store of this machine, as of a moment ago."""
    return ray.cluster_resources()["object_store_memory"] - ray.available_resources()["object_store_memory"]


@pytest.mark.slow
def test_answers_of_50_mb_do_not_pile_up_at_a_slow_coordinator(ray_of_four, tmp_path):
    """16 answers of 50 MB: 800 MB if they did. Stated: 2 x workers in the store, one beside the sum in the coordinator."""
    runs, size = tmp_path / "runs", ("network.model=tests.cluster.wide:build", "dense.epochs=1", "scoring.block_samples=32")
    done = run_gfs("run", "-c", TINY, f"runs_dir={runs}", "--until", "dense", *QUIET, *size, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    store, own, ended = [], [], threading.Event()

    def look():
        while not ended.wait(0.02):
            own.append(anonymous())

    def watch(event):  # a coordinator that is slower than its workers
        if event["event"] == "answer":
            ended.wait(1.0)
            store.append(in_the_store(ray_of_four))

    looking = threading.Thread(target=look)
    before = anonymous()
    looking.start()
    try:
        search(runs, tmp_path / "search", "reconstruction-independent", Cluster(workers=2), watch=watch, warm=True, overrides=size)
    finally:
        ended.set()
        looking.join()
    most, grown = max(store) / ANSWER, (max(own) - before) / ANSWER
    print(f"answers in the store at most {most:.1f}, in the coordinator {grown:.1f}, each {ANSWER / 1e6:.0f} MB")
    assert len(store) == 16 and 2 <= most <= 4.5
    assert grown <= 2.5
