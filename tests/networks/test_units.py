"""Units of real families by name; what cannot be pruned safely is refused by path, never cut wrongly."""

import copy

import timm
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, weight_norm

import pytest
from pipeline.config.errors import BadInput, UnsupportedModule
from pipeline.networks.follow import follow
from pipeline.networks.graph import Graph
from pipeline.networks.shrink import Choice, apply_choice
from pipeline.networks.small import mobilenetv2_28, tiny
from pipeline.networks.units import find_units, without_large
from tests.networks import samples
from tests.networks.samples import Stripped, Traced, conv, middle


def consumers(network) -> dict[str, tuple]:
    return {name: (unit.width, unit.consumer, unit.columns) for name, unit in find_units(network.eval()).units.items()}


def expected_mobilenetv2(widths, head) -> dict[str, tuple]:
    """Stem, one expansion per inverted residual, head: `widths` lists the expansions of each stage."""
    blocks = {
        f"blocks.{stage}.{block}.conv_pw": (width, f"blocks.{stage}.{block}.conv_pwl", 1)
        for stage, of_stage in enumerate(widths, start=1)
        for block, width in enumerate(of_stage)
    }
    return blocks | {"conv_head": (head, "classifier", 1)}


HALF = [[48, 96], [96, 96, 96], [96, 192, 192, 192], [192, 288, 288], [288, 480, 480], [480]]
LITE = [[96, 144], [144, 240], [240, 480, 480], [480, 672, 672], [672, 1152, 1152, 1152], [1152]]


@pytest.mark.parametrize("network", [
    pytest.param(lambda: mobilenetv2_28(), id="mobilenetv2_28"),
    pytest.param(lambda: timm.create_model("mobilenetv2_050", num_classes=7), id="timm mobilenetv2_050"),
])
def test_units_of_mobilenetv2_are_stem_expansions_and_head(network):
    assert consumers(network()) == {"conv_stem": (16, "blocks.0.0.conv_pw", 1)} | expected_mobilenetv2(HALF, 1280)


def test_units_of_efficientnet_lite_are_stem_expansions_and_head():
    found = consumers(timm.create_model("tf_efficientnet_lite0", num_classes=7))
    assert found == {"conv_stem": (32, "blocks.0.0.conv_pw", 1)} | expected_mobilenetv2(LITE, 1280)


def test_units_of_resnet18_are_the_inside_of_each_block():
    found = consumers(timm.create_model("resnet18"))
    assert found == {
        f"layer{stage}.{block}.conv1": (32 * 2**stage, f"layer{stage}.{block}.conv2", 9) for stage in (1, 2, 3, 4) for block in (0, 1)
    }


def test_units_of_the_tiny_network_with_all_they_are_made_of():
    units = find_units(tiny().eval())
    stem, hidden, head = units.units.values()
    assert (stem.producers, stem.followers, stem.consumer) == (("conv_stem",), ("bn1",), "blocks.0.0.conv_pw")
    assert hidden.followers == ("blocks.0.0.bn1", "blocks.0.0.conv_dw", "blocks.0.0.bn2") and hidden.consumer == "blocks.0.0.conv_pwl"
    assert (head.producers, head.followers, head.consumer, head.columns) == (("conv_head",), ("bn2",), "classifier", 1)
    assert [unit.width for unit in units.units.values()] == [16, 16, 16] and stem.hold < hidden.hold < head.hold
    assert units.left == {
        "input": "the network's input",
        "blocks.0.0.conv_pwl": "stream: no activation lies between its producer and its consumer",
        "classifier": "the network's output",
    }


def test_units_of_a_vgg_like_network_read_through_pools_and_flatten():
    assert consumers(samples.Vgg()) == {
        "features.0": (8, "features.4", 9),
        "features.4": (12, "features.8", 9),
        "features.8": (6, "head.1", 16),
        "head.1": (10, "head.5", 1),
    }


