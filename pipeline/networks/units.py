"""Units found from the graph: which channels belong together, who writes them, who follows, who reads them."""

from dataclasses import dataclass, replace
from operator import getitem

from torch import nn

from pipeline.config.errors import BadInput, UnsupportedModule
from pipeline.networks.follow import NORMS, Group, follow
from pipeline.networks.graph import Graph


@dataclass(frozen=True)
class Unit:
    """N interchangeable neurons: producers write them, followers act on each alone, the consumer reads them linearly.

    `columns` = k^2 (or pooled positions) columns of the consumer's weight per neuron; `cut` = the step before the consumer.
    `intercept` = what can add a constant to the consumer's output: itself by its bias, or the batch norm right behind it; None: neither.
    """

    name: str
    kind: str
    width: int
    producers: tuple[str, ...]
    followers: tuple[str, ...]
    consumer: str
    columns: int
    cut: int
    intercept: str | None


@dataclass(frozen=True)
class Units:
    """The units that can be pruned, input to output, and everything else with the reason why not."""

    graph: Graph
    units: dict[str, Unit]
    left: dict[str, str]


def find_units(network: nn.Module, kinds=("hidden",)) -> Units:
    """Find the units of `network`. Raises UnsupportedModule naming the module's path."""
    graph = Graph(network)
    groups, flows = follow(network, graph)
    units, left = {}, {}
    for group in groups:
        if (reason := _reason(group)) is not None:
            left[group.name] = reason
            continue
        if group.unsupported:
            path, what = group.unsupported[0]
            raise UnsupportedModule(f"{path}: {what} acts on unit {group.name} and is not supported; this network cannot be pruned safely")
        consumer, columns, cut = group.consumers[0]
        _refuse_carried(graph, flows, group.name, cut)
        place = _intercept(network, graph, flows, consumer, cut)
        units[group.name] = Unit(group.name, "hidden", group.width, tuple(group.producers), tuple(group.followers), consumer, columns, cut, place)
    if not units:
        raise UnsupportedModule(f"{type(network).__name__}: has no hidden unit; what was found: {left or 'no layers'}")
    return Units(graph, dict(sorted(units.items(), key=lambda item: item[1].cut)), left)


def _reason(group: Group) -> str | None:
    """Why these channels are no hidden unit, or None if they are."""
    if group.end:
        return f"the network's {group.end}"
    if not group.producers:
        return f"written by {group.unsupported[0][1]}"
    if group.joins:
        return f"stream: {len(group.producers)} layers write it, joined at {group.joins[0]}"
    if not group.consumers:
        return "nothing reads it linearly" if not group.unsupported else None
    if not group.active:
        return "stream: no activation lies between its producer and its consumer"
    if len(group.consumers) > 1:
        return f"read by {len(group.consumers)} layers ({', '.join(path for path, *_ in group.consumers)}); several consumers are not built yet"
    return None


def _intercept(network: nn.Module, graph: Graph, flows: dict, consumer: str, cut: int) -> str | None:
    """The module whose bias or running mean shifts the consumer's output and nothing else."""
    if network.get_submodule(consumer).bias is not None:
        return consumer
    readers = [node for node in graph.nodes[cut].users if node.op == "call_module" and type(network.get_submodule(node.target)) in NORMS]
    if len(readers) != 1 or len(graph.nodes[cut].users) != 1 or network.get_submodule(readers[0].target).running_mean is None:
        return None
    faults = {path for path, _ in flows[readers[0]].group.unsupported}
    return None if readers[0].target in faults else readers[0].target


def refuse_without_intercept(units: Units) -> None:
    """Raises BadInput naming the first unit in which re-fit `affine` has no place for its intercept."""
    for name, unit in units.units.items():
        if unit.intercept is None:
            raise BadInput(
                f"unit {name}: prune.refit 'affine' has no place for its intercept: {unit.consumer}, which reads it, has no bias "
                "and no batch norm right behind it; set prune.refit lsq"
            )


def _refuse_carried(graph: Graph, flows: dict, unit: str, cut: int) -> None:
    """Only tensors of channels may cross a cut: a suffix runs on several batches at once, where a size would be wrong."""
    for node in graph.live[cut]:
        plain = node in flows and not any(user.target is getitem for user in node.users)
        if not plain and node.op != "get_attr":
            raise UnsupportedModule(
                f"{graph.path(node)}: is computed before the consumer of unit {unit}, used after it, and is no plain tensor; "
                "compute it where it is used"
            )


def without_large(units: Units, limit: int) -> Units:
    """Leave units whose Gram matrix has more than `limit` columns whole, with the reason."""
    large = {n: u.width * u.columns for n, u in units.units.items() if u.width * u.columns > limit}
    if len(large) == len(units.units):
        raise BadInput(f"scoring.gram_limit: {limit} columns leave no unit to prune (smallest has {min(large.values())}); raise it")
    left = units.left | {n: f"its Gram matrix has {columns} columns, above scoring.gram_limit {limit}" for n, columns in large.items()}
    return replace(units, units={n: u for n, u in units.units.items() if n not in large}, left=left)
