"""Branch units: the output of one residual branch, narrower than its stream, added into a slice of it."""

import copy
import json

import pytest
import timm
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from pipeline import load_pruned, prune
from pipeline.chain.context import Context
from pipeline.chain.measuring import accuracy
from pipeline.chain.run import run_chain
from pipeline.chain.sources import run_data, run_dense, splits_of
from pipeline.config.errors import UnsupportedModule
from pipeline.config.load import load_config
from pipeline.data.streams import validation_order
from pipeline.networks.branches import Placed
from pipeline.networks.cost import CostTable, count_layers
from pipeline.networks.gates import folding_difference
from pipeline.networks.onnx_file import convert
from pipeline.networks.shrink import Choice, apply_choices
from pipeline.networks.small import mobilenetv2_28, resnet_28
from pipeline.networks.units import find_units
from pipeline.stages.store import Store
from tests.networks.samples import Grouped, Residual, shaken
from tests.networks.test_stream_units import halves

FAMILIES = {
    "MobileNetV2": (mobilenetv2_28, 1, 28),
    "ResNet": (resnet_28, 1, 28),
    "functions": (Residual, 3, 16),
    "grouped": (Grouped, 3, 16),
    "bottlenecks": (lambda: timm.create_model("resnet26", num_classes=4), 3, 32),
    "ViT": (lambda: timm.create_model("vit_tiny_patch16_224", num_classes=4, img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3), 3, 32),
}


