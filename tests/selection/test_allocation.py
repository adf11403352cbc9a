"""Allocations that follow curves: hulls worked out by hand, and the optimum by trying all widths."""

from collections import namedtuple
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.errors import BadInput
from pipeline.selection.allocation import (
    Sharing,
    along_curves,
    floor_of,
    lower_hull,
    probed_curve,
    probed_widths,
    reachable,
    score_curve,
)
from pipeline.selection.budgets import Budget
from pipeline.selection.quadratic import Quadratic, nested_errors, refit_error, ridged

Cost = namedtuple("Cost", "macs prunable_macs")


class Sum:
    """Costs that add: so much per neuron of each unit."""

    def __init__(self, dense, each):
        self.dense, self.each = dense, each

    def cost(self, widths):
        value = 10 + sum(self.each[name] * kept for name, kept in (self.dense | widths).items())
        return Cost(value, value)


class Product(Sum):
    """Costs of layers in which two units meet."""

    def cost(self, widths):
        kept = list((self.dense | widths).values())
        value = sum(a * b for a, b in zip(kept, kept[1:])) + kept[0] + kept[-1]
        return Cost(value, value)


def test_the_lower_hull_drops_a_plateau_and_keeps_the_corner():
    #         9
    #           .  6  6      the plateau (1, 2) lies above the line from (0, 9) to (3, 0)
    #                    0
    assert lower_hull(np.array([9.0, 6.5, 6.0, 0.0])) == [0, 3]
    assert lower_hull(np.array([9.0, 2.0, 1.0, 0.0])) == [0, 1, 3]
    assert lower_hull(np.array([5.0])) == [0]


def test_probes_are_joined_along_the_errors_or_straight():
    probes, errors = {1: 8.0, 3: 2.0}, [1.0, 0.4, 0.2, 0.1, 0.0]
    # from 1 to 3 the error falls by .8: at 2 a quarter of the way is left; from 3 to 5 by .2: at 4 half
    assert probed_curve(5, probes, errors) == pytest.approx([8.0, 3.5, 2.0, 1.0, 0.0])
    assert probed_curve(5, probes, None) == pytest.approx([8.0, 5.0, 2.0, 1.0, 0.0])
    assert probed_curve(5, probes, [0.5] * 5) == pytest.approx([8.0, 5.0, 2.0, 1.0, 0.0]), "errors that tell nothing"
    assert probed_curve(1, {}, None) == pytest.approx([0.0])


def test_a_score_curve_is_the_share_of_scores_lost():
    assert score_curve([4.0, 3.0, 2.0, 1.0]) == pytest.approx([0.6, 0.3, 0.1, 0.0])
    assert score_curve([0.0, 0.0]) == pytest.approx([0.0, 0.0]), "scores that tell nothing"


def test_probed_widths_fall_from_below_the_whole_to_the_floor():
    for width in (1, 2, 5, 16, 100, 1280):
        found = probed_widths(width)
        assert found == sorted(set(found), reverse=True) and all(floor_of(width) <= kept < width for kept in found)
        assert width == 1 or found[-1] == floor_of(width)
    assert probed_widths(100) == [82, 65, 48, 35, 25, 18, 13, 9, 6]


def convex(falls):
    """A curve from floor to whole whose falls shrink, ending at 0."""
    return np.append(np.cumsum(sorted(falls))[::-1], 0.0)


