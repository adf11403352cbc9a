"""The table of settings x the stages whose key they change. Write it anew with GFS_WRITE_GOLDEN=1 pytest THIS_FILE."""

import os
from pathlib import Path

from pydantic import BaseModel

from pipeline.chain import normalise
from pipeline.config.digests import digest
from pipeline.config.load import assign, check_plain
from pipeline.config.settings import Config

TABLE = Path(__file__).parents[1] / "golden/stage_keys.md"
BASE = {
    "data": {"source": "fashion-mnist"},
    "network": {"model": "mobilenetv2_050", "num_classes": 10, "in_chans": 1, "img_size": 28},
    "train": {"distill": 0.5},  # at 1 label smoothing is not used, at 0 the temperature
}
PRUNERS = {
    "R": {"selector": "reconstruction", "refit": "lsq", "allocation": "uniform"},
    "I": {"selector": "reconstruction", "refit": "lsq", "allocation": "uniform", "mode": "independent"},
    "L": {"selector": "loss", "refit": "none", "engine": "stochastic"},
    "X": {"selector": "loss", "refit": "lsq", "engine": "exhaustive"},
    "N": {"selector": "l1", "refit": "none", "allocation": "uniform"},
    "M": {"selector": "l1", "refit": "lsq", "allocation": "marginal"},
    "O": {"selector": "bn", "refit": "none", "allocation": "marginal"},
    "G": {"selector": "l2", "refit": "lsq", "allocation": "global"},
    "T": {"selector": "tp.taylor", "refit": "none", "allocation": "uniform"},
    "P": {"selector": "tp.lamp", "refit": "none", "allocation": "global"},
    "Y": {"selector": "l1", "refit": "none", "allocation": "uniform"},
    "D": {"selector": "l1", "refit": "none", "allocation": "uniform"},
    "S": {"selector": "reconstruction", "refit": "lsq", "allocation": "uniform", "second_pass": True},
}
MEASURED = {"Y": {"latency_ms": "50%"}, "D": {"top1_drop": "1%"}}  # budgets that are measured by a stage of their own
STAGES = ("latencies", "data", "dense", "baseline", "bisection", "scores", "statistics", "curves", "search", "shrink", "train", "untrained", "evaluate")
OTHER = {  # another value for every setting; one that is refused today (not built) is named below
    "name": "other", "seed": 7, "runs_dir": "elsewhere", "device": "cpu", "arm": "reinit-epochs", "budget": {"macs": "40%"},
    "data.source": "FOLDER", "data.train": "PATH", "data.test": "PATH", "data.train_samples": 500, "data.test_samples": 500, "data.allow_schemes": ["http"],
    "network.model": "mobilenetv2_100", "network.weights": "timm", "network.num_classes": 11, "network.in_chans": 3, "network.img_size": 32,
    "network.arguments": {"drop_rate": 0.1}, "network.mean": [0.1], "network.std": [0.1], "network.crop_pct": 0.9,
    "network.interpolation": "bilinear", "network.top1": 90.0, "network.train_images": 999,
    "epochs": 3, "samples": 99, "batch": 64, "lr": 0.3, "momentum": 0.5, "weight_decay": 0.1, "warmup": 0.3, "clip": 2.0, "label_smoothing": 0.2,
    "ema": 0.5, "distill": 0.3, "temperature": 3.0, "augment": "none", "threads": 3, "checkpoint_seconds": 1.0, "loaders": 1,
    "prune.selector": "random", "prune.refit": "OTHER", "prune.mode": "OTHER", "prune.engine": "OTHER", "prune.calibration_samples": 77,
    "prune.ridge": 0.5, "prune.candidates": 9, "prune.max_picks": 33, "prune.round_to": 8, "prune.units": ["stream"], "prune.as_shipped": True, "prune.second_pass": True, "prune.probe_samples": 66, "train.lr_search": [0.01, 0.2], "train.lr_seed": 5, "prune.curves": "reconstruction",
    "scoring.batch": 7, "scoring.block_samples": 77, "scoring.block_candidates": 9, "scoring.threads": 3, "scoring.positions": 5,
    "scoring.gram_limit": 999, "scoring.memory_limit": 0.5, "evaluate.latency": False, "evaluate.latency_batch": 16, "evaluate.recalibration_samples": 99,
    "cluster.workers": 3, "cluster.address": "auto", "cluster.cpus": 2.0, "cluster.gpus": 1.0, "cluster.restarts": 1, "cluster.wait_seconds": 9.0,
    "tracking.mode": "off", "tracking.project": "other", "tracking.entity": "somebody",
}
UNBUILT = {"prune.reference", "sweep"}
UNHASHED = {
    "runs_dir", "device", "cluster.workers", "cluster.address", "cluster.cpus", "cluster.gpus", "cluster.restarts", "cluster.wait_seconds",
    "tracking.mode", "tracking.project", "tracking.entity", "data.allow_schemes", "network.top1", "network.train_images", "train.lr_seed", "scoring.memory_limit",
    "dense.checkpoint_seconds", "dense.loaders", "train.checkpoint_seconds", "train.loaders",
    "data.source", "data.train", "data.test",  # they enter as digests of what they hold
}


