"""Stages: a computation named by what it read, done once, found finished ever after."""

import json
import os
import platform
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from pipeline.config.digests import digest, sha256_of
from pipeline.config.errors import BadInput, Failed
from pipeline.config.files import read_json, write_json
from pipeline.stages.lock import Lock


@dataclass(frozen=True)
class Stage:
    """A stage by name and version, the settings it reads (normalised) and the digests of its inputs."""

    name: str
    version: int
    settings: dict
    inputs: dict[str, str]

    @cached_property
    def key(self) -> str:
        """Digest of all that the stage reads."""
        return digest({"name": self.name, "version": self.version, "settings": self.settings, "inputs": self.inputs})


@dataclass(frozen=True)
class Done:
    """A finished stage: its folder, and {artifact: sha256} of what it leaves."""

    stage: Stage
    folder: Path
    artifacts: dict[str, str]
    facts: dict

    def digest(self, *names: str) -> str:
        """Digest of some of its artifacts; how later stages name them as inputs."""
        return digest([[name, self.artifacts[name]] for name in names])


def environment(device: torch.device) -> dict:
    """What a half-done stage must find again to go on."""
    return {"device": device.type, "dtype": "float32", "torch": torch.__version__, "python": platform.python_version()}


@dataclass(frozen=True)
class Store:
    """The stages below one runs directory."""

    root: Path
    device: torch.device

    def folder(self, stage: Stage) -> Path:
        return self.root / "stages" / f"{stage.name}-{stage.key}"

    def find(self, stage: Stage) -> Done | None:
        """The stage if it is finished. Raises Failed naming what to delete when an artifact is damaged."""
        folder = self.folder(stage)
        if not (folder / "done.json").exists():
            return None
        try:
            done = read_json(folder / "done.json")
            artifacts, facts = done["artifacts"], done["facts"]
            if not isinstance(artifacts, dict) or done.get("digest", _digest(artifacts, facts)) != _digest(artifacts, facts):
                raise ValueError("its digest is wrong")
        except (ValueError, KeyError, TypeError) as error:
            raise Failed(f"stage {folder}: done.json is damaged ({error}); delete this folder and run again") from error
        for name, expected in artifacts.items():
            path = folder / name
            if not path.exists() or sha256_of(path) != expected:
                raise Failed(f"stage {folder}: {name} is {'damaged' if path.exists() else 'missing'}; delete this folder and run again")
        return Done(stage, folder, artifacts, facts)

    def run(self, stage: Stage, work, observe) -> Done:
        """The finished stage: found, or made by work(folder, guard) -> (artifact names, facts).

        `guard()` raises when another process took the stage over. Bad input removes a stage that this call began.
        """
        if (done := self.find(stage)) is not None:
            observe({"event": "stage", "stage": stage.name, "key": stage.key, "state": "found"})
            return done
        folder = self.folder(stage)
        with Lock(folder, f"stage {folder.name}", wait=lambda text: observe({"event": "notice", "message": text})) as lock:
            if (done := self.find(stage)) is not None:  # another run made it while this one waited
                observe({"event": "stage", "stage": stage.name, "key": stage.key, "state": "found"})
                return done
            with self._began(stage, folder):
                observe({"event": "stage", "stage": stage.name, "key": stage.key, "state": "running"})
                names, facts = work(folder, lock.check)
                lock.check()
                artifacts = {name: sha256_of(folder / name) for name in sorted(names)}
                write_json(folder / "done.json", {"artifacts": artifacts, "facts": facts, "digest": _digest(artifacts, facts)})
        observe({"event": "stage", "stage": stage.name, "key": stage.key, "state": "done"})
        return Done(stage, folder, artifacts, facts)

    @contextmanager
    def _began(self, stage: Stage, folder: Path):
        """Write what the stage reads; remove the folder again if its input turns out bad and nothing was there before."""
        fresh, now = not (folder / "settings.json").exists(), environment(self.device)
        if fresh:
            write_json(folder / "environment.json", now)
            write_json(folder / "inputs.json", stage.inputs)
            write_json(folder / "settings.json", stage.settings)
        else:
            _same_environment(folder, now)
            _remove_leftovers(folder)
        try:
            yield
        except BadInput:
            if fresh:
                shutil.rmtree(folder, ignore_errors=True)
            raise


def _digest(artifacts, facts) -> str:
    """Digest of what done.json says, as a reader gets it."""
    return digest(json.loads(json.dumps([artifacts, facts])))


def _remove_leftovers(folder: Path) -> None:
    """What a kill left behind: half-written files and spilled activations."""
    for path in [*folder.rglob(".*.tmp"), *folder.glob(".walk-*")]:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _same_environment(folder: Path, now: dict) -> None:
    try:
        began = dict(read_json(folder / "environment.json"))
    except (OSError, ValueError, TypeError) as error:
        raise Failed(f"stage {folder}: environment.json is damaged ({error}); delete this folder and run again") from error
    changed = [f"{name} was {began.get(name)}, is {now[name]}" for name in now if began.get(name) != now[name]]
    if changed:
        raise BadInput(f"stage {folder}: was begun under another environment ({'; '.join(changed)}); go back to it, or delete this folder")


def free_gib(folder: Path) -> float:
    """Free disk space below `folder`, GiB."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / 2**30 if os.path.isdir(folder) else 0.0
