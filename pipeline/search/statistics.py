"""The statistics an actor knows; each maps (actor, question) to additive float64 sums. A new one touches no cluster code."""

import copy

import numpy as np
import torch
from torch.nn import functional

from pipeline.config.digests import draw
from pipeline.networks.shrink import apply_choice, neuron_columns
from pipeline.search.artifacts import load_choice
from pipeline.search.columns import as_output, input_columns, output_shape
from pipeline.search.question import Answer
from pipeline.selection.counts import coefficients, trial

SUMS = "/sums"  # behind a unit's name, which holds no slash


def gram_dense(actor, question) -> Answer:
    """G of every unit in the dense network and the sums it is centred by, all in one pass: `<unit>` (NK, NK), `<unit>/sums` (NK + 1,)."""
    units, graph, network = actor.bench.units, actor.bench.units.graph, actor.dense
    sums, count = {}, 0
    for batch in actor.bench.stream.block(*question.samples):
        values, at = graph.begin(batch.images.to(actor.bench.device))
        for unit in units.units.values():
            values, at = graph.run(network, values, at, unit.cut), unit.cut
            rows = _rows(actor, unit, values, question.samples[0] + count)
            _accumulate(sums, unit.name, rows.T @ rows)
            _accumulate(sums, f"{unit.name}{SUMS}", _sums_and_count(rows))
        count += len(batch.labels)
    return Answer(_moved(sums), count)


def gram(actor, question) -> Answer:
    """G = H H^T, C = F H^T and T = ||F||^2 of one unit: H in the network as shrunk so far, F = W H in the dense one.

    And what they are centred by: `sums` (NK + 1,) of H's columns and the positions, `output_sums` (M,) of F's rows.
    """
    unit = actor.unit(question.unit)
    weight = actor.dense.get_submodule(unit.consumer).weight.flatten(1)
    sums, count = {}, 0
    for dense, drifted in actor.walk.at(question.unit, question.samples):
        place = question.samples[0] + count
        target = _rows(actor, unit, dense, place) @ weight.T
        rows = _rows(actor, unit, drifted, place)
        _accumulate(sums, "gram", rows.T @ rows)
        _accumulate(sums, "cross", target.T @ rows)
        _accumulate(sums, "total", (target.double() ** 2).sum())
        _accumulate(sums, "sums", _sums_and_count(rows))
        _accumulate(sums, "output_sums", target.double().sum(0))
        count += len(_entering(actor, unit, dense))
    return Answer(_moved(sums), count)


def loss(actor, question) -> Answer:
    """Cross-entropy of each candidate, summed over the samples: `loss` (candidates,).

    What lies before the unit is computed once per step and sample block and kept. A candidate changes the consumer's
    output by one neuron's term, so it costs only the suffix; all candidates of a block ride in one batch.
    """
    unit, graph = actor.unit(question.unit), actor.bench.units.graph
    key = (question.unit, question.picks, question.samples)
    if actor.prefix is None or actor.prefix[0] != key:
        actor.prefix = (key, [_prefix(actor, unit, question.picks, batch) for batch in actor.bench.stream.block(*question.samples)])
    consumer = actor.shrunk.get_submodule(unit.consumer)
    weight, step = consumer.weight.flatten(1), trial(len(question.picks), unit.width)
    sums, count = np.zeros(len(question.candidates)), 0
    for rows, base, shape, values, labels in actor.prefix[1]:
        outputs = []
        for neuron in question.candidates:
            at = slice(neuron * unit.columns, (neuron + 1) * unit.columns)
            output = step.keep * base + step.add * (rows[:, at] @ weight[:, at].T)
            outputs.append(as_output(consumer, output if consumer.bias is None else output + consumer.bias, shape))
        tiled = {n: v if n.op == "get_attr" else v.repeat(len(outputs), *[1] * (v.ndim - 1)) for n, v in values.items()}
        tiled[graph.nodes[unit.cut]] = torch.cat(outputs)
        logits = graph.finish(actor.shrunk, tiled, unit.cut + 1)
        losses = functional.cross_entropy(logits.double(), labels.repeat(len(outputs)), reduction="none")
        sums += losses.view(len(outputs), -1).sum(1).cpu().numpy()
        count += len(labels)
    return Answer({"loss": sums}, count)


