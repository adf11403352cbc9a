"""Streams: everything that is added to each other, cut together with all that read it; exact in every family with convs."""

import copy
import json

import pytest
import timm
import torch
from torch import nn

from pipeline import load_pruned, prune
from pipeline.config.errors import UnsupportedModule
from pipeline.networks.cost import CostTable, count_layers
from pipeline.networks.gates import folding_difference
from pipeline.networks.shrink import Choice, apply_choices
from pipeline.networks.small import mobilenetv2_28, resnet_28
from pipeline.networks.units import find_units
from pipeline.selection.quota import in_turns
from tests.networks.samples import Grouped, Residual, shaken

FAMILIES = {
    "MobileNetV2": (mobilenetv2_28, 1, 28),
    "ResNet": (resnet_28, 1, 28),
    "functions": (Residual, 3, 16),
    "bottlenecks": (lambda: timm.create_model("resnet26", num_classes=4), 3, 32),
    "squeeze-excite": (lambda: timm.create_model("mobilenetv3_small_050", num_classes=4), 3, 32),
    "grouped": (Grouped, 3, 16),
    "squeeze-excite on the branch": (lambda: timm.create_model("seresnet18", num_classes=4), 3, 32),
}


def halves(units, seed=0) -> dict[str, Choice]:
    generator = torch.Generator().manual_seed(seed)
    orders = {name: torch.randperm(unit.width, generator=generator).tolist() for name, unit in units.units.items()}
    halves = {name: unit.groups * max(1, unit.width // unit.groups // 2) for name, unit in units.units.items()}
    return {name: Choice(tuple(in_turns(orders[name], u.width, u.groups)[: halves[name]])) for name, u in units.units.items()}


@pytest.mark.parametrize("kinds", [["stream"], ["hidden", "stream"]], ids="+".join)
@pytest.mark.parametrize("family", FAMILIES)
def test_gated_and_shrunk_are_one_and_the_cost_is_that_of_the_real_module(family, kinds):
    build, channels, side = FAMILIES[family]
    network = shaken(build()).eval()
    units, images = find_units(network, kinds), torch.randn(2, channels, side, side)
    assert {unit.kind for unit in units.units.values()} == set(kinds)
    choices = halves(units)
    assert folding_difference(network, units, choices, images) < 1e-10
    shrunk = copy.deepcopy(network)
    apply_choices(shrunk, units.units, choices)
    cost = CostTable(network, units, images[:1]).cost({name: len(choice.kept) for name, choice in choices.items()})
    assert cost.macs == sum(layer.macs(layer.inputs, layer.outputs) for layer in count_layers(shrunk, images[:1]))
    assert cost.params == sum(parameter.numel() for parameter in shrunk.parameters())


def test_refitted_readers_of_hidden_and_stream_units_fit_each_other():
    network = shaken(resnet_28()).eval()
    units = find_units(network, ["hidden", "stream"])
    choices = halves(units)
    for name, choice in choices.items():
        weights = [torch.randn(len(network.get_submodule(r.path).weight), len(choice.kept) * r.columns) / 10 for r in units.units[name].consumers]
        choices[name] = Choice(choice.kept, weight=weights[0], further=tuple(weights[1:]))
    assert folding_difference(network, units, choices, torch.randn(2, 1, 28, 28)) < 1e-10


def test_a_stream_by_hand():
    units = find_units(Residual(), ["hidden", "stream"])
    stream = units.units["second"]
    assert (stream.kind, stream.producers, [reader.path for reader in stream.consumers]) == ("stream", ("stem", "second"), ["first", "expand", "shortcut"])
    assert [unit.kind for unit in units.units.values()] == ["hidden"] * 2 + ["stream"] * 2  # hidden ones first


def test_a_stream_that_something_unknown_acts_on_is_left_whole_with_the_reason():
    network = timm.create_model("convnext_atto", num_classes=4)
    units = find_units(network, ["hidden", "stream"])
    assert {unit.kind for unit in units.units.values()} == {"hidden"}
    assert any("is not supported" in reason for reason in units.left.values())
    with pytest.raises(UnsupportedModule, match="has no stream unit"):
        find_units(network, ["stream"])


def test_kinds_that_are_not_named_are_left_whole():
    left = find_units(Residual(), ["stream"]).left
    assert left["first"] == "hidden" and left["fc"] == "the network's output"


def test_a_score_of_a_stream_is_the_sum_over_all_that_write_it():
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), Sum(), nn.Flatten(), nn.Linear(3, 2)).eval()
    with torch.no_grad():
        network[1].first.weight.copy_(torch.tensor([1.0, -2.0, 3.0]).view(3, 1, 1, 1))
        network[1].second.weight.copy_(torch.tensor([4.0, 0.0, -0.5]).view(3, 1, 1, 1))
    pruned = prune(network, [torch.randn(4, 1, 1, 1)], {"width": 0.5}, selector="l1", refit="none", allocation="uniform", units=["stream"])
    kept = [kept for width, kept in pruned.units.values() if width == 3]
    assert kept == [(0,)]  # 5, 2 and 3.5


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Conv2d(1, 3, 1, bias=False) for _ in range(2))

    def forward(self, x):
        return self.first(x) + self.second(x)


@pytest.mark.parametrize("settings", [
    {"selector": "l1", "refit": "none", "allocation": "uniform"},
    {"selector": "bn", "refit": "none", "allocation": "marginal"},
    {"selector": "tp.l2", "refit": "lsq", "mode": "independent", "allocation": "global"},
    {"selector": "reconstruction", "mode": "independent", "allocation": "marginal"},
], ids=lambda settings: settings["selector"])  # fmt: skip
def test_pruned_networks_with_streams_are_saved_and_read_back(settings, tmp_path):
    network, images = shaken(resnet_28(4)).eval(), torch.randn(16, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    pruned = prune(network, [images], {"prunable_macs": 0.2}, units=["hidden", "stream"], **settings)
    cut = {pruned.arch["units"][name]["kind"] for name, (width, kept) in pruned.units.items() if len(kept) < width}
    assert cut and (cut == {"hidden", "stream"} or settings["allocation"] != "uniform")  # curves may leave either kind whole
    pruned.save(tmp_path)
    loaded = load_pruned(tmp_path, build=lambda: resnet_28(4))
    with torch.no_grad():
        assert torch.equal(loaded(images), pruned.network(images))


def test_a_run_with_streams_and_one_whose_refit_would_walk_them(small_config, gfs):
    done = gfs("run", "-c", small_config, "arm=none", "prune.units=[hidden, stream]", "prune.mode=independent")
    assert done.returncode == 0, done.stderr
    (arch,) = small_config.parent.glob("runs/small-*/arch.json")
    assert json.loads(arch.read_text())["unit_kinds"] == ["hidden", "stream"]
    refused = gfs("run", "-c", small_config, "arm=none", "prune.units=[hidden, stream]")
    assert refused.returncode == 2 and "prune.mode" in refused.stderr and "prune.units" in refused.stderr and "independent" in refused.stderr
