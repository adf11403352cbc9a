"""The table of a group: a row per run, with the settings in which the runs differ."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.stages.status import GroupStatus
from pipeline.view.words import ORDER, duration, percent, printable

COLOURS = {"running": "cyan", "done": "green", "failed": "bold red", "stopped": "yellow", "pending": "dim"}
PLAIN_WIDTH = 240  # where nobody's screen sets one


def console_of(stream) -> Console:
    """A console that draws on a terminal, and writes aligned plain text elsewhere."""
    if stream.isatty():
        return Console(file=stream, highlight=False)
    return Console(file=stream, highlight=False, width=PLAIN_WIDTH, color_system=None, legacy_windows=False)


def cell(value, style="") -> Text:
    """Never markup: names are other people's."""
    return Text(printable(str(value)), style=style, no_wrap=True, overflow="ellipsis")


def group_table(group: GroupStatus, runs: list[dict], most: int | None = None) -> Table:
    """`runs` are statuses; of more than `most` those that matter now, and a last line that counts the others."""
    swept = group.swept()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", *(_short(key) for key in swept), "state", "stage", "done"):
        table.add_column(cell(name), no_wrap=name in ("run", "state", "done"))  # where it is narrow the others give way
    for name in ("left", "untrained", "top-1"):
        table.add_column(name, justify="right", no_wrap=True)
    shown = runs if most is None or len(runs) <= most else _foremost(runs, max(most - 1, 1))
    for run in shown:
        table.add_row(*_row(group, run, swept))
    if len(shown) < len(runs):
        table.add_row(cell(f"and {len(runs) - len(shown)} more", "dim"))
    return table


def print_group(group: GroupStatus, status: dict, stream) -> None:
    """The whole table, then why runs failed, in full."""
    console = console_of(stream)
    with console.capture() as drawn:  # written by ourselves: at a reader that left, rich would end the program
        console.print(group_table(group, status["runs"]))
        for run in status["runs"]:
            if run["error"]:
                console.print(Text(printable(f"{run['run']}: {run['error']}"), style="red"), soft_wrap=True)
        console.print()
    stream.write(drawn.get())


def _short(key: str) -> str:
    return key.rpartition(".")[2]


def _foremost(runs: list[dict], most: int) -> list[dict]:
    """What runs, what went wrong, what ended last; in the group's order."""
    ranked = sorted(range(len(runs)), key=lambda place: (ORDER.index(runs[place]["state"]), -place if runs[place]["state"] == "done" else place))
    return [runs[place] for place in sorted(ranked[:most])]


def _row(group: GroupStatus, run: dict, swept: list[str]) -> list[Text]:
    settings = group.runs[run["run"]].settings()
    at_work = run["state"] == "running"
    stage = " ".join(str(run[name]) for name in ("stage", "unit") if run[name]) if run["state"] not in ("done", "pending") else ""
    numbers = [f"{run[name]:.2f}" if run[name] is not None else "" for name in ("top1_untrained", "top1")]
    return [
        cell(run["run"]),
        *(cell(_value(settings, key), "" if settings else "dim") for key in swept),
        cell(run["state"], COLOURS[run["state"]]),
        cell(run["error"] or stage, "red" if run["error"] else ""),
        cell(percent(run["whole"]) if run["state"] != "pending" else ""),
        cell(duration(run["eta_seconds"]) if at_work and run["eta_seconds"] is not None else ""),
        *map(cell, numbers),
    ]


def _value(settings: dict, key: str) -> str:
    found = settings
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if isinstance(found, dict):
        return ", ".join(f"{name} {_number(value)}" for name, value in found.items())
    return "" if found is None else _number(found)


def _number(value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
