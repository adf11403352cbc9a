"""Quotas: as many neurons in every group, whoever chooses, at every width; against least squares from scratch and all subsets."""

from collections import Counter
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.errors import BadInput
from pipeline.selection.allocation import Sharing, floor_of, probed_widths
from pipeline.selection.budgets import Budget, measure, min_max_table, reach, uniform
from pipeline.selection.counts import candidates
from pipeline.selection.elimination import backward, forward
from pipeline.selection.joint import join
from pipeline.selection.quota import Turns, closed, groups_of, in_turns, keeps_quota
from pipeline.selection.swap import swap
from tests.selection import least_squares as oracles
from tests.selection.least_squares import NOISE, Problem
from tests.selection.test_forward import quadratic
from tests.selection.test_joint import error, problems

RIDGE = 1e-2


def test_an_order_in_turns_by_hand():
    """Six neurons in groups {0 1}, {2 3}, {4 5}: the order gives 1 4 5 0 2 3; firsts are 1 4 2, seconds 5 0 3."""
    assert groups_of(range(6), 6, 3) == [0, 0, 1, 1, 2, 2]
    assert in_turns([1, 4, 5, 0, 2, 3], 6, 3) == [1, 4, 2, 5, 0, 3]
    assert in_turns([1, 4, 5, 0, 2, 3], 6, 1) == [1, 4, 5, 0, 2, 3]
    assert keeps_quota([1, 4, 2], 6, 3) and not keeps_quota([1, 4, 5], 6, 3) and not keeps_quota([0, 1], 6, 3)


def test_turns_by_hand():
    turns = Turns([0, 0, 1, 1])
    assert turns.mask().tolist() == [True] * 4
    turns.take(1)
    assert turns.mask().tolist() == [False, False, True, True]
    assert Turns([0, 1, 1], given=[0, 0, 1]).mask().tolist() == [False, True, True]


def test_a_search_by_loss_offers_what_is_left_of_each_groups_share_and_repeats():
    """Two of groups {0 1 2} and {3 4 5} each are wanted; 0 and 1 were picked: 2 is closed, a repeat of 0 is not."""
    assert closed([0, 1, 0], 6, 2, 4) == {2} and closed([0], 6, 2, 4) == set() and closed([0, 5], 6, 2, 2) == {1, 2, 3, 4}
    assert candidates([0, 1, 0], 6, 99, None, (), closed([0, 1, 0], 6, 2, 4)) == [0, 1, 3, 4, 5]
    assert candidates([0, 1, 0], 6, 3, None, (), closed([0, 1, 0], 6, 2, 4)) == [3, 4, 5]


