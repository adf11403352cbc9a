"""What events add up to: shares, rates and estimates of toy runs, counted by hand."""

import json

import pytest

from pipeline.stages.standing import STAGES, Standing

START = "2026-01-01T00:00:"


def fed(*events, **given) -> Standing:
    """A Standing that took (second, event) pairs."""
    standing = Standing(**given)
    for second, event in events:
        standing.take(json.dumps({"time": f"{START}{second:02d}.000000Z"} | event))
    return standing


def stage(name, state, key="0" * 32) -> dict:
    return {"event": "stage", "stage": name, "state": state, "key": key}


def now(standing, second) -> float:
    from datetime import UTC, datetime

    return datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC).timestamp()


def test_a_training_goes_by_its_steps():
    training = [(second, {"event": "training", "step": 10 * second, "total": 100, "loss": 1.0, "lr": 0.1}) for second in (1, 2, 3)]
    standing = fed((0, stage("dense", "running")), *training)
    assert (standing.step, standing.share, standing.pace()) == (30, 0.3, (10.0, "steps"))
    assert standing.seconds_left(now(standing, 3)) == pytest.approx(7)
    assert standing.seconds_left(now(standing, 5)) == pytest.approx(5)  # time goes on while no event comes
    assert standing.seconds_left(now(standing, 59)) == 0


def test_short_epochs_tell_the_share_where_steps_are_too_fast_to_be_recorded():
    epochs = [(second, {"event": "epoch", "epoch": second - 1, "train_loss": 1.0, "val_top1": 50.0 + second}) for second in (1, 2)]
    standing = fed((0, stage("train", "running")), *epochs, epochs_of=lambda name: {"train": 8}[name])
    assert (standing.share, standing.epochs, standing.pace()) == (0.25, [51.0, 52.0], (1.0, "epochs"))


def test_a_search_goes_by_units_and_within_a_unit_by_its_picks():
    picks = [(1 + step, {"event": "pick", "unit": "b", "step": step, "score": 1.0 - step / 10, "done": step + 1, "total": 4}) for step in range(2)]
    unit = {"event": "unit", "unit": "a", "done": 1, "total": 2, "unit_name": "units"}
    answer = {"event": "answer", "statistic": "loss", "unit": "b", "done": 9, "total": 9}
    standing = fed((0, stage("search", "running")), (0, unit), *picks, (3, answer))
    assert (standing.unit, standing.step, standing.share, standing.path) == ("b", 1, 0.75, [1.0, 0.9])
    assert standing.rate() == pytest.approx(0.125)
    assert fed((0, stage("search", "running")), picks[0], units_of=lambda key: 5).share == pytest.approx(0.05)


def test_units_that_a_journal_replays_do_not_count_as_speed():
    replayed = [(0, {"event": "unit", "unit": name, "done": done, "total": 4}) for done, name in ((1, "a"), (2, "b"))]
    gram = [(second, {"event": "answer", "statistic": "gram", "unit": "c", "done": second, "total": 10}) for second in (1, 2)]
    standing = fed((0, stage("search", "running")), *replayed, *gram)
    assert standing.rate() == pytest.approx(0.1 / 4)


def test_a_resume_forgets_the_speed_and_the_pause_before_it_and_keeps_what_is_finished():
    run = {"event": "run", "run": "x", "state": "running"}
    before = [(0, run), (0, stage("data", "done")), (1, stage("dense", "running")), (4, {"event": "workers", "alive": 2})]
    after = [(50, run), (51, stage("data", "found")), (52, stage("dense", "running"))]
    standing = fed(*before, *after)
    assert standing.seconds_spent() == 4 + 2 and standing.finished == {"data"} and standing.workers is None and standing.rate() is None


def test_the_share_of_the_whole_run_grows_stage_by_stage_to_one():
    names, standing, seen = [name for name in STAGES if name != "statistics"], Standing(), []
    for name in names:
        for state in ("running", "done"):
            standing.take(json.dumps({"time": f"{START}00Z"} | stage(name, state)))
            seen.append(standing.whole(names))
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] == 1


@pytest.mark.parametrize("line", [
    "", "[]", "3", "null", "{", '{"event": "pick"}', '{"event": "stage", "time": "x"}', '{"time": "2026-01-01T00:00:00Z"}',
    '{"event": "training", "time": "2026-01-01T00:00:00Z", "step": "many", "total": 0}',
    '{"event": "stage", "time": "2026-01-01T00:00:00Z", "stage": "dense"}',
    '{"event": "workers", "time": "2026-01-01T00:00:00Z", "alive": []}',
])
def test_lines_that_make_no_sense_change_nothing(line):
    standing = fed((0, stage("data", "running")))
    standing.take(line)
    assert (standing.stage, standing.share, standing.workers, standing.finished) == ("data", None, None, set())
