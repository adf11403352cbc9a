"""prune() and load_pruned() from Python: every pruner, what they leave alone, what they refuse, what they do not import."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from pipeline import UnsupportedModule, load_pruned, prune
from pipeline.config.errors import BadInput
from pipeline.data import loader as loading
from pipeline.networks.small import tiny
from tests.conftest import ROOT
from tests.networks.samples import Branched, Residual, Squeezed, Traced, Vgg, shaken

SELECTORS = {
    "sequential": dict(selector="reconstruction", mode="sequential"),
    "independent": dict(selector="reconstruction", mode="independent"),
    "loss": dict(selector="loss", candidates=4),
    "backward": dict(engine="backward"),
    "swap": dict(engine="swap", mode="independent"),
    "l1": dict(selector="l1"),
    "l2": dict(selector="l2"),
    "bn": dict(selector="bn"),
    "random": dict(selector="random"),
}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return shaken(tiny(num_classes=3))


def batches(count=3, size=16, channels=1, side=28, labels=True, seed=0) -> list:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, size, channels, side, side, generator=generator)
    return [(x, torch.randint(3, (size,), generator=generator)) if labels else x for x in images]


def outputs(network, images=None) -> torch.Tensor:
    with torch.no_grad():
        return network(torch.cat(batches(labels=False, seed=9)) if images is None else images)


@pytest.mark.filterwarnings("ignore:prune.refit none with prune.selector reconstruction")
@pytest.mark.parametrize("selector, refit", [*((s, r) for s in SELECTORS for r in ("none", "lsq")), *((s, "affine") for s in ("swap", "loss", "l1"))])
def test_every_pruner_gives_a_smaller_network_and_leaves_the_model_alone(model, selector, refit, tmp_path):
    given = copy.deepcopy(model).train()
    given.classifier.eval()
    before, generator = copy.deepcopy(given.state_dict()), torch.get_rng_state()
    settings = SELECTORS[selector] | {"refit": refit, "allocation": "uniform"}  # marginal may leave units of a random network whole
    pruned = prune(given, batches(), budget={"prunable_macs": 0.5}, seed=1, **settings)
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
    assert given.training and given.bn1.training and not given.classifier.training
    assert torch.equal(torch.get_rng_state(), generator)
    assert {name: width for name, (width, _) in pruned.units.items()} == {"conv_stem": 16, "blocks.0.0.conv_pw": 16, "conv_head": 16}
    assert all(0 < len(kept) == len(set(kept)) < 16 for _, kept in pruned.units.values())
    assert not any(module.training for module in pruned.network.modules())
    assert pruned.params == sum(p.numel() for p in pruned.network.parameters()) < sum(p.numel() for p in model.parameters())
    assert 0.4 < pruned.macs / pruned.macs_dense < 0.6
    assert outputs(pruned.network).isfinite().all()
    pruned.save(tmp_path / "new/folder")
    loaded = load_pruned(tmp_path / "new/folder", build=lambda: tiny(num_classes=3))
    assert torch.equal(outputs(loaded), outputs(pruned.network))


def test_the_same_seed_gives_the_same_network_and_another_another_random_one(model):
    first, same, other = (prune(model, batches(), selector="random", refit="lsq", seed=seed) for seed in (1, 1, 2))
    assert first.units == same.units != other.units
    assert all(torch.equal(a, b) for a, b in zip(first.network.state_dict().values(), same.network.state_dict().values()))


def test_keeping_everything_keeps_the_function(model):
    for mode in ("sequential", "independent"):
        pruned = prune(model, batches(labels=False), budget={"width": 1.0}, mode=mode)
        assert pruned.macs == pruned.macs_dense
        torch.testing.assert_close(outputs(pruned.network), outputs(model), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("selector", ["random", "l1"])
def test_a_refit_comes_nearer_to_the_dense_output_than_the_old_weights(model, selector):
    images = torch.cat(batches(labels=False))
    wanted = outputs(model, images)
    pruned = [prune(model, [images], budget={"width": 0.5}, selector=selector, refit=refit).network for refit in ("none", "lsq")]
    far, near = ((outputs(network, images) - wanted).norm() for network in pruned)
    assert near < 0.7 * far


@pytest.mark.parametrize("kind, target", [("prunable_macs", 0.5), ("macs", "60%"), ("width", 0.25), ("macs", 40_000), ("macs", "0.05M")])
def test_budgets_are_shares_or_numbers(model, kind, target):
    pruned = prune(model, batches(labels=False), budget={kind: target}, selector="l1", refit="none")
    if kind == "width":
        assert sum(len(kept) for _, kept in pruned.units.values()) == 12
    elif target == "60%":
        assert pruned.macs == pytest.approx(0.6 * pruned.macs_dense, rel=0.1)
    elif kind == "macs":
        assert pruned.macs == pytest.approx(float(target) if target == 40_000 else 50_000, rel=0.1)


class Counting:
    """A loader that counts how often it is iterated and how many batches it gave."""

    def __init__(self, items):
        self.items, self.begun, self.given = items, 0, 0

    def __iter__(self):
        self.begun += 1
        for item in self.items:
            self.given += 1
            yield item


@pytest.mark.parametrize("selector", ["loss", "reconstruction"])
def test_the_loader_is_iterated_exactly_once(model, selector):
    loader = Counting(batches())
    prune(model, loader, budget={"width": 0.1}, selector=selector, refit="lsq")
    assert (loader.begun, loader.given) == (1, 3)


def test_a_generator_a_list_and_a_data_loader_give_the_same(model):
    items = batches()
    data = torch.utils.data.TensorDataset(torch.cat([x for x, _ in items]), torch.cat([y for _, y in items]))
    loaders = [(item for item in items), items, torch.utils.data.DataLoader(data, batch_size=7), [x for x, _ in items], [(x,) for x, _ in items]]
    states = [prune(model, loader).network.state_dict() for loader in loaders]
    assert all(torch.equal(state[name], states[0][name]) for state in states[1:] for name in states[0])


def test_what_a_loader_may_not_give(model, monkeypatch):
    for loader, line in (
        ([], "loader: yields no image"),
        ([{"image": 1}], "loader: yields dict of 1; give tensors"),
        ([(torch.zeros(2, 1, 28, 28), 0, 0)], "loader: yields tuple of 3; give tensors"),
    ):
        with pytest.raises(ValueError, match=line):
            prune(model, loader)
    with pytest.raises(ValueError, match="loader: selector 'loss' needs .batch, label. pairs"):
        prune(model, batches(labels=False), selector="loss")
    monkeypatch.setattr(loading, "KEPT_LIMIT", 2 * 16 * 28 * 28 * 4)
    loader = Counting(batches())
    with pytest.raises(ValueError, match="held in memory; give fewer calibration images"):
        prune(model, loader)
    assert loader.given == 3
    prune(model, batches(count=2))


@pytest.mark.parametrize("budget, settings, line", [
    ({"prunable_macs": 0.001}, {"allocation": "uniform"}, r"budget.prunable_macs: 0.001 is out of reach: this network allows 3188 to \d+ .*% to 100%"),
    ({"macs": 1e12}, {"allocation": "uniform"}, "budget.macs: 1e.12 is out of reach: this network allows .* to"),
    ({"macs": 1e12}, {}, r"budget.macs: 1e.12 is out of reach: allocations marginal and global leave 6% of each unit, which allows .* to .* 100%"),
    ({"macs": "lots"}, {}, "budget: macs: 'lots' is no amount"),
    ({"macs": -1}, {}, "budget: macs: -1 must lie above 0"),
    ({"macs": 0.5, "width": 0.5}, {}, "budget: holds 2 kinds"),
    ({"miles": 0.5}, {}, "budget.miles: is not built yet|budget: has no kind 'miles'"),
    (None, {"selektor": "l1"}, "prune: unknown setting 'selektor'; did you mean selector?"),
    (None, {"selector": "magic"}, "prune.selector: 'magic' is unknown"),
    (None, {"refit": "affin"}, "prune: refit: .*'affine'"),
    (None, {"engine": "exhaustive"}, "prune.engine: 'exhaustive' belongs to prune.selector 'loss'"),
    (None, {"ridge": -1}, "prune: ridge:"),
    (None, {"selector": "loss", "mode": "independent"}, "prune.mode: 'independent' does not go with"),
])  # fmt: skip
def test_wrong_budgets_and_settings_are_value_errors_of_one_line(model, budget, settings, line):
    loader = Counting(batches())
    with pytest.raises(ValueError, match=line) as refusal:
        prune(model, loader, budget=budget, **settings)
    assert "\n" not in str(refusal.value)


def test_the_range_of_an_unreachable_budget_is_the_real_one(model):
    with pytest.raises(ValueError) as refusal:
        prune(model, batches(), budget={"prunable_macs": 0.001})
    low, high = (int(float(word)) for word in str(refusal.value).partition("allows ")[2].partition(" (")[0].split(" to "))
    smallest = prune(model, batches(), budget={"prunable_macs": low}, selector="l1", refit="none")
    assert {len(kept) for _, kept in smallest.units.values()} == {1}
    assert low < 0.2 * high and high <= smallest.macs_dense


def test_unsupported_modules_are_named_before_any_work(model):
    with pytest.raises(UnsupportedModule, match="^between"):
        prune(shaken(Traced(nn.GroupNorm(2, 8))), batches(channels=3, side=16))
    assert issubclass(UnsupportedModule, ValueError)


@pytest.mark.parametrize("build", [Squeezed, Branched])
@pytest.mark.parametrize("settings", [
    dict(selector="reconstruction"),
    dict(selector="reconstruction", mode="independent", engine="swap", allocation="uniform"),
    dict(selector="reconstruction", engine="backward", allocation="global"),
    dict(selector="loss", refit="lsq", candidates=3, allocation="uniform"),
    dict(selector="l1", refit="none"),
    dict(selector="random", refit="lsq", allocation="uniform"),
])  # fmt: skip
def test_every_pruner_goes_with_squeeze_excite_and_several_readers(build, settings, tmp_path):
    """prune() itself refuses a network that is not the gated one to 1e-10."""
    network = shaken(build())
    images = [(torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(i)), torch.arange(16) % 4) for i in range(3)]
    pruned = prune(network, images, budget={"prunable_macs": 0.5}, **settings)
    assert pruned.macs < 0.7 * pruned.macs_dense and any(len(kept) < width for width, kept in pruned.units.values())
    pruned.save(tmp_path)
    with torch.no_grad():
        assert torch.equal(load_pruned(tmp_path, build=build)(images[0][0]), pruned.network(images[0][0]))


def test_a_set_chosen_to_be_refitted_but_not_refitted_warns(model):
    with pytest.warns(UserWarning, match="the set is chosen to be re-fitted"):
        prune(model, batches(), selector="reconstruction", refit="none")


def test_a_unit_with_too_many_columns_is_left_whole():
    large = nn.Sequential(nn.Conv2d(1, 40, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(40 * 28 * 28, 6), nn.ReLU(), nn.Linear(6, 3))
    pruned = prune(shaken(large), batches(), budget={"width": 0.5})
    assert set(pruned.units) == {"3"}  # 31,360 columns are above the limit of 16,384
    assert set(prune(shaken(large), batches(), budget={"width": 0.5}, selector="l1", refit="none").units) == {"0", "3"}


@pytest.mark.parametrize("build", [Vgg, Residual])
def test_networks_of_ones_own_in_double_precision_too(build, tmp_path):
    own = shaken(build()).double()
    data = [(x.double(), y) for x, y in batches(channels=3, side=16)]
    pruned = prune(own, data, budget={"prunable_macs": 0.4})
    assert {p.dtype for p in pruned.network.parameters()} == {torch.float64}
    pruned.save(tmp_path)
    loaded = load_pruned(tmp_path, build=lambda: build().double())
    assert torch.equal(outputs(loaded, data[0][0]), outputs(pruned.network, data[0][0]))
    with pytest.raises(ValueError, match="is your own module; call load_pruned"):
        load_pruned(tmp_path)


def test_torchs_global_switches_are_the_callers_again(model):
    torch.backends.cudnn.benchmark, threads = True, torch.get_num_threads()
    try:
        prune(model, batches())
        assert torch.backends.cudnn.benchmark and torch.get_num_threads() == threads
    finally:
        torch.backends.cudnn.benchmark = False


BARE = """
import sys
for name in ("ray", "webdataset", "wandb", "torch_pruning"):
    sys.modules[name] = None  # as on a machine without them: importing one raises
