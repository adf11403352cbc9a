"""Brute force, written without the product: every candidate's re-fit solved from scratch, in float64."""

import numpy as np


def ridged(gram, cross, total, weight, ridge):
    """G + l I, C + l W, T + l ||W||^2 with l = ridge x mean diagonal."""
    strength = ridge * np.trace(gram) / len(gram)
    return gram + strength * np.eye(len(gram)), cross + strength * weight, total + strength * (weight**2).sum()


def columns_of(kept, k):
    return [j * k + c for j in kept for c in range(k)]


def refit_error(gram, cross, total, kept, k):
    """T - tr(C_S G_SS^+ C_S^T)."""
    at = columns_of(kept, k)
    part = cross[:, at]
    return total - np.trace(part @ np.linalg.pinv(gram[np.ix_(at, at)], rcond=1e-11, hermitian=True) @ part.T)


def greedy(gram, cross, total, weight, k, ridge, dead=()):
    """[(neuron, error, margin, all errors)]: at each step the neuron whose addition leaves the least error, re-fitted anew.

    `dead` neurons are no candidates (a ridge would give them a gain for their old weights) and come last, by index.
    """
    gram, cross, total = ridged(gram, cross, total, weight, ridge)
    left, kept, steps = [j for j in range(len(gram) // k) if j not in dead], [], []
    while left:
        errors = {j: refit_error(gram, cross, total, [*kept, j], k) for j in left}
        ranked = sorted(errors.values())
        best = min(left, key=lambda j: (errors[j], j))
        steps.append((best, errors[best], ranked[1] - ranked[0] if len(ranked) > 1 else np.inf, errors))
        kept.append(best)
        left.remove(best)
    for j in sorted(dead):
        kept.append(j)
        steps.append((j, refit_error(gram, cross, total, kept, k), 0.0, {}))
    return steps, total
