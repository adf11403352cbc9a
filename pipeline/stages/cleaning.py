"""Removing stages that no run names, and what kills left behind."""

import re
import secrets
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config.errors import BadInput, Failed, Stopped
from pipeline.stages.lock import Lock, is_live
from pipeline.stages.naming import Named, read_named

DAY = 86400.0
ASIDE = ".removed."  # a stage that is being removed has this before its name
STAGE = re.compile(r"[a-z]+-[0-9a-f]{16,128}")
PASSING = (".lock.*", ".stale.*", ".clock.*", ".*.tmp")  # files that live for a moment
SPILLED = ".walk-*"  # activations of a search, in its stage


@dataclass(frozen=True)
class Cleaned:
    """{path: bytes} of the stages and the leftovers that went, or would go; {stage: why} of those that stay though no run names them."""

    stages: dict[Path, int] = field(default_factory=dict)
    leftovers: dict[Path, int] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)


def clean(runs_dir: str, dry_run: bool = False) -> Cleaned:
    """Remove what no run needs below `runs_dir`. Raises BadInput when it is no place of runs, or a run there cannot be read."""
    root = Path(runs_dir)
    try:
        if not (root / "stages").is_dir():
            raise BadInput(f"{runs_dir}: holds no stages/; give the directory that `runs_dir` of a config names")
        return _clean(root, dry_run)
    except PermissionError as error:
        raise BadInput(f"{error.filename or runs_dir}: cannot be cleaned ({error.strerror}); do it as the user who runs there") from error


def _clean(root: Path, dry_run: bool) -> Cleaned:
    cleaned, named = Cleaned(), read_named(root)
    for stage in sorted(path for path in (root / "stages").iterdir() if STAGE.fullmatch(path.name) and path.is_dir() and not path.is_symlink()):
        if stage.name in named.stages:
            continue
        size = _size(stage)
        reason = _use_of(stage, named) or (None if dry_run else _remove(root, stage))
        if reason:
            cleaned.kept[stage.name] = reason
        else:
            cleaned.stages[stage] = size
    for path in _leftovers(root):
        cleaned.leftovers[path] = _size(path)
        if not dry_run:
            _delete(path)
    return cleaned


def _use_of(stage: Path, named: Named) -> str | None:
    """Why a stage stays: it is named, or though no run names it; None when it may go."""
    if is_live(stage / "lock.json"):
        return "a live process works on it"
    return _use_of_locked(stage, named)


def _use_of_locked(stage: Path, named: Named) -> str | None:
    if stage.name in named.stages:
        return "a run has come to name it"
    if not (stage / "done.json").exists() and _age(stage) < DAY:
        return "it was begun less than a day ago, a run may go on with it"
    kind = stage.name.partition("-")[0]
    waiting = next((run for run, kinds in named.at_work.items() if kind not in kinds), None)
    return f"run {waiting} is at work and may come to need it" if waiting else None


def _remove(root: Path, stage: Path) -> str | None:
    """Out of its name in one step, under its lock, then deleted: no kill leaves half a stage. Why not, where somebody came first."""
    aside = stage.with_name(f"{ASIDE}{stage.name}.{secrets.token_hex(4)}")
    try:
        with Lock(stage, f"stage {stage.name}"):
            if reason := _use_of_locked(stage, read_named(root)):
                return reason
            stage.rename(aside)
    except Stopped:
        return "a live process works on it"
    _delete(aside)
    return None


def _leftovers(root: Path) -> list[Path]:
    """Stages half removed; and, older than a day and where no live process works, files that only a kill leaves."""
    found = sorted((root / "stages").glob(f"{ASIDE}*"))
    for folder in sorted(path for path in [*root.iterdir(), *(root / "stages").iterdir()] if path.is_dir() and not path.name.startswith(".")):
        if is_live(folder / "lock.json"):
            continue
        inside = folder.rglob if folder.parent.name == "stages" else folder.glob  # below a run lie W&B's and Tune's own files
        paths = sorted({path for pattern in (*PASSING, SPILLED) for path in inside(pattern)})
        found += [path for path in paths if time.time() - path.lstat().st_mtime > DAY and not any(above in paths for above in path.parents)]
    return found


def _age(stage: Path) -> float:
    """Seconds since a file of it was written last; endless where nothing would be lost."""
    written = [path.lstat().st_mtime for path in stage.rglob("[!.]*") if path.name != "lock.json" and path.is_file()]
    return time.time() - max(written) if written else float("inf")


def _size(path: Path) -> int:
    inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(each.lstat().st_size for each in inside if each.is_symlink() or each.is_file())


def _delete(path: Path) -> None:
    """Raises Failed when it stays: what is aside is removed by the next clean."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return  # another clean was at it
    except OSError as error:
        raise Failed(f"{error.filename or path}: cannot be removed ({error.strerror}); see to its permissions, then clean again") from error
