"""The artifact of a committed unit: coefficients or re-fitted weights, verified by the journal's sha256."""

from pathlib import Path

import torch

from pipeline.config.digests import sha256_of
from pipeline.config.errors import Failed
from pipeline.networks.shrink import Choice
from pipeline.search.question import Commit
from pipeline.tensorfile import load_tensors, save_tensors


def save_choice(folder: Path, unit: str, choice: Choice, explained: float | None, name: str | None = None) -> Commit:
    """Write what a unit line must name (or a file of another `name`); an untouched choice (original columns) needs no artifact."""
    if choice.coefficients is None and choice.weight is None:
        return Commit(unit, choice.kept, None, None)
    tensors = {"kept": torch.tensor(choice.kept)}
    if choice.coefficients is not None:
        tensors["coefficients"] = choice.coefficients
    if choice.weight is not None:
        tensors["weight"] = choice.weight
        tensors |= {f"weight/{i}": weight for i, weight in enumerate(choice.further, start=1)}
    tensors |= {f"intercept/{i}": added for i, added in enumerate(choice.intercepts)}
    if explained is not None:
        tensors["explained_share"] = torch.tensor(explained, dtype=torch.float64)
    name = name or f"units/{unit}.safetensors"
    save_tensors(Path(folder) / name, tensors)
    return Commit(unit, choice.kept, name, sha256_of(Path(folder) / name))


def load_choice(folder: Path, commit: Commit) -> Choice:
    """The choice of a committed unit. Raises Failed naming the artifact when its bytes are not the journal's."""
    if commit.artifact is None:
        return Choice(commit.kept)
    path = Path(folder) / commit.artifact
    if not path.exists() or sha256_of(path) != commit.sha256:
        raise Failed(f"artifact {path}: is missing or not what the journal names; delete the stage {Path(folder).name} and run again")
    tensors = {name: tensor.clone() for name, tensor in load_tensors(path)[0].items()}  # aligned alike in every process
    further = tuple(tensors[f"weight/{i}"] for i in range(1, sum(name.startswith("weight/") for name in tensors) + 1))
    intercepts = tuple(tensors[f"intercept/{i}"] for i in range(sum(name.startswith("intercept/") for name in tensors)))
    return Choice(commit.kept, tensors.get("coefficients"), tensors.get("weight"), further, intercepts)


def explained_share(folder: Path, commit: Commit) -> float | None:
    """f(S) / f(all) of a re-fitted unit, None for one that is not re-fitted."""
    if commit.artifact is None:
        return None
    tensors, _ = load_tensors(Path(folder) / commit.artifact)
    return float(tensors["explained_share"]) if "explained_share" in tensors else None
