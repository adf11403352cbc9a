"""Following channels through the graph: every layer sorted into the group of channels that it writes, follows or reads.

What is not known to act on each channel alone, or to read channels linearly, makes its groups unsupported: exact types
only, for a subclass may do anything.
"""

import operator
from dataclasses import replace

import torch
from timm.layers import AvgPool2dSame, BatchNormAct2d, Conv2dSame, SelectAdaptivePool2d, SyncBatchNormAct
from timm.layers.linear import Linear as CastingLinear
from timm.layers.pool2d_same import MaxPool2dSame
from torch import nn
from torch.nn import functional

from pipeline.networks.branches import Branch, branch_of
from pipeline.networks.graph import Graph, pool_up
from pipeline.networks.groups import Flow, Group, add, multiply

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Mish)
NEUTRAL = (nn.Identity, nn.Dropout, nn.Dropout2d)
POOLS = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveMaxPool2d, AvgPool2dSame, MaxPool2dSame, SelectAdaptivePool2d)
CONVS = (nn.Conv2d, Conv2dSame)
LINEARS = (nn.Linear, CastingLinear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, BatchNormAct2d, SyncBatchNormAct)
ACTIVATION_FUNCTIONS = {functional.relu, functional.relu6, functional.gelu, functional.silu, functional.hardswish}
ACTIVATION_FUNCTIONS |= {functional.hardsigmoid, torch.relu, torch.sigmoid, torch.tanh, "relu", "sigmoid", "sigmoid_", "tanh"}
POOL_FUNCTIONS = {pool_up, functional.adaptive_avg_pool2d, functional.avg_pool2d, functional.max_pool2d}
NEUTRAL_FUNCTIONS = {functional.dropout, "contiguous"}
FLATTENS = {torch.flatten, "flatten"}
ADDS = {operator.add, torch.add, operator.iadd}
PRODUCTS = {operator.mul, torch.mul, operator.imul}
NUMBER_OPERATIONS = {*ADDS, *PRODUCTS, operator.sub, torch.sub, operator.truediv, torch.div, operator.neg}
MEANS = {"mean", torch.mean}
HARMLESS_FACTS = {"dim", "ndim", "dtype", "device"}


def follow(network: nn.Module, graph: Graph) -> tuple[list[Group], dict, list[Branch]]:
    """(groups in the order they begin, {step: Flow} of every step that carries channels, the branches of residual sums)."""
    flows, groups, branches, shared = {}, [], [], used_elsewhere(network, graph)

    def new(layout, **fields):
        groups.append(Group(**fields))
        return Flow(groups[-1], layout)

    for position, node in enumerate(graph.nodes):
        sources, path = [flows[n] for n in node.all_input_nodes if n in flows], graph.path(node)
        if node is graph.input:
            flows[node] = new("maps", width=0, end="input")
        elif node.op == "output":
            for flow in sources:
                flow.group.end = flow.group.end or "output"
        elif not sources or _is_fact(node):
            for flow in sources:
                if not _is_harmless(node, flow.layout):
                    flow.group.unsupported.append((path, "a reading of its shape"))
        elif node.target in ADDS and len(sources) == 2:
            branches.append((node, branch_of(*sources, node, flows)))
            flows[node] = add(*sources, path, groups, flows)
        else:
            module = network.get_submodule(node.target) if node.op == "call_module" else None
            if node.target in PRODUCTS and len(sources) == 2:
                flow, what = multiply(*sources, path, groups, flows)
            elif len(sources) == 1:
                flow, what = _step(node, module, sources[0], path, position, new)
            else:
                flow, what = None, f"operation {_operation(node)}"
            flows[node] = flow = flow or new("maps", width=0, sources=[source.group for source in sources])
            faults = [fault for fault in (what, shared.get(path) if module is not None else None) if fault]
            for group in dict.fromkeys((*(source.group for source in sources), flow.group)):
                group.unsupported.extend((path, fault) for fault in faults)
    _mark_ends(groups)
    return groups, flows, [branch for join, branch in branches if branch and flows[join].group.end != "output"]


