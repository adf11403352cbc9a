"""Gated network = shrunk network: for random kept sets, coefficients and re-fitted weights, also after saving and loading elsewhere."""

import copy
import subprocess
import sys

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.config.errors import BadInput, UnsupportedModule
from pipeline.config.files import read_json, write_json
from pipeline.networks.gates import FOLDING_LIMIT, folding_difference, gated
from pipeline.networks.saved import arch_of, load_pruned, save_pruned, shrunk_to
from pipeline.networks.shrink import Choice, apply_choice, reader_columns
from pipeline.networks.small import mobilenetv2_28, tiny
from pipeline.networks.units import find_units
from pipeline.networks.zoo import Blueprint
from pipeline.selection.quota import in_turns
from tests.conftest import ROOT
from tests.networks import samples
from tests.networks.samples import Traced, conv, images, middle, shaken

FLOAT32_LIMIT = 1e-4
FAMILIES = {
    "tiny": (lambda: tiny(num_classes=5), (1, 28)),
    "mobilenetv2_28": (lambda: mobilenetv2_28(), (1, 28)),
    "mobilenetv2_050 at 64": (lambda: timm.create_model("mobilenetv2_050", num_classes=7), (3, 64)),
    "mobilenetv2_050 at 224": (lambda: timm.create_model("mobilenetv2_050", num_classes=7), (3, 224)),
    "tf_efficientnet_lite0 at 64": (lambda: timm.create_model("tf_efficientnet_lite0", num_classes=7), (3, 64)),
    "resnet18 at 64": (lambda: timm.create_model("resnet18", num_classes=7), (3, 64)),
    "vgg": (samples.Vgg, (3, 16)),
    "residual": (samples.Residual, (3, 16)),
    "squeezed": (samples.Squeezed, (3, 16)),
    "branched": (samples.Branched, (3, 16)),
    "mobilenetv3_small_050 at 64": (lambda: timm.create_model("mobilenetv3_small_050", num_classes=7), (3, 64)),
    "grouped": (samples.Grouped, (3, 16)),
    "regnety_002 at 64": (lambda: timm.create_model("regnety_002", num_classes=7), (3, 64)),
}


