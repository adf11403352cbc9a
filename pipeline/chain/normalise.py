"""What each stage reads of a config: what this pruner does not use becomes null, so that equal work has equal keys."""

from pipeline.config.recipe import Recipe
from pipeline.config.rules import CRITERIA, curves_pruner, curves_read_gram, follows_curves, measures_dense, reads_gradients
from pipeline.config.settings import Config, Prune, budget_target
from pipeline.evaluation.latency import BATCHES

UNHASHED_RECIPE = {"checkpoint_seconds", "loaders"}


def data_settings(config: Config) -> dict:
    """Never a path or url: those enter as the digest of what they hold."""
    source = config.data.source
    return {
        "source": source if source == "fashion-mnist" else None,
        "train_samples": config.data.train_samples,
        "test_samples": config.data.test_samples,
    }


def dense_settings(config: Config) -> dict:
    network = config.network
    trained = network.weights is None
    return {
        "model": network.model,
        "arguments": network.arguments,
        "num_classes": network.num_classes,
        "in_chans": network.in_chans,
        "img_size": network.img_size,
        "mean": network.mean,
        "std": network.std,
        "crop_pct": network.crop_pct,
        "interpolation": network.interpolation,
        "weights": "timm" if network.weights == "timm" else None,
        "dense": recipe_settings(config.dense) if trained else None,
    }


def recipe_settings(recipe: Recipe) -> dict:
    return recipe.model_dump(exclude=UNHASHED_RECIPE)


def _scoring(config: Config) -> dict:
    return {name: getattr(config.scoring, name) for name in ("batch", "block_samples", "threads", "positions", "gram_limit")}


def scores_settings(config: Config) -> dict | None:
    """Null for a selector that is not Torch-Pruning's; what looks at the weights alone reads no images."""
    prune = config.prune
    reads = reads_gradients(prune)
    if prune.selector not in CRITERIA or (prune.as_shipped and not reads):
        return None
    return {
        "prune": {"selector": prune.selector, "units": prune.units, "calibration_samples": prune.calibration_samples if reads else None}
        | ({"as_shipped": True} if prune.as_shipped else {}),
        "scoring": {name: getattr(config.scoring, name) for name in ("batch", "block_samples", "threads")} if reads else None,
        "seed": config.seed if reads else None,
    }


def latencies_settings(config: Config) -> dict | None:
    """Null for a budget that counts no milliseconds; weights play no part."""
    if "latency_ms" not in config.budget:
        return None
    network = {name: getattr(config.network, name) for name in ("model", "arguments", "num_classes", "in_chans", "img_size")}
    return {"network": network, "units": config.prune.units, "batch": config.evaluate.latency_batch}


def bisection_settings(config: Config) -> dict | None:
    """Null for a budget of another kind; what its searches read, but for their budgets."""
    if "top1_drop" not in config.budget:
        return None
    target = budget_target("top1_drop", config.budget["top1_drop"])
    drop = target if target <= 1 else target / 100
    curves = {"scores": scores_settings(config), "statistics": statistics_settings(config), "curves": curves_settings(config)}
    search = search_settings(config) | {"budget": None} | shrink_settings(config)
    return {"top1_drop": drop, "search": search, "threads": config.evaluate.threads} | curves


def statistics_settings(config: Config) -> dict | None:
    """Null where nothing is measured in the dense network."""
    prune = curves_pruner(config.prune)
    if not measures_dense(prune):
        return None
    search = prune.selector == "reconstruction"
    return {
        "prune": {
            "calibration_samples": prune.calibration_samples,
            "units": prune.units,
            "engine": _order_engine(prune) if search else None,
            "ridge": prune.ridge if search else None,
        }
        | ({"refit": "affine"} if prune.refit == "affine" else {}),  # whose orders are about the means
        "scoring": _scoring(config),
        "seed": config.seed,
    }


