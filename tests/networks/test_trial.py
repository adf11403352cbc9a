"""A network on trial: what cannot be copied or fed, or is not what was followed, is refused by name; what passes is cut rightly."""

import copy

import pytest
import torch
import torch.nn.utils.prune as masks
from torch import nn
from torch.nn import functional
from torch.nn.utils import weight_norm
from torch.utils.checkpoint import checkpoint

from pipeline import prune
from pipeline.config.errors import BadInput, UnsupportedModule
from pipeline.networks.small import tiny
from pipeline.networks.trial import copy_of, refuse_unfaithful, refuse_unfed
from pipeline.networks.units import find_units
from tests.networks.samples import Stripped, conv, images, shaken


class Plain(nn.Module):
    """Two convs and a linear layer, with `between` on what the first gives: module(network, channels)."""

    def __init__(self, between=None, **modules):
        super().__init__()
        self.a, self.b, self.fc = conv(3, 8), conv(8, 6), nn.Linear(6, 4)
        self.between = between or (lambda net, x: x)
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        x = torch.relu(self.between(self, self.a(x)))
        return self.fc(torch.relu(self.b(x)).mean((2, 3)))


def altered(change) -> nn.Module:
    network = Plain()
    change(network)
    return network


def counted(net, x):
    net.calls = getattr(net, "calls", 0) + 1
    return x * net.calls


