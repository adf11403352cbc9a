"""Wall time of a stage, added up over the processes that worked on it."""

import contextlib
import threading
import time
from pathlib import Path

from pipeline.config.files import read_json, write_json

SAVE_SECONDS = 5.0


def timed(work):
    """work(folder, guard, watch) as the store runs it: the watch ends with the work, however that ends."""

    def run(folder: Path, guard):
        watch = Stopwatch(folder)
        try:
            return work(folder, guard, watch)
        finally:
            watch.end()

    return run


class Stopwatch:
    """Seconds since the stage began, kept in spent.json so that a kill loses at most a few of them."""

    def __init__(self, folder: Path):
        self.path = Path(folder) / "spent.json"
        try:
            self.before = float(read_json(self.path)["seconds"])
        except (OSError, ValueError, KeyError):
            self.before = 0.0
        self.began = time.monotonic()
        self.ended = threading.Event()
        threading.Thread(target=self._save, daemon=True).start()

    def end(self) -> None:
        self.ended.set()

    def seconds(self) -> float:
        """The sum so far."""
        return self.before + time.monotonic() - self.began

    def _save(self):
        while not self.ended.wait(SAVE_SECONDS) and self.path.parent.exists():
            with contextlib.suppress(OSError):  # a full disk is told by the stage's own writing
                write_json(self.path, {"seconds": self.before + time.monotonic() - self.began})
