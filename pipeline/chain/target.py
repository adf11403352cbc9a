"""What a search must reach: the units that this pruner may cut, their exact cost, the budget; and the widths that meet it."""

from dataclasses import dataclass, replace

import torch

from pipeline.chain.context import Context
from pipeline.chain.latencies import known_times
from pipeline.chain.sources import Dense
from pipeline.config.errors import BadInput
from pipeline.config.rules import measures_gram
from pipeline.config.settings import Config, budget_target
from pipeline.evaluation.layer_times import LatencyTable, LayerTimes
from pipeline.networks.cost import CostTable
from pipeline.networks.saved import example_images
from pipeline.networks.trial import refuse_unfaithful
from pipeline.networks.units import Units, find_units, refuse_without_intercept, without_large
from pipeline.selection.allocation import Sharing
from pipeline.selection.budgets import Allocation, Budget


@dataclass(frozen=True)
class Target:
    """What a search must reach: the units, their exact cost, the budget and how it is shared."""

    units: Units
    table: CostTable
    sharing: Sharing

    @property
    def dense_widths(self) -> dict[str, int]:
        return self.sharing.dense

    def guessed(self) -> Allocation:
        """Uniform widths of the budget: all that is known for an estimate before anything is measured."""
        return replace(self.sharing, allocation="uniform").widths(None)


def find_target(context: Context, dense: Dense) -> Target:
    """Units, cost and budget, behind the stages that measure for it; raises BadInput when it is out of reach."""
    return target_of(context.config, *units_and_cost(context, dense), known_times(context))


def target_of(config: Config, units: Units, table: CostTable, times: LayerTimes | None = None) -> Target:
    """The target of a config whose units and costs are known; raises BadInput when the budget is out of reach.

    `times`: what budget latency_ms counts by. Where all is still to be measured (no times, or top1_drop), the target is everything.
    """
    ((kind, target),) = config.budget.items()
    is_open = kind == "top1_drop" or (kind == "latency_ms" and times is None)
    budget = Budget("prunable_macs", 1.0) if is_open else Budget(kind, budget_target(kind, target))
    widths = {name: unit.width for name, unit in units.units.items()}
    counted = LatencyTable(table, times) if times is not None else table
    sharing = Sharing(budget, counted, widths, config.prune.allocation, config.prune.round_to, units.steps)
    sharing.check()
    return Target(units, table, sharing)


def units_and_cost(context: Context, dense: Dense) -> tuple[Units, CostTable]:
    """The units that this pruner may cut, and the cost of any width vector."""
    prune, scoring = context.config.prune, context.config.scoring
    units = find_units(dense.network, prune.units)
    images = example_images(dense.preprocess.in_chans, dense.preprocess.img_size)
    _check_outputs(dense, images, context.config.network.num_classes)
    refuse_unfaithful(dense.network, units, images)
    table = CostTable(dense.network, units, images)  # of all units: what counts as prunable is the same for every pruner
    if measures_gram(prune):
        units = without_large(units, scoring.gram_limit)
    if prune.refit == "affine":
        refuse_without_intercept(units)
    return units, table


def _check_outputs(dense: Dense, images, num_classes: int) -> None:
    """Refuse a builder that pays no heed to `num_classes`, or whose network cannot take the images."""
    try:
        with torch.inference_mode():
            output = dense.network(images)
    except Exception as error:
        size, reason = " x ".join(map(str, images.shape[1:])), str(error).partition("\n")[0]
        what = f"{dense.plan.model} cannot take an image of {size} ({reason})"
        raise BadInput(f"network.model: {what}; mend network.img_size, in_chans or the model") from error
    if not isinstance(output, torch.Tensor):
        raise BadInput(f"network.model: {dense.plan.model} gives {type(output).__name__}; let forward return one tensor of logits")
    found = tuple(output.shape)
    if found != (1, num_classes):
        raise BadInput(f"network.num_classes: is {num_classes}, {dense.plan.model} gives an output of shape {found} for one image; make them equal")
