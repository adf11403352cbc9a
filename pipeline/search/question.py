"""The one idea: the coordinator asks about a frozen network, an actor answers with float64 sums and a count."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Commit:
    """A committed unit as the journal names it: kept neurons, and the artifact with their coefficients or weights."""

    unit: str
    kept: tuple[int, ...]
    artifact: str | None
    sha256: str | None


@dataclass(frozen=True)
class Question:
    """One statistic of one sample block (and candidate block), in the network as the commits left it; `tried` = each alone."""

    statistic: str
    committed: tuple[Commit, ...]
    unit: str | None
    step: int
    samples: tuple[int, int]
    candidates: tuple[int, ...] = ()
    picks: tuple[int, ...] = ()
    tried: tuple[Commit, ...] = ()


@dataclass(frozen=True)
class Answer:
    """{name: float64 sum} over `count` samples. Answers of one question are equal to the byte, so a second one is ignored."""

    sums: dict[str, np.ndarray]
    count: int


def add(answers) -> Answer:
    """The sum of answers in the order they are given, which is block order."""
    total, count = {}, 0
    for answer in answers:
        for name, value in answer.sums.items():
            if name in total:
                total[name] += value
            else:
                total[name] = value.copy()
        count += answer.count
    return Answer(total, count)


def blocks(start: int, stop: int, size: int) -> list[tuple[int, int]]:
    """start..stop-1 in runs of `size`; a hashed setting, never derived from the number of workers."""
    return [(first, min(first + size, stop)) for first in range(start, stop, size)]
