"""Re-fit affine: the centred quadratic against least squares with a column of ones, and against toys worked by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.selection.elimination import backward, forward
from pipeline.selection.quadratic import Quadratic, centred, from_dense, intercept, nested_errors, refit, refit_error, ridged
from pipeline.selection.swap import swap
from tests.selection import least_squares as oracles
from tests.selection.least_squares import NOISE, Problem

EPS = float(np.finfo(np.float64).eps)


def about_means(problem: Problem) -> Quadratic:
    """The product's centred quadratic from plain sums over the rows."""
    inputs, wanted, weight = (torch.from_numpy(np.ascontiguousarray(value)) for value in (problem.inputs, problem.wanted, problem.weight))
    plain = Quadratic(inputs.T @ inputs, wanted.T @ inputs, float((wanted**2).sum()), weight, problem.columns, EPS)
    return centred(plain, torch.cat([inputs.sum(0), torch.tensor([float(len(inputs))])]), wanted.sum(0))


def shifted(problem: Problem, seed: int) -> Problem:
    """The same problem about means that are not zero, of H and, as in a drifted network, of F by themselves."""
    random = np.random.default_rng(seed)
    inputs, wanted = (values + random.normal(0, 2 * values.std(), values.shape[1]) for values in (problem.inputs, problem.wanted))
    return Problem(inputs, wanted, problem.weight, problem.columns)


def with_ones(problem: Problem, ridge: float, kept) -> tuple[float, np.ndarray, np.ndarray]:
    """(squared error with the pull, weights, intercept) by torch's lstsq on the rows with a column of ones, which no pull touches."""
    deviations = problem.inputs - problem.inputs.mean(0)
    strength = ridge * (deviations**2).sum() / deviations.shape[1]
    pull = np.sqrt(strength) * np.eye(problem.inputs.shape[1])
    rows = np.hstack([np.vstack([problem.inputs, pull])[:, problem.block(kept)], np.repeat([1.0, 0.0], [len(deviations), len(pull)])[:, None]])
    wanted = np.vstack([problem.wanted, np.sqrt(strength) * problem.weight.T])
    found = torch.linalg.lstsq(torch.from_numpy(rows), torch.from_numpy(wanted), driver="gelsd").solution.numpy()
    return float(((wanted - rows @ found) ** 2).sum()), found[:-1].T, found[-1]


