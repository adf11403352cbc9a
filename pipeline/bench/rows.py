"""Rows of `gfs bench`: our value beside a reference, as a ratio; above 1 ours is better."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipeline.config.files import write_json


@dataclass(frozen=True)
class Row:
    """`ours` and `reference` in `unit`; less is better, of `more_is_better` rows more."""

    name: str
    ours: float
    reference: float
    reference_name: str
    unit: str
    detail: dict = field(default_factory=dict)
    more_is_better: bool = False

    @property
    def ratio(self) -> float:
        return self.ours / self.reference if self.more_is_better else self.reference / self.ours


def save(rows: list[Row], path: Path) -> None:
    """Schema `bench`."""
    write_json(path, [asdict(row) | {"ratio": row.ratio} for row in rows])


def table(rows: list[Row]) -> str:
    wide = max(28, *(len(row.name) + 2 for row in rows))
    values = [(f"{row.ours:.3f} {row.unit}", f"{row.reference:.3f} {row.unit}") for row in rows]
    across = max(12, *(len(value) + 2 for pair in values for value in pair))
    head = f"{'':<{wide}}{'ours':>{across}}{'reference':>{across}}{'ratio':>8}  reference is"
    measured = (f"{r.name:<{wide}}{a:>{across}}{b:>{across}}{r.ratio:>8.2f}  {r.reference_name}" for r, (a, b) in zip(rows, values))
    return "\n".join([head, *measured])
