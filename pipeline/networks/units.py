"""Units found from the graph: which channels belong together, who writes them, who follows, who reads them."""

from dataclasses import dataclass, replace
from operator import getitem

from torch import nn

from pipeline.config.errors import BadInput, UnsupportedModule
from pipeline.networks.branches import Branch
from pipeline.networks.follow import NORMS, Group, follow
from pipeline.networks.graph import Graph
from pipeline.networks.grouped import groups_in, quota_groups
from pipeline.selection.quota import groups_of


@dataclass(frozen=True)
class Reader:
    """A layer that reads the neurons linearly: `columns` = k^2 (or pooled positions) per neuron; `cut` = the step before it.

    `intercept` = what can add a constant to its output: itself by its bias, or the batch norm right behind it; None: neither.
    `groups` of a grouped conv, each of whose outputs reads one of that many equal groups of neurons.
    """

    path: str
    columns: int
    cut: int
    intercept: str | None = None
    groups: int = 1


@dataclass(frozen=True)
class Unit:
    """N interchangeable neurons: producers write them, followers act on each alone, the consumers read them linearly.

    A `branch` has no readers: its `end` adds the neurons to their stream, in `dimension` of its output.
    With squeeze-excite `squeezes` read them too and `excites` write the factors by which they come to the consumers.
    `hold` = the step before the first reader; the values of `carriers` (step, dimension) carry the neurons there;
    `behind` = the followers, and of a stream the producers, that come after it. Where grouped convs write or read it, as many
    neurons are kept in each of its `groups`: of every conv's groups, and of runs so short that they lie in one group of each.
    """

    name: str
    kind: str
    width: int
    producers: tuple[str, ...]
    followers: tuple[str, ...]
    consumers: tuple[Reader, ...]
    squeezes: tuple[Reader, ...]
    excites: tuple[str, ...]
    hold: int
    carriers: tuple[tuple[int, int], ...]
    behind: tuple[str, ...]
    end: str | None = None
    dimension: int = 1
    groups: int = 1

    def laid(self, kept) -> tuple[int, ...]:
        """The kept neurons in the order in which they lie in a smaller network: group after group, as picked inside each."""
        places = groups_of(kept, self.width, self.groups)
        return tuple(neuron for _, neuron in sorted(zip(places, kept), key=lambda pair: pair[0]))

    @property
    def readers(self) -> tuple[Reader, ...]:
        """Who reads the neurons linearly: what a gate is folded into."""
        return (*self.consumers, *self.squeezes)

    @property
    def consumer(self) -> str:
        """The path of the first consumer."""
        return self.consumers[0].path

    @property
    def is_plain(self) -> bool:
        """Whether one consumer is all that reads the neurons."""
        return len(self.readers) == 1

    @property
    def columns(self) -> int:
        """Columns per neuron in all consumers."""
        return sum(reader.columns for reader in self.consumers)


@dataclass(frozen=True)
class Units:
    """The units that can be pruned, input to output, everything else with the reason why not, the layers that write the output."""

    graph: Graph
    units: dict[str, Unit]
    left: dict[str, str]
    outputs: tuple[str, ...]

    @property
    def steps(self) -> dict[str, int]:
        """Of which number the width of a unit must be a multiple, of those that have groups."""
        return {name: unit.groups for name, unit in self.units.items() if unit.groups > 1}


def find_units(network: nn.Module, kinds=("hidden",)) -> Units:
    """Find the units of these kinds, input to output, streams last. Raises UnsupportedModule naming the module's path.

    `hidden`: an activation lies between the one producer and the readers. `branch`: what one residual branch adds to its
    stream. `stream`: everything that is added to each other, or passed on as it is, cut together; one that cannot be is left whole.
    """
    graph = Graph(network)
    groups, flows, branches = follow(network, graph)
    units, left = _branch_units(network, graph, flows, branches) if "branch" in kinds else ({}, {})
    for group in groups:
        if not (group.producers or group.end):
            continue  # what an unsupported step made of other channels: those are named
        kind = "stream" if group.joins or not _is_activated(group, groups) else "hidden"
        reason, (shares, path) = _reason(group, kind, kinds), quota_groups(network, group)
        if reason is None and 1 < shares == group.width and not group.unsupported:
            reason = f"each neuron is a group of its own in grouped {path}"
        if reason is None and group.unsupported:
            path, what = group.unsupported[0]
            reason = f"{path}: {what} acts on unit {group.name} and is not supported; this network cannot be pruned safely"
            if kind == "hidden":
                raise UnsupportedModule(reason)
        if reason is None:
            try:
                units[group.name] = _unit(network, graph, flows, group, kind)
                continue
            except UnsupportedModule as error:
                if kind == "hidden":
                    raise
                reason = str(error)
        left[f"{group.name}, its stream" if group.name in (*units, *left) else group.name] = reason
    if not units:
        found = "; ".join(f"{name}: {reason}" for name, reason in list(left.items())[-3:]) or "no layers"
        raise UnsupportedModule(f"{type(network).__name__}: has no {' or '.join(kinds)} unit; what was found last: {found}")
    outputs = tuple(path for group in groups if group.end == "output" for path in group.producers)
    return Units(graph, dict(sorted(units.items(), key=lambda item: _place(item[1]))), left, outputs)


