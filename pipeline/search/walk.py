"""The sequential walk: dense and drifted activations of every sample block, held at the cut before the unit at work.

Producers always run at full width and are sliced at the cut when their unit is committed, so an actor that catches up
runs the same operations as one that was there all the time, and gives the same bytes.
"""

import copy
import tempfile
from pathlib import Path

import torch
from torch import nn

from pipeline.networks.shrink import neuron_columns
from pipeline.tensorfile import load_tensors, save_tensors

GIB = 2**30


class Walk:
    """Live values of both networks per sample block, moved forward from unit to unit; on disk past the memory limit."""

    def __init__(self, dense: nn.Module, bench):
        self.dense, self.bench, self.graph = dense, bench, bench.units.graph
        self.drifted = copy.deepcopy(dense)
        self.kept: dict[str, tuple[int, ...]] = {}
        self.held: dict[tuple, tuple] = {}  # block -> (units walked, [(dense values, drifted values) per batch])
        self.spill: tempfile.TemporaryDirectory | None = None

    def commit(self, unit: str, kept: tuple[int, ...], columns: torch.Tensor) -> None:
        """Give the unit's consumer its new columns."""
        consumer = self.drifted.get_submodule(self.bench.units.units[unit].consumer)
        taps = () if isinstance(consumer, nn.Linear) else consumer.kernel_size
        weight = columns.unflatten(1, (len(kept), *taps)) if taps else columns
        consumer.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last) if taps else weight.contiguous(), requires_grad=False)
        if taps:
            consumer.in_channels = len(kept)
        else:
            consumer.in_features = columns.shape[1]
        self.kept[unit] = kept

    def at(self, unit: str, samples: tuple[int, int]):
        """(dense values, drifted values) of each batch of a sample block at the unit's cut."""
        walked, batches = self.held.pop(samples, (0, None))
        if batches is None:
            batches = (self._begin(batch.images) for batch in self.bench.stream.block(*samples))
        order = list(self.bench.units.units.values())
        target = [u.name for u in order].index(unit)
        moved = []
        for number, batch in enumerate(batches):
            dense, drifted = self._load(batch)
            at = walked
            while at <= target:
                dense, drifted = self._advance(dense, drifted, order, at)
                at += 1
            yield dense, drifted
            moved.append(self._store(dense, drifted, samples, number))
        self.held[samples] = (target + 1, moved)

    def _begin(self, images):
        values, _ = self.graph.begin(images.to(self.bench.device))
        return values, dict(values)

    def _advance(self, dense, drifted, order, position):
        """From the cut of the unit before `position` (or the input) to the cut of unit `position`."""
        start = order[position - 1].cut if position else self.graph.index[self.graph.input] + 1
        if position:
            drifted = self._slice(drifted, order[position - 1])
        stop = order[position].cut
        return self.graph.run(self.dense, dense, start, stop), self.graph.run(self.drifted, drifted, start, stop)

    def _slice(self, values, unit):
        """Leave only the kept neurons in the input of a committed unit's consumer."""
        node = self.graph.nodes[unit.cut].args[0]
        consumer, kept = self.drifted.get_submodule(unit.consumer), self.kept[unit.name]
        dimension = -1 if isinstance(consumer, nn.Linear) else 1
        picks = neuron_columns(kept, unit.columns if dimension == -1 else 1).to(values[node].device)
        return values | {node: values[node].index_select(dimension, picks)}

    def _store(self, dense, drifted, samples, number):
        """The batch as it is kept: in memory, or a file once the memory limit is reached."""
        sizes = [value.numel() * value.element_size() for values in (dense, drifted) for value in values.values()]
        held = sum(size for _, batches in self.held.values() for *_, size in batches)
        if held + sum(sizes) <= self.bench.scoring.memory_limit * GIB:
            return dense, drifted, sum(sizes)
        self.spill = self.spill or tempfile.TemporaryDirectory(dir=self.bench.folder, prefix=".walk-")
        path = Path(self.spill.name) / f"{samples[0]}-{number}.safetensors"
        names = {node: str(self.graph.index[node]) for node in dense}
        save_tensors(path, {f"dense/{names[n]}": v for n, v in dense.items()} | {f"drifted/{names[n]}": v for n, v in drifted.items()})
        return path, None, 0

    def _load(self, batch):
        if not isinstance(batch[0], Path):
            return batch[0], batch[1]
        tensors, _ = load_tensors(batch[0])
        device = self.bench.device

        def values(role):
            found = {self.graph.nodes[int(name.partition("/")[2])]: tensor for name, tensor in tensors.items() if name.startswith(role)}
            return {n: t.to(device).contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t.to(device) for n, t in found.items()}

        return values("dense"), values("drifted")
