"""MACs and parameters: one counter for real modules and for width vectors that do not exist yet; MACs count conv and fc, and BN apart."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.networks.units import Units

BN_OPERATIONS = 2  # per element, the paper's count: 314 M where conv + fc alone give 301 M for MobileNetV2


@dataclass(frozen=True)
class Layer:
    """One layer at work on one image: MACs = positions x outputs x inputs / groups x taps."""

    path: str
    positions: int
    inputs: int
    outputs: int
    groups: int
    taps: int
    is_norm: bool
    vectors: int  # parameters per output beside the weight: a bias, or scale and shift

    def macs(self, inputs: int, outputs: int) -> int:
        if self.is_norm:
            return 0
        groups = outputs if self.groups > 1 and self.groups == self.outputs == self.inputs else self.groups
        return self.positions * outputs * (inputs // groups) * self.taps

    def params(self, inputs: int, outputs: int) -> int:
        weight = 0 if self.is_norm else self.macs(inputs, outputs) // self.positions
        return weight + self.vectors * outputs

    def norm_operations(self, outputs: int) -> int:
        return BN_OPERATIONS * self.positions * outputs if self.is_norm else 0


def count_layers(network: nn.Module, images: torch.Tensor) -> list[Layer]:
    """The conv, linear and norm calls of one forward pass, per image. `images`: one example (1, C, H, W)."""
    layers, handles = [], []

    def note(path):
        def hook(module, inputs, output):
            batch = len(images)  # windows of an image may lie where batches do
            if isinstance(module, nn.Linear):
                size = (output.numel() // batch // module.out_features, module.in_features, module.out_features, 1, 1)
            elif isinstance(module, nn.Conv2d):
                taps = module.kernel_size[0] * module.kernel_size[1]
                size = (output.numel() // batch // module.out_channels, module.in_channels, module.out_channels, module.groups, taps)
            else:
                size = (output.numel() // batch // module.num_features, module.num_features, module.num_features, 1, 1)
            norm = isinstance(module, _BatchNorm)
            vectors = sum(getattr(module, name, None) is not None for name in (("weight", "bias") if norm else ("bias",)))
            layers.append(Layer(path, *size, norm, vectors))

        return hook

    for path, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, _BatchNorm)):
            handles.append(module.register_forward_hook(note(path)))
    was_training = network.training
    try:
        network.eval()
        with torch.inference_mode():
            network(images.clone())
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
    return layers


@dataclass(frozen=True)
class Cost:
    """MACs per image: of the whole network, with BN counted as the paper does, of the layers touching a unit; parameters."""

    macs: int
    macs_bn: int
    prunable_macs: int
    params: int


class CostTable:
    """Exact cost of any width vector {unit: neurons kept} of one network."""

    def __init__(self, network: nn.Module, units: Units, images: torch.Tensor):
        self.layers = count_layers(network, images)
        self.params = sum(parameter.numel() for parameter in network.parameters())
        self.dense = {unit.name: unit.width for unit in units.units.values()}
        self.writes, self.reads = {}, {}
        for unit in units.units.values():
            for reader in unit.readers:
                self.reads[reader.path] = unit.name
            for path in (*unit.producers, *unit.excites):
                self.writes[path] = unit.name
            for path in unit.followers:
                self.writes[path] = self.reads[path] = unit.name

    def cost(self, widths: dict[str, int]) -> Cost:
        """Cost at these widths; units that are not named stay whole."""
        macs = norms = prunable = 0
        params = self.params
        for layer in self.layers:
            inputs, outputs = self._sides(layer, widths)
            value = layer.macs(inputs, outputs)
            macs += value
            norms += layer.norm_operations(outputs)
            params += layer.params(inputs, outputs) - layer.params(layer.inputs, layer.outputs)
            prunable += value if layer.path in self.reads or layer.path in self.writes else 0
        return Cost(macs, macs + norms, prunable, params)

    def stretch(self, widths: dict[str, int], start: int, stop: int | None) -> int:
        """MACs of the layers start..stop-1 in the order they ran."""
        return sum(layer.macs(*self._sides(layer, widths)) for layer in self.layers[start:stop])

    def _sides(self, layer: Layer, widths) -> tuple[int, int]:
        """(inputs, outputs) of a layer at these widths."""
        inputs = layer.inputs
        if (read := self.reads.get(layer.path)) in widths:
            inputs = widths[read] * (layer.inputs // self.dense[read])
        return inputs, widths.get(self.writes.get(layer.path), layer.outputs)
