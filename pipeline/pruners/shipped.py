"""A peer as shipped: Torch-Pruning prunes a copy by its own rule, and what it keeps is read off in our units."""

import copy

from torch import nn

from pipeline.config.errors import BadInput
from pipeline.networks.units import Units
from pipeline.pruners.criteria import criterion_of, refused
from pipeline.selection.allocation import Sharing
from pipeline.selection.budgets import TOLERANCE, Allocation, measure, reachable_target
from pipeline.selection.quota import keeps_quota

STEPS = 14  # halvings of the library's ratio: finer than one neuron of 8,192


def ship(selector: str, network: nn.Module, units: Units, sharing: Sharing, images, gradients) -> tuple[Allocation, dict[str, list[int]]]:
    """(widths, {unit: neurons kept}) of the library's default pruner at the ratio whose exact cost is nearest to the budget.

    Its default: one ratio for every group, ranked inside each group; the layers that write the output are left out, as its
    manual asks. Raises BadInput where it prunes what is no unit of ours, or the budget is out of its reach.
    """
    budget, table, dense = sharing.budget, sharing.table, sharing.dense
    target = reachable_target(budget, table, dense, sharing.steps)
    found, low, high = [], 0.0, 1.0
    for _ in range(STEPS):
        ratio = (low + high) / 2
        kept = kept_at(selector, network, units, images, gradients, ratio)
        cost = measure(budget.kind, table, dense, {name: len(neurons) for name, neurons in kept.items()})
        found.append((abs(cost - target), ratio, cost, kept))
        low, high = (ratio, high) if cost > target else (low, ratio)
    missed, _, cost, kept = min(found, key=lambda each: each[:2])
    note = f"nearest ratio of Torch-Pruning reaches {cost:g} of {budget.kind}, {missed / target:.1%} from the target"
    return Allocation({name: len(neurons) for name, neurons in kept.items()}, note if missed > TOLERANCE * target else None), kept


def kept_at(selector: str, network: nn.Module, units: Units, images, gradients, ratio: float) -> dict[str, list[int]]:
    """{unit: neurons kept, by index} after the library has pruned a copy by this ratio."""
    library, network, criterion = criterion_of(selector, copy.deepcopy(network), gradients)
    outputs = [network.get_submodule(path) for path in units.outputs]
    pruner = library.pruner.BasePruner(network, images, criterion, pruning_ratio=ratio, ignored_layers=outputs)
    paths = {module: path for path, module in network.named_modules()}
    removed: dict[str, set[int]] = {}
    with refused(f"prune.as_shipped: prune.selector {selector!r}"):
        for group in pruner.step(interactive=True):
            for dependency, neurons in group:
                layer = dependency.target.module
                if isinstance(layer, (nn.Conv2d, nn.Linear)) and pruner.DG.is_out_channel_pruning_fn(dependency.handler):
                    removed.setdefault(paths[layer], set()).update(neurons)
            group.prune()
    refuse_foreign(removed, units)
    kept = {name: [n for n in range(unit.width) if n not in removed.get(unit.producers[0], ())] for name, unit in units.units.items()}
    for name, unit in units.units.items():
        if not keeps_quota(kept[name], unit.width, unit.groups):
            what = f"Torch-Pruning keeps not as many neurons in each of the {unit.groups} groups of unit {name}"
            raise BadInput(f"prune.as_shipped: {what}; leave as_shipped out to compare its criterion")
    return kept


def refuse_foreign(removed, units: Units) -> None:
    """Refuse a network in which the library prunes what is no unit here: nothing could then be compared, saved or counted."""
    known = {path for unit in units.units.values() for path in (*unit.producers, *unit.followers, *unit.excites)}
    if foreign := sorted(set(removed) - known):
        what = f"Torch-Pruning prunes {foreign[0]} too, which is no unit here"
        raise BadInput(f"prune.as_shipped: {what}; leave as_shipped out to compare its criterion")
