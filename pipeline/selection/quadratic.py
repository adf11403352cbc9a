"""The quadratic of one unit: how well kept neurons, re-fitted or not, give the consumer's dense output (design, section 3)."""

from dataclasses import dataclass, replace

import torch

RIDGE_FREE_TOLERANCE = 100.0  # times the precision of the products: what counts as a dead or an exhausted neuron


@dataclass(frozen=True)
class Means:
    """Means over positions, float64: of the columns that the consumer reads (NK,), of its dense output before the bias (M,)."""

    inputs: torch.Tensor
    outputs: torch.Tensor


@dataclass(frozen=True)
class Quadratic:
    """Sums over samples and positions, float64: G = H H^T (NK, NK), C = F H^T (M, NK), T = ||F||^2; W (M, NK) as it was.

    K = columns per neuron; `precision` = machine epsilon of the products summed into G; `parts` = the consumers of a joint one;
    `means` of each consumer where it is centred; `groups` = equal groups of neurons of which as many are chosen from each.
    """

    gram: torch.Tensor
    cross: torch.Tensor
    total: float
    weight: torch.Tensor
    columns: int
    precision: float
    parts: tuple = ()
    means: tuple = ()
    groups: int = 1

    @property
    def width(self) -> int:
        return self.gram.shape[0] // self.columns

    @property
    def tolerance(self) -> float:
        return RIDGE_FREE_TOLERANCE * self.precision

    def block(self, kept) -> torch.Tensor:
        """Column indices of the kept neurons, in their order."""
        kept = torch.as_tensor(kept, dtype=torch.long, device=self.gram.device)
        return (kept.view(-1, 1) * self.columns + torch.arange(self.columns, device=kept.device)).flatten()


def as_blocks(sums: torch.Tensor) -> torch.Tensor:
    """G or C of a grouped consumer, which is summed group by group (g, ., .), with zeros between the groups; others as they are."""
    return torch.block_diag(*sums) if sums.ndim == 3 else sums


def from_dense(gram: torch.Tensor, weight: torch.Tensor, columns: int, precision: float) -> Quadratic:
    """The quadratic of a unit measured in the dense network itself: there F = W H, so C = W G and T = tr(W G W^T)."""
    cross = weight @ gram
    return Quadratic(gram, cross, float((cross * weight).sum()), weight, columns, precision)


def centred(q: Quadratic, sums: torch.Tensor, output_sums: torch.Tensor, groups: int = 1) -> Quadratic:
    """The quadratic about the means: its least squares are those with an intercept, which no ridge holds back.

    `sums` (NK + 1,) = sums of H's columns, then the number of positions; `output_sums` (M,) = sums of F's rows; `groups` of
    the consumer. What a column that never changes leaves is the rounding of its products: made zero, or it would count as
    a living one.
    """
    count, means = sums[-1], Means(sums[:-1] / sums[-1], output_sums / sums[-1])
    gram = q.gram - count * _outer(means.inputs, means.inputs, groups)
    cross = q.cross - count * _outer(means.outputs, means.inputs, groups)
    constant = gram.diagonal() <= q.tolerance * q.gram.diagonal()
    gram[constant], gram[:, constant], cross[:, constant] = 0.0, 0.0, 0.0
    total = max(q.total - float(count * (means.outputs**2).sum()), 0.0)
    return replace(q, gram=gram, cross=cross, total=total, means=(means,))


def _outer(rows: torch.Tensor, columns: torch.Tensor, groups: int) -> torch.Tensor:
    """The outer product (rows, columns), of a grouped consumer within its groups alone."""
    if groups == 1:
        return torch.outer(rows, columns)
    return as_blocks(rows.view(groups, -1, 1) * columns.view(groups, 1, -1))


def intercept(means: Means, columns: int, kept, weight: torch.Tensor) -> torch.Tensor:
    """b = mean F - W_S mean H_S (M,): what goes with a consumer's re-fitted weights (M, nK) of K columns per neuron."""
    at = (torch.tensor(kept, dtype=torch.long).view(-1, 1) * columns + torch.arange(columns)).flatten()
    return means.outputs - weight @ means.inputs[at]


def ridged(q: Quadratic, ridge: float) -> Quadratic:
    """G' = G + l I, C' = C + l W, T' = T + l ||W||^2 with l = ridge x mean diagonal of G: a pull toward the old weights."""
    strength = ridge * float(q.gram.diagonal().mean())
    gram = q.gram + strength * torch.eye(len(q.gram), dtype=q.gram.dtype, device=q.gram.device)
    return replace(q, gram=gram, cross=q.cross + strength * q.weight, total=q.total + strength * float((q.weight**2).sum()))


def refit(q: Quadratic, kept) -> torch.Tensor:
    """W_S = C_S G_SS^-1 (M, nK): the least-squares weights of the kept neurons."""
    at = q.block(kept)
    gram, cross = q.gram[at][:, at], q.cross[:, at]
    factor, failed = torch.linalg.cholesky_ex(gram)
    if int(failed) == 0 and float(factor.diagonal().min()) ** 2 > q.tolerance * float(gram.diagonal().max()):
        return torch.cholesky_solve(cross.T, factor).T
    return cross @ torch.linalg.pinv(gram, hermitian=True, rtol=q.tolerance)


def refit_error(q: Quadratic, kept) -> float:
    """error(S) = T - tr(C_S G_SS^-1 C_S^T): the squared error left after the re-fit."""
    if not len(kept):
        return q.total
    return max(q.total - float((refit(q, kept) * q.cross[:, q.block(kept)]).sum()), 0.0)


def nested_errors(q: Quadratic, order) -> list[float] | None:
    """error(S) / T after the re-fit of the first 1, 2, ... neurons of an order of all, from one factorisation; None where G has no inverse."""
    at = q.block(order)
    factor, failed = torch.linalg.cholesky_ex(q.gram[at][:, at])
    if int(failed) or q.total <= 0:
        return None
    explained = (torch.linalg.solve_triangular(factor, q.cross[:, at].T, upper=False) ** 2).sum(1)
    left = q.total - explained.view(-1, q.columns).sum(1).cumsum(0)
    return (left / q.total).clamp_min(0.0).tolist()


def plain_error(q: Quadratic, kept) -> float:
    """error(S) = T - 2 tr(C_S W_S^T) + tr(W_S G_SS W_S^T): the squared error with the old weights."""
    at = q.block(kept)
    weight = q.weight[:, at]
    return max(q.total - 2 * float((q.cross[:, at] * weight).sum()) + float(((weight @ q.gram[at][:, at]) * weight).sum()), 0.0)
