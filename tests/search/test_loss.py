"""The paper's search against a plain loop: every candidate is tried by running the whole gated network on the step's batch.

The loop imports nothing from pipeline.selection or pipeline.search; its gates are hooks written here.
"""

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.config.digests import draw
from pipeline.config.errors import Failed
from pipeline.networks.small import tiny
from tests.networks.samples import Branched, Grouped, Residual, Squeezed, Vgg, shaken
from tests.search.benches import Awkward, Pointwise, Samples, bench, in_place, samples, search

NOISE = 1e-9  # both sides compute in float64


class Gated:
    """A full-width copy of a network whose consumers (names in one string) read gate x neuron; a gate repeats over a neuron's columns."""

    def __init__(self, network, consumers: dict[str, str]):
        self.network, self.gates = copy.deepcopy(network), {}
        for unit, consumer in consumers.items():
            for path in consumer.split():
                self.network.get_submodule(path).register_forward_pre_hook(lambda module, given, unit=unit: (self.pass_through(unit, given[0]),))

    def pass_through(self, unit, values):
        if unit not in self.gates:
            return values
        gate = torch.tensor(self.gates[unit], dtype=values.dtype)
        gate = gate.repeat_interleave(values.shape[1] // len(gate))
        return values * (gate.view(1, -1, 1, 1) if values.ndim == 4 else gate)

    def loss(self, batch) -> float:
        with torch.no_grad():
            return float(functional.cross_entropy(self.network(batch[0].clone()).double(), batch[1]))


def gate_of(picks, width) -> list[float]:
    """N c_i / T."""
    return [width * picks.count(neuron) / len(picks) for neuron in range(width)]


def taken(stream: Samples, position: int):
    """The batch that lies `position` batches on in the sequence, wrapping at its end."""
    at = [(position * stream.batch + i) % len(stream.images) for i in range(stream.batch)]
    return stream.images[at], stream.labels[at]


def plain_search(network, units, widths, stream, limit=None, drawn=None) -> list[dict]:
    """Pick lines of the paper's greedy search; `units`: (name, consumer, width, groups if any); `drawn`: (candidates per step, seed)."""
    gated, lines, batches = Gated(network, {name: consumer for name, consumer, *_ in units}), [], 0
    for name, _, width, *groups in units:
        each = width // (groups or [1])[0]
        picks: list[int] = []
        while len(set(picks)) < widths[name]:
            pool = [n for n in range(width) if len(picks) < (limit or 4 * widths[name]) or n not in picks]
            full = Counter(n // each for n in set(picks))
            pool = [n for n in pool if n in picks or full[n // each] < widths[name] * each // width]
            if drawn:
                pool = sorted(int(n) for n in draw("candidates", drawn[1], name, len(picks)).permutation(pool)[: drawn[0]])
            losses = {}
            for neuron in pool:
                gated.gates[name] = gate_of([*picks, neuron], width)
                losses[neuron] = gated.loss(taken(stream, batches))
            best = min(losses, key=lambda neuron: (losses[neuron], neuron))
            ranked = sorted(losses.values())
            margin = ranked[1] - ranked[0] if len(ranked) > 1 else None
            lines.append({"unit": name, "step": len(picks), "neuron": best, "score": losses[best], "margin": margin, "candidates": len(pool)})
            picks.append(best)
            batches += 1
        gated.gates[name] = gate_of(picks, width)
    return lines


def compare(found: list[dict], expected: list[dict]) -> None:
    """Same picks, losses and margins; every margin of the example must exceed float noise, or equal picks would be luck."""
    assert all(line["margin"] > 10 * NOISE for line in expected if line["candidates"] > 1)
    picks = [line for line in found if line["kind"] == "pick"]
    assert len(picks) == len(expected)
    for line, plain in zip(picks, expected):
        assert [line[key] for key in ("unit", "step", "neuron", "candidates")] == [plain[key] for key in ("unit", "step", "neuron", "candidates")]
        assert line["score"] == pytest.approx(plain["score"], abs=NOISE)
        assert line["margin"] == (None if plain["margin"] is None else pytest.approx(plain["margin"], abs=NOISE))


TINY = [("conv_stem", "blocks.0.0.conv_pw", 16), ("blocks.0.0.conv_pw", "blocks.0.0.conv_pwl", 16), ("conv_head", "classifier", 16)]
RESIDUAL = [("first", "second", 10), ("expand", "project", 14)]
VGG = [("features.0", "features.4", 8), ("features.4", "features.8", 12), ("features.8", "head.1", 6), ("head.1", "head.5", 10)]
POINTWISE = [("a", "b", 6), ("b", "c", 5), ("c", "d", 7), ("d", "e", 8)]
AWKWARD = [("a", "b", 8), ("c", "d", 6), ("d", "e", 4), ("e", "f", 9), ("fc1", "fc2", 7)]
SQUEEZED = [("stem", "se.reduce project", 8), ("a", "reduce b", 10)]
BRANCHED = [("stem", "a shortcut", 8), ("a", "b", 6), ("head", "one two three", 7)]
GROUPED = [("stem", "a", 8, 2), ("a", "b", 12, 6), ("b", "c", 24, 12), ("d", "e", 6, 2), ("e", "se.reduce f", 6, 2)]
IN_PLACE = [("body.first", "body.second", 10), ("body.expand", "body.project", 14)]
EXAMPLES = {
    "tiny": (lambda: tiny(num_classes=5), TINY, (6, 5, 7), samples(64, 1, 28, 5, 8, torch.float64)),
    "residual": (Residual, RESIDUAL, (6, 7), samples(44, 3, 16, 4, 8, torch.float64, shard=20)),
    "vgg": (Vgg, VGG, (4, 5, 3, 4), samples(30, 3, 16, 4, 8, torch.float64)),
    "pointwise": (Pointwise, POINTWISE, (3, 3, 3, 3), samples(30, 2, 12, 3, 8, torch.float64)),
    "in place": (in_place, IN_PLACE, (4, 5), samples(30, 3, 16, 4, 8, torch.float64)),
    "squeezed": (Squeezed, SQUEEZED, (3, 4), samples(30, 3, 16, 4, 8, torch.float64)),
    "branched": (Branched, BRANCHED, (3, 3, 4), samples(30, 3, 16, 4, 8, torch.float64)),
    "grouped": (Grouped, GROUPED, (4, 6, 12, 2, 4), samples(30, 3, 16, 4, 8, torch.float64)),
    "awkward": (Awkward, AWKWARD, (3, 3, 2, 3, 3), samples(30, 2, 12, 3, 8, torch.float64)),
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_exhaustive_picks_are_those_of_running_the_whole_gated_network(example, tmp_path):
    build, units, kept, stream = EXAMPLES[example]
    network, widths = shaken(build(), 1).double(), {name: n for (name, *_), n in zip(units, kept)}
    found = search(bench(network, stream, tmp_path), widths, selector="loss", refit="none", engine="exhaustive")
    compare(found, plain_search(network, units, widths, stream))
    picks = [line["neuron"] for line in found if line["kind"] == "pick"]
    assert len(picks) > sum(kept)  # some neuron was picked twice
    assert [line["kept"] for line in found if line["kind"] == "unit"] == [
        list(dict.fromkeys(line["neuron"] for line in found if line["kind"] == "pick" and line["unit"] == name)) for name, *_ in units
    ]


@pytest.mark.parametrize("candidates", [1, 3, 5])
def test_stochastic_steps_try_only_the_drawn_candidates(candidates, tmp_path):
    build, units, kept, stream = EXAMPLES["residual"]
    network, widths = shaken(build(), 2).double(), {name: n for (name, *_), n in zip(units, kept)}
    given = bench(network, stream, tmp_path, seed=9)
    found = search(given, widths, selector="loss", refit="none", engine="stochastic", candidates=candidates)
    compare(found, plain_search(network, units, widths, stream, drawn=(candidates, 9)))
    assert {line["candidates"] for line in found if line["kind"] == "pick"} == {candidates}


def test_after_max_picks_only_new_neurons_are_tried_and_the_reason_is_told(tmp_path):
    build, units, kept, stream = EXAMPLES["residual"]
    network, widths = shaken(build(), 3).double(), {"first": 9, "expand": 2}
    found = search(bench(network, stream, tmp_path), widths, selector="loss", refit="none", engine="exhaustive", max_picks=7)
    compare(found, plain_search(network, units, widths, stream, limit=7))
    first, second = (line["stop_reason"] for line in found if line["kind"] == "unit")
    assert first == "max_picks 7 reached, then only unpicked neurons" and second == "width reached"
    tried = [line["candidates"] for line in found if line["kind"] == "pick" and line["unit"] == "first"]
    distinct = 10 - tried[7]
    assert tried[:7] == [10] * 7 and tried[7:] == [10 - n for n in range(distinct, 9)]


def test_how_candidates_ride_together_changes_no_pick(tmp_path):
    build, units, kept, stream = EXAMPLES["tiny"]
    network, widths, journals = shaken(build(), 4).double(), {name: 4 for name, *_ in units}, []
    for size in (1, 7, 100):
        (tmp_path / str(size)).mkdir()
        given = bench(network, stream, tmp_path / str(size), block_candidates=size)
        journals.append(search(given, widths, selector="loss", refit="none", engine="exhaustive"))
    picks, scores = ([[line.get(key) for line in journal] for journal in journals] for key in ("neuron", "score"))
    assert picks[0] == picks[1] == picks[2]
    for other in scores[1:]:
        assert other == [score if score is None else pytest.approx(score) for score in scores[0]]


def test_a_candidate_without_a_finite_loss_is_disqualified_and_recorded(tmp_path):
    build, units, _, stream = EXAMPLES["residual"]
    network = shaken(build(), 5).double()
    network.second.weight.data[:, 4] = float("inf")
    found = search(bench(network, stream, tmp_path), {"first": 2, "expand": 1}, selector="loss", refit="none", engine="exhaustive")
    first = [line for line in found if line["kind"] == "pick" and line["unit"] == "first"]
    assert {tuple(line["disqualified"]) for line in first} == {(4,)}
    assert 4 not in {line["neuron"] for line in first} and all(np.isfinite(line["score"]) for line in first)
    assert not any("disqualified" in line for line in found if line["kind"] == "pick" and line["unit"] == "expand")


def test_a_step_without_any_finite_loss_stops_with_unit_and_step(tmp_path):
    network = shaken(Residual(), 5).double()
    network.fc.weight.data[:] = float("nan")
    with pytest.raises(Failed, match="unit first, step 0: the loss of every candidate is not finite"):
        search(bench(network, EXAMPLES["residual"][3], tmp_path), {"first": 2, "expand": 1}, selector="loss", refit="none")


def test_steps_take_fresh_batches_behind_the_calibration_images(tmp_path):
    """With a re-fit the first 20 images are calibration: the steps' batches begin behind them."""
    build, units, kept, stream = EXAMPLES["residual"]
    network, widths = shaken(build(), 6).double(), {"first": 3, "expand": 3}
    found = search(bench(network, stream, tmp_path), widths, 20, selector="loss", refit="lsq", engine="exhaustive", calibration_samples=20)
    behind = Samples(stream.images.roll(-20, 0), stream.labels.roll(-20, 0), stream.batch)
    expected = plain_search(network, units[:1], widths, behind)  # the second unit follows a re-fitted one
    compare([line for line in found if line["unit"] == "first"], expected)
