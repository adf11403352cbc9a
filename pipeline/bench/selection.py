"""`gfs bench selection`: searches beside the forward passes that they cannot do without, on timm networks at 224.

Weights and images are random: time does not hang on what they are. One machine, one process, the same threads throughout.
"""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from pipeline.bench.rows import Row
from pipeline.bench.split import Split
from pipeline.bench.steps import exhaustive_row, stochastic_row
from pipeline.bench.timed import Timed
from pipeline.config.rules import resolve_prune
from pipeline.config.settings import Prune, Scoring
from pipeline.data.streams import MemoryStream
from pipeline.journal import Journal
from pipeline.networks.shrink import apply_choices
from pipeline.networks.units import find_units, without_large
from pipeline.networks.zoo import blueprint, build
from pipeline.pruners.pruner import Job, dense_quadratics, order_of, prune_units
from pipeline.search.actor import Bench
from pipeline.search.artifacts import load_choice
from pipeline.search.coordinator import Coordinator
from pipeline.search.executor import InProcess
from pipeline.selection.quadratic import refit_error, ridged

NETWORKS = ("mobilenetv2_100", "resnet50")
SIDE, CLASSES = 224, 1000


@dataclass(frozen=True)
class Size:
    """How much is measured: images of a Gram pass and of a walk, positions per image in a Gram matrix, images of a step's batch."""

    images: int
    walked: int
    positions: int
    step: int


# What ends in about ten minutes on one core, with a walk that is held in 4 GiB; the more images, the less choosing weighs.
SIZES = {"resnet50": Size(1536, 384, 4, 4)}
SIZE = Size(2048, 768, 8, 8)  # of any other network
BATCHES = (8, 16, 32, 64)
FEW = 64  # images for choosing a batch size, and for the error that few positions add
NARROW = 600  # columns of the units on which that error is measured


@dataclass(frozen=True)
class Scene:
    """One network made ready: its dense forward pass is already timed at its best batch size."""

    name: str
    bench: Bench
    size: Size
    forward: float
    prune: Prune
    error: dict

    def coordinator(self, folder: Path, executor, images: int) -> Coordinator:
        folder.mkdir(parents=True)
        journal = Journal(folder / "journal.jsonl", lambda event: None)
        return Coordinator(executor, journal, folder, self.bench.scoring, images, lambda event: None)

    def detail(self, images: int, **more) -> dict:
        scoring = self.bench.scoring
        where = {"images": images, "side": self.bench.stream.images.shape[-1], "batch": scoring.batch, "threads": scoring.threads}
        return where | {"positions": scoring.positions, "device": self.bench.device.type} | more


def bench_selection(say, networks=NETWORKS, images: int | None = None) -> list[Row]:
    """Rows `reconstruction.independent`, `reconstruction.sequential`, `loss.exhaustive` and `loss.stochastic` of each network.

    `images`: of a Gram pass, and at most so many of a walk, else each network's own numbers.
    """
    rows = []
    for name in networks:
        with tempfile.TemporaryDirectory(prefix="gfs-bench-") as folder:
            size = SIZES.get(name, SIZE)
            size = replace(size, images=images, walked=min(images, size.walked)) if images else size
            scene = _scene(name, size, Path(folder))
            say(f"{name}: dense forward pass {scene.forward:.2f} s for {size.images} images at batch {scene.bench.scoring.batch}")
            for measure in (_independent, _sequential, exhaustive_row, stochastic_row):
                rows.append(measure(scene))
                say(f"{rows[-1].name}: {rows[-1].ours:.2f} s beside {rows[-1].reference:.2f} s")
    return rows


def _scene(name: str, size: Size, folder: Path) -> Scene:
    own = ":" in name
    side, channels, classes = (28, 1, 10) if own else (SIDE, 3, CLASSES)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = build(blueprint(name, classes, channels, side, {})).eval().to(device)
    pictures, labels = torch.randn(size.images, channels, side, side), torch.randint(classes, (size.images,))
    threads = torch.get_num_threads()
    batch = min(BATCHES, key=lambda size: _passes(network, pictures[:FEW], size, device))
    scoring = Scoring(batch=batch, block_samples=size.images, block_candidates=8, threads=threads, positions=size.positions)
    units = without_large(find_units(network), scoring.gram_limit)
    prune = resolve_prune(Prune(selector="reconstruction", allocation="uniform", calibration_samples=size.images), "gfs bench selection", "width")
    bench = Bench(network, units, MemoryStream(pictures, labels, batch), scoring, folder, device, 0)
    return Scene(name, bench, size, _passes(network, pictures, batch, device), prune, _added_error(bench, prune))


