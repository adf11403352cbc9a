"""Gram statistics against matrices computed directly, with hooks on really shrunk networks; equal bytes however they are asked for."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.config.errors import Failed
from pipeline.networks.shrink import Choice, apply_choice, consumer_columns, neuron_columns, reader_columns
from pipeline.networks.small import tiny
from pipeline.networks.units import find_units
from pipeline.search.actor import Actor
from pipeline.search.artifacts import load_choice
from pipeline.search.positions import drawn_positions
from pipeline.search.question import Answer, Commit, Question, add, blocks
from tests.networks.samples import Branched, Residual, Squeezed, Vgg, shaken
from tests.search.benches import Awkward, Carried, Pointwise, bench, coordinator, in_place, samples, search

NETWORKS = {
    "tiny": (lambda: tiny(num_classes=5), 1, 28),
    "residual": (Residual, 3, 16),
    "vgg": (Vgg, 3, 16),
    "pointwise": (Pointwise, 2, 12),
    "awkward": (Awkward, 2, 12),
    "carried": (Carried, 2, 12),
    "in place": (in_place, 3, 16),
    "squeezed": (Squeezed, 3, 16),
    "branched": (Branched, 3, 16),
}


def windows(consumer, values: torch.Tensor) -> torch.Tensor:
    """(images, positions, channels x taps): what each output position of a consumer reads, gathered tap by tap."""
    if isinstance(consumer, nn.Linear):
        return values.flatten(1)[:, None]
    (kh, kw), (sh, sw), (dh, dw) = consumer.kernel_size, consumer.stride, consumer.dilation
    ph, pw = (0, 0) if consumer.padding == "same" else consumer.padding
    padded = functional.pad(values, (pw, pw, ph, ph))
    rows, columns = ((padded.shape[2 + i] - d * (k - 1) - 1) // s + 1 for i, (k, s, d) in enumerate(((kh, sh, dh), (kw, sw, dw))))
    taps = [
        padded[:, :, y * dh : y * dh + (rows - 1) * sh + 1 : sh, x * dw : x * dw + (columns - 1) * sw + 1 : sw]
        for y, x in itertools.product(range(kh), range(kw))
    ]
    return torch.stack(taps, 2).flatten(1, 2).flatten(2).transpose(1, 2)  # channel after channel, a channel's taps side by side


def seen_by(network, path, images) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows of the consumer's input, rows of its output before the bias) while the whole network runs: (images, positions, ...)."""
    module, seen = network.get_submodule(path), []
    handle = module.register_forward_hook(lambda m, given, output: seen.append((given[0].clone(), output.clone())))
    with torch.no_grad():
        network(images.clone())
    handle.remove()
    given, output = seen[0]
    output = output.flatten(2).transpose(1, 2) if output.ndim == 4 else output[:, None]
    return windows(module, given), output if module.bias is None else output - module.bias.detach()


def sums(inputs, wanted) -> dict[str, np.ndarray]:
    inputs, wanted = inputs.flatten(0, 1).double().numpy(), wanted.flatten(0, 1).double().numpy()
    found = {"gram": inputs.T @ inputs, "cross": wanted.T @ inputs, "total": (wanted**2).sum()}
    return found | {"sums": np.append(inputs.sum(0), len(inputs)), "output_sums": wanted.sum(0)}


def sums_of_all(unit, read_in, wanted_in, images) -> dict[str, np.ndarray]:
    """The sums of every consumer of a unit, by name: those behind the first are numbered."""
    found = {}
    for i, reader in enumerate(unit.consumers):
        (inputs, _), (_, wanted) = seen_by(read_in, reader.path, images), seen_by(wanted_in, reader.path, images)
        found |= {f"{name}/{i}" if i else name: value for name, value in sums(inputs, wanted).items()}
    return found


