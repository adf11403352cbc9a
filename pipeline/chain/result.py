"""The result row of a run, put together from its finished stages."""

from pipeline.chain.arm import image_macs, open_shrunk
from pipeline.chain.context import Context
from pipeline.chain.sources import Dense, splits_of
from pipeline.config.files import read_json
from pipeline.config.settings import Config, budget_target
from pipeline.networks.saved import ARCH
from pipeline.networks.saved import WEIGHTS as MODEL
from pipeline.selection.budgets import TOLERANCE
from pipeline.stages.recorder import utc
from pipeline.stages.runs import device_name, git_commit, versions
from pipeline.stages.store import Done

SCHEMA = "goodsubnets/result/1"
CHOOSING = ("latencies", "scores", "statistics", "curves", "bisection", "shrink")  # beside the search, what choosing takes


def result_row(context: Context, identity: dict, done: dict[str, Done], dense: Dense) -> dict:
    """result.json. `identity`: run, run_hash, group; `done`: the finished stages by name."""
    config, prune = context.config, context.config.prune
    evaluate, shrink, search, arm = done["evaluate"].facts, done["shrink"], done["search"].facts, done.get("train")
    final = evaluate["last" if arm else "selected"]
    ((kind, target),) = config.budget.items()
    splits = splits_of(done["data"])
    arch = read_json(shrink.folder / ARCH)
    widths = arch["units"].values()
    cost, cost_dense = shrink.facts["cost"]["pruned"], shrink.facts["cost"]["dense"]
    params = _params(open_shrunk(dense, shrink.folder, shrink.folder / MODEL))
    best = max(arm.facts["history"], key=lambda record: (record["val_top1"], -record["epoch"])) if arm else None
    row = {
        "schema": SCHEMA,
        "model": config.network.model,
        "img_size": config.network.img_size,
        **{f"top{k}": round(final[f"top{k}"], 4) for k in (1, 5)},
        **{f"top{k}_err": round(100 - final[f"top{k}"], 4) for k in (1, 5)},
        "param_count": round(params / 1e6, 3),
        **identity,
        "seed": config.seed,
        "stages": {name: stage.stage.key for name, stage in done.items()},
        "dataset": splits.train.manifest.name,
        "data_digest": splits.train.manifest.digest,
        "test_digest": splits.test.manifest.digest,
        "num_classes": config.network.num_classes,
        "test_samples": splits.test.manifest.samples,
        "weights_sha256": dense.weights_sha256,
        **{name: getattr(prune, name) for name in ("selector", "refit", "allocation", "curves", "engine", "reference", "mode", "as_shipped")},
        "second_pass": bool(prune.second_pass),
        "unit_kinds": "+".join(prune.units),
        "budget_kind": kind,
        "budget_target": budget_target(kind, target),
        "note": _note(config, done),
        **cost,
        **{f"{name}_dense": value for name, value in cost_dense.items()},
        "params": params,
        "params_dense": _params(dense.network),
        "width_kept": sum(len(unit["kept"]) for unit in widths) / sum(unit["width"] for unit in widths),
        "arm": config.arm,
        "lr": arm.stage.settings["train"]["lr"] if arm else None,
        "epochs": len(arm.facts["history"]) if arm else 0,
        "train_images": arm.facts["images"] if arm else 0,
        "train_macs": arm.facts["images"] * image_macs(context, cost["macs"], cost_dense["macs"]) if arm else 0,
        "select_images": selection_cost(done, "images"),
        "select_macs": selection_cost(done, "macs"),
        "top1_dense": round(evaluate["dense"]["top1"], 4),
        "top1_selected": round(evaluate["selected"]["top1"], 4),
        "top1_recalibrated": round(evaluate["recalibrated"]["top1"], 4) if "recalibrated" in evaluate else None,
        "top1_best_val": round(evaluate["best"]["top1"], 4) if arm else None,
        "epoch_best_val": best["epoch"] if arm else None,
        "latency": evaluate["latency"],
        "select_seconds": search["seconds"] + sum(done[name].facts.get("seconds", 0.0) for name in CHOOSING if name in done),
        "train_seconds": arm.facts["seconds"] if arm else 0.0,
        "device": device_name(context.device),
        "versions": versions(),
        "git": git_commit(),
        "finished_utc": utc(),
        "not_run": _not_run(context, evaluate, arm),
    }
    return row


def selection_cost(done: dict[str, Done], name: str) -> int:
    """Images read or MACs spent on choosing: the search, the criterion's gradients, the curves where the allocation follows them,
    the other shares that a bisection tried, the second pass."""
    return sum(done[stage].facts.get(name, 0) for stage in ("scores", "curves", "bisection", "search", "shrink") if stage in done)


def _note(config: Config, done: dict[str, Done]) -> str | None:
    """Why the budget was missed by more than 1 %; milliseconds are those measured on the finished network."""
    found = done["bisection"].facts["note"] if "bisection" in done else done["search"].facts["note"]
    if "latency_ms" not in config.budget:
        return found
    target = budget_target("latency_ms", config.budget["latency_ms"])
    (row,) = (row for row in done["evaluate"].facts["latency"] if row["batch"] == config.evaluate.latency_batch)
    wanted = target * row["ms_dense"] if target <= 1 else target
    missed = row["ms"] / wanted - 1
    if abs(missed) <= TOLERANCE:
        return found
    measured = f"measured again: {row['ms']:.3g} ms at batch {row['batch']} (dense {row['ms_dense']:.3g}), {missed:+.1%} from {wanted:.3g}"
    return f"{measured}; {found}" if found else f"{measured}: the table of layers said otherwise"


def _not_run(context, evaluate, arm) -> dict:
    """The reason of every null among what is measured."""
    reasons = {} if "recalibrated" in evaluate else {"top1_recalibrated": "the network has no batch norm"}
    if evaluate["latency"] is None:
        reasons["latency"] = "evaluate.latency is false"
    if context.config.prune.curves is None:
        reasons["curves"] = f"allocation {context.config.prune.allocation} follows none"
    if arm is None:
        reasons |= dict.fromkeys(("lr", "top1_best_val", "epoch_best_val"), "arm none trains nothing")
    return reasons


def _params(network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
