"""A group: which runs belong together, and the state of each as its own directory tells it."""

import re
from pathlib import Path

from pipeline.config.errors import BadInput
from pipeline.config.files import read_json, write_json
from pipeline.stages.lock import is_live

GROUP = "group.json"


def run_state(folder: Path) -> tuple[str, str | None]:
    """(state, error) of a run from its directory alone; error is None unless it failed."""
    folder = Path(folder)
    if not (folder / "config.yaml").exists() and not (folder / "error.json").exists():
        return "pending", None
    if (folder / "result.json").exists():
        return "done", None
    if is_live(folder / "lock.json"):
        return "running", None
    if (folder / "result.json").exists():  # it ended between the two looks
        return "done", None
    if (folder / "error.json").exists():
        return "failed", _message(folder / "error.json")
    return "stopped", None


def _message(path: Path) -> str:
    try:
        return str(read_json(path)["message"]) or "unknown error"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{path.name} is damaged"


def write_group(folder: Path, name: str, digest: str, runs: list[tuple[str, str]]) -> dict:
    """Write group.json of `runs` = (directory name, hash) beside `folder`; its content."""
    entries = []
    for run, run_hash in runs:
        state, error = run_state(Path(folder).parent / run)
        entries.append({"run": run, "hash": run_hash, "state": state, "error": error})
    group = {"name": name, "hash": digest, "runs": entries}
    path = Path(folder) / GROUP
    if _content(path) != group:
        write_json(path, group)
    return group


def _content(path: Path):
    try:
        return read_json(path)
    except (OSError, ValueError):  # missing, or damaged: it can be written at any time
        return None


def read_names(folder: Path) -> tuple[str, str, list[tuple[str, str]]]:
    """(name, hash, runs) of a group as its group.json tells them, without a look at the runs. Raises BadInput when it is none."""
    try:
        group = read_json(Path(folder) / GROUP)
        runs = [(run["run"], run["hash"]) for run in group["runs"]]
        if not all(isinstance(name, str) and re.fullmatch(r"(?!\.\.?$)[^/\0]+", name) for name, _ in runs):
            raise ValueError("an entry of its runs names no directory beside it")
        return group["name"], group["hash"], runs
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{folder}: is no group directory, or its {GROUP} is damaged ({error}); run the same `gfs sweep` again") from error


def read_group(folder: Path) -> dict:
    """The content of group.json with the states that the run directories tell now. Raises BadInput when it is none."""
    name, digest, runs = read_names(folder)
    entries = [dict(zip(("run", "hash", "state", "error"), (run, digest_of, *run_state(Path(folder).parent / run)))) for run, digest_of in runs]
    return {"name": name, "hash": digest, "runs": entries}