def test_a_dropped_constant_neuron_costs_nothing_worked_by_hand():
    # h0 = 1, 2, 3 and h1 = 5, 5, 5; f = 2 h0 + 3 h1 = 17, 19, 21. About the means: h0 = -1, 0, 1, h1 = 0, f = -2, 0, 2
    problem = Problem(np.array([[1.0, 5], [2, 5], [3, 5]]), np.array([[17.0], [19], [21]]), np.array([[2.0, 3]]), 1)
    q = about_means(problem)
    assert q.gram.tolist() == [[2, 0], [0, 0]] and q.cross.tolist() == [[4, 0]] and q.total == 8
    assert [pick.neuron for pick in forward(q, 0.0)] == [0, 1]
    weight = refit(q, [0])
    assert weight.item() == pytest.approx(2) and refit_error(q, [0]) == pytest.approx(0, abs=1e-12)  # 4 / 2, and 8 - 4 * 2
    assert intercept(q.means[0], 1, [0], weight).item() == pytest.approx(15)  # 19 - 2 * 2: the constant 3 * 5
    plain = Quadratic(*(torch.from_numpy(v) for v in (problem.inputs.T @ problem.inputs, problem.wanted.T @ problem.inputs)), 0.0, None, 1, EPS)
    assert refit(plain, [0]).item() == pytest.approx(118 / 14)  # without an intercept: 17 + 38 + 63 over 1 + 4 + 9


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(1, 8), (4, 5)]), st.booleans(), st.sampled_from([0.0, 1e-3, 1e-1]), st.data())
def test_weights_intercept_and_error_are_those_of_least_squares_with_a_column_of_ones(seed, shape, sequential, ridge, data):
    columns, width = shape
    problem = shifted(oracles.random_problem(np.random.default_rng(seed), width, columns, outputs=6, rows=80, sequential=sequential), seed)
    kept = data.draw(st.lists(st.integers(0, width - 1), min_size=1, unique=True))
    error, weights, added = with_ones(problem, ridge, kept)
    full = ridged(about_means(problem), ridge)
    found = refit(full, kept)
    np.testing.assert_allclose(found, weights, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(intercept(full.means[0], columns, kept, found), added, rtol=1e-6, atol=1e-7)
    assert refit_error(full, kept) == pytest.approx(error, rel=1e-7, abs=1e-9 * full.total)


@pytest.mark.parametrize("ridge", [1e-2, 0.0])
@pytest.mark.parametrize("columns, width", [(1, 10), (4, 5)])
def test_the_greedy_picks_are_those_of_the_best_fit_with_an_intercept_for_every_candidate(columns, width, ridge):
    for seed in range(3):
        problem = shifted(oracles.random_problem(np.random.default_rng(seed), width, columns, outputs=6, rows=80, sequential=True), seed)
        q, picked = about_means(problem), []
        for pick in forward(q, ridge):
            errors = {j: with_ones(problem, ridge, [*picked, j])[0] for j in range(width) if j not in picked}
            total = ridged(q, ridge).total
            assert errors[pick.neuron] <= min(errors.values()) + NOISE * total
            assert pick.score == pytest.approx(errors[pick.neuron] / total, abs=NOISE)
            picked.append(pick.neuron)
        nested = nested_errors(ridged(q, ridge), picked)
        assert nested == pytest.approx([with_ones(problem, ridge, picked[: n + 1])[0] / total for n in range(width)], abs=NOISE)


def test_backward_and_swap_search_the_same_objective():
    problem = shifted(oracles.random_problem(np.random.default_rng(3), 8, 1, outputs=5, rows=60), 3)
    q, best = about_means(problem), float("inf")
    order = [pick.neuron for pick in backward(q, 1e-2)]
    errors = {last: with_ones(problem, 1e-2, [j for j in range(8) if j != last])[0] for last in range(8)}
    assert min(errors, key=errors.get) == order[-1]
    best = min(with_ones(problem, 1e-2, [a, b, c])[0] for a in range(8) for b in range(a) for c in range(b))
    assert with_ones(problem, 1e-2, swap(q, 1e-2, order[:3]))[0] <= with_ones(problem, 1e-2, order[:3])[0]
    assert with_ones(problem, 1e-2, swap(q, 1e-2, order[:3]))[0] == pytest.approx(best, rel=0.05)


def test_a_large_constant_measured_in_single_precision_is_no_living_neuron():
    """Its centred products are rounding alone; by its plain products it is the largest of all."""
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(4000, 6, generator=random)
    rows[:, 2] = 700.3
    rows[:, 4] = 0.1
    gram, sums = (rows.T @ rows).double(), torch.cat([rows.sum(0), torch.tensor([4000.0])]).double()
    weight = torch.randn(3, 6, generator=random, dtype=torch.float64)
    plain = from_dense(gram, weight, 1, torch.finfo(torch.float32).eps)
    for ridge in (0.0, 1e-2):
        picks = forward(centred(plain, sums, weight @ sums[:-1]), ridge)
        assert [pick.neuron for pick in picks][-2:] == [2, 4] and [pick.candidates for pick in picks] == [4, 3, 2, 1, 2, 1]
    assert forward(plain, 1e-2)[0].neuron == 2


def test_outputs_that_never_change_are_all_intercept():
    problem = Problem(np.full((5, 3), 2.0), np.full((5, 2), 7.0), np.ones((2, 3)), 1)
    q = about_means(problem)
    assert (q.total, [pick.score for pick in forward(q, 1e-2)]) == (0, [0, 0, 0])
    weight = refit(ridged(q, 1e-2), [1])
    assert (2 * weight.sum(1) + intercept(q.means[0], 1, [1], weight)).tolist() == [7, 7]
