"""Many workers simulated behind the executor protocol: their answers travel as messages and come out of order, as on a cluster."""

import heapq
import pickle
import time
from collections.abc import Callable, Iterable, Iterator

from pipeline.search.question import Answer, Question

WINDOW = 2  # answers ahead of the one whose turn it is, per worker: as on Ray
PACES = 101  # a worker's time for a question is 1 to 2 ticks of a clock that is only counted, in so many steps


class Simulated:
    """ask(questions) yields their answers in order. `answer` is what each of the `workers` does with a question.

    A question is pickled on its way out. An answer comes back as the object store gives it: its arrays are shared memory.
    `working` = seconds spent inside the workers, which on a cluster are theirs; `pauses` = (seconds, of these at work) between askings.
    """

    def __init__(self, workers: int, answer: Callable[[Question], Answer]):
        self.workers, self.answer = workers, answer
        self.answers, self.working, self.largest_question = 0, 0.0, 0
        self.pauses: list[tuple[float, float]] = []
        self.ended: tuple[float, float] | None = None

    def ask(self, questions: Iterable[Question]) -> Iterator[Answer]:
        if self.ended is not None:
            self.pauses.append((time.perf_counter() - self.ended[0], time.process_time() - self.ended[1]))
        questions, given, clock = list(questions), 0, 0.0
        busy: list[tuple[float, int, bytes]] = []  # (when it will be done, place of the question, the question)
        arrived: dict[int, tuple[bytes, list]] = {}
        for turn in range(len(questions)):
            while turn not in arrived:
                while given < min(len(questions), turn + WINDOW * self.workers) and len(busy) < self.workers:
                    heapq.heappush(busy, (clock + _ticks(given), given, self._sent(questions[given])))
                    given += 1
                clock, place, message = heapq.heappop(busy)
                arrived[place] = self._worked(message)
            message, arrays = arrived.pop(turn)
            self.answers += 1
            yield pickle.loads(message, buffers=arrays)
        self.ended = time.perf_counter(), time.process_time()

    def _sent(self, question: Question) -> bytes:
        message = pickle.dumps(question, protocol=5)
        self.largest_question = max(self.largest_question, len(message))
        return message

    def _worked(self, message: bytes) -> tuple[bytes, list]:
        began, arrays = time.perf_counter(), []
        answer = pickle.dumps(self.answer(pickle.loads(message)), protocol=5, buffer_callback=arrays.append)
        self.working += time.perf_counter() - began
        return answer, arrays


def _ticks(place: int) -> float:
    return 1 + place * 7919 % PACES / PACES
