"""What of a run's files goes to W&B, under which names; pure, of files only."""

import json
from datetime import datetime
from pathlib import Path

PROGRESS = ("done", "total", "unit_name")  # each kind of event counts something else


def metrics_of(event: dict) -> dict:
    """One line of metrics.jsonl as W&B's names and values: the stage before each name, the time as W&B wants it."""
    prefix = event.get("stage", "run")
    kind = event["event"].replace(" ", "_")
    fields = {name: value for name, value in event.items() if name not in ("time", "stage")}
    named = {f"{prefix}/{kind}/{name}" if name in PROGRESS else f"{prefix}/{name}": value for name, value in fields.items()}
    return flat(named) | {"_timestamp": datetime.fromisoformat(event["time"]).timestamp()}


def flat(value, name: str = "") -> dict:
    """{"a": {"b": [1, 2]}} as {"a/b/0": 1, "a/b/1": 2}; nulls are left out."""
    if value is None:
        return {}
    if not isinstance(value, (dict, list)):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = {}
    for key, inner in items:
        found |= flat(inner, f"{name}/{key}" if name else str(key))
    return found


def summary_of(row: dict, arch: dict) -> dict:
    """The result row, every number of it, and how wide each unit is and was."""
    widths = {f"width/{name}": len(unit["kept"]) for name, unit in arch["units"].items()}
    widths_dense = {f"width_dense/{name}": unit["width"] for name, unit in arch["units"].items()}
    return flat(row) | widths | widths_dense


def tables_of(run: Path, row: dict) -> dict[str, tuple[list[str], list[list]]]:
    """{name: (columns, rows)}: the result, the units, and the greedy path and epochs, also where another run made the stage."""
    arch = json.loads((run / "arch.json").read_text())
    result = flat(row)
    tables = {
        "result": (list(result), [list(result.values())]),
        "units": (["unit", "width", "kept"], [[name, unit["width"], len(unit["kept"])] for name, unit in arch["units"].items()]),
    }
    stages = run.parent / "stages"
    journal = (stages / f"search-{row['stages']['search']}" / "journal.jsonl").read_text().splitlines()
    lines = [line for line in map(json.loads, journal) if line["kind"] == "pick"]
    tables["path"] = _table(lines, ["unit", "step", "neuron", "score", "margin", "candidates"])
    if "train" in row["stages"]:
        facts = json.loads((stages / f"train-{row['stages']['train']}" / "done.json").read_text())["facts"]
        tables["epochs"] = _table(facts["history"], ["epoch", "train_loss", "val_top1"])
    return {name: table for name, table in tables.items() if table[1]}


def _table(lines: list[dict], columns: list[str]) -> tuple[list[str], list[list]]:
    return columns, [[line[column] for column in columns] for line in lines]
