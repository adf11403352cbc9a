"""A run's door to W&B: starts the process that mirrors it, tells it the end, warns once when it fails; the run goes on."""

import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.settings import Tracking
from pipeline.tracking.process import Process

HEED_SECONDS = 1.0
WAIT_SECONDS, STOP_SECONDS = 120.0, 5.0  # for everything to be written; for a stop to be marked


@dataclass(frozen=True)
class About:
    """Who a run is to W&B."""

    id: str
    name: str
    group: str | None
    job_type: str
    config: dict


class Tracker:
    """observe(event) of a run with W&B behind it: events go to the recorder, whose metrics.jsonl is what W&B gets to see."""

    def __init__(self, tracking: Tracking, folder: Path, about: About, recorder):
        self.mode, self.recorder = tracking.mode, recorder
        self.about = vars(about) | {"folder": str(Path(folder).resolve()), "project": tracking.project, "entity": tracking.entity}
        self.process, self.heeded = None, 0.0

    def __call__(self, event: dict) -> None:
        self.recorder(event)
        if self.process and time.monotonic() - self.heeded > HEED_SECONDS:
            self.heeded = time.monotonic()
            self._judge(self.process.answer(0))

    def begin(self) -> None:
        """Online: mirror from now on. An offline mirror cannot be gone on with and is written at the end."""
        if self.mode == "online":
            self._start()

    def finish(self, row: dict) -> None:
        """Mirror everything, with the result; what does not get through online is written offline."""
        if self.process:
            self._await_end(row)
        if self.mode == "offline":
            self._start()
            self._await_end(row)

    def close(self, code: int = 0) -> None:
        """The run's process leaves the run, finished or not, with this exit code."""
        if self.process and self.process.mode == "online":
            self.process.tell({"stop": code})
            self.process.end(STOP_SECONDS)
        elif self.process:
            self.process.end()
        self.process = None

    def _start(self) -> None:
        try:
            self.process = Process(self.mode, self.about)
        except OSError as error:
            self._warn(f"{error.strerror}: {error.filename or 'its process'}", broken=True)

    def _await_end(self, row: dict) -> None:
        if self.process:
            self.process.tell({"row": row})
            self._judge(self.process.answer(WAIT_SECONDS) or {"failed": f"no end within {WAIT_SECONDS:.0f} s", "broken": False})

    def _judge(self, answer: dict | None) -> None:
        """Heed what the process said: it is done, or it failed."""
        if answer is None:
            return
        self.process.end(STOP_SECONDS if "done" in answer else 0)
        self.process = None
        if "done" in answer:
            self.mode = "off"  # nothing is left to do
        else:
            self._warn(answer["failed"], answer["broken"])

    def _warn(self, reason: str, broken: bool) -> None:
        """Say once what was lost and what is done instead."""
        again = self.mode == "online" and not broken
        instead = "the mirror will be written offline" if again else "there is no mirror of this run, metrics.jsonl has everything"
        self.recorder({"event": "notice", "message": f"tracking: W&B cannot be used ({reason}); the run goes on, {instead}"})
        self.mode = "offline" if again else "off"
