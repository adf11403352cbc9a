"""The network as a list of steps, so that any stretch of it can run alone: prefix once, suffix per candidate.

torch.fx is the tracer: it names every operation by module path, runs any stretch of a network from its live values, and
traced every family tried (README, "Why torch.fx"). Torch-Pruning's dependency graph finds groups but cannot run stretches.
"""

from functools import partial

import torch
from timm.layers import SelectAdaptivePool2d, get_notrace_functions, get_notrace_modules
from timm.models.vgg import ConvMlp
from torch import fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.config.errors import UnsupportedModule


class _Tracer(fx.Tracer):
    """Keeps batch norms, pools, linear layers and timm's untraceable modules whole; remembers where it is for error messages."""

    def __init__(self):
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self.place = ""
        self.has_images = False

    def create_proxy(self, kind, target, args, kwargs, *more, **named):
        """Inputs behind the images that have a default keep it, as they do when the network is called with images alone."""
        if kind == "placeholder" and self.has_images and args:
            return args[0]
        self.has_images |= kind == "placeholder"
        return super().create_proxy(kind, target, args, kwargs, *more, **named)

    def is_leaf_module(self, module, path):
        if type(module) is ConvMlp:
            return False
        whole = (_BatchNorm, nn.Linear, SelectAdaptivePool2d, *get_notrace_modules())
        return isinstance(module, whole) or super().is_leaf_module(module, path)

    def call_module(self, module, forward, args, kwargs):
        outer, self.place = self.place, self.path_of_module(module)
        forward = partial(_convolve, self, module) if type(module) is ConvMlp else forward
        result = super().call_module(module, forward, args, kwargs)
        self.place = outer
        return result


def _convolve(tracer: _Tracer, module: ConvMlp, x):
    """The forward of timm's VGG head, whose decision on the size of its input no tracer can follow, with that as one step."""
    x = tracer.create_proxy("call_function", pool_up, (x, module.input_kernel_size), {})
    return module.act2(module.fc2(module.drop(module.act1(module.fc1(x)))))


def pool_up(x: torch.Tensor, least: int) -> torch.Tensor:
    """Maps (B, N, H, W) with each side below `least` pooled up to it."""
    return functional.adaptive_avg_pool2d(x, [max(least, side) for side in x.shape[2:]]) if min(x.shape[2:]) < least else x


def copied(values: dict) -> dict:
    """Copies of live values, for steps in place: one for each tensor however many steps gave it; parameters, which no step may
    change, and what is no tensor as they are."""
    copies = {id(value): value.clone() for node, value in values.items() if node.op != "get_attr" and torch.is_tensor(value)}
    return {node: value if node.op == "get_attr" else copies.get(id(value), value) for node, value in values.items()}


class Graph:
    """The steps of `network` in order. `nodes[i]` is step i; a cut at p lies before step p."""

    def __init__(self, network: nn.Module):
        if network._forward_hooks or network._forward_pre_hooks:
            raise UnsupportedModule(f"{type(network).__name__}: the network itself has a forward hook, which no trace sees; remove it")
        tracer = _Tracer()
        try:
            graph = tracer.trace(network)
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise UnsupportedModule(
                f"{tracer.place or type(network).__name__}: its forward cannot be followed ({reason}); "
                "take decisions that depend on tensors out of forward"
            ) from error
        self.nodes = list(graph.nodes)
        self.index = {node: i for i, node in enumerate(self.nodes)}
        last = {node: max((self.index[user] for user in node.users), default=-1) for node in self.nodes}
        self.live = [[n for n in self.nodes[:p] if last[n] >= p] for p in range(len(self.nodes) + 1)]
        inputs = [node for node in self.nodes if node.op == "placeholder"]
        if inputs and str(inputs[0].target).startswith("*"):
            raise UnsupportedModule(f"{type(network).__name__}: forward takes {inputs[0].target}; let it take the batch of images by name")
        if not inputs or any(node.users for node in inputs[1:]):
            raise UnsupportedModule(f"{type(network).__name__}: forward takes {len(inputs)} inputs; one batch of images is supported")
        self.input, self.output = inputs[0], self.nodes[-1]
        if not isinstance(self.output.args[0], fx.Node):
            found = type(self.output.args[0]).__name__.removeprefix("immutable_")
            raise UnsupportedModule(f"{type(network).__name__}: forward returns {found}; one tensor of logits is supported")

    def run(self, network: nn.Module, values: dict, start: int, stop: int) -> dict:
        """Run steps start..stop-1 of `network` from the values live at `start`; the values live at `stop`."""
        values = dict(values)
        for node in self.nodes[start:stop]:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            if node.op == "call_module":
                values[node] = network.get_submodule(node.target)(*args, **kwargs)
            elif node.op == "call_function":
                values[node] = node.target(*args, **kwargs)
            elif node.op == "call_method":
                values[node] = getattr(args[0], node.target)(*args[1:], **kwargs)
            elif node.op == "get_attr":
                owner, _, name = node.target.rpartition(".")
                values[node] = getattr(network.get_submodule(owner), name)
            elif node.op == "output":
                values[node] = args[0]
        keep = self.live[stop] if stop < len(self.nodes) else [self.output]
        return {node: values[node] for node in keep}

    def begin(self, images: torch.Tensor) -> tuple[dict, int]:
        """(live values, cut) before the first step that computes."""
        start = self.index[self.input] + 1
        others = {n: None for n in self.nodes[:start] if n.op == "placeholder" and n is not self.input}
        values = others | {self.input: images.clone()}  # some networks normalise their input in place
        return {node: values[node] for node in self.live[start]}, start

    def finish(self, network: nn.Module, values: dict, start: int) -> torch.Tensor:
        """Run from the cut `start` to the end; the network's output."""
        return self.run(network, values, start, len(self.nodes))[self.output]

    def path(self, node) -> str:
        """The module path of a step, with the operation where it is not a module of its own."""
        if node.op == "call_module":
            return node.target
        stack = node.meta.get("nn_module_stack") or {}
        owner = next((value[0] for value in reversed(stack.values())), "")
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        return f"{owner}.{name}" if owner else name