@settings(max_examples=60)
@given(
    st.lists(st.integers(2, 6), min_size=2, max_size=3),
    st.lists(st.integers(1, 7), min_size=3, max_size=3),
    st.lists(st.floats(0.01, 5.0), min_size=18, max_size=18),
    st.floats(0.35, 1.0),
)
def test_where_costs_add_no_other_widths_of_that_cost_lose_less(sizes, prices, falls, share):
    names = "abc"[: len(sizes)]
    dense, each = dict(zip(names, sizes)), dict(zip(names, prices))
    curves = {name: convex(falls[6 * i : 6 * i + size - 1]) for i, (name, size) in enumerate(dense.items())}
    table = Sum(dense, each)
    lost = lambda widths: sum(curves[name][widths[name] - 1] for name in names)  # noqa: E731
    try:
        target = reachable(Budget("macs", share), table, dense)
    except BadInput:
        return
    widths = along_curves(Budget("macs", share), table, dense, curves).widths
    reached = table.cost(widths).macs
    assert reached <= target
    every = [dict(zip(names, kept)) for kept in product(*(range(1, size + 1) for size in sizes))]
    assert lost(widths) <= min(lost(other) for other in every if table.cost(other).macs <= reached) + 1e-9
    one_more = [widths | {name: widths[name] + 1} for name in names if widths[name] < dense[name]]
    assert not one_more or max(table.cost(other).macs for other in one_more) > target, "all that is left could still be kept"


@settings(max_examples=40)
@given(st.lists(st.integers(3, 30), min_size=2, max_size=4), st.integers(0, 10**6), st.floats(0.05, 1.0))
def test_where_units_meet_in_a_layer_the_budget_is_met_and_nearly_used(sizes, seed, share):
    dense = {str(i): size for i, size in enumerate(sizes)}
    random = np.random.default_rng(seed)
    curves = {name: np.append(-np.sort(-random.random(size - floor_of(size))), 0.0) for name, size in dense.items()}
    table = Product(dense, {})
    try:
        target = reachable(Budget("macs", share), table, dense)
    except BadInput as error:
        assert "out of reach" in str(error) and "6%" in str(error)
        return
    found = along_curves(Budget("macs", share), table, dense, curves)
    reached = table.cost(found.widths).macs
    assert reached <= target and all(floor_of(size) <= found.widths[name] <= size for name, size in dense.items())
    assert (found.note is None) == (target - reached <= 0.01 * target)
    assert any(kept == size or table.cost(found.widths | {name: kept + 1}).macs > target for (name, size), kept in zip(dense.items(), found.widths.values()))


def test_a_unit_that_costs_nothing_to_cut_is_cut_first_and_one_that_costs_much_last():
    dense = {"cheap": 10, "dear": 10}
    curves = {"cheap": np.linspace(0.1, 0, 10), "dear": np.linspace(9.0, 0, 10)}
    assert along_curves(Budget("macs", 110), Sum(dense, {"cheap": 10, "dear": 10}), dense, curves).widths == {"cheap": 1, "dear": 9}


def test_a_floor_that_cannot_be_met_is_an_error_before_any_measurement():
    dense = {"a": 100, "b": 100}
    sharing = Sharing(Budget("macs", 0.05), Sum(dense, {"a": 1, "b": 1}), dense, "marginal")
    with pytest.raises(BadInput, match=r"budget.macs: 10.5 is out of reach: .* 6% of each unit, which allows 22 to 210 .* set prune.allocation to uniform"):
        sharing.check()


@pytest.mark.parametrize("columns", [1, 4])
def test_nested_errors_are_those_of_a_refit_of_every_prefix(columns):
    generator = torch.Generator().manual_seed(columns)
    inputs = torch.randn(200, 6 * columns, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 6 * columns, generator=generator, dtype=torch.float64)
    wanted = inputs @ weight.T + 0.3 * torch.randn(200, 3, generator=generator, dtype=torch.float64)
    q = ridged(Quadratic(inputs.T @ inputs, wanted.T @ inputs, float((wanted**2).sum()), weight, columns, 1e-16), 1e-2)
    order = [3, 0, 5, 1, 4, 2]
    expected = [refit_error(q, order[: kept + 1]) / q.total for kept in range(6)]
    assert nested_errors(q, order) == pytest.approx(expected, rel=1e-9)


def test_nested_errors_of_a_matrix_without_an_inverse_are_not_told():
    q = Quadratic(torch.zeros(2, 2, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64), 1.0, torch.zeros(1, 2).double(), 1, 1e-16)
    assert nested_errors(q, [0, 1]) is None
