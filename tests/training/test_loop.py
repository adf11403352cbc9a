"""The training loop on shards of a small image folder: the same result after a stop, and what the recipe promises."""

import math

import pytest
import torch
from torch import nn

from pipeline.config.errors import Failed
from pipeline.config.recipe import ArmRecipe, Recipe
from pipeline.data.images import Preprocess
from pipeline.data.index import Split, save_index
from pipeline.data.manifest import load_manifest
from pipeline.data.shards import verify_manifest
from pipeline.networks.small import tiny
from pipeline.tensorfile import load_tensors
from pipeline.training.loop import Task, _State, train

GREY = Preprocess(1, 28, (0.5,), (0.25,))


@pytest.fixture(scope="module")
def split(shards, tmp_path_factory) -> Split:
    manifest = load_manifest(shards / "train/manifest.json")
    index = tmp_path_factory.mktemp("index") / "index.safetensors"
    save_index(manifest, verify_manifest(manifest, lambda event: None), index)
    return Split.open(shards / "train/manifest.json", index)


def network(seed=0):
    torch.manual_seed(seed)
    return tiny(num_classes=3)


def task(split, teacher=None):
    return Task(split, GREY, seed=3, device=torch.device("cpu"), teacher=teacher)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("stop_at", [1, 4, 9, 14, 20])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_training_stopped_anywhere_ends_in_the_same_bytes(split, tmp_path, stop_at, ema):
    recipe = ArmRecipe(epochs=3, batch=16, threads=1, ema=ema, distill=0.5, checkpoint_seconds=0, label_smoothing=0.1)
    teacher = network(1).eval()
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    history = train(network(), recipe, task(split, teacher), unbroken, lambda event: None)

    def stop(event):
        if event["event"] == "training" and event["step"] == stop_at:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(network(), recipe, task(split, teacher), broken, stop)
    assert train(network(), recipe, task(split, teacher), broken, lambda event: None) == history
    for file in ("last.safetensors", "best.safetensors"):
        assert (unbroken / file).read_bytes() == (broken / file).read_bytes()


def test_a_training_with_dropout_stopped_anywhere_ends_in_the_same_bytes(split, tmp_path):
    def dropping():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.Dropout(0.5), nn.Linear(16, 3))

    def stop(event):
        if event["event"] == "training" and event["step"] == 5:
            raise Interrupted

    recipe = Recipe(epochs=2, batch=16, threads=1, checkpoint_seconds=0)
    train(dropping(), recipe, task(split), tmp_path / "unbroken", lambda event: None)
    with pytest.raises(Interrupted):
        train(dropping(), recipe, task(split), tmp_path / "broken", stop)
    train(dropping(), recipe, task(split), tmp_path / "broken", lambda event: None)
    assert (tmp_path / "unbroken/last.safetensors").read_bytes() == (tmp_path / "broken/last.safetensors").read_bytes()


def test_a_damaged_checkpoint_is_named_with_what_to_delete(split, tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"junk")
    with pytest.raises(Failed, match="checkpoint.safetensors.*delete the stage"):
        train(network(), Recipe(batch=16, threads=1), task(split), tmp_path, lambda event: None)


def test_training_learns_to_tell_the_classes(split, tmp_path):
    history = train(network(), Recipe(epochs=12, batch=16, threads=1), task(split), tmp_path, lambda event: None)
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]
    assert history[-1]["val_top1"] >= 75  # three classes: chance is 33


def test_the_rate_warms_up_to_its_peak_and_ends_near_zero():
    state = _State(nn.Linear(2, 2), Recipe(epochs=10, lr=0.5, warmup=0.1), per_epoch=10)
    rates = []
    for step in range(100):
        state.epoch, state.in_epoch = divmod(step, 10)
        rates.append(state.lr)
    assert rates[:3] == pytest.approx([0.5 / 11, 1.0 / 11, 1.5 / 11])
    assert max(rates) == rates[10] == 0.5
    assert rates[55] == pytest.approx(0.25)  # half way down the cosine
    assert rates[-1] == pytest.approx(0.25 * (1 + math.cos(math.pi * 89 / 90)))


def test_norms_and_biases_are_not_decayed():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    decayed, plain = _State(model, Recipe(weight_decay=0.3), per_epoch=1).optimizer.param_groups
    assert decayed["weight_decay"] == 0.3 and [p.ndim for p in decayed["params"]] == [4]
    assert plain["weight_decay"] == 0.0 and [p.ndim for p in plain["params"]] == [1, 1, 1]


def test_the_gradient_is_clipped(split):
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    state = _State(model, Recipe(lr=1.0, momentum=0.0, weight_decay=0.0, clip=1e-3, warmup=0.0), per_epoch=1)
    state.step(1000 * torch.ones(4, 2), torch.tensor([0, 1, 1, 1]), None)
    moved = torch.cat([(model.weight - before).flatten()]).norm()
    assert 0 < moved <= 1e-3 + 1e-6  # lr 1: the step is the clipped gradient


def test_full_distillation_at_temperature_one_has_no_gradient_at_the_teacher():
    model = nn.Linear(3, 3)
    state = _State(model, ArmRecipe(distill=1.0, temperature=1.0, momentum=0.0, weight_decay=0.0, warmup=0.0), per_epoch=1)
    before = model.weight.detach().clone()
    state.step(torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1]), lambda images: torch.nn.functional.linear(images, before, model.bias.detach().clone()))
    assert torch.allclose(model.weight, before, atol=1e-6)


def test_the_moving_average_is_what_counts(split, tmp_path):
    model = network()
    train(model, Recipe(epochs=1, batch=16, threads=1, ema=0.5), task(split), tmp_path, lambda event: None)
    last, _ = load_tensors(tmp_path / "last.safetensors")
    checkpoint, _ = load_tensors(tmp_path / "checkpoint.safetensors")
    assert torch.equal(last["classifier.weight"], checkpoint["average/classifier.weight"])
    assert not torch.equal(last["classifier.weight"], checkpoint["network/classifier.weight"])
    assert torch.equal(model.state_dict()["classifier.weight"], last["classifier.weight"])


def test_a_loss_that_is_not_finite_stops_with_the_step(split, tmp_path):
    model = network()
    with torch.no_grad():
        model.classifier.weight[0, 0] = float("inf")
    with pytest.raises(Failed, match=r"step 0; lower train.lr"):
        train(model, Recipe(batch=16, threads=1), task(split), tmp_path, lambda event: None)
