"""Where a run or a group stands, from files alone; a second look reads only what is new."""

import contextlib
import json
import time
from pathlib import Path
from statistics import median

from pydantic import ValidationError

from pipeline.config.errors import BadInput
from pipeline.config.files import read_json
from pipeline.config.rules import CRITERIA, follows_curves, measures_dense
from pipeline.config.settings import Prune
from pipeline.config.yaml import parse
from pipeline.stages.groups import GROUP, read_names, run_state
from pipeline.stages.lock import is_live
from pipeline.stages.standing import STAGES, Standing
from pipeline.stages.tail import Tail
from pipeline.submit.submission import SUBMISSION
from pipeline.submit.submitted import Submitted

MARKS = ("config.yaml", "error.json", "result.json", SUBMISSION)  # of a run directory, one of them is there


def open_status(path: str) -> "RunStatus | GroupStatus":
    """What looks at a run or a group. Raises BadInput when `path` is neither."""
    folder = Path(path)
    try:
        if (folder / GROUP).exists():
            return GroupStatus(folder)
        if not any((folder / name).exists() for name in MARKS):
            raise BadInput(f"{path}: is no run or group directory; give one that `gfs run` or `gfs sweep` printed{_near(folder)}")
        return RunStatus(folder)
    except PermissionError as error:
        raise _unreadable(path, error) from error


def read_status(path: str) -> dict:
    """Schema `status` of a run or group directory. Raises BadInput when it is neither."""
    return open_status(path).look()


def _near(folder: Path) -> str:
    """A hint for those who give the place of runs, or nothing."""
    inside = sorted(path.parent for name in (GROUP, MARKS[0]) for path in folder.glob(f"*/{name}")) if folder.is_dir() else []
    return f", such as {inside[0]}" if inside else ""


def _unreadable(path, error: OSError) -> BadInput:
    return BadInput(f"{error.filename or path}: cannot be read ({error.strerror}); look at it as the user who runs it")