def curves_settings(config: Config) -> dict | None:
    """Null where the allocation follows no curves."""
    prune = curves_pruner(config.prune)
    if not follows_curves(prune):
        return None
    gram, probed = curves_read_gram(prune), prune.allocation == "marginal"
    return {
        "prune": {
            "allocation": prune.allocation,
            "selector": prune.selector,
            "refit": prune.refit if probed else None,
            "engine": _order_engine(prune),
            "ridge": prune.ridge if gram else None,
            "calibration_samples": prune.calibration_samples if gram else None,
            "units": prune.units,
            "probe_samples": prune.probe_samples,
        },
        "scoring": _scoring(config) | {"positions": None} | ({} if gram else {"gram_limit": None}) if probed else None,
        "seed": config.seed if probed else None,
    }


def _order_engine(prune: Prune) -> str | None:
    """The engine of a unit's whole order: the one that swap starts from is backward."""
    return "backward" if prune.engine == "swap" else prune.engine


def search_settings(config: Config) -> dict:
    """A search of mode independent reads samples only through the statistics stage."""
    prune = config.prune
    asks = prune.mode == "sequential"
    scoring = _scoring(config) if asks else dict.fromkeys(_scoring(config))
    if not (asks and (prune.refit != "none" or prune.selector == "reconstruction")):
        scoring |= {"block_samples": None, "positions": None, "gram_limit": None}
    ((kind, target),) = config.budget.items()
    return {
        "prune": prune.model_dump(exclude={"second_pass"}),
        "budget": {"kind": kind, "target": budget_target(kind, target)},
        "scoring": scoring | {"block_candidates": config.scoring.block_candidates if prune.selector == "loss" else None},
        "seed": config.seed if asks or prune.selector == "random" else None,
    }


def shrink_settings(config: Config) -> dict:
    """Empty without a second pass: what was chosen says all."""
    prune = config.prune
    if not prune.second_pass:
        return {}
    scoring = {name: getattr(config.scoring, name) for name in ("batch", "threads", "positions", "gram_limit")}
    return {"second_pass": {"calibration_samples": prune.calibration_samples, "ridge": prune.ridge}, "scoring": scoring, "seed": config.seed}


def train_settings(config: Config) -> dict | None:
    """Null for arm none."""
    if config.arm == "none":
        return None
    recipe = recipe_settings(config.train)
    rates = {name: recipe.pop(name) for name in ("lr_search", "lr_seed")}
    recipe |= {"lr": None, "lr_search": sorted(set(rates["lr_search"])), "lr_seed": rates["lr_seed"] or 0} if rates["lr_search"] else {}
    recipe |= {"temperature": None} if config.train.distill == 0 else {"label_smoothing": None} if config.train.distill == 1 else {}
    equal = {"train_images": config.network.train_images} if config.arm == "reinit-compute" else {}
    return {"arm": config.arm, "train": recipe, "seed": config.seed} | equal


def baseline_settings(config: Config) -> dict:
    return {"evaluate": {"threads": config.evaluate.threads}}


def untrained_settings(config: Config) -> dict:
    batch = config.evaluate.latency_batch
    always = batch in BATCHES or not config.evaluate.latency  # measured whether it is named or not
    return {
        "evaluate": config.evaluate.model_dump(exclude={"latency_batch"}) | ({} if always else {"latency_batch": batch}),
        "scoring": {"batch": config.scoring.batch},
        "seed": config.seed,  # of the images batch norms are re-estimated on
    }


def evaluate_settings(config: Config) -> dict:
    """Beside what the stages before it measured."""
    return {"evaluate": {"threads": config.evaluate.threads}}


def run_settings(config: Config) -> dict:
    """Every hashed setting of a run, with `name`."""
    return {
        "name": config.name,
        "data": data_settings(config),
        "dense": dense_settings(config),
        "scores": scores_settings(config),
        "statistics": statistics_settings(config),
        "curves": curves_settings(config),
        "search": search_settings(config),
        "train": train_settings(config),
        "baseline": baseline_settings(config),
        "untrained": untrained_settings(config),
        "evaluate": evaluate_settings(config),
    } | {name: found for name, found in (("latencies", latencies_settings(config)), ("shrink", shrink_settings(config))) if found}
