"""What stands around the tables: environment, commands, cost per pruner, notes, gaps."""

import json
import re
import shlex
from dataclasses import dataclass

from pipeline.report.run import Run
from pipeline.report.runs import Collection
from pipeline.report.spread import spread_of
from pipeline.report.table import Cell, Section, Table, shorten
from pipeline.report.variants import amount, arm_of, budget_name, budget_of, count, pruner_of

_COMMIT = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{28}\b")


def environment(runs: list[Run]) -> list[tuple[str, list[tuple[str, int]]]]:
    """(what, [(value, runs that have it)]), the commonest value first."""
    found: dict[str, dict[str, int]] = {}
    for run in runs:
        for name, value in _flat(run.environment):
            counts = found.setdefault(name, {})
            counts[value] = counts.get(value, 0) + 1
    return [(name, sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))) for name, counts in found.items()]


def _flat(value: dict, prefix: str = ""):
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from _flat(inner, "" if name == "versions" else f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner if isinstance(inner, str) else json.dumps(inner, ensure_ascii=False)


def commands(collection: Collection) -> list[str]:
    """What reproduces the groups, then each run."""
    sweeps = [f"gfs sweep -c {shlex.quote(f'{group.place}/config.yaml')}" for group in collection.groups if group.has_config]
    runs = [run for run in [*collection.done, *collection.gaps] if (run.folder / "config.yaml").is_file()]
    return sweeps + [f"gfs run -c {shlex.quote(f'{run.place}/config.yaml')}" for run in runs]


@dataclass(frozen=True)
class Spent:
    """What one pruner at one budget cost: its search, then each arm."""

    budget: str
    pruner: str
    part: str
    seconds: Cell
    images: Cell
    macs: Cell


def spending(section: Section) -> list[Spent]:
    spent = []
    for table in section.tables:
        for row in table.rows:
            names = table.name, section.pruners[row.pruner]
            if row.runs:
                spent.append(Spent(*names, "search", *(row.cell(f"select_{what}", "search") for what in ("seconds", "images", "macs"))))
            for arm, label in section.arms.items():
                if (only := row.only(arm)).runs:
                    spent.append(Spent(*names, label, *(only.cell(f"train_{what}", "train") for what in ("seconds", "images", "macs"))))
    return spent


def notes(section: Section) -> list[tuple[str, str]]:
    """(budget and the pruners, why they missed it), each reason once."""
    found: dict[tuple, dict[str, None]] = {}
    for table in section.tables:
        for row in table.rows:
            for run in row.runs:
                if run.row["note"]:
                    found.setdefault((table, run.row["note"]), {})[section.pruners[row.pruner]] = None
    return [(f"{table.name} ({_everyone(table, pruners)})", note) for (table, note), pruners in found.items()]


def _everyone(table: Table, pruners) -> str:
    return "every pruner" if len(pruners) == len([row for row in table.rows if row.runs]) > 1 else ", ".join(pruners)


@dataclass(frozen=True)
class Gap:
    run: str
    what: str
    reason: str


def gaps(collection: Collection, sections: list[Section]) -> list[Gap]:
    placed = {id(gap): _what(section, gap) for section in sections for gap in section.gaps}
    return [Gap(gap.name, placed.get(id(gap), "its settings are not known"), gap.reason) for gap in collection.gaps]


def _what(section: Section, run: Run) -> str:
    arm = section.arms.get(arm_of(run), "untrained")
    seed = run.row["seed"] if run.row else run.config.get("seed", 0)
    return f"{section.pruners[pruner_of(run)]}, {budget_name(*budget_of(run))}, {arm}, seed {seed}"


def caution(section: Section) -> list[str]:
    """What a reader should know before comparing: several environments, several sources, few seeds."""
    found = []
    for name, values in environment(section.runs):
        if len(values) > 1:
            listed = ", ".join(f"{shorten(_COMMIT.sub(lambda match: match[1], value))} ({count(runs, 'run')})" for value, runs in values)
            found.append(f"The runs differ in {name}: {listed}.")
    seeds = {run.row["seed"] for run in section.runs}
    if len(seeds) == 1:
        found.append("One seed only: differences between pruners carry no spread.")
    return found


def number(cell: Cell, style: str) -> str:
    """The mean of a cell for people: seconds, a count, or an amount with its unit."""
    if not cell.values:
        return cell.reason
    mean = spread_of(cell.values).mean
    return f"{mean:.3g}" if style == "seconds" and mean < 100 else f"{mean:,.0f}" if style in ("seconds", "count") else amount(mean)
