"""What tests of tracking share: a run directory by hand, W&B's own reader, numbers of anything."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

READER = Path(sys.executable).with_name("wandb")
OWN = ("_step", "_runtime", "_timestamp")  # W&B's own, in each row of a history
KEY = "planted0key0" + "k" * 28  # long enough for W&B to take it


def records(run: Path, kind: str) -> list[dict]:
    """The records of one kind in the one mirror of `run`, read by W&B's own reader."""
    (mirror,) = run.glob("wandb/*run-*/*.wandb")
    read = subprocess.run([READER, "leet", "inspect", "--json", mirror], capture_output=True, text=True, check=True, timeout=120)
    lines = [json.loads(line) for line in read.stdout.splitlines()]
    return [line[kind] for line in lines if line["type"] == kind]


def history(run: Path) -> dict[int, dict]:
    """{step: values} of the mirror; each step is there once."""
    steps = {}
    for record in records(run, "history"):
        assert record["item"]["_step"] not in steps
        steps[record["item"]["_step"]] = record["item"]
    return steps


def summary(run: Path) -> dict:
    found = {}
    for record in records(run, "summary"):
        found |= record["update"]
    return found


def events(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def numbers(value) -> Counter:
    """How often each number is in a JSON value, at any depth."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return sum(map(numbers, value), Counter())
    return Counter([value]) if isinstance(value, (int, float)) and not isinstance(value, bool) else Counter()


def assert_mirrored(run: Path) -> None:
    """Every number of metrics.jsonl, and no other, is in the mirror at the step of its line."""
    told, seen = events(run), history(run)
    assert sorted(seen) == list(range(len(told)))
    for step, event in enumerate(told):
        assert numbers(event) == numbers({name: value for name, value in seen[step].items() if name not in OWN}), event


def small_run(root: Path, name: str = "run-0") -> tuple[Path, dict]:
    """(run directory, result row): as a finished run leaves them, as little as tracking reads."""
    run = root / "runs" / name
    (run.parent / "stages/search-s").mkdir(parents=True, exist_ok=True)
    run.mkdir()
    lines = [
        {"time": "2026-01-02T03:04:05.5Z", "event": "run", "run": name, "state": "running"},
        {"time": "2026-01-02T03:04:06.0Z", "stage": "search", "event": "pick", "unit": "a", "step": 0, "score": 0.75, "done": 1, "total": 2},
        {"time": "2026-01-02T03:04:07.0Z", "stage": "search", "event": "pick", "unit": "a", "step": 1, "score": 1 / 3, "done": 2, "total": 2},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "arch.json").write_text(json.dumps({"units": {"a": {"kind": "hidden", "width": 4, "kept": [2, 0]}}}))
    picks = [{"kind": "pick", "unit": "a", "step": n, "neuron": 2 - 2 * n, "score": 0.5 / (n + 1), "margin": None, "candidates": 4} for n in range(2)]
    journal = [{"kind": "begin"}, *picks, {"kind": "end"}]
    (run.parent / "stages/search-s/journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in journal))
    return run, {"run": name, "top1": 88.25, "latency": [{"ms": 1.5}, {"ms": 2.5}], "note": None, "stages": {"search": "s"}}


def outside(**more) -> dict:
    """This environment without what a user of W&B may have set."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")} | more
