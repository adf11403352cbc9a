"""A pruned network on disk: arch.json says how to build it, model.safetensors holds its weights."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from pipeline.config.errors import BadInput
from pipeline.config.files import write_json
from pipeline.networks import zoo
from pipeline.networks.shrink import Choice, apply_choices
from pipeline.networks.units import Units, find_units
from pipeline.selection.quota import keeps_quota
from pipeline.tensorfile import save_tensors

ARCH, WEIGHTS = "arch.json", "model.safetensors"


def arch_of(plan: zoo.Blueprint, units: Units, choices: dict[str, Choice], kinds) -> dict:
    """The content of arch.json."""
    return {
        "builder": plan.builder,
        "model": plan.model,
        "arguments": plan.arguments,
        "unit_kinds": list(kinds),
        "units": {n: {"kind": units.units[n].kind, "width": units.units[n].width, "kept": list(c.kept)} for n, c in choices.items()},
    }


def save_pruned(folder: Path, network: nn.Module, arch: dict) -> None:
    """Write arch.json and model.safetensors into `folder`."""
    save_tensors(Path(folder) / WEIGHTS, {name: value.clone() for name, value in network.state_dict().items()})  # tied ones twice
    write_json(Path(folder) / ARCH, arch)


def shrunk_to(dense: nn.Module, arch: dict, place) -> nn.Module:
    """`dense`, cut in place to the widths of `arch` (weights of the kept neurons as they were)."""
    units = find_units(dense, arch["unit_kinds"]).units
    for name, entry in arch["units"].items():
        kept, width = tuple(entry["kept"]), entry["width"]
        if name not in units or units[name].width != width:
            found = f"width {units[name].width}" if name in units else f"no such unit; it has {', '.join(units)}"
            raise BadInput(f"{place}: unit {name} of width {width} does not fit the network ({found}); give the builder that was pruned")
        if not kept or len(set(kept)) < len(kept) or not all(type(i) is int and 0 <= i < width for i in kept):
            raise BadInput(f"{place}: unit {name}: kept must name different neurons among 0 to {width - 1}; save the network again")
        if not keeps_quota(kept, width, units[name].groups):
            raise BadInput(f"{place}: unit {name}: kept must name as many neurons of each of {units[name].groups} groups; save the network again")
    apply_choices(dense, units, {name: Choice(tuple(entry["kept"])) for name, entry in arch["units"].items()})
    return dense


def load_pruned(directory, build=None) -> nn.Module:
    """The pruned network saved in `directory`, in eval mode.

    `build`: the function that makes your own dense module; not needed for timm's and for importable functions (which are
    imported and called by the name in arch.json: load only what you trust). Raises BadInput (a ValueError) naming the file
    when it is missing, damaged or does not fit.
    """
    arch_path, weights_path = Path(directory) / ARCH, Path(directory) / WEIGHTS
    try:
        plan, arch = _read_arch(arch_path)
        state = load_file(weights_path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise BadInput(f"{directory}: is no saved network ({error}); give a directory with {ARCH} and {WEIGHTS}") from error
    if plan.builder == "own" and build is None:
        raise BadInput(f"{arch_path}: {plan.model} is your own module; call load_pruned(directory, build=lambda: YourModule())")
    dense = build() if build else zoo.build(plan)
    network = shrunk_to(dense.eval(), arch, arch_path)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise BadInput(f"{weights_path}: does not fit {arch_path} ({str(error).splitlines()[-1].strip()}); save both again") from error
    return network.eval()


def _read_arch(path: Path) -> tuple[zoo.Blueprint, dict]:
    """(how to build the dense network, its unit kinds and units). Raises what a file of another content happens to raise."""
    arch = json.loads(path.read_text())
    if arch["builder"] not in ("timm", "function", "own"):
        raise ValueError(f"{ARCH}: unknown builder {arch['builder']!r}")
    units = {name: {"width": entry["width"], "kept": list(entry["kept"])} for name, entry in arch["units"].items()}
    return zoo.Blueprint(arch["builder"], arch["model"], dict(arch["arguments"])), {"unit_kinds": arch["unit_kinds"], "units": units}


def example_images(in_chans: int, img_size: int, batch: int = 1) -> torch.Tensor:
    """Fixed images to run a network once: (batch, in_chans, img_size, img_size)."""
    return torch.linspace(-2, 2, batch * in_chans * img_size * img_size).view(batch, in_chans, img_size, img_size)
