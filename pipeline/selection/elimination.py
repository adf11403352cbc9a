"""Engines `forward` and `backward`: greedy orders of neurons to be re-fitted, by pivoted block elimination.

Forward eliminates on (G', C') the neuron that explains most; backward on (G'^-1, C' G'^-1) the one whose loss costs least: there
the same expression is the cost of a removal (optimal brain surgeon, for blocks). The elimination looks left: what a step
takes out is kept as K rows, and of the residual matrices only the diagonal blocks are brought up to date. A step reads the
rows before it, (steps x K) x NK numbers less the columns of what is picked, where the whole residual has NK x NK.
"""

from dataclasses import dataclass, replace

import torch

from pipeline.selection.quadratic import Quadratic, ridged
from pipeline.selection.quota import Turns, groups_of


@dataclass(frozen=True)
class Pick:
    """One greedy choice: the neuron, error(S) / T' after it, distance to the second best, how many were tried."""

    neuron: int
    score: float
    margin: float | None
    candidates: int


def forward(q: Quadratic, ridge: float, count: int | None = None, turns: Turns | None = None) -> list[Pick]:
    """The first `count` (None = all) neurons in greedy order; one pass gives the order of every width.

    The gain of j is tr(C_j R_jj^-1 C_j^T) on the residual matrices; each pick is eliminated by one rank-K update. Dead
    neurons come last, by index; neurons the picked ones explain come before them, by index. Ties go to the lowest index.
    Where neurons lie in groups, these take turns: each is eligible when no group has given fewer.
    """
    full, width, turns = ridged(q, ridge), q.width, turns or _turns(q)
    count = width if count is None else min(count, width)
    residual = _Residual(full, count)
    total = full.total if full.total > 0 else 1.0
    strength = float(full.gram.diagonal().mean() - q.gram.diagonal().mean()) * q.columns
    trace = q.gram.diagonal().view(-1, q.columns).sum(1)
    dead = trace <= q.tolerance * trace.mean()
    open_ = torch.ones_like(dead)
    error, picks = full.total, []
    while len(picks) < count:
        offered = open_ & turns.mask()
        eligible = offered & ~dead & (residual.traces() - strength > q.tolerance * trace)
        if bool(eligible.any()):
            gains = torch.where(eligible, residual.gains(eligible), -torch.inf)
            best = int(gains.argmax())
            best = int(torch.nonzero(gains == gains[best])[0])
            others = gains.clone()
            others[best] = -torch.inf
            margin = float(gains[best] - others.max()) / total if int(eligible.sum()) > 1 else None
            error = max(error - float(gains[best]), 0.0)
            picks.append(Pick(best, error / total, margin, int(eligible.sum())))
            residual.eliminate(best)
        else:
            best = int(torch.nonzero(offered & ~dead if bool((offered & ~dead).any()) else offered)[0])
            if strength > 0:  # its own pull toward the old weights is still in T'; without ridge it adds nothing
                error = max(error - residual.eliminate(best), 0.0)
            picks.append(Pick(best, error / total, None, int(offered.sum())))
        open_[best] = False
        turns.take(best)
    return picks


def _turns(q: Quadratic) -> Turns:
    return Turns(groups_of(range(q.width), q.width, q.groups))


def backward(q: Quadratic, ridge: float, turns: Turns | None = None) -> list[Pick]:
    """All neurons in the reverse order of their removal, each time the one whose loss costs least after the best re-fit of the rest.

    `ridge` > 0. Dead neurons go first, so they come last, by index; among equals the highest index goes first. Where neurons
    lie in groups, these take turns in losing one.
    """
    full, width, turns = ridged(q, ridge), q.width, turns or _turns(q)
    total = full.total if full.total > 0 else 1.0
    factor = torch.linalg.cholesky(full.gram)
    inverse, weight = torch.cholesky_inverse(factor), torch.cholesky_solve(full.cross.T, factor).T
    exact = torch.finfo(inverse.dtype).eps  # the ridge keeps every direction of the inverse
    residual = _Residual(replace(full, gram=inverse, cross=weight, precision=exact), width)
    trace = q.gram.diagonal().view(-1, q.columns).sum(1)
    dead = trace <= q.tolerance * trace.mean()
    open_ = torch.ones_like(dead)
    error, removed = full.total - float((weight * full.cross).sum()), []
    while len(removed) < width:
        offered = open_ & turns.mask()
        doomed = offered & dead
        costs = torch.where(offered, residual.gains(offered), torch.inf)
        out = int(torch.nonzero(doomed if bool(doomed.any()) else costs == costs.min())[-1])
        others = costs.clone()
        others[out] = torch.inf
        margin = float(others.min() - costs[out]) / total if int(offered.sum()) > 1 and not doomed[out] else None
        removed.append(Pick(out, max(error, 0.0) / total, margin, int(offered.sum())))
        error += float(costs[out])
        open_[out] = False
        turns.take(out)
        residual.eliminate(out)
    return removed[::-1]


