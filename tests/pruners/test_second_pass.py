"""The second pass: each layer in order against least squares written out, and what it must not change."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from pipeline import load_pruned, prune
from pipeline.config.errors import BadInput
from pipeline.config.settings import Scoring
from pipeline.data.streams import MemoryStream
from pipeline.networks.shrink import Choice, apply_choices
from pipeline.networks.small import resnet_28, tiny
from pipeline.networks.units import find_units
from pipeline.pruners.second_pass import Samples, layers_of, refit_layers
from tests.networks.samples import Residual, Squeezed, Vgg, conv, shaken

RIDGE, COUNT, LIMIT = 1e-2, 40, Scoring().gram_limit


def half(units) -> dict[str, Choice]:
    return {name: Choice(tuple(range(0, unit.width, 2))) for name, unit in units.units.items()}


def stream(channels=3, side=16) -> MemoryStream:
    images = torch.randn(COUNT, channels, side, side, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return MemoryStream(images, torch.zeros(COUNT, dtype=torch.long), 16)


def passed(dense, kinds=("hidden",), scoring=Scoring(batch=16), choices=None, **shape):
    """(units, dense, shrunk before, shrunk after) of a pass over half of every unit, in double precision."""
    dense = dense.double().eval()
    units = find_units(dense, list(kinds))
    choices = choices or half(units)
    before = copy.deepcopy(dense)
    apply_choices(before, units.units, choices)
    after, samples = copy.deepcopy(before), Samples(stream(**shape), COUNT, 0, torch.device("cpu"))
    kept = {name: choice.kept for name, choice in choices.items()}
    refit_layers(dense, after, units, kept, samples, RIDGE, scoring, lambda event: None)
    return units, dense, before, after


def output_of(network, path, images, read: bool):
    """What a layer reads, or writes, when the network sees the images."""
    seen = []
    handle = network.get_submodule(path).register_forward_hook(lambda module, given, found: seen.append((given[0] if read else found).clone()))
    with torch.no_grad():
        network(images)
    handle.remove()
    return seen[0]


def rows_of(module, read):
    if isinstance(module, nn.Linear):
        return read.flatten(0, -2)
    return functional.unfold(read, module.kernel_size, module.dilation, module.padding, module.stride).transpose(1, 2).flatten(0, 1)


def solved(dense, network, path, left, images):
    """The weights (M, NK) that least squares with the pull gives one layer, from hooks and one solve."""
    module, whole = network.get_submodule(path), dense.get_submodule(path)
    rows = rows_of(module, output_of(network, path, images, read=True))
    wanted = output_of(dense, path, images, read=False)
    wanted = (wanted if isinstance(module, nn.Linear) else wanted.flatten(2).transpose(1, 2)).flatten(0, -2)
    wanted = (wanted if whole.bias is None else wanted - whole.bias)[:, left]
    pull = RIDGE * (rows**2).sum(0).mean()
    weight = module.weight.detach().flatten(1)
    return torch.linalg.solve(rows.T @ rows + pull * torch.eye(rows.shape[1], dtype=rows.dtype), rows.T @ wanted + pull * weight.T).T


@pytest.mark.parametrize("kinds", [("hidden",), ("hidden", "stream")])
def test_every_layer_is_the_least_squares_of_what_it_reads_after_those_before_it(kinds):
    units, dense, network, after = passed(shaken(Residual()), kinds)
    images = stream().images
    left = {path: unit.laid(range(0, unit.width, 2)) for unit in units.units.values() for path in unit.producers}
    layers = [layer.path for layer in layers_of(units, dense, {name: choice.kept for name, choice in half(units).items()}, LIMIT)]
    assert set(layers) == {name for name, module in dense.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear)) and name != "depthwise"}
    for path in layers:
        module = network.get_submodule(path)
        expected = solved(dense, network, path, list(left.get(path, range(module.weight.shape[0]))), images)
        module.weight.data = expected.view_as(module.weight)
        torch.testing.assert_close(after.get_submodule(path).weight.detach().flatten(1), expected, rtol=1e-7, atol=1e-9)


def test_a_whole_network_is_its_own_best_fit():
    dense = shaken(Vgg())
    whole = {name: Choice(tuple(range(unit.width))) for name, unit in find_units(dense, ["hidden"]).units.items()}
    _, dense, _, after = passed(dense, choices=whole)
    for name, value in dense.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], value, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("build", [lambda: shaken(Squeezed()), lambda: shaken(tiny(num_classes=3)), lambda: shaken(resnet_28(num_classes=3))])
def test_the_last_layer_comes_nearer_to_the_dense_logits_and_nothing_but_weights_changes(build):
    network = build()
    shape = {"channels": next(network.parameters()).shape[1], "side": 28 if not isinstance(network, Squeezed) else 16}
    _, dense, before, after = passed(network, **shape)
    images = stream(**shape).images
    with torch.no_grad():
        wanted, old, new = (each(images) for each in (dense, before, after))
    assert (new - wanted).square().sum() < 0.9 * (old - wanted).square().sum()
    fitted = {f"{name}.weight" for name, module in before.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear)) and getattr(module, "groups", 1) == 1}
    changed = {name for name, value in before.state_dict().items() if not torch.equal(value, after.state_dict()[name])}
    assert changed and changed <= fitted


def test_a_transformers_layers_are_fitted_with_shapes_between_them():
    dense = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5)
    units, dense, before, after = passed(shaken(dense))
    paths = [layer.path for layer in layers_of(units, dense, {}, LIMIT)]
    assert {"patch_embed.proj", "blocks.0.attn.qkv", "blocks.1.mlp.fc1", "head"} <= set(paths)
    assert not torch.equal(before.blocks[0].mlp.fc1.weight, after.blocks[0].mlp.fc1.weight)


def test_what_the_memory_holds_changes_no_byte():
    networks = [passed(shaken(Residual()), scoring=Scoring(batch=16, memory_limit=limit))[-1] for limit in (4.0, 1e-9)]
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_positions_are_drawn_by_name_and_fewer_read_less():
    few, again, all_of_them = (passed(shaken(Residual()), scoring=Scoring(batch=batch, positions=n))[-1] for batch, n in ((16, 9), (16, 9), (16, None)))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in few.state_dict().items())
    assert any(not torch.equal(value, all_of_them.state_dict()[name]) for name, value in few.state_dict().items())


def test_layers_that_run_twice_grouped_or_padded_by_words_stay_as_they_are():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.deep, self.twice = conv(3, 8), conv(8, 8, groups=8), conv(8, 8, 1)
            self.worded, self.last = nn.Conv2d(8, 8, 3, padding="same"), nn.Linear(8, 3)

        def forward(self, x):
            x = self.deep(self.stem(x))
            x = x + self.twice(x)
            x = x + self.twice(x)
            return self.last(functional.relu(self.worded(x)).mean((2, 3)))

    dense = shaken(Odd())
    assert [layer.path for layer in layers_of(find_units(dense, ["hidden"]), dense, {}, LIMIT)] == ["stem", "last"]


def test_layers_of_more_columns_than_the_limit_stay_as_they_are():
    units, dense, before, after = passed(shaken(Vgg()), scoring=Scoring(batch=16, gram_limit=72))
    wide = {name for name, module in before.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear)) and module.weight[0].numel() > 72}
    kept = {name for name in wide if torch.equal(before.get_submodule(name).weight, after.get_submodule(name).weight)}
    assert kept == wide and not torch.equal(before.features[0].weight, after.features[0].weight)


@pytest.mark.parametrize("selector", ["reconstruction", "l1"])
def test_any_pruner_with_a_refit_may_have_it_and_its_network_is_saved(selector, tmp_path):
    model = shaken(tiny(num_classes=3))
    batches = [torch.randn(16, 1, 28, 28, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    plain, second = (prune(model, batches, budget={"width": 0.5}, selector=selector, allocation="uniform", second_pass=on) for on in (None, True))
    assert plain.units == second.units and plain.macs == second.macs
    images = torch.cat(batches)
    with torch.no_grad():
        wanted = model(images)
        errors = [(each.network(images) - wanted).square().sum() for each in (plain, second)]
        assert errors[1] < errors[0]
        second.save(tmp_path / "saved")
        assert torch.equal(load_pruned(tmp_path / "saved", build=lambda: tiny(num_classes=3))(images), second.network(images))


@pytest.mark.parametrize("refit", ["none", "affine"])
def test_a_second_pass_goes_with_least_squares_alone(refit):
    with pytest.raises(BadInput, match=f"prune.second_pass: true does not go with prune.refit '{refit}'"):
        prune(shaken(tiny(num_classes=3)), [torch.randn(4, 1, 28, 28)], selector="l1", refit=refit, second_pass=True)


def test_layers_with_one_weight_between_them_stay_as_they_are():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.stem, self.left, self.right, self.last = conv(3, 8), conv(8, 8), conv(8, 8, 1), conv(8, 8, 1), nn.Linear(8, 3)
            self.right.weight = self.left.weight

        def forward(self, x):
            x = self.stem(functional.relu(self.first(x)))
            x = x + self.left(x)
            return self.last((x + self.right(x)).mean((2, 3)))

    dense = shaken(Tied())
    assert [layer.path for layer in layers_of(find_units(dense, ["hidden"]), dense, {}, LIMIT)] == ["first", "stem", "last"]


def test_a_value_that_two_steps_hold_is_still_one_behind_a_stop():
    class Alias(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.same, self.rectify = conv(3, 8), nn.Identity(), nn.ReLU(inplace=True)
            self.first, self.second, self.last = conv(8, 8), conv(8, 8, 1), nn.Linear(8, 3)

        def forward(self, x):
            kept = self.stem(x)
            other = self.same(kept)
            seen = functional.relu(self.first(kept))
            self.rectify(kept)  # other too
            return self.last((self.second(seen) + other).mean((2, 3)))

    units, dense, network, after = passed(shaken(Alias()))
    left = {path: unit.laid(range(0, unit.width, 2)) for unit in units.units.values() for path in unit.producers}
    for path in ("stem", "first", "second", "last"):
        module = network.get_submodule(path)
        expected = solved(dense, network, path, list(left.get(path, range(module.weight.shape[0]))), stream().images)
        module.weight.data = expected.view_as(module.weight)
        torch.testing.assert_close(after.get_submodule(path).weight.detach().flatten(1), expected, rtol=1e-7, atol=1e-9)


def test_switches_are_exact_within_a_pass_and_the_callers_again_behind_prune():
    before = torch.backends.cudnn.deterministic
    prune(shaken(tiny(num_classes=3)), [torch.randn(8, 1, 28, 28)], budget={"width": 0.5}, selector="l1", allocation="uniform", second_pass=True)
    assert torch.backends.cudnn.deterministic == before
    passed(shaken(Residual()))
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.allow_tf32