def test_units_of_a_network_written_with_functions_and_a_shared_relu():
    units = find_units(samples.Residual().eval())
    assert {name: (u.width, u.followers, u.consumer, u.columns) for name, u in units.units.items()} == {
        "first": (10, ("norm1",), "second", 9),
        "expand": (14, ("depthwise",), "project", 1),
    }
    assert units.left["second"].startswith("stream: 2 layers write it, joined at")
    assert units.left["shortcut"].startswith("the network's output") is False


@pytest.mark.parametrize("name", ["mobilenetv2_050", "tf_efficientnet_lite0", "resnet18", "resnet50", "mobilenetv3_small_050", "deit_tiny_patch16_224", "convnext_atto"])
def test_every_layer_is_in_a_unit_or_left_with_a_reason(name):
    network = timm.create_model(name).eval()
    units, (groups, *_) = find_units(network), follow(network, Graph(network))
    assert {group.name for group in groups if group.producers or group.end} == set(units.units) | set(units.left)
    assert all(reason.strip() for reason in units.left.values())
    layers = {path for path, module in network.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d))}
    assert layers == {path for group in groups for path in (*group.producers, *group.followers, *group.excites)}


def test_squeeze_excite_reads_a_unit_and_scales_it():
    units = find_units(samples.Squeezed().eval())
    stem, block = units.units.values()
    assert (stem.name, stem.consumers, stem.squeezes[0].path, stem.excites) == ("stem", stem.consumers, "se.reduce", ("se.expand",))
    assert (stem.consumer, stem.followers, stem.behind) == ("project", ("norm", "deep", "after"), ("deep", "after"))
    assert stem.hold < stem.squeezes[0].cut < stem.consumers[0].cut or stem.hold == stem.squeezes[0].cut
    assert (block.name, block.consumer, block.columns, block.squeezes[0].path, block.excites) == ("a", "b", 9, "reduce", ("expand",))
    assert len(stem.carriers) == len(block.carriers) == 2  # the maps, and their means on the way to the reduce layer
    assert units.left["se.reduce"] == "inside the squeeze-excite of se.mul" and units.left["reduce"] == "inside the squeeze-excite of mul"


@pytest.mark.parametrize("name, count", [("mobilenetv3_small_100", 13), ("efficientnet_b0", 17)])
def test_units_of_timms_networks_with_squeeze_excite(name, count):
    with torch.device("meta"):
        network = timm.create_model(name).eval()
    units = find_units(network).units
    assert len(units) == count and list(units)[0] == "conv_stem" and list(units)[-1] == "conv_head"
    for unit in units.values():
        place = unit.consumer.rpartition(".")[0]
        squeezed = hasattr(network.get_submodule(place), "se") and not isinstance(network.get_submodule(place).se, nn.Identity)
        assert [reader.path for reader in unit.squeezes] == [f"{place}.se.conv_reduce"] * squeezed
        assert list(unit.excites) == [f"{place}.se.conv_expand"] * squeezed


def test_gates_made_from_two_layers_are_one_unit():
    """A gated linear unit: both layers are cut by rows."""
    network = Stripped(lambda net, x: net.out(net.value(x) * torch.sigmoid(net.gate(x))), value=nn.Linear(5, 7), gate=nn.Linear(5, 7), out=nn.Linear(7, 3))
    (unit,) = find_units(network.eval()).units.values()
    assert (set(unit.producers), unit.consumer, unit.excites, unit.squeezes) == ({"value", "gate"}, "out", (), ())


def test_units_of_layers_on_tokens_are_found_and_flattened_tokens_refused():
    assert consumers(samples.Mlp()) == {"fc1": (9, "fc2", 1)}
    flattened = Stripped(lambda net, x: net.fc2(torch.flatten(torch.relu(net.fc1(x)), 1)), fc1=nn.Linear(6, 4), fc2=nn.Linear(20, 3))
    with pytest.raises(UnsupportedModule, match="flatten.*acts on unit fc1"):  # columns would lie token after token
        find_units(flattened.eval())


class Scaled(nn.Conv2d):
    """A conv whose forward standardises its weight: fewer columns give other columns."""

    def forward(self, x):
        return functional.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias, padding=1)


class MixingNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x - x.mean(1, keepdim=True))


def hooked(network, path):
    network.get_submodule(path).register_forward_hook(lambda module, inputs, output: output - output.mean(1, keepdim=True))
    return network


def decided(net, x):
    return x if x.sum() > 0 else -x


def same_conv(**settings):
    return Stripped(
        lambda net, x: net.fc(torch.flatten(functional.adaptive_avg_pool2d(net.conv2(torch.relu(net.conv1(x))), 1), 1)),
        conv1=conv(3, 8), conv2=nn.Conv2d(8, 5, **settings), fc=nn.Linear(5, 4),
    )  # fmt: skip


REFUSED = {
    "spatial attention": (lambda: middle(lambda net, x: x * torch.sigmoid(net.one(x)), one=conv(8, 1)), "mul", "a product of 8 by 1 channels acts"),
    "squeeze-excite with a softmax": (lambda: middle(_softly, factors=conv(8, 8, 1)), "mul", "a product with what operation softmax gives acts on unit conv1"),
    "squeeze-excite along the channels": (lambda: middle(_along), "mean", "mean over .* acts on unit conv1"),
    "module used twice": (lambda: middle(lambda net, x: net.norm(net.norm(x)), norm=nn.BatchNorm2d(8)), "norm", "a module used more than once"),
    "tied weight": (samples.TiedLinear, "fc", "a weight shared with another module"),
    "weight read by itself": (lambda: middle(lambda net, x: x * net.conv1.weight.abs().mean()), "conv1", "a weight that forward also reads"),
    "bare parameter": (lambda: middle(lambda net, x: x * net.gamma, gamma=nn.Parameter(torch.rand(8, 1, 1))), "mul", "acts on unit conv1"),
    "bare parameter added": (lambda: middle(lambda net, x: x + net.beta, beta=nn.Parameter(torch.rand(8, 1, 1))), "add", "acts on unit conv1"),
    "channels normalised by themselves": (lambda: middle(lambda net, x: x + x / x.norm(dim=1, keepdim=True)), "norm", "operation norm acts on unit"),
    "halves of one layer multiplied": (lambda: middle(_halves, wide=conv(8, 16, 1)), "chunk", "operation chunk acts on unit"),
    "attention over channels": (lambda: middle(lambda net, x: net.mix(x.flatten(2))[0].unflatten(2, (16, 16)), mix=_Attention()), "flatten", "acts on unit"),
    "a layer inside a list used by turns": (lambda: middle(_turns, many=nn.ModuleList([conv(8, 8), conv(8, 8)])), "many.0", "used more than once"),
    "a buffer that masks": (lambda: _masked(), "mul", "operation mul acts on unit conv1"),
    "a dictionary of outputs": (lambda: Stripped(lambda net, x: {"logits": net.fc(x)}, fc=nn.Linear(4, 4)), "Stripped", "returns dict"),
    "a second input without a default": (lambda: samples.TwoInputs(), "TwoInputs", "takes 2 inputs"),
    "concatenation": (lambda: middle(lambda net, x: torch.cat([x, x], 1)[:, :8]), "cat", "acts on unit conv1"),
    "control flow": (lambda: middle(decided), "Between", "cannot be followed"),
    "control flow inside": (lambda: Traced(Stripped(decided)), "between", "cannot be followed"),
    "softmax": (lambda: Traced(nn.Softmax(1)), "between", "Softmax acts on unit conv1"),
    "softmax function": (lambda: middle(lambda net, x: functional.softmax(x, 1)), "softmax", "acts on unit conv1"),
    "layer norm": (lambda: Traced(nn.LayerNorm([8, 16, 16])), "between", "LayerNorm acts on unit conv1"),
    "group norm": (lambda: Traced(nn.GroupNorm(2, 8)), "between", "GroupNorm acts on unit conv1"),
    "instance norm": (lambda: Traced(nn.InstanceNorm2d(8, affine=True)), "between", "InstanceNorm2d acts on unit conv1"),
    "pixel shuffle": (lambda: Traced(nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(2))), "between.0", "PixelShuffle acts on unit conv1"),
    "channel shuffle": (lambda: Traced(nn.ChannelShuffle(2)), "between", "ChannelShuffle acts on unit conv1"),
    "prelu": (lambda: Traced(nn.PReLU(8)), "between", "PReLU acts on unit conv1"),
    "shuffle behind a grouped conv": (lambda: middle(_shuffled, wide=conv(8, 8, groups=2)), "channel_shuffle", "acts on unit wide"),
    "grouped conv, padding in words": (lambda: Traced(nn.Conv2d(8, 8, 3, padding="same", groups=2)), "between", "column by column"),
    "transposed conv": (lambda: Traced(nn.ConvTranspose2d(8, 8, 3, padding=1)), "between", "ConvTranspose2d acts on unit conv1"),
    "bilinear of two": (lambda: middle(lambda net, x: net.mix(x, x.flatten(1)), mix=nn.CosineSimilarity()), "mix", "acts on unit conv1"),
    "reading the width": (lambda: middle(lambda net, x: x * x.shape[1] ** -0.5), "getattr", "a reading of its shape acts on unit conv1"),
    "reading the width by size": (lambda: Stripped(_by_width, conv1=conv(3, 8), conv2=conv(8, 4)), "size", "a reading of its shape"),
    "weight standardisation": (lambda: Traced(Scaled(8, 8, 3)), "between", "acts on unit conv1"),
    "weight norm hook": (lambda: Traced(weight_norm(conv(8, 8))), "between", "a forward hook of Conv2d acts on unit conv1"),
    "parametrised weight": (lambda: Traced(parametrizations.weight_norm(conv(8, 8))), "between", "parametrised .*Conv2d acts on unit conv1"),
    "hook on a follower": (lambda: hooked(Traced(nn.BatchNorm2d(8)), "between"), "between", "a forward hook of BatchNorm2d acts on unit conv1"),
    "batch norm of one's own": (lambda: Traced(MixingNorm(8)), "between", "MixingNorm"),
    "linear on the last axis": (lambda: Traced(nn.Linear(16, 16), width=16), "between", "does not read the channels column by column"),
    "flatten of positions only": (lambda: middle(_positions, mix=nn.Linear(256, 256)), "flatten", r"flatten\(2, -1\) of channels that lie maps acts on unit conv1"),
    "batch norm over flattened": (lambda: _flat_norm(), "norm", "BatchNorm1d over 2048 features of 8 channels"),
    "padding by reflection": (lambda: same_conv(kernel_size=3, padding=1, padding_mode="reflect"), "conv2", "column by column"),
    "1 x 1 padded by reflection": (lambda: same_conv(kernel_size=1, padding=1, padding_mode="reflect"), "conv2", "column by column"),
    "padding in words": (lambda: same_conv(kernel_size=3, padding="same"), "conv2", "column by column"),
    "several outputs": (lambda: Stripped(lambda net, x: (net.fc(x), x), fc=nn.Linear(4, 4)), "Stripped", "returns tuple"),
    "several inputs": (samples.TwoInputs, "TwoInputs", "takes 2 inputs"),
    "no hidden unit": (lambda: Stripped(lambda net, x: net.conv(x), conv=conv(3, 4)), "Stripped", "has no hidden unit"),
    "a size carried across": (lambda: Stripped(_carried, stem=conv(3, 8), mid=conv(8, 8), out=conv(8, 8)), "getitem", "unit mid, used after it"),
    "parts carried across": (lambda: Stripped(_chunked, stem=conv(2, 8), mid=conv(8, 2)), "chunk", "unit stem, used after it"),
    "concatenating pool": (lambda: _pooled_by("catavgmax"), "pool", "SelectAdaptivePool2d"),
    "resnest's split attention": (lambda: timm.create_model("resnest14d"), "layer1.0.conv2", "a reading of its shape acts on unit layer1.0.conv2"),
    "densenet's concatenation": (lambda: timm.create_model("densenet121"), "features.denseblock1.denselayer1", "cat"),
}


