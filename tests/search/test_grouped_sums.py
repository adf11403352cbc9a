"""Searches of units that grouped convs write or read: sums, re-fits and whole searches, within the quota and group by group."""

import copy

import numpy as np
import pytest
import torch

from pipeline import load_pruned, prune
from pipeline.networks.gates import FOLDING_LIMIT, folding_difference
from pipeline.networks.shrink import Choice, apply_choice, reader_columns
from pipeline.networks.units import find_units
from pipeline.selection.quota import in_turns, keeps_quota
from tests.networks.samples import Grouped, images, shaken
from tests.search.benches import bench, coordinator, samples, search
from tests.search.test_intercepts import choices as choices_of
from tests.search.test_statistics import close, seen_by, sums

WIDTHS = {"stem": 4, "a": 6, "b": 12, "d": 4, "e": 2}
RIDGE = 1e-2


@pytest.fixture
def given(tmp_path):
    return bench(shaken(Grouped()).double(), samples(21, 3, 16, 4, 8, torch.float64, shard=9), tmp_path)


def by_group(reader, inputs, wanted) -> dict[str, np.ndarray]:
    """The sums of a consumer as they are asked for: of a grouped one G and C of each group."""
    found = sums(inputs, wanted)
    for name in ("gram", "cross") if reader.groups > 1 else ():
        rows = found[name].reshape(reader.groups, len(found[name]) // reader.groups, reader.groups, -1)
        found[name] = np.stack([rows[group, :, group] for group in range(reader.groups)])
    return found


def test_sums_of_grouped_consumers_are_those_of_each_group_in_the_really_shrunk_network(given):
    asking, shrunk = coordinator(given, calibration=21), copy.deepcopy(given.network)
    grams, _ = asking.dense_grams()
    generator = torch.Generator().manual_seed(2)
    for name, unit in given.units.units.items():
        (reader,) = unit.consumers
        (inputs, _), (whole, wanted) = (seen_by(network, reader.path, given.stream.images) for network in (shrunk, given.network))
        (answer,) = asking.ask("gram", name, asking.calibration_blocks())
        close(answer.sums, by_group(reader, inputs, wanted))
        np.testing.assert_allclose(grams[name].numpy(), by_group(reader, whole, wanted)["gram"], rtol=1e-9)
        order = in_turns(torch.randperm(unit.width, generator=generator).tolist(), unit.width, unit.groups)
        choice = Choice(tuple(order[: WIDTHS[name]]), torch.rand(WIDTHS[name], generator=generator).double() + 0.5)
        asking.commit(name, choice, "width reached", None)
        apply_choice(shrunk, unit, choice)
    assert sum(reader.groups > 1 for unit in given.units.units.values() for reader in unit.consumers) == 5


def solved(inputs, wanted, weight, strength) -> np.ndarray:
    """Ridged least squares toward old weights by numpy's lstsq on stacked rows: (M, columns)."""
    pull = np.sqrt(strength) * np.eye(inputs.shape[1])
    return np.linalg.lstsq(np.vstack([inputs, pull]), np.vstack([wanted, np.sqrt(strength) * weight.T]), rcond=None)[0].T


def test_every_group_is_refitted_from_its_own_neurons_alone(given):
    """Against least squares of one group after the other, from hooks on really shrunk networks; unit e has squeeze-excite."""
    lines = search(given, WIDTHS, 21, selector="reconstruction", refit="lsq", mode="sequential", calibration_samples=21, ridge=RIDGE)
    found, shrunk = choices_of(given, lines), copy.deepcopy(given.network)
    for name in ("stem", "a", "b", "d"):
        unit, choice = given.units.units[name], found[name]
        (reader,) = unit.consumers
        (inputs, _), (_, wanted) = (seen_by(network, reader.path, given.stream.images) for network in (shrunk, given.network))
        inputs, wanted = (rows.flatten(0, 1).numpy() for rows in (inputs, wanted))
        strength = RIDGE * (inputs**2).sum() / inputs.shape[1]
        apply_choice(shrunk, unit, choice)
        new = shrunk.get_submodule(reader.path).weight.detach().flatten(1).numpy()
        old = given.network.get_submodule(reader.path).weight.detach().flatten(1).numpy()
        kept, size, outputs = unit.laid(choice.kept), unit.width // reader.groups, len(old) // reader.groups
        for group in range(reader.groups):
            own = [neuron for neuron in kept if neuron // size == group]
            every = np.concatenate([np.arange(n * reader.columns, (n + 1) * reader.columns) for n in own])
            rows = slice(group * outputs, (group + 1) * outputs)
            expected = solved(inputs[:, every], wanted[:, rows], old[rows][:, every - group * size * reader.columns], strength)
            np.testing.assert_allclose(new[rows], expected, rtol=1e-6, atol=1e-9)


PRUNERS = [
    {"selector": "reconstruction", "refit": "lsq", "engine": "forward"},
    {"selector": "reconstruction", "refit": "lsq", "engine": "backward", "mode": "independent"},
    {"selector": "reconstruction", "refit": "lsq", "engine": "swap"},
    {"selector": "reconstruction", "refit": "lsq", "engine": "forward", "mode": "independent"},
    {"selector": "l1", "refit": "lsq"},
    {"selector": "l2", "refit": "none"},
    {"selector": "random", "refit": "lsq", "mode": "independent"},
    {"selector": "loss", "refit": "none", "engine": "stochastic", "candidates": 3},
    {"selector": "loss", "refit": "lsq", "engine": "exhaustive"},
]


@pytest.mark.parametrize("pruner", PRUNERS, ids=lambda pruner: "-".join(pruner.values() if "candidates" not in pruner else ["stochastic"]))
def test_whole_searches_keep_the_quota_and_shrink_exactly(pruner, given):
    lines = search(given, WIDTHS, 21, calibration_samples=21, **pruner)
    found = choices_of(given, lines)
    assert {name: len(choice.kept) for name, choice in found.items()} == WIDTHS
    assert all(keeps_quota(found[name].kept, unit.width, unit.groups) for name, unit in given.units.units.items())
    assert folding_difference(given.network, given.units, found, given.stream.images[:3]) <= FOLDING_LIMIT


def test_sums_about_the_means_are_those_of_each_group_and_nothing_lies_between_groups(given):
    unit, asking = given.units.units["stem"], coordinator(given, calibration=21)
    weight = spread_by_hand(given.network.a.weight.detach().flatten(1), 2)
    found = asking.quadratic(unit, [weight], centre=True)
    inputs, wanted = (rows.flatten(0, 1) - rows.flatten(0, 1).mean(0) for rows in seen_by(given.network, "a", given.stream.images))
    gram, cross = torch.zeros(72, 72, dtype=torch.float64), torch.zeros(12, 72, dtype=torch.float64)
    for group in range(2):
        at, rows = slice(36 * group, 36 * (group + 1)), slice(6 * group, 6 * (group + 1))
        gram[at, at], cross[rows, at] = inputs[:, at].T @ inputs[:, at], wanted[:, rows].T @ inputs[:, at]
    torch.testing.assert_close(found.gram, gram, rtol=1e-8, atol=1e-8 * float(gram.max()))
    torch.testing.assert_close(found.cross, cross, rtol=1e-8, atol=1e-8 * float(gram.max()))
    assert found.gram[:36, 36:].abs().max() == 0 == found.cross[:6, 36:].abs().max()
    torch.testing.assert_close(reader_columns(given.network, unit.consumers[0]), weight, rtol=0, atol=0)


def spread_by_hand(weight, groups):
    whole = torch.zeros(len(weight), groups * weight.shape[1], dtype=weight.dtype)
    for row in range(len(weight)):
        first = row // (len(weight) // groups) * weight.shape[1]
        whole[row, first : first + weight.shape[1]] = weight[row]
    return whole


@pytest.mark.parametrize("settings", [
    {"selector": "reconstruction", "allocation": "marginal"}, {"selector": "reconstruction", "allocation": "global"},
    {"selector": "l1", "refit": "none", "allocation": "global"}, {"selector": "l1", "allocation": "marginal", "round_to": 4},
    {"selector": "reconstruction", "refit": "lsq", "allocation": "marginal", "units": ["hidden", "stream"], "mode": "independent"},
    {"selector": "l2", "refit": "none", "allocation": "uniform", "units": ["hidden", "branch"]},
    {"selector": "loss", "refit": "none", "units": ["hidden", "branch"]}, {"selector": "tp.taylor", "refit": "lsq", "allocation": "marginal"},
], ids=lambda settings: "-".join(str(value) for value in settings.values()))  # fmt: skip
def test_the_python_door_meets_budgets_within_the_quota_and_reads_back_what_it_saved(settings, tmp_path):
    network, pictures = shaken(Grouped()), images(24)
    pruned = prune(network, [(pictures, torch.arange(24) % 4)], {"prunable_macs": 0.6}, **settings)
    units = find_units(network, settings.get("units", ["hidden"])).units
    assert set(pruned.units) == set(units) and any(unit.groups > 1 for unit in units.values())
    assert all(keeps_quota(kept, width, units[name].groups) for name, (width, kept) in pruned.units.items())
    assert any(len(kept) < width for width, kept in pruned.units.values()) and pruned.macs < pruned.macs_dense
    pruned.save(tmp_path)
    with torch.no_grad():
        assert torch.equal(load_pruned(tmp_path, build=Grouped)(pictures), pruned.network(pictures))
