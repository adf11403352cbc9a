"""Ours beside the peers: which pruner the others are measured against, and by how much each differs, paired by seed."""

from dataclasses import dataclass

from pipeline.report.run import Run
from pipeline.report.spread import Spread, spread_of
from pipeline.report.table import Row, Section, Table
from pipeline.report.variants import Variant, value_of

ROLES = ("ours", "peers, re-fitted", "peers, original weights", "peers, as shipped")


@dataclass(frozen=True)
class Difference:
    """Ours less one other pruner at one budget and moment, over the seeds that both have; points of test top-1."""

    budget: str
    moment: str
    pruner: Variant
    spread: Spread


def role_of(pruner: Variant) -> str:
    """Reconstruction with its re-fit is ours; everything else is a peer, by what it does to the weights."""
    if value_of(pruner, "prune.as_shipped"):
        return ROLES[3]
    refitted = value_of(pruner, "prune.refit") not in (None, "none")
    return ROLES[0] if refitted and value_of(pruner, "prune.selector") == "reconstruction" else ROLES[1 if refitted else 2]


def ours_of(section: Section) -> Variant | None:
    """The pruner of ours that the others are measured against: shared by measured curves where there is such a one."""
    ours = [pruner for pruner in section.pruners if role_of(pruner) == ROLES[0]]
    measured = [pruner for pruner in ours if value_of(pruner, "prune.allocation") == "marginal"]
    return (measured or ours or [None])[0]


def differences(section: Section) -> list[Difference]:
    """Ours against every other pruner, for each budget as pruned and after each arm; nothing where ours or the others are missing."""
    ours = ours_of(section)
    return [found for table in section.tables if ours for found in _of_table(section, table, ours)]


def _of_table(section: Section, table: Table, ours: Variant):
    rows = {row.pruner: row for row in table.rows}
    if ours not in rows:
        return
    moments = {"untrained": (None, "top1_selected", "shrink")} | {name: (arm, "top1", "train") for arm, name in section.arms.items()}
    for moment, (arm, field, stage) in moments.items():
        for pruner, row in rows.items():
            pairs = _paired(*(_runs(each, arm) for each in (rows[ours], row)), field, stage) if pruner != ours else []
            if pairs:
                yield Difference(table.name, moment, pruner, spread_of(pairs))


def _runs(row: Row, arm) -> list[Run]:
    return row.runs if arm is None else row.only(arm).runs


def _paired(ours: list[Run], theirs: list[Run], field: str, stage: str) -> list[float]:
    """Ours less theirs, once per seed that both have and per pair of computations."""
    found: dict[tuple, float] = {}
    others = {run.row["seed"]: run.row for run in reversed(theirs)}
    for run in ours:
        other = others.get(run.row["seed"])
        if other is not None:
            key = tuple(row["stages"].get(stage, row["run_hash"]) for row in (run.row, other))
            found.setdefault(key, run.row[field] - other[field])
    return list(found.values())