@given(st.integers(1, 5), st.integers(1, 4), st.randoms())
def test_the_first_neurons_of_an_order_in_turns_are_within_the_quota_at_every_multiple(groups, each, random):
    order = list(range(groups * each))
    random.shuffle(order)
    found = in_turns(order, len(order), groups)
    assert sorted(found) == sorted(order)
    for group in range(groups):
        own = [neuron for neuron in order if neuron // each == group]
        assert [neuron for neuron in found if neuron // each == group] == own, "each group's own order stays"
    assert all(keeps_quota(found[:count], len(order), groups) for count in range(groups, len(order) + 1, groups))


def grouped(seed: int, groups: int, each: int, columns: int) -> Problem:
    """A grouped consumer: the inputs of all its groups on their own rows, so that nothing couples them."""
    random = np.random.default_rng(seed)
    return oracles.in_groups([oracles.random_problem(random, each, columns, outputs=2, rows=40, sequential=True) for _ in range(groups)])


def coupled(seed: int, width: int, columns: int) -> Problem:
    """An ordinary consumer of neurons that a grouped conv wrote: every neuron may stand in for every other one."""
    random = np.random.default_rng(seed)
    given = oracles.random_problem(random, width, columns, outputs=3, rows=80)
    inputs = given.inputs @ (np.eye(given.inputs.shape[1]) + 0.7 * random.standard_normal((given.inputs.shape[1],) * 2))
    return Problem(inputs, inputs @ given.weight.T, given.weight, columns)


CASES = {
    "grouped consumer, 3 x 3": lambda seed: (grouped(seed, 3, 3, 9), 3),
    "grouped consumer, 1 x 1": lambda seed: (grouped(seed, 2, 4, 1), 2),
    "grouped producer": lambda seed: (coupled(seed, 8, 1), 4),
    "grouped producer, 2 x 2": lambda seed: (coupled(seed, 6, 4), 2),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", CASES)
def test_every_step_takes_the_best_neuron_of_the_groups_whose_turn_it_is(case, seed):
    problem, groups = CASES[case](seed)
    q, width = replace(quadratic(problem), groups=groups), problem.width
    total, picked = oracles.total(problem, RIDGE), []
    for pick in forward(q, RIDGE):
        offered = allowed(picked, width, groups)
        errors = {j: oracles.solved(problem, RIDGE, [*picked, j])[0] / total for j in offered}
        assert pick.candidates == len(offered) and errors[pick.neuron] <= min(errors.values()) + NOISE
        assert pick.score == pytest.approx(errors[pick.neuron], abs=NOISE)
        ranked = sorted(errors.values())
        assert (pick.margin is None) == (len(offered) == 1) and (len(offered) == 1 or pick.margin == pytest.approx(ranked[1] - ranked[0], abs=NOISE))
        picked.append(pick.neuron)
    left, gone = list(range(width)), []
    for pick in backward(q, RIDGE)[::-1]:
        offered = allowed(gone, width, groups)
        errors = {j: oracles.solved(problem, RIDGE, [i for i in left if i != j])[0] / total for j in offered}
        assert pick.candidates == len(offered) and errors[pick.neuron] <= min(errors.values()) + NOISE
        left.remove(pick.neuron)
        gone.append(pick.neuron)
    for order in (picked, gone[::-1]):
        assert all(keeps_quota(order[:count], width, groups) for count in range(groups, width + 1, groups))


def allowed(taken, width: int, groups: int) -> list[int]:
    """The neurons not taken of the groups of which fewest are."""
    each, counts = width // groups, Counter(neuron // (width // groups) for neuron in taken)
    least = min(counts[group] for group in range(groups))
    return [neuron for neuron in range(width) if neuron not in taken and counts[neuron // each] == least]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("case", CASES)
def test_no_engine_beats_the_best_set_within_the_quota_and_swaps_stay_within_it(case, seed):
    problem, groups = CASES[case](seed)
    q, each = replace(quadratic(problem), groups=groups), problem.width // groups
    for quota in range(1, each + 1):
        own = [list(combinations(range(group * each, (group + 1) * each), quota)) for group in range(groups)]
        best = min(oracles.solved(problem, RIDGE, sum(map(list, sets), []))[0] for sets in product(*own))
        for engine in (forward, backward):
            start = [pick.neuron for pick in engine(q, RIDGE)][: quota * groups]
            swapped = swap(q, RIDGE, start)
            assert keeps_quota(start, problem.width, groups) and keeps_quota(swapped, problem.width, groups) and len(set(swapped)) == len(start)
            before, after = (oracles.solved(problem, RIDGE, kept)[0] for kept in (start, swapped))
            noise = NOISE * oracles.total(problem, RIDGE)
            assert best - noise <= after <= before + noise


def test_swaps_leave_the_worst_set_within_the_quota_for_a_better_one_within_it():
    for seed in range(6):
        problem, groups = CASES["grouped producer"](seed)
        q, own = replace(quadratic(problem), groups=groups), [[0, 1], [2, 3], [4, 5], [6, 7]]
        errors = {sets: oracles.solved(problem, RIDGE, list(sets))[0] for sets in product(*own)}
        kept = swap(q, RIDGE, list(max(errors, key=errors.get)))
        assert errors[tuple(sorted(kept))] < 0.9 * max(errors.values())


@pytest.mark.parametrize("engine", [forward, backward])
def test_of_a_grouped_consumer_each_group_is_ordered_as_if_it_were_alone(engine):
    """Without a ridge that is shared: the picks of one group are the best of that group alone, in its own order."""
    random = np.random.default_rng(5)
    parts = [oracles.random_problem(random, 4, 4, outputs=3, rows=60) for _ in range(3)]
    whole = replace(quadratic(oracles.in_groups(parts)), groups=3)
    ridge = 0.0 if engine is forward else 1e-9
    order = [pick.neuron for pick in engine(whole, ridge)]
    for group, part in enumerate(parts):
        alone = [pick.neuron for pick in engine(quadratic(part), ridge)]
        assert [neuron - 4 * group for neuron in order if neuron // 4 == group] == alone


def test_groups_of_silent_neurons_still_give_theirs():
    problem = oracles.with_faults(grouped(0, 2, 3, 1), silent=[0, 1, 2])
    q = replace(quadratic(problem), groups=2)
    for order in ([pick.neuron for pick in engine(q, RIDGE)] for engine in (forward, backward)):
        assert all(keeps_quota(order[:count], 6, 2) for count in (2, 4, 6)) and [n for n in order if n < 3] == [0, 1, 2]


def test_several_consumers_share_one_quota():
    three = problems(3, width=6)
    q = replace(join([quadratic(problem) for problem in three]), groups=3)
    picked = []
    for pick in forward(q, RIDGE):
        errors = {j: error(three, [*picked, j]) for j in allowed(picked, 6, 3)}
        assert errors[pick.neuron] <= min(errors.values()) + NOISE
        picked.append(pick.neuron)


class Layers:
    """A chain of layers: each costs the product of the widths beside it."""

    def __init__(self, dense):
        self.dense = dense

    def cost(self, widths):
        found = [3, *(widths.get(name, width) for name, width in self.dense.items()), 5]
        return type("Cost", (), {"macs": sum(a * b for a, b in zip(found, found[1:]))})()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 12)), min_size=1, max_size=4), st.floats(0.02, 1), st.integers(0, 10**6))
def test_every_allocation_gives_multiples_and_meets_the_budget_as_near_as_they_allow(shape, share, seed):
    dense = {f"u{i}": step * count for i, (step, count) in enumerate(shape)}
    steps = {f"u{i}": step for i, (step, _) in enumerate(shape) if step > 1}
    table, random, budget = Layers(dense), np.random.default_rng(seed), Budget("macs", share)
    low, high = reach("macs", table, dense, steps)
    assert min_max_table(table, dense, ("macs",), steps) == [("macs", low, high, low / high)]
    assert low == table.cost({name: steps.get(name, 1) for name in dense}).macs
    floors = {name: floor_of(width, steps.get(name, 1)) for name, width in dense.items()}
    curves = {name: np.append(np.sort(random.random(width - floors[name]))[::-1], 0.0) for name, width in dense.items()}
    for allocation in ("uniform", "marginal"):
        sharing = Sharing(budget, table, dense, allocation, None, steps)
        try:
            widths = sharing.widths(curves).widths
        except BadInput:
            least = low if allocation == "uniform" else measure("macs", table, dense, floors)
            assert share * high < least
            continue
        assert all(0 < widths[name] <= dense[name] and widths[name] % steps.get(name, 1) == 0 for name in dense)
        if allocation == "marginal":
            assert table.cost(widths).macs <= share * high and all(widths[name] >= floors[name] for name in dense)
    rounded = Sharing(Budget("macs", 1.0), table, dense, "uniform", 4, steps).widths(None)
    assert rounded.widths == dense


def test_uniform_widths_and_rounding_by_hand():
    """Half of 12 in steps of 4 is 1.5 of 3 steps, half up: 8; half of 9 is 4.5, half up: 5. Rounded to 6: multiples of 12 and of 6."""
    dense = {"a": 12, "b": 9}
    assert uniform(Budget("width", 13), Layers(dense), dense, {"a": 4}).widths == {"a": 8, "b": 5}
    found = Sharing(Budget("width", 13), Layers(dense), dense, "uniform", 6, {"a": 4}).widths(None)
    assert found.widths == {"a": 12, "b": 6} and found.raw == {"a": 8, "b": 5}


@pytest.mark.parametrize("width, step", [(24, 3), (368, 46), (128, 32), (12, 12), (7, 1)])
def test_probed_widths_are_multiples_down_to_the_floor(width, step):
    found = probed_widths(width, step)
    assert all(kept % step == 0 and floor_of(width, step) <= kept < width for kept in found) and found == sorted(set(found), reverse=True)
    assert (not found and width == step) or found[-1] == floor_of(width, step)
    assert torch.tensor(found).numel() <= width // step
