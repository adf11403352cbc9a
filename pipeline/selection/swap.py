"""Engine `swap`: local search on the quadratic from a greedy set (the drop-and-add search of OSSCAR, ICML 2024)."""

from dataclasses import replace

import torch

from pipeline.selection.elimination import backward, forward
from pipeline.selection.quadratic import Quadratic, refit, refit_error, ridged
from pipeline.selection.quota import Turns, groups_of

FIRST_SHARE = 0.1  # of the set, dropped and added at first; at least one of every group
LEAST_GAIN = 1e-9  # of T': what counts as a fall of the error


def swap(q: Quadratic, ridge: float, kept: list[int]) -> list[int]:
    """Drop the s cheapest, add the s best, keep that if the error of the re-fit falls, else halve s, down to single neurons.

    `ridge` > 0. What stays keeps its place, what is new comes behind it. Groups take turns in losing a neuron, and those
    that lost most get theirs back first: as many as before are kept in each.
    """

    def groups(neurons):
        return groups_of(neurons, q.width, q.groups)

    full = replace(ridged(q, ridge), precision=torch.finfo(q.gram.dtype).eps)  # the ridge keeps every direction
    error, size = refit_error(full, kept), max(q.groups, int(FIRST_SHARE * len(kept)))
    while size and 0 < len(kept) < q.width:
        ranked = backward(_inside(full, kept), 0.0, Turns(groups(kept)))
        rest = [kept[i] for i in sorted(pick.neuron for pick in ranked[: len(kept) - size])]
        outside = sorted(set(range(q.width)) - set(rest))
        added = forward(_given(full, rest, outside), 0.0, size, Turns(groups(outside), groups(rest)))
        new = rest + [outside[pick.neuron] for pick in added]
        new_error = refit_error(full, new)
        if error - new_error > LEAST_GAIN * full.total:
            kept, error = new, new_error
        else:
            size //= 2
    return kept


def _inside(full: Quadratic, kept: list[int]) -> Quadratic:
    """The quadratic of the kept neurons alone."""
    at = full.block(kept)
    return replace(full, gram=full.gram[at][:, at], cross=full.cross[:, at], weight=full.weight[:, at])


def _given(full: Quadratic, kept: list[int], others: list[int]) -> Quadratic:
    """What the others can still explain once the kept ones are there: Schur complements of G', C' and T'."""
    if not kept:
        return full
    at, rest = full.block(kept), full.block(others)
    between = full.gram[at][:, rest]
    solved = torch.linalg.solve(full.gram[at][:, at], between)
    weight = full.weight[:, rest]
    gram, cross = full.gram[rest][:, rest] - between.T @ solved, full.cross[:, rest] - full.cross[:, at] @ solved
    return replace(full, gram=gram, cross=cross, total=full.total - float((refit(full, kept) * full.cross[:, at]).sum()), weight=weight)
