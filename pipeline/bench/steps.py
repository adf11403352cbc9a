"""Steps of the paper's search, timed: all candidates by suffixes beside a full forward pass for each, and 50 candidates beside all."""

import copy
import time

import torch
from torch.nn import functional

from pipeline.bench.rows import Row
from pipeline.config.errors import Failed
from pipeline.networks.gates import gated
from pipeline.networks.shrink import Choice
from pipeline.search.actor import Actor, Bench
from pipeline.search.question import Question
from pipeline.selection.counts import coefficients

BLOCK = 8  # candidates asked at once
SMALL = 200  # neurons of the widest unit whose steps are searched in full


def exhaustive_row(scene) -> Row:
    """First steps of every unit: ours is what comes before the unit once, then the suffixes of all candidates.

    Of each unit one block of candidates is timed and stands for all its blocks; the reference is one full forward pass for
    each candidate. Raises Failed unless both give these candidates the same losses and the same pick.
    """
    bench, images, ours, reference, evaluations = _step_bench(scene), scene.size.step, 0.0, 0.0, 0
    actor = Actor(bench)
    for unit in bench.units.units.values():
        block = tuple(range(min(BLOCK, unit.width)))
        first, losses = _ask(actor, unit, images, block)
        again, _ = _ask(actor, unit, images, block)
        blocks = unit.width / len(block)
        ours += max(first - again, 0.0) + blocks * again
        seconds, expected = _full_passes(bench, unit, block)
        reference += blocks * seconds
        evaluations += unit.width
        _compare(unit, losses, expected)
    detail = scene.detail(images, positions=None, block=BLOCK, evaluations=evaluations, units=len(bench.units.units))
    return Row(f"loss.exhaustive/{scene.name}", ours, reference, "a full forward of the network per candidate, same picks", "s", detail)


def stochastic_row(scene) -> Row:
    """First steps of one unit of each width up to 200: 50 candidates beside all of them, and the loss that each reaches."""
    bench, images = _step_bench(scene), scene.size.step
    narrow = {unit.width: unit for unit in bench.units.units.values() if unit.width <= SMALL}
    actor, ours, reference, reached, count = Actor(bench), 0.0, 0.0, {"all": 0.0, "fifty": 0.0}, 0
    for unit in narrow.values():
        every = list(range(unit.width))
        some = sorted(torch.randperm(unit.width, generator=torch.Generator().manual_seed(0))[:50].tolist())
        for name, candidates in (("all", every), ("fifty", some)):
            actor.prefix = None
            began, best = time.perf_counter(), float("inf")
            for start in range(0, len(candidates), BLOCK):
                best = min(best, float(_ask(actor, unit, images, tuple(candidates[start : start + BLOCK]))[1].min()))
            seconds = time.perf_counter() - began
            reached[name] += best
            ours, reference = (ours + seconds, reference) if name == "fifty" else (ours, reference + seconds)
        count += 1
    detail = scene.detail(images, positions=None, units=count, loss_all=reached["all"] / count, loss_fifty=reached["fifty"] / count)
    return Row(f"loss.stochastic/{scene.name}", ours, reference, "loss.exhaustive on the same steps", "s", detail)


def _step_bench(scene) -> Bench:
    """The scene's bench with a step's batch as its only block."""
    images = scene.size.step
    scoring = scene.bench.scoring.model_copy(update={"batch": images, "block_samples": images, "positions": None})
    stream = type(scene.bench.stream)(scene.bench.stream.images, scene.bench.stream.labels, images)
    return Bench(**vars(scene.bench) | {"scoring": scoring, "stream": stream})


def _ask(actor: Actor, unit, images: int, block) -> tuple[float, torch.Tensor]:
    began = time.perf_counter()
    answer = actor.answer(Question("loss", (), unit.name, 0, (0, images), block))
    return time.perf_counter() - began, torch.from_numpy(answer.sums["loss"]) / answer.count


@torch.inference_mode()
def _full_passes(bench: Bench, unit, block) -> tuple[float, torch.Tensor]:
    """(seconds of a full forward pass for each candidate, their losses); the gates are set outside the clock."""
    network = copy.deepcopy(bench.network).to(memory_format=torch.channels_last)
    (batch,) = bench.stream.block(0, bench.scoring.batch)
    images = batch.images.to(bench.device, memory_format=torch.channels_last)
    losses, seconds = [], 0.0
    network(images)
    for neuron in block:
        kept, gates = coefficients([neuron], unit.width)
        candidate = gated(network, bench.units, {unit.name: Choice(tuple(kept), torch.tensor(gates, dtype=torch.float64))})
        began = time.perf_counter()
        logits = candidate(images)
        losses.append(float(functional.cross_entropy(logits.double(), batch.labels.to(bench.device))))
        seconds += time.perf_counter() - began
    return seconds, torch.tensor(losses, dtype=torch.float64)


def _compare(unit, losses: torch.Tensor, expected: torch.Tensor) -> None:
    close = torch.allclose(losses, expected, rtol=1e-4)
    best = int(losses.argmin())
    if not close or float(expected[best] - expected.min()) > 1e-4 * float(expected.min()):
        raise Failed(f"bench: unit {unit.name}: losses {losses.tolist()} by suffixes are not {expected.tolist()} by full passes")
