"""results.csv: the plain values of every result.json, the same names in the same order.

Texts are always quoted, numbers never, null is an empty quoted cell: `csv` reads every value back exactly. A text that a
spreadsheet would take for a formula is not altered, since that would make it another value; import texts as texts.
"""

import csv
from pathlib import Path

from pipeline.report.result import STRUCTURED
from pipeline.report.run import Run


def columns(runs: list[Run]) -> list[str]:
    """Fields that hold a plain value in every run, in the order of the first that has them."""
    names = dict.fromkeys(name for run in runs for name in run.row)
    structured = {name for run in runs for name, value in run.row.items() if isinstance(value, (dict, list))}
    return [name for name in names if name not in structured and name not in STRUCTURED]


def write_results(path: Path, runs: list[Run]) -> None:
    names = columns(runs)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_plain(run.row.get(name)) for name in names] for run in runs)


def _plain(value):
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else value
