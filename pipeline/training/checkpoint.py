"""A training's state in one safetensors file: tensors by role, everything else as JSON in its header."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipeline.config.files import replacing


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], meta: dict | None = None) -> None:
    """Write tensors (made contiguous, on the CPU) and a JSON header atomically."""
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(plain, temporary, metadata=None if meta is None else {"meta": json.dumps(meta, sort_keys=True)})


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """(tensors, JSON header) as `save_tensors` wrote them."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads((file.metadata() or {}).get("meta", "{}"))


def with_role(role: str, tensors: dict) -> dict:
    return {f"{role}/{name}": tensor for name, tensor in tensors.items()}


def of_role(role: str, tensors: dict) -> dict:
    return {name.removeprefix(f"{role}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{role}/")}
