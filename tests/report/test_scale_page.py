"""reports/scale: the page shows what its script makes of the committed measurements, and the script's rules on numbers worked out by hand."""

import importlib.util
import json

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "reports/scale"
spec = importlib.util.spec_from_file_location("scale_predict", FOLDER / "predict.py")
predict = importlib.util.module_from_spec(spec)
spec.loader.exec_module(predict)

ASSUMED = {"kept_share": 0.5, "step_batch": 10, "calibration_images": 100, "workers": [2, 4]}
UNIT = {"width": 8, "columns": 16, "outputs": 4, "walk_seconds_per_image": 2.0, "held_bytes_per_image": 7, "choose_seconds": 9.0}
UNIT |= {"prefix_seconds_per_image": 3.0, "candidate_seconds_per_image": 1.0}
NETWORK = {"units": {"a": UNIT}, "gram_dense_answer_bytes": 1000, "gram_dense_seconds_per_image": 5.0}
MACHINE = predict.Machine(core=0.5, image=0.25, answers={2: 0.125, 4: 100.0}, commit=1.0, unit_commit=2.0, add=1e6, link=100.0, question=9.0)


def test_the_page_shows_what_the_script_makes_of_the_committed_measurements():
    made = predict.tables(predict.load("assumed.json"))
    page = (FOLDER / "README.md").read_text()
    assert page[page.index(predict.BEGIN) + len(predict.BEGIN) : page.index(predict.END)].strip() == made.strip()


def test_a_step_of_the_papers_search_is_reading_prefix_and_a_share_of_the_candidates():
    found = predict.loss(NETWORK, MACHINE, 2, ASSUMED, None, 3)  # 8 candidates in 3 blocks: two turns, 6 candidates on the busier worker
    # 4 steps of: 10 x 0.25 read, 10 x 3 x 0.5 before the unit, 6 x 10 x 1 x 0.5 candidates; 3 answers are quicker; 1 to commit
    assert found.minutes == pytest.approx(4 * (2.5 + 15 + 30 + 1) / 60)
    assert found.busy == 2 and found.traffic == 8 * 8 and found.parts["answers"] == pytest.approx(4 * 3 * 0.125 / 60)


def test_a_step_takes_as_long_as_its_answers_where_the_coordinator_is_slower_and_fewer_blocks_than_workers_leave_some_idle():
    found = predict.loss(NETWORK, MACHINE, 4, ASSUMED, 6, 3)
    assert found.busy == 2 and found.minutes == pytest.approx(4 * (2 * 100.0 + 1) / 60)


def test_a_walk_reads_once_and_every_unit_waits_for_the_longer_of_walking_and_adding_then_for_its_choice():
    found = predict.sequential(NETWORK, MACHINE, 4, ASSUMED, 30)  # 4 blocks, one each: 30 images; an answer has 8 x 16 x 20 = 2560 bytes
    assert found.minutes == pytest.approx((30 * 0.25 + max(30 * 2 * 0.5, 4 * 2560 / 100) + 9 + 2) / 60)
    assert (found.traffic, found.waiting, found.held, found.busy, found.blocks) == (4 * 2560, 4 * 2560, 30 * 7, 4, 4)
    assert found.load == pytest.approx((4 * 2560 / 100 + 9 + 2) / (7.5 + 102.4 + 9 + 2))


def test_one_pass_for_all_units_is_followed_by_all_choices_in_the_coordinator():
    found = predict.independent(NETWORK, MACHINE, 2, ASSUMED, 20)  # 5 blocks on two workers: 3 turns, 60 images
    assert found.minutes == pytest.approx((max(60 * 0.25 + 60 * 5 * 0.5, 5 * 1000 / 100) + 9 + 2) / 60)
    assert found.waiting == 4 * 1000 and max(found.parts, key=found.parts.get) == "walking"


def test_a_small_answer_costs_the_sum_of_what_coordinator_executor_and_ray_take():
    rows = json.loads((FOLDER / "coordinator.json").read_text())
    found = predict.machine(rows, predict.load("data.json"), {"workers": [64], "gpu_in_cores": 10, "link_bytes_per_second": 1.0})
    detail = rows[0]["detail"]
    parts = detail["exhaustive"]["answers_per_second"], detail["given_out_per_second"]["64"], detail["ray_calls_per_second"]
    assert found.answers == {64: pytest.approx(sum(1 / rate for rate in parts))} and found.core == 0.1
