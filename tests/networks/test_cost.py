"""The MAC counter against torch's own on really shrunk modules, and against the published numbers."""

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import pytest
from pipeline.networks.cost import CostTable, count_layers
from pipeline.networks.shrink import Choice, apply_choice
from pipeline.networks.small import mobilenetv2_28, tiny
from pipeline.networks.units import find_units
from tests.networks import samples
from tests.networks.samples import images

FAMILIES = {
    "tiny": (lambda: tiny(num_classes=5), (1, 28)),
    "mobilenetv2_28": (mobilenetv2_28, (1, 28)),
    "mobilenetv2_050 at 96": (lambda: timm.create_model("mobilenetv2_050", num_classes=7), (3, 96)),
    "tf_efficientnet_lite0 at 64": (lambda: timm.create_model("tf_efficientnet_lite0", num_classes=7), (3, 64)),
    "resnet18 at 64": (lambda: timm.create_model("resnet18"), (3, 64)),
    "vgg": (samples.Vgg, (3, 16)),
    "residual": (samples.Residual, (3, 16)),
    "squeezed": (samples.Squeezed, (3, 16)),
    "branched": (samples.Branched, (3, 16)),
    "mobilenetv3_small_050 at 64": (lambda: timm.create_model("mobilenetv3_small_050", num_classes=7), (3, 64)),
}


def counted_by_torch(network, values) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(values)
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


def norm_elements(network, values) -> int:
    """Elements that leave batch norms, by hooks of the test."""
    seen = []
    hooks = [
        module.register_forward_hook(lambda m, i, output: seen.append(output.numel()))
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    with torch.no_grad():
        network(values)
    for hook in hooks:
        hook.remove()
    return sum(seen)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cost_of_any_widths_is_what_torch_counts_on_the_shrunk_network(family):
    build, (channels, side) = FAMILIES[family]
    values = images(1, channels, side)
    table = CostTable(build().eval(), find_units(build().eval()), values)
    for seed in range(3):
        network = build().eval()
        units = find_units(network).units
        generator = torch.Generator().manual_seed(seed)
        widths = {name: int(torch.randint(1, unit.width + 1, (), generator=generator)) for name, unit in units.items() if seed or name != "conv_head"}
        touched = {path for unit in units.values() for path in (*unit.producers, *unit.followers, *unit.excites, *(reader.path for reader in unit.readers))}
        for name, width in widths.items():
            apply_choice(network, units[name], Choice(tuple(range(width))))
        cost = table.cost(widths)
        assert cost.macs == counted_by_torch(network, values)
        assert cost.macs_bn == cost.macs + 2 * norm_elements(network, values)
        assert cost.params == sum(parameter.numel() for parameter in network.parameters())
        assert cost.prunable_macs == sum(layer.macs(layer.inputs, layer.outputs) for layer in count_layers(network, values) if layer.path in touched)
        whole = [layer.macs(layer.inputs, layer.outputs) for layer in count_layers(network, values)]
        assert [table.stretch(widths, at, at + 1) for at in range(len(whole))] == whole


def test_the_cost_of_a_vgg_like_network_by_hand():
    table = CostTable(samples.Vgg().eval(), find_units(samples.Vgg().eval()), images(1))
    convs = 256 * 8 * 27 + 64 * 12 * 8 * 9 + 16 * 6 * 12 * 9
    norms = 2 * (256 * 8 + 64 * 12 + 10)
    assert table.cost({}).macs == convs + 96 * 10 + 10 * 4
    assert table.cost({}).macs_bn == table.cost({}).macs + norms
    assert table.cost({}).prunable_macs == table.cost({}).macs  # every layer touches a unit
    smaller = table.cost({"features.0": 2, "features.8": 1, "head.1": 3})
    assert smaller.macs == 256 * 2 * 27 + 64 * 12 * 2 * 9 + 16 * 1 * 12 * 9 + 16 * 3 + 3 * 4


@pytest.mark.parametrize("name, macs, macs_bn", [("resnet50", 4.09e9, None), ("mobilenetv2_100", 301e6, 314e6)])
def test_published_numbers(name, macs, macs_bn):
    """Counted on the meta device at 224: no weights, no computing."""
    with torch.device("meta"):
        network, values = timm.create_model(name).eval(), torch.empty(1, 3, 224, 224)
    cost = CostTable(network, find_units(network), values).cost({})
    assert cost.macs == pytest.approx(macs, rel=2e-3)
    assert macs_bn is None or cost.macs_bn == pytest.approx(macs_bn, rel=2e-3)


def test_counting_changes_neither_the_network_nor_the_images():
    network, values = samples.Stripped(lambda net, x: net.body(x.sub_(1)), body=samples.Traced(nn.ReLU())), images(1)
    network.train()
    before = values.clone()
    count_layers(network, values)
    assert network.training and network.body.conv1.training and torch.equal(values, before)
    assert not any(module._forward_hooks for module in network.modules())