def _mark_ends(groups: list[Group]) -> None:
    """What reaches nothing but the output, through whatever operation (a softmax), belongs to the output."""
    for group in reversed(groups):
        made = [other for other in groups if group in other.sources]
        if made and not group.consumers and all(other.end == "output" for other in made):
            group.end = group.end or "output"


def _step(node, module, source: Flow, path, position, new) -> tuple[Flow | None, str | None]:
    """(what one step with one source gives, why it is not supported or None)."""
    if module is None:
        return _through_function(node, source)
    if what := _altered(module):
        return None, what
    if type(module) in (*CONVS, *LINEARS):
        return _through_layer(module, source, path, position, new)
    return _through_follower(module, source, path)


def _through_function(node, source: Flow) -> tuple[Flow | None, str | None]:
    if node.target in ACTIVATION_FUNCTIONS:
        source.group.active = True
        return source, None
    if node.target in NEUTRAL_FUNCTIONS or (node.target in POOL_FUNCTIONS and source.layout == "maps"):
        return source, None
    if node.target in NUMBER_OPERATIONS and len(node.all_input_nodes) == 1:
        return source, None  # with plain numbers, each number alone
    if node.target in MEANS:
        return _averaged(source, *_given(node, ("dim", "keepdim"), (None, False)))
    if node.target in FLATTENS:
        return _flattened(source, *_given(node, ("start_dim", "end_dim"), (0, -1)))
    return None, f"operation {_operation(node)}"


def _given(node, names: tuple, defaults: tuple) -> list:
    """The arguments of a step behind its first, by name or by place."""
    given = dict(zip(names, node.args[1:])) | node.kwargs
    return [given.get(name, default) for name, default in zip(names, defaults)]


def _averaged(source: Flow, dims, keep) -> tuple[Flow | None, str | None]:
    """The mean over the positions of maps, of each neuron alone."""
    if source.layout != "maps" or not isinstance(dims, (tuple, list)) or sorted(dim % 4 for dim in dims) != [2, 3]:
        return None, f"mean over {dims} of channels that lie {source.layout}"
    return (source if keep else replace(source, layout="flat")), None


def _flattened(source: Flow, start: int, end: int) -> tuple[Flow | None, str | None]:
    """Flattened behind the batch, the positions of a neuron stay side by side; from (B, T, N) they would not."""
    if (start, end) != (1, -1) or source.layout == "last":
        return None, f"flatten({start}, {end}) of channels that lie {source.layout}"
    return replace(source, layout="flat"), None


def _through_layer(module, source: Flow, path, position, new) -> tuple[Flow, str | None]:
    """A conv or linear layer: a follower where it is depthwise, else a consumer of its source and producer of a new group."""
    group, kind = source.group, type(module).__name__
    if type(module) in LINEARS:
        columns, layout, width = _linear_columns(module, source), "flat" if source.layout == "flat" else "last", module.out_features
    elif 1 < module.groups == module.in_channels == module.out_channels and source.layout == "maps":
        group.followers.append(path)
        return source, None
    else:
        columns, layout, width = _conv_columns(module, source), "maps", module.out_channels
    group.consumers.append((path, columns, position))
    what = None if columns else f"{kind} that does not read the channels column by column"
    if what:
        group.unsupported.append((path, what))
    return new(layout, width=width, producers=[path]), None


def _linear_columns(module, source: Flow) -> int | None:
    """Columns of the weight per neuron, or None where they are not neuron after neuron."""
    width = source.group.width
    if not width:
        return 1  # the network's input, or channels that are left whole anyway
    fits = module.in_features % width == 0 if source.layout == "flat" else source.layout == "last" and module.in_features == width
    return module.in_features // width if fits else None


def _conv_columns(module, source: Flow) -> int | None:
    if not source.group.width:
        return 1
    taps, padded = module.kernel_size[0] * module.kernel_size[1], module.padding not in ((0, 0), "same", "valid")
    plain = type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    pointwise = taps == 1 and module.stride == (1, 1) and not padded
    fits = source.layout == "maps" and module.in_channels == source.group.width
    return taps if fits and (plain or pointwise) else None


