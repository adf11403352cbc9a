"""Curves: the divergence of really shrunk networks, in each pruner's own order and re-fit; shared by budgets."""

import copy
import json

import numpy as np
import pytest
import torch

from pipeline.config.rules import resolve_prune
from pipeline.config.settings import Prune
from pipeline.networks.cost import CostTable
from pipeline.networks.shrink import Choice, apply_choice
from pipeline.pruners.curves import measure_curves, score_curves
from pipeline.pruners.pruner import Job
from pipeline.pruners.spending import spent_on_curves
from pipeline.search.artifacts import save_choice
from pipeline.selection.allocation import floor_of, probed_widths
from pipeline.selection.elimination import forward
from pipeline.selection.quadratic import intercept, refit, refit_error, ridged
from tests.networks.samples import Residual, Vgg, shaken
from tests.search.benches import bench, coordinator, measured_by, samples


@pytest.fixture(params=[Residual, Vgg])
def given(request, tmp_path):
    return bench(shaken(request.param()), samples(40, 3, 16, 4, 8), tmp_path)


def curves_of(given, **prune):
    """(curves, the pruner, what was measured in the dense network)."""
    options = resolve_prune(Prune(calibration_samples=24, probe_samples=16, **prune), "test", "width")
    asking, measured = coordinator(given, 24), None
    if options.selector == "reconstruction" or options.refit != "none":
        measured = measured_by(asking, given, options)
    return measure_curves(Job(given.network, given.units, {}, options, given.seed, measured), asking, 16), options, measured


def divergence(dense, network, images) -> float:
    """KL of softmax outputs by its definition, averaged over images, in float64."""
    with torch.no_grad():
        expected, found = (net.double()(images.double()).softmax(1).numpy() for net in (copy.deepcopy(dense), copy.deepcopy(network)))
    return float((expected * (np.log(expected) - np.log(found))).sum(1).mean())


