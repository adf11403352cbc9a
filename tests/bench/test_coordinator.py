"""`gfs bench coordinator`: its simulated workers give what one process gives, whatever order their answers come in."""

import numpy as np
import pytest
import torch

from pipeline.bench import coordinator as bench_of
from pipeline.bench.coordinator import bench_coordinator, drawn_losses
from pipeline.bench.simulated import Simulated
from pipeline.config.errors import Failed
from pipeline.networks.small import tiny
from pipeline.search.actor import Actor
from pipeline.search.executor import InProcess
from pipeline.search.question import Answer, Question
from tests.search.benches import bench, coordinator, samples, search

TINY = "pipeline.networks.small:tiny"
ROWS = ["answers_per_second", "commit_ms", "gram_answers_per_second"]


def questions(count: int) -> list[Question]:
    return [Question("loss", (), "unit", 0, (0, 4), (number,)) for number in range(count)]


def tiny_bench(folder):
    torch.manual_seed(0)
    folder.mkdir()
    return bench(tiny().eval(), samples(64, 1, 28, 10, 16), folder)


def test_answers_are_asked_for_out_of_order_and_handed_on_in_order():
    served = []

    def answer(question):
        served.append(question.candidates[0])
        return Answer({"loss": np.array([float(question.candidates[0])])}, 4)

    workers = Simulated(8, answer)
    given = [answer.sums["loss"][0] for answer in workers.ask(questions(200))]
    assert given == list(range(200)) and sorted(served) == given != served
    assert workers.answers == 200 and workers.working > 0


def test_no_answer_is_further_ahead_than_two_for_each_worker():
    served, workers = [], Simulated(4, lambda question: served.append(question.candidates[0]) or Answer({"loss": np.zeros(1)}, 4))
    for turn, _ in enumerate(workers.ask(questions(100))):
        assert max(served) < turn + 2 * 4


def test_gram_matrices_of_simulated_workers_add_up_to_those_of_one_process_to_the_byte(tmp_path):
    given = tiny_bench(tmp_path / "one")
    (one,) = coordinator(given, 64, InProcess(given)).ask("gram_dense", None, [(0, 16), (16, 32), (32, 48), (48, 64)])
    other = tiny_bench(tmp_path / "many")
    (many,) = coordinator(other, 64, Simulated(3, Actor(other).answer)).ask("gram_dense", None, [(0, 16), (16, 32), (32, 48), (48, 64)])
    assert one.count == many.count == 64 and set(one.sums) == set(many.sums)
    assert all(one.sums[name].tobytes() == many.sums[name].tobytes() for name in one.sums)


@pytest.mark.parametrize("selector", ["loss", "reconstruction"])
def test_a_search_with_simulated_workers_writes_the_journal_of_one_process(tmp_path, selector):
    prune = {"selector": selector, "refit": "none" if selector == "loss" else "lsq"}
    journals = []
    for name, executor in (("one", InProcess), ("many", lambda given: Simulated(5, Actor(given).answer))):
        given = tiny_bench(tmp_path / name)
        widths = dict.fromkeys(given.units.units, 3)
        search(given, widths, 64, executor(given), **prune)
        journals.append((tmp_path / name / "journal.jsonl").read_bytes())
    assert journals[0] == journals[1] and journals[0].count(b'"kind":"unit"') == 3


def test_every_row_is_there_and_counts_what_was_searched(holds_contract, monkeypatch):
    monkeypatch.setattr(bench_of, "GRAM_BYTES", 10**7)
    rows = bench_coordinator(lambda line: None, TINY, {"0.02": 50, "0.5": 250}, ray=False)
    holds_contract(rows, ROWS)
    found = rows[0].detail
    assert rows[0].ours == found["exhaustive"]["answers_per_second"] and rows[1].ours == found["exhaustive"]["commit_ms"]
    for engine in ("exhaustive", "stochastic"):
        one = found[engine]
        assert one["picks"] >= 8 and one["answers"] == 4 * one["picks"]  # the last unit, 16 neurons to 8; blocks of 5 candidates
        assert one["committed_units"] == 2
        assert one["answers_per_second"] == pytest.approx(one["answers"] / one["seconds"])
    small, large = rows[2].detail["mb_0.02"], rows[2].detail["mb_0.5"]
    assert (small["bytes"], large["bytes"]) == (8 * (50 * 50 + 51), 8 * (250 * 250 + 251)) and rows[2].ours == large["answers_per_second"]
    assert list(found["given_out_per_second"]) == ["1", "8", "64", "1024"] and "ray_calls_per_second" not in found


def test_a_wrong_sum_of_gram_answers_is_no_row(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_of, "GRAM_BYTES", 5 * 8 * 30**2)
    honest = bench_of.Simulated.ask
    monkeypatch.setattr(bench_of.Simulated, "ask", lambda self, asked: honest(self, list(asked)[1:]))
    with pytest.raises(Failed, match="sum of the Gram answers is wrong"):
        bench_of._gram_row({"0.007": 30}, tmp_path, lambda line: None)


def test_drawn_losses_hang_on_step_and_candidate_alone():
    whole = drawn_losses(Question("loss", (), "a", 3, (0, 128), (4, 9, 12)))
    part = drawn_losses(Question("loss", (), "b", 3, (128, 256), (9,)))
    later = drawn_losses(Question("loss", (), "a", 4, (0, 128), (9,)))
    assert whole.sums["loss"][1] == part.sums["loss"][0] != later.sums["loss"][0] and part.count == 128
    assert len(set(whole.sums["loss"])) == 3


@pytest.mark.slow
def test_rays_own_calls_are_counted():
    found = bench_of._ray_calls()
    assert found["ray_calls_per_second"] > 0
