"""The statistics an actor knows; each maps (actor, question) to additive float64 sums. A new one touches no cluster code."""

import copy

import numpy as np
import torch
from torch.nn import functional

from pipeline.networks.graph import copied
from pipeline.networks.shrink import Choice, apply_choice, neuron_columns, reader_columns
from pipeline.search.artifacts import load_choice
from pipeline.search.columns import as_output, input_columns, output_shape
from pipeline.search.positions import positions_read
from pipeline.search.products import Products
from pipeline.search.question import Answer
from pipeline.search.walk import sliced
from pipeline.selection.counts import coefficients, trial

SUMS = "/sums"  # behind a unit's name, which holds no slash


def gram_dense(actor, question) -> Answer:
    """G of every unit in the dense network, all in one pass: `<unit>` (NK, NK), `<unit>/<i>` of its further consumers.

    And the sums that each is centred by: its name with `/sums` behind it (NK + 1,).
    """
    units, graph, network = actor.bench.units, actor.bench.units.graph, actor.dense
    reads = sorted(((reader.cut, unit, i) for unit in units.units.values() for i, reader in enumerate(unit.consumers)), key=lambda read: read[0])
    products, count = {numbered(unit.name, i): Products(unit.consumers[i].groups) for _, unit, i in reads}, 0
    for batch in actor.bench.stream.block(*question.samples):
        values, at = graph.begin(batch.images.to(actor.bench.device))
        for cut, unit, i in reads:
            values, at = graph.run(network, values, at, cut), cut
            products[numbered(unit.name, i)].add(_rows(actor, unit, i, _entering(graph, values, cut), question.samples[0] + count))
        count += len(batch.labels)
    found = {name: product.close() for name, product in products.items()}
    grams = {name: sums["gram"] for name, sums in found.items()}
    return Answer(_moved(grams | {f"{name}{SUMS}": sums["sums"] for name, sums in found.items()}), count)


def gram(actor, question) -> Answer:
    """G = H H^T, C = F H^T and T = ||F||^2 of one unit: H in the network as shrunk so far, F = W H in the dense one.

    With picks, H is what the consumer reads once only these neurons are left: squeeze-excite then scales them otherwise.
    And what they are centred by: `sums` (NK + 1,) of H's columns and the positions, `output_sums` (M,) of F's rows. Sums of
    further consumers are named `gram/<i>` and so on. G and C of a grouped conv are those of each of its groups (g, ., .).
    """
    unit, graph = actor.unit(question.unit), actor.bench.units.graph
    network = actor.drifted_to(question.unit, question.picks)
    products, count = [Products(reader.groups, reader_columns(actor.dense, reader)) for reader in unit.consumers], 0
    for dense, drifted in actor.walk.at(question.unit, question.samples):
        place = question.samples[0] + count
        drifted = sliced(graph, drifted, unit, question.picks) if question.picks else drifted
        pairs = zip(entering(graph, actor.dense, unit, dense), entering(graph, network, unit, drifted))
        for i, (wanted, read) in enumerate(pairs):
            products[i].add(_rows(actor, unit, i, read, place), _rows(actor, unit, i, wanted, place))
        count += len(read)
    return Answer(_moved({numbered(name, i): value for i, product in enumerate(products) for name, value in product.close().items()}), count)


def numbered(name: str, i: int) -> str:
    """The name of a sum: the first consumer's bears no number."""
    return f"{name}/{i}" if i else name


def loss(actor, question) -> Answer:
    """Cross-entropy of each candidate, summed over the samples: `loss` (candidates,).

    What lies before the unit is computed once per step and sample block and kept. Where one consumer is all that reads the
    neurons, a candidate changes its output by one neuron's term, so it costs only the suffix and all candidates of a block
    ride in one batch; else each has its gates folded into the readers, and its suffix begins before the first of them.
    """
    unit, graph = actor.unit(question.unit), actor.bench.units.graph
    key = (question.unit, question.picks, question.samples)
    if actor.prefix is None or actor.prefix[0] != key:
        actor.prefix = (key, [_prefix(actor, unit, question.picks, batch) for batch in actor.bench.stream.block(*question.samples)])
    sums, count = np.zeros(len(question.candidates)), 0
    for prefix in actor.prefix[1]:
        labels = prefix[-1]
        logits = (_ridden if unit.is_plain else _folded)(actor, unit, question, prefix)
        losses = functional.cross_entropy(logits.double(), labels.repeat(len(question.candidates)), reduction="none")
        sums += losses.view(len(question.candidates), -1).sum(1).cpu().numpy()
        count += len(labels)
    return Answer({"loss": sums}, count)


def _ridden(actor, unit, question, prefix) -> torch.Tensor:
    """The logits of all candidates, one after the other, from one batch."""
    graph, (reader,) = actor.bench.units.graph, unit.consumers
    rows, base, shape, values, _ = prefix
    consumer = actor.shrunk.get_submodule(reader.path)
    weight, step = reader_columns(actor.shrunk, reader), trial(len(question.picks), unit.width)
    outputs = []
    for neuron in question.candidates:
        at = slice(neuron * unit.columns, (neuron + 1) * unit.columns)
        output = step.keep * base + step.add * (rows[:, at] @ weight[:, at].T)
        outputs.append(as_output(consumer, output if consumer.bias is None else output + consumer.bias, shape))
    tiled = {n: v if n.op == "get_attr" else v.repeat(len(outputs), *[1] * (v.ndim - 1)) for n, v in values.items()}
    tiled[graph.nodes[reader.cut]] = torch.cat(outputs)
    return graph.finish(actor.shrunk, tiled, reader.cut + 1)


