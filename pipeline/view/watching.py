"""`gfs watch`: a live view on a terminal, a line per change elsewhere. It only looks: the work does not hang on it."""

import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.live import Live

from pipeline.config.errors import BadInput, Stopped
from pipeline.stages.status import GroupStatus, open_status
from pipeline.view.ending import LOOK_SECONDS, Ending
from pipeline.view.picture import picture_of_group, picture_of_run
from pipeline.view.table import console_of
from pipeline.view.words import describe

SHOWN_SHARES = 10  # lines per stage at most, where there is no terminal


def watch(path: str, stream) -> None:
    """Show where `path` stands until the work ends, or a stop signal ends the watching. Raises BadInput when it is no run or group."""
    looked = open_status(path)
    is_group = isinstance(looked, GroupStatus)
    try:
        if not stream.isatty():
            return _tell(looked, stream)
        console = console_of(stream)
        with Live(console=console, auto_refresh=False) as live:
            picture = picture_of_group(looked, console) if is_group else picture_of_run(looked, console)
            for status in _looks(looked):
                live.update(picture(status), refresh=True)
            live.update(picture(status, final=True), refresh=True)
    except Stopped:
        return  # of the watching, by a signal


@contextmanager
def group_shown(folder: Path, stream):
    """Inside, the live view of the group that this process works on, below what it prints; nothing where there is no terminal."""
    if not stream.isatty():
        yield
        return
    console, ended = console_of(stream), threading.Event()
    with Live(console=console, auto_refresh=False) as live:
        drawing = threading.Thread(target=_draw, args=(folder, console, live, ended), daemon=True)
        drawing.start()
        try:
            yield
        finally:
            ended.set()
            drawing.join()


def _draw(folder: Path, console, live: Live, ended: threading.Event) -> None:
    """Draw the group from when it is there until `ended`."""
    while not (folder / "group.json").exists():
        if ended.wait(LOOK_SECONDS):
            return
    looked = GroupStatus(folder)
    picture = picture_of_group(looked, console)
    has_ended = False
    while not has_ended:
        has_ended = ended.wait(LOOK_SECONDS)
        with suppress(BadInput, OSError):  # what cannot be read is told by the work itself
            live.update(picture(looked.look(), final=has_ended), refresh=True)


def _looks(looked):
    """Statuses until the work ends, the last one too."""
    ending = Ending()
    while True:
        status = looked.look()
        yield status
        if ending.has_come(status):
            return
        time.sleep(LOOK_SECONDS)


def _tell(looked, stream) -> None:
    """A line for each thing that changed."""
    told: dict[str, tuple] = {}
    for status in _looks(looked):
        for part in [*status.get("runs", ()), status]:
            news = _news(part)
            if told.get(part["run"]) != news and not (part is not status and part["state"] == "pending"):
                print(describe(part), file=stream, flush=True)
            told[part["run"]] = news


def _news(status: dict) -> tuple:
    """What is worth a line when it changes."""
    if "runs" in status:
        return status["state"], *(run["state"] for run in status["runs"])
    return status["state"], status["stage"], status["progress"] and int(status["progress"] * SHOWN_SHARES)