from pipeline import prune, load_pruned, UnsupportedModule
import torch
from pipeline.data import loader as loading
from pipeline.networks.small import tiny
pruned = prune(tiny(num_classes=3), [(torch.randn(8, 1, 28, 28), torch.zeros(8, dtype=torch.long))], {"width": 0.1}, selector=sys.argv[1])
pruned.save(sys.argv[2])
load_pruned(sys.argv[2], build=lambda: tiny(num_classes=3))
print([name for name in ("ray", "webdataset", "wandb", "torch_pruning") if sys.modules[name] is not None], "pipeline.chain.run" in sys.modules)
"""


@pytest.mark.parametrize("selector", ["reconstruction", "loss"])
def test_pruning_from_python_needs_none_of_the_packages_that_only_runs_need(selector, tmp_path):
    ended = subprocess.run([sys.executable, "-c", BARE, selector, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "[] False\n"), ended.stderr


def test_importing_the_package_alone_is_light():
    code = "import sys, pipeline; print(pipeline.__all__, [m for m in ('torch', 'ray', 'webdataset', 'wandb', 'timm') if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout == "['Pruned', 'UnsupportedModule', 'load_pruned', 'prune'] []\n"


def small_network(classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, classes))


def test_a_hook_on_the_network_itself_is_refused():
    model = small_network()
    model.register_forward_pre_hook(lambda module, inputs: ((inputs[0] - 200) / 50,))
    with pytest.raises(UnsupportedModule, match="forward hook"):
        prune(model, [torch.rand(8, 1, 9, 9) * 255], budget={"width": 0.5})


def test_every_image_of_the_loader_is_calibration():
    torch.manual_seed(1)
    images = torch.randn(2500, 1, 9, 9)
    other = torch.cat([images[:2000], 50 * torch.randn(500, 1, 9, 9).abs()])
    weights = [prune(small_network(), [batch], budget={"width": 0.5}).network[5].weight for batch in (images, other)]
    assert not torch.equal(*weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype):
    with pytest.raises(ValueError, match="half-precision"):
        prune(small_network().to(dtype), [torch.randn(8, 1, 9, 9, dtype=dtype)], budget={"width": 0.5})


@pytest.mark.parametrize("loader, settings, what", [
    ([(torch.randn(4, 1, 9, 9), torch.tensor([0.5, 1, 2, 3]))], {"selector": "loss", "refit": "none"}, "one integer per image"),
    ([(torch.randn(4, 1, 9, 9), torch.tensor([0, 1, 2, 7]))], {"selector": "loss", "refit": "none"}, "label 7 is beyond"),
    ([(torch.randn(4, 1, 9, 9), ["a", "b", "c", "d"])], {"selector": "loss", "refit": "none"}, "labels cannot be read"),
    ([torch.randn(4, 1, 9, 9), torch.randn(4, 1, 8, 8)], {}, "images of one size"),
    ([torch.randn(0, 1, 9, 9)], {}, "no image"),
])
def test_loaders_that_cannot_be_used_are_named(loader, settings, what):
    with pytest.raises(ValueError, match=what):
        prune(small_network(), loader, budget={"width": 0.5}, **settings)


def test_labels_of_any_kind_are_ignored_where_none_are_needed():
    pruned = prune(small_network(), [(torch.randn(4, 1, 9, 9), ["a.png", "b.png", "c.png", "d.png"])], budget={"width": 0.5})
    assert pruned.units["0"][0] == 12


def test_a_budget_that_is_no_mapping_is_named():
    with pytest.raises(ValueError, match="budget: is 0.5"):
        prune(small_network(), [torch.randn(4, 1, 9, 9)], budget=0.5)


def test_bn_is_refused_by_unit_where_no_batch_norm_follows():
    layers = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    with pytest.raises(BadInput, match="^unit 0: prune.selector 'bn' needs a batch norm with a scale behind its producer; "):
        prune(nn.Sequential(*layers), batches(), budget={"width": 0.5}, selector="bn")
