"""Engine forward, the re-fit and the guarantee against least squares solved from scratch, and against toys worked by hand."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.selection.elimination import forward
from pipeline.selection.guarantee import explained_share
from pipeline.selection.quadratic import Quadratic, from_dense, plain_error, refit, refit_error, ridged
from tests.selection import least_squares as oracles
from tests.selection.least_squares import NOISE, Problem

EPS = float(np.finfo(np.float64).eps)
RIDGES = [1e-2, 1e-6, 0.0]


def quadratic(problem: Problem) -> Quadratic:
    gram, cross = problem.inputs.T @ problem.inputs, problem.wanted.T @ problem.inputs
    tensors = (torch.from_numpy(np.ascontiguousarray(value)) for value in (gram, cross, problem.weight))
    gram, cross, weight = tensors
    return Quadratic(gram, cross, float((problem.wanted**2).sum()), weight, problem.columns, EPS)


def follow_and_compare(problem: Problem, ridge: float) -> int:
    """Walk the product's picks, re-solving every candidate of every step; how many picks had a clear margin."""
    picks = forward(quadratic(problem), ridge)
    assert sorted(pick.neuron for pick in picks) == list(range(problem.width))
    whole, clear = oracles.total(problem, ridge), 0
    for step, pick in enumerate(picks):
        before = [p.neuron for p in picks[:step]]
        expected = oracles.greedy_step(problem, ridge, before)
        if expected is None:  # the rest adds nothing: first what is explained, then what is silent, each by index
            rest = [p.neuron for p in picks[step:]]
            silent = [neuron for neuron in oracles.dead(problem) if neuron not in before]
            assert rest == [*(oracles.explained(problem, before) if not ridge else []), *silent]
            assert {p.margin for p in picks[step:]} == {None}
            assert [p.candidates for p in picks[step:]] == list(range(len(rest), 0, -1))
        else:
            assert pick.neuron in expected.allowed
            clear += expected.margin is not None and expected.margin > NOISE
            assert (pick.margin is None) == (expected.margin is None)
            assert pick.margin is None or pick.margin == pytest.approx(expected.margin, abs=NOISE)
        error = oracles.solved(problem, ridge, [p.neuron for p in picks[: step + 1]])[0]
        assert pick.score == pytest.approx(error / whole if whole else 0, abs=NOISE)
    return clear


@pytest.mark.parametrize("ridge", RIDGES)
@pytest.mark.parametrize("columns, width", [(1, 12), (4, 5)])
def test_a_consumer_with_more_outputs_than_columns_is_no_different(columns, width, ridge):
    clear = 0
    for seed in range(4):
        problem = oracles.random_problem(np.random.default_rng(seed), width, columns, outputs=50, rows=90, sequential=True)
        clear += follow_and_compare(problem, ridge)
    assert clear >= 3 * (width - 2)


@pytest.mark.parametrize("ridge", RIDGES)
@pytest.mark.parametrize("sequential", [False, True], ids=["dense", "sequential"])
@pytest.mark.parametrize("columns, width", [(1, 12), (9, 6)], ids=["1x1", "3x3"])
def test_picks_and_errors_are_those_of_least_squares_solved_from_scratch(columns, width, sequential, ridge):
    clear = 0
    for seed in range(4):
        problem = oracles.random_problem(np.random.default_rng(seed), width, columns, outputs=7, rows=90, sequential=sequential)
        clear += follow_and_compare(problem, ridge)
    assert clear >= 3 * (width - 2)  # nearly every pick is decided by more than float noise


