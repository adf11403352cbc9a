"""The Ray executor with workers that answer at once: every question is asked once and answered in its turn, for any number of workers."""

from collections import Counter

import numpy as np
import pytest

from pipeline.bench.crowd import Crowd, InstantRay, dispatched
from pipeline.cluster.executor import OnRay
from pipeline.search.question import Answer, Question


def candidates(count: int) -> list[Question]:
    return [Question("loss", (), "unit", 0, (0, 4), (number,)) for number in range(count)]


def sample_blocks(count: int) -> list[Question]:
    return [Question("gram", (), "unit", 0, (number, number + 1)) for number in range(count)]


@pytest.mark.parametrize("workers", [1, 2, 5, 64, 300])
@pytest.mark.parametrize("asked", [candidates(1), candidates(157), sample_blocks(1), sample_blocks(157)], ids=lambda asked: f"{asked[0].statistic}-{len(asked)}")
def test_every_question_is_asked_once_and_answered_in_its_turn(workers, asked):
    given = Counter()

    def answer(question):
        given[question] += 1
        return Answer({"place": np.array([float(asked.index(question))])}, 1)

    answers, seconds = dispatched(workers, asked, answer)
    assert [answer.sums["place"][0] for answer in answers] == list(range(len(asked)))
    assert given == Counter(asked) and seconds > 0


def test_no_question_is_given_out_further_ahead_than_two_for_each_worker():
    given, ray = [], InstantRay()

    def answer(question):
        given.append(question.candidates[0])
        return Answer({"loss": np.zeros(1)}, 1)

    executor = OnRay(ray, Crowd(ray, 3, answer), lambda event: None)
    for turn, _ in enumerate(executor.ask(candidates(60))):
        assert max(given) < turn + 1 + 2 * 3
    assert len(given) == 60
