"""One run as its directory tells it: result, settings, environment, widths, journal."""

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pipeline import journal
from pipeline.config.errors import BadInput, Failed
from pipeline.report.result import is_number, read_object


@dataclass(frozen=True, eq=False)
class Run:
    """One run. `row` is None for a gap; then `state` and `error` say why."""

    folder: Path
    row: dict | None
    state: str
    error: str | None = None
    config: dict = field(default_factory=dict)
    begun: bool = True  # False: its settings are one of those that its group has left, not certainly those of this directory

    @property
    def name(self) -> str:
        return self.folder.name if self.begun else "not begun"

    @property
    def place(self) -> str:
        """The directory as a person would type it from here."""
        return typed(self.folder)

    @property
    def reason(self) -> str:
        return f"failed: {self.error}" if self.state == "failed" else self.state

    @cached_property
    def environment(self) -> dict:
        """env.json; where it is missing, what the row says."""
        path = self.folder / "env.json"
        if path.exists():
            return read_object(path, "delete it, or leave the run out")
        return {name: self.row[name] for name in ("versions", "git", "device")}

    @cached_property
    def units(self) -> dict[str, float] | None:
        """Kept share of each unit in the network's order; None without an arch.json."""
        path = self.folder / "arch.json"
        if not path.exists():
            return None
        units = read_object(path, "delete the run's result.json and give its command again").get("units")
        try:
            return {str(name): len(unit["kept"]) / unit["width"] for name, unit in units.items()}
        except (AttributeError, KeyError, TypeError, ZeroDivisionError) as error:
            raise BadInput(f"{path}: its units are damaged; delete the run's result.json and give its command again") from error

    @cached_property
    def picks(self) -> dict[str, list[float]] | str:
        """The objective after each choice by unit, from the journal; or why there is none."""
        key = self.row["stages"].get("search")
        path = self.folder.parent / f"stages/search-{key}/journal.jsonl"
        if key is None or not path.exists():
            return "its search stage is not beside it"
        try:
            lines, _ = journal.read(path)
        except Failed as error:
            return str(error)
        scores: dict[str, list[float]] = {}
        for line in lines:
            if line.get("kind") == "pick" and is_number(line.get("score")):
                scores.setdefault(str(line.get("unit")), []).append(line["score"])
        return scores or "its selector does not search"


def typed(folder: Path) -> str:
    """A directory as a person would type it from here."""
    relative = os.path.relpath(folder)
    return str(folder) if relative.startswith("..") else relative
