"""Units found from the graph: which channels belong together, who writes them, who follows, who reads them."""

import operator
from dataclasses import dataclass, field

import torch
from timm.layers import Conv2dSame, SelectAdaptivePool2d
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.config.errors import UnsupportedModule
from pipeline.networks.graph import Graph

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Mish)
POOLS = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveMaxPool2d, SelectAdaptivePool2d)
NEUTRAL = (nn.Identity, nn.Dropout, nn.Dropout2d)
ACTIVATION_FUNCTIONS = {functional.relu, functional.relu6, functional.gelu, functional.silu, functional.hardswish, torch.relu, torch.sigmoid, torch.tanh}
NEUTRAL_FUNCTIONS = {functional.dropout, functional.adaptive_avg_pool2d, functional.avg_pool2d, functional.max_pool2d}
ADDS = {operator.add, torch.add, operator.iadd}
FLATTENS = {torch.flatten, "flatten"}
METHODS = {"contiguous"}
ABOUT_SHAPES = {"getattr", "eq", "_assert", "size", "dim"}


@dataclass(frozen=True)
class Unit:
    """N interchangeable neurons: producers write them, followers act on each alone, the consumer reads them linearly.

    `columns` = k^2 (or pooled positions) columns of the consumer's weight per neuron; `cut` = the step before the consumer.
    """

    name: str
    kind: str
    width: int
    producers: tuple[str, ...]
    followers: tuple[str, ...]
    consumer: str
    columns: int
    cut: int


@dataclass(frozen=True)
class Units:
    """The units that can be pruned, input to output, and everything else with the reason why not."""

    graph: Graph
    units: dict[str, Unit]
    left: dict[str, str]


@dataclass(eq=False)
class _Group:
    """Channels that must be cut together, while they are being followed through the graph.

    `layout`: where the channels are. "maps" (B, C, H, W); "flat" (B, C x positions); "last" (..., C); "" = not known.
    """

    width: int
    layout: str = ""
    producers: list = field(default_factory=list)
    followers: list = field(default_factory=list)
    consumers: list = field(default_factory=list)  # (path, columns, cut)
    joins: list = field(default_factory=list)
    unsupported: list = field(default_factory=list)  # (path, what)
    active: bool = False  # a non-linearity lies between producer and consumer
    end: str | None = None  # "input" or "output" of the network


def find_units(network: nn.Module, kinds=("hidden",)) -> Units:
    """Find the units of `network`. Raises UnsupportedModule naming the module's path."""
    graph = Graph(network)
    groups = _follow(network, graph)
    units, left = {}, {}
    for group in groups:
        name = group.producers[-1] if group.producers else str(group.end)
        if (reason := _reason(group)) is not None:
            left[name] = reason
            continue
        if group.unsupported:
            path, what = group.unsupported[0]
            raise UnsupportedModule(f"{path}: {what} acts on unit {name} and is not supported; this network cannot be pruned safely")
        consumer, columns, cut = group.consumers[0]
        units[name] = Unit(name, "hidden", group.width, tuple(group.producers), tuple(group.followers), consumer, columns, cut)
    if not units:
        raise UnsupportedModule(f"{type(network).__name__}: has no hidden unit; what was found: {left or 'no layers'}")
    return Units(graph, dict(sorted(units.items(), key=lambda item: item[1].cut)), left)


def _reason(group) -> str | None:
    """Why these channels are no hidden unit, or None if they are."""
    if group.end:
        return f"the network's {group.end}"
    if group.joins:
        return f"stream: {len(group.producers)} layers write it, joined at {group.joins[0]}"
    if not group.consumers:
        return "nothing reads it linearly" if not group.unsupported else None
    if not group.active:
        return "stream: no activation lies between its producer and its consumer"
    if len(group.consumers) > 1:
        return f"read by {len(group.consumers)} layers ({', '.join(path for path, *_ in group.consumers)}); several consumers are not built yet"
    return None


def _follow(network, graph) -> list[_Group]:
    """Walk the steps and sort every layer into the group of channels it writes, follows or reads."""
    group_of, groups = {}, []
    used = [node.target for node in graph.nodes if node.op == "call_module"]
    shared = _shared(network, used)

    def new(**fields):
        groups.append(_Group(**fields))
        return groups[-1]

    for position, node in enumerate(graph.nodes):
        sources = [group_of[n] for n in node.all_input_nodes if n in group_of]
        path = graph.path(node)
        if node is graph.input:
            group_of[node] = new(width=0, end="input")
        elif node.op == "output":
            for group in sources:
                group.end = "output"
        elif not sources or path.rpartition(".")[2] in ABOUT_SHAPES:
            continue
        elif node.op == "call_module":
            module = network.get_submodule(node.target)
            group_of[node] = _through_module(module, path, position, sources[0], new)
            if path in shared:
                for group in (sources[0], group_of[node]):
                    group.unsupported.append((path, shared[path]))
        elif node.op in ("call_function", "call_method") and (node.target in ADDS and len(sources) == 2):
            group_of[node] = _join(sources, path, groups, group_of)
        elif len(sources) == 1 and _is_neutral(node):
            sources[0].active |= node.target in ACTIVATION_FUNCTIONS
            if node.target in FLATTENS:
                sources[0].layout = "flat"
            group_of[node] = sources[0]
        else:
            group_of[node] = new(width=0)
            for group in (*sources, group_of[node]):
                group.unsupported.append((path, f"operation {node.target if isinstance(node.target, str) else node.target.__name__}"))
    return groups


