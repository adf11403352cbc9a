"""Re-fit affine through a whole search: dropped constants, least squares on really shrunk networks, places for the intercept."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline import prune
from pipeline.config.errors import BadInput
from pipeline.networks.gates import FOLDING_LIMIT, folding_difference
from pipeline.networks.shrink import apply_choice
from pipeline.networks.units import find_units, refuse_without_intercept
from pipeline.search.artifacts import load_choice
from pipeline.search.question import Commit
from tests.networks.samples import Residual, Stripped, Vgg, conv, shaken, unbiased
from tests.search.benches import bench, samples, search
from tests.search.test_statistics import seen_by


class Pair(nn.Module):
    """Two units in a row, read by 1 x 1 layers; the first consumer's output is shifted by its bias or by its batch norm."""

    def __init__(self, biased: bool):
        super().__init__()
        self.a, self.b, self.norm = conv(2, 6), nn.Conv2d(6, 5, 1, bias=biased), nn.Identity() if biased else nn.BatchNorm2d(5)
        self.fc = nn.Linear(5, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.b(torch.relu(self.a(x)))))
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


def choices(given, lines) -> dict:
    commits = [Commit(line["unit"], tuple(line["kept"]), line["artifact"], line["sha256"]) for line in lines if line["kind"] == "unit"]
    return {commit.unit: load_choice(given.folder, commit) for commit in commits}


def shrunk(network, units, found) -> nn.Module:
    network = copy.deepcopy(network)
    for name, choice in found.items():
        apply_choice(network, units.units[name], choice)
    return network


def outputs(network, images) -> torch.Tensor:
    with torch.no_grad():
        return network(images)


@pytest.mark.parametrize("mode", ["sequential", "independent"])
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "batch norm"])
def test_a_neuron_that_never_changes_is_dropped_and_the_network_stays_what_it_was(biased, mode, tmp_path):
    network, stream = shaken(Pair(biased)).double(), samples(32, 2, 8, 3, 8, torch.float64)
    network.a.weight.data[3], network.a.bias.data[3] = 0, 1.7  # a neuron of 1.7 everywhere, and the largest mean of all
    folders, widths = [tmp_path / "affine", tmp_path / "lsq"], {"a": 5, "b": 5}
    for folder in folders:
        folder.mkdir()
    given = bench(network, stream, folders[0])
    found = choices(given, search(given, widths, 32, refit="affine", mode=mode))
    assert 3 not in found["a"].kept and set(found["b"].kept) == set(range(5))
    elsewhere = 3 * torch.randn(9, 2, 8, 8, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    wanted = outputs(network, elsewhere)
    torch.testing.assert_close(outputs(shrunk(network, given.units, found), elsewhere), wanted, rtol=1e-10, atol=1e-10)
    given = bench(network, stream, folders[1], given.units)
    plain = choices(given, search(given, widths, 32, refit="lsq", mode=mode))
    assert (outputs(shrunk(network, given.units, plain), elsewhere) - wanted).abs().max() > 1e-3


@pytest.mark.parametrize("ridge", [1e-2, 0.0])
@pytest.mark.parametrize("selector, mode", [("reconstruction", "sequential"), ("reconstruction", "independent"), ("loss", "sequential")])
@pytest.mark.parametrize("build", [Residual, Vgg])
def test_what_is_committed_is_least_squares_with_a_column_of_ones_on_what_the_layers_really_read(build, selector, mode, ridge, tmp_path):
    network, stream = shaken(build()).double(), samples(80, 3, 16, 4, 8, torch.float64)
    given = bench(network, stream, tmp_path)
    widths = {name: unit.width // 2 for name, unit in given.units.units.items()}
    found = choices(given, search(given, widths, 80, selector=selector, refit="affine", mode=mode, ridge=ridge))
    walked = copy.deepcopy(network)
    for name, unit in given.units.units.items():
        inputs, _ = seen_by(walked if mode == "sequential" else network, unit.consumer, stream.images)
        _, wanted = seen_by(network, unit.consumer, stream.images)
        inputs, wanted = inputs.flatten(0, 1), wanted.flatten(0, 1)
        strength = ridge * float(((inputs - inputs.mean(0)) ** 2).sum(0).mean())
        old = network.get_submodule(unit.consumer).weight.detach().flatten(1)
        at = [j * unit.columns + k for j in found[name].kept for k in range(unit.columns)]
        pull = strength**0.5 * torch.eye(len(at) + 1, dtype=torch.float64)[:-1]
        rows = torch.cat([torch.cat([inputs[:, at], torch.ones_like(inputs[:, :1])], 1), pull])
        expected = torch.linalg.lstsq(rows, torch.cat([wanted, strength**0.5 * old[:, at].T]), driver="gelsd").solution
        np.testing.assert_allclose(found[name].weight, expected[:-1].T, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(found[name].intercepts[0], expected[-1], rtol=1e-6, atol=1e-7)
        apply_choice(walked, unit, found[name])
    assert folding_difference(network, given.units, found, stream.images) <= FOLDING_LIMIT


def test_the_places_of_intercepts_are_the_consumers_bias_or_the_batch_norm_right_behind():
    units = find_units(shaken(Vgg())).units
    assert {name: unit.consumers[0].intercept for name, unit in units.items()} == {
        "features.0": "features.5",  # read by a conv without bias, with a batch norm behind it
        "features.4": "features.8",
        "features.8": "head.1",
        "head.1": "head.5",
    }


def between(tail, **modules) -> Stripped:
    """a - relu - b without bias - tail - fc."""
    def forward(net, x):
        x = tail(net, net.b(torch.relu(net.a(x))))
        return net.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))

    return Stripped(forward, a=conv(3, 6), b=conv(6, 4, bias=False), fc=nn.Linear(4, 3), **modules).eval()


@pytest.mark.parametrize("network", [
    pytest.param(unbiased(in_chans=3).eval(), id="nothing"),
    pytest.param(between(lambda net, x: net.norm(torch.relu(x)), norm=nn.BatchNorm2d(4)), id="an activation in between"),
    pytest.param(between(lambda net, x: net.norm(x) + x, norm=nn.BatchNorm2d(4)), id="read by another too"),
    pytest.param(between(lambda net, x: net.norm(x), norm=nn.BatchNorm2d(4, track_running_stats=False)), id="no running mean"),
    pytest.param(between(lambda net, x: net.norm(net.norm(x)), norm=nn.BatchNorm2d(4)), id="a batch norm used twice"),
])  # fmt: skip
def test_a_unit_without_a_place_is_refused_by_name_before_the_loader_is_asked_for_statistics(network):
    with pytest.raises(BadInput, match="unit a: prune.refit 'affine' has no place for its intercept: b, .* has no bias .*; set prune.refit lsq"):
        refuse_without_intercept(find_units(network))
    images = [torch.randn(8, 3, 8, 8)]
    with pytest.raises(ValueError, match="unit a: prune.refit 'affine'"):
        prune(network, images, refit="affine", budget={"width": 0.5}, allocation="uniform")


def test_a_plain_batch_norm_right_behind_is_a_place():
    network = shaken(between(lambda net, x: torch.relu(net.norm(x)), norm=nn.BatchNorm2d(4)))
    units = find_units(network)
    refuse_without_intercept(units)
    assert units.units["a"].consumers[0].intercept == "norm"
