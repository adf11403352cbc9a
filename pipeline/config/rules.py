"""What goes together: defaults that depend on the pruner, senseless combinations, and parts that are not built yet."""

from pipeline.config.errors import BadInput
from pipeline.config.settings import Config, Prune

SELECTORS = {"reconstruction": ("forward", "backward", "swap"), "loss": ("stochastic", "exhaustive"), "l1": (), "l2": (), "bn": (), "random": ()}
CRITERIA = dict.fromkeys(("tp.l1", "tp.l2", "tp.bn", "tp.fpgm", "tp.lamp"))  # of Torch-Pruning; the statistic that each reads
CRITERIA |= {"tp.taylor": "gradient", "tp.hessian": "squared_gradient"}
SELECTORS |= dict.fromkeys(CRITERIA, ())
NEED_RIDGE = ("backward", "swap")
LATER_ENGINES = dict.fromkeys(("lazy", "racing", "greedi", "learned"), "loss")
UNSCORED = ("loss", "random")
REFERENCES, LATER_REFERENCES = ("paper",), ("official", "official-fixed")
ALLOCATIONS = ("uniform", "marginal", "global")
BUDGETS = ("macs", "macs_bn", "prunable_macs", "width", "params", "latency_ms", "top1_drop")


def resolve(config: Config, place: str) -> Config:
    """The config with the pruner's defaults filled in. Raises BadInput naming the setting, or the two that do not fit."""
    refuse_uncounted(config, place)
    if "top1_drop" in config.budget and config.train.lr_search:
        raise BadInput(
            f"{place}: train.lr_search: does not go with budget.top1_drop, whose share differs from seed to seed; "
            "find the share first, then give it as budget.prunable_macs"
        )
    if "latency_ms" in config.budget and not config.evaluate.latency:
        raise BadInput(f"{place}: evaluate.latency: false does not go with budget.latency_ms, which is measured again at the end; set one of the two")
    return config.model_copy(update={"prune": resolve_prune(config.prune, place, next(iter(config.budget))) })


def resolve_prune(prune: Prune, place: str, budget_kind: str) -> Prune:
    """The prune section with nulls replaced by the selector's defaults and unused settings by null."""

    def refuse(what):
        raise BadInput(f"{place}: {what}")

    def later(key, value, built):
        refuse(f"prune.{key}: {value!r} is not built yet; give {' or '.join(built)}")

    prune = _shipped(prune, refuse) if prune.as_shipped else prune
    selector = prune.selector
    if selector not in SELECTORS:
        refuse(f"prune.selector: {selector!r} is unknown; give one of {', '.join(SELECTORS)}")
    engines = SELECTORS[selector]
    if prune.engine is not None and prune.engine not in engines:
        owner = LATER_ENGINES.get(prune.engine) or next((s for s, names in SELECTORS.items() if prune.engine in names), None)
        if owner is None:
            refuse(f"prune.engine: {prune.engine!r} is unknown; give one of {', '.join(engines) or 'null'}")
        if owner != selector:
            refuse(f"prune.engine: {prune.engine!r} belongs to prune.selector {owner!r}, not to {selector!r}; set one of the two")
        later("engine", prune.engine, engines)
    if prune.reference is not None and selector != "loss":
        refuse(f"prune.reference: {prune.reference!r} belongs to prune.selector 'loss', not to {selector!r}; set one of the two")
    if prune.reference in LATER_REFERENCES:
        later("reference", prune.reference, REFERENCES)
    if prune.reference not in (None, *REFERENCES):
        refuse(f"prune.reference: {prune.reference!r} is unknown; give one of {', '.join(REFERENCES)}")
    if prune.allocation not in (None, *ALLOCATIONS):
        later("allocation", prune.allocation, ALLOCATIONS)
    if "branch" in prune.units:
        _refuse_with_branches(prune, refuse)
    if "stream" in prune.units and prune.mode == "sequential" and (selector == "reconstruction" or prune.refit != "none"):
        refuse("prune.mode: 'sequential' does not go with prune.units stream, which is re-fitted in the dense network; set mode independent")
    if prune.second_pass and prune.refit != "lsq":
        refuse(f"prune.second_pass: true does not go with prune.refit {prune.refit!r}: it is one more least squares; set refit lsq")
    if "stream" in prune.units and selector == "loss" and prune.refit != "none":
        refuse(f"prune.refit: {prune.refit!r} of prune.selector 'loss' does not go with prune.units stream; set refit none")
    if budget_kind not in BUDGETS:
        refuse(f"budget.{budget_kind}: is not built yet; give one of {', '.join(BUDGETS)}")
    if selector == "loss" and prune.mode == "independent":
        refuse("prune.mode: 'independent' does not go with prune.selector 'loss', which walks from input to output; set one of the two")
    if prune.engine in NEED_RIDGE and prune.ridge == 0:
        refuse(f"prune.ridge: 0 does not go with prune.engine {prune.engine!r}, which inverts the Gram matrix; give a ridge above 0, such as 1e-2")
    allocation = prune.allocation or ("uniform" if selector == "loss" else "marginal")
    curves = _curves(prune, refuse) if allocation == "marginal" else None
    if allocation == "global" and selector in UNSCORED:
        refuse(f"prune.allocation: 'global' does not go with prune.selector {selector!r}, which gives neurons no scores; set one of the two")
    measures = selector == "reconstruction" or prune.refit != "none" or curves == "reconstruction"
    reads = measures or reads_gradients(prune)
    return prune.model_copy(
        update={
            "allocation": allocation,
            "curves": curves,
            "probe_samples": (prune.probe_samples or 500) if curves else None,
            "mode": (prune.mode or "sequential") if selector in ("reconstruction", "loss") or prune.refit != "none" else None,
            "engine": prune.engine or (engines[0] if engines else None),
            "reference": (prune.reference or "paper") if selector == "loss" else None,
            "calibration_samples": (prune.calibration_samples or 2000) if reads else None,
            "ridge": (1e-2 if prune.ridge is None else prune.ridge) if measures else None,
            "candidates": prune.candidates or 50 if selector == "loss" and (prune.engine or engines[0]) == "stochastic" else None,
            "max_picks": prune.max_picks if selector == "loss" else None,
            "second_pass": prune.second_pass or None,
        }
    )


