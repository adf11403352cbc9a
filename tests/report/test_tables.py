"""The headline tables: what shares a cell, what counts as a value, what stands where nothing was measured."""

import json

import pytest

from pipeline.config.errors import BadInput
from pipeline.report.pages import value
from pipeline.report.runs import gather
from pipeline.report.table import sections_of
from pipeline.report.variants import amount, budget_name
from tests.report.directories import GREEDY, PRUNE, config_of, make_group, make_run, write


def sections(*paths):
    return sections_of(gather(paths))[0]


def only(*paths):
    (section,) = sections(*paths)
    return section


def rows(section, table=0):
    return {section.pruners[row.pruner]: row for row in section.tables[table].rows}


def test_seeds_share_a_cell_and_their_spread_is_shown(tmp_path):
    section = only(*(make_run(tmp_path, config_of(GREEDY, arm="finetune", seed=seed)) for seed in (0, 1)))
    (arm,) = section.arms
    cell = rows(section)["reconstruction + lsq"].arm(arm)
    assert sorted(cell.values) == [84.0, 85.0]
    assert value(cell) == "84.50 ± 0.71"
    assert cell.spread.n == 2


def test_a_computation_that_runs_share_counts_once(tmp_path):
    configs = [config_of(PRUNE, arm=arm, seed=seed) for arm in ("none", "finetune") for seed in (0, 1, 2)]
    section = only(*(make_run(tmp_path, config) for config in configs))
    (row,) = rows(section).values()
    assert row.untrained().values == (80.0,)  # l1 draws nothing: one selection whatever the seed
    (arm,) = section.arms
    assert len(row.arm(arm).values) == 3


def test_one_seed_counts_once_though_it_was_computed_twice(tmp_path):
    one = config_of(GREEDY, arm="finetune")
    other = one | {"name": "again"}
    section = only(make_run(tmp_path, one), make_run(tmp_path, other))
    (arm,) = section.arms
    assert rows(section)["reconstruction + lsq"].arm(arm).spread.n == 1


def test_what_differs_beyond_the_seed_has_a_row_of_its_own_that_names_it(tmp_path):
    runs = [make_run(tmp_path, config_of(GREEDY | {"ridge": ridge})) for ridge in (0.01, 0.1)]
    runs += [make_run(tmp_path, config_of(GREEDY | {"mode": "independent", "ridge": 0.01})), make_run(tmp_path)]
    assert set(rows(only(*runs))) == {
        "reconstruction + lsq, sequential, ridge 0.01", "reconstruction + lsq, sequential, ridge 0.1", "reconstruction + lsq, independent, ridge 0.01", "l1",
    }  # fmt: skip


def test_arms_of_equal_epochs_stand_side_by_side_with_their_epochs(tmp_path):
    configs = [config_of(arm=arm, epochs=epochs) for epochs in (1, 3) for arm in ("reinit-epochs", "finetune")]
    section = only(*(make_run(tmp_path, config) for config in configs))
    assert list(section.arms.values()) == ["fine-tune, 1 epoch", "re-init, 1 epoch", "fine-tune, 3 epochs", "re-init, 3 epochs"]


def test_arms_of_two_learning_rates_are_two_columns(tmp_path):
    configs = [config_of(arm="finetune", train={"epochs": 1, "lr": lr}) for lr in (0.1, 0.01)]
    section = only(*(make_run(tmp_path, config) for config in configs))
    assert list(section.arms.values()) == ["fine-tune, 1 epoch, lr 0.01", "fine-tune, 1 epoch, lr 0.1"]


def test_holes_say_why(tmp_path):
    done = make_run(tmp_path, config_of(arm="finetune"))
    failed = make_run(tmp_path, config_of(arm="reinit-epochs"), done=False, error="loss is NaN\neverywhere")
    stopped = make_run(tmp_path, config_of(GREEDY, arm="finetune"), done=False)
    group = make_group(tmp_path, {done: ("done", None), failed: ("failed", "x"), stopped: ("stopped", None)})
    section = only(group)
    tuned, fresh = section.arms
    assert value(rows(section)["l1"].arm(fresh)) == "failed: loss is NaN everywhere"
    greedy = rows(section)["reconstruction + lsq"]
    assert value(greedy.arm(tuned)) == value(greedy.untrained()) == "not run (stopped)"
    assert value(greedy.arm(fresh)) == "not run"


