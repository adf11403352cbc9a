"""Grouped convs: what they ask of the neurons that they write or read, and their weights as those of ordinary layers.

A smaller grouped conv has as many groups as before, so each of them loses as many neurons.
"""

import math

import torch
from torch import nn

from pipeline.networks.groups import Group


def groups_in(network: nn.Module, path: str) -> int:
    """Into how many groups a layer parts what it reads and writes."""
    return getattr(network.get_submodule(path), "groups", 1)


def quota_groups(network: nn.Module, channels: Group) -> tuple[int, str]:
    """(of how many equal groups of the channels as many must be kept, the layer that parts them most).

    Where several convs part them otherwise, groups so short that each lies in one group of every conv.
    """
    layers = [*channels.producers, *channels.excites, *(path for path, *_ in (*channels.consumers, *channels.squeezes))]
    groups = {path: groups_in(network, path) for path in layers}
    return math.lcm(*groups.values()), max(groups, key=groups.get, default="")


def spread(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """(M, N / g x K) as (M, N K), zero outside an output's own group."""
    if groups == 1:
        return weight
    outputs, columns = len(weight) // groups, weight.shape[1]
    whole = weight.new_zeros(groups, outputs, groups, columns)
    every = torch.arange(groups)
    whole[every, :, every] = weight.view(groups, outputs, columns)
    return whole.view(len(weight), -1)


def packed(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """The way back, (M, N K) as (M, N / g x K): what lies outside an output's own group is left out."""
    if groups == 1:
        return weight
    every = torch.arange(groups)
    return weight.reshape(groups, len(weight) // groups, groups, -1)[every, :, every].flatten(0, 1)


def products(left: torch.Tensor, right: torch.Tensor, groups: int) -> torch.Tensor:
    """left^T right of rows (R, A) and (R, B): (A, B), of a grouped conv within each of its groups (g, A / g, B / g)."""
    if groups == 1:
        return left.T @ right
    left, right = (rows.reshape(len(rows), groups, -1).transpose(0, 1) for rows in (left, right))
    return left.transpose(1, 2) @ right
