"""Cutting a unit out of a network: producers, followers and readers lose the neurons that are not kept."""

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.networks.grouped import packed, spread
from pipeline.networks.branches import place
from pipeline.networks.units import Reader, Unit


@dataclass(frozen=True)
class Choice:
    """What was decided for one unit: kept neurons in pick order, and what their consumers' columns become.

    `coefficients` (n,): the gate N a_i of each kept neuron, folded into its columns. `weight` (M, n k^2): re-fitted columns
    of the first consumer, `further` those of the others; `intercepts` (M,) of each, added to its output. Neither: the original
    columns.
    """

    kept: tuple[int, ...]
    coefficients: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    further: tuple[torch.Tensor, ...] = ()
    intercepts: tuple[torch.Tensor, ...] = ()


def reader_columns(network: nn.Module, reader: Reader) -> torch.Tensor:
    """A reader's weight as (M, N k^2), the columns of a neuron side by side; of a grouped conv zero outside an output's group."""
    return spread(network.get_submodule(reader.path).weight.detach().flatten(1), reader.groups)


def consumer_columns(network: nn.Module, unit: Unit) -> torch.Tensor:
    """The columns of the unit's first consumer (M, N k^2)."""
    return reader_columns(network, unit.consumers[0])


def neuron_columns(kept, columns: int) -> torch.Tensor:
    """Indices of the columns that belong to the kept neurons, in their order."""
    return (torch.tensor(kept).view(-1, 1) * columns + torch.arange(columns)).flatten()


def chosen_columns(network: nn.Module, unit: Unit, choice: Choice, reader: Reader) -> torch.Tensor:
    """A reader's weight after the choice: (M, n k^2). A squeeze-excite is never re-fitted: it takes the gate, if there is one."""
    weight = reader_columns(network, reader)
    if choice.weight is not None and reader in unit.consumers:
        return (choice.weight, *choice.further)[unit.consumers.index(reader)].to(weight)
    weight = weight[:, neuron_columns(choice.kept, reader.columns).to(weight.device)]
    if choice.coefficients is None:
        return weight
    return weight * choice.coefficients.to(weight).repeat_interleave(reader.columns)


def apply_choice(network: nn.Module, unit: Unit, choice: Choice, behind: bool = False) -> None:
    """Shrink `unit` inside `network`, in place; with `behind` only from its hold on: what comes before stays at full width."""
    choice = laid(unit, choice)
    _keep_readers(network, unit, choice)
    _keep_neurons(network, unit, choice, behind)


def apply_choices(network: nn.Module, units: dict[str, Unit], choices: dict[str, Choice]) -> None:
    """Shrink several units in place: what reads them first, since re-fitted columns are those of whole readers."""
    choices = {name: laid(units[name], choice) for name, choice in choices.items()}
    for name, choice in choices.items():
        _keep_readers(network, units[name], choice)
    for name, choice in choices.items():
        _keep_neurons(network, units[name], choice)


def laid(unit: Unit, choice: Choice) -> Choice:
    """The choice with its neurons as they lie in the smaller network."""
    if unit.groups == 1:
        return choice
    kept = unit.laid(choice.kept)
    at = [choice.kept.index(neuron) for neuron in kept]
    weights = (choice.weight, *choice.further) if choice.weight is not None else ()
    weights = [weight[:, neuron_columns(at, reader.columns)] for weight, reader in zip(weights, unit.consumers)]
    coefficients = None if choice.coefficients is None else choice.coefficients[at]
    return replace(choice, kept=kept, coefficients=coefficients, weight=weights[0] if weights else None, further=tuple(weights[1:]))


def _keep_readers(network: nn.Module, unit: Unit, choice: Choice) -> None:
    """Cut whoever reads the neurons linearly."""
    columns = [chosen_columns(network, unit, choice, reader) for reader in unit.readers]
    for reader, weight in zip(unit.readers, columns):
        _keep_inputs(network.get_submodule(reader.path), packed(weight, reader.groups), len(choice.kept))
    add_intercepts(network, unit, choice)


def add_intercepts(network: nn.Module, unit: Unit, choice: Choice) -> None:
    """Add the choice's intercepts, where it has some, to its consumers' outputs: in a bias or the running mean behind, in place."""
    for reader, added in zip(unit.consumers, choice.intercepts):
        module = network.get_submodule(reader.intercept)
        name, sign = ("running_mean", -1) if isinstance(module, _BatchNorm) else ("bias", 1)
        old = getattr(module, name)
        _replace(module, name, old + sign * added.to(old))


def _keep_neurons(network: nn.Module, unit: Unit, choice: Choice, behind: bool = False) -> None:
    """Cut whoever writes the neurons or acts on them."""
    before = () if behind else (path for path in (*unit.producers, *unit.followers) if path not in unit.behind)
    if unit.end is not None:
        scale_branch(network.get_submodule(unit.end), choice)
    for path in (*before, *unit.behind, *unit.excites):
        _keep_outputs(network.get_submodule(path), torch.tensor(choice.kept), path in unit.followers)
    if unit.end is not None:
        place(network, unit.end, torch.tensor(choice.kept), unit.width, unit.dimension)


def scale_branch(last: nn.Module, choice: Choice) -> None:
    """Fold a branch's gates into the layer that ends it, in place: into its weight and bias, of a batch norm its scale and shift."""
    if choice.coefficients is None:
        return
    for name in ("weight", "bias"):
        if (value := getattr(last, name, None)) is not None:
            gates = torch.ones(len(value), dtype=value.dtype, device=value.device)
            gates[list(choice.kept)] = choice.coefficients.to(value)
            _replace(last, name, value * gates.view(-1, *[1] * (value.ndim - 1)))


def _keep_inputs(module: nn.Module, columns: torch.Tensor, kept: int) -> None:
    if isinstance(module, nn.Linear):
        module.in_features = columns.shape[1]
        _replace(module, "weight", columns)
    else:
        module.in_channels = kept
        _replace(module, "weight", columns.unflatten(1, (kept // module.groups, *module.kernel_size)))


def _keep_outputs(module: nn.Module, kept: torch.Tensor, follows: bool) -> None:
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
        if follows:  # a depthwise conv
            module.groups = module.in_channels = len(kept)


def _replace(module, name, value) -> None:
    value, old = value.detach().clone(), getattr(module, name)
    if value.ndim == 4:
        value = value.contiguous(memory_format=torch.channels_last) if old.is_contiguous(memory_format=torch.channels_last) else value.contiguous()
    setattr(module, name, nn.Parameter(value, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else value)
