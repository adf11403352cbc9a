"""What a search must reach: the units that this pruner may cut, their exact cost, the widths of the budget."""

from dataclasses import dataclass

import torch

from pipeline.chain.context import Context
from pipeline.chain.sources import Dense
from pipeline.config.errors import BadInput
from pipeline.config.settings import budget_target
from pipeline.networks.cost import CostTable
from pipeline.networks.saved import example_images
from pipeline.networks.units import Units, find_units, without_large
from pipeline.selection.budgets import Allocation, Budget, uniform


@dataclass(frozen=True)
class Target:
    """What a search must reach: the units, their exact cost, the widths of the budget."""

    units: Units
    table: CostTable
    budget: Budget
    allocation: Allocation

    @property
    def dense_widths(self) -> dict[str, int]:
        return {name: unit.width for name, unit in self.units.units.items()}


def find_target(context: Context, dense: Dense) -> Target:
    """Units, cost and widths; raises BadInput when the budget is out of reach."""
    units, table = units_and_cost(context, dense)
    ((kind, target),) = context.config.budget.items()
    budget = Budget(kind, budget_target(kind, target))
    return Target(units, table, budget, uniform(budget, table, {name: unit.width for name, unit in units.units.items()}))


def units_and_cost(context: Context, dense: Dense) -> tuple[Units, CostTable]:
    """The units that this pruner may cut, and the cost of any width vector."""
    prune, scoring = context.config.prune, context.config.scoring
    units = find_units(dense.network, prune.units)
    images = example_images(dense.preprocess.in_chans, dense.preprocess.img_size)
    _check_outputs(dense, images, context.config.network.num_classes)
    table = CostTable(dense.network, units, images)  # of all units: what counts as prunable is the same for every pruner
    if prune.selector == "reconstruction" or prune.refit != "none":
        units = without_large(units, scoring.gram_limit)
    return units, table


def _check_outputs(dense: Dense, images, num_classes: int) -> None:
    """Refuse a builder that pays no heed to `num_classes`."""
    with torch.inference_mode():
        found = tuple(dense.network(images).shape)
    if found != (1, num_classes):
        raise BadInput(f"network.num_classes: is {num_classes}, {dense.plan.model} gives an output of shape {found} for one image; make them equal")
