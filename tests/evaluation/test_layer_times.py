"""Latency of widths that do not exist: along the layers' own times, worked out by hand; and what is measured of a real network."""

import pytest
import torch

from pipeline.evaluation.layer_times import LatencyTable, LayerTimes, measure_layer_times
from pipeline.networks.cost import CostTable
from pipeline.networks.small import tiny
from pipeline.networks.units import find_units
from pipeline.selection.allocation import Sharing
from pipeline.selection.budgets import Budget, measure
from tests.networks.samples import images


@pytest.fixture
def parts():
    """A network of three units of 16, its units, its costs."""
    network = tiny(num_classes=3).eval()
    units = find_units(network)
    return network, units, CostTable(network, units, images(1, 1, 28))


def by_hand(table: CostTable) -> LayerTimes:
    """Each layer takes 8 ms whole; one that a unit touches 4 ms at half of it, 2 ms at a quarter; the others always 8."""
    touched = [layer.path in table.reads or layer.path in table.writes for layer in table.layers]
    widths = [dict.fromkeys(table.dense, kept) for kept in (16, 8, 4)]
    return LayerTimes(1, widths, [[ms if is_touched else 8.0 for is_touched in touched] for ms in (8.0, 4.0, 2.0)])


def test_a_layer_goes_along_its_times_and_one_that_no_unit_touches_stays(parts):
    table = parts[2]
    latency = LatencyTable(table, by_hand(table))
    whole = 8 * len(table.layers)
    assert latency.cost({}).latency_ms == pytest.approx(whole)
    for name in table.dense:
        sides = [{table.reads.get(layer.path), table.writes.get(layer.path)} - {None} for layer in table.layers]
        alone, shared = sum(side == {name} for side in sides), sum(name in side and len(side) == 2 for side in sides)
        # of a layer between two units half of one is half of its work: a third of the way from a quarter (4 ms) to all (8 ms)
        assert latency.cost({name: 8}).latency_ms == pytest.approx(whole - 4 * alone - 8 / 3 * shared)
        # 6 neurons lie half way between 4 (2 ms) and 8 (4 ms)
        assert latency.cost({name: 6}).latency_ms == pytest.approx(whole - 5 * alone - 10 / 3 * shared)
        # below what was timed: as the least that was, half of what a quarter of both would be
        assert latency.cost(dict.fromkeys(table.dense, 1)).latency_ms == latency.cost(dict.fromkeys(table.dense, 4)).latency_ms


def test_a_busy_moment_makes_no_wider_layer_cheaper(parts):
    table = parts[2]
    times = by_hand(table)
    times.ms[1] = [9.0 for _ in times.ms[1]]  # the half width was timed beside other work
    latency = LatencyTable(table, times)
    for name in table.dense:
        costs = [latency.cost({name: kept}).latency_ms for kept in range(1, 17)]
        assert costs == sorted(costs)


def test_widths_of_a_budget_of_milliseconds_are_the_nearest_that_uniform_shares_reach(parts):
    table = parts[2]
    latency = LatencyTable(table, by_hand(table))
    sharing = Sharing(Budget("latency_ms", 0.75), latency, table.dense, "uniform")
    found = sharing.widths(None)
    target = 0.75 * latency.cost({}).latency_ms
    every = [measure("latency_ms", latency, table.dense, dict.fromkeys(table.dense, kept)) for kept in range(1, 17)]
    assert abs(measure("latency_ms", latency, table.dense, found.widths) - target) == min(abs(one - target) for one in every)


def test_what_is_measured_has_a_time_for_every_layer_at_every_share_and_leaves_the_network_as_it_was(parts):
    network, units, table = parts
    before = {name: value.clone() for name, value in network.state_dict().items()}
    times = measure_layer_times(network, units.units, table, images(2, 1, 28))
    assert times.batch == 2 and times.widths[0] == table.dense and all(kept == 1 for kept in times.widths[-1].values())
    assert len(times.ms) == len(times.widths) and all(len(row) == len(table.layers) for row in times.ms)
    assert all(one > 0 for row in times.ms for one in row)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())
