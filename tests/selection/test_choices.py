"""The paper's coefficients and candidates, scored orders, and uniform budgets."""

import math
from collections import namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.errors import BadInput
from pipeline.selection.budgets import Budget, measure, min_max_table, uniform
from pipeline.selection.counts import best_candidate, candidates, coefficients, trial
from pipeline.selection.scored import bn_scores, falling, l1_scores, l2_scores, random_order


def test_coefficients_of_a_multiset_are_the_papers():
    # N = 6, picks 2, 5, 2: neuron 2 counts twice of three: 6 * 2 / 3 = 4, neuron 5 once: 2
    assert coefficients([2, 5, 2], 6) == ([2, 5], [4.0, 2.0])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40))
def test_coefficients_always_add_up_to_the_width(picks):
    kept, gates = coefficients(picks, 10)
    assert math.isclose(sum(gates), 10) and kept == list(dict.fromkeys(picks))


@given(st.lists(st.integers(0, 5), min_size=0, max_size=12), st.integers(0, 5))
def test_a_trial_is_the_coefficients_of_the_multiset_with_the_candidate(picks, candidate):
    step = trial(len(picks), 6)
    before = dict(zip(*coefficients(picks, 6))) if picks else {}
    expected = {n: step.keep * g for n, g in before.items()}
    expected[candidate] = expected.get(candidate, 0.0) + step.add
    found = dict(zip(*coefficients([*picks, candidate], 6)))
    assert found.keys() == expected.keys() and all(math.isclose(found[n], expected[n]) for n in found)


def test_after_max_picks_only_unpicked_neurons_are_candidates():
    assert candidates([1, 1, 3], 5, 4, None, ("x",)) == [0, 1, 2, 3, 4]
    assert candidates([1, 1, 3, 1], 5, 4, None, ("x",)) == [0, 2, 4]


def test_drawn_candidates_depend_on_the_name_alone():
    drawn = candidates([], 100, 50, 10, ("candidates", 0, "unit", 3))
    assert drawn == candidates([7], 100, 50, 10, ("candidates", 0, "unit", 3)) == sorted(set(drawn)) and len(drawn) == 10
    assert drawn != candidates([], 100, 50, 10, ("candidates", 0, "unit", 4))
    assert max(max(candidates([], 100, 50, 10, ("candidates", 0, "unit", s))) for s in range(9)) > 60  # not the lowest indices


def test_losses_that_are_not_finite_are_disqualified_and_ties_go_to_the_lowest_index():
    best = best_candidate([3, 4, 7, 9], np.array([np.nan, 2.0, 2.0, np.inf]))
    assert (best.neuron, best.score, best.margin, best.disqualified) == (4, 2.0, 0.0, [3, 9])
    assert best_candidate([1, 2], np.array([np.nan, -np.inf])) is None
    assert best_candidate([5], np.array([1.0])).margin is None


def test_l1_ranks_by_the_producers_filters():
    weight = torch.tensor([[1.0, -1.0], [0.5, 0.5], [-3.0, 0.0], [2.0, 0.0]]).view(4, 2, 1, 1)
    assert falling(l1_scores(weight)) == [2, 0, 3, 1]  # norms 2, 1, 3, 2


def test_l2_ranks_by_the_length_of_the_producers_filters():
    weight = torch.tensor([[1.0, -1.0], [0.5, 0.5], [-3.0, 0.0], [2.0, 0.0], [0.0, 3.0]]).view(5, 2, 1, 1)
    assert falling(l2_scores(weight)) == [2, 4, 3, 0, 1]  # squares 2, .5, 9, 4, 9


def test_bn_ranks_by_the_absolute_scale_of_the_batch_norm():
    assert falling(bn_scores(torch.tensor([0.5, -2.0, 1.0, 0.5, 0.0]))) == [1, 2, 0, 3, 4]


def test_a_random_order_is_a_permutation_that_depends_on_seed_and_unit():
    assert sorted(random_order(20, 0, "a")) == list(range(20))
    assert random_order(20, 0, "a") == random_order(20, 0, "a") != random_order(20, 1, "a")
    assert random_order(20, 0, "a") != random_order(20, 0, "b")


class Chain:
    """A cost with products of neighbouring widths, as convs have: units a - b - c, each layer in x out."""

    def __init__(self, dense):
        self.dense = dense

    def cost(self, widths):
        a, b, c = ((self.dense | widths)[name] for name in "abc")
        value = 3 * a + 5 * a * b + 7 * b * c + 11 * c
        return namedtuple("Cost", "macs prunable_macs")(value, value)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(1, 12)] * 3), st.floats(0.01, 1.0))
def test_uniform_widths_are_the_nearest_of_all_shares(sizes, share):
    dense = dict(zip("abc", sizes))
    table = Chain(dense)
    low, high = (measure("macs", table, dense, w) for w in (dict.fromkeys(dense, 1), dense))
    if share * high < low:
        with pytest.raises(BadInput, match="out of reach"):
            uniform(Budget("macs", share), table, dense)
        return
    found = uniform(Budget("macs", share), table, dense)
    every = [{n: max(1, math.floor(s * w + 0.5)) for n, w in dense.items()} for s in (i / 600 for i in range(601))]
    nearest = min(abs(table.cost(widths).macs - share * high) for widths in every)
    missed = abs(table.cost(found.widths).macs - share * high)
    assert missed <= nearest + 1e-9
    assert (found.note is None) == (missed <= 0.01 * share * high)


def test_a_width_budget_keeps_that_share_of_each_unit():
    dense = {"a": 16, "b": 10, "c": 8}
    assert uniform(Budget("width", 0.5), Chain(dense), dense).widths == {"a": 8, "b": 5, "c": 4}


def test_absolute_budgets_and_what_is_out_of_reach():
    dense = {"a": 40, "b": 40, "c": 40}
    table = Chain(dense)
    found = uniform(Budget("macs", 5000), table, dense)
    assert table.cost(found.widths).macs == pytest.approx(5000, rel=0.03)
    with pytest.raises(BadInput, match="out of reach: this network allows 26 to 19760"):
        uniform(Budget("macs", 1e9), table, dense)
    assert min_max_table(table, dense, ("macs",)) == [("macs", 26, 19760, 26 / 19760)]
