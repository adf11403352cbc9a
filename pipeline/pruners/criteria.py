"""Torch-Pruning's own criteria, asked through that library what each neuron of our units is worth."""

import copy
from contextlib import contextmanager

import torch
from torch import nn

from pipeline.config.errors import BadInput
from pipeline.networks.units import Unit, Units


def criterion_scores(selector: str, network: nn.Module, units: Units, images: torch.Tensor, gradients: dict | None) -> dict[str, torch.Tensor]:
    """What `tp.<criterion>` with the library's own defaults gives each neuron: {unit: (N,) float64}, the higher the better.

    `images` (1, C, S, S): what its graph is traced with. `gradients`: {parameter: mean} of the loss for `tp.taylor`, of the
    squared loss gradients of single images for `tp.hessian`, else None. Raises BadInput naming a unit that it gives no score.
    """
    library, network, criterion = criterion_of(selector, copy.deepcopy(network), gradients)
    graph = library.DependencyGraph().build_dependency(network, example_inputs=images)
    return {unit.name: _score(library, graph, network, criterion, unit, selector) for unit in units.units.values()}


def criterion_of(selector: str, network: nn.Module, gradients: dict | None) -> tuple:
    """(the library, `network` with its gradients in place, the criterion), ready to be asked."""
    import torch_pruning as library  # loaded for these selectors alone

    network, criterion = network.requires_grad_(True).eval(), _criteria(library)[selector]()
    for name, parameter in network.named_parameters():
        parameter.grad = None if gradients is None else gradients[name].to(parameter)
    if selector == "tp.hessian":  # it squares what it is shown, so it is shown once the root of the mean square
        for parameter in network.parameters():
            parameter.grad.sqrt_()
        criterion.accumulate_grad(network)
    return library, network, criterion


def _criteria(library) -> dict:
    importance = library.pruner.importance
    return {
        "tp.l1": lambda: importance.GroupMagnitudeImportance(p=1),
        "tp.l2": lambda: importance.GroupMagnitudeImportance(p=2),
        "tp.bn": importance.BNScaleImportance,
        "tp.taylor": importance.GroupTaylorImportance,
        "tp.hessian": importance.GroupHessianImportance,
        "tp.fpgm": importance.FPGMImportance,
        "tp.lamp": importance.LAMPImportance,
    }


def _score(library, graph, network, criterion, unit: Unit, selector: str) -> torch.Tensor:
    producer = network.get_submodule(unit.producers[-1])
    cut = library.prune_linear_out_channels if isinstance(producer, nn.Linear) else library.prune_conv_out_channels
    group = graph.get_pruning_group(producer, cut, idxs=list(range(unit.width)))
    with refused(f"unit {unit.name}: prune.selector {selector!r}"):
        found = criterion(group)
    what = "no score" if found is None else "scores that are not finite" if not torch.isfinite(found).all() else None
    what = f"{len(found)} scores for {unit.width} neurons" if what is None and found.shape != (unit.width,) else what
    if what:
        raise BadInput(f"unit {unit.name}: prune.selector {selector!r} gives it {what}; choose another selector")
    return found.detach().double().cpu()


@contextmanager
def refused(place: str):
    """A fault inside the library's own criterion (its FPGM fails on grouped convs) told as BadInput naming the place."""
    try:
        yield
    except RuntimeError as error:
        raise BadInput(f"{place} fails inside Torch-Pruning ({str(error).partition(chr(10))[0]}); choose another selector") from error
