"""The Ray executor over a crew that answers at once: what giving out and collecting costs the coordinator for each number of workers."""

import time
from collections.abc import Callable
from types import SimpleNamespace

from pipeline.cluster.crew import Hand
from pipeline.cluster.executor import OnRay
from pipeline.cluster.worker import Receipt
from pipeline.config.settings import Cluster
from pipeline.search.question import Answer, Question


class Lost(Exception):
    """No simulated worker is ever lost."""


class Ref:
    """What will come of a call: here it is there at once."""

    def __init__(self, value):
        self.value = value


class InstantRay:
    """Of Ray what the executor calls. `seconds` = time inside these calls and the workers, which is not the executor's."""

    exceptions = SimpleNamespace(RayActorError=Lost, ObjectLostError=Lost, WorkerCrashedError=Lost, NodeDiedError=Lost, OutOfMemoryError=Lost)

    def __init__(self):
        self.seconds = 0.0

    def get(self, ref: Ref):
        return ref.value

    def wait(self, refs: list[Ref], num_returns: int = 1, timeout: float = 0.0):
        return refs[:num_returns], refs[num_returns:]


class InstantWorker:
    """A worker's handle: `answer.options(...).remote(question)` and its like."""

    def __init__(self, ray: InstantRay, answer: Callable[[Question], Answer]):
        self.answer = self.go_ahead = self.forget = self
        self._ray, self._answer = ray, answer

    def options(self, **_):
        return self

    def remote(self, question):
        began = time.perf_counter()
        found = Ref(Receipt(0.001))
        if isinstance(question, Question):
            found = found, Ref(self._answer(question))
        self._ray.seconds += time.perf_counter() - began
        return found


class Crowd:
    """A crew of `workers` that are all there and stay."""

    def __init__(self, ray: InstantRay, workers: int, answer: Callable[[Question], Answer]):
        self.cluster, self.lost = Cluster(workers=workers), []
        self.ready = self.hands = [Hand(number, InstantWorker(ray, answer), None) for number in range(workers)]

    def silent(self) -> list[Hand]:
        return []

    def check_room(self) -> None:
        pass


def dispatched(workers: int, questions: list[Question], answer: Callable[[Question], Answer]) -> tuple[list[Answer], float]:
    """(the answers in order, seconds of the executor alone) of one asking."""
    ray = InstantRay()
    executor = OnRay(ray, Crowd(ray, workers, answer), lambda event: None)
    began = time.perf_counter()
    answers = list(executor.ask(questions))
    return answers, time.perf_counter() - began - ray.seconds
