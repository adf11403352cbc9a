"""A pruner at work: {selector, refit, allocation} put together, unit after unit, from input to output."""

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.config.errors import BadInput, Failed
from pipeline.config.settings import Prune
from pipeline.networks.shrink import Choice, consumer_columns, reader_columns
from pipeline.networks.units import Unit, Units
from pipeline.search.coordinator import Coordinator
from pipeline.search.statistics import numbered
from pipeline.selection.counts import best_candidate, candidates, coefficients
from pipeline.selection.elimination import Pick, backward, forward
from pipeline.selection.guarantee import explained_share
from pipeline.selection.joint import join, separate
from pipeline.selection.quadratic import Quadratic, as_blocks, centred, from_dense, intercept, refit, ridged
from pipeline.selection.quota import closed, in_turns
from pipeline.selection.scored import bn_scores, falling, l1_scores, l2_scores, random_order
from pipeline.selection.swap import swap


SCORES = {"l1": l1_scores, "l2": l2_scores}


@dataclass(frozen=True)
class Measured:
    """What mode independent measured in the dense network: each unit's quadratic, and its order where it was searched."""

    quadratics: dict[str, Quadratic]
    orders: dict[str, list[Pick]]


@dataclass(frozen=True)
class Job:
    """What is to be pruned: the dense network, its units, the widths, the pruner, the run's seed.

    `measured`: None in mode sequential. `scores`: {unit: (N,)} of a criterion of Torch-Pruning, `shipped`: the neurons that
    this library keeps, else None.
    """

    network: nn.Module
    units: Units
    widths: dict[str, int]
    prune: Prune
    seed: int
    measured: Measured | None = None
    scores: dict[str, torch.Tensor] | None = None
    shipped: dict[str, list[int]] | None = None


def dense_quadratics(network: nn.Module, units: Units, grams: dict[str, torch.Tensor], sums: dict | None = None) -> dict[str, Quadratic]:
    """The quadratics of units measured in the dense network: {unit: Quadratic}; with the sums (NK + 1,) of each about its means.

    `grams`, `sums`: those of `Coordinator.dense_grams`.
    """
    return {name: _dense_quadratic(network, unit, grams, sums) for name, unit in units.units.items()}


def _dense_quadratic(network: nn.Module, unit: Unit, grams: dict, sums: dict | None) -> Quadratic:
    parts = []
    for i, reader in enumerate(unit.consumers):
        weight, name = reader_columns(network, reader), numbered(unit.name, i)
        gram = as_blocks(grams[name].clone())  # memory of torch's own alignment: the same bytes wherever it came from
        found = from_dense(gram, weight.double().cpu(), reader.columns, torch.finfo(weight.dtype).eps)
        parts.append(found if sums is None else centred(found, sums[name], found.weight @ sums[name][:-1].clone(), reader.groups))
    return replace(join(parts), groups=unit.groups)


def prune_units(job: Job, coordinator: Coordinator) -> None:
    """Choose and commit every unit of the job; what the journal already holds is replayed, not computed again.

    Neurons are chosen by what the consumer reads while the unit is whole. In mode sequential a unit with squeeze-excite is
    measured once more for its re-fit, with the others gone; in mode independent, and for curves, it is re-fitted as chosen.
    """
    for number, unit in enumerate(job.units.units.values()):
        picks, choice = coordinator.replayed(unit.name)
        if choice is None:
            _prune_unit(job, coordinator, unit, picks)
        else:
            coordinator.batches += len(picks) if job.prune.selector == "loss" else 0
        coordinator.observe({"event": "unit", "unit": unit.name, "done": number + 1, "total": len(job.units.units), "unit_name": "units"})


def _prune_unit(job: Job, coordinator: Coordinator, unit: Unit, replayed: list[dict]) -> None:
    width, prune = job.widths[unit.name], job.prune
    if prune.selector == "loss":
        picks, reason = _loss_picks(job, coordinator, unit, replayed)
        kept, gates = coefficients(picks, unit.width)
        quadratic = _quadratic(job, coordinator, unit) if prune.refit != "none" else None
        lines = []
    else:
        needed = prune.selector == "reconstruction" or prune.refit != "none"
        quadratic = _quadratic(job, coordinator, unit) if needed else None
        found = order(job, unit, quadratic, width)
        lines = [_pick_line(unit, step, pick) for step, pick in enumerate(found) if isinstance(pick, Pick)]
        kept = [pick.neuron if isinstance(pick, Pick) else pick for pick in found]
        if prune.engine == "swap":
            kept = swap(quadratic, prune.ridge, kept)
        gates, reason = None, "width reached"
    if quadratic is None or prune.refit == "none":
        choice = Choice(tuple(kept), None if gates is None else torch.tensor(gates, dtype=torch.float64))
        return coordinator.commit(unit.name, choice, reason, None, lines)
    share = explained_share(quadratic, prune.ridge, kept)
    if unit.squeezes and job.measured is None:
        left = coordinator.quadratic(unit, _weights(job, unit), tuple(kept), prune.refit == "affine")
        choice = refitted(job, unit, ridged(left, prune.ridge), kept, [unit.laid(kept).index(neuron) for neuron in kept])
    else:
        choice = refitted(job, unit, ridged(quadratic, prune.ridge), kept, kept)
    coordinator.commit(unit.name, choice, reason, share, lines)


