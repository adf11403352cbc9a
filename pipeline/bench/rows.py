"""Rows of `gfs bench`: our value beside a reference, as a ratio; above 1 ours is better."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipeline.config.files import write_json


@dataclass(frozen=True)
class Row:
    """`ours` and `reference` in `unit`, where less is better."""

    name: str
    ours: float
    reference: float
    reference_name: str
    unit: str
    detail: dict = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        return self.reference / self.ours


def save(rows: list[Row], path: Path) -> None:
    """Schema `bench`."""
    write_json(path, [asdict(row) | {"ratio": row.ratio} for row in rows])


def table(rows: list[Row]) -> str:
    wide = max(28, *(len(row.name) + 2 for row in rows))
    head = f"{'':<{wide}}{'ours':>12}{'reference':>12}{'ratio':>8}  reference is"
    measured = (f"{r.name:<{wide}}{r.ours:>10.3f} {r.unit}{r.reference:>10.3f} {r.unit}{r.ratio:>8.2f}  {r.reference_name}" for r in rows)
    return "\n".join([head, *measured])
