"""The second pass: every layer of a shrunk network, producers too, re-fitted once more to what it gives in the dense one.

A search re-fits the readers of one unit after the other. This pass goes from input to output over all layers: each is fitted to
the dense layer's output, of the outputs that are left, on what the shrunk network now gives it to read.
"""

from dataclasses import dataclass

import torch
from torch import fx, nn

from pipeline.config.settings import Scoring
from pipeline.networks.follow import LINEARS, used_elsewhere
from pipeline.networks.graph import copied
from pipeline.networks.units import Units
from pipeline.search.columns import input_columns
from pipeline.search.computing import compute_exactly, within_memory
from pipeline.search.positions import positions_read
from pipeline.search.products import Products
from pipeline.search.walk import GIB, in_one_layout
from pipeline.selection.quadratic import Quadratic, refit, ridged


@dataclass(frozen=True)
class Layer:
    """A layer to be re-fitted: its path, its step in the graph, the step it reads, which of its dense outputs are left (None = all)."""

    path: str
    step: int
    reads: fx.Node
    left: tuple[int, ...] | None


@dataclass(frozen=True)
class Samples:
    """What a pass reads: the first `count` images of a stream, the seed that positions are drawn by, where it computes."""

    stream: object
    count: int
    seed: int | None
    device: torch.device


def layers_of(units: Units, network: nn.Module, kept: dict[str, tuple[int, ...]], limit: int) -> list[Layer]:
    """All conv and linear layers of `network` that run once and read at most `limit` columns, in their order.

    Grouped convs, kinds with a forward of their own, and layers whose weights are used elsewhere too stay as they are.
    """
    left = {}
    for name, neurons in kept.items():
        unit = units.units[name]
        left |= dict.fromkeys((*unit.producers, *unit.excites), unit.laid(neurons))
    steps = [(i, node) for i, node in enumerate(units.graph.nodes) if node.op == "call_module"]
    fixed = used_elsewhere(network, units.graph)
    found = [(i, node) for i, node in steps if node.target not in fixed and _is_fitted(network.get_submodule(node.target), limit)]
    return [Layer(node.target, i, node.all_input_nodes[0], left.get(node.target)) for i, node in found]


def _is_fitted(module: nn.Module, limit: int) -> bool:
    if type(module) not in (*LINEARS, nn.Conv2d) or module.weight[0].numel() > limit:
        return False
    return type(module) in LINEARS or (module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str))


@torch.inference_mode()
def refit_layers(dense: nn.Module, shrunk: nn.Module, units: Units, kept, samples: Samples, ridge: float, scoring: Scoring, observe) -> None:
    """Re-fit the layers of `shrunk` in place, each with a pull of `ridge` toward its weights as they are; `kept`: {unit: neurons}."""
    compute_exactly(scoring.threads)
    pairs, layers = _Pairs(units.graph, dense, shrunk, samples, scoring), layers_of(units, shrunk, kept, scoring.gram_limit)
    for number, layer in enumerate(layers):
        before, module = dense.get_submodule(layer.path), shrunk.get_submodule(layer.path)
        wanted = before.weight.flatten(1) if layer.left is None else before.weight.flatten(1)[list(layer.left)]
        products = Products(1, wanted)
        with within_memory(f"second pass, layer {layer.path}", "scoring.gram_limit, scoring.batch or scoring.memory_limit"):
            for place, whole, cut in pairs.at([one.step for one in layers[: number + 1]]):
                positions = positions_read(module, cut[layer.reads], scoring.positions, samples.seed, layer.path, place)
                products.add(*(input_columns(one, values[layer.reads], positions) for one, values in ((module, cut), (before, whole))))
            sums, weight = products.close(), module.weight.flatten(1)
            found = Quadratic(sums["gram"], sums["cross"], float(sums["total"]), weight.double(), 1, torch.finfo(weight.dtype).eps)
            module.weight.copy_(refit(ridged(found, ridge), range(weight.shape[1])).to(weight).view_as(module.weight))
        observe({"event": "layer", "layer": layer.path, "done": number + 1, "total": len(layers), "unit_name": "layers"})


class _Pairs:
    """Live values of both networks for each batch, moved from layer to layer; past the memory limit begun anew from the images."""

    def __init__(self, graph, dense, shrunk, samples: Samples, scoring: Scoring):
        self.graph, self.networks, self.samples = graph, (dense, shrunk), samples
        self.limit, self.held = scoring.memory_limit * GIB, {}

    def at(self, steps: list[int]):
        """(place in the sequence, dense values, shrunk values) of every batch before the last of `steps`; it has been at the others."""
        place = 0
        for number, batch in enumerate(self.samples.stream.block(0, self.samples.count)):
            passed, values = self.held.pop(number, None) or (0, None)
            if values is None:
                images = batch.images.to(self.samples.device)
                values, passed = tuple(self.graph.begin(images)[0] for _ in self.networks), 0
            for position in range(passed, len(steps)):
                start = steps[position - 1] if position else self.graph.index[self.graph.input] + 1
                values = tuple(self._moved(network, one, start, steps[position]) for network, one in zip(self.networks, values))
            if self._size([values, *(held for _, held in self.held.values())]) <= self.limit:
                self.held[number] = (len(steps), values)
            yield place, *values
            place += len(batch.labels)

    def _moved(self, network, values, start, stop) -> dict:
        found = self.graph.run(network, copied(values), start, stop)
        laid = {id(value): in_one_layout(value) if torch.is_tensor(value) else value for value in found.values()}
        return {node: laid[id(value)] for node, value in found.items()}

    def _size(self, pairs) -> int:
        tensors = (value for pair in pairs for values in pair for value in values.values() if torch.is_tensor(value))
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