def _place(unit: Unit) -> tuple:
    """Input to output, streams last; a hidden unit before the branch that reads it."""
    return unit.kind == "stream", unit.hold, unit.kind == "branch"


def _branch_units(network: nn.Module, graph: Graph, flows: dict, branches: list[Branch]) -> tuple[dict[str, Unit], dict[str, str]]:
    """({name: unit} of the outputs of residual branches, {name: reason} of those that must stay whole)."""
    units, left, steps = {}, {}, _steps_of_modules(graph)
    for branch in branches:
        path, last = branch.producer, network.get_submodule(branch.last)
        fault = branch.fault or (f"branch: {branch.last} has no scale of its own" if getattr(last, "weight", None) is None else None)
        if fault:
            left[path] = fault
            continue
        try:
            _refuse_carried(graph, flows, path, steps[path])
        except UnsupportedModule as error:
            left[path] = str(error)
            continue
        groups = groups_in(network, path)
        if 1 < groups == branch.width:
            left[path] = f"branch: each neuron is a group of its own in grouped {path}"
            continue
        dimension = -1 if isinstance(last, nn.Linear) else 1
        chain, ends = (path, *branch.followers), (branch.last, dimension, groups)
        units[path] = Unit(path, "branch", branch.width, (path,), branch.followers, (), (), (), steps[path], (), chain, *ends)
    return units, left


def _steps_of_modules(graph: Graph) -> dict[str, int]:
    return {node.target: step for step, node in enumerate(graph.nodes) if node.op == "call_module"}


def _unit(network: nn.Module, graph: Graph, flows: dict, group: Group, kind: str) -> Unit:
    """A group as a unit. Raises UnsupportedModule where no stretch of the network could run from its readers."""
    consumers = tuple(
        Reader(path, columns, cut, _intercept(network, graph, flows, path, cut), groups_in(network, path)) for path, columns, cut in group.consumers
    )
    squeezes = tuple(Reader(*one, groups=groups_in(network, one[0])) for one in group.squeezes)
    consumers, squeezes = (tuple(sorted(readers, key=lambda reader: reader.cut)) for readers in (consumers, squeezes))
    hold = min(reader.cut for reader in (*consumers, *squeezes))
    for cut in sorted({hold, *(reader.cut for reader in consumers)}):
        _refuse_carried(graph, flows, group.name, cut)
    carrying = [node for node in graph.live[hold] if node in flows and flows[node].group is group]
    carriers = tuple((graph.index[node], -1 if flows[node].layout == "last" else 1) for node in carrying)
    steps = _steps_of_modules(graph)
    behind = tuple(path for path in (*group.producers, *group.followers) if steps[path] >= hold)
    writers = (tuple(group.producers), tuple(group.followers))
    more = {"groups": quota_groups(network, group)[0]}
    return Unit(group.name, kind, group.width, *writers, consumers, squeezes, tuple(group.excites), hold, carriers, behind, **more)


def _reason(group: Group, kind: str, kinds) -> str | None:
    """Why these channels are no unit of these kinds, or None if they are."""
    if group.end:
        return f"the network's {group.end}"
    if group.inside:
        return f"inside the squeeze-excite of {group.inside}"
    if kind not in kinds:
        if group.joins:
            return f"stream: {len(group.producers)} layers write it, joined at {group.joins[0]}"
        touched = f"; {group.unsupported[0][1]} at {group.unsupported[0][0]} acts on it" if group.unsupported else ""
        return "hidden" if kind == "hidden" else f"stream: no activation lies between its producer and its consumer{touched}"
    if not group.consumers and not group.unsupported:
        return "nothing reads it linearly"
    return None


def _is_activated(group: Group, groups: list[Group]) -> bool:
    """Whether an activation acts on the channels, also where something unsupported came in between."""
    found = [group]
    for one in found:  # grows as it goes
        found += [other for other in groups if one in other.sources and not other.joins and other not in found]
    return any(one.active for one in found)


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
        for reader in unit.consumers:
            if reader.intercept is None:
                raise BadInput(
                    f"unit {name}: prune.refit 'affine' has no place for its intercept: {reader.path}, which reads it, has no bias "
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
