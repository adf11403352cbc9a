"""Uniform budgets on the exact cost of real networks: the nearest of all shares, or a note, or a refusal with the range."""

from fractions import Fraction

import pytest
import torch

from pipeline.config.errors import BadInput
from pipeline.networks.cost import CostTable
from pipeline.networks.small import mobilenetv2_28, tiny
from pipeline.networks.units import find_units
from pipeline.selection.budgets import Budget, measure, min_max_table, reach, uniform
from tests.networks import samples

NETWORKS = {"tiny": (lambda: tiny(num_classes=5), 1, 28), "vgg": (samples.Vgg, 3, 16), "mobilenetv2_28": (mobilenetv2_28, 1, 28)}


def table_of(name) -> tuple[CostTable, dict[str, int]]:
    build, channels, side = NETWORKS[name]
    network = build().eval()
    units = find_units(network)
    return CostTable(network, units, torch.zeros(1, channels, side, side)), {n: u.width for n, u in units.units.items()}


def every_share(dense) -> list[dict[str, int]]:
    """All width vectors that some share of every unit, rounded half up and at least one, can give: exact fractions."""
    shares = {Fraction(2 * n + 1, 2 * width) for width in dense.values() for n in range(width)} | {Fraction(0), Fraction(1)}
    return [{name: max(1, int(share * width + Fraction(1, 2))) for name, width in dense.items()} for share in sorted(shares)]


@pytest.mark.parametrize("kind", ["macs", "macs_bn", "prunable_macs", "params", "width"])
@pytest.mark.parametrize("name", NETWORKS)
def test_widths_are_the_nearest_that_any_share_reaches(name, kind):
    table, dense = table_of(name)
    low, high = reach(kind, table, dense)
    reachable = every_share(dense)
    costs = sorted({measure(kind, table, dense, widths) for widths in reachable})
    assert (costs[0], costs[-1]) == (low, high)
    for share in (0.06, 0.11, 0.15, 0.25, 0.333, 0.5, 0.61, 0.75, 0.9, 0.99, 1.0):
        target = share * high
        if target < low:
            with pytest.raises(BadInput, match=f"budget.{kind}: {share:g} is out of reach: this network allows {low:g} to {high:g}"):
                uniform(Budget(kind, share), table, dense)
            continue
        found = uniform(Budget(kind, share), table, dense)
        assert found.widths in reachable
        missed = abs(measure(kind, table, dense, found.widths) - target)
        assert missed == min(abs(cost - target) for cost in costs)
        assert (found.note is None) == (missed <= 0.01 * target)
        assert found.note is None or f"{missed / target:.1%} from the target" in found.note


def test_a_whole_budget_keeps_everything_and_the_smallest_one_neuron_each():
    table, dense = table_of("vgg")
    assert uniform(Budget("macs", 1.0), table, dense).widths == dense
    assert uniform(Budget("macs", table.cost(dict.fromkeys(dense, 1)).macs), table, dense).widths == dict.fromkeys(dense, 1)


def test_just_outside_the_range_is_refused():
    table, dense = table_of("vgg")
    low, high = reach("macs", table, dense)
    for target in (low - 1, high + 1):
        with pytest.raises(BadInput, match="out of reach"):
            uniform(Budget("macs", target), table, dense)


def test_the_min_max_table_says_what_each_kind_can_ask_for():
    table, dense = table_of("vgg")
    small, whole = table.cost(dict.fromkeys(dense, 1)), table.cost(dense)
    kinds = ("macs", "macs_bn", "prunable_macs", "params")
    found = [(kind, getattr(small, kind), getattr(whole, kind), getattr(small, kind) / getattr(whole, kind)) for kind in kinds]
    assert min_max_table(table, dense) == [*found, ("width", 4, 36, 4 / 36)]