@pytest.mark.parametrize("ridge", RIDGES)
@pytest.mark.parametrize("columns", [1, 9])
def test_silent_and_duplicate_neurons_change_nothing_but_their_own_place(columns, ridge):
    for seed in range(4):
        problem = oracles.random_problem(np.random.default_rng(seed), 8, columns, outputs=5, rows=100)
        problem = oracles.with_faults(problem, silent=[0, 5], copies=[(6, 2), (7, 2)])
        follow_and_compare(problem, ridge)
        order = [pick.neuron for pick in forward(quadratic(problem), ridge)]
        assert order[-2:] == [0, 5]
        if ridge == 0:
            first = next(n for n in order if n in (2, 6, 7))
            assert order[4:6] == sorted({2, 6, 7} - {first})


@pytest.mark.parametrize("ridge", RIDGES)
def test_three_by_three_columns_on_maps_of_one_position_have_one_live_column(ridge):
    for seed in range(4):
        problem = oracles.random_problem(np.random.default_rng(seed), 7, 9, outputs=5, rows=60)
        follow_and_compare(oracles.with_faults(problem, only_tap=4, silent=[3]), ridge)


@pytest.mark.parametrize("ridge", RIDGES)
def test_a_grouped_consumer_is_the_sum_of_its_groups(ridge):
    random = np.random.default_rng(3)
    groups = [oracles.random_problem(random, 3, 9, outputs=3, rows=50) for _ in range(3)]
    problem = oracles.in_groups(groups)
    assert follow_and_compare(problem, ridge) >= 5
    if ridge == 0:  # with a ridge the pull's strength is the mean over all groups
        q, parts = quadratic(problem), [quadratic(group) for group in groups]
        kept = [[0, 2], [1], [0, 1]]
        flat = [group * 3 + neuron for group, own in enumerate(kept) for neuron in own]
        assert refit_error(q, flat) == pytest.approx(sum(refit_error(p, own) for p, own in zip(parts, kept)), rel=1e-9)
        assert plain_error(q, flat) == pytest.approx(sum(plain_error(p, own) for p, own in zip(parts, kept)), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 7), st.sampled_from([1, 4]), st.integers(1, 4), st.sampled_from(RIDGES), st.booleans(), st.booleans())
def test_any_problem_gives_a_falling_curve_a_true_guarantee_and_the_oracles_picks(seed, width, columns, outputs, ridge, sequential, faulty):
    random = np.random.default_rng(seed)
    problem = oracles.random_problem(random, width, columns, outputs, rows=6 * width * columns, sequential=sequential)
    if faulty:
        problem = oracles.with_faults(problem, silent=[int(random.integers(width))], copies=[tuple(random.integers(width, size=2))])
    follow_and_compare(problem, ridge)
    q, whole = quadratic(problem), oracles.total(problem, ridge)
    picks = forward(q, ridge)
    scores = [pick.score for pick in picks]
    assert all(later <= earlier + NOISE for earlier, later in zip([1.0, *scores], scores))
    for size in range(1, width + 1):
        kept = [pick.neuron for pick in picks[:size]]
        explained, best = (whole - value for value in (oracles.solved(problem, ridge, kept)[0], oracles.best_error(problem, ridge, size)))
        share = explained_share(q, ridge, kept)
        assert 0 <= share <= 1
        assert explained >= share * best - NOISE * whole


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.sampled_from([1, 9]), st.sampled_from(RIDGES))
def test_refitted_weights_and_errors_are_numpys(seed, width, columns, ridge):
    random = np.random.default_rng(seed)
    problem = oracles.random_problem(random, width, columns, outputs=3, rows=4 * width * columns, sequential=True)
    q, kept = quadratic(problem), list(random.permutation(width)[: random.integers(1, width + 1)])
    error, weights = oracles.solved(problem, ridge, kept)
    np.testing.assert_allclose(refit(ridged(q, ridge), kept).numpy(), weights, rtol=1e-7, atol=1e-9 * np.abs(weights).max())
    assert refit_error(ridged(q, ridge), kept) == pytest.approx(error, abs=NOISE * oracles.total(problem, ridge))
    at = problem.block(kept)
    plain = ((problem.wanted - problem.inputs[:, at] @ problem.weight[:, at].T) ** 2).sum()
    assert plain_error(q, kept) == pytest.approx(plain, rel=1e-9)


