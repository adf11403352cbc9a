"""Rows of columns summed up into Gram matrices: float32 products of many rows at once, added in float64."""

import torch

from pipeline.networks.grouped import products

PANEL = 512  # columns; of a Gram matrix only the panels on and above the diagonal are multiplied


class Products:
    """Sums of one consumer: `gram` (NK, NK), `sums` (NK + 1,); with what is wanted `cross` (M, NK), `total`, `output_sums` (M,).

    Of a grouped one, `gram` and `cross` hold what lies within each of its groups (g, NK / g, NK / g) and (g, M / g, NK / g).

    Rows wait until they are as many as the columns, so that adding a product costs little beside making it; what waits is
    at most half as large as the Gram matrix.
    """

    def __init__(self, groups: int = 1, weight: torch.Tensor | None = None):
        self.groups, self.weight = groups, weight
        self.waiting: list[tuple] = []
        self.sums: dict[str, torch.Tensor] = {}

    def add(self, rows: torch.Tensor, wanted: torch.Tensor | None = None) -> None:
        """Take in rows (R, NK), and the dense network's rows (R, columns of the weight), whose products with it are wanted."""
        if sum(len(held) for held, _ in self.waiting) + len(rows) >= rows.shape[1]:
            self._multiply([*self.waiting, (rows, wanted)])
            self.waiting = []
        else:  # copies: what is read may be a view of values on which the network works in place
            self.waiting.append((rows.clone(), None if wanted is None else wanted.clone()))

    def close(self) -> dict[str, torch.Tensor]:
        """All sums, on the device of the rows."""
        if self.waiting:
            self._multiply(self.waiting)
            self.waiting = []
        if self.groups == 1:
            _mirror(self.sums["gram"])
        return self.sums

    def _multiply(self, held: list[tuple]) -> None:
        rows = _joined([rows for rows, _ in held])
        count = torch.tensor([len(rows)], dtype=torch.float64, device=rows.device)
        self._accumulate("sums", torch.cat([rows.sum(0, dtype=torch.float64), count]))
        if self.groups == 1:
            self._upper_half(rows)
        else:
            self._accumulate("gram", products(rows, rows, self.groups))
        if self.weight is not None:
            target = _joined([wanted for _, wanted in held]) @ self.weight.T
            self._accumulate("cross", products(target, rows, self.groups))
            self._accumulate("total", (target.double() ** 2).sum())
            self._accumulate("output_sums", target.sum(0, dtype=torch.float64))

    def _upper_half(self, rows: torch.Tensor) -> None:
        if "gram" not in self.sums:
            self.sums["gram"] = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
        for start in range(0, rows.shape[1], PANEL):
            self.sums["gram"][start : start + PANEL, start:] += rows[:, start : start + PANEL].T @ rows[:, start:]

    def _accumulate(self, name: str, value: torch.Tensor) -> None:
        self.sums[name] = self.sums[name].add_(value) if name in self.sums else value.double()


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _mirror(gram: torch.Tensor) -> None:
    """Write below the diagonal what is above it, panel by panel."""
    for start in range(0, len(gram), PANEL):
        here = slice(start, start + PANEL)
        gram[here, here] = gram[here, here].triu() + gram[here, here].triu(1).T
        gram[start + PANEL :, here] = gram[here, start + PANEL :].T
