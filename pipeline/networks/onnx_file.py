"""ONNX: a network as one file, run again by onnxruntime to see that it gives the same numbers."""

import importlib.util
import warnings
from pathlib import Path

import torch
from torch import nn

from pipeline.config.digests import draw
from pipeline.config.errors import BadInput, Failed
from pipeline.config.files import DISK_FULL, replacing

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LIMIT = 1e-4  # relative, float32: another order of the same sums
BATCHES = (1, 5)


def refuse_without_onnx() -> None:
    """Raises BadInput naming the packages that are not installed."""
    if lacking := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise BadInput(f"export needs {', '.join(lacking)}, not installed here; install goodsubnets[onnx]")


def write_onnx(network: nn.Module, shape: tuple[int, int, int], path: Path, notes: dict[str, str]) -> float:
    """Write a network in eval mode, any batch size, and say how far onnxruntime's outputs are from torch's (relative).

    `shape`: (C, H, W) of an image; `notes`: what the file says about itself. Raises Failed, and leaves no file, where the
    network cannot be written or its outputs differ by more than 1e-4.
    """
    network = network.eval().to("cpu", torch.float32)
    with replacing(path) as temporary:
        try:
            convert(network, torch.zeros(2, *shape), temporary, notes)
            found = onnx_difference(network, shape, temporary)
        except Exception as error:  # of three libraries, of any kind
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            raise Failed(f"export: the network cannot be written as ONNX ({type(error).__name__}: {str(error)[:300]})") from error
        if not found <= LIMIT:
            raise Failed(f"export: onnxruntime and torch differ by {found:.1e} (relative, float32), allowed is {LIMIT:g}; nothing was written")
    return found


def convert(network: nn.Module, images: torch.Tensor, path: Path, notes: dict[str, str]) -> None:
    """Write `network` for any number of images like `images`, in their dtype; raises whatever torch's converter does."""
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the converter, about its own parts
        batch = {0: torch.export.Dim("batch")}
        program = torch.onnx.export(
            network, (images,), input_names=["images"], output_names=["logits"], dynamo=True, dynamic_shapes=(batch,), verbose=False
        )
    model = program.model_proto
    for key, value in notes.items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def onnx_difference(network: nn.Module, shape: tuple[int, int, int], path: Path) -> float:
    """Largest difference of onnxruntime's outputs from torch's on random images, relative to the largest output; two batch sizes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name, worst = session.get_inputs()[0].name, 0.0
    dtype = next(network.parameters()).dtype
    for batch in BATCHES:
        images = torch.from_numpy(draw("export images", batch).standard_normal((batch, *shape))).to(dtype)
        with torch.inference_mode():
            expected = network(images)
        found = torch.from_numpy(session.run(None, {name: images.numpy()})[0])
        if found.shape != expected.shape:
            raise ValueError(f"onnxruntime gives {tuple(found.shape)}, torch {tuple(expected.shape)}")
        difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
        worst = max(worst, difference if difference == difference else float("inf"))
    return worst
