"""An executor beside a clock: how much of a search is waiting for answers, the rest is choosing."""

import time


class Timed:
    """An executor whose answers' waiting time is summed up."""

    def __init__(self, executor):
        self.executor, self.seconds = executor, 0.0

    def ask(self, questions):
        answers = self.executor.ask(questions)
        while True:
            began = time.perf_counter()
            answer = next(answers, None)
            self.seconds += time.perf_counter() - began
            if answer is None:
                return
            yield answer