def gates(choices, seed=1) -> dict[str, Choice]:
    """The same sets, every other one with gates."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: 3 * torch.rand(len(choice.kept), generator=generator, dtype=torch.float64) for name, choice in choices.items()}
    return {name: Choice(choice.kept, drawn[name] if number % 2 else None) for number, (name, choice) in enumerate(choices.items())}


@pytest.mark.parametrize("kinds", [["branch"], ["hidden", "branch"]], ids="+".join)
@pytest.mark.parametrize("family", FAMILIES)
def test_gated_and_shrunk_are_one_and_the_cost_is_that_of_the_real_module(family, kinds):
    build, channels, side = FAMILIES[family]
    network = shaken(build()).eval()
    units, images = find_units(network, kinds), torch.randn(2, channels, side, side)
    assert {unit.kind for unit in units.units.values()} == set(kinds)
    choices = gates(halves(units))
    assert folding_difference(network, units, choices, images) < 1e-10
    shrunk = copy.deepcopy(network)
    apply_choices(shrunk, units.units, choices)
    cost = CostTable(network, units, images[:1]).cost({name: len(choice.kept) for name, choice in choices.items()})
    assert cost.macs == sum(layer.macs(layer.inputs, layer.outputs) for layer in count_layers(shrunk, images[:1]))
    assert cost.params == sum(parameter.numel() for parameter in shrunk.parameters())


class Toy(nn.Module):
    """x + (2x, 3x) on two channels, summed by the head."""

    def __init__(self):
        super().__init__()
        self.branch, self.head = nn.Conv2d(2, 2, 1, bias=False), nn.Linear(2, 1, bias=False)
        self.branch.weight.data = torch.tensor([[2.0, 0.0], [0.0, 3.0]])[:, :, None, None]
        self.head.weight.data.fill_(1.0)

    def forward(self, x):
        return self.head((x + self.branch(x)).mean((2, 3)))


def test_a_branch_by_hand():
    network, images = Toy(), torch.tensor([[5.0, 7.0]])[:, :, None, None]
    units = find_units(network, ["branch"])
    (unit,) = units.units.values()
    assert (unit.name, unit.kind, unit.width, unit.readers, unit.end) == ("branch", "branch", 2, (), "branch")
    assert float(network(images)) == 5 + 10 + 7 + 21
    apply_choices(network, units.units, {"branch": Choice((1,), torch.tensor([2.0], dtype=torch.float64))})
    assert float(network(images)) == 5 + 7 + 2 * 21 and network.branch.layer.weight.shape == (1, 2, 1, 1)


def test_what_ends_in_an_activation_or_is_read_elsewhere_is_no_branch():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.active, self.read, self.plain = (nn.Conv2d(3, 3, 1) for _ in range(4))
            self.head, self.other = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            x = self.stem(x)
            x = x + self.active(x).relu()
            y = self.read(x)
            x = x + y
            x = x + self.plain(x)
            return self.head(x.mean((2, 3))) + self.other(y.mean((2, 3)))

    units = find_units(Odd(), ["branch"])
    assert list(units.units) == ["plain"]
    assert "an activation lies between" in units.left["active"]


def test_a_network_without_residual_sums_has_no_branch():
    with pytest.raises(UnsupportedModule, match="has no branch unit"):
        find_units(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Flatten()), ["branch"])


@pytest.mark.parametrize("settings", [
    {"selector": "l1", "allocation": "uniform"},
    {"selector": "l2", "allocation": "marginal"},
    {"selector": "random", "allocation": "uniform"},
    {"selector": "loss", "allocation": "uniform", "candidates": 3},
], ids=lambda settings: settings["selector"])  # fmt: skip
def test_pruned_networks_with_branches_are_saved_and_read_back(settings, tmp_path):
    network, images = shaken(Residual()).eval(), torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    batch = (images, torch.arange(8) % 4)
    pruned = prune(network, [batch], {"prunable_macs": 0.4}, units=["hidden", "branch"], refit="none", **settings)
    assert any(isinstance(module, Placed) for module in pruned.network.modules())
    pruned.save(tmp_path)
    loaded = load_pruned(tmp_path, build=Residual)
    with torch.no_grad():
        assert torch.equal(loaded(images), pruned.network(images))


def test_a_narrow_branch_is_exported_as_it_is(tmp_path):
    network, values = shaken(Residual()).eval().double(), torch.randn(2, 3, 16, 16).double()
    units = find_units(network, ["branch"])
    apply_choices(network, units.units, halves(units))
    convert(network, values, tmp_path / "model.onnx", {})
    (found,) = ReferenceEvaluator(str(tmp_path / "model.onnx")).run(None, {"images": values.numpy()})
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(found), network(values), rtol=1e-10, atol=1e-10)


def test_the_loss_of_a_branch_is_that_of_the_network_that_keeps_it():
    network = shaken(Residual()).eval()
    images, labels = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(2)), torch.arange(6) % 4
    settings = {"units": ["branch"], "selector": "loss", "refit": "none", "engine": "exhaustive", "allocation": "uniform"}
    pruned = prune(network, [(images, labels)], {"width": 0.15}, **settings)
    units = find_units(network, ["branch"]).units
    first = next(iter(units))
    losses = []
    for neuron in range(units[first].width):  # one neuron is left: it is the first pick, with a gate of N
        shrunk = copy.deepcopy(network)
        apply_choices(shrunk, units, {first: Choice((neuron,), torch.tensor([float(units[first].width)], dtype=torch.float64))})
        with torch.no_grad():
            losses.append(float(nn.functional.cross_entropy(shrunk(images).double(), labels)))
    assert len(pruned.units[first][1]) == 1 and losses[pruned.units[first][1][0]] == pytest.approx(min(losses), rel=1e-5)


@pytest.mark.parametrize("settings, words", [
    ({}, "prune.selector: 'reconstruction'"),
    ({"selector": "tp.l1", "refit": "none"}, "prune.selector: 'tp.l1'"),
    ({"selector": "l1"}, "prune.refit: 'lsq'"),
    ({"selector": "l1", "refit": "none", "units": ["branch", "stream"]}, "part of its stream"),
    ({"selector": "loss", "refit": "none", "allocation": "marginal"}, "prune.curves"),
])
def test_what_does_not_go_with_branches_is_refused_by_name(settings, words):
    with pytest.raises(ValueError, match=words):
        prune(resnet_28(4), [torch.zeros(1, 1, 28, 28)], **{"units": ["branch"]} | settings)


def test_a_run_with_branches_trains_and_re_estimates_the_narrow_network(small_config, gfs):
    done = gfs("run", "-c", small_config, "network.model=pipeline.networks.small:resnet_28", "prune.units=[hidden, branch]",
               "prune.selector=bn", "prune.refit=none", "budget.prunable_macs=60%")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (arch,) = small_config.parent.glob("runs/small-*/arch.json")
    given = json.loads(arch.read_text())
    assert given["unit_kinds"] == ["hidden", "branch"] and {unit["kind"] for unit in given["units"].values()} == {"hidden", "branch"}


@pytest.mark.parametrize("forward, width", [
    (lambda self, x: self.flat(self.bn1(self.conv(x)) + self.bn2(self.conv(x))), 0),  # one layer twice: left whole
    (lambda self, x: self.flat(self.twice(self.conv(x))), 0),
    (lambda self, x: self.flat(self.conv(x)) + self.flat(self.other(x)), 4),
], ids=["a layer used twice", "both sides of one layer", "summed after pooling"])  # fmt: skip
def test_sums_of_other_shapes_are_cut_right_or_left_whole(forward, width):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.other = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
            self.bn1, self.bn2, self.head = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.Linear(4, 2)

        def twice(self, y):
            return self.bn1(y) + self.bn2(y)

        def flat(self, y):
            return torch.flatten(nn.functional.adaptive_avg_pool2d(y, 1), 1)

        def forward(self, x):
            return self.head(forward(self, x))

    network, values = shaken(Sum()).eval(), torch.randn(2, 3, 6, 6)
    if not width:
        with pytest.raises(UnsupportedModule):
            find_units(network, ["branch"])
        return
    units = find_units(network, ["branch"])
    assert [unit.width for unit in units.units.values()] == [width]
    assert folding_difference(network, units, gates(halves(units)), values) < 1e-10


def test_a_size_carried_past_a_branch_leaves_it_whole():
    class Sized(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 3, 1), nn.Linear(3, 2)

        def forward(self, x):
            batch = x.size(0)
            x = x + self.conv(x)
            return self.head(nn.functional.adaptive_avg_pool2d(x, 1).reshape(batch, 3))

    with pytest.raises(UnsupportedModule, match="has no branch unit"):
        find_units(Sized(), ["branch"])


@pytest.mark.parametrize("arm", ["reinit-epochs", "finetune"])
def test_what_an_arm_trains_is_what_is_evaluated_and_saved(small_config, arm):
    overrides = ["network.model=pipeline.networks.small:resnet_28", "prune.units=[branch]", "prune.selector=l1", "prune.refit=none",
                 "prune.allocation=uniform", "budget.width=50%", f"arm={arm}"]  # fmt: skip
    config = load_config(str(small_config), overrides)
    finished = run_chain(config)
    (trained,) = small_config.parent.glob("runs/stages/train-*/done.json")
    val = json.loads(trained.read_text())["facts"]["history"][-1]["val_top1"]
    context = Context(config, Store(small_config.parent / "runs", torch.device("cpu")), lambda event: None)
    data = run_data(context)
    split = splits_of(data).train
    found = accuracy(context, split, validation_order(split), run_dense(context, data), load_pruned(finished.folder), "saved")
    assert found["top1"] == pytest.approx(val)
    arch = json.loads((finished.folder / "arch.json").read_text())
    assert any(unit["kept"] != list(range(len(unit["kept"]))) for unit in arch["units"].values())


def test_equal_widths_of_branches_share_no_training(small_config):
    common = ["network.model=pipeline.networks.small:resnet_28", "prune.units=[branch]", "prune.refit=none", "prune.allocation=uniform",
              "budget.width=50%", "arm=reinit-epochs"]  # fmt: skip
    stages = [run_chain(load_config(str(small_config), [*common, f"prune.selector={name}"])).result["stages"]["train"] for name in ("l1", "random")]
    assert stages[0] != stages[1]
