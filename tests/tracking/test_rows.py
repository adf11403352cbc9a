"""What goes to W&B under which names: by hand, and for any event."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.tracking.rows import flat, metrics_of, summary_of, tables_of
from tests.tracking.mirrors import numbers, small_run

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3)
WORDS = st.text("abc_", min_size=1, max_size=4)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=8)


def test_the_stage_stands_before_each_name_and_the_time_is_told_as_wandb_wants_it():
    event = {"time": "1970-01-01T00:01:00.500000Z", "stage": "train", "event": "epoch", "epoch": 0, "train_loss": 0.5}
    assert metrics_of(event) == {"train/event": "epoch", "train/epoch": 0, "train/train_loss": 0.5, "_timestamp": 60.5}


def test_progress_of_different_things_has_different_names():
    pick = {"time": "1970-01-01T00:00:00Z", "stage": "search", "event": "pick", "score": 0.25, "done": 3, "total": 9}
    read = {"time": "1970-01-01T00:00:00Z", "stage": "baseline", "event": "evaluating dense", "done": 100, "total": 300}
    assert metrics_of(pick) | {"_timestamp": 0} == {
        "search/event": "pick", "search/score": 0.25, "search/pick/done": 3, "search/pick/total": 9, "_timestamp": 0,
    }  # fmt: skip
    assert metrics_of(read)["baseline/evaluating_dense/done"] == 100


def test_an_event_before_the_first_stage_is_the_runs():
    assert metrics_of({"time": "1970-01-01T00:00:00Z", "event": "run", "state": "running"})["run/state"] == "running"


def test_mappings_and_lists_are_flattened_and_nulls_left_out():
    assert flat({"shares": {"w1": {"loss": 3}}, "lost": [1, None, 2], "note": None}) == {"shares/w1/loss": 3, "lost/0": 1, "lost/2": 2}


@given(st.dictionaries(WORDS, VALUES, max_size=5))
def test_no_number_of_an_event_is_lost_or_made_up(fields):
    event = {"time": "1970-01-01T00:00:00Z", "stage": "search", **fields, "event": "pick"}
    found = metrics_of(event)
    found.pop("_timestamp")
    assert numbers(found) == numbers({**fields, "event": "pick"})


def test_the_summary_has_every_number_of_the_result_and_the_widths():
    row = {"top1": 88.25, "latency": [{"ms": 1.5}], "note": None, "stages": {"data": "d"}}
    arch = {"units": {"a.b": {"width": 4, "kept": [2, 0]}}}
    assert summary_of(row, arch) == {"top1": 88.25, "latency/0/ms": 1.5, "stages/data": "d", "width/a.b": 2, "width_dense/a.b": 4}


def test_tables_have_the_result_the_units_and_the_path_of_the_search_wherever_it_was_made(tmp_path):
    run, row = small_run(tmp_path)
    tables = tables_of(run, row)
    assert tables["units"] == (["unit", "width", "kept"], [["a", 4, 2]])
    assert tables["path"] == (["unit", "step", "neuron", "score", "margin", "candidates"], [["a", 0, 2, 0.5, None, 4], ["a", 1, 0, 0.25, None, 4]])
    columns, (values,) = tables["result"]
    assert dict(zip(columns, values))["latency/1/ms"] == 2.5
    assert "epochs" not in tables  # nothing was trained


def test_the_epochs_of_an_arm_are_a_table_too(tmp_path):
    run, row = small_run(tmp_path)
    arm = run.parent / "stages/train-t"
    arm.mkdir()
    (arm / "done.json").write_text('{"facts": {"history": [{"epoch": 0, "train_loss": 0.5, "val_top1": 90.0}]}}')
    tables = tables_of(run, row | {"stages": {"search": "s", "train": "t"}})
    assert tables["epochs"] == (["epoch", "train_loss", "val_top1"], [[0, 0.5, 90.0]])