def random_choices(network, units, seed=0) -> dict[str, Choice]:
    """A random kept set in random order for every unit, within its quota; in turn as it is, with coefficients, with other
    weights and an intercept."""
    generator, choices = torch.Generator().manual_seed(seed), {}
    for number, unit in enumerate(units.units.values()):
        count = unit.groups * int(torch.randint(1, unit.width // unit.groups + 1, (), generator=generator))
        kept = tuple(in_turns(torch.randperm(unit.width, generator=generator).tolist(), unit.width, unit.groups)[:count])
        coefficients, weights, added = None, [None], ()
        if (number + seed) % 3 == 1:
            coefficients = torch.rand(count, generator=generator, dtype=torch.float64) * 3
        if (number + seed) % 3 == 2:
            given = [reader_columns(network, reader) for reader in unit.consumers]
            shapes = [(len(rows), count * reader.columns) for rows, reader in zip(given, unit.consumers)]
            weights = [torch.randn(*shape, generator=generator).to(rows) * rows.std() for rows, shape in zip(given, shapes)]
            places = all(reader.intercept for reader in unit.consumers)
            added = tuple(torch.randn(len(rows), generator=generator).to(rows) for rows in given) if places else ()
        choices[unit.name] = Choice(kept, coefficients, weights[0], tuple(weights[1:]), added)
    return choices


def shrunk(network, units, choices) -> nn.Module:
    network = copy.deepcopy(network)
    for name, choice in choices.items():
        apply_choice(network, units.units[name], choice)
    return network


@pytest.mark.parametrize("family", FAMILIES)
def test_gated_and_shrunk_network_give_the_same(family):
    """`pytest -n 0 -s` prints the largest differences."""
    build, (channels, side) = FAMILIES[family]
    worst = {torch.float64: 0.0, torch.float32: 0.0}
    for seed in range(3):
        network = shaken(build(), seed)
        units = find_units(network)
        choices = random_choices(network, units, seed)
        for dtype in worst:
            worst[dtype] = max(worst[dtype], folding_difference(network, units, choices, images(2, channels, side, seed), dtype))
    print(f"\n{family}: float64 {worst[torch.float64]:.1e}, float32 {worst[torch.float32]:.1e}")
    assert worst[torch.float64] <= FOLDING_LIMIT
    assert 0 < worst[torch.float32] <= FLOAT32_LIMIT


def masked(network, units, choices, values) -> torch.Tensor:
    """Gates written anew, as multiplications on the consumer's own output: sum over kept neurons of gate x column x input."""
    network = copy.deepcopy(network)
    for name, choice in choices.items():
        unit, consumer = units.units[name], network.get_submodule(units.units[name].consumer)
        weight = consumer.weight.detach().clone()
        blocks = weight.view(len(weight), unit.width, unit.columns)
        dropped = [i for i in range(unit.width) if i not in choice.kept]
        if choice.weight is not None:
            blocks[:, list(choice.kept)] = choice.weight.view(len(weight), len(choice.kept), unit.columns).to(blocks)
        if choice.coefficients is not None:
            blocks[:, list(choice.kept)] *= choice.coefficients.view(1, -1, 1).to(blocks)
        blocks[:, dropped] = 0
        consumer.weight.data = weight
        if choice.intercepts:
            added = choice.intercepts[0].to(weight)
            consumer.register_forward_hook(lambda module, given, output, b=added: output + b.view(-1, *[1] * (output.ndim - 2)))
    with torch.no_grad():
        return network(values)


@pytest.mark.parametrize("family", ["tiny", "vgg", "residual"])
def test_the_gated_network_is_the_one_with_weighted_columns(family):
    build, (channels, side) = FAMILIES[family]
    network = shaken(build()).double()
    units, values = find_units(network), images(2, channels, side).double()
    for seed in range(3):
        choices = random_choices(network, units, seed)
        with torch.no_grad():
            found = gated(network, units, choices)(values)
        torch.testing.assert_close(found, masked(network, units, choices, values), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scale", [None, 2.5])
def test_one_gate_before_squeeze_excite_is_a_gate_at_each_of_its_readers(scale):
    network = shaken(Traced(samples.SqueezeExcite(8))).double()
    units, kept, values = find_units(network), (6, 1, 3), images(2).double()
    choice = Choice(kept, None if scale is None else torch.tensor([scale, 1.0, 0.3], dtype=torch.float64))
    gate = torch.zeros(8, dtype=torch.float64)
    gate[list(kept)] = 1.0 if scale is None else choice.coefficients
    before = copy.deepcopy(network)
    before.between.register_forward_pre_hook(lambda module, given: (given[0] * gate.view(1, -1, 1, 1),))
    with torch.no_grad():
        found = gated(network, units, {"conv1": choice})(values)
        assert (found - network(values)).abs().max() > 1e-3
        torch.testing.assert_close(found, before(values), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(shrunk(network, units, {"conv1": choice})(values), before(values), rtol=1e-12, atol=1e-12)


def test_a_gate_counts():
    """Dropping a neuron or weighing it twice changes the output: the comparison above is not one of constants."""
    network = shaken(tiny(num_classes=5)).double()
    units, values = find_units(network), images(2, 1, 28).double()
    whole = tuple(range(16))
    for choice in (Choice(whole[1:]), Choice(whole, torch.tensor([2.0] + [1.0] * 15)), Choice(whole, weight=torch.zeros(8, 16))):
        changed = gated(network, units, {"blocks.0.0.conv_pw": choice})
        assert (changed(values) - network(values)).abs().max() > 1e-3
    same = gated(network, units, {"blocks.0.0.conv_pw": Choice(whole)})
    assert torch.equal(same(values), network(values))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_any_stack_of_layers_is_refused_or_folds_exactly(seed):
    """Networks drawn layer by layer, supported and unsupported parts mixed: an UnsupportedModule or no difference, nothing else."""
    random = torch.Generator().manual_seed(seed)
    network = shaken(drawn_network(random), seed)
    try:
        units = find_units(network)
    except UnsupportedModule:
        return
    choices = random_choices(network, units, seed)
    assert folding_difference(network, units, choices, images(2, 3, 16, seed)) <= FOLDING_LIMIT


def drawn_network(random) -> nn.Module:
    """4 to 9 layers for 16 x 16 colour images; a third of the networks hold something that must be refused."""

    def draw(*options):
        return options[int(torch.randint(len(options), (), generator=random))]

    layers, width = [], 3
    for _ in range(draw(4, 5, 6, 7, 8, 9)):
        kind = draw("conv", "conv", "conv", "grouped", "act", "act", "act", "norm", "depthwise", "pool", "block", "odd")
        if kind == "conv":
            wider = draw(4, 6, 8)
            layers.append(nn.Conv2d(width, wider, (k := draw(1, 3)), padding=draw(0, k // 2), bias=draw(True, False)))
            width = wider
        elif kind == "grouped":
            groups = draw(*(count for count in (1, 2, 3, 4) if width % count == 0))
            layers.append(conv(width, wider := groups * draw(1, 2, 3), draw(1, 3), groups=groups))
            width = wider
        elif kind == "act":
            layers.append(draw(nn.ReLU(), nn.ReLU(inplace=True), nn.Hardswish(), nn.Sigmoid(), nn.Identity(), nn.Dropout(0.5)))
        elif kind == "norm":
            layers.append(nn.BatchNorm2d(width, affine=draw(True, False)))
        elif kind == "depthwise":
            layers.append(conv(width, width, groups=width))
        elif kind == "pool":
            layers.append(draw(nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)))
        elif kind == "block":
            layers.append(Block(width, draw(5, 7), draw(True, False)))
        elif draw(0, 0, 1):
            layers.append(draw(nn.Softmax(1), nn.GroupNorm(1, width), samples.SqueezeExcite(width), nn.ChannelShuffle(1), Twice(width)))
    end = draw(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Sequential(nn.AdaptiveMaxPool2d(2), nn.Flatten(1)))
    features = width * (4 if isinstance(end[0], nn.AdaptiveMaxPool2d) else 1)
    return nn.Sequential(*layers, end, nn.Linear(features, 6), nn.ReLU(), nn.Linear(6, 3))


class Block(nn.Module):
    def __init__(self, width, hidden, after):
        super().__init__()
        self.a, self.b, self.norm, self.after = conv(width, hidden), conv(hidden, width, 1), nn.BatchNorm2d(hidden), after

    def forward(self, x):
        x = x + self.b(torch.relu(self.norm(self.a(x))))
        return torch.relu(x) if self.after else x


class Twice(nn.Module):
    """Both what comes in and its square reach the output: two readers."""

    def __init__(self, width):
        super().__init__()
        self.a = conv(width, width)

    def forward(self, x):
        return torch.cat([x, self.a(x)], 1)[:, ::2]


def test_networks_that_give_no_numbers_differ():
    network = shaken(tiny(num_classes=5))
    network.bn1.bias.data[3] = float("nan")
    units = find_units(network)
    assert folding_difference(network, units, {"conv_stem": Choice((3, 4))}, images(2, 1, 28)) == float("inf")


def test_inputs_that_a_network_changes_in_place_are_left_alone():
    network = shaken(samples.Stripped(lambda net, x: net.body(x.sub_(0.5).mul_(2)), body=samples.Traced(nn.ReLU())))
    units, values = find_units(network), images()
    before = values.clone()
    assert folding_difference(network, units, random_choices(network, units), values.double()) <= FOLDING_LIMIT
    assert torch.equal(values, before)


LOADING = """
import sys, torch
from safetensors.torch import load_file, save_file
from pipeline import load_pruned
torch.set_num_threads(1)
folder, family = sys.argv[1:]
from tests.networks.test_folding import FAMILIES
network = load_pruned(folder, build=FAMILIES[family][0]) if family in ("vgg", "residual") else load_pruned(folder)
with torch.no_grad():
    save_file({"output": network(load_file(folder + "/images.safetensors")["images"])}, folder + "/output.safetensors")
"""
PLANS = {
    "vgg": Blueprint("own", "tests.networks.samples.Vgg", {}),
    "tiny": Blueprint("function", "pipeline.networks.small:tiny", {"num_classes": 5}),
    "mobilenetv2_050 at 64": Blueprint("timm", "mobilenetv2_050", {"num_classes": 7}),
}


@pytest.mark.parametrize("family", PLANS)
def test_a_saved_network_gives_the_same_in_a_fresh_process(family, tmp_path):
    build, (channels, side) = FAMILIES[family]
    network = shaken(build())
    units = find_units(network)
    choices = random_choices(network, units)
    small = shrunk(network, units, choices)
    save_pruned(tmp_path, small, arch_of(PLANS[family], units, choices, ["hidden"]))
    save_file({"images": images(4, channels, side)}, tmp_path / "images.safetensors")
    ended = subprocess.run([sys.executable, "-c", LOADING, tmp_path, family], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    with torch.no_grad():
        assert torch.equal(load_file(tmp_path / "output.safetensors")["output"], small(images(4, channels, side)))


@pytest.fixture
def saved(tmp_path):
    """A saved pruned VGG-like network of the user's own."""
    network = shaken(samples.Vgg())
    units = find_units(network)
    choices = random_choices(network, units)
    save_pruned(tmp_path, shrunk(network, units, choices), arch_of(PLANS["vgg"], units, choices, ["hidden"]))
    return tmp_path


def change(folder, **entries):
    write_json(folder / "arch.json", read_json(folder / "arch.json") | entries)


def change_weights(folder, function):
    state = load_file(folder / "model.safetensors")
    function(state)
    save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize("damage, build, line", [
    (lambda f: (f / "arch.json").unlink(), samples.Vgg, "is no saved network"),
    (lambda f: (f / "model.safetensors").unlink(), samples.Vgg, "is no saved network"),
    (lambda f: (f / "arch.json").write_text("[1, 2]"), samples.Vgg, "is no saved network"),
    (lambda f: (f / "arch.json").write_text("{"), samples.Vgg, "is no saved network"),
    (lambda f: change(f, units=None), samples.Vgg, "is no saved network"),
    (lambda f: change(f, builder="pickle"), samples.Vgg, "unknown builder 'pickle'"),
    (lambda f: (f / "model.safetensors").write_bytes(b"\x00" * 40), samples.Vgg, "is no saved network"),
    (lambda f: None, None, "is your own module; call load_pruned"),
    (lambda f: None, samples.Residual, "unit features.0 of width 8 does not fit the network"),
    (lambda f: change(f, units={"features.0": {"width": 9, "kept": [0]}}), samples.Vgg, "unit features.0 of width 9 does not fit .*width 8"),
    (lambda f: change(f, units={"features.0": {"width": 8, "kept": [0, 0]}}), samples.Vgg, "kept must name different neurons among 0 to 7"),
    (lambda f: change(f, units={"features.0": {"width": 8, "kept": [8]}}), samples.Vgg, "kept must name different neurons"),
    (lambda f: change(f, units={"features.0": {"width": 8, "kept": []}}), samples.Vgg, "kept must name different neurons"),
    (lambda f: change(f, units={}), samples.Vgg, "does not fit .*arch.json"),
    (lambda f: change_weights(f, lambda s: s.pop("head.1.bias")), samples.Vgg, "Missing key.*head.1.bias"),
    (lambda f: change_weights(f, lambda s: s.update(extra=torch.ones(1))), samples.Vgg, "Unexpected key.*extra"),
    (lambda f: change_weights(f, lambda s: s.update({"head.5.bias": torch.ones(9)})), samples.Vgg, "head.5.bias"),
])  # fmt: skip
def test_loading_is_strict_and_names_what_does_not_fit(saved, damage, build, line):
    damage(saved)
    with pytest.raises(BadInput, match=line) as refusal:
        load_pruned(saved, build=build)
    assert str(saved) in str(refusal.value) and "\n" not in str(refusal.value)


def test_what_is_saved_loads(saved):
    assert isinstance(load_pruned(saved, build=samples.Vgg), samples.Vgg)
    arch = read_json(saved / "arch.json")
    assert set(arch) == {"builder", "model", "arguments", "unit_kinds", "units"}
    assert shrunk_to(samples.Vgg().eval(), arch, saved).features[0].out_channels == len(arch["units"]["features.0"]["kept"])


def test_shrinking_leaves_no_trace_of_the_dense_sizes():
    network = shaken(samples.Vgg())
    units = find_units(network)
    small = shrunk(network, units, {"features.4": Choice((3, 1)), "features.8": Choice((5,)), "head.1": Choice((0, 2, 4))})
    assert (small.features[4].out_channels, small.features[5].num_features, small.features[8].in_channels) == (2, 2, 2)
    assert (small.features[8].out_channels, small.head[1].in_features, small.head[1].out_features, small.head[2].num_features) == (1, 16, 3, 3)
    assert small.head[1].weight.shape == (3, 16) and small.head[5].in_features == 3
    assert torch.equal(small.features[5].running_var, network.features[5].running_var[[3, 1]])
    assert torch.equal(small.head[1].weight, network.head[1].weight[[0, 2, 4]][:, 80:])
    deep = middle(lambda net, x: torch.relu(net.deep(x)), deep=conv(8, 8, groups=8))
    one = shrunk(deep, find_units(deep), {"conv1": Choice((6,))})
    assert (one.deep.groups, one.deep.in_channels, one.deep.out_channels, one.deep.weight.shape[0]) == (1, 1, 1, 1)
    assert network.features[4].out_channels == 12  # the dense network is untouched
