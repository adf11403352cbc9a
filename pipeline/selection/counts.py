"""Reference `paper` of selector `loss`: a multiset of picks, each neuron weighing N c_i / T (gfs: repeats, counts, 1/n)."""

from dataclasses import dataclass

import numpy as np

from pipeline.config.digests import draw


@dataclass(frozen=True)
class Trial:
    """Adding neuron k to a multiset of `picks` neurons: the output is keep x (sum so far) + add x (term of k)."""

    keep: float
    add: float


def trial(picks: int, width: int) -> Trial:
    """Coefficients of the step after `picks` picks: every old one shrinks by picks / (picks + 1), the new one is N / (picks + 1)."""
    return Trial(picks / (picks + 1), width / (picks + 1))


def coefficients(picks: list[int], width: int) -> tuple[list[int], list[float]]:
    """(distinct neurons in order of first pick, N c_i / T of each)."""
    kept = list(dict.fromkeys(picks))
    return kept, [width * picks.count(neuron) / len(picks) for neuron in kept]


def candidates(picks: list[int], width: int, max_picks: int, sample: int | None, name: tuple, closed=frozenset()) -> list[int]:
    """Ascending candidates of the next step: all N but the `closed`, only the unpicked after `max_picks`; `sample` of them
    drawn by `name`."""
    pool = sorted(set(range(width)) - set(closed))
    if len(picks) >= max_picks:
        pool = sorted(set(pool) - set(picks))
    if sample is not None and sample < len(pool):
        pool = sorted(int(i) for i in draw(*name).permutation(pool)[:sample])
    return pool


@dataclass(frozen=True)
class Best:
    """The winner of a step: neuron, mean loss, distance to the second best, candidates whose loss is not finite."""

    neuron: int
    score: float
    margin: float | None
    disqualified: list[int]


def best_candidate(neurons: list[int], losses: np.ndarray) -> Best | None:
    """The lowest finite loss, ties to the lowest index; None when no loss is finite."""
    finite = np.isfinite(losses)
    if not finite.any():
        return None
    ranked = sorted((float(loss), neuron) for neuron, loss in zip(neurons, losses) if np.isfinite(loss))
    margin = ranked[1][0] - ranked[0][0] if len(ranked) > 1 else None
    return Best(ranked[0][1], ranked[0][0], margin, [n for n, ok in zip(neurons, finite) if not ok])
