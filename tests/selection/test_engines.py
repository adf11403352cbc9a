"""Engines backward and swap against least squares solved from scratch, against brute force and a toy worked by hand."""

import numpy as np
import pytest
import torch

from pipeline.selection.elimination import backward, forward
from pipeline.selection.quadratic import Quadratic, from_dense
from pipeline.selection.swap import swap
from tests.selection import least_squares as oracles
from tests.selection.least_squares import NOISE, Problem
from tests.selection.test_forward import EPS, quadratic

RIDGES = [1e-2, 1e-6]


def errors(problem: Problem, ridge: float, kept) -> dict[int, float]:
    """Error in shares of T' after each removal that is possible."""
    return {j: oracles.solved(problem, ridge, [k for k in kept if k != j])[0] / oracles.total(problem, ridge) for j in kept}


def correlated(problem: Problem, seed: int) -> Problem:
    """The same with every neuron's columns mixed with the others'."""
    random = np.random.default_rng(1000 + seed)
    inputs = problem.inputs @ (np.eye(problem.inputs.shape[1]) + 0.7 * random.standard_normal((problem.inputs.shape[1],) * 2))
    return Problem(inputs, (inputs + 0.3 * random.standard_normal(inputs.shape)) @ problem.weight.T, problem.weight, problem.columns)


def follow_removals(problem: Problem, ridge: float) -> int:
    """Walk the removals backwards through the picks, each solved from scratch; how many had a clear margin."""
    picks, clear, dead = backward(quadratic(problem), ridge), 0, oracles.dead(problem)
    kept = list(range(problem.width))
    assert sorted(pick.neuron for pick in picks) == kept
    assert [pick.neuron for pick in picks[len(kept) - len(dead) :]] == dead
    for pick in reversed(picks):
        assert pick.candidates == len(kept)
        assert pick.score == pytest.approx(oracles.solved(problem, ridge, kept)[0] / oracles.total(problem, ridge), abs=NOISE)
        if pick.neuron not in dead:
            ranked = sorted(errors(problem, ridge, kept).items(), key=lambda entry: entry[1])
            allowed = [j for j, error in ranked if error <= ranked[0][1] + NOISE]
            assert pick.neuron in allowed
            if len(ranked) > 1:
                assert pick.margin == pytest.approx(ranked[1][1] - ranked[0][1], abs=NOISE)
                clear += pick.margin > NOISE
            else:
                assert pick.margin is None
        kept.remove(pick.neuron)
    return clear


@pytest.mark.parametrize("ridge", RIDGES)
@pytest.mark.parametrize("sequential", [False, True], ids=["dense", "sequential"])
@pytest.mark.parametrize("columns, width", [(1, 12), (9, 6)], ids=["1x1", "3x3"])
def test_removals_and_errors_are_those_of_least_squares_solved_from_scratch(columns, width, sequential, ridge):
    clear = 0
    for seed in range(4):
        problem = oracles.random_problem(np.random.default_rng(seed), width, columns, outputs=7, rows=90, sequential=sequential)
        clear += follow_removals(problem, ridge)
    assert clear >= 3 * (width - 2)


@pytest.mark.parametrize("ridge", RIDGES)
@pytest.mark.parametrize("columns", [1, 9])
def test_silent_neurons_go_first_and_one_of_two_copies_goes_before_both(columns, ridge):
    for seed in range(4):
        problem = oracles.random_problem(np.random.default_rng(seed), 8, columns, outputs=5, rows=100)
        follow_removals(oracles.with_faults(problem, silent=[0, 5], copies=[(6, 2)]), ridge)


def toy() -> Quadratic:
    """Neurons a = (.8, .8, .6), b = (1, 0, 0), c = (0, 1, 0), d = (0, 0, .1) on three rows; outputs b + .2 c and .2 b + c."""
    rows = torch.tensor([[0.8, 1.0, 0.0, 0.0], [0.8, 0.0, 1.0, 0.0], [0.6, 0.0, 0.0, 0.1]], dtype=torch.float64)
    weight = torch.tensor([[0.0, 1.0, 0.2, 0.0], [0.0, 0.2, 1.0, 0.0]], dtype=torch.float64)
    return from_dense(rows.T @ rows, weight, 1, EPS)


def test_forward_takes_a_neuron_that_sees_both_outputs_and_backward_finds_the_two_that_are_enough():
    """a explains 2 x .96^2 / 1.64 = 1.124, b and c 1 + .2^2 = 1.04 each: forward begins with a and cannot undo it."""
    assert [pick.neuron for pick in forward(toy(), 1e-9)][0] == 0
    first = backward(toy(), 1e-9)
    assert {pick.neuron for pick in first[:2]} == {1, 2} and first[1].score < 1e-8
    assert first[0].score == pytest.approx(0.5) and first[1].margin == pytest.approx(0, abs=1e-8)  # b or c alone: half of 2.08


def test_a_swap_trades_the_neuron_that_does_nothing_for_the_one_that_is_missing():
    assert sorted(swap(toy(), 1e-9, [1, 3])) == [1, 2]
    assert swap(toy(), 1e-9, [1, 2]) == [1, 2]


@pytest.mark.parametrize("ridge", RIDGES)
@pytest.mark.parametrize("columns, width", [(1, 12), (9, 7)], ids=["1x1", "3x3"])
def test_swaps_never_fit_worse_than_their_start_nor_better_than_the_best_set(columns, width, ridge):
    better, size = 0, width // 2
    for seed in range(12):
        given = correlated(oracles.random_problem(np.random.default_rng(seed), width, columns, outputs=4, rows=90, sequential=True), seed)
        for start in ([pick.neuron for pick in engine(quadratic(given), ridge)][:size] for engine in (forward, backward)):
            kept = swap(quadratic(given), ridge, start)
            assert len(set(kept)) == size and set(kept) <= set(range(width))
            before, after = (oracles.solved(given, ridge, chosen)[0] for chosen in (start, kept))
            assert after <= before * (1 + NOISE) and after >= oracles.best_error(given, ridge, size) * (1 - NOISE)
            assert kept == start or after < before - 1e-10 * oracles.total(given, ridge)
            better += kept != start
    assert better >= 3


@pytest.mark.parametrize("kept", [[], [0, 1, 2, 3, 4, 5]])
def test_nothing_and_everything_stay_as_they_are(kept):
    given = quadratic(oracles.random_problem(np.random.default_rng(0), 6, 1, outputs=3, rows=30))
    assert swap(given, 1e-2, kept) == kept
