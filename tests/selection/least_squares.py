"""Slow and plain answers to compare the product with: numpy only, nothing from pipeline.selection or pipeline.search.

Every error is that of a least-squares problem solved from scratch, so nothing of the elimination is repeated here.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

NOISE = 1e-9  # a margin below this share of T' is float noise


@dataclass(frozen=True)
class Problem:
    """Rows of a consumer's input H (rows, N K), its wanted output F (rows, M), its weight (M, N K)."""

    inputs: np.ndarray
    wanted: np.ndarray
    weight: np.ndarray
    columns: int

    @property
    def width(self) -> int:
        return self.inputs.shape[1] // self.columns

    def block(self, neurons) -> np.ndarray:
        return np.concatenate([np.arange(j * self.columns, (j + 1) * self.columns) for j in neurons]) if len(neurons) else np.zeros(0, int)


def ridged_rows(problem: Problem, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """The ridge toward the old weights as extra rows: sqrt(l) I asks each weight to stay sqrt(l) W."""
    strength = ridge * (problem.inputs**2).sum() / problem.inputs.shape[1]
    pull = np.sqrt(strength) * np.eye(problem.inputs.shape[1])
    return np.vstack([problem.inputs, pull]), np.vstack([problem.wanted, np.sqrt(strength) * problem.weight.T])


def solved(problem: Problem, ridge: float, neurons) -> tuple[float, np.ndarray]:
    """(squared error, weights (M, n K)) of the best weights on these neurons, by numpy's lstsq."""
    inputs, wanted = ridged_rows(problem, ridge)
    at = problem.block(neurons)
    weights = np.linalg.lstsq(inputs[:, at], wanted, rcond=1e-12)[0] if len(at) else np.zeros((0, wanted.shape[1]))
    return float(((wanted - inputs[:, at] @ weights) ** 2).sum()), weights.T


def total(problem: Problem, ridge: float) -> float:
    return float((ridged_rows(problem, ridge)[1] ** 2).sum())


def dead(problem: Problem) -> list[int]:
    """Neurons whose columns are silent on all rows."""
    return [j for j in range(problem.width) if not problem.inputs[:, problem.block([j])].any()]


def explained(problem: Problem, neurons) -> list[int]:
    """Unpicked, living neurons whose columns are combinations of the picked ones' (only without ridge)."""
    picked = problem.inputs[:, problem.block(neurons)]
    found = []
    for j in sorted(set(range(problem.width)) - set(neurons) - set(dead(problem))):
        own = problem.inputs[:, problem.block([j])]
        rest = own - picked @ np.linalg.lstsq(picked, own, rcond=1e-12)[0] if len(neurons) else own
        if (rest**2).sum() < 1e-16 * (own**2).sum():
            found.append(j)
    return found


@dataclass(frozen=True)
class Step:
    """One greedy choice: every neuron within float noise of the best is allowed; margin in shares of T'."""

    allowed: list[int]
    error: float
    margin: float | None


def greedy_step(problem: Problem, ridge: float, picked: list[int]) -> Step | None:
    """The re-fit solved from scratch for every candidate; None when only explained and dead neurons are left."""
    gone = set(picked) | set(dead(problem)) | (set() if ridge else set(explained(problem, picked)))
    errors = {j: solved(problem, ridge, [*picked, j])[0] / total(problem, ridge) for j in range(problem.width) if j not in gone}
    if not errors:
        return None
    lowest = min(errors.values())
    allowed = [j for j, error in errors.items() if error <= lowest + NOISE]
    ranked = sorted(errors.values())
    return Step(allowed, lowest, ranked[1] - ranked[0] if len(ranked) > 1 else None)


def best_error(problem: Problem, ridge: float, size: int) -> float:
    """The lowest error of any set of `size` neurons, by trying all."""
    return min(solved(problem, ridge, list(kept))[0] for kept in combinations(range(problem.width), size))


def random_problem(random: np.random.Generator, width: int, columns: int, outputs: int, rows: int, sequential=False) -> Problem:
    """Neurons of very different strength; `sequential`: F comes from other inputs than H, as in a drifted network."""
    inputs = random.standard_normal((rows, width * columns)) * np.repeat(10 ** random.uniform(-1, 1, width), columns)
    weight = random.standard_normal((outputs, width * columns))
    source = inputs + 0.3 * random.standard_normal(inputs.shape) if sequential else inputs
    return Problem(inputs, source @ weight.T, weight, columns)


def with_faults(problem: Problem, silent=(), copies=(), only_tap=None) -> Problem:
    """The problem with silent neurons, neurons that copy another (to, source), or one live column of K (1 x 1 maps)."""
    inputs = problem.inputs.copy()
    for target, source in copies:
        inputs[:, problem.block([target])] = inputs[:, problem.block([source])]
    if only_tap is not None:
        inputs.reshape(len(inputs), problem.width, problem.columns)[:, :, np.arange(problem.columns) != only_tap] = 0
    for neuron in silent:
        inputs[:, problem.block([neuron])] = 0
    wanted = problem.wanted + (inputs - problem.inputs) @ problem.weight.T
    return Problem(inputs, wanted, problem.weight, problem.columns)


def in_groups(problems: list[Problem]) -> Problem:
    """A grouped consumer: each group's outputs read only its own neurons; G is block-diagonal where the groups do not meet.

    The groups' rows are stacked one below the other, so that no row holds neurons of two groups.
    """
    columns = problems[0].columns

    def diagonal(parts):
        whole = np.zeros((sum(len(p) for p in parts), sum(p.shape[1] for p in parts)))
        row = column = 0
        for part in parts:
            whole[row : row + len(part), column : column + part.shape[1]] = part
            row, column = row + len(part), column + part.shape[1]
        return whole

    return Problem(*(diagonal([getattr(p, name) for p in problems]) for name in ("inputs", "wanted", "weight")), columns)