def in_half(net, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return net.inner(x).float()


def on_meta():
    with torch.device("meta"):
        return Plain()


UNFIT = {
    "wrapped by torch.compile": (lambda: torch.compile(Plain()), "OptimizedModule: wraps the network; prune model._orig_mod"),
    "wrapped to be parallel": (lambda: nn.DataParallel(Plain()), "DataParallel: wraps the network; prune model.module"),
    "averaged": (lambda: torch.optim.swa_utils.AveragedModel(Plain()), "AveragedModel: wraps the network; prune model.module"),
    "scripted": (lambda: torch.jit.script(nn.Sequential(conv(3, 4), nn.ReLU())), "is TorchScript"),
    "a lazy layer": (lambda: Plain(fc=nn.LazyLinear(4)), "^fc: LazyLinear has no weights yet; call the model on one batch first"),
    "weights on the meta device": (on_meta, "^a: Conv2d has weights without values"),
    "half precision": (lambda: altered(lambda net: net.b.half()), "^b: Conv2d has half-precision weights"),
    "weight norm of old": (lambda: altered(lambda net: weight_norm(net.b)), "^b: Conv2d computes weight anew .* remove_weight_norm"),
    "a mask": (lambda: altered(lambda net: masks.l1_unstructured(net.a, "weight", 0.3)), "^a: Conv2d computes weight anew .* a pruning mask"),
    "quantised": (lambda: torch.ao.quantization.quantize_dynamic(Plain(), {nn.Linear}), "^fc: Linear is quantised; prune .* floating point"),
    "a class": (lambda: Plain, "model: is the class Plain, not a torch module"),
    "a function": (lambda: torch.relu, "model: is builtin_function_or_method, not a torch module"),
    "an open file": (lambda: altered(lambda net: setattr(net, "log", open("/dev/null"))), "model: cannot be copied .* .TypeError"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", UNFIT)
def test_what_cannot_be_copied_rightly_is_refused_by_name(what):
    build, line = UNFIT[what]
    with pytest.raises(BadInput, match=line) as refusal:
        copy_of(build())
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("given, line", [
    (torch.randn(2, 1, 16, 16), r"loader: yields images of 1 x 16 x 16 .* to have 3 channels, .*; give batches of 3 channels, as a reads them"),
    (torch.randn(2, 16, 16), "give batches of 3 channels, as a reads them"),
    (torch.randn(2, 3, 16, 16).double(), r"torch.float64\), which the network cannot take .*; convert them to torch.float32"),
    (torch.ones(2, 3, 16, 16, dtype=torch.uint8), "convert them to torch.float32"),
])
def test_images_that_the_network_cannot_take_are_named_with_what_it_takes(given, line):
    with pytest.raises(BadInput, match=line) as refusal:
        refuse_unfed(Plain().eval(), given)
    assert "\n" not in str(refusal.value)


def test_images_of_another_size_and_what_gives_no_logits_are_named():
    flat = nn.Sequential(conv(3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 256, 3)).eval()
    assert refuse_unfed(flat, images(2)).shape == (2, 3)
    with pytest.raises(BadInput, match="3 x 12 x 12 .* give images of the size that the network is made for"):
        refuse_unfed(flat, images(2, side=12))
    with pytest.raises(UnsupportedModule, match=r"Stripped: gives torch.int64 of shape \(2,\) for 2 images; one tensor of logits"):
        refuse_unfed(Stripped(lambda net, x: net.flat(x).argmax(1), flat=flat), images(2))


UNFAITHFUL = {
    "dropout that is always on": (lambda: Plain(lambda net, x: functional.dropout(x, 0.5)), "Plain: gives the same images another output"),
    "calls that are counted": (lambda: Plain(counted), "Plain: gives the same images another output each time"),
    "autocast inside": (lambda: Stripped(in_half, inner=Plain()), "Stripped: computes something else than .* followed; take autocast"),
    "a width that is read": (lambda: Plain(lambda net, x: x / net.a.out_channels), "^a: with fewer neurons in this unit forward"),
    "a type that is fixed": (lambda: Stripped(lambda net, x: net.inner(x.float()), inner=Plain()), "^inner.a: it cannot be run in float64"),
}  # fmt: skip


@pytest.mark.parametrize("what", UNFAITHFUL)
def test_what_is_not_what_was_followed_is_refused_before_any_work(what):
    build, line = UNFAITHFUL[what]
    network = shaken(build())
    with pytest.raises(UnsupportedModule, match=line) as refusal:
        refuse_unfaithful(network, find_units(network), images(2))
    assert "\n" not in str(refusal.value)




HANDLED = {
    "checkpoints": lambda net, x: checkpoint(net.more, x, use_reentrant=False),
    "dropout": lambda net, x: net.drop(functional.dropout(net.more(x), 0.5, net.training)),
    "a decision on its mode": lambda net, x: net.more(x) * 100 if net.training else net.more(x),
    "twice the same activation": lambda net, x: net.act(net.more(net.act(x))),
    "a sum with itself": lambda net, x: net.more(torch.relu(x) + torch.relu(x)),
    "numbers": lambda net, x: 1 - net.more(torch.relu(x) * 3 + 1) / 2,
}


def masked(network, pruned) -> nn.Module:
    """The dense network with nothing read of the neurons that are not kept: what a cut without re-fit must equal."""
    network = copy.deepcopy(network)
    for name, unit in find_units(network).units.items():
        for reader in unit.readers:
            columns = network.get_submodule(reader.path).weight.data.flatten(1).unflatten(1, (unit.width, reader.columns))
            columns[:, [i for i in range(unit.width) if i not in pruned.units[name][1]]] = 0
    return network


@pytest.mark.parametrize("what", HANDLED)
def test_what_is_handled_is_cut_to_what_the_kept_neurons_compute(what):
    network = shaken(Plain(HANDLED[what], more=conv(8, 8), drop=nn.Dropout2d(0.5), act=nn.ReLU(inplace=True)))
    pruned = prune(network, [images(8)], budget={"width": 0.5}, selector="l1", refit="none", allocation="uniform")
    assert len(pruned.units) >= 2 and all(len(kept) < width for width, kept in pruned.units.values())
    with torch.no_grad():
        found, expected, dense = (one(images(4, seed=5)) for one in (pruned.network, masked(network, pruned), network))
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, dense, rtol=0.01)


class Sums(nn.Module):
    """Two residual blocks; `added`(stream, branch) adds one to the other."""

    def __init__(self, added):
        super().__init__()
        self.stem, self.a, self.b, self.c, self.d, self.fc = conv(3, 6), conv(6, 10), conv(10, 6), conv(6, 10), conv(10, 6), nn.Linear(6, 4)
        self.added = added

    def forward(self, x):
        x = self.stem(x)
        for first, second in ((self.a, self.b), (self.c, self.d)):
            x = self.added(x, second(torch.relu(first(x))))
        return self.fc(x.mean((2, 3)))


def stays(x, y):
    x.add_(y)
    return x


@pytest.mark.parametrize("settings", [{}, {"selector": "l1"}, {"selector": "loss", "candidates": 4, "allocation": "uniform"}])
def test_a_stream_added_to_in_place_is_searched_as_one_that_is_not(settings):
    """A probe of one width must not see what the probe before it added."""
    data = [(images(16, seed=i), torch.arange(16) % 4) for i in range(2)]
    plain, other = (prune(shaken(Sums(added)), data, **settings) for added in (lambda x, y: x + y, stays))
    assert plain.units == other.units and torch.equal(plain.network.b.weight, other.network.b.weight)


def test_the_arguments_of_forward_must_have_names():
    class Starred(Plain):
        def forward(self, *inputs):
            return super().forward(inputs[0])

    with pytest.raises(UnsupportedModule, match=r"Starred: forward takes \*inputs; let it take the batch of images by name"):
        find_units(Starred().eval())


def test_a_network_without_finite_outputs_is_left_to_who_measures():
    network = tiny().eval()
    network.classifier.weight.data.fill_(float("nan"))
    refuse_unfaithful(network, find_units(network), torch.randn(2, 1, 28, 28))
