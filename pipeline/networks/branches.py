"""Residual branches: found where they are added to their stream, and the module that adds a narrower one into a slice of it."""

from dataclasses import dataclass

import torch
from torch import nn

from pipeline.networks.groups import Flow


@dataclass(frozen=True)
class Branch:
    """The output of a residual branch: the layer that writes it, the norms behind it, its width, why it must stay whole or None."""

    producer: str
    followers: tuple[str, ...]
    width: int
    fault: str | None

    @property
    def last(self) -> str:
        """The layer behind which a narrower branch is placed into its stream."""
        return (self.producer, *self.followers)[-1]


def branch_of(first: Flow, second: Flow, join, flows: dict) -> Branch | None:
    """The branch of a residual sum `join` (its step), before its two sources become one stream; None for a sum of another kind.

    A branch is written by one layer and read by nothing but the sum. Where both sources are, as beside a projected shortcut,
    it is the first one.
    """
    if first.group is second.group:
        return None
    for flow in (first, second):
        group = flow.group
        steps = [node for node, other in flows.items() if other.group is group]
        alone = all(user is join or user in steps for node in steps for user in node.users)
        if alone and len(group.producers) == 1 and not (group.joins or group.consumers or group.sources):
            return Branch(group.producers[0], tuple(group.followers), group.width, _fault(group))
    return None


def _fault(group) -> str | None:
    if group.unsupported:
        return f"{group.unsupported[0][1]} at {group.unsupported[0][0]} acts on it"
    if group.active or group.excites or group.squeezes:
        return "an activation lies between its producer and its stream"
    return None


class Placed(nn.Module):
    """The layer that ends a branch of few channels, its output put into the stream's `width` at `kept`; zero everywhere else.

    Input as the layer's; output (B, width, H, W), or (..., width) for layers whose channels come last.
    """

    def __init__(self, layer: nn.Module, kept: torch.Tensor, width: int, dimension: int):
        super().__init__()
        self.layer, self.width, self.dimension = layer, width, dimension
        place = torch.full((width,), len(kept))
        place[kept] = torch.arange(len(kept))
        self.register_buffer("place", place.to(next(layer.parameters()).device), persistent=False)  # arch.json says what is kept

    def forward(self, values):
        values = self.layer(values)
        zeros = torch.zeros_like(values.narrow(self.dimension, 0, 1))
        return torch.cat([values, zeros], self.dimension).index_select(self.dimension, self.place)


def place(network: nn.Module, path: str, kept: torch.Tensor, width: int, dimension: int) -> None:
    """Put a narrower branch's last layer into its place, in the network itself."""
    owner, _, name = path.rpartition(".")
    setattr(network.get_submodule(owner), name, Placed(network.get_submodule(path), kept, width, dimension))
