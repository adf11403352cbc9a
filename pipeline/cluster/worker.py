"""A worker: a Ray actor around one search actor. It builds its bench itself from the finished stages, and answers questions."""

import os
import pickle
import sys
import time
from dataclasses import dataclass

from pipeline.chain.asking import Place, open_bench
from pipeline.config.errors import BadInput, Failed, Stopped
from pipeline.config.files import DISK_FULL
from pipeline.search.actor import Actor
from pipeline.search.question import Question


@dataclass(frozen=True)
class Receipt:
    """What a worker says beside its answer: how long it took, or which error it met and its message."""

    seconds: float
    error: type | None = None
    message: str = ""


class Worker:
    """`number` names it to the crew; `faults(number, question)`, pickled, is what a test lets happen before an answer."""

    def __init__(self, place: Place, number: int, cwd: str, path: list[str], faults: bytes | None = None):
        self.place, self.number, self.cwd, self.path, self.pickled = place, number, cwd, path, faults
        self.actor: Actor | None = None
        self.faults = None

    def open(self) -> Receipt:
        """Load network and data."""

        def build():
            os.chdir(self.cwd)  # relative paths and modules of the config mean what they mean to the coordinator
            sys.path[:] = self.path + [entry for entry in sys.path if entry not in self.path]
            self.faults = pickle.loads(self.pickled) if self.pickled else None
            self.actor = Actor(open_bench(self.place))

        return _guarded(build)[0]

    def answer(self, question: Question):
        """(receipt, answer), two objects: the coordinator reads the receipt at once, the answer when its turn comes."""

        def work():
            if self.faults:
                self.faults(self.number, question)
            return self.actor.answer(question)

        return _guarded(work)

    def go_ahead(self, held: list[tuple[int, int]]) -> Receipt:
        """Use the time until the next question on the sample blocks it holds."""
        return _guarded(lambda: [self.actor.go_ahead(samples) for samples in held])[0]

    def alive(self) -> None:
        """A sign of life: it comes while an answer is at work, since the crew calls it on a thread of its own."""

    def forget(self, samples: tuple[int, int]) -> None:
        """Let go of a sample block that another worker took over."""
        self.actor.walk.held.pop(samples, None)


def _guarded(work):
    """(receipt, result): errors of the product travel as words, since Stopped is no Exception; faults of the program as they are."""
    began = time.monotonic()
    try:
        result = work()
    except (BadInput, Failed, Stopped) as error:
        return Receipt(0.0, type(error), str(error)), None
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        return Receipt(0.0, Stopped, f"{error.filename or 'a file'}: {error.strerror}; make room and run the same command"), None
    return Receipt(time.monotonic() - began), result
