"""The logs of a run or a group: merged by time, each line with the run it is of; followed until the work ends."""

import time
from pathlib import Path

from pipeline.stages.groups import read_names
from pipeline.stages.status import GroupStatus, open_status
from pipeline.stages.tail import Tail
from pipeline.view.ending import LOOK_SECONDS, Ending
from pipeline.view.words import printable

STAMP = len("2026-01-01T00:00:00.000000Z")


class Logs:
    """log.txt of a run; of a group those of all its runs and its own."""

    def __init__(self, folder: Path, is_group: bool):
        self.folder, self.is_group = folder, is_group
        self.tails: dict[str, Tail] = {}
        self.stamps: dict[str, str] = {}

    def look(self) -> list[str]:
        """The lines since the last look, in order of time."""
        lines = []
        for name in self._names():
            tail = self.tails.setdefault(name, Tail(self.folder.parent / name / "log.txt" if self.is_group else self.folder / "log.txt"))
            for line in tail.look():
                if is_stamp(line[:STAMP]):  # what goes on over several lines stays together
                    self.stamps[name] = line[:STAMP]
                lines.append((self.stamps.get(name, ""), f"{name}  {line}" if self.is_group else line))
        return [printable(line) for _, line in sorted(lines, key=lambda pair: pair[0])]

    def _names(self) -> list[str]:
        here = self.folder.resolve().name
        return [here, *(name for name, _ in read_names(self.folder)[2])] if self.is_group else [here]


def is_stamp(text: str) -> bool:
    return len(text) == STAMP and text[:4].isdigit() and text[10] == "T" and text.endswith("Z")


def show_logs(path: str, follow: bool, show) -> None:
    """show(line) of every line; with `follow` also of those to come, until the work has ended. Raises BadInput when `path` is none."""
    looked = open_status(path)
    logs, ending = Logs(looked.folder, isinstance(looked, GroupStatus)), Ending()
    while True:
        has_ended = not follow or ending.has_come(looked.look())  # asked first: no line of the end is lost
        for line in logs.look():
            show(line)
        if has_ended:
            return
        time.sleep(LOOK_SECONDS)