def _through_follower(module, source: Flow, path) -> tuple[Flow | None, str | None]:
    """A module that acts on each channel alone."""
    group, kind = source.group, type(module).__name__
    if type(module) in NORMS:
        group.followers.append(path)
        act = getattr(module, "act", None)
        if group.width and (source.layout != ("flat" if kind == "BatchNorm1d" else "maps") or module.num_features != group.width):
            return None, f"{kind} over {module.num_features} features of {group.width} channels"
        if not _is_pointwise(act) or type(getattr(module, "drop", None)) not in (*NEUTRAL, type(None)):
            return None, f"{kind} with {type(act).__name__}"
        group.active |= act is not None and type(act) is not nn.Identity
        return source, None
    if _is_pointwise(module):
        group.active |= type(module) not in NEUTRAL
        return source, None
    if type(module) is nn.Flatten:
        return _flattened(source, module.start_dim, module.end_dim)
    if type(module) in POOLS and source.layout == "maps":
        return _pooled(module, source)
    return None, kind


def _is_pointwise(module) -> bool:
    """Whether a module treats every number alone; timm's activations do, but for those with weights (PReLU)."""
    known = type(module) in (*ACTIVATIONS, *NEUTRAL, type(None)) or type(module).__module__ == "timm.layers.activations"
    return known and (module is None or not any(True for _ in module.parameters()))


def _pooled(module, source: Flow) -> tuple[Flow | None, str | None]:
    if type(module) is not SelectAdaptivePool2d:
        return source, None
    if "cat" in module.pool_type or getattr(module.pool, "input_fmt", "NCHW") != "NCHW":
        return None, f"SelectAdaptivePool2d({module.pool_type!r})"
    flat = type(module.flatten) is nn.Flatten or getattr(module.pool, "flatten", False)
    return replace(source, layout="flat") if flat else source, None


def _altered(module) -> str | None:
    """Hooks and parametrisations change what a layer computes, so that cutting its tensors is not cutting its channels."""
    if module._forward_hooks or module._forward_pre_hooks:
        return f"a forward hook of {type(module).__name__}"
    return f"parametrised {type(module).__name__}" if hasattr(module, "parametrizations") else None


def _operation(node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _is_fact(node) -> bool:
    """Whether a step asks about a tensor instead of computing with it."""
    if node.op == "call_function":
        return node.target in (getattr, torch._assert)
    return node.op == "call_method" and node.target in ("size", "dim")


def _is_harmless(node, layout: str) -> bool:
    """Whether cutting channels leaves the answer as it is: sizes of batch and positions do not depend on the width."""
    if node.target is torch._assert or node.target == "dim" or (node.target is getattr and node.args[1] in HARMLESS_FACTS):
        return True
    sides = (0, 2, 3, -1, -2, slice(2, None, None)) if layout == "maps" else (0,)
    if node.target == "size" and len(node.args) == 2:
        return node.args[1] in sides
    if node.target == "size" or node.args[1] == "shape":
        return all(user.target is operator.getitem and user.args[1] in sides for user in node.users)
    return False


def used_elsewhere(network, graph) -> dict[str, str]:
    """{path: what} of modules with weights that are called twice, or whose weights are also used elsewhere."""
    used = [node.target for node in graph.nodes if node.op == "call_module"]
    owners: dict[int, set] = {}
    for path, module in network.named_modules(remove_duplicate=False):
        for parameter in module.parameters(recurse=False):
            owners.setdefault(parameter.data_ptr() or id(parameter), set()).add(path)
    read = {node.target.rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    has_state = {path for path in used if any(True for part in ("parameters", "buffers") for _ in getattr(network.get_submodule(path), part)())}
    bare = {path: "a weight that forward also reads by itself" for path in used if path in read}
    tied = {path: "a weight shared with another module" for paths in owners.values() if len(paths) > 1 for path in paths if path in used}
    return bare | tied | {path: "a module used more than once" for path in has_state if used.count(path) > 1}
