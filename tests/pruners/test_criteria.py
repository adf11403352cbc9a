"""Torch-Pruning's criteria: the library's own scores on our units, from gradients summed like every other statistic."""

import json

import pytest
import torch
import torch_pruning
from torch import nn
from torch.nn import functional

from pipeline import prune
from pipeline.config.errors import BadInput
from pipeline.config.rules import CRITERIA
from pipeline.networks.small import tiny
from pipeline.networks.units import find_units
from pipeline.pruners.criteria import criterion_scores
from pipeline.search.question import add
from pipeline.selection.quota import in_turns
from tests.networks.samples import Grouped, Residual, Vgg, shaken
from tests.search.benches import bench, coordinator, samples


@pytest.fixture(params=[Residual, Vgg])
def given(request, tmp_path):
    return bench(shaken(request.param()), samples(24, 3, 16, 4, 8), tmp_path)


def scores(given, selector):
    statistic = CRITERIA[selector]
    gradients = coordinator(given, 24).gradients(statistic) if statistic else None
    return criterion_scores(selector, given.network, given.units, given.stream.images[:1], gradients)


def single_gradients(given):
    """Gradient of every image's loss by every parameter: {name: (24, ...)}."""
    found = []
    for image, label in zip(given.stream.images.split(1), given.stream.labels.split(1)):
        loss = functional.cross_entropy(given.network(image), label)
        found.append(torch.autograd.grad(loss, list(given.network.parameters())))
    return {name: torch.stack(each).double() for (name, _), each in zip(given.network.named_parameters(), zip(*found))}


def test_gradients_are_the_mean_over_the_images_of_each_ones_own(given):
    expected, found = single_gradients(given), coordinator(given, 24).gradients("gradient")
    squares = coordinator(given, 24).gradients("squared_gradient")
    assert list(found) == [name for name, _ in given.network.named_parameters()]
    for name, each in expected.items():
        assert torch.allclose(found[name], each.mean(0), rtol=1e-4, atol=1e-6)
        assert torch.allclose(squares[name], (each**2).mean(0), rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("statistic", ["gradient", "squared_gradient"])
def test_blocks_of_any_split_add_up_to_the_same_sums(given, statistic):
    from pipeline.search.actor import Actor
    from pipeline.search.question import Question

    actor = Actor(given)
    whole, halves = (add(actor.answer(Question(statistic, (), None, 0, run)) for run in runs) for runs in ([(0, 24)], [(0, 8), (8, 24)]))
    assert whole.count == halves.count == 24
    assert all(torch.allclose(torch.tensor(whole.sums[name]), torch.tensor(halves.sums[name]), rtol=1e-12) for name in whole.sums)


def test_l1_of_a_unit_is_the_mean_norm_of_what_goes_with_each_neuron_by_hand():
    network = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 2, 1, bias=False), nn.Flatten(), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([1.0, -2.0, 3.0]).view(3, 1, 1, 1))
        network[2].weight.copy_(torch.tensor([[1.0, 0.0, -1.0], [1.0, 2.0, 1.0]]).view(2, 3, 1, 1))
    found = criterion_scores("tp.l1", network, find_units(network), torch.zeros(1, 1, 1, 1), None)
    # written by 1, 2, 3; read by columns of norm 2, 2, 2: means 1.5, 2, 2.5, over their mean 2
    assert torch.allclose(found["0"], torch.tensor([0.75, 1.0, 1.25], dtype=torch.float64))


def test_taylor_is_what_the_library_says_after_one_backward_pass_as_it_documents(given):
    functional.cross_entropy(given.network(given.stream.images), given.stream.labels).backward()
    graph = torch_pruning.DependencyGraph().build_dependency(given.network, given.stream.images[:1])
    found = scores(given, "tp.taylor")
    for name, unit in given.units.units.items():
        producer = given.network.get_submodule(unit.producers[-1])
        cut = torch_pruning.prune_linear_out_channels if isinstance(producer, nn.Linear) else torch_pruning.prune_conv_out_channels
        group = graph.get_pruning_group(producer, cut, list(range(unit.width)))
        assert torch.allclose(found[name], torch_pruning.importance.GroupTaylorImportance()(group).double(), rtol=1e-3)


