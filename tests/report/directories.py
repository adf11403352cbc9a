"""Run and group directories made from dictionaries: what `gfs run` leaves, in miniature."""

import hashlib
import json
from pathlib import Path

from pipeline.config.yaml import dump
from pipeline.journal import encode

PRUNE = {"selector": "l1", "refit": "none", "allocation": "uniform", "mode": None, "engine": None, "reference": None, "units": ["hidden"], "ridge": None}
GREEDY = {"selector": "reconstruction", "refit": "lsq", "allocation": "uniform", "mode": "sequential", "engine": "forward", "ridge": 0.01}
UNITS = {"stem": 16, "head": 8}


def key_of(*parts) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def config_of(prune=PRUNE, budget=0.5, arm="none", seed=0, epochs=1, **sections) -> dict:
    return {
        "name": "demo", "seed": seed, "data": {"source": "toys"}, "network": {"model": "net"}, "dense": {"epochs": 4}, "prune": dict(PRUNE) | prune,
        "budget": {"prunable_macs": budget}, "arm": arm, "train": {"epochs": epochs, "lr": 0.1}, "scoring": {"batch": 64}, "evaluate": {"latency": True},
    } | sections  # fmt: skip


def row_of(config: dict, **changes) -> dict:
    """A result that satisfies the contract; `changes` replace fields."""
    prune, arm, seed = config["prune"], config["arm"], config["seed"]
    (share,) = config["budget"].values()
    drawn = seed if prune["mode"] else None
    search = key_of(prune, share, drawn)
    trains = arm != "none"
    top1, selected = 80.0 + seed + 4 * trains, 80.0 + (drawn or 0)
    row = {
        "schema": "goodsubnets/result/1", "model": "net", "img_size": 28, "top1": top1 if trains else selected, "top1_err": 0.0, "top5": 99.0,
        "top5_err": 1.0, "param_count": 0.002, "run": "", "run_hash": key_of(config), "group": None, "seed": seed,
        "stages": {"search": search, "shrink": search, "untrained": key_of("u", search), "train": key_of("t", config), "evaluate": key_of("e", config)},
        "dataset": "toys", "data_digest": key_of("train"), "test_digest": key_of("test"), "num_classes": 10, "test_samples": 400,
        "weights_sha256": "0" * 64, **{name: prune[name] for name in ("selector", "refit", "allocation", "engine", "reference", "mode")},
        "budget_kind": "prunable_macs", "budget_target": share, "note": None, "macs": int(1000 * share), "macs_dense": 1000,
        "macs_bn": int(1100 * share), "macs_bn_dense": 1100, "prunable_macs": int(1000 * share), "prunable_macs_dense": 1000, "params": 2000,
        "params_dense": 4000, "width_kept": 0.6, "arm": arm, "epochs": config["train"]["epochs"] if trains else 0, "train_images": 1000 * trains,
        "train_macs": 3000000 * trains, "select_images": 512, "select_macs": 512000, "top1_dense": 90.0, "top1_selected": selected,
        "top1_recalibrated": 82.0, "top1_best_val": top1 if trains else None, "epoch_best_val": 0 if trains else None,
        "latency": [{"device": "cpu", "batch": 1, "dtype": "float32", "channels_last": True, "compile": False, "threads": 1, "ms": 1.0, "ms_dense": 2.0}],
        "select_seconds": 0.5, "train_seconds": 9.0 * trains, "device": "cpu", "versions": {"torch": "2"}, "git": "abc",
        "finished_utc": "2026-01-01T00:00:00Z", "not_run": {} if trains else dict.fromkeys(("top1_best_val", "epoch_best_val"), "arm none trains nothing"),
    }  # fmt: skip
    if not trains:
        del row["stages"]["train"]
    row |= changes
    return row | {"top1_err": 100 - row["top1"]}


def make_run(root: Path, config: dict | None = None, done=True, error=None, scores=(0.5, 0.25), **changes) -> Path:
    """A run directory with the files a report reads; unfinished without `done`, failed with `error`."""
    config = config or config_of()
    row = row_of(config, **changes)
    folder = root / f"demo-{row['run_hash'][:8]}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump(config))
    write(folder / "env.json", {"versions": row["versions"], "git": row["git"], "device": row["device"], "threads": 2})
    if error:
        write(folder / "error.json", {"code": 1, "message": error})
    if done:
        write(folder / "result.json", row | {"run": folder.name})
        write(folder / "stages.json", row["stages"])
        units = {name: {"kind": "hidden", "width": width, "kept": list(range(width // 2))} for name, width in UNITS.items()}
        write(folder / "arch.json", {"builder": "timm", "model": "net", "arguments": {}, "unit_kinds": ["hidden"], "units": units})
        make_journal(root / f"stages/search-{row['stages']['search']}", scores if config["prune"]["engine"] else ())
    return folder


def make_journal(folder: Path, scores) -> None:
    lines = [{"kind": "pick", "unit": unit, "step": step, "neuron": step, "score": score} for unit in UNITS for step, score in enumerate(scores)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "journal.jsonl").write_bytes(b"".join(encode(i, line) + b"\n" for i, line in enumerate([{"kind": "begin"}, *lines, {"kind": "end"}])))


def make_group(root: Path, runs: dict[Path, tuple[str, str | None]], config: dict | None = None) -> Path:
    folder = root / "demo-group"
    folder.mkdir()
    entries = [{"run": run.name, "hash": "0" * 8, "state": state, "error": error} for run, (state, error) in runs.items()]
    write(folder / "group.json", {"name": "demo", "hash": "0" * 8, "runs": entries})
    if config:
        (folder / "config.yaml").write_text(dump(config))
    return folder


def write(path: Path, value) -> None:
    path.write_text(json.dumps(value))