class _Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(256, 2, batch_first=True)

    def forward(self, x):
        return self.inner(x, x, x)


def _halves(net, x):
    first, second = torch.relu(net.wide(x)).chunk(2, 1)
    return first * torch.sigmoid(second)


def _turns(net, x):
    for step in range(4):
        x = torch.relu(net.many[step % 2](x))
    return x


def _masked():
    network = middle(lambda net, x: x * net.mask)
    network.register_buffer("mask", torch.ones(8, 1, 1))
    return network


def _softly(net, x):
    return x * functional.softmax(torch.relu(net.factors(functional.adaptive_avg_pool2d(x, 1))), 1)


def _along(net, x):
    return x * torch.sigmoid(x.mean(1, keepdim=True))


def _by_width(net, x):
    hidden = torch.relu(net.conv1(x))
    return net.conv2(hidden) * hidden.size(1)


def _shuffled(net, x):
    return torch.relu(functional.channel_shuffle(net.wide(x), 2))


def _positions(net, x):
    return net.mix(x.flatten(2)).unflatten(2, (16, 16))


def _flat_norm():
    def forward(net, x):
        return net.fc(net.norm(torch.flatten(torch.relu(net.conv1(x)), 1)))

    return Stripped(forward, conv1=conv(3, 8), norm=nn.BatchNorm1d(2048), fc=nn.Linear(2048, 4))


