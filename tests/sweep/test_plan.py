"""What a sweep is, before any work: its runs, what they share, and what is refused by naming the combination."""

import re

import pytest

from pipeline.chain.plan import plan_sweep
from pipeline.config.errors import BadInput
from tests.conftest import run_gfs
from tests.sweep.conftest import text_of


@pytest.fixture
def config(tmp_path, image_folder):
    path = tmp_path / "sweep.yaml"
    path.write_text(text_of(image_folder, tmp_path / "runs"))
    return path


def planned(path, sweep):
    return plan_sweep(str(path), [f"sweep={sweep}"])


def test_what_two_pruners_and_three_arms_share(config):
    sweep = plan_sweep(str(config))
    assert len(sweep.runs) == 6
    shared = sweep.shared()
    assert {name: times for name, (_, times) in shared.items()} == {
        "data": 1,
        "dense": 1,
        "baseline": 1,
        "search": 2,
        "shrink": 2,
        "untrained": 2,
        "train": 3,  # two fine-tunes; the re-init reads widths only
        "evaluate": 6,
    }
    assert shared["train"][0] == 4, "arm none trains nothing"


def test_runs_of_one_search_are_begun_far_apart(config):
    searches = [run.stages["search"] for run in plan_sweep(str(config)).runs]
    assert len(set(searches[:2])) == 2
    assert searches[:2] == searches[2:4] == searches[4:]


def test_equal_combinations_are_one_run(config):
    several = planned(config, "{arm: [none, none, finetune], budget: [{prunable_macs: 50%}, {prunable_macs: 0.5}]}")
    assert len(several.runs) == 2
    assert several.hash == planned(config, "{arm: [finetune, none]}").hash, "a group is the set of its runs"


def test_settings_in_no_key_make_no_second_run(config):
    assert len(planned(config, "{cluster.workers: [0, 2], arm: [none]}").runs) == 1


def test_a_run_of_a_sweep_is_the_run_that_its_settings_name(config):
    from pipeline.chain.run import run_hash
    from pipeline.config.load import load_config

    (run,) = [run for run in plan_sweep(str(config)).runs if run.config.prune.selector == "l1" and run.config.arm == "finetune"]
    alone = load_config(str(config), ["sweep={}", "prune={selector: l1, refit: none}", "arm=finetune"])
    assert run.hash == run_hash(alone)


@pytest.mark.parametrize(
    ("sweep", "found"),
    [
        ("{budget: [{prunable_macs: 50%}, {prunable_macs: 0.1%}]}", r"budget.*\(in the combination budget=\{'prunable_macs': '?0.1%'?\}\)"),
        ("{prune.selector: [l1, tp.l3]}", r"prune\.selector.*tp\.l3.*\(in the combination prune\.selector=tp\.l3\)"),
        ("{arm: [none], prune.refit: [lsq, lsqq]}", r"prune\.refit.*lsqq.*\(in the combination arm=none, prune\.refit=lsqq\)"),
        ("{network.model: ['pipeline.networks.small:tiny', 'pipeline.networks.small:tinny']}", r"tinny.*in the combination"),
        ("{arm: [none, finetune], prune.selector: [tp.l3]}", r"prune\.selector: 'tp.l3' is unknown[^(]*$"),
        ("{name: [one, two]}", r"name: a group has one name; take name out of sweep"),
        ("{arm: none}", r"sweep: must map each key to a list"),
        ("{arm: []}", r"sweep: must map each key to a list"),
        ("{arms: [none]}", r"arms: unknown setting; did you mean arm\?"),
    ],
)
def test_a_bad_combination_is_named_before_any_work(config, tmp_path, sweep, found):
    with pytest.raises(BadInput, match=found):
        planned(config, sweep)
    assert not (tmp_path / "runs").exists()


def test_the_commands_say_so_with_exit_code_2_and_leave_nothing(config, tmp_path):
    for verb, override, found in (
        ("sweep", "sweep={budget: [{prunable_macs: 50%}, {prunable_macs: 0.1%}]}", "in the combination budget="),
        ("run", "arm=none", "leaves 6 combinations; `gfs run` does one: use `gfs sweep`"),
    ):
        result = run_gfs(verb, "-c", config, override)
        assert result.returncode == 2
        assert re.fullmatch(rf"gfs: error: [^\n]*{re.escape(found)}[^\n]*\n", result.stderr)
        assert result.stdout == ""
    assert not (tmp_path / "runs").exists()


def test_a_runs_directory_that_cannot_be_is_named(config, tmp_path):
    (tmp_path / "runs").write_text("a file")
    result = run_gfs("sweep", "-c", config)
    assert (result.returncode, result.stdout) == (2, "")
    assert "runs_dir" in result.stderr


def test_cases_set_several_settings_together(config):
    cases = "{seed: [0, 1], cases: [{prune: {selector: l1}, train.lr: 0.1}, {prune.selector: random, train: {lr: 0.2}}]}"
    found = {(run.config.seed, run.config.prune.selector, run.config.train.lr) for run in planned(config, cases).runs}
    assert found == {(seed, *case) for seed in (0, 1) for case in (("l1", 0.1), ("random", 0.2))}


def test_a_case_at_fault_is_named_with_its_settings(config):
    with pytest.raises(BadInput, match=r"prune.selector: 'l9' is unknown.*in the combination prune.selector=l9, train.lr=0.2"):
        planned(config, "{cases: [{prune.selector: l1, train.lr: 0.1}, {prune.selector: l9, train.lr: 0.2}]}")
    with pytest.raises(BadInput, match="sweep.cases: must list mappings"):
        planned(config, "{cases: [3]}")
