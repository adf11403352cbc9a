"""Grouped convs: which units they part and into how many groups, how they are cut by hand, what is left whole or refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.config.errors import BadInput, UnsupportedModule
from pipeline.evaluation import layer_times
from pipeline.networks.cost import CostTable, count_layers
from pipeline.networks.grouped import packed, products, spread
from pipeline.networks.saved import arch_of, load_pruned, save_pruned
from pipeline.networks.shrink import Choice, apply_choice
from pipeline.networks.units import find_units
from pipeline.networks.zoo import Blueprint
from pipeline.selection.quota import keeps_quota
from tests.networks.samples import Grouped, Stripped, Traced, conv, images, middle, shaken


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 10**6))
def test_a_spread_weight_gives_what_the_grouped_conv_gives_and_packs_back(groups, outputs, inputs, seed):
    torch.manual_seed(seed)
    layer = nn.Conv2d(groups * inputs, groups * outputs, 1, groups=groups, bias=False).double()
    values, weight = torch.randn(5, groups * inputs).double(), layer.weight.detach().flatten(1)
    whole = spread(weight, groups)
    with torch.no_grad():
        torch.testing.assert_close(values @ whole.T, layer(values[:, :, None, None]).flatten(1))
    assert torch.equal(packed(whole, groups), weight) and torch.equal(packed(whole + (whole == 0), groups), weight)
    found, rows = products(values, values @ whole.T, groups), values.T @ (values @ whole.T)
    if groups > 1:
        assert found.shape == (groups, inputs, outputs)
        rows = torch.stack([rows[g * inputs : (g + 1) * inputs, g * outputs : (g + 1) * outputs] for g in range(groups)])
    torch.testing.assert_close(found, rows)


def test_a_unit_is_parted_by_all_that_write_and_read_it():
    units = find_units(Grouped().eval(), ["hidden", "stream"])
    found = {name: (unit.width, unit.groups, [reader.groups for reader in unit.readers]) for name, unit in units.units.items()}
    assert found == {
        "stem": (8, 2, [2]), "a": (12, 6, [3]), "b": (24, 12, [4]), "d": (6, 2, [2]), "e": (6, 2, [2, 1]), "f": (8, 4, [1, 1]),
    }  # fmt: skip
    assert units.steps == {name: groups for name, (_, groups, _) in found.items()} and find_units(Traced(nn.ReLU()).eval()).steps == {}


def test_a_grouped_conv_is_cut_group_by_group_whatever_the_order_of_the_picks():
    """Of stem's groups {0..3} and {4..7} were picked 6, 1, 4, 3: they come to lie as 1, 3, 6, 4, and `a` keeps its 2 groups."""
    network = shaken(Grouped())
    units, before = find_units(network), network.a.weight.detach().clone()
    stem = network.stem.weight.detach().clone()
    assert units.units["stem"].laid((6, 1, 4, 3)) == (1, 3, 6, 4)
    apply_choice(network, units.units["stem"], Choice((6, 1, 4, 3), torch.tensor([6.0, 1.0, 4.0, 3.0])))
    assert (network.a.groups, network.a.in_channels, network.a.out_channels, tuple(network.a.weight.shape)) == (2, 4, 12, (12, 2, 3, 3))
    assert torch.equal(network.stem.weight, stem[[1, 3, 6, 4]]) and network.norm.num_features == 4
    assert torch.equal(network.a.weight[:6], before[:6, [1, 3]] * torch.tensor([1.0, 3.0]).view(1, 2, 1, 1))
    assert torch.equal(network.a.weight[6:], before[6:, [2, 0]] * torch.tensor([6.0, 4.0]).view(1, 2, 1, 1))
    apply_choice(network, units.units["a"], Choice((11, 0, 2, 4, 6, 8)))
    assert (network.a.groups, network.a.out_channels, tuple(network.b.weight.shape)) == (2, 6, (24, 2, 1, 1))
    assert torch.equal(network.a.weight[:3], before[[0, 2, 4]][:, [1, 3]] * torch.tensor([1.0, 3.0]).view(1, 2, 1, 1))


