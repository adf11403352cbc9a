"""Cutting a unit out of a network: producers, followers and consumer lose the neurons that are not kept."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.networks.units import Unit


@dataclass(frozen=True)
class Choice:
    """What was decided for one unit: kept neurons in pick order, and what their consumer's columns become.

    `coefficients` (n,): the gate N a_i of each kept neuron, folded into its columns. `weight` (M, n k^2): re-fitted columns.
    Neither: the original columns. `intercept` (M,), beside `weight`: added to the consumer's output.
    """

    kept: tuple[int, ...]
    coefficients: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    intercept: torch.Tensor | None = None


def consumer_columns(network: nn.Module, unit: Unit) -> torch.Tensor:
    """The consumer's weight as (M, N k^2), the columns of a neuron side by side."""
    return network.get_submodule(unit.consumer).weight.detach().flatten(1)


def neuron_columns(kept, columns: int) -> torch.Tensor:
    """Indices of the columns that belong to the kept neurons, in their order."""
    return (torch.tensor(kept).view(-1, 1) * columns + torch.arange(columns)).flatten()


def chosen_columns(network: nn.Module, unit: Unit, choice: Choice) -> torch.Tensor:
    """The consumer's weight after the choice: (M, n k^2)."""
    weight = consumer_columns(network, unit)
    if choice.weight is not None:
        return choice.weight.to(weight)
    weight = weight[:, neuron_columns(choice.kept, unit.columns).to(weight.device)]
    if choice.coefficients is None:
        return weight
    return weight * choice.coefficients.to(weight).repeat_interleave(unit.columns)


def apply_choice(network: nn.Module, unit: Unit, choice: Choice) -> None:
    """Shrink `unit` inside `network`, in place."""
    columns = chosen_columns(network, unit, choice)
    consumer = network.get_submodule(unit.consumer)
    if isinstance(consumer, nn.Linear):
        consumer.in_features = columns.shape[1]
        _replace(consumer, "weight", columns)
    else:
        consumer.in_channels = len(choice.kept)
        _replace(consumer, "weight", columns.unflatten(1, (len(choice.kept), *consumer.kernel_size)))
    add_intercept(network, unit, choice)
    for path in (*unit.producers, *unit.followers):
        _keep_outputs(network.get_submodule(path), torch.tensor(choice.kept))


def add_intercept(network: nn.Module, unit: Unit, choice: Choice) -> None:
    """Add the choice's intercept, where it has one, to the consumer's output: in its bias or the running mean behind it, in place."""
    if choice.intercept is None:
        return
    module = network.get_submodule(unit.intercept)
    name, sign = ("running_mean", -1) if isinstance(module, _BatchNorm) else ("bias", 1)
    old = getattr(module, name)
    _replace(module, name, old + sign * choice.intercept.to(old))


def _keep_outputs(module: nn.Module, kept: torch.Tensor) -> None:
    tensors = ("weight", "bias", "running_mean", "running_var") if isinstance(module, _BatchNorm) else ("weight", "bias")
    for name in tensors:
        value = getattr(module, name, None)
        if value is not None:
            _replace(module, name, value[kept.to(value.device)])
    if isinstance(module, _BatchNorm):
        module.num_features = len(kept)
    elif isinstance(module, nn.Linear):
        module.out_features = len(kept)
    else:
        module.out_channels = len(kept)
        if module.groups > 1:
            module.groups = module.in_channels = len(kept)


def _replace(module, name, value) -> None:
    value, old = value.detach().clone(), getattr(module, name)
    if value.ndim == 4:
        value = value.contiguous(memory_format=torch.channels_last) if old.is_contiguous(memory_format=torch.channels_last) else value.contiguous()
    setattr(module, name, nn.Parameter(value, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else value)