def refitted(job: Job, unit: Unit, full: Quadratic, kept, at) -> Choice:
    """The kept neurons with every consumer re-fitted, about means with an intercept; `at`: where they are in the ridged quadratic."""
    dtype = consumer_columns(job.network, unit).dtype
    weight, *further = weights = [part.to(dtype) for part in separate(full, refit(full, at))]
    parts = zip(full.means, unit.consumers, weights)
    added = tuple(intercept(means, reader.columns, at, one.double()).to(dtype) for means, reader, one in parts)
    return Choice(tuple(kept), weight=weight, further=tuple(further), intercepts=added)


def _quadratic(job, coordinator, unit) -> Quadratic:
    if job.measured is not None:
        return job.measured.quadratics[unit.name]
    return coordinator.quadratic(unit, _weights(job, unit), centre=job.prune.refit == "affine")


def _weights(job: Job, unit: Unit) -> list[torch.Tensor]:
    return [reader_columns(job.network, reader) for reader in unit.consumers]


def order(job: Job, unit: Unit, quadratic: Quadratic | None, width: int) -> list:
    """The first `width` neurons: Picks of a selector that searches, plain indices of one that does not."""
    selector = job.prune.selector
    if job.shipped is not None:
        return job.shipped[unit.name]
    if selector == "reconstruction":
        if job.measured is not None and unit.name in job.measured.orders:
            return job.measured.orders[unit.name][:width]
        return order_of(job.prune, quadratic, width)
    if selector == "random":
        return in_turns(random_order(unit.width, job.seed, unit.name), unit.width, unit.groups)[:width]
    return in_turns(falling(scores(job, unit)), unit.width, unit.groups)[:width]


def scores(job: Job, unit: Unit) -> torch.Tensor:
    """What a scored selector gives each neuron of a unit (N,), summed over all that write it: the higher the better."""
    if job.scores is not None:
        return job.scores[unit.name]
    if job.prune.selector == "bn":
        return sum(bn_scores(norm.weight) for norm in _batch_norms(job.network, unit))
    return sum(SCORES[job.prune.selector](job.network.get_submodule(path).weight) for path in unit.producers)


def order_of(prune: Prune, quadratic: Quadratic, width: int | None = None) -> list[Pick]:
    """The greedy order of the engine; `swap` starts from the one of `backward`."""
    if prune.engine == "forward":
        return forward(quadratic, prune.ridge, width)
    return backward(quadratic, prune.ridge)[:width]


def _batch_norms(network: nn.Module, unit: Unit) -> list[nn.Module]:
    """The first batch norm behind the unit's producer, of a stream all of them. Raises BadInput where there is none with a scale."""
    found = [network.get_submodule(path) for path in unit.followers]
    found = [module for module in found if isinstance(module, _BatchNorm) and module.weight is not None]
    if found:
        return found if unit.kind == "stream" else found[:1]
    raise BadInput(f"unit {unit.name}: prune.selector 'bn' needs a batch norm with a scale behind its producer; choose another selector")


def _pick_line(unit: Unit, step: int, pick: Pick) -> dict:
    return {"kind": "pick", "unit": unit.name, "step": step, **vars(pick)}


def _loss_picks(job: Job, coordinator: Coordinator, unit: Unit, replayed: list[dict]) -> tuple[list[int], str]:
    """The paper's search of one unit, reference `paper`: repeats allowed, each pick committed before the next is asked for."""
    prune, width = job.prune, job.widths[unit.name]
    limit = prune.max_picks or 4 * width
    sample = prune.candidates if prune.engine == "stochastic" else None
    picks = [line["neuron"] for line in replayed]
    coordinator.journal.commit(*replayed)
    coordinator.batches += len(replayed)
    while len(set(picks)) < width:
        step = len(picks)
        outside = closed(picks, unit.width, unit.groups, width)
        tried = candidates(picks, unit.width, limit, sample, ("candidates", job.seed, unit.name, step), outside)
        best = best_candidate(tried, coordinator.losses(unit.name, step, tried, picks))
        if best is None:
            raise Failed(f"unit {unit.name}, step {step}: the loss of every candidate is not finite; check the weights and the images")
        line = {"kind": "pick", "unit": unit.name, "step": step, "neuron": best.neuron, "score": best.score, "margin": best.margin}
        line |= {"candidates": len(tried)} | ({"disqualified": best.disqualified} if best.disqualified else {})
        coordinator.journal.commit(line)
        coordinator.next_batch()
        picks.append(best.neuron)
        coordinator.observe({"event": "pick", "unit": unit.name, "step": step, "score": best.score, "done": len(set(picks)), "total": width})
    return picks, "width reached" if len(picks) <= limit else f"max_picks {limit} reached, then only unpicked neurons"