class RunStatus:
    """One run."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.tail, self.standing = Tail(self.folder / "metrics.jsonl"), self._fresh()
        self.config: dict | None = None
        self.submitted = Submitted(self.folder)

    def look(self) -> dict:
        """Schema `status`; `progress` and `eta_seconds` are of the stage. Beside it the share of the whole run, how it ended, what came out."""
        try:
            state, error = run_state(self.folder)
            self._read()
        except PermissionError as refused:
            raise _unreadable(self.folder, refused) from refused
        standing, running, done = self.standing, state == "running", state == "done"
        result = _result_of(self.folder) if done else {}
        return self.submitted.adjust({
            "run": self.folder.resolve().name,
            "state": state,
            "stage": standing.stage,
            "unit": standing.unit,
            "step": standing.step,
            "progress": 1.0 if done else standing.share,
            "eta_seconds": 0.0 if done else standing.seconds_left(time.time()) if running else None,
            "workers": 0 if not running else 1 if standing.workers is None else standing.workers,
            "job": None,
            "whole": 1.0 if done else standing.whole(self.stages()),
            "error": error,
            "top1_untrained": _number(result.get("top1_selected")),
            "top1": _number(result.get("top1")),
        })

    def _fresh(self) -> Standing:
        return Standing(self._units_of, self._epochs_of)

    def _read(self) -> None:
        lines = self.tail.look()
        if self.tail.began_anew:
            self.standing = self._fresh()
        for line in lines:
            self.standing.take(line)

    def settings(self) -> dict:
        """The run's resolved settings; empty while there are none."""
        if not self.config:
            with contextlib.suppress(OSError, BadInput):
                self.config = parse((self.folder / "config.yaml").read_text(), "config.yaml")
        return self.config if isinstance(self.config, dict) else {}

    def stages(self) -> list[str]:
        """The stages that this run has."""
        settings = self.settings()
        try:
            prune = Prune.model_validate(settings.get("prune") or {})
        except ValidationError:  # of a later version, or damaged
            prune = Prune()
        has = {"train": settings.get("arm") != "none", "curves": follows_curves(prune), "statistics": measures_dense(prune)}
        budget = settings.get("budget") or {}
        has |= {"scores": prune.selector in CRITERIA, "latencies": "latency_ms" in budget, "bisection": "top1_drop" in budget}
        return [name for name in STAGES if has.get(name, True)]

    def _units_of(self, key: str) -> int | None:
        """How many units a search walks, as its journal begins."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            with open(self.folder.parent / "stages" / f"search-{key}" / "journal.jsonl") as journal:
                return len(json.loads(journal.readline())["units"]) or None
        return None


    def _epochs_of(self, stage: str | None) -> int | None:
        recipe = self.settings().get(stage)
        epochs = recipe.get("epochs") if isinstance(recipe, dict) else None
        return epochs if isinstance(epochs, int) else None


class GroupStatus:
    """A group: its runs lie beside it, each looked at for itself."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.runs: dict[str, RunStatus] = {}
        self.ended: dict[str, dict] = {}  # runs that are done stay as they are
        self.submitted = Submitted(self.folder)

    def look(self) -> dict:
        """Schema `status`; beside it the status of each run."""
        try:
            _, _, names = read_names(self.folder)
            driven = is_live(self.folder / "lock.json")
        except PermissionError as refused:
            raise _unreadable(self.folder, refused) from refused
        runs = [self._of(name) for name, _ in names]
        state = _state([run["state"] for run in runs], driven)
        running = [run for run in runs if run["state"] == "running"]
        return self.submitted.adjust({
            "run": self.folder.resolve().name,
            "state": state,
            "stage": running[0]["stage"] if running else None,
            "unit": None,
            "step": None,
            "progress": sum(run["whole"] for run in runs) / len(runs) if runs else None,
            "eta_seconds": 0.0 if state == "done" else self._left(runs, len(running)) if state == "running" else None,
            "workers": sum(run["workers"] for run in runs),
            "job": None,
            "runs": runs,
        })

    def _of(self, name: str) -> dict:
        if name in self.ended:
            return self.ended[name]
        if name not in self.runs:
            self.runs[name] = RunStatus(self.folder.parent / name)
        status = self.runs[name].look()
        if status["state"] == "done":
            self.ended[name] = status
        return status

    def _left(self, runs: list[dict], at_once: int) -> float | None:
        """Seconds left, if each run goes on as fast as it went and what has not begun takes as long as the others; None while none is done."""
        if not any(run["state"] == "done" for run in runs):
            return None
        begun = [run for run in runs if run["whole"] > 0 and run["state"] != "pending"]
        took = {run["run"]: self.runs[run["run"]].standing.seconds_spent() / run["whole"] for run in begun}
        usual = median(took.values())
        open_runs = [run for run in runs if run["state"] not in ("done", "failed")]
        left = (max(took.get(run["run"], usual) * (1 - run["whole"]), run["eta_seconds"] or 0.0) for run in open_runs)
        return sum(left) / max(min(at_once, len(open_runs)), 1)

    def swept(self) -> list[str]:
        """The settings in which the runs differ, as the group's config lists them; those inside mappings by their own names."""
        with contextlib.suppress(OSError, BadInput, AttributeError, TypeError):
            lists = parse((self.folder / "config.yaml").read_text(), "config.yaml")["sweep"]
            found = {}
            for key, values in lists.items():
                inner = [f"{key}.{name}" for value in values if isinstance(value, dict) and key != "budget" for name in value]
                found |= dict.fromkeys(inner or [key])
            return list(found)
        return []


def _state(states: list[str], driven: bool) -> str:
    """Of a group by its runs; pending is only one that waits as a cluster job, which its launcher tells."""
    if driven or "running" in states:
        return "running"
    if states and set(states) == {"done"}:
        return "done"
    return "failed" if "failed" in states and "pending" not in states else "stopped"


def _number(value) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _result_of(folder: Path) -> dict:
    """result.json of a run; empty where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        found = read_json(Path(folder) / "result.json")
        return found if isinstance(found, dict) else {}
    return {}