def _folded(actor, unit, question, prefix) -> torch.Tensor:
    """The logits of all candidates, one after the other, each from a network with its gates in the readers."""
    logits = []
    for neuron in question.candidates:
        kept, gates = coefficients([*question.picks, neuron], unit.width)
        if unit.groups > 1:  # no grouped conv reads a choice outside the quota: here it reads all, most of them times 0
            gates = [dict(zip(kept, gates)).get(one, 0.0) for one in range(unit.width)]
            kept = list(range(unit.width))
        network = copy.deepcopy(actor.shrunk)
        apply_choice(network, unit, Choice(tuple(kept), torch.tensor(gates, dtype=torch.float64)), behind=True)
        values = sliced(actor.bench.units.graph, copied(prefix[0]), unit, kept)
        logits.append(actor.bench.units.graph.finish(network, values, unit.hold))
    return torch.cat(logits)


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
        expected = graph.finish(actor.dense, copied(values), start).double().log_softmax(1)
        for number, network in enumerate(networks):
            found = graph.finish(network, copied(values), start).double().log_softmax(1)
            sums[number] += float(functional.kl_div(found, expected, reduction="sum", log_target=True))
        count += len(batch.labels)
    return Answer({"divergence": sums}, count)


def gradient(actor, question) -> Answer:
    """Gradient of the cross-entropy, summed over the samples, by every parameter of the dense network: `<parameter>`."""
    return _gradients(actor, question, lambda batch: (slice(0, len(batch.labels)),), lambda value: value)


def squared_gradient(actor, question) -> Answer:
    """Squares of each single image's gradient of the cross-entropy, summed over the samples: `<parameter>`."""
    return _gradients(actor, question, lambda batch: [slice(i, i + 1) for i in range(len(batch.labels))], torch.square)


@torch.inference_mode(False)
@torch.enable_grad()
def _gradients(actor, question, parts, summed) -> Answer:
    """The sum over the parts of every batch of what `summed` makes of the gradient of the part's summed loss.

    Not with channels last: torch 2.14 writes past its memory in the backward pass of strided 1 x 1 convs of 2 to 7 channels.
    """
    network, sums, count = copy.deepcopy(actor.dense).to(memory_format=torch.contiguous_format).requires_grad_(True), {}, 0
    names, parameters = zip(*network.named_parameters())
    for batch in actor.bench.stream.block(*question.samples):
        images, labels = batch.images.to(actor.bench.device), batch.labels.to(actor.bench.device)
        for part in parts(batch):
            loss = functional.cross_entropy(network(images[part]), labels[part], reduction="sum")
            found = torch.autograd.grad(loss, parameters, materialize_grads=True)
            for name, value in zip(names, found):
                _accumulate(sums, name, summed(value.double()))
        count += len(labels)
    return Answer(_moved(sums), count)


def _with_choice(actor, unit, commit) -> torch.nn.Module:
    network = copy.deepcopy(actor.dense)
    apply_choice(network, unit, load_choice(actor.bench.folder, commit))
    return network


def _prefix(actor, unit, picks, batch):
    """What all candidates of a step share: consumer columns, the picked neurons' output, the live values of the suffix, labels."""
    graph = actor.bench.units.graph
    values, start = graph.begin(batch.images.to(actor.bench.device))
    values = graph.run(actor.shrunk, values, start, unit.hold)
    labels = batch.labels.to(actor.bench.device)
    if not unit.is_plain:
        return values, labels
    read, consumer = _entering(graph, values, unit.hold), actor.shrunk.get_submodule(unit.consumer)
    rows, shape = input_columns(consumer, read), output_shape(consumer, read)
    base = rows.new_zeros(len(rows), shape[-1])
    if picks:
        kept, gates = coefficients(list(picks), unit.width)
        at = neuron_columns(kept, unit.columns).to(rows.device)
        gates = torch.tensor(gates, dtype=rows.dtype, device=rows.device).repeat_interleave(unit.columns)
        base = (rows[:, at] * gates) @ reader_columns(actor.shrunk, unit.consumers[0])[:, at].T
    after = set(graph.live[unit.hold + 1])
    return rows, base, shape, {n: v for n, v in values.items() if n in after}, labels


def _rows(actor, unit, number, read, place) -> torch.Tensor:
    """A consumer's input columns; with `scoring.positions` only that many positions per image, drawn by name."""
    consumer, wanted = actor.dense.get_submodule(unit.consumers[number].path), actor.bench.scoring.positions
    return input_columns(consumer, read, positions_read(consumer, read, wanted, actor.bench.seed, unit.name, place))


def entering(graph, network, unit, values) -> list[torch.Tensor]:
    """What each consumer of a unit reads, from the values at the unit's hold, which stay as they are."""
    if unit.is_plain:
        return [_entering(graph, values, unit.hold)]
    found, at, values = [], unit.hold, copied(values)
    for reader in unit.consumers:
        values, at = graph.run(network, values, at, reader.cut), reader.cut
        found.append(_entering(graph, values, at).clone())
    return found


def _entering(graph, values, cut) -> torch.Tensor:
    """What the layer at a cut reads."""
    return values[graph.nodes[cut].all_input_nodes[0]]


def _accumulate(sums: dict[str, torch.Tensor], name: str, value: torch.Tensor) -> None:
    """Add float32 to float64 where it lies: no batch of a block is copied or moved."""
    if name in sums:
        sums[name] += value
    else:
        sums[name] = value.double()


def _moved(sums: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.cpu().numpy() for name, value in sums.items()}
