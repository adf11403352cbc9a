"""A network on trial before any work: it can be copied and fed, and what was followed is what it computes."""

import copy

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from pipeline.config.errors import BadInput, UnsupportedModule
from pipeline.networks.gates import folding_difference
from pipeline.networks.shrink import Choice
from pipeline.networks.units import Unit, Units

NEAR, TRIAL_LIMIT = 1e-3, 1e-6  # relative: two passes of one network; gated and shrunk in float64, whatever the weights
WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module", "AveragedModel": "module"}
QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")


def copy_of(model: nn.Module) -> nn.Module:
    """A copy in eval mode. Raises BadInput or UnsupportedModule naming what is no network, or of what no copy would be right."""
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise BadInput(f"model: is {what}, not a torch module; give the network itself")
    refuse_unfit(model)
    try:
        return copy.deepcopy(model).eval()
    except Exception as error:
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise BadInput(f"model: cannot be copied and put into eval mode ({reason}); give a plain torch module") from error


def refuse_unfit(model: nn.Module) -> None:
    """Raise UnsupportedModule naming what wraps the network, or the module that cannot be cut whatever lies around it."""
    kind = type(model).__name__
    if kind in WRAPPERS:
        raise UnsupportedModule(f"{kind}: wraps the network; prune model.{WRAPPERS[kind]}, then wrap what comes out")
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModule(f"{kind}: is TorchScript, which cannot be followed; prune the module that it was made from")
    for path, module in model.named_modules():
        if what := _unfit(module):
            raise UnsupportedModule(f"{path or kind}: {type(module).__name__} {what}")


def _unfit(module: nn.Module) -> str | None:
    """What no copy would be right of, and what to do about it."""
    parameters = list(module.parameters(recurse=False))
    if any(isinstance(parameter, UninitializedParameter) for parameter in parameters):
        return "has no weights yet; call the model on one batch first"
    if any(parameter.is_meta for parameter in parameters):
        return "has weights without values (device meta); load them first"
    if any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in parameters):
        return "has half-precision weights, in which least squares has no digits left; prune model.float(), then convert"
    computed = next((name for name, value in vars(module).items() if isinstance(value, torch.Tensor) and value.grad_fn is not None), None)
    if computed:
        return f"computes {computed} anew before each pass (weight norm, a pruning mask); make it a parameter, as remove_weight_norm does"
    if type(module).__module__.startswith(QUANTISED):
        return "is quantised; prune the network in floating point, then quantise"
    return None


def refuse_unfed(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The network's logits (B, classes) of these images. Raises BadInput where it cannot take them or gives no logits."""
    try:
        with torch.no_grad():
            logits = network(images.clone())
    except Exception as error:
        size = " x ".join(map(str, images.shape[1:]))
        found = f"images of {size} ({images.dtype}), which the network cannot take"
        raise BadInput(f"loader: yields {found} ({_first_line(error)}); {_advice(network, images)}") from error
    if not isinstance(logits, torch.Tensor) or not logits.is_floating_point() or logits.ndim < 2 or len(logits) != len(images):
        found = f"{logits.dtype} of shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UnsupportedModule(f"{type(network).__name__}: gives {found} for {len(images)} images; one tensor of logits is supported")
    return logits


def _advice(network: nn.Module, images: torch.Tensor) -> str:
    dtype = next(network.parameters()).dtype
    if images.dtype != dtype:
        return f"convert them to {dtype}"
    first = next((item for item in network.named_modules() if isinstance(item[1], (nn.Conv2d, nn.Linear))), None)
    if first and isinstance(first[1], nn.Conv2d) and (images.ndim != 4 or images.shape[1] != first[1].in_channels):
        return f"give batches of {first[1].in_channels} channels, as {first[0]} reads them: (images, {first[1].in_channels}, height, width)"
    return "give images of the size that the network is made for"


def refuse_unfaithful(network: nn.Module, units: Units, images: torch.Tensor) -> None:
    """Raise UnsupportedModule where a second pass or the steps that were followed differ from the network, or a cut from its gates.

    `images`: a few, as the network takes them. The cut leaves every second neuron of each unit's groups. Networks without finite outputs
    are left to who measures.
    """
    name = type(network).__name__
    with torch.no_grad():
        first, second = network(images.clone()), network(images.clone())
        followed = _followed(network, units, images)
    if not first.isfinite().all():
        return
    if _differ(first, second):
        what = "gives the same images another output each time"
        raise UnsupportedModule(f"{name}: {what}; take what is random or counts out of its eval mode")
    if _differ(first, followed):
        what = "computes something else than the steps that were followed"
        raise UnsupportedModule(f"{name}: {what}; take autocast and what changes from call to call out of forward")
    halves = {unit: Choice(_half(one)) for unit, one in units.units.items()}
    if _folds(network, units, halves, images):
        return
    odd = next((unit for unit in halves if not _folds(network, units, {unit: halves[unit]}, images)), next(iter(halves)))
    what = "with fewer neurons in this unit forward computes something else"
    raise UnsupportedModule(f"{odd}: {what}; let it read no widths and no sizes of weights")


def _followed(network, units, images) -> torch.Tensor:
    try:
        return units.graph.finish(network, *units.graph.begin(images))
    except Exception as error:
        reason = f"the steps that were followed cannot be run ({type(error).__name__}: {_first_line(error)})"
        raise UnsupportedModule(f"{type(network).__name__}: {reason}; let forward take one batch of images by name") from error


def _differ(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape != other.shape or float((one - other).abs().max()) > NEAR * float(one.abs().max())


def _half(unit: Unit) -> tuple[int, ...]:
    size = unit.width // unit.groups
    return tuple(neuron for neuron in range(unit.width) if neuron % size % 2 == 0)


def _folds(network, units, choices, images) -> bool:
    try:
        return folding_difference(network, units, choices, images) <= TRIAL_LIMIT
    except Exception as error:
        reason = f"it cannot be run in float64 on the CPU, where gated and shrunk network are compared ({_first_line(error)})"
        raise UnsupportedModule(f"{next(iter(choices))}: {reason}; take fixed types, devices and sizes out of forward") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
