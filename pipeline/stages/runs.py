"""Run directories: one run, one result row."""

import contextlib
import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from pipeline.config.errors import BadInput
from pipeline.config.files import DISK_FULL, replacing, write_json, write_text

PACKAGES = ("goodsubnets", "torch", "torchvision", "timm", "webdataset", "numpy", "pillow", "safetensors")


def safe_name(name: str) -> str:
    """`name` made safe for a path: letters, digits, dot, dash, underscore; at most 60 characters."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:60] or "run"


def run_folder(runs_dir: str, name: str, run_hash: str) -> Path:
    return Path(runs_dir) / f"{safe_name(name)}-{run_hash[:8]}"


def make_folder(folder: Path, runs_dir: str) -> None:
    """Make the run's directory. Raises BadInput when `runs_dir` is no place for one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise BadInput(f"runs_dir: {runs_dir}: no directory can be made there ({error.strerror}); name another place") from error


def begin_run(folder: Path, config_text: str, device: torch.device) -> None:
    """Write what is known before the work; an earlier error is gone once the command is given again."""
    (folder / "error.json").unlink(missing_ok=True)
    write_text(folder / "config.yaml", config_text)
    write_json(folder / "env.json", {"versions": versions(), "git": git_commit(), "device": device_name(device), "threads": os.cpu_count()})


def copy_into(folder: Path, source: Path, name: str) -> None:
    """Put a stage's artifact beside the result, atomically."""
    with replacing(folder / name) as temporary:
        shutil.copyfile(source, temporary)


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def git_commit() -> str:
    """Commit of the product's source, with `-dirty` where files differ from it, or `none`."""
    try:
        place = Path(__file__).parent
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=place, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        status = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=place, capture_output=True, text=True, timeout=10).stdout.strip()
        return commit + ("-dirty" if status else "")
    except (OSError, subprocess.SubprocessError):
        return "none"


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()}, {os.cpu_count()} cores)"