@torch.inference_mode()
def _passes(network: nn.Module, images: torch.Tensor, batch: int, device) -> float:
    """Seconds of one forward pass over the images, after a warm one over a single batch."""
    network = network.to(memory_format=torch.channels_last)
    parts = [part.contiguous(memory_format=torch.channels_last) for part in images.split(batch)]
    network(parts[0].to(device))
    _wait(device)
    began = time.perf_counter()
    for part in parts:
        network(part.to(device))
    _wait(device)
    return time.perf_counter() - began


def _wait(device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _independent(scene: Scene) -> Row:
    """One pass for all Gram matrices, then every unit's greedy order to half its width."""
    units = scene.bench.units
    coordinator = scene.coordinator(scene.bench.folder / "independent", InProcess(scene.bench), scene.size.images)
    with Split() as split:
        began = time.perf_counter()
        grams, _ = coordinator.dense_grams()
        passed = time.perf_counter() - began
        for name, quadratic in dense_quadratics(scene.bench.network, units, grams).items():
            order_of(scene.prune, quadratic, max(1, units.units[name].width // 2))
        seconds = time.perf_counter() - began
    detail = scene.detail(scene.size.images, **_parts(seconds, passed, split), **scene.error)
    return Row(f"reconstruction.independent/{scene.name}", seconds, scene.forward, "one dense forward pass over the same images", "s", detail)


def _sequential(scene: Scene) -> Row:
    """The walk to half of every unit's neurons, beside a dense forward pass and one of the network that it gives."""
    bench, folder, images = scene.bench, scene.bench.folder / "sequential", scene.size.walked
    widths = {name: unit.groups * max(1, unit.width // unit.groups // 2) for name, unit in bench.units.units.items()}
    executor = Timed(InProcess(Bench(**vars(bench) | {"folder": folder})))
    coordinator = scene.coordinator(folder, executor, images)
    with Split() as split:
        began = time.perf_counter()
        prune_units(Job(bench.network, bench.units, widths, scene.prune, 0), coordinator)
        seconds = time.perf_counter() - began
    coordinator.journal.close()
    shrunk = build(blueprint(scene.name, *_classes(bench), {})).eval().to(bench.device)
    apply_choices(shrunk, bench.units.units, {commit.unit: load_choice(folder, commit) for commit in coordinator.committed})
    pictures = bench.stream.images[:images]
    reference = sum(_passes(network, pictures, bench.scoring.batch, bench.device) for network in (bench.network, shrunk))
    detail = scene.detail(images, memory_limit=bench.scoring.memory_limit, **_parts(seconds, executor.seconds, split), **scene.error)
    what = "a dense and a shrunk forward pass over the same images"
    return Row(f"reconstruction.sequential/{scene.name}", seconds, reference, what, "s", detail)


def _parts(seconds: float, passed: float, split: Split) -> dict:
    """What the seconds are made of: those of the passes, split further, and those of choosing."""
    return {"passes": passed, "choosing": seconds - passed} | {f"passes_{part}": value for part, value in split.seconds.items()}


def _classes(bench: Bench) -> tuple[int, int, int]:
    """(classes, channels, side) of the scene's network."""
    _, channels, side, _ = bench.stream.images.shape
    return (10 if channels == 1 else CLASSES), channels, side


def _added_error(bench: Bench, prune: Prune) -> dict:
    """By how much the objective of half the neurons rises when they are chosen from few positions, on narrow units: mean and largest.

    The objective, error(S) / T', is that of all positions for both sets; the images are the first few, so the rise is that
    of fewer rows than a whole pass sums.
    """
    narrow = {name: unit for name, unit in bench.units.units.items() if unit.width * unit.columns <= NARROW}
    stream = MemoryStream(bench.stream.images[:FEW], bench.stream.labels[:FEW], bench.scoring.batch)
    units = type(bench.units)(bench.units.graph, narrow, {}, ())
    quadratics = []
    for positions in (None, bench.scoring.positions):
        scoring = bench.scoring.model_copy(update={"positions": positions, "block_samples": FEW})
        few = Bench(bench.network, units, stream, scoring, bench.folder, bench.device, 0)
        grams, _ = Coordinator(InProcess(few), None, bench.folder, scoring, len(stream.images), lambda event: None).dense_grams()
        quadratics.append(dense_quadratics(bench.network, units, grams))
    rises = []
    for name, unit in narrow.items():
        half, whole = max(1, unit.width // 2), ridged(quadratics[0][name], prune.ridge)
        chosen = [[pick.neuron for pick in order_of(prune, each[name], half)] for each in quadratics]
        full, few = (refit_error(whole, kept) / whole.total for kept in chosen)
        rises.append(few - full)
    found = {"error_added_mean": sum(rises) / len(rises), "error_added_most": max(rises)}
    return found | {"error_units": len(rises), "error_images": len(stream.images)}
