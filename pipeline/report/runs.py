"""Run and group directories become one collection: finished runs with their row, all others as gaps with their reason."""

import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.errors import BadInput
from pipeline.config.yaml import parse
from pipeline.report.planned import place_unbegun
from pipeline.report.result import read_object, read_result
from pipeline.report.run import Run, typed

STATES = ("pending", "running", "stopped", "done", "failed")


@dataclass(frozen=True)
class Group:
    name: str
    folder: Path
    has_config: bool

    @property
    def place(self) -> str:
        return typed(self.folder)


@dataclass(frozen=True)
class Collection:
    """What was given: runs in the order given, each once."""

    done: list[Run]
    gaps: list[Run]
    groups: list[Group]


def gather(paths) -> Collection:
    """All runs of run and group directories. Raises BadInput for anything else, and when no run is finished."""
    found: dict[Path, Run] = {}
    groups: dict[Path, Group] = {}
    for path in map(Path, paths):
        if (path / "group.json").is_file():
            groups[path.resolve()] = _group_of(path)
            runs = place_unbegun(_runs_of_group(path), path / "config.yaml")
        elif _is_run(path):
            runs = [read_run(path)]
        else:
            raise BadInput(f"{path}: is no run or group directory; give directories that `gfs run` or `gfs sweep` printed")
        for run in runs:
            key = run.folder.resolve()
            if key not in found or found[key].state == "unfinished":  # a group knows more of its state
                found[key] = run
    done = _each_once([run for run in found.values() if run.row])
    if not done:
        raise BadInput(f"{', '.join(map(str, paths)) or 'no path'}: holds no finished run; finish one first (`gfs status` says where it stands)")
    return Collection(done, [run for run in found.values() if not run.row], list(groups.values()))


def _is_run(path: Path) -> bool:
    return (path / "result.json").is_file() or (path / "config.yaml").is_file()


def read_run(folder: Path, state: str = "unfinished", error: str | None = None) -> Run:
    """A run directory; `state` and `error` are what a group says of it, its own files come first."""
    config = _config(folder / "config.yaml")
    if (folder / "result.json").is_file():
        return Run(folder, read_result(folder / "result.json"), "done", None, config)
    if (folder / "error.json").is_file():
        message = read_object(folder / "error.json", "give the run's command again").get("message")
        return Run(folder, None, "failed", str(message or "no reason given"), config)
    if state == "done":
        state, error = "failed", "the group calls it done, its result.json is missing"
    return Run(folder, None, state, error, config)


def _config(path: Path) -> dict:
    """The resolved settings a run was started with; none for one that never began."""
    if not path.is_file():
        return {}
    try:
        config = parse(path.read_text(encoding="utf-8"), str(path))
        json.dumps(config, ensure_ascii=False).encode()
    except BadInput:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); leave the run out") from error
    return config if isinstance(config, dict) else {}


def _group_of(path: Path) -> Group:
    name = read_object(path / "group.json", "give the sweep's command again").get("name")
    return Group(str(name or path.name), path, (path / "config.yaml").is_file())


def _runs_of_group(path: Path) -> list[Run]:
    file = path / "group.json"
    runs = []
    entries = read_object(file, "give the sweep's command again").get("runs")
    for entry in entries if isinstance(entries, list) else [None]:
        name = entry.get("run") if isinstance(entry, dict) else None
        if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name or entry.get("state") not in STATES:
            raise BadInput(f"{file}: is damaged, an entry of its runs names no run and state; give the sweep's command again")
        runs.append(read_run(path.parent / name, entry["state"], entry.get("error")))
    return runs


def _each_once(runs: list[Run]) -> list[Run]:
    """Copies of one run count once; two different results under one hash are refused."""
    kept: dict[str, Run] = {}
    for run in runs:
        first = kept.setdefault(run.row["run_hash"], run)
        if first.row != run.row:
            raise BadInput(f"{first.folder} and {run.folder}: two different results of one run ({run.row['run_hash'][:8]}); give one of them")
    return list(kept.values())