class _Residual:
    """G' and C' less what the picked neurons explain: G' - V^T V with V (rows, NK), C' - P^T V with P (rows, M).

    Up to date are only what gains need, the diagonal blocks (N, K, K) of the residual Gram and of C^T C: so a step costs
    one reading of C' and of the rows before it. Neurons lie in slots, and a picked one's goes to the last that is open.
    """

    def __init__(self, full: Quadratic, count: int):
        self.gram, self.columns, self.tolerance = full.gram, full.columns, full.tolerance
        tall = len(full.cross) > len(full.gram)  # C^T C is all that counts of C
        self.cross = torch.linalg.qr(full.cross, mode="r")[1] if tall else full.cross.clone(memory_format=torch.contiguous_format)
        tiles = full.gram.view(full.width, full.columns, full.width, full.columns)
        self.blocks = tiles.diagonal(dim1=0, dim2=2).permute(2, 0, 1).clone(memory_format=torch.contiguous_format)
        parts = self.cross.view(len(self.cross), full.width, full.columns)
        self.squares = torch.einsum("mnk,mnl->nkl", parts, parts).contiguous()
        self.explained, self.rank = full.gram.new_empty(count * full.columns, len(full.gram)), 0
        self.parts = full.gram.new_empty(count * full.columns, len(self.cross))
        self.slots = torch.arange(full.width, device=full.gram.device)  # the open neurons, as their columns lie

    def traces(self) -> torch.Tensor:
        """Traces of the open neurons' blocks, 0 for the picked: (N,)."""
        return self._by_neuron(self.blocks.diagonal(dim1=1, dim2=2).sum(1))

    def gains(self, among: torch.Tensor) -> torch.Tensor:
        """tr(C_j R_jj^-1 C_j^T) of the neurons j of a mask of open ones (N,), 0 for the others: (N,)."""
        if self.columns == 1:
            gains = self.squares.view(-1) / self.blocks.view(-1)
            return torch.where(among, self._by_neuron(gains), 0.0).clamp_min(0.0)
        at = torch.nonzero(among[self.slots]).flatten()
        blocks, squares = self.blocks[at], self.squares[at]
        factor, failed = torch.linalg.cholesky_ex(blocks)
        gains = torch.cholesky_solve(squares, factor).diagonal(dim1=1, dim2=2).sum(1)
        diagonals = factor.diagonal(dim1=1, dim2=2), blocks.diagonal(dim1=1, dim2=2)
        weak = (failed > 0) | (diagonals[0].amin(1) ** 2 <= self.tolerance * diagonals[1].amax(1))
        if bool(weak.any()):  # rank-deficient blocks, such as 3 x 3 columns on 1 x 1 maps
            inverse = torch.linalg.pinv(blocks[weak], hermitian=True, rtol=self.tolerance)
            gains[weak] = torch.einsum("jkl,jlk->j", squares[weak], inverse)
        return gains.new_zeros(len(among)).index_copy_(0, self.slots[at], gains.clamp_min(0.0))

    def eliminate(self, neuron: int) -> float:
        """Take out what open neuron j explains; its gain."""
        slot = int(torch.nonzero(self.slots == neuron))
        at, width = slice(slot * self.columns, (slot + 1) * self.columns), len(self.slots) * self.columns
        known, parts = self.explained[: self.rank, :width], self.parts[: self.rank]
        root = _inverse_root(self.blocks[slot], self.tolerance)
        own = known[:, at] @ root.T
        part = root @ self.cross[:, at].T - own.T @ parts
        taken = torch.cat([own, parts @ part.T], 1).T @ known  # both sums in one reading of what is known
        read = self._columns(self.gram[neuron * self.columns : (neuron + 1) * self.columns])
        rows, crossed = root @ read - taken[: len(root)], part @ self.cross[:, :width] - taken[len(root) :]
        self.explained[self.rank : self.rank + len(rows), :width] = rows
        self.parts[self.rank : self.rank + len(rows)] = part
        self.rank += len(rows)
        per_neuron, both = self._per_neuron(rows), self._per_neuron(crossed - (part @ part.T) @ rows / 2)
        self.blocks.baddbmm_(per_neuron.transpose(1, 2), per_neuron, alpha=-1)
        self.squares.baddbmm_(per_neuron.transpose(1, 2), both, alpha=-1).baddbmm_(both.transpose(1, 2), per_neuron, alpha=-1)
        self._close(slot)
        return float((part**2).sum())

    def _close(self, slot: int) -> None:
        """The last open neuron moves into a slot whose neuron is carried no further."""
        last = len(self.slots) - 1
        for kept in (self.slots, self.blocks, self.squares):
            kept[slot] = kept[last].clone()
        to, of = (slice(place * self.columns, (place + 1) * self.columns) for place in (slot, last))
        for kept in (self.cross, self.explained[: self.rank]):
            kept[:, to] = kept[:, of].clone()
        self.slots, self.blocks, self.squares = self.slots[:last], self.blocks[:last], self.squares[:last]

    def _columns(self, rows: torch.Tensor) -> torch.Tensor:
        """The open neurons' columns of rows (R, NK), in the order of their slots."""
        return rows.view(len(rows), -1, self.columns)[:, self.slots].flatten(1)

    def _by_neuron(self, values: torch.Tensor) -> torch.Tensor:
        return values.new_zeros(len(self.gram) // self.columns).index_copy_(0, self.slots, values)

    def _per_neuron(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.view(len(rows), -1, self.columns).transpose(0, 1)


def _inverse_root(pivot: torch.Tensor, tolerance: float) -> torch.Tensor:
    """R (rank, K) with R^T R the pseudo-inverse of the pivot block."""
    values, vectors = torch.linalg.eigh(pivot)
    held = values > tolerance * values[-1]
    return (vectors[:, held] / values[held].sqrt()).T