def _carried(net, x):
    batch = x.shape[0]
    y = net.stem(x)
    y = y + net.out(torch.relu(net.mid(y)))
    return y.view(batch, -1)


def _chunked(net, x):
    parts = x[:, :2].chunk(2, 0)
    return net.mid(torch.relu(net.stem(parts[0]))) + parts[1]


def _pooled_by(kind):
    from timm.layers import SelectAdaptivePool2d

    pool = SelectAdaptivePool2d(pool_type=kind, flatten=True)
    return Stripped(lambda net, x: net.fc(net.pool(torch.relu(net.conv1(x)))), conv1=conv(3, 8), pool=pool, fc=nn.Linear(8 * pool.feat_mult(), 4))


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_pruned_safely_is_refused_by_path(what):
    build, path, reason = REFUSED[what]
    with pytest.raises(UnsupportedModule, match=reason) as refusal:
        find_units(build().eval())
    line = str(refusal.value)
    assert path in line.partition(":")[0] and "\n" not in line


@pytest.mark.parametrize("kind", ["avg", "max", "avgmax", "fast", "fastmax", "fastavgmax"])
def test_timms_global_pools_end_maps_in_vectors(kind):
    assert consumers(_pooled_by(kind)) == {"conv1": (8, "fc", 1)}


class Tokens(nn.Module):
    """A user's transformer block: class token, position embedding, attention, layer norms, layer scale, an optional mask; and an MLP."""

    def __init__(self):
        super().__init__()
        self.patch, self.cls, self.position = nn.Conv2d(3, 12, 8, 8), nn.Parameter(torch.rand(1, 1, 12)), nn.Parameter(torch.rand(1, 5, 12))
        self.norm1, self.qkv, self.proj, self.gamma = nn.LayerNorm(12), nn.Linear(12, 36), nn.Linear(12, 12), nn.Parameter(torch.rand(12))
        self.norm2, self.fc1, self.fc2, self.head = nn.LayerNorm(12), nn.Linear(12, 20), nn.Linear(20, 12), nn.Linear(12, 4)

    def forward(self, x, mask=None, scale: float = 1.0):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.position
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, 2, 6)).permute(2, 0, 3, 1, 4).unbind(0)
        read = (q @ k.transpose(-2, -1) * scale).softmax(-1) @ v
        x = x + self.gamma * self.proj(read.transpose(1, 2).flatten(2))
        x = x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))
        return self.head(x[:, 0])


