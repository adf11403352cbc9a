"""Several consumers of one unit as one quadratic: error(S) = sum over c of error_c(S) / T_c, each with its own G, C, T and ridge."""

from dataclasses import dataclass

import torch

from pipeline.selection.quadratic import Quadratic


@dataclass(frozen=True)
class Part:
    """A consumer's place in a joint quadratic: its outputs, its columns per neuron, what its columns were scaled by."""

    outputs: int
    columns: int
    scale: float


def join(quadratics: list[Quadratic]) -> Quadratic:
    """One quadratic whose blocks hold each consumer's G / (mean diagonal) and C / sqrt(T x mean diagonal); T = their number.

    Scaling a consumer's columns changes no error; scaled so that all have the mean diagonal 1, one ridge is the ridge of
    each. Blocks between consumers are 0: gains add, and each is re-fitted by itself.
    """
    if len(quadratics) == 1:
        return quadratics[0]
    width, columns, outputs = quadratics[0].width, sum(q.columns for q in quadratics), sum(len(q.weight) for q in quadratics)
    gram = quadratics[0].gram.new_zeros(width, columns, width, columns)
    cross, weight = (gram.new_zeros(outputs, width, columns) for _ in range(2))
    parts, total, left, top = [], 0.0, 0, 0
    for q in quadratics:
        mean, size = float(q.gram.diagonal().mean()), q.total
        scale = (size / mean) ** 0.5 if mean > 0 and size > 0 else 1.0
        divisor = size if mean > 0 and size > 0 else 1.0
        at, rows = slice(left, left + q.columns), slice(top, top + len(q.weight))
        gram[:, at, :, at] = (q.gram * (scale**2 / divisor)).view(width, q.columns, width, q.columns)
        cross[rows, :, at] = (q.cross * (scale / divisor)).view(-1, width, q.columns)
        weight[rows, :, at] = (q.weight / scale).view(-1, width, q.columns)
        parts.append(Part(len(q.weight), q.columns, scale))
        total, left, top = total + size / divisor, at.stop, rows.stop
    precision = max(q.precision for q in quadratics)
    means = tuple(one for q in quadratics for one in q.means)
    return Quadratic(gram.flatten(0, 1).flatten(1), cross.flatten(1), total, weight.flatten(1), columns, precision, tuple(parts), means)


def separate(q: Quadratic, weight: torch.Tensor) -> list[torch.Tensor]:
    """Re-fitted columns of a joint quadratic (M, nK), consumer by consumer as each has them: (M_c, n K_c)."""
    if not q.parts:
        return [weight]
    tiles, found, left, top = weight.view(len(weight), -1, q.columns), [], 0, 0
    for part in q.parts:
        own = tiles[top : top + part.outputs, :, left : left + part.columns]
        found.append((own * part.scale).flatten(1))
        left, top = left + part.columns, top + part.outputs
    return found
