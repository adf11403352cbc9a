"""Peers as shipped: what Torch-Pruning's own pruner leaves is what our units say, to the last weight."""

import copy
import json

import pytest
import timm
import torch
import torch_pruning
from torch import nn

from pipeline import load_pruned, prune
from pipeline.config.errors import BadInput
from pipeline.networks.cost import CostTable
from pipeline.networks.shrink import Choice, apply_choices
from pipeline.networks.small import mobilenetv2_28, resnet_28
from pipeline.networks.units import find_units
from pipeline.pruners.shipped import kept_at, ship
from pipeline.selection.allocation import Sharing
from pipeline.selection.budgets import Budget
from tests.networks.samples import shaken

IMAGES = torch.linspace(-1, 1, 28 * 28).view(1, 1, 28, 28)


def resnext_28(num_classes: int) -> nn.Module:
    """A small ResNeXt: what Torch-Pruning cuts of a grouped conv, it cuts within its groups."""
    small = {"layers": (1, 2, 1, 1), "channels": (8, 8, 12, 16), "cardinality": 4, "base_width": 32}
    return timm.create_model("resnext50_32x4d", num_classes=num_classes, in_chans=1, **small)


@pytest.fixture(params=[mobilenetv2_28, resnet_28, resnext_28], scope="module")
def network(request):
    return shaken(request.param(4)).eval()


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.9])
def test_our_units_cut_to_what_it_keeps_are_the_network_that_it_makes(network, ratio):
    units = find_units(network, ["hidden", "stream"])
    ours = copy.deepcopy(network)
    kept = kept_at("tp.l1", network, units, IMAGES, None, ratio)
    apply_choices(ours, units.units, {name: Choice(tuple(neurons)) for name, neurons in kept.items()})
    theirs = copy.deepcopy(network)
    last = [module for module in theirs.modules() if isinstance(module, nn.Linear)][-1]
    criterion = torch_pruning.importance.GroupMagnitudeImportance(p=1)
    torch_pruning.pruner.BasePruner(theirs, IMAGES, criterion, pruning_ratio=ratio, ignored_layers=[last]).step()
    state = ours.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in theirs.state_dict().items())
    assert torch.equal(theirs(IMAGES), ours(IMAGES))


@pytest.mark.parametrize("share", [0.5, 0.25, 0.15])
def test_the_ratio_that_comes_nearest_to_the_budget_is_taken(network, share):
    units = find_units(network, ["hidden", "stream"])
    table = CostTable(network, units, IMAGES)
    sharing = Sharing(Budget("prunable_macs", share), table, {n: u.width for n, u in units.units.items()}, "uniform")
    allocation, kept = ship("tp.l2", network, units, sharing, IMAGES, None)
    target = share * table.cost({}).prunable_macs
    missed = abs(table.cost(allocation.widths).prunable_macs - target)
    for percent in range(1, 100):
        other = kept_at("tp.l2", network, units, IMAGES, None, percent / 100) if percent % 20 == 0 else kept
        assert missed <= abs(table.cost({n: len(k) for n, k in other.items()}).prunable_macs - target)
    assert (allocation.note is None) == (missed <= 0.01 * target)


@pytest.mark.parametrize("selector", ["tp.bn", "tp.taylor"])
def test_the_python_door_prunes_streams_and_hidden_units_and_reads_them_back(network, selector, tmp_path):
    images = torch.randn(8, 1, 28, 28)
    pruned = prune(network, [(images, torch.arange(8) % 4)], {"prunable_macs": 0.4}, selector=selector, as_shipped=True)
    kinds = {pruned.arch["units"][name]["kind"] for name, (width, kept) in pruned.units.items() if len(kept) < width}
    assert kinds == {"hidden", "stream"} and pruned.arch["unit_kinds"] == ["hidden", "stream"]
    pruned.save(tmp_path)
    with torch.no_grad():
        assert torch.equal(load_pruned(tmp_path, build=lambda: copy.deepcopy(network))(images), pruned.network(images))


def test_a_network_of_which_it_prunes_more_than_we_know_is_refused():
    network = timm.create_model("mobilenetv3_small_050", num_classes=4).eval()
    with pytest.raises(BadInput, match=r"prune.as_shipped: Torch-Pruning prunes \S*se.conv_reduce too, which is no unit here"):
        kept_at("tp.l1", network, find_units(network, ["hidden", "stream"]), torch.randn(1, 3, 32, 32), None, 0.5)


@pytest.mark.parametrize("selector", ["tp.l1", "tp.taylor"])
def test_a_run_as_shipped_says_so_in_its_result(small_config, gfs, selector):
    done = gfs("run", "-c", small_config, "arm=none", f"prune={{selector: {selector}, as_shipped: true, calibration_samples: 32}}")
    assert done.returncode == 0, done.stderr
    (path,) = small_config.parent.glob("runs/small-*/result.json")
    row = json.loads(path.read_text())
    assert (row["as_shipped"], row["refit"], row["allocation"], row["mode"]) == (True, "none", "uniform", None)
    assert row["select_images"] == (32 if selector == "tp.taylor" else 0)
    assert {unit["kind"] for unit in json.loads((path.parent / "arch.json").read_text())["units"].values()} == {"hidden", "stream"}
    again = gfs("run", "-c", path.parent / "config.yaml")
    assert again.returncode == 0 and again.stdout.splitlines()[-1] == str(path.parent)
