"""Engine `forward`: greedy choice of neurons to be re-fitted, by pivoted block elimination on (G', C')."""

from dataclasses import dataclass

import torch

from pipeline.selection.quadratic import Quadratic, ridged


@dataclass(frozen=True)
class Pick:
    """One greedy choice: the neuron, error(S) / T' after it, distance to the second best, how many were tried."""

    neuron: int
    score: float
    margin: float | None
    candidates: int


def forward(q: Quadratic, ridge: float, count: int | None = None) -> list[Pick]:
    """The first `count` (None = all) neurons in greedy order; one pass gives the order of every width.

    The gain of j is tr(C_j R_jj^-1 C_j^T) on the residual matrices; each pick is eliminated by one rank-K update. Dead
    neurons come last, by index; neurons the picked ones explain come before them, by index. Ties go to the lowest index.
    """
    full = ridged(q, ridge)
    gram, cross, columns, width = full.gram.clone(), full.cross.clone(), q.columns, q.width
    count = width if count is None else count
    total = full.total if full.total > 0 else 1.0
    strength = float(full.gram.diagonal().mean() - q.gram.diagonal().mean()) * columns
    trace = _traces(q.gram, columns)
    dead = trace <= q.tolerance * trace.mean()
    open_ = ~dead
    error, picks = full.total, []
    while len(picks) < count:
        eligible = open_ & (_traces(gram, columns) - strength > q.tolerance * trace)
        if not bool(eligible.any()):
            break
        gains = torch.where(eligible, _gains(gram, cross, columns, q.tolerance), -torch.inf)
        best = int(gains.argmax())
        best = int(torch.nonzero(gains == gains[best])[0])
        others = gains.clone()
        others[best] = -torch.inf
        margin = float(gains[best] - others.max()) / total if int(eligible.sum()) > 1 else None
        error = max(error - float(gains[best]), 0.0)
        picks.append(Pick(best, error / total, margin, int(eligible.sum())))
        open_[best] = False
        _eliminate(gram, cross, best, columns, q.tolerance)
    rest = [int(j) for j in torch.nonzero(open_).flatten()] + [int(j) for j in torch.nonzero(dead).flatten()]
    for i, j in enumerate(rest[: count - len(picks)]):
        if strength > 0:  # its own pull toward the old weights is still in T'; without ridge it adds nothing
            error = max(error - _eliminate(gram, cross, j, columns, q.tolerance), 0.0)
        picks.append(Pick(j, error / total, None, len(rest) - i))
    return picks


def _traces(gram: torch.Tensor, columns: int) -> torch.Tensor:
    return gram.diagonal().view(-1, columns).sum(1)


def _gains(gram, cross, columns, tolerance) -> torch.Tensor:
    """tr(C_j R_jj^-1 C_j^T) of every neuron j: (N,)."""
    if columns == 1:
        return (cross**2).sum(0) / gram.diagonal()
    width = gram.shape[0] // columns
    blocks = gram.view(width, columns, width, columns).diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()
    parts = cross.view(-1, width, columns).permute(1, 2, 0)
    factor, failed = torch.linalg.cholesky_ex(blocks)
    gains = (torch.linalg.solve_triangular(factor, parts, upper=False) ** 2).sum((1, 2))
    weak = (failed > 0) | (factor.diagonal(dim1=1, dim2=2).amin(1) ** 2 <= tolerance * blocks.diagonal(dim1=1, dim2=2).amax(1))
    if bool(weak.any()):  # rank-deficient blocks, such as 3 x 3 columns on 1 x 1 maps
        inverse = torch.linalg.pinv(blocks[weak], hermitian=True, rtol=tolerance)
        gains[weak] = torch.einsum("jkm,jkl,jlm->j", parts[weak], inverse, parts[weak])
    return gains


def _eliminate(gram, cross, neuron, columns, tolerance) -> float:
    """Take what neuron j explains out of the residual matrices, in place; its gain."""
    at = slice(neuron * columns, (neuron + 1) * columns)
    rows, part, pivot = gram[at].clone(), cross[:, at].clone(), gram[at, at]
    inverse = 1 / pivot if columns == 1 else torch.linalg.pinv(pivot, hermitian=True, rtol=tolerance)
    explained = inverse @ rows
    gram.sub_(rows.T @ explained)
    cross.sub_(part @ explained)
    return float(((part @ inverse) * part).sum())