def test_a_seed_that_failed_stays_visible_beside_those_that_did_not(tmp_path):
    done = make_run(tmp_path, config_of(arm="finetune"))
    failed = make_run(tmp_path, config_of(arm="finetune", seed=1), done=False, error="no memory")
    section = only(done, failed)
    (arm,) = section.arms
    cell = rows(section)["l1"].arm(arm)
    assert cell.values == (84.0,) and cell.holes == "1 failed"


def test_a_null_says_its_reason(tmp_path):
    reasons = {"top1_recalibrated": "the network has no batch norm", "top1_best_val": "arm", "epoch_best_val": "arm"}
    section = only(make_run(tmp_path, top1_recalibrated=None, not_run=reasons))
    assert value(rows(section)["l1"].recalibrated()) == "not run: the network has no batch norm"


def test_the_run_directories_come_before_what_a_group_says(tmp_path):
    done, lost = make_run(tmp_path), make_run(tmp_path, config_of(budget=0.25), done=False)
    collection = gather([make_group(tmp_path, {done: ("failed", "an old error"), lost: ("done", None)})])
    assert [run.state for run in collection.done] == ["done"]
    assert [(gap.state, gap.error) for gap in collection.gaps] == [("failed", "the group calls it done, its result.json is missing")]


def test_a_run_given_twice_counts_once_and_a_group_knows_its_state(tmp_path):
    done, waiting = make_run(tmp_path), make_run(tmp_path, config_of(budget=0.25), done=False)
    group = make_group(tmp_path, {done: ("done", None), waiting: ("running", None)})
    collection = gather([done, waiting, group, done])
    assert len(collection.done) == 1 and [gap.state for gap in collection.gaps] == ["running"]


def test_runs_that_never_began_are_placed_by_the_group_config(tmp_path):
    plain = config_of(
        {"selector": "l1"}, budget="50%", network={"model": "net", "num_classes": 10, "img_size": 28}, dense={}, train={}, scoring={}, evaluate={}, arm="none"
    )  # fmt: skip
    plain["prune"] = {"selector": "l1", "refit": "none"}
    plain["sweep"] = {"arm": ["none", "finetune"]}
    from pipeline.config.load import check_plain, combine

    begun = check_plain(combine(plain)[0], "sweep").model_dump(mode="json")
    row_config = begun | {"budget": {"prunable_macs": 0.5}}
    done = make_run(tmp_path, row_config)
    (done / "config.yaml").write_text(json.dumps(begun))
    section = only(make_group(tmp_path, {done: ("done", None), tmp_path / "demo-never": ("pending", None)}, plain))
    (arm,) = section.arms
    assert value(rows(section)["l1"].arm(arm)) == "not run (pending)"
    assert [gap.name for gap in section.gaps] == ["not begun"], "which directory gets which settings is not known"


@pytest.mark.parametrize("field, other", [("weights_sha256", "1" * 64), ("test_digest", "1" * 32), ("macs_dense", 1200)])
def test_mixed_dense_baselines_are_refused_naming_both_runs(tmp_path, field, other):
    one, two = make_run(tmp_path), make_run(tmp_path, config_of(budget=0.25), **{field: other})
    with pytest.raises(BadInput, match=field) as refusal:
        sections(one, two)
    assert one.name in str(refusal.value) and two.name in str(refusal.value)


@pytest.mark.parametrize("field, other", [("model", "net2"), ("dataset", "toys2"), ("img_size", 32)])
def test_another_network_or_data_set_has_a_section_of_its_own(tmp_path, field, other):
    one, two = make_run(tmp_path), make_run(tmp_path, config_of(budget=0.25), weights_sha256="1" * 64, **{field: other})
    assert len(sections(one, two)) == 2


def test_two_results_of_one_run_are_refused(tmp_path):
    one, two = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    row = json.loads((two / "result.json").read_text())
    write(two / "result.json", row | {"top1": 1.0})
    with pytest.raises(BadInput, match="two different results"):
        gather([one, two])


@pytest.mark.parametrize("number, text", [(0, "0"), (512, "512"), (3386544, "3.39 M"), (999_499, "999 k"), (999_600, "1 M"), (2.2e8, "220 M")])
def test_amounts_are_short(number, text):
    assert amount(number) == text


def test_budgets_are_named_as_they_were_given():
    assert budget_name("prunable_macs", 0.5) == "50 % of prunable MACs"
    assert budget_name("macs", 2.2e8) == "220 M MACs"
    assert budget_name("width", 0.125) == "12.5 % of width"
