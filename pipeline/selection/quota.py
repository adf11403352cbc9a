"""Quotas: where grouped convs write or read the neurons, the same number is kept in every one of their equal groups.

Neurons are chosen, and taken away, in turns: every group gives one before any gives another. So the first n of an order
are a choice within the quota for every n that is a multiple of the number of groups.
"""

from collections import Counter

import torch


def groups_of(neurons, width: int, groups: int) -> list[int]:
    """The group that each of the neurons lies in: `width` neurons in equal runs, one behind the other."""
    return [neuron // (width // groups) for neuron in neurons]


def in_turns(order, width: int, groups: int) -> list[int]:
    """An order of neurons with every group's first one in front, then every group's second one, and so on."""
    seen, turns = Counter(), []
    for group in groups_of(order, width, groups):
        turns.append(seen[group])
        seen[group] += 1
    return [neuron for _, neuron in sorted(zip(turns, order), key=lambda pair: pair[0])]


def closed(picked, width: int, groups: int, kept: int) -> set[int]:
    """The unpicked neurons of groups that have all they get of `kept` neurons."""
    full = Counter(groups_of(set(picked), width, groups))
    every = zip(range(width), groups_of(range(width), width, groups))
    return {neuron for neuron, group in every if full[group] >= kept // groups} - set(picked)


def keeps_quota(kept, width: int, groups: int) -> bool:
    """Whether as many neurons are kept in every group."""
    counts = Counter(groups_of(kept, width, groups))
    return len({counts[group] for group in range(groups)}) == 1


class Turns:
    """Whose turn it is: neurons of the groups that have given fewest so far."""

    def __init__(self, groups: list[int], given=()):
        """`groups` (N,): where each neuron lies; `given`: where those lie that were taken before."""
        self.groups = torch.tensor(groups)
        self.given = torch.bincount(torch.tensor([*given], dtype=torch.long), minlength=max(groups) + 1)

    def mask(self) -> torch.Tensor:
        """The neurons whose turn it is: (N,)."""
        return (self.given == self.given.min())[self.groups]

    def take(self, neuron: int) -> None:
        self.given[self.groups[neuron]] += 1