def divergence(actor, question) -> Answer:
    """KL of the network's output from the dense one's with each tried choice alone, summed over the samples: `divergence` (tried,).

    What lies before the unit's first producer is computed once per batch, the rest by really shrunk networks.
    """
    unit, graph = actor.unit(question.unit), actor.bench.units.graph
    start = min(i for i, node in enumerate(graph.nodes) if node.op == "call_module" and node.target in unit.producers)
    networks = [_with_choice(actor, unit, commit) for commit in question.tried]
    sums, count = np.zeros(len(networks)), 0
    for batch in actor.bench.stream.block(*question.samples):
        values, at = graph.begin(batch.images.to(actor.bench.device))
        values = graph.run(actor.dense, values, at, start)
        expected = graph.finish(actor.dense, values, start).double().log_softmax(1)
        for number, network in enumerate(networks):
            found = graph.finish(network, values, start).double().log_softmax(1)
            sums[number] += float(functional.kl_div(found, expected, reduction="sum", log_target=True))
        count += len(batch.labels)
    return Answer({"divergence": sums}, count)


def _with_choice(actor, unit, commit) -> torch.nn.Module:
    network = copy.deepcopy(actor.dense)
    apply_choice(network, unit, load_choice(actor.bench.folder, commit))
    return network


def _prefix(actor, unit, picks, batch):
    """What all candidates of a step share: consumer columns, the picked neurons' output, the live values of the suffix."""
    graph, consumer = actor.bench.units.graph, actor.shrunk.get_submodule(unit.consumer)
    values, start = graph.begin(batch.images.to(actor.bench.device))
    values = graph.run(actor.shrunk, values, start, unit.cut)
    entering = _entering(actor, unit, values)
    rows, shape = input_columns(consumer, entering), output_shape(consumer, entering)
    base = rows.new_zeros(len(rows), shape[-1])
    if picks:
        kept, gates = coefficients(list(picks), unit.width)
        at = neuron_columns(kept, unit.columns).to(rows.device)
        gates = torch.tensor(gates, dtype=rows.dtype, device=rows.device).repeat_interleave(unit.columns)
        base = (rows[:, at] * gates) @ consumer.weight.flatten(1)[:, at].T
    after = set(graph.live[unit.cut + 1])
    return rows, base, shape, {n: v for n, v in values.items() if n in after}, batch.labels.to(actor.bench.device)


def _rows(actor, unit, values, place) -> torch.Tensor:
    """The consumer's input columns at the cut; with `scoring.positions` only that many positions per image, drawn by name."""
    entering = _entering(actor, unit, values)
    rows = input_columns(actor.dense.get_submodule(unit.consumer), entering)
    wanted, images = actor.bench.scoring.positions, len(entering)
    if wanted is None or len(rows) // images <= wanted:
        return rows
    each = len(rows) // images
    picks = [draw("positions", actor.bench.seed, unit.name, place + i).permutation(each)[:wanted] + i * each for i in range(images)]
    return rows[torch.from_numpy(np.concatenate(picks)).to(rows.device)]


def _entering(actor, unit, values) -> torch.Tensor:
    """What the consumer reads at the cut."""
    return values[actor.bench.units.graph.nodes[unit.cut].all_input_nodes[0]]


def _accumulate(sums: dict[str, torch.Tensor], name: str, value: torch.Tensor) -> None:
    """Add float32 to float64 where it lies: no batch of a block is copied or moved."""
    if name in sums:
        sums[name] += value
    else:
        sums[name] = value.double()


def _sums_and_count(rows: torch.Tensor) -> torch.Tensor:
    """Sums of the columns (NK,), then how many rows: (NK + 1,), float64."""
    return torch.cat([rows.sum(0, dtype=torch.float64), torch.tensor([len(rows)], dtype=torch.float64, device=rows.device)])


def _moved(sums: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.cpu().numpy() for name, value in sums.items()}