def test_of_a_transformer_the_hidden_layers_are_pruned_and_the_rest_is_left_by_name():
    network = samples.shaken(Tokens())
    units = find_units(network)
    assert {name: (unit.width, unit.consumer) for name, unit in units.units.items()} == {"fc1": (20, "fc2")}
    assert "flatten" in units.left["patch"] and "unflatten at unflatten acts on it" in units.left["qkv"] and "mul" in units.left["proj"]
    small, masked, values = copy.deepcopy(network), copy.deepcopy(network), samples.images(2)
    apply_choice(small, units.units["fc1"], Choice((3, 19, 0)))
    masked.fc2.weight.data[:, [i for i in range(20) if i not in (3, 19, 0)]] = 0
    with torch.no_grad():
        torch.testing.assert_close(small(values), masked(values))


def test_a_unit_may_be_read_by_several_layers():
    units = find_units(samples.Branched().eval()).units
    assert {name: [(reader.path, reader.columns) for reader in unit.consumers] for name, unit in units.items()} == {
        "stem": [("a", 9), ("shortcut", 1)],
        "a": [("b", 9)],
        "head": [("one", 1), ("two", 1), ("three", 1)],
    }
    stem = units["stem"]
    assert (stem.columns, stem.hold, len(stem.carriers)) == (10, stem.consumers[0].cut, 1)
    assert stem.hold < units["a"].hold < stem.consumers[1].cut  # the other branch is pruned in between


@pytest.mark.parametrize("end", [
    lambda net, x: functional.log_softmax(net.fc(x), 1), lambda net, x: net.fc(x) * net.gamma, lambda net, x: torch.clamp(torch.exp(net.fc(x)), 0, 9)
])  # fmt: skip
def test_logits_may_go_through_anything_on_their_way_out(end):
    network = Stripped(lambda net, x: end(net, torch.flatten(functional.adaptive_avg_pool2d(torch.relu(net.a(x)), 1), 1)), a=conv(3, 8),
                       fc=nn.Linear(8, 4), gamma=nn.Parameter(torch.rand(1)))  # fmt: skip
    units = find_units(network.eval())
    assert list(units.units) == ["a"] and units.left["fc"] == "the network's output"


def test_streams_may_do_what_units_may_not():
    """Layer norm, bare parameters and squeeze-excite on a residual stream are left whole with it."""

    def forward(net, x):
        x = net.stem(x)
        x = x + net.se(net.b(torch.relu(net.a(net.norm(x))))) * net.gamma
        return net.fc(x.mean((2, 3)))

    network = Stripped(forward, stem=conv(3, 8), norm=nn.GroupNorm(2, 8), a=conv(8, 12), b=conv(12, 8), se=samples.SqueezeExcite(8),
                       gamma=nn.Parameter(torch.rand(8, 1, 1)), fc=nn.Linear(8, 4))  # fmt: skip
    with pytest.raises(UnsupportedModule, match="acts on unit"):  # what b writes goes through the gate before it joins
        find_units(network.eval())
    network.function = lambda net, x: net.fc(torch.flatten(functional.adaptive_avg_pool2d(forward_plain(net, net.stem(x)), 1), 1))
    assert consumers(network) == {"a": (12, "b", 9)}


def forward_plain(net, x):
    return x + net.b(torch.relu(net.a(net.norm(x + net.gamma))))


def test_harmless_questions_about_shapes_are_allowed():
    def function(net, x):
        torch._assert(x.dim() == 4, "maps")
        return functional.avg_pool2d(x, x.shape[2:])

    network = middle(function)
    network.conv2 = conv(8, 5, 1)
    assert consumers(network) == {"conv1": (8, "conv2", 1)}


def test_units_above_the_gram_limit_are_left_with_their_columns():
    units = without_large(find_units(samples.Vgg().eval()), 80)
    assert list(units.units) == ["features.0", "head.1"]
    assert units.left["features.4"] == "its Gram matrix has 108 columns, above scoring.gram_limit 80"
    with pytest.raises(BadInput, match="smallest has 10"):
        without_large(units, 9)


def test_units_are_found_without_any_weights_in_memory():
    with torch.device("meta"):
        network = timm.create_model("mobilenetv2_050")
    assert len(find_units(network.eval()).units) == 18
