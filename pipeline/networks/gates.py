"""The gated network: full width, every neuron multiplied by its gate right before whoever reads it. What shrinking must equal."""

import copy
import math

import torch
from torch import nn

from pipeline.networks.grouped import packed
from pipeline.networks.shrink import Choice, add_intercepts, apply_choices, neuron_columns, reader_columns
from pipeline.networks.units import Units

FOLDING_LIMIT = 1e-10  # relative, float64


def gated(network: nn.Module, units: Units, choices: dict[str, Choice]) -> nn.Module:
    """A copy of `network` with gates: N a_i on the kept neurons (1 where the consumers are re-fitted), 0 on the others.

    A gate lies before every layer that reads the neurons linearly, squeeze-excite included: with nothing but means and
    factors between, that is one gate before the squeeze-excite. Of a branch it lies before the sum.
    """
    network = copy.deepcopy(network)
    for name, choice in choices.items():
        unit = units.units[name]
        gate = torch.zeros(unit.width, dtype=network.get_submodule(unit.producers[0]).weight.dtype)
        gate[list(choice.kept)] = 1.0 if choice.coefficients is None else choice.coefficients.to(gate.dtype)
        for reader, weight in zip(unit.consumers, (choice.weight, *choice.further) if choice.weight is not None else ()):
            consumer = network.get_submodule(reader.path)
            flat = torch.zeros_like(reader_columns(network, reader))
            flat[:, neuron_columns(choice.kept, reader.columns)] = weight.to(flat)
            consumer.weight = nn.Parameter(packed(flat, reader.groups).view_as(consumer.weight))
        add_intercepts(network, unit, choice)
        for reader in unit.readers:
            network.get_submodule(reader.path).register_forward_pre_hook(_multiply(gate, reader))
        if unit.end is not None:
            network.get_submodule(unit.end).register_forward_hook(_multiply_output(gate, unit.dimension))
    return network


def _multiply_output(gate, dimension):
    def hook(module, inputs, output):
        return output * (gate.view(-1, 1, 1) if dimension == 1 else gate).to(output.device)

    return hook


def _multiply(gate, reader):
    def hook(module, inputs):
        values = inputs[0]
        if isinstance(module, nn.Linear):
            return (values * gate.repeat_interleave(reader.columns).to(values.device),)
        return (values * gate.view(1, -1, 1, 1).to(values.device),)

    return hook


def folding_difference(network: nn.Module, units: Units, choices: dict[str, Choice], images: torch.Tensor, dtype=torch.float64) -> float:
    """Largest difference between gated and shrunk network on `images`, relative to the largest output; inf if not finite."""
    network = copy.deepcopy(network).to("cpu", dtype).eval()
    shrunk = copy.deepcopy(network)
    apply_choices(shrunk, units.units, choices)
    images = images.to("cpu", dtype)
    with torch.no_grad():
        expected, found = gated(network, units, choices)(images.clone()), shrunk(images.clone())
    difference = float((expected - found).abs().max() / expected.abs().max().clamp_min(torch.finfo(dtype).tiny))
    return difference if math.isfinite(difference) else math.inf
