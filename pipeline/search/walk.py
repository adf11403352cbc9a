"""The sequential walk: dense and drifted activations of every sample block, held before the first reader of the unit at work.

Producers always run at full width and are sliced there when their unit is committed, so an actor that catches up
runs the same operations as one that was there all the time, and gives the same bytes.
"""

import copy
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from pipeline.networks.shrink import Choice, apply_choice, neuron_columns
from pipeline.networks.units import Unit
from pipeline.tensorfile import load_tensors, save_tensors

GIB = 2**30
SPILL = ".walk-"  # directories of activations on disk
ALIGNMENT = 64  # bytes; matrix products may round differently on memory that is aligned differently


@dataclass
class Held:
    """A sample block's live values: how many units the dense and the drifted ones have passed, and (dense, drifted, bytes) of each batch."""

    dense: int = 0
    drifted: int = 0
    batches: list[tuple] = field(default_factory=list)


class Walk:
    """Live values of both networks per sample block, moved forward from unit to unit; on disk past the memory limit."""

    def __init__(self, dense: nn.Module, bench):
        self.dense, self.bench, self.graph = dense, bench, bench.units.graph
        self.drifted = copy.deepcopy(dense)
        self.kept: dict[str, tuple[int, ...]] = {}
        self.order = list(bench.units.units.values())
        self.held: dict[tuple[int, int], Held] = {}
        self.spill: tempfile.TemporaryDirectory | None = None

    def commit(self, unit: str, choice: Choice) -> None:
        """Give the unit's readers their new columns."""
        apply_choice(self.drifted, self.bench.units.units[unit], choice, behind=True)
        self.kept[unit] = choice.kept

    def at(self, unit: str, samples: tuple[int, int]):
        """(dense values, drifted values) of each batch of a sample block at the unit's hold."""
        passed = [u.name for u in self.order].index(unit) + 1
        block = self.held.pop(samples, Held())
        if block.dense > passed:  # went ahead, and is asked once more
            block = Held()
        batches = _emptied(block.batches) if block.drifted else (self._begin(batch.images) for batch in self.bench.stream.block(*samples))
        moved = []
        for number, batch in enumerate(batches):
            dense, drifted = self._load(batch)
            dense = self._advance(self.dense, dense, block.dense, passed)
            drifted = self._advance(self.drifted, drifted, block.drifted, passed)
            yield dense, drifted
            moved.append(self._store(dense, drifted, samples, number, block.batches + moved))
        self.held[samples] = Held(passed, passed, moved)

    def go_ahead(self, samples: tuple[int, int]) -> None:
        """Move the dense values of a block one unit further while nothing else is to be done: they wait for no choice."""
        block = self.held.get(samples)
        if block is None or block.dense > block.drifted or block.dense == len(self.order) or any(isinstance(b[0], Path) for b in block.batches):
            return
        del self.held[samples]  # a block that does not come through is walked from its images again
        moved = []
        for number, (dense, drifted, _) in enumerate(_emptied(block.batches)):
            dense = self._advance(self.dense, dense, block.dense, block.dense + 1)
            moved.append(self._store(dense, drifted, samples, number, block.batches + moved))
        self.held[samples] = Held(block.dense + 1, block.drifted, moved)

    def _begin(self, images):
        images = images.to(self.bench.device)
        return self.graph.begin(images)[0], self.graph.begin(images)[0]

    def _advance(self, network, values, passed, target):
        """Values of one network from the hold of its latest unit (or the input) to the hold of the `target`-th unit."""
        for position in range(passed, target):
            start = self.order[position - 1].hold if position else self.graph.index[self.graph.input] + 1
            if position and network is self.drifted:
                values = sliced(self.graph, values, self.order[position - 1], self.kept[self.order[position - 1].name])
            values = self.graph.run(network, values, start, self.order[position].hold)
            values = {node: in_one_layout(value) for node, value in values.items()}
        return values

    def _store(self, dense, drifted, samples, number, block):
        """The batch as it is kept: in memory, or a file once the memory limit is reached; `block` = what else its block holds."""
        sizes = [value.numel() * value.element_size() for values in (dense, drifted) for value in values.values()]
        held = sum(size for batches in (block, *(other.batches for other in self.held.values())) for *_, size in batches)
        if held + sum(sizes) <= self.bench.scoring.memory_limit * GIB:
            return dense, drifted, sum(sizes)
        self.spill = self.spill or tempfile.TemporaryDirectory(dir=self.bench.folder, prefix=SPILL)
        path = Path(self.spill.name) / f"{samples[0]}-{samples[1]}-{number}.safetensors"
        names = {node: str(self.graph.index[node]) for node in dense}
        save_tensors(path, {f"dense/{names[n]}": v for n, v in dense.items()} | {f"drifted/{names[n]}": v for n, v in drifted.items()})
        return path, None, 0

    def _load(self, batch):
        if not isinstance(batch[0], Path):
            return batch[0], batch[1]
        tensors, _ = load_tensors(batch[0])
        found: dict[str, dict] = {"dense": {}, "drifted": {}}
        for name, tensor in tensors.items():
            role, _, index = name.partition("/")
            found[role][self.graph.nodes[int(index)]] = in_one_layout(tensor.to(self.bench.device))
        return found["dense"], found["drifted"]


def sliced(graph, values: dict, unit: Unit, kept) -> dict:
    """The values at a unit's hold with only the kept neurons in what carries them, as they lie in the smaller network."""
    values, kept = dict(values), unit.laid(kept)
    for step, dimension in unit.carriers:
        value = values[graph.nodes[step]]
        picks = neuron_columns(kept, value.shape[dimension] // unit.width).to(value.device)
        values[graph.nodes[step]] = value.index_select(dimension, picks)
    return values


def _emptied(batches: list):
    """The batches, each let go of as the next is taken."""
    while batches:
        yield batches.pop(0)


def in_one_layout(value: torch.Tensor) -> torch.Tensor:
    """Maps with channels last, all else contiguous, aligned as fresh memory is: what was on disk then gives the bytes of what was not."""
    layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format
    strides = torch.empty_like(value, memory_format=layout, device="meta").stride()
    if value.stride() == strides and value.data_ptr() % ALIGNMENT == 0:
        return value
    return torch.empty_like(value, memory_format=layout).copy_(value)