def choices_for(network, units, seed=0) -> dict[str, Choice]:
    """Half the neurons of each unit: in turn re-fitted (with an intercept where there is a place), with coefficients, as they are."""
    generator, choices = torch.Generator().manual_seed(seed), {}
    for number, unit in enumerate(units.units.values()):
        kept = tuple(torch.randperm(unit.width, generator=generator)[: unit.width // 2].tolist())
        given = [(reader_columns(network, reader), len(kept) * reader.columns) for reader in unit.consumers]
        weight, *further = (torch.randn(len(rows), columns, generator=generator).to(rows) * rows.std() for rows, columns in given)
        coefficients = torch.rand(len(kept), generator=generator, dtype=torch.float64) + 0.5
        places = all(reader.intercept for reader in unit.consumers)
        added = tuple(torch.randn(len(rows), generator=generator).to(rows) for rows, _ in given) if places else ()
        refitted = Choice(kept, weight=weight, further=tuple(further), intercepts=added)
        choices[unit.name] = (refitted, Choice(kept, coefficients), Choice(kept))[number % 3]
    return choices


def close(found: dict, expected: dict) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-10 * np.abs(value).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_walks_sums_are_those_of_the_really_shrunk_network(name, tmp_path):
    build, channels, side = NETWORKS[name]
    network, stream = shaken(build()).double(), samples(21, channels, side, 3, 8, torch.float64, shard=9)
    given = bench(network, stream, tmp_path)
    asking, shrunk, choices = coordinator(given, calibration=21), copy.deepcopy(network), choices_for(network, given.units)
    for unit in given.units.units.values():
        (answer,) = asking.ask("gram", unit.name, asking.calibration_blocks())
        close(answer.sums, sums_of_all(unit, shrunk, network, stream.images))
        assert answer.count == 21
        asking.commit(unit.name, choices[unit.name], "width reached", None)
        apply_choice(shrunk, unit, choices[unit.name])
    assert len(asking.committed) == len(given.units.units)


def test_with_picks_the_sums_are_of_the_network_that_lost_the_other_neurons(tmp_path):
    """With squeeze-excite what is left of a unit is excited otherwise: the re-fit must see that."""
    network, stream = shaken(Squeezed()).double(), samples(21, 3, 16, 3, 8, torch.float64, shard=9)
    given = bench(network, stream, tmp_path)
    asking, shrunk = coordinator(given, calibration=21), copy.deepcopy(network)
    for unit in given.units.units.values():
        (whole,) = asking.ask("gram", unit.name, asking.calibration_blocks())
        kept = (5, 0, 3)
        (answer,) = asking.ask("gram", unit.name, asking.calibration_blocks(), picks=kept)
        smaller = copy.deepcopy(shrunk)
        apply_choice(smaller, unit, Choice(kept))
        (inputs, _), (_, wanted) = seen_by(smaller, unit.consumer, stream.images), seen_by(network, unit.consumer, stream.images)
        close(answer.sums, sums(inputs, wanted))
        at = neuron_columns(kept, unit.columns)
        assert not np.allclose(answer.sums["gram"], whole.sums["gram"][at][:, at], rtol=1e-3)
        choice = Choice(kept, weight=torch.randn(len(consumer_columns(network, unit)), 3 * unit.columns).double())
        asking.commit(unit.name, choice, "width reached", None)
        apply_choice(shrunk, unit, choice)


def test_a_refit_behind_squeeze_excite_is_least_squares_in_the_network_that_is_left(tmp_path):
    network, stream = shaken(Squeezed()).double(), samples(40, 3, 16, 3, 8, torch.float64)
    given = bench(network, stream, tmp_path)
    lines = search(given, {"stem": 4, "a": 5}, 40, selector="reconstruction", mode="sequential", calibration_samples=40, ridge=1e-12)
    shrunk = copy.deepcopy(network)
    for line in [line for line in lines if line["kind"] == "unit"]:
        unit, choice = given.units.units[line["unit"]], load_choice(tmp_path, Commit(line["unit"], tuple(line["kept"]), line["artifact"], line["sha256"]))
        apply_choice(shrunk, unit, Choice(choice.kept))
        (inputs, _), (_, wanted) = seen_by(shrunk, unit.consumer, stream.images), seen_by(network, unit.consumer, stream.images)
        expected = torch.linalg.lstsq(inputs.flatten(0, 1), wanted.flatten(0, 1)).solution.T
        torch.testing.assert_close(choice.weight, expected, rtol=1e-5, atol=1e-7)
        consumer = shrunk.get_submodule(unit.consumer)
        consumer.weight.data = choice.weight.view_as(consumer.weight)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_dense_sums_are_those_of_hooks_on_the_dense_network(name, tmp_path):
    build, channels, side = NETWORKS[name]
    network, stream = shaken(build()).double(), samples(21, channels, side, 3, 8, torch.float64)
    given = bench(network, stream, tmp_path)
    grams, column_sums = coordinator(given, calibration=21).dense_grams()
    expected, expected_sums = {}, {}
    for name, unit in given.units.units.items():
        found = sums_of_all(unit, network, network, stream.images)
        expected |= {key.replace("gram", name): value for key, value in found.items() if key.startswith("gram")}
        expected_sums |= {key.replace("sums", name): value for key, value in found.items() if key.startswith("sums")}
    close({name: value.numpy() for name, value in column_sums.items()}, expected_sums)
    close({name: gram.numpy() for name, gram in grams.items()}, expected)


def committed(given, choices) -> list:
    """Commit every unit; the commits."""
    asking = coordinator(given)
    for name, choice in choices.items():
        asking.commit(name, choice, "width reached", None)
    return list(asking.committed)


BLOCKS = blocks(0, 20, 8)


def questions(given, commits) -> dict[tuple, Question]:
    """Every Gram question of a sequential search: unit by unit, block by block."""
    return {
        (number, run): Question("gram", tuple(commits[:number]), unit, 0, run) for number, unit in enumerate(given.units.units) for run in BLOCKS
    }


SUMS = ("gram", "cross", "total", "sums", "output_sums")


def equal(first: Answer, second: Answer) -> bool:
    return first.count == second.count and set(first.sums) == set(second.sums) >= {"gram", "cross", "total"} and all(
        np.array_equal(value, second.sums[name]) for name, value in first.sums.items()
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_sums_are_the_same_to_the_byte_whoever_answers_and_whenever(name, tmp_path):
    build, channels, side = NETWORKS[name]
    network, stream = shaken(build()), samples(20, channels, side, 3, 3)
    given = bench(network, stream, tmp_path)
    asked = questions(given, committed(given, choices_for(network, given.units)))
    steady = Actor(given)
    answers = {key: steady.answer(question) for key, question in asked.items()}
    units = len(given.units.units)
    for key, question in asked.items():
        assert equal(Actor(given).answer(question), answers[key])  # one that catches up for this very question
    backwards, twice, holes = Actor(given), Actor(given), Actor(given)
    for number in range(units):
        for run in reversed(BLOCKS):
            assert equal(backwards.answer(asked[number, run]), answers[number, run])
            assert equal(twice.answer(asked[number, run]), answers[number, run])
            assert equal(twice.answer(asked[number, run]), answers[number, run])
            if (number + run[0]) % 3:  # blocks that another actor answers in between
                assert equal(holes.answer(asked[number, run]), answers[number, run])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("limit", [1e-9, 2e-5], ids=["nothing in memory", "some in memory"])
def test_sums_are_the_same_to_the_byte_with_activations_on_disk(name, limit, tmp_path):
    build, channels, side = NETWORKS[name]
    network, stream = shaken(build()), samples(20, channels, side, 3, 3)
    given = bench(network, stream, tmp_path)
    asked = questions(given, committed(given, choices_for(network, given.units)))
    memory, disk = Actor(given), Actor(bench(network, stream, tmp_path, given.units, memory_limit=limit))
    for question in asked.values():
        assert equal(memory.answer(question), disk.answer(question))
    spilled = list(tmp_path.glob(".walk-*/*.safetensors"))
    assert spilled and memory.walk.spill is None
    held = sum(size for block in disk.walk.held.values() for *_, size in block.batches)
    assert held <= limit * 2**30
    assert (limit > 1e-8) == (held > 0)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("limit", [4.0, 2e-5], ids=["all in memory", "some in memory"])
def test_sums_are_the_same_to_the_byte_when_an_actor_goes_ahead_between_units(name, limit, tmp_path):
    build, channels, side = NETWORKS[name]
    network, stream = shaken(build()), samples(20, channels, side, 3, 3)
    given = bench(network, stream, tmp_path)
    asked = questions(given, committed(given, choices_for(network, given.units)))
    steady, ahead = Actor(given), Actor(bench(network, stream, tmp_path, given.units, memory_limit=limit))
    units, passed = len(given.units.units), []
    for number in range(units):
        for run in BLOCKS:
            assert equal(ahead.answer(asked[number, run]), steady.answer(asked[number, run]))
        for run in (*BLOCKS, BLOCKS[0], (90, 99)):  # twice, and a block it does not hold: nothing
            ahead.go_ahead(run)
        passed.append([ahead.walk.held[run].dense - ahead.walk.held[run].drifted for run in BLOCKS])
        if number % 2:  # asked once more after it went ahead
            assert equal(ahead.answer(asked[number, BLOCKS[0]]), steady.answer(asked[number, BLOCKS[0]]))
    assert not any(passed[-1]), "behind the last unit there is nothing"
    if limit == 4.0:
        assert all(all(one) for one in passed[:-1])


def test_overlapping_blocks_do_not_share_a_file(tmp_path):
    network, stream = shaken(Vgg()), samples(20, 3, 16, 3, 4)
    given = bench(network, stream, tmp_path, memory_limit=1e-9)
    commits, actor = committed(given, choices_for(network, given.units)), Actor(given)
    runs = [(0, 8), (0, 12), (4, 12)]
    for number, unit in enumerate(given.units.units):
        for run in runs:
            question = Question("gram", tuple(commits[:number]), unit, 0, run)
            assert equal(actor.answer(question), Actor(given).answer(question))


def test_losses_are_the_same_to_the_byte_whoever_answers_and_whenever(tmp_path):
    network, stream = shaken(Residual()), samples(20, 3, 16, 4, 6)
    given = bench(network, stream, tmp_path)
    commits = committed(given, choices_for(network, given.units))
    asked = [
        Question("loss", tuple(commits[:number]), unit, len(picks), (start, start + 6), block, picks)
        for number, unit in enumerate(given.units.units)
        for picks, start in (((), 0), ((2,), 6), ((2, 1, 2), 12), ((3, 1, 2), 12))
        for block in ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9))
    ]
    steady = Actor(given)
    answers = [steady.answer(question).sums["loss"] for question in asked]
    assert all(np.array_equal(Actor(given).answer(question).sums["loss"], answer) for question, answer in zip(asked, answers))
    again = Actor(given)
    for start in (0, 12):  # unit by unit, each unit's questions in the wrong order and twice
        for at in list(reversed(range(start, start + 12))) + list(range(start, start + 12)):
            assert np.array_equal(again.answer(asked[at]).sums["loss"], answers[at])
    assert not np.array_equal(answers[6], answers[9])  # other picks, other losses


def test_a_question_about_an_earlier_state_is_refused(tmp_path):
    network, stream = shaken(Residual()), samples(20, 3, 16, 4, 6)
    given = bench(network, stream, tmp_path)
    commits, actor = committed(given, choices_for(network, given.units)), Actor(given)
    actor.answer(Question("gram", tuple(commits[:1]), "expand", 0, (0, 6)))
    with pytest.raises(Failed, match="goes back behind a committed unit"):
        actor.answer(Question("gram", (), "first", 0, (0, 6)))


@pytest.mark.parametrize("wanted", [1, 5, 12])
def test_positions_are_drawn_by_name_and_the_same_in_both_networks(wanted, tmp_path):
    network, stream = shaken(Residual()).double(), samples(21, 3, 16, 3, 8, torch.float64, shard=9)
    given = bench(network, stream, tmp_path, seed=4, positions=wanted)
    asking, shrunk, choices = coordinator(given, calibration=21), copy.deepcopy(network), choices_for(network, given.units)
    grams, _ = asking.dense_grams()
    for unit in given.units.units.values():
        (inputs, _), (dense, wanted_rows) = (seen_by(net, unit.consumer, stream.images) for net in (shrunk, network))
        drawn = [drawn_positions(4, unit.name, image, 1, inputs.shape[1], wanted)[0] for image in range(21)]
        inputs, dense, wanted_rows = (torch.stack([values[i, at] for i, at in enumerate(drawn)]) for values in (inputs, dense, wanted_rows))
        (answer,) = asking.ask("gram", unit.name, asking.calibration_blocks())
        close(answer.sums, sums(inputs, wanted_rows))
        close({"gram": grams[unit.name].numpy()}, {"gram": sums(dense, dense)["gram"]})
        asking.commit(unit.name, choices[unit.name], "width reached", None)
        apply_choice(shrunk, unit, choices[unit.name])


def test_more_positions_than_there_are_change_nothing(tmp_path):
    network, stream = shaken(Residual()), samples(20, 3, 16, 3, 8)
    units = find_units(network)
    every, most = (coordinator(bench(network, stream, tmp_path, units, positions=n), calibration=20).dense_grams()[0] for n in (None, 256))
    assert all(torch.equal(every[name], most[name]) for name in units.units)


def test_answers_add_in_the_order_of_their_blocks():
    """1e16 + 1 - 1e16 is 0 in float64, 1e16 - 1e16 + 1 is 1: the order is the sum."""
    large, one, minus = (Answer({"a": np.array([value])}, 1) for value in (1e16, 1.0, -1e16))
    assert add([large, one, minus]).sums["a"] == [0.0] and add([large, minus, one]).sums["a"] == [1.0]
    assert add([large, one, minus]).count == 3 and large.sums["a"] == [1e16]  # the answers stay as they were
    assert add([]).count == 0


def test_the_coordinator_sums_blocks_in_order_and_counts_images(tmp_path):
    """An executor that answers from a table: 1e16, 1, -1e16 in block order give 0."""

    class Table:
        def ask(self, asked):
            for question in asked:
                yield Answer({"loss": np.array([{0: 1e16, 4: 1.0, 8: -1e16}[question.samples[0]]])}, 4)

    network, stream = shaken(Residual()), samples(20, 3, 16, 3, 4)
    asking = coordinator(bench(network, stream, tmp_path), executor=Table())
    (answer,) = asking.ask("loss", "first", blocks(0, 12, 4))
    assert (answer.sums["loss"], answer.count, asking.images) == ([0.0], 12, 12)


def test_blocks_cover_the_samples_once_and_their_size_is_a_setting():
    assert blocks(0, 20, 8) == [(0, 8), (8, 16), (16, 20)]
    assert blocks(5, 6, 8) == [(5, 6)] and blocks(0, 16, 8) == [(0, 8), (8, 16)] and blocks(0, 0, 8) == []


def test_activations_that_are_not_finite_are_named_by_unit(tmp_path):
    network, stream = shaken(Residual()), samples(20, 3, 16, 3, 8)
    network.first.bias.data[2] = float("nan")
    given = bench(network, stream, tmp_path)
    asking, first = coordinator(given, calibration=20), given.units.units["first"]
    with pytest.raises(Failed, match="unit first: its activations are not finite"):
        asking.dense_grams()
    with pytest.raises(Failed, match="unit first: its activations are not finite"):
        asking.quadratic(first, [consumer_columns(network, first)])