def test_hessian_weighs_squared_weights_by_the_mean_squared_gradient_of_single_images():
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1, bias=False), nn.Flatten(), nn.Linear(2, 2)).eval()
    images, labels = torch.randn(10, 1, 1, 1), torch.arange(10) % 2
    squares = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in network.named_parameters()}
    for image, label in zip(images.split(1), labels.split(1)):
        found = torch.autograd.grad(functional.cross_entropy(network(image), label), list(network.parameters()))
        for name, value in zip(squares, found):
            squares[name] += value.double() ** 2 / 10
    found = criterion_scores("tp.hessian", network, find_units(network), images[:1], squares)["0"]
    written = (network[0].weight.detach().double() ** 2 * squares["0.weight"]).flatten(1).sum(1)
    read = (network[2].weight.detach().double() ** 2 * squares["2.weight"]).flatten(2).sum((0, 2))
    expected = (written + read) / 2
    assert torch.allclose(found, expected / expected.mean(), rtol=1e-5)


@pytest.mark.parametrize("selector", CRITERIA)
def test_every_criterion_scores_every_neuron_and_leaves_the_network_as_it_was(tmp_path, selector):
    given = bench(shaken(tiny(num_classes=4)), samples(24, 1, 28, 4, 8), tmp_path)
    before = {name: value.clone() for name, value in given.network.state_dict().items()}
    found = scores(given, selector)
    assert {name: value.shape for name, value in found.items()} == {name: (unit.width,) for name, unit in given.units.units.items()}
    assert all((value >= 0).all() and len(set(value.tolist())) > 1 for value in found.values())
    assert all(torch.equal(value, before[name]) for name, value in given.network.state_dict().items())
    assert all(parameter.grad is None for parameter in given.network.parameters())


def test_a_criterion_that_finds_nothing_to_look_at_in_a_unit_is_refused_naming_both():
    network = Vgg().eval()
    with pytest.raises(BadInput, match=r"unit \S+: prune.selector 'tp.bn' gives it no score; choose another selector"):
        criterion_scores("tp.bn", network, find_units(network), torch.zeros(1, 3, 16, 16), None)


def test_scores_of_grouped_units_are_ranked_inside_each_group():
    network, images = shaken(Grouped()), torch.linspace(-1, 1, 4 * 3 * 16 * 16).view(4, 3, 16, 16)
    found = prune(network, [(images, torch.arange(4))], {"prunable_macs": 0.5}, selector="tp.taylor", refit="none", allocation="uniform")
    units, gradients = find_units(network), {}
    functional.cross_entropy(network(images), torch.arange(4)).backward()
    gradients = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    expected = criterion_scores("tp.taylor", network, units, images[:1], gradients)
    for name, (width, kept) in found.units.items():
        falling = sorted(range(width), key=lambda i: (-float(expected[name][i]), i))
        assert set(kept) == set(in_turns(falling, width, units.units[name].groups)[: len(kept)])


def test_a_criterion_that_fails_on_grouped_convs_is_refused_naming_the_unit():
    with pytest.raises(BadInput, match=r"unit stem: prune.selector 'tp.fpgm' fails inside Torch-Pruning \(.*\); choose another selector"):
        criterion_scores("tp.fpgm", Grouped().eval(), find_units(Grouped().eval()), torch.zeros(1, 3, 16, 16), None)


@pytest.mark.parametrize("allocation", ["uniform", "marginal", "global"])
@pytest.mark.parametrize("refit", ["none", "lsq"])
def test_the_python_door_prunes_by_gradients_and_keeps_the_neurons_of_the_highest_scores(given, refit, allocation):
    pairs = [(given.stream.images, given.stream.labels)]
    found = prune(given.network, pairs, {"prunable_macs": 0.5}, selector="tp.taylor", refit=refit, allocation=allocation)
    expected = scores(given, "tp.taylor")
    for name, (width, kept) in found.units.items():
        assert sorted(kept) == sorted(sorted(range(width), key=lambda i: (-float(expected[name][i]), i))[: len(kept)])


def test_gradients_need_labels_and_weights_do_not(given):
    with pytest.raises(ValueError, match="loader: selector 'tp.hessian' needs \\(batch, label\\) pairs"):
        prune(given.network, [given.stream.images], selector="tp.hessian", refit="none", allocation="uniform")
    prune(given.network, [given.stream.images], selector="tp.l2", refit="none", allocation="uniform")


def test_the_stage_is_shared_by_refits_and_allocations_and_its_passes_are_counted(small_config, gfs):
    rows = []
    for more in ("prune.refit=none", "prune.refit=lsq", "prune.allocation=global"):
        done = gfs("run", "-c", small_config, "arm=none", "prune.selector=tp.taylor", more)
        assert done.returncode == 0, done.stderr
        rows = [json.loads(path.read_text()) for path in small_config.parent.glob("runs/small-*/result.json")]
    assert len(rows) == 3 and len({row["stages"]["scores"] for row in rows}) == 1
    plain = next(row for row in rows if row["refit"] == "none" and row["allocation"] == "uniform")
    assert (plain["select_images"], plain["select_macs"]) == (64, 3 * 64 * plain["macs_dense"])
