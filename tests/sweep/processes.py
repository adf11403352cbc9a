"""Real `gfs sweep` processes: started, watched, broken off; what they leave behind."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.stages.lock import is_live
from tests.conftest import CONSOLE, ROOT

PATIENCE = 240  # seconds that a condition may take on a busy machine


@dataclass
class Group:
    """A sweep's config file, the runs directory it names, a temporary directory of its own, so that its processes can be told."""

    config: Path
    runs_dir: Path
    scratch: Path
    cwd: Path = ROOT
    environment: dict = field(default_factory=dict)

    def start(self, *overrides, verb="sweep") -> subprocess.Popen:
        """`gfs sweep` in a process group of its own, as a shell starts it."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(self.scratch)} | self.environment
        command = [CONSOLE, verb, "-c", self.config, *overrides]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=self.cwd, env=environment, text=True, start_new_session=True, **pipes)

    def run(self, *overrides, code=0, verb="sweep"):
        """`gfs sweep` to its end: (stdout, stderr); its exit code must be `code`."""
        process = self.start(*overrides, verb=verb)
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, f"exit code {process.returncode}: {out}\n{err}"
        return out, err

    @property
    def folder(self) -> Path:
        (found,) = (path.parent for path in self.runs_dir.glob("*/group.json"))
        return found

    @property
    def runs(self) -> list[dict]:
        return json.loads((self.folder / "group.json").read_text())["runs"]

    def states(self) -> Counter:
        return Counter(run["state"] for run in self.runs)

    def notices(self) -> list[str]:
        return [event["message"] for event in events(self.folder) if event["event"] == "notice"]

    def processes(self) -> dict[int, str]:
        """{pid: command line} of all that live and descend from this group's commands."""
        mark, found = f"TMPDIR={self.scratch}".encode(), {}  # or a directory below it, where Ray's own leave their files
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (place / "environ").read_bytes():  # a zombie has none
                    found[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found


    def end(self) -> None:
        """Kill what is left of this group's processes."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def events(folder: Path) -> list[dict]:
    """The events of a run or a group, those complete so far."""
    path = Path(folder) / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def computed(runs_dir: Path) -> Counter:
    """{stage-key: how often a run of this directory computed it}."""
    found = Counter()
    for run in Path(runs_dir).glob("*/stages.json"):
        found += Counter(f"{e['stage']}-{e['key']}" for e in events(run.parent) if e["event"] == "stage" and e["state"] == "running")
    return found


def wait_for(condition, process=None, patience=PATIENCE):
    """The first truthy value of condition(); fails when `process` ends before."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if value := condition():
            return value
        assert process is None or process.poll() is None, f"ended too early: {process.communicate()}"
        time.sleep(0.02)
    raise AssertionError(f"did not come within {patience} s")


def working(runs_dir: Path, event="epoch", stage="train") -> tuple[Path, int] | None:
    """(directory, pid) of a run that is in the middle of `stage` now."""
    for lock in Path(runs_dir).glob("*/lock.json"):
        if (lock.parent / "group.json").exists() or not is_live(lock):
            continue
        seen = events(lock.parent)
        if seen and seen[-1]["event"] == event and seen[-1].get("stage") == stage:
            try:
                return lock.parent, json.loads(lock.read_text())["pid"]
            except (OSError, ValueError):
                continue
    return None


def kill(process: subprocess.Popen, number=signal.SIGKILL) -> str:
    """Send a signal to one process and wait for its end; its stderr."""
    process.send_signal(number)
    return process.communicate(timeout=PATIENCE)[1]


def outcome(runs_dir: Path) -> dict[str, object]:
    """What must hang neither on kills nor on the order of trials: results less times, journals and weights to the byte."""
    found: dict[str, object] = {}
    for path in sorted(Path(runs_dir).glob("*/result.json")):
        row = json.loads(path.read_text())
        for name in ("select_seconds", "train_seconds", "finished_utc", "git", "group"):
            row.pop(name)
        found[str(path.relative_to(runs_dir))] = row
        found |= {str((path.parent / name).relative_to(runs_dir)): (path.parent / name).read_bytes() for name in ("model.safetensors", "arch.json")}
    for pattern in ("search-*/journal.jsonl", "search-*/units/*", "shrink-*/model.safetensors", "dense-*/weights.safetensors", "train-*/last.*"):
        found |= {str(path.relative_to(runs_dir)): path.read_bytes() for path in sorted(Path(runs_dir).glob(f"stages/{pattern}"))}
    return found


def differing(one: dict, other: dict) -> list[str]:
    """Names under which two outcomes differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