def test_a_refit_of_silent_columns_gives_them_no_weight():
    problem = oracles.with_faults(oracles.random_problem(np.random.default_rng(0), 3, 9, outputs=2, rows=40), only_tap=4)
    weights = refit(quadratic(problem), [0, 2]).numpy().reshape(2, 2, 9)
    assert np.abs(weights[:, :, 4]).min() > 1e-3
    assert np.abs(np.delete(weights, 4, axis=2)).max() < 1e-12


def test_the_dense_networks_own_statistics_need_no_wanted_output():
    problem = oracles.random_problem(np.random.default_rng(0), 5, 4, outputs=3, rows=50)
    q, measured = quadratic(problem), from_dense(torch.from_numpy(problem.inputs.T @ problem.inputs), torch.from_numpy(problem.weight), 4, EPS)
    torch.testing.assert_close(measured.cross, q.cross, rtol=1e-12, atol=1e-9)
    assert measured.total == pytest.approx(q.total, rel=1e-12)
    assert plain_error(measured, range(5)) == pytest.approx(0, abs=1e-9 * q.total)


def toy(inputs, weight, wanted=None, columns=1) -> Quadratic:
    inputs, weight = np.array(inputs, float), np.array(weight, float)
    return quadratic(Problem(inputs, inputs @ weight.T if wanted is None else np.array(wanted, float), weight, columns))


def test_two_neurons_by_hand():
    """H = (1, 1), (1, 0); W = (3, 1); F = (4, 3), T = 25. Neuron 0 alone: w = 7/2, explains 49/2. Neuron 1 alone: w = 4, explains 16."""
    q = toy([[1, 1], [1, 0]], [[3, 1]])
    first, second = forward(q, 0.0)
    assert (first.neuron, first.score, first.margin, first.candidates) == (0, pytest.approx(0.5 / 25), pytest.approx(8.5 / 25), 2)
    assert (second.neuron, second.score, second.margin, second.candidates) == (1, pytest.approx(0), None, 1)
    assert refit(q, [0]).tolist() == [[pytest.approx(3.5)]]
    assert plain_error(q, [0]) == pytest.approx(1)  # F - 3 h_0 = (1, 0)
    assert refit_error(q, []) == q.total == 25


def test_three_neurons_by_hand_the_second_pick_depends_on_the_first():
    """h_1 nearly repeats h_0: alone it is second best, after h_0 it adds nothing that h_2 does not beat."""
    q = toy([[2, 2, 0], [0, 0, 1], [0, 1, 0]], [[1, 1, 2]])  # F = (4, 2, 1), T = 21
    picks = forward(q, 0.0)
    # gains: h_0: 8^2/4 = 16; h_1: 9^2/5 = 16.2; h_2: 2^2/1 = 4
    assert picks[0].neuron == 1 and picks[0].margin == pytest.approx(0.2 / 21)
    # left of F after h_1: (0.4, 2, -0.8); of h_0: (0.4, 0, -0.8), gain (0.16 + 0.64)^2 / 0.8 = 0.8; h_2: 4
    assert picks[1].neuron == 2 and picks[1].margin == pytest.approx(3.2 / 21)
    assert [pick.score for pick in picks] == pytest.approx([4.8 / 21, 0.8 / 21, 0])


def test_a_block_gains_as_a_whole_not_as_the_sum_of_its_columns():
    """One neuron of two equal columns explains F = (1, 0) once: gain 1, where summing scalar gains would say 2."""
    q = toy([[1, 1], [0, 0], [0, 0]], [[0.5, 0.5]], columns=2)
    (pick,) = forward(q, 0.0)
    assert (q.total, pick.score) == (1, pytest.approx(0))
    other = toy([[1, 1, 0], [0, 0, 2]], [[0.5, 0.5, 0]], wanted=[[1], [1]], columns=1)
    assert [pick.neuron for pick in forward(other, 0.0)] == [0, 2, 1]


