"""Several consumers of one unit: error(S) = sum over c of error_c(S) / T_c, against least squares solved consumer by consumer."""

from itertools import combinations

import numpy as np
import pytest
import torch

from pipeline.selection.elimination import backward, forward
from pipeline.selection.joint import join, separate
from pipeline.selection.quadratic import Quadratic, refit, refit_error, ridged
from pipeline.selection.swap import swap
from tests.selection.least_squares import Problem, solved

RIDGE = 1e-2


def problems(seed=0, width=5) -> list[Problem]:
    """Three consumers of five neurons that read other rows, with 1, 4 and 2 columns per neuron, of very different sizes."""
    random, found = np.random.default_rng(seed), []
    for columns, outputs, rows, size in ((1, 3, 40, 1.0), (4, 2, 30, 100.0), (2, 4, 50, 0.01)):
        inputs = random.standard_normal((rows, width * columns)) @ random.standard_normal((width * columns,) * 2) * size
        weight = random.standard_normal((outputs, width * columns))
        found.append(Problem(inputs, inputs @ weight.T + 0.1 * size * random.standard_normal((rows, outputs)), weight, columns))
    return found


def quadratic(problem: Problem) -> Quadratic:
    inputs, wanted = torch.from_numpy(problem.inputs), torch.from_numpy(problem.wanted)
    return Quadratic(inputs.T @ inputs, wanted.T @ inputs, float((wanted**2).sum()), torch.from_numpy(problem.weight), problem.columns, 2e-16)


def error(given: list[Problem], neurons) -> float:
    """The sum over the consumers of their error as a share of their own T."""
    return sum(solved(problem, RIDGE, neurons)[0] / (problem.wanted**2).sum() for problem in given)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_joint_error_is_the_sum_of_each_consumers_share(seed):
    given = problems(seed)
    full = ridged(join([quadratic(problem) for problem in given]), RIDGE)
    for size in range(6):
        for neurons in combinations(range(5), size):
            assert refit_error(full, list(neurons)) == pytest.approx(error(given, neurons), rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("kept", [(3,), (4, 0, 2), (1, 2, 3, 4, 0)])
def test_each_consumer_is_refitted_by_itself(kept):
    given = problems()
    joint = join([quadratic(problem) for problem in given])
    found = separate(joint, refit(ridged(joint, RIDGE), kept))
    assert len(found) == 3
    for weight, problem in zip(found, given):
        np.testing.assert_allclose(weight.numpy(), solved(problem, RIDGE, kept)[1], rtol=1e-7)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_engines_take_the_neuron_that_helps_all_consumers_most(seed):
    given, picks = problems(seed), []
    joint = join([quadratic(problem) for problem in given])
    for pick in forward(joint, RIDGE):
        errors = {j: error(given, [*picks, j]) for j in range(5) if j not in picks}
        assert pick.neuron == min(errors, key=errors.get)
        picks.append(pick.neuron)
    left = list(range(5))
    for pick in backward(joint, RIDGE)[:0:-1]:
        errors = {j: error(given, [i for i in left if i != j]) for j in left}
        assert pick.neuron == min(errors, key=errors.get)
        left.remove(pick.neuron)
    best = min(combinations(range(5), 2), key=lambda pair: error(given, pair))
    assert error(given, best) <= error(given, swap(joint, RIDGE, picks[:2])) <= error(given, picks[:2])


def test_one_consumer_is_itself_and_a_silent_one_asks_for_nothing():
    first, second, _ = (quadratic(problem) for problem in problems())
    assert join([first]) is first and separate(first, first.weight)[0] is first.weight
    silent = Quadratic(torch.zeros(20, 20).double(), torch.zeros(2, 20).double(), 0.0, second.weight, 4, 2e-16)
    alone, both = forward(first, RIDGE), forward(join([first, silent]), RIDGE)
    assert [pick.neuron for pick in both] == [pick.neuron for pick in alone]
