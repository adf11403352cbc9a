"""From a file and overrides to one checked Config: what replaces, what merges, and how a mistake is named."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.errors import BadInput
from pipeline.config.load import check_plain, combine, load_config, read_plain
from pipeline.config.settings import Config, budget_target
from pipeline.config.yaml import dump

ROOT = Path(__file__).parents[2]
MINIMAL = "data: {source: fashion-mnist}\nnetwork: {model: mobilenetv2_050, num_classes: 10, in_chans: 1, img_size: 28}\n"


@pytest.fixture
def load(tmp_path):
    """load(*overrides, text): the Config of a text, or its BadInput."""
    def load(*overrides, text=MINIMAL) -> Config:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return load_config(str(path), overrides)
    return load


def refusal(load, *overrides, **more) -> str:
    with pytest.raises(BadInput) as caught:
        load(*overrides, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_overrides_set_single_keys_with_yamls_rules_and_later_ones_win(load):
    config = load("train.lr=1e-4", "train.epochs=3", "name=off", "seed=1", "seed=2", "network.mean=[0.5]")
    assert (config.train.lr, config.train.epochs, config.name, config.seed, config.network.mean) == (1e-4, 3, "off", 2, [0.5])


def test_a_budget_kind_replaces_the_whole_budget(load):
    text = MINIMAL + "budget: {macs: 40%}\n"
    assert load(text=text).budget == {"macs": "40%"}
    assert load("budget.width=0.5", text=text).budget == {"width": 0.5}
    assert load("budget={prunable_macs: 220M}", text=text).budget == {"prunable_macs": "220M"}


def test_a_mapping_replaces_data_and_merges_into_other_sections(load):
    text = MINIMAL.replace("fashion-mnist", "fashion-mnist, test_samples: 50") + "prune: {selector: l1, refit: none}\n"
    replaced = load("data={train: a.json, test: b.json}", text=text)
    assert (replaced.data.source, replaced.data.train, replaced.data.test_samples) == (None, "a.json", None)
    merged = load("prune={selector: random}", "network={img_size: 32, arguments: {drop_rate: 0.1}}", text=text)
    assert (merged.prune.selector, merged.prune.refit) == ("random", "none")
    assert (merged.network.img_size, merged.network.model, merged.network.arguments) == (32, "mobilenetv2_050", {"drop_rate": 0.1})


def test_a_list_is_replaced_and_never_merged(load):
    text = MINIMAL.replace("img_size: 28", "img_size: 28, mean: [0.1, 0.2, 0.3]")
    assert load("network.mean=[0.5]", text=text).network.mean == [0.5]
    assert load("network={mean: [0.4]}", text=text).network.mean == [0.4]


def test_a_mapping_given_for_sweep_replaces_it(load):
    text = MINIMAL + "sweep: {arm: [none, finetune], seed: [1, 2]}\n"
    assert load("sweep={seed: [7]}", text=text).seed == 7
    assert load("sweep={}", text=text).seed == 0


def test_sections_that_share_a_yaml_anchor_are_overridden_one_by_one(load):
    text = MINIMAL + "dense: &recipe {epochs: 5, lr: 0.2}\ntrain: *recipe\n"
    config = load("train={epochs: 2}", "train.lr=0.1", text=text)
    assert (config.dense.epochs, config.dense.lr, config.train.epochs, config.train.lr) == (5, 0.2, 2, 0.1)


def test_a_sweep_of_one_combination_is_that_run(load):
    text = MINIMAL + "sweep: {budget: [{width: 0.5}], prune.selector: [l1], prune: [{refit: none}], network: [{arguments: {drop_rate: 0.2}}]}\n"
    config = load(text=text)
    assert config.budget == {"width": 0.5} and (config.prune.selector, config.prune.refit) == ("l1", "none")
    assert config.network.arguments == {"drop_rate": 0.2} and config.sweep == {}


def test_a_sweep_of_more_combinations_is_refused_naming_their_number_and_gfs_sweep(load):
    text = MINIMAL + "sweep: {budget: [{width: 0.5}, {macs: 50%}], arm: [none, finetune, reinit-epochs]}\n"
    message = refusal(load, text=text)
    assert "6 combinations" in message and "`gfs sweep`" in message and "sweep:" in message
    assert load("sweep={arm: [none]}", text=text).arm == "none"


@pytest.mark.parametrize("sweep", ["{arm: none}", "{arm: []}", "[arm]", "arm"])
def test_a_sweep_that_maps_to_no_lists_is_refused(load, sweep):
    assert "sweep: must map each key to a list" in refusal(load, f"sweep={sweep}")


@pytest.mark.parametrize("override, near", [
    ("sede=1", "seed"), ("prune.selectr=l1", "prune.selector"), ("train.epoch=3", "train.epochs"),
    ("scoring.block_sample=3", "scoring.block_samples"),
    ("networks.model=x", "network"), ("data.sourc=x", "data.source"), ("budget.prunable_mac=5%", "budget.prunable_macs"),
    ("sweep={sede: [1]}", "seed"),
    ("evaluate={latensy: true}", "evaluate.latency"),
])
def test_an_unknown_setting_is_named_with_the_nearest_that_exists(load, override, near):
    message = refusal(load, override)
    assert f"did you mean {near}?" in message and "config.yaml: " in message


def test_a_mistyped_section_is_named_and_not_only_the_right_one_that_is_then_missing(load):
    message = refusal(load, text=MINIMAL.replace("network:", "netwrok:"))
    assert "netwrok: unknown setting; did you mean network?" in message
    assert "network: is missing" in refusal(load, text="data: {source: x}\n")


def test_an_unknown_setting_with_nothing_near_lists_what_there_is(load):
    assert "known here: workers, address" in refusal(load, "cluster.zzz=1")


@pytest.mark.parametrize("override, key", [
    ("seed=one", "seed"), ("seed=1.5", "seed"), ("seed=true", "seed"), ("seed=-1", "seed"), ("train.epochs=0", "train.epochs"),
    ("train.lr=fast", "train.lr"),
    ("train.lr=1e400", "train.lr"), ("train.lr=null", "train.lr"), ("evaluate.latency=off", "evaluate.latency"),
    ("evaluate.latency=yes", "evaluate.latency"),
    ("name=3", "name"), ("name=", "name"), ("name=' '", "name"), ("network.in_chans=2", "network.in_chans"), ("network.mean=0.5", "network.mean"),
    ("prune.units=hidden", "prune.units"), ("prune.units=[]", "prune.units"), ("prune.units=[hidden, hidden]", "prune.units"),
    ("prune.refit=lsqr", "prune.refit"), ("arm=fine-tune", "arm"), ("train=3", "train"), ("train=null", "train"), ("prune.mode=both", "prune.mode"),
    ("device=gpu", "device"), ("tracking.mode=on", "tracking.mode"), ("scoring.threads=0", "scoring.threads"),
    ("data.train_samples=3", "data.train_samples"),
])
def test_an_ill_typed_setting_is_named_with_what_was_found(load, override, key):
    message = refusal(load, override)
    assert f" {key}" in message and ("found" in message or "name" in key), message


@pytest.mark.parametrize("override, word", [
    ("budget={}", "0 kinds"), ("budget={macs: 50%, width: 0.5}", "2 kinds"), ("budget=50%", "dictionary"), ("budget.macs=0", "above 0"),
    ("budget.macs=-5%", "above 0"), ("budget.macs=101%", "more than everything"), ("budget.macs=1.5", "neither a share"),
    ("budget.width=2", "at most 1"),
    ("budget.macs=half", "no amount"), ("budget.macs=true", "no amount"), ("budget.macs=null", "no amount"), ("budget.macs=[1]", "no amount"),
    ("budget.macs={a: 1}", "no amount"), ("budget.macs=nan", "above 0"), ("budget.macs=1e400", "above 0"), ("budget.macs='%'", "no amount"),
    ("budget.macs=[", "not valid YAML"),
])
def test_a_budget_that_means_nothing_is_refused(load, override, word):
    message = refusal(load, override)
    assert "budget" in message and word in message


@given(st.floats(0.001, 1.0))
def test_a_share_means_the_same_as_a_fraction_and_as_a_percentage(share):
    assert budget_target("macs", f"{100 * share!r}%") == pytest.approx(budget_target("macs", share)) == pytest.approx(share)


@pytest.mark.parametrize("text, value", [("220M", 2.2e8), ("1.5G", 1.5e9), ("40k", 4e4), ("123456", 123456.0), (250000, 250000.0), ("100%", 1.0)])
def test_an_absolute_budget_may_carry_a_unit(text, value):
    assert budget_target("macs", text) == value


@pytest.mark.parametrize("data, word", [
    ("{}", "either data.source"), ("{source: a, train: b, test: c}", "either data.source"), ("{train: a}", "belong together"),
    ("{test: a}", "belong together"),
    ("{train: a, test: b, train_samples: 50}", "smaller manifest"),
])
def test_data_names_one_place(load, data, word):
    assert word in refusal(load, f"data={data}")


@pytest.mark.parametrize("override, words", [
    ("network.arguments={num_classes: 5}", ("network.arguments", "network.num_classes")),
    ("network.arguments={in_chans: 3}", ("network.arguments", "network.in_chans")),
    ("network={model: 'a:b', arguments: {img_size: 5}}", ("network.arguments", "network.img_size")),
    ("network.std=[0]", ("network.std", "greater than 0")), ("network.std=[-0.5]", ("network.std", "greater than 0")),
    ("network.mean=[]", ("network.mean", "at least 1")), ("network.std=[]", ("network.std", "at least 1")),
])
def test_a_network_section_that_contradicts_itself_is_refused(load, override, words):
    message = refusal(load, override)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("override", ["nonsense", "=3", ".x=1", "a..b=1", "train.=2", "", "--x"])
def test_what_is_no_override_is_named(load, override):
    message = refusal(load, override)
    assert message.startswith(repr(override)) and "key.sub=value" in message


def test_an_override_that_is_no_yaml_is_named_by_its_key(load):
    assert refusal(load, "prune={selector: l1, selector: random}").startswith("prune: ") and "train.lr" in refusal(load, "train.lr=[1")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff\xfe\n")
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "empty.yaml").write_text("")
    faults = {"none.yaml": "No such file", "": "directory", "latin.yaml": "cannot be read", "list.yaml": "no settings", "empty.yaml": "no settings"}
    for name, word in faults.items():
        with pytest.raises(BadInput) as caught:
            load_config(str(tmp_path / name))
        assert str(tmp_path / name) in str(caught.value) and word in str(caught.value)


def test_a_file_is_read_once_so_that_a_pipe_works(tmp_path):
    import os
    import threading

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(MINIMAL))
    writer.start()
    assert load_config(str(pipe), ["seed=5"]).seed == 5
    writer.join(timeout=10)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_committed_config_is_valid_and_what_a_run_writes_down_is_the_same_config(path, tmp_path):
    combinations = combine(read_plain(str(path)))
    assert len({str(combination) for combination in combinations}) == len(combinations)
    for config in (check_plain(combination, str(path)) for combination in combinations):
        written = tmp_path / "config.yaml"
        written.write_text(dump(config.model_dump(mode="json")))
        assert load_config(str(written)) == config


def test_a_name_that_reads_as_a_number_survives_the_written_config(load, tmp_path):
    config = load("name='1e4'")
    (tmp_path / "written.yaml").write_text(dump(config.model_dump(mode="json")))
    assert load_config(str(tmp_path / "written.yaml")) == config and config.name == "1e4"


def test_settings_cannot_be_changed_after_they_were_checked(load):
    from pydantic import ValidationError

    with pytest.raises(ValidationError):
        load().seed = 3


def test_plain_settings_keep_the_order_of_the_file(load, tmp_path):
    (tmp_path / "ordered.yaml").write_text(MINIMAL + "seed: 3\narm: none\n")
    assert list(read_plain(str(tmp_path / "ordered.yaml"))) == ["data", "network", "seed", "arm"]