def _is_neutral(node) -> bool:
    """Whether an operation acts on each channel alone and keeps the channels where they are, or flattens behind them."""
    if node.target in FLATTENS:
        given = dict(zip(("start_dim", "end_dim"), node.args[1:])) | node.kwargs
        return given.get("start_dim", 0) == 1 and given.get("end_dim", -1) == -1
    return node.target in ACTIVATION_FUNCTIONS or node.target in NEUTRAL_FUNCTIONS or node.target in METHODS


def _through_module(module, path, position, group, new) -> _Group:
    """Sort one module call in; the group of its output."""
    kind = type(module).__name__
    if _changes_its_weight(module):
        group.unsupported.append((path, f"{kind}, whose forward changes its weight,"))
        return new(width=0, unsupported=[(path, f"{kind}, whose forward changes its weight,")])
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        if module.groups == module.in_channels == module.out_channels:
            group.followers.append(path)
            return group
        group.unsupported.append((path, f"grouped {kind}"))
        return new(width=module.out_channels, layout="maps", producers=[path], unsupported=[(path, f"grouped {kind}")])
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        is_map = isinstance(module, nn.Conv2d)
        columns = _columns(module, group)
        if columns is None:
            group.unsupported.append((path, f"{kind} that does not read the channels column by column"))
        group.consumers.append((path, columns, position))
        layout = "maps" if is_map else "flat" if group.layout == "flat" else "last"
        return new(width=module.out_channels if is_map else module.out_features, layout=layout, producers=[path])
    if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
        group.layout = "flat"
        return group
    if isinstance(module, _BatchNorm):
        if module.num_features != group.width:
            group.unsupported.append((path, f"{kind} over {module.num_features} features of {group.width} channels"))
        group.followers.append(path)
        group.active |= hasattr(module, "act") and not isinstance(module.act, nn.Identity)
        return group
    if isinstance(module, ACTIVATIONS) or type(module).__module__ == "timm.layers.activations":
        group.active = True
        return group
    if isinstance(module, POOLS):
        if isinstance(module, SelectAdaptivePool2d) and not isinstance(module.flatten, nn.Identity):
            group.layout = "flat"
        return group
    if isinstance(module, NEUTRAL):
        return group
    group.unsupported.append((path, kind))
    return new(width=0, unsupported=[(path, kind)])


def _changes_its_weight(module) -> bool:
    """Parametrised layers, and conv subclasses such as weight standardisation: cutting columns would change the others."""
    exact = (nn.Conv2d, Conv2dSame, nn.Linear)
    return isinstance(module, (nn.Conv2d, nn.Linear)) and (type(module) not in exact or hasattr(module, "parametrizations"))


def _columns(module, group) -> int | None:
    """Columns of the consumer's weight per neuron, or None where they are not neuron after neuron."""
    if not group.width:
        return 1  # the network's input, or channels that are left whole anyway
    if isinstance(module, nn.Linear):
        whole = module.in_features % group.width == 0 and (group.layout == "flat" or group.layout == "last" and module.in_features == group.width)
        return module.in_features // group.width if whole else None
    k = module.kernel_size[0] * module.kernel_size[1]
    plain = type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    fits = group.layout == "maps" and module.in_channels == group.width
    return k if fits and (plain or (k == 1 and module.stride == (1, 1))) else None


def _join(sources, path, groups, group_of) -> _Group:
    """Two groups added to each other become one stream."""
    first, second = sources
    first.joins.append(path)
    if first is not second:
        for name in ("producers", "followers", "consumers", "joins", "unsupported"):
            getattr(first, name).extend(getattr(second, name))
        first.end = first.end or second.end
        groups.remove(second)
        for node, group in group_of.items():
            if group is second:
                group_of[node] = first
    return first


def _shared(network, used) -> dict[str, str]:
    """{path: what} of modules that are called twice or whose parameters also belong to another module."""
    owners: dict[int, set] = {}
    for path, module in network.named_modules(remove_duplicate=False):
        for parameter in module.parameters(recurse=False):
            owners.setdefault(parameter.data_ptr(), set()).add(path)
    twice = {path: "a module used more than once" for path in used if used.count(path) > 1}
    tied = {path: "a weight shared with another module" for paths in owners.values() if len(paths) > 1 for path in paths if path in used}
    return tied | twice
