"""The headline tables: per network and budget, a row per pruner, a column per arm; what was not run says so."""

from dataclasses import dataclass, replace
from functools import cached_property

from pipeline.config.errors import BadInput
from pipeline.report.run import Run
from pipeline.report.runs import Collection
from pipeline.report.spread import Spread, spread_of
from pipeline.report.variants import ARMS, Variant, arm_name, arm_of, budget_name, budget_of, names_of
from pipeline.report.variants import pruner_detail, pruner_name, pruner_of, value_of

BASELINE = ("weights_sha256", "test_digest", "macs_dense", "params_dense", "num_classes")  # one dense network, one test set
LONGEST_REASON = 70


@dataclass(frozen=True)
class Cell:
    """Measured values, a value per computation (not per run that shares it); the gaps beside them; or why there is none."""

    values: tuple[float, ...] = ()
    gaps: tuple[Run, ...] = ()
    missing: str = "not run"

    @property
    def spread(self) -> Spread | None:
        return spread_of(self.values) if self.values else None

    @property
    def reason(self) -> str:
        """Why there is no value."""
        failed = [gap for gap in self.gaps if gap.state == "failed"]
        if failed:
            return shorten(failed[0].reason)
        return f"not run ({self.gaps[0].state})" if self.gaps else self.missing

    @property
    def holes(self) -> str:
        """How many runs are missing beside the values, by state."""
        states = [gap.state for gap in self.gaps]
        return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) if self.values else ""


@dataclass(frozen=True)
class Row:
    """One pruner at one budget."""

    pruner: Variant
    runs: list[Run]
    gaps: list[Run]

    def cell(self, field: str, *stages: str) -> Cell:
        """A field of the rows, once per computation of the first of `stages` that a run has."""
        values = [run.row[field] for run in independent(self.runs, *stages)]
        known = tuple(value for value in values if value is not None)
        reasons = [run.row["not_run"].get(field) for run in self.runs]
        missing = next((f"not run: {shorten(reason)}" for reason in reasons if reason), "not run")
        return Cell(known, () if known else tuple(self.gaps), missing)

    def untrained(self) -> Cell:
        return self.cell("top1_selected", "shrink")

    def recalibrated(self) -> Cell:
        return self.cell("top1_recalibrated", "untrained")

    def arm(self, arm: Variant) -> Cell:
        """Top-1 after the last epoch of an arm, its gaps beside it."""
        only = self.only(arm)
        return replace(only.cell("top1", "train", "evaluate"), gaps=tuple(only.gaps))

    def only(self, arm: Variant) -> "Row":
        """The same pruner's runs of one arm."""
        return Row(self.pruner, *([run for run in runs if arm_of(run) == arm] for runs in (self.runs, self.gaps)))


@dataclass(frozen=True, eq=False)
class Table:
    """One budget of one network."""

    budget: tuple[str, float]
    rows: list[Row]

    @property
    def name(self) -> str:
        return budget_name(*self.budget)


@dataclass(frozen=True)
class Section:
    """One network on one data set: everything in it shares one dense baseline."""

    model: str
    img_size: int
    dataset: str
    split: str  # digest of the training split
    runs: list[Run]
    gaps: list[Run]

    @cached_property
    def pruners(self) -> dict[Variant, str]:
        variants = sorted({pruner_of(run) for run in [*self.runs, *self.gaps]}, key=_pruner_order)
        return names_of(variants, pruner_name)

    def detail(self, pruner: Variant) -> str:
        return pruner_detail(pruner)

    @cached_property
    def arms(self) -> dict[Variant, str]:
        """The trained arms with their names, those of equal epochs side by side."""
        variants = {arm_of(run) for run in [*self.runs, *self.gaps]} - {()}
        return names_of(sorted(variants, key=_arm_order), arm_name)

    @cached_property
    def tables(self) -> list[Table]:
        """Largest budget first; the pruners in the order of `pruners`."""
        rows: dict[tuple, Row] = {}
        for run in [*self.runs, *self.gaps]:
            row = rows.setdefault((budget_of(run), pruner_of(run)), Row(pruner_of(run), [], []))
            (row.runs if run.row else row.gaps).append(run)
        budgets = sorted({budget for budget, _ in rows}, key=lambda budget: (budget[0], -budget[1]))
        return [Table(budget, [rows[budget, pruner] for pruner in self.pruners if (budget, pruner) in rows]) for budget in budgets]

    @property
    def dense(self) -> dict:
        return self.runs[0].row


def shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 1]}…"


def independent(runs: list[Run], *stages: str) -> list[Run]:
    """One run per computation of the first of `stages` that it has, and per seed: what a mean over seeds may count."""
    kept: dict = {}
    seeds = set()
    for run in runs:
        key = next((run.row["stages"][stage] for stage in stages if stage in run.row["stages"]), None)
        if run.row["seed"] not in seeds and (key is None or key not in kept):
            kept[key or run.row["run_hash"]] = run
            seeds.add(run.row["seed"])
    return list(kept.values())


def _pruner_order(variant: Variant):
    order = ("reconstruction", "loss")
    selector = value_of(variant, "prune.selector")
    return (order.index(selector) if selector in order else len(order), pruner_name(variant).endswith(str(selector)), variant)


def _arm_order(variant: Variant):
    arm, epochs = value_of(variant, "arm"), value_of(variant, "train.epochs")
    names = list(ARMS)
    return (epochs if isinstance(epochs, (int, float)) else 0, names.index(arm) if arm in names else len(names), variant)


def sections_of(collection: Collection) -> tuple[list[Section], list[Run]]:
    """Runs by network and data set, and the gaps that no table can place. Raises BadInput for mixed dense baselines."""
    sections: dict[tuple, Section] = {}
    for run in collection.done:
        key = tuple(run.row[name] for name in ("model", "img_size", "dataset", "data_digest"))
        first = next((section.runs[0] for other, section in sections.items() if other[:3] == key[:3]), run)
        _refuse_mixed(first, run)
        sections.setdefault(key, Section(*key, [], [])).runs.append(run)
    unplaced = []
    for gap in collection.gaps:
        home = next((section for section in sections.values() if _belongs(gap, section)), None)
        if home is None or budget_of(gap) is None:
            unplaced.append(gap)
        else:
            home.gaps.append(gap)
    return list(sections.values()), unplaced


def _refuse_mixed(first: Run, second: Run) -> None:
    for field in BASELINE:
        if first.row[field] != second.row[field]:
            raise BadInput(
                f"{first.folder} and {second.folder}: {first.row['model']} with two dense baselines ({field} {str(first.row[field])[:16]} and "
                f"{str(second.row[field])[:16]}); their numbers do not belong in one table: report them one at a time"
            )


def _belongs(gap: Run, section: Section) -> bool:
    wanted = [gap.config.get(name) for name in ("network", "data", "dense")]
    return wanted[0] is not None and any([run.config.get(name) for name in ("network", "data", "dense")] == wanted for run in section.runs)
