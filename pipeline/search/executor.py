"""Who answers the questions. An executor has one method: ask(questions) yields their answers in the questions' order."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from pipeline.search.actor import Actor, Bench
from pipeline.search.question import Answer, Question


class Executor(Protocol):
    def ask(self, questions: Iterable[Question]) -> Iterator[Answer]:
        """The answer of each question, in order; complete, or a loud stop."""


class InProcess:
    """One actor in this very process."""

    def __init__(self, bench: Bench):
        self.actor = Actor(bench)

    def ask(self, questions: Iterable[Question]) -> Iterator[Answer]:
        for question in questions:
            yield self.actor.answer(question)