def test_equal_neurons_are_taken_by_index():
    q = toy(np.eye(4), [[1, 1, 1, 1]])
    picks = forward(q, 0.0)
    assert [(pick.neuron, pick.margin) for pick in picks] == [(0, 0.0), (1, 0.0), (2, 0.0), (3, None)]
    assert [pick.score for pick in picks] == [0.75, 0.5, 0.25, 0]


def test_dead_neurons_come_last_and_explained_ones_before_them_by_index():
    """Of 0 dead, 1 = 3 = 4 alike, 2 alone, 5 dead: one of the alike and 2 explain all."""
    inputs = np.zeros((3, 6))
    inputs[0, [1, 3, 4]], inputs[1, 2] = 2, 1
    picks = forward(toy(inputs, [[1, 1, 1, 1, 1, 1]]), 0.0)
    assert [pick.neuron for pick in picks] == [1, 2, 3, 4, 0, 5]
    assert [pick.candidates for pick in picks] == [4, 1, 4, 3, 2, 1]
    assert [pick.margin for pick in picks][1:] == [None] * 5


def test_a_ridge_keeps_duplicates_in_play_but_not_the_dead():
    inputs = np.zeros((3, 4))
    inputs[0, [1, 3]], inputs[1, 2] = 2, 1
    picks = forward(toy(inputs, [[1, 1, 1, 1]]), 1e-2)
    assert [pick.neuron for pick in picks][-1] == 0
    assert [pick.margin is None for pick in picks] == [False, False, True, True]


def test_the_first_count_picks_are_those_of_the_whole_order():
    q = quadratic(oracles.random_problem(np.random.default_rng(1), 9, 1, outputs=4, rows=60))
    whole = forward(q, 1e-2)
    for count in (0, 1, 5, 9):
        assert forward(q, 1e-2, count) == whole[:count]


def test_a_unit_whose_output_is_nothing_keeps_the_first_by_index():
    q = toy([[1, 2], [3, 5]], [[0, 0]])
    assert [(pick.neuron, pick.score) for pick in forward(q, 1e-2)] == [(0, 0.0), (1, 0.0)]
    assert explained_share(q, 1e-2, [0]) == 1.0
    silent = toy(np.zeros((2, 2)), [[1, 1]])
    assert [(pick.neuron, pick.score) for pick in forward(silent, 1e-2)] == [(0, 0.0), (1, 0.0)]


def test_the_share_promises_what_the_best_set_has_by_hand():
    """F = (4, 3), one neuron kept: f = 24.5 of 25; the best single neuron has 24.5, at least 24.5/25 x 24.5."""
    q = toy([[1, 1], [1, 0]], [[3, 1]])
    assert explained_share(q, 0.0, [0]) == pytest.approx(24.5 / 25)
    assert max(25 - refit_error(q, kept) for kept in combinations(range(2), 1)) == pytest.approx(24.5)


@pytest.mark.parametrize("precision", [EPS, float(np.finfo(np.float32).eps)])
def test_products_summed_in_single_precision_call_a_neuron_explained_sooner(precision):
    """h_1 = h_0 + 1e-4 e: its own part, 1e-8 of its square, is above float64's tolerance and below float32's."""
    inputs = np.array([[1.0, 1.0, 0], [0, 1e-4, 0], [0, 0, 1]])
    plain = quadratic(Problem(inputs, inputs @ np.array([[1.0, 1, 1]]).T, np.array([[1.0, 1, 1]]), 1))
    picks = forward(Quadratic(plain.gram, plain.cross, plain.total, plain.weight, 1, precision), 0.0)
    assert (picks[2].margin, picks[2].candidates) == (None, 1)
    assert {pick.neuron for pick in picks[:2]} & {0, 1} and 2 in {pick.neuron for pick in picks[:2]}
