"""Bad input through the installed command: exit code 2, one line that names the place, nothing half-written left."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.config.errors import BadInput
from pipeline.networks.small import tiny
from pipeline.networks.zoo import read_weights
from tests.conftest import ROOT, run_gfs
from tests.console import broken


def refused(finished, *words):
    """Assert a clean refusal; the line."""
    assert finished.returncode == 2, finished.stderr
    lines = [line for line in finished.stderr.splitlines() if line.startswith("gfs: error: ")]
    assert len(lines) == 1 and finished.stderr.splitlines()[-1] == lines[0], finished.stderr
    assert "Traceback" not in finished.stderr
    for word in words:
        assert str(word) in lines[0], lines[0]
    return lines[0]


def half_written(runs: Path) -> list[Path]:
    """Unfinished stages, temporary files, locks and results below a runs directory."""
    stages = [folder for folder in runs.glob("stages/*") if not (folder / "done.json").exists()]
    return [*stages, *runs.rglob(".*.tmp"), *runs.rglob("lock.json"), *runs.rglob("result.json")]


@pytest.mark.parametrize("overrides, words", [
    (["prune.selectr=l1"], ["prune.selectr", "did you mean prune.selector?"]),
    (["sede=1"], ["sede", "did you mean seed?"]),
    (["seed=one"], ["seed", "'one'"]),
    (["train.epochs=1.5"], ["train.epochs"]),
    (["evaluate.latency=off"], ["evaluate.latency", "'off'"]),
    (["prune={selector: l1, selector: random}"], ["prune", "'selector' is there twice"]),
    (["budget={macs: 50%, width: 50%}"], ["budget", "exactly one"]),
    (["budget.macs=0"], ["budget", "above 0"]),
    (["budget.prunable_macs=150%"], ["budget", "more than everything"]),
    (["budget.prunable_macs=some"], ["budget", "some"]),
    (["budget.flops=50%"], ["budget", "flops"]),
    (["prune.engine=stochastic"], ["prune.engine", "prune.selector"]),
    (["prune.reference=paper"], ["prune.reference", "prune.selector"]),
    (["prune.selector=loss", "prune.mode=independent"], ["prune.mode", "prune.selector"]),
    (["prune.selector=tp.magnitude"], ["prune.selector", "tp.taylor"]),
    (["prune.engine=swap", "prune.ridge=0"], ["prune.ridge: 0", "swap", "above 0"]),
    (["prune.refit=affin"], ["prune.refit", "affine"]),
    (["prune.allocation=tolerance"], ["prune.allocation", "not built"]),
    (["prune.units=[hidden, branch]"], ["prune.selector", "prune.units branch", "l1"]),
    (["prune.units=[hidden, branch]", "prune.selector=bn"], ["prune.refit", "prune.units branch", "none"]),
    (["prune.units=[hidden, stream]"], ["prune.mode", "prune.units", "independent"]),
    (["budget.latency_ms=3"], ["evaluate.latency", "budget.latency_ms", "set one of the two"]),
    (["budget.top1_drop=1%", "train.lr_search=[0.1, 0.2]"], ["train.lr_search", "budget.top1_drop", "prunable_macs"]),
    (["budget.top1_drop=0.5"], ["top1_drop", "50% of all images", "0.5% for half a point"]),
    (["budget.tolerance=0.1"], ["tolerance", "not built"]),
    (["arm=reinit-compute", "network.weights=timm"], ["arm", "network.train_images"]),
    (["sweep={arm: [none, finetune]}"], ["sweep", "gfs sweep"]),
    (["nonsense"], ["nonsense", "key.sub=value"]),
    (["netwrok.model=x"], ["netwrok", "did you mean network?"]),
    (["budget.prunable_mac=50%"], ["did you mean budget.prunable_macs?"]),
    (["train.lr=[1"], ["train.lr", "not valid YAML"]),
    (["name=''"], ["name", "empty"]),
    (["data={source: a, train: b, test: c}"], ["data.source", "data.train"]),
])
def test_a_wrong_setting_is_named_and_nothing_is_begun(small_config, tmp_path, overrides, words):
    refused(run_gfs("run", "-c", small_config, *overrides), *words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("verb", ["run", "check"])
def test_an_intercept_without_a_place_is_refused_before_any_work_naming_the_unit(small_config, tmp_path, verb):
    given = ("prune.refit=affine", "network.model=tests.networks.samples:unbiased")
    words = ("unit a: prune.refit 'affine'", "b, which reads it", "set prune.refit lsq")
    refused(run_gfs(verb, "-c", small_config, *given, PYTHONPATH=str(ROOT)), *words)
    assert not (tmp_path / "runs").exists()


def test_a_duplicate_key_in_the_file_is_named_with_its_line(small_config):
    small_config.write_text(small_config.read_text() + "name: again\n")
    refused(run_gfs("run", "-c", small_config), small_config, "line", "'name' is there twice")


@pytest.mark.parametrize("arguments, words", [
    (["run", "-c", "{tmp}/none.yaml"], ["none.yaml", "No such file"]),
    (["check", "-c", "{tmp}"], ["{tmp}", "directory"]),
    (["prune"], ["'prune'", "run", "check"]),
    ([], ["VERB"]),
    (["run"], ["-c/--config"]),
    (["run", "-c", "{tmp}/none.yaml", "--until", "data", "--unknown"], ["--unknown"]),
    (["shards"], ["VERB"]),
    (["bench", "data", "--images", "0"], ["--images", "'0'", "8 or more"]),
    (["bench", "selection", "--images", "few"], ["--images", "'few'", "8 or more"]),
    (["shards", "make", "{tmp}"], ["destination"]),
    (["status", "{tmp}"], ["{tmp}", "no run or group directory"]),
    (["shards", "verify", "{tmp}"], ["{tmp}", "gfs shards make"]),
    (["shards", "make", "{tmp}", "{tmp}/out"], ["{tmp}", "no folder train"]),
])
def test_wrong_usage_and_missing_files_are_refused_in_one_line(tmp_path, arguments, words):
    given, expected = ([part.replace("{tmp}", str(tmp_path)) for part in parts] for parts in (arguments, words))
    refused(run_gfs(*given), *expected)
    assert list(tmp_path.iterdir()) == []


def test_a_stage_that_does_not_exist_is_refused_with_those_that_do(tmp_path):
    refused(run_gfs("run", "-c", ROOT / "configs/tiny.yaml", "--until", "sarch", f"runs_dir={tmp_path / 'runs'}"), "--until", "sarch", "search")
    assert not (tmp_path / "runs").exists()


def test_overrides_may_stand_before_and_after_other_options(small_config):
    refused(run_gfs("run", "seed=1", "-c", small_config, "arm=none", "--until", "data", "sede=1"), "did you mean seed?")
    refused(run_gfs("run", "sede=1", "-c", small_config, "arm=none", "--until", "data", "seed=1"), "did you mean seed?")


def test_a_place_for_runs_that_is_a_file_is_named(prepared, tmp_path):
    (tmp_path / "runs").write_text("mine")
    refused(run_gfs("run", "-c", prepared["config"], f"runs_dir={tmp_path / 'runs'}"), "runs_dir", tmp_path / "runs")
    assert (tmp_path / "runs").read_text() == "mine"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, shards) -> dict:
    """Weights in a file, a config that names them, and a runs directory in which stage data is finished."""
    root = tmp_path_factory.mktemp("prepared")
    torch.manual_seed(0)
    save_file(tiny(num_classes=3).state_dict(), root / "given.safetensors")
    config = root / "given.yaml"
    config.write_text(
        f"name: given\ndata: {{source: {shards}}}\narm: none\n"
        f"network: {{model: 'pipeline.networks.small:tiny', weights: {root / 'given.safetensors'}, num_classes: 3, in_chans: 1, img_size: 28,"
        " top1: 0.01}\n"
        "prune: {calibration_samples: 64}\nscoring: {batch: 16, block_samples: 32}\nevaluate: {recalibration_samples: 32, latency: false}\n"
    )
    done = run_gfs("run", "-c", config, f"runs_dir={root / 'runs'}", "--until", "data")
    assert done.returncode == 0, done.stderr
    return {"root": root, "config": config, "runs": root / "runs"}


@pytest.fixture
def copied(tmp_path, shards) -> Path:
    """A copy of the shards that may be broken."""
    return Path(shutil.copytree(shards, tmp_path / "shards"))


@pytest.mark.parametrize("fault, words", [
    (broken.missing_label, ["no label"]),
    (broken.word_label, ["'cat'", "not an integer"]),
    (broken.label_out_of_range, ["label 3", "0..2"]),
    (broken.duplicate_key, ["a second", "keys must be unique"]),
    (broken.symbolic_link, ["bag/link.png", "link"]),
    (broken.device, ["bag/device.png", "device"]),
    (broken.truncated, ["cut off"]),
    (broken.not_a_tar, ["cannot be read as a tar"]),
    (broken.changed_byte, ["sha256"]),
    (broken.wrong_count, ["120 samples", "119"]),
])
def test_a_broken_shard_is_named_by_verify(copied, fault, words):
    shard = copied / "train/train-00000.tar"
    fault(shard)
    refused(run_gfs("shards", "verify", copied), shard, *words)


@pytest.mark.parametrize("fault", [broken.word_label, broken.truncated, broken.changed_byte])
def test_a_broken_shard_stops_a_run_and_leaves_nothing(prepared, copied, tmp_path, fault):
    shard = copied / "train/train-00000.tar"
    fault(shard)
    refused(run_gfs("run", "-c", prepared["config"], f"data.source={copied}", f"runs_dir={tmp_path / 'runs'}"), shard)
    assert half_written(tmp_path / "runs") == []


def test_an_undecodable_image_is_named_at_its_first_reading_and_the_stage_it_began_is_removed(prepared, copied, tmp_path):
    shard = copied / "train/train-00000.tar"
    broken.undecodable(shard)
    line = refused(run_gfs("run", "-c", prepared["config"], f"data.source={copied}", f"runs_dir={tmp_path / 'runs'}"), shard, "sample", "decoded")
    assert "make the shards again" in line
    assert half_written(tmp_path / "runs") == []
    assert len(list((tmp_path / "runs/stages").glob("data-*/done.json"))) == 1  # what was finished before stays


@pytest.mark.parametrize("overrides, words", [
    (["network.num_classes=4"], ["network.num_classes", "3 classes"]),
    (["data={source: nowhere}"], ["data.source", "nowhere"]),
    (["budget.prunable_macs=0.1%"], ["budget.prunable_macs", "out of reach", "100%"]),
    (["network.model=mobilnetv2_050"], ["network.model", "did you mean mobilenetv2_050?"]),
    (["network.model=pipeline.networks.small:huge"], ["network.model", "huge"]),
    (["network.arguments={depth: 3}"], ["network.arguments", "'depth'"]),
    (["network.weights=configs/weights/quickstrat.safetensors"], ["network.weights", "did you mean quickstart.safetensors?"]),
    (["network.weights=configs/weights/quickstart.safetensors"], ["network.weights", "does not fit"]),
    (["network.weights=package:no-such-package"], ["network.weights", "not installed"]),
    (["network.model=mobilenetv2_050", "network.weights=timm"], ["network.model", "mobilenetv2_050", "weights cannot be had"]),
    (["network.top1=99"], ["network.weights", "below the gate", "89.10 %"]),
    (["network.mean=[0.5, 0.5]"], ["network.mean", "1 channels"]),
    (["device=cuda"], ["device", "no GPU"]),
])
def test_bad_input_of_a_run_is_named_and_earlier_stages_stay(prepared, overrides, words):
    if overrides == ["device=cuda"] and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    before = {path: path.read_bytes() for path in prepared["runs"].glob("stages/*/*.json")}
    refused(run_gfs("run", "-c", prepared["config"], f"runs_dir={prepared['runs']}", *overrides, HF_HUB_OFFLINE="1"), *words)
    assert half_written(prepared["runs"]) == []
    assert all(path.read_bytes() == data for path, data in before.items())


@pytest.mark.parametrize("url, words", [
    ("{shards}/train/train-{{00000..00001}}.tar", ["train-00001.tar", "near it: train-00000.tar"]),
    ("pipe:cat {shards}/train/train-00000.tar", ["'pipe'", "not allowed"]),
    ("http://localhost:9/train-00000.tar", ["'http'", "not allowed"]),
])
def test_shard_urls_that_cannot_be_used_are_named(prepared, shards, tmp_path, url, words):
    data = json.dumps({"train": url.format(shards=shards), "test": f"{shards}/test/manifest.json"})
    refused(run_gfs("run", "-c", prepared["config"], f"data={data}", f"runs_dir={tmp_path / 'runs'}"), *words)
    assert half_written(tmp_path / "runs") == []


def test_an_unsupported_module_is_named_by_its_path(prepared, tmp_path):
    (tmp_path / "mynet.py").write_text(
        "from torch import nn\n\n\ndef build(num_classes, in_chans, img_size):\n"
        "    first = [nn.Conv2d(in_chans, 8, 3), nn.ReLU(), nn.GroupNorm(2, 8)]\n"
        "    return nn.Sequential(*first, nn.Conv2d(8, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))\n"
    )
    config = [f"runs_dir={tmp_path / 'runs'}", "network.model=mynet:build", "network.weights=null", "dense={epochs: 1, batch: 16}"]
    refused(run_gfs("run", "-c", prepared["config"], *config, PYTHONPATH=str(tmp_path)), "2: GroupNorm", "not supported")
    assert not (tmp_path / "runs").exists()  # told before any training


class Touch:
    """Unpickles by running a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_an_unsafe_pickle_is_refused_and_never_executed(prepared, tmp_path):
    executed, weights = tmp_path / "executed", tmp_path / "bad.pth"
    torch.save({"weight": Touch(executed)}, weights)
    torch.load(weights, weights_only=False)
    assert executed.exists()  # it would run
    executed.unlink()
    refused(run_gfs("run", "-c", prepared["config"], f"network.weights={weights}", f"runs_dir={prepared['runs']}"), weights, "could run code")
    assert half_written(prepared["runs"]) == [] and not executed.exists()
    weights.write_bytes(pickle.dumps({"weight": Touch(executed)}, protocol=2))
    with pytest.raises(BadInput, match="could run code"):
        read_weights(weights)
    assert not executed.exists()