def _refuse_with_branches(prune: Prune, refuse) -> None:
    """Nothing reads a branch but the sum: there is nothing to re-fit, and no group of the library that is the branch alone."""
    if "stream" in prune.units:
        refuse(f"prune.units: {prune.units!r}: a branch is a part of its stream; give one of the two")
    if prune.selector == "reconstruction" or prune.selector in CRITERIA:
        refuse(f"prune.selector: {prune.selector!r} does not go with prune.units branch; give loss, l1, l2, bn or random")
    if prune.refit != "none":
        refuse(f"prune.refit: {prune.refit!r} does not go with prune.units branch, whose neurons no layer reads; set refit none")
    if prune.curves == "reconstruction" or (prune.selector == "loss" and prune.allocation == "marginal"):
        refuse("prune.curves: 'reconstruction' does not go with prune.units branch; set curves own, for selector loss allocation uniform")


def _shipped(prune: Prune, refuse) -> Prune:
    """As shipped nothing of ours takes part: original weights, the library's own widths, every group that it prunes."""
    if prune.selector not in CRITERIA:
        refuse(f"prune.as_shipped: true does not go with prune.selector {prune.selector!r}; give one of {', '.join(CRITERIA)}")
    own = {"refit": ("none",), "allocation": (None, "uniform"), "units": (["hidden", "stream"],), "round_to": (None,)}
    own |= {"second_pass": (None, False)}
    for key, allowed in own.items():
        if key in prune.model_fields_set and (value := getattr(prune, key)) not in allowed:
            refuse(f"prune.{key}: {value!r} does not go with prune.as_shipped, which takes {allowed[-1]}; set one of the two")
    return prune.model_copy(update={"refit": "none", "allocation": "uniform", "units": ["hidden", "stream"]})


def _curves(prune: Prune, refuse) -> str:
    """Whose curves allocation marginal follows: the pruner's own, or those of reconstruction with its re-fit."""
    if prune.selector == "loss" and prune.curves == "own":
        refuse("prune.curves: 'own' does not go with prune.selector 'loss', whose order depends on the widths; set reconstruction")
    ours = prune.selector == "reconstruction" and prune.refit != "none"
    return "own" if ours else prune.curves or ("reconstruction" if prune.selector == "loss" else "own")


def curves_pruner(prune: Prune) -> Prune:
    """The pruner whose orders and re-fit are measured in the dense network: the one that `prune.curves` names."""
    if prune.curves != "reconstruction":
        return prune
    engine = prune.engine if prune.selector == "reconstruction" else "forward"
    return prune.model_copy(update={"selector": "reconstruction", "refit": "lsq" if prune.refit == "none" else prune.refit, "engine": engine})


def reads_gradients(prune: Prune) -> bool:
    """Whether the selector scores neurons by gradients of the loss: it needs labels."""
    return CRITERIA.get(prune.selector) is not None


def measures_gram(prune: Prune) -> bool:
    """Whether any part of the pruner reads Gram matrices."""
    return prune.selector == "reconstruction" or prune.refit != "none" or prune.curves == "reconstruction"


def measures_dense(prune: Prune) -> bool:
    """Whether Gram matrices of the dense network are measured before the search: for mode independent, or for curves."""
    return prune.mode == "independent" or curves_read_gram(prune)


def follows_curves(prune: Prune) -> bool:
    """Whether widths come from curves that a stage of their own makes."""
    return prune.allocation in ("marginal", "global")


def curves_read_gram(prune: Prune) -> bool:
    """Whether those curves need the Gram matrices of the dense network: scores of weights do not."""
    return measures_gram(prune) if prune.allocation == "marginal" else prune.allocation == "global" and prune.selector == "reconstruction"


def refuse_uncounted(config: Config, place: str) -> None:
    """Refuse an arm that must spend what given weights cost while nobody says what that was."""
    if config.arm == "reinit-compute" and config.network.weights is not None and config.network.train_images is None:
        raise BadInput(
            f"{place}: arm: 'reinit-compute' spends what the dense training cost too, which weights do not tell; "
            "set network.train_images to the images they were trained on, repeats counted"
        )


def warnings_of(prune: Prune) -> list[str]:
    """Combinations that are allowed and rarely wanted."""
    if prune.selector == "reconstruction" and prune.refit == "none":
        return ["prune.refit none with prune.selector reconstruction: the set is chosen to be re-fitted; without it l1 does better"]
    return []