def test_one_neuron_of_every_group_is_counted_as_the_module_it_leaves():
    """Then inputs, outputs and groups are as many, as in a depthwise conv."""
    network = shaken(Grouped())
    units, example = find_units(network), images(1)
    table, least = CostTable(network, units, example), dict(units.steps)
    for name, unit in units.units.items():
        apply_choice(network, unit, Choice(tuple(range(0, unit.width, unit.width // unit.groups))))
    cost = table.cost(least)
    assert (network.e.groups, network.e.in_channels, network.e.out_channels) == (2, 2, 2)
    assert cost.macs == sum(layer.macs(layer.inputs, layer.outputs) for layer in count_layers(network, example))
    assert cost.params == sum(parameter.numel() for parameter in network.parameters())


def test_where_every_neuron_is_a_group_the_unit_is_left_whole_with_the_reason():
    network = middle(lambda net, x: torch.relu(net.wide(x)), wide=conv(8, 16, groups=8))
    network.conv2 = conv(16, 5)
    units = find_units(network.eval())
    assert units.left["conv1"] == "each neuron is a group of its own in grouped wide"
    assert {name: (unit.width, unit.groups) for name, unit in units.units.items()} == {"wide": (16, 8)}
    layers = {"stem": conv(3, 4), "a": conv(4, 8), "b": conv(8, 4, groups=4), "fc": nn.Linear(4, 3)}
    branch = Stripped(lambda net, x: net.fc(((x := net.stem(x)) + net.b(torch.relu(net.a(x)))).mean((2, 3))), **layers)
    assert find_units(branch.eval(), ["hidden", "branch"]).left["b"] == "branch: each neuron is a group of its own in grouped b"


def test_grouped_convs_of_the_images_and_of_channels_that_are_not_understood():
    """The first part of a network may be grouped; concatenated channels read by a grouped conv are refused as before."""
    network = Stripped(lambda net, x: net.fc(torch.relu(net.a(x)).mean((2, 3))), a=conv(3, 12, groups=3), fc=nn.Linear(12, 4))
    (unit,) = find_units(network.eval()).units.values()
    assert (unit.name, unit.groups) == ("a", 3)
    joined = middle(lambda net, x: net.wide(torch.cat([x, x], 1)), wide=conv(16, 8, groups=2))
    with pytest.raises(UnsupportedModule, match="cat acts on unit conv1"):
        find_units(joined.eval())


def test_a_saved_network_outside_the_quota_is_refused(tmp_path):
    network = shaken(Grouped())
    units, choices = find_units(network), {"stem": Choice((0, 4))}
    arch = arch_of(Blueprint("own", "tests.networks.samples.Grouped", {}), units, choices, ["hidden"])
    apply_choice(network, units.units["stem"], choices["stem"])
    save_pruned(tmp_path, network, arch)
    assert load_pruned(tmp_path, build=Grouped).a.in_channels == 2
    arch["units"]["stem"]["kept"] = [0, 1]
    save_pruned(tmp_path, network, arch)
    with pytest.raises(BadInput, match="unit stem: kept must name as many neurons of each of 2 groups"):
        load_pruned(tmp_path, build=Grouped)


def test_layer_times_are_measured_at_widths_within_the_quota(monkeypatch):
    network = shaken(Grouped())
    units, example = find_units(network), images(1)
    monkeypatch.setattr(layer_times, "SECONDS", 0.0)
    times = layer_times.measure_layer_times(network, units.units, CostTable(network, units, example), example)
    assert all(kept[name] % step == 0 for kept in times.widths for name, step in units.steps.items())
    assert not keeps_quota(range(4), 8, 2), "the first four neurons alone would be cut wrongly"