def test_going_on_under_another_environment_is_refused_with_the_difference(prepared, tmp_path):
    runs = shutil.copytree(prepared["runs"], tmp_path / "runs")
    (stage,) = runs.glob("stages/data-*")
    (stage / "done.json").unlink()
    environment = json.loads((stage / "environment.json").read_text())
    (stage / "environment.json").write_text(json.dumps(environment | {"torch": "1.0"}))
    refused(run_gfs("run", "-c", prepared["config"], f"runs_dir={runs}"), "torch was 1.0", stage.name)
    assert (stage / "settings.json").exists()  # an earlier session's work is not removed


@pytest.mark.parametrize("make", ["empty class", "no test", "class names differ"])
def test_image_folders_that_are_not_whole_are_named(image_folder, tmp_path, make):
    folder = Path(shutil.copytree(image_folder, tmp_path / "images"))
    if make == "empty class":
        (folder / "train/zebra").mkdir()
    elif make == "no test":
        shutil.rmtree(folder / "test")
    else:
        (folder / "test/bag").rename(folder / "test/sack")
    words = {"empty class": "zebra", "no test": "test or val", "class names differ": "sack"}
    refused(run_gfs("shards", "make", folder, tmp_path / "out"), words[make])
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.tar"))


@pytest.mark.parametrize("address, words", [
    ("127.0.0.1:1", "no Ray answers there"),
    ("https://somewhere", "no address of a Ray cluster"),
])
@pytest.mark.parametrize("verb", ["check", "run"])
def test_a_cluster_that_is_not_there_is_told_before_any_stage(tmp_path, verb, address, words):
    runs = tmp_path / "runs"
    done = run_gfs(verb, "-c", ROOT / "configs/tiny.yaml", f"runs_dir={runs}", "cluster.workers=1", f"cluster.address={address}")
    refused(done, "cluster.address", words)
    assert not half_written(runs) and not list(runs.glob("stages/*"))
    assert all("error: cluster.address" in log.read_text() for log in runs.glob("*/log.txt"))