def leaves(model=Config, prefix=""):
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def settings_of(plain) -> dict[str, str]:
    config = check_plain(plain, "test")
    stages = {stage: getattr(normalise, f"{stage}_settings")(config) for stage in STAGES}
    return {name: digest(value) for name, value in stages.items()} | {"run": digest(normalise.run_settings(config))}


def plain_of(pruner):
    budget = {"budget": dict(MEASURED[pruner])} if pruner in MEASURED else {}
    return {**BASE, **budget, "train": dict(BASE["train"]), "prune": dict(PRUNERS[pruner]), "network": dict(BASE["network"]), "data": dict(BASE["data"])}


def other_value(key, pruner):
    value = OTHER.get(key, OTHER.get(key.rpartition(".")[2]))
    if key == "prune.refit" and pruner == "S":
        return None  # a second pass is one more least squares
    if key == "prune.second_pass" and pruner == "S":
        return False
    if key == "prune.refit":
        return "none" if PRUNERS[pruner]["refit"] == "lsq" else "lsq"
    if key == "prune.allocation":
        return "uniform" if pruner in "MOGP" else "marginal"
    if key == "prune.mode":
        return None if pruner in "LX" else "sequential" if pruner in "IA" else "independent"
    if key == "prune.engine":
        return {"L": "exhaustive", "X": "stochastic", "N": None, "M": None, "O": None, "G": None, "T": None, "P": None, "Y": None, "D": None}.get(pruner, "forward")
    if key == "prune.as_shipped" and pruner != "T":
        return None  # of Torch-Pruning's criteria alone
    if key == "prune.second_pass" and PRUNERS[pruner]["refit"] != "lsq":
        return None  # one more least squares
    if key == "evaluate.latency" and pruner == "Y":
        return None  # milliseconds are measured again
    if key == "train.lr_search" and pruner == "D":
        return None  # its share differs from seed to seed
    if key == "prune.units" and pruner in "RXMGS":
        return None  # streams are re-fitted in mode independent alone
    if key == "prune.selector" and pruner in "LXGP":
        return "l1" if pruner in "GP" else None  # engine and reference would belong to another selector; random has no scores
    return value


def changed(key, pruner) -> set[str]:
    value = other_value(key, pruner)
    if value is None or key in ("data.train", "data.test"):
        return set()
    plain = plain_of(pruner)
    before = settings_of(plain)
    if key == "data.source":
        return set()
    if key == "budget":
        plain["budget"] = value
    elif key == "network.in_chans":
        plain["network"]["in_chans"] = value
    else:
        assign(plain, key, value)
    after = settings_of(plain)
    return {name for name in before if before[name] != after[name]}


def table() -> str:
    head = ["# Settings and the stages whose key they change", "", "Made by `tests/chain/test_stage_keys.py`; do not edit. A letter is a pruner:"]
    given = {letter: prune | MEASURED.get(letter, {}) for letter, prune in PRUNERS.items()}
    head += [f"{letter} = {', '.join(f'{k} {v}' for k, v in settings.items())};" for letter, settings in given.items()]
    head += ["`all` = every one of them. `shrink` reads settings for a second pass alone, else its key is its inputs'. A changed stage changes those after it when its"]
    head += ["artifacts change. `run` = the run hash. Data and weights enter every key as digests of what they hold, never by path.", ""]
    rows = ["| setting | " + " | ".join((*STAGES, "run")) + " |", "|---" * (len(STAGES) + 2) + "|"]
    for key in leaves():
        if key in UNBUILT:
            rows.append(f"| {key} |" + " |" * len(STAGES) + " not built: only one value |")
            continue
        by_stage = {stage: "".join(p for p in PRUNERS if stage in changed(key, p)) for stage in (*STAGES, "run")}
        rows.append(f"| {key} | " + " | ".join("all" if cell == "".join(PRUNERS) else cell for cell in by_stage.values()) + " |")
    return "\n".join(head + rows) + "\n"


def test_the_committed_table_of_settings_and_stage_keys_is_up_to_date():
    if os.environ.get("GFS_WRITE_GOLDEN"):
        TABLE.write_text(table())
    assert TABLE.read_text() == table(), "keys changed: raise the stage's version if its meaning did, and write the table anew"


def test_only_places_and_ways_of_working_are_in_no_key():
    unhashed = {key for key in leaves() if key not in UNBUILT and not any("run" in changed(key, p) for p in PRUNERS)}
    assert unhashed == UNHASHED


def test_every_setting_has_another_value_to_try():
    assert [key for key in leaves() if key not in UNBUILT and all(other_value(key, pruner) is None for pruner in PRUNERS)] == []


def test_what_a_pruner_does_not_use_changes_none_of_its_keys():
    for key in ("prune.calibration_samples", "prune.mode", "prune.ridge", "scoring.batch"):
        assert "search" not in changed(key, "N"), key
    assert changed("prune.candidates", "R") == set()
    assert "dense" not in changed("seed", "R") and "search" not in changed("seed", "N")
