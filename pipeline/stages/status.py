"""The state of a run, read from its files alone."""

import json
from datetime import datetime
from pathlib import Path

from pipeline.config.errors import BadInput
from pipeline.stages.lock import is_live


def read_status(path: str) -> dict:
    """Schema `status` of a run directory. Raises BadInput when it is none."""
    folder = Path(path)
    if not (folder / "config.yaml").exists():
        raise BadInput(f"{path}: is no run directory; give one that `gfs run` printed")
    events = _events(folder / "metrics.jsonl")
    last = next((event for event in reversed(events) if event.get("stage")), {})
    work = next((event for event in reversed(events) if event["event"] in ("pick", "unit", "training", "epoch", "answer")), {})
    state = _state(folder)
    of_stage = work if work.get("stage") == last.get("stage") else {}
    done, total = (of_stage.get("step"), of_stage.get("total")) if "lr" in of_stage else (of_stage.get("done"), of_stage.get("total"))
    return {
        "run": folder.resolve().name,
        "state": state,
        "stage": last.get("stage"),
        "unit": of_stage.get("unit") if last.get("stage") == "search" else None,
        "step": of_stage.get("step"),
        "progress": 1.0 if state == "done" else min(done / total, 1.0) if done is not None and total else None,
        "eta_seconds": 0.0 if state == "done" else _eta(events, of_stage) if state == "running" else None,
        "workers": 1 if state == "running" else 0,
        "job": None,
    }


def _eta(events: list[dict], work: dict) -> float | None:
    """Seconds left of the task at work, from the rate of its own events; None while there are fewer than two."""
    place, total = ("step" if "lr" in work else "done"), work.get("total")
    same = [e for e in events if all(e.get(name) == work.get(name) for name in ("event", "stage", "total")) and place in e]
    if len(same) < 2 or not total:
        return None
    first, last = same[0], same[-1]
    seconds = (datetime.fromisoformat(last["time"]) - datetime.fromisoformat(first["time"])).total_seconds()
    rate = (last[place] - first[place]) / seconds if seconds > 0 else 0.0
    return (total - last[place]) / rate if rate > 0 else None


def _state(folder: Path) -> str:
    if (folder / "result.json").exists():
        return "done"
    if is_live(folder / "lock.json"):
        return "running"
    return "failed" if (folder / "error.json").exists() else "stopped"


def _events(path: Path) -> list[dict]:
    events = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            event = json.loads(line)
        except ValueError:
            break
        events += [event] if isinstance(event, dict) and "event" in event else []
    return events


def describe(status: dict) -> str:
    """One line for people."""
    parts = [f"{status['run']}: {status['state']}"]
    parts += [f"{name} {status[name]}" for name in ("stage", "unit", "step") if status[name] is not None]
    if status["progress"] is not None:
        parts.append(f"{status['progress']:.0%} of it")
    return ", ".join(parts)


