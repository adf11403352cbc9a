"""The live view: what a run or a group looks like on a terminal at one moment."""

from rich.console import Console, Group
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.stages.status import GroupStatus, RunStatus
from pipeline.view.logs import STAMP, Logs, is_stamp
from pipeline.view.table import COLOURS, cell, group_table
from pipeline.view.words import accuracies, counts, duration, job_of, percent, printable

BLOCKS, LEVELS = " ▁▂▃▄▅▆▇█", 8
LOG_LINES, SPARK_WIDTH, BAR_WIDTH = 6, 40, 20
FRAME = 7  # lines of a group's view beside its rows


def picture_of_run(looked: RunStatus, console: Console):
    """picture(status, final=False) of a run, with the last lines of its log."""
    logs, lines = Logs(looked.folder, False), []

    def picture(status: dict, final=False):
        lines[:] = [*lines, *logs.look()][-LOG_LINES:]
        parts = [_stages(looked, status), _bars(looked, status), *_curves(looked, console)]
        if status["error"]:
            parts.append(Text(printable(status["error"]), style="red"))
        if status["state"] == "done":
            parts.append(cell(", ".join(accuracies(status)), "bold"))
        if lines and not final:
            parts += [Text(), *(_cropped(line) for line in lines)]
        return _framed(status, Group(*parts))

    return picture


def picture_of_group(looked: GroupStatus, console: Console):
    """picture(status, final=False) of a group: as many of its runs as there is room for; all of them at the end."""

    def picture(status: dict, final=False):
        rows = group_table(looked, status["runs"], None if final else max(console.height - FRAME, 3))
        left = status["eta_seconds"]
        bar = _grid()
        words = f"about {duration(left)} left" if left else ""
        bar.add_row(cell("all"), _bar(status["progress"]), cell(percent(status["progress"])), cell(words))
        return _framed(status, Group(rows, Text(), bar, cell(counts(status["runs"]), "dim")))

    return picture


def _framed(status: dict, inside) -> Panel:
    job = [cell(f" {words} ", "dim") for words in job_of(status)]
    title = Text.assemble(" ", cell(status["run"], "bold"), "  ", cell(status["state"], COLOURS[status["state"]]), " ", *job)
    return Panel(inside, title=title, title_align="left", border_style="dim")


def _cropped(line: str) -> Text:
    """A line of the log in one line, its time without the day."""
    return cell(line[11:19] + line[STAMP:] if is_stamp(line[:STAMP]) else line, "dim")


def _stages(looked: RunStatus, status: dict) -> Text:
    """The stages of the run: done, at work, to come."""
    text = Text()
    for name in looked.stages():
        at_work = name == status["stage"] and status["state"] != "done" and name not in looked.standing.finished
        style = "green" if name in looked.standing.finished else COLOURS[status["state"]] if at_work else "dim"
        text.append(f"{name} ", style=style + (" bold reverse" if at_work else ""))
    return text


def _grid() -> Table:
    return Table.grid(padding=(0, 2))


def _bar(share: float | None) -> ProgressBar:
    return ProgressBar(total=1.0, completed=share or 0.0, width=BAR_WIDTH)


def _bars(looked: RunStatus, status: dict) -> Table:
    """The stage at work with its speed and what is left; below it the whole run."""
    grid = _grid()
    if status["state"] != "done" and status["stage"]:
        names = [status["stage"], status["unit"], f"step {status['step']}" if status["step"] is not None else None]
        left = f"{duration(status['eta_seconds'])} left" if status["eta_seconds"] is not None else ""
        speed = _speed(looked) if status["state"] == "running" else ""
        words = ", ".join(part for part in (speed, left, f"{status['workers']} workers" if status["workers"] > 1 else "") if part)
        name = cell(" ".join(name for name in names if name))
        grid.add_row(name, _bar(status["progress"]), cell(percent(status["progress"])), Text(printable(words)))
    words = "all stages, roughly" if status["state"] != "done" else ""
    grid.add_row(cell("whole run"), _bar(status["whole"]), cell(percent(status["whole"])), cell(words))
    return grid


def _speed(looked: RunStatus) -> str:
    pace = looked.standing.pace()
    return f"{pace[0]:.3g} {pace[1]}/s" if pace else ""


def _curves(looked: RunStatus, console: Console) -> list[Text]:
    """The loss along the path of the unit at work, the accuracy after each epoch."""
    standing, found = looked.standing, []
    for name, values, form in (("loss along the path", standing.path, "{:.4g}"), ("validation top-1", standing.epochs, "{:.2f} %")):
        if values:
            ends = " -> ".join(form.format(value) for value in dict.fromkeys((values[0], values[-1])))
            drawn = spark(values) + "  " if console.encoding.lower().startswith("utf") else ""
            found.append(cell(f"{name:<20} {drawn}{ends}"))
    return found


def spark(values: list[float], width: int = SPARK_WIDTH) -> str:
    """A curve in one line: the last value of each of at most `width` stretches, lowest to highest."""
    size = -(-len(values) // width)
    shown = [values[min(start + size, len(values)) - 1] for start in range(0, len(values), size)]
    low, high = min(shown), max(shown)
    return "".join(BLOCKS[1 + round((LEVELS - 1) * ((value - low) / (high - low) if high > low else 0.5))] for value in shown)