def test_choices_are_tried_alone_on_the_images_behind_the_calibration_ones(given):
    images = torch.cat([batch.images for batch in given.stream.block(24, 40)])
    tried, expected = {}, {}
    for name, unit in given.units.units.items():
        choices = [Choice(tuple(range(kept))) for kept in (1, unit.width // 2, unit.width)]
        tried[name] = [save_choice(given.folder, name, choice, None) for choice in choices]
        expected[name] = []
        for choice in choices:
            network = copy.deepcopy(given.network)
            apply_choice(network, unit, choice)
            expected[name].append(divergence(given.network, network, images))
    found = coordinator(given, 24).divergences(tried, 16)
    for name in tried:
        assert found[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-7)
        assert found[name][-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("prune", [
    dict(selector="reconstruction"), dict(selector="random"), *(dict(selector="l1", refit=refit) for refit in ("lsq", "affine", "none")),
])  # fmt: skip
def test_a_curve_is_probed_in_the_pruners_own_order_under_its_own_refit(given, prune):
    curves, options, measured = curves_of(given, **prune)
    images = torch.cat([batch.images for batch in given.stream.block(24, 40)])
    assert list(curves) == list(given.units.units)
    for name, unit in given.units.units.items():
        curve = curves[name]
        assert curve.kept == probed_widths(unit.width) and len(curve.values) == unit.width - floor_of(unit.width) + 1 and curve.values[-1] == 0
        order = (
            given.network.get_submodule(unit.producers[-1]).weight.abs().flatten(1).sum(1).argsort(descending=True).tolist()
            if options.selector == "l1"
            else None
        )
        for kept, value in zip(curve.kept, curve.divergence):
            assert curve.values[kept - floor_of(unit.width)] == pytest.approx(value)
            if order is None:
                continue
            full = None if options.refit == "none" else ridged(measured.quadratics[name], options.ridge)
            weight = None if full is None else refit(full, order[:kept])
            added = (intercept(full.means[0], unit.columns, order[:kept], weight),) if options.refit == "affine" else ()
            network = copy.deepcopy(given.network)
            apply_choice(network, unit, Choice(tuple(order[:kept]), weight=weight, intercepts=added))
            assert value == pytest.approx(divergence(given.network, network, images), rel=1e-2, abs=1e-6)


def test_curves_of_scores_are_the_shares_lost_and_of_reconstruction_the_errors_left(given):
    for selector, norm in (("l1", 1), ("l2", 2)):
        options = resolve_prune(Prune(selector=selector, refit="none", allocation="global"), "test", "width")
        curves = score_curves(Job(given.network, given.units, {}, options, 0))
        for name, unit in given.units.units.items():
            left = given.network.get_submodule(unit.producers[-1]).weight.detach().double().flatten(1).norm(norm, 1).sort(descending=True).values
            lost = [1 - float(left[:kept].sum() / left.sum()) for kept in range(floor_of(unit.width), unit.width + 1)]
            assert curves[name].values == pytest.approx(lost, abs=1e-9)
    _, options, measured = curves_of(given, selector="reconstruction")
    curves = score_curves(Job(given.network, given.units, {}, options.model_copy(update={"allocation": "global"}), 0, measured))
    for name, unit in given.units.units.items():
        full = ridged(measured.quadratics[name], options.ridge)
        picks = [pick.neuron for pick in forward(measured.quadratics[name], options.ridge)]
        left = [refit_error(full, picks[:kept]) / full.total for kept in range(floor_of(unit.width), unit.width + 1)]
        assert curves[name].values == pytest.approx(left, rel=1e-6, abs=1e-9)


def test_spending_on_curves_counts_a_dense_pass_and_what_lies_behind_each_unit(given):
    table = CostTable(given.network, given.units, torch.zeros(1, 3, 16, 16))
    curves, _, _ = curves_of(given, selector="l1", refit="none")
    cost = spent_on_curves(curves, 16, given.units, table)
    order = [layer.path for layer in table.layers]
    by_hand = 0
    for name, unit in given.units.units.items():
        layers = [[table.stretch({name: kept}, n, n + 1) for n in range(len(order))] for kept in curves[name].kept]
        first = order.index(unit.producers[0])
        by_hand += 16 * (table.cost({}).macs + sum(sum(each[first:]) for each in layers))
    assert (cost.images, cost.macs) == (16, by_hand)


def test_budgets_share_the_curves_and_each_pruner_has_its_own(tmp_path, small_config):
    from pipeline.chain.run import run_chain
    from pipeline.config.load import load_config

    def run(*overrides):
        return run_chain(load_config(small_config, ["arm=none", "prune.allocation=marginal", "prune.probe_samples=32", *overrides])).result

    first, other = run("budget.prunable_macs=60%"), run("budget.prunable_macs=40%")
    assert first["stages"]["curves"] == other["stages"]["curves"] and first["stages"]["search"] != other["stages"]["search"]
    assert other["macs"] < first["macs"] and first["select_images"] == 64 + 64 + 32, "statistics, the walk, the probes"
    plain = run("prune.selector=l1", "prune.refit=none")
    assert "statistics" not in plain["stages"] and plain["stages"]["curves"] != first["stages"]["curves"]
    ours = run("prune.selector=l1", "prune.refit=none", "prune.curves=reconstruction")
    assert ours["stages"]["curves"] == first["stages"]["curves"] and ours["stages"]["statistics"] == first["stages"]["statistics"]
    scored = run("prune.selector=l1", "prune.allocation=global")
    assert "statistics" not in scored["stages"] and scored["stages"]["curves"] != plain["stages"]["curves"]
    assert scored["select_images"] == 64 and scored["macs"] <= first["macs"] * 1.1
    affine = run("prune.refit=affine", "prune.mode=independent")
    assert affine["stages"]["statistics"] != first["stages"]["statistics"] and affine["stages"]["curves"] != first["stages"]["curves"]
    (sums,) = (tmp_path / "runs/stages").glob("statistics-*/sums.safetensors")
    assert sums.parent.name == f"statistics-{affine['stages']['statistics']}", "read about the means alone"
    loss = run("prune.selector=loss", "prune.candidates=3")
    assert loss["stages"]["curves"] == first["stages"]["curves"], "the loss search has no order of its own"
    lines = json.loads(next((tmp_path / "runs/stages").glob(f"curves-{first['stages']['curves']}/curves.json")).read_text())
    assert set(lines["conv_stem"]) == {"width", "kept", "divergence", "values"}
    assert not list((tmp_path / "runs/stages").glob("curves-*/probes")), "what was tried is not kept"
