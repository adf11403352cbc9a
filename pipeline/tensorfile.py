"""Tensors in one safetensors file with a JSON header: written whole or not at all.

Stop signals wait meanwhile: an exception that is raised inside the library's own code comes out as a damaged file.
"""

import errno
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipeline.config.files import replacing
from pipeline.config.stopping import held


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], meta: dict | None = None) -> None:
    """Write tensors (made contiguous, on the CPU) and a JSON header atomically. Raises OSError when the disk is full."""
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    with held(), replacing(path) as temporary:
        try:
            save_file(plain, temporary, metadata=None if meta is None else {"meta": json.dumps(meta, sort_keys=True)})
        except SafetensorError as error:
            if f"os error {errno.ENOSPC}" in str(error):  # the library hides the operating system's error in its own
                raise OSError(errno.ENOSPC, "No space left on device", str(path)) from error
            raise


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """(tensors, JSON header) as `save_tensors` wrote them."""
    with held(), safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads((file.metadata() or {}).get("meta", "{}"))
