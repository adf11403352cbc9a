"""What makes two runs the same pruner, budget or arm, and the words for it.

Runs that differ in nothing but their seed share a cell; everything else that could change a number tells them apart.
"""

import json

from pipeline.config.settings import budget_target
from pipeline.report.run import Run

PRUNER = ("selector", "engine", "refit", "allocation", "mode", "reference")
IGNORED = {"memory_limit", "checkpoint_seconds", "loaders", "latency", "threads"}  # in no key, or nothing that is compared here hangs on them
KINDS = {
    "macs": "MACs", "macs_bn": "MACs with batch norm", "prunable_macs": "prunable MACs", "width": "width", "params": "parameters",
    "latency_ms": "ms of latency", "top1_drop": "points of top-1", "tolerance": "tolerance",
}  # fmt: skip
ARMS = {"none": "untrained", "finetune": "fine-tune", "reinit-epochs": "re-init", "reinit-compute": "re-init, equal compute"}
PLAIN = {"prune", "train", "evaluate", "scoring"}  # sections whose name says nothing that the setting does not

Variant = tuple[tuple[str, str], ...]  # sorted (setting, value as JSON)


def pruner_of(run: Run) -> Variant:
    """The pruner with every setting that could change what it selects, its seed apart."""
    prune = run.config.get("prune")
    if not isinstance(prune, dict):
        return _flat({f"prune.{name}": run.row[name] for name in PRUNER}) if run.row else ()
    settings = {f"prune.{name}": value for name, value in prune.items()}
    if run.row:
        settings |= {f"prune.{name}": run.row[name] for name in PRUNER}
    if prune.get("mode") is not None:
        settings |= _section(run, "scoring")
    return _flat(settings | _section(run, "evaluate"))


def budget_of(run: Run) -> tuple[str, float] | None:
    if run.row:
        return run.row["budget_kind"], run.row["budget_target"]
    try:
        ((kind, target),) = run.config["budget"].items()
        return kind, budget_target(kind, target)
    except (KeyError, ValueError, AttributeError, TypeError):
        return None


def arm_of(run: Run) -> Variant:
    """The arm with its recipe; empty for arm none."""
    recipe = run.config.get("train")
    arm = run.row["arm"] if run.row else str(run.config.get("arm", "none"))
    if arm == "none":
        return ()
    epochs = run.row["epochs"] if run.row else recipe.get("epochs") if isinstance(recipe, dict) else None
    return _flat(_section(run, "train") | {"arm": arm, "train.epochs": epochs})


def _section(run: Run, name: str) -> dict:
    section = run.config.get(name)
    return {f"{name}.{key}": value for key, value in section.items() if key not in IGNORED} if isinstance(section, dict) else {}


def _flat(settings: dict) -> Variant:
    """Null is not set: settings that a later version added are null in it by default."""
    given = {str(name): json.dumps(value, sort_keys=True, ensure_ascii=False) for name, value in settings.items() if value is not None}
    return tuple(sorted(given.items()))


def value_of(variant: Variant, name: str):
    """The value of one setting, None where it is not set."""
    return next((json.loads(text) for setting, text in variant if setting == name), None)


def pruner_name(variant: Variant) -> str:
    selector, refit = (value_of(variant, f"prune.{name}") for name in ("selector", "refit"))
    if value_of(variant, "prune.as_shipped"):
        return f"{selector}, as shipped"
    name = f"{selector} + {refit}" if refit not in (None, "none") else str(selector)
    return f"{name}, second pass" if value_of(variant, "prune.second_pass") else name


def pruner_detail(variant: Variant) -> str:
    """What stands below the name: how it searches and shares."""
    words = [value_of(variant, f"prune.{name}") for name in ("engine", "mode", "allocation")]
    return ", ".join(str(word) for word in words if word is not None)


def arm_name(variant: Variant) -> str:
    arm, epochs = value_of(variant, "arm"), value_of(variant, "train.epochs")
    name = ARMS.get(arm, str(arm))
    return f"{name}, {count(epochs, 'epoch')}" if epochs is not None else name


def names_of(variants, name) -> dict[Variant, str]:
    """A name per variant; those with one name get the settings added in which they differ."""
    named: dict[str, list[Variant]] = {}
    for variant in variants:
        named.setdefault(name(variant), []).append(variant)
    return {variant: base + _differing(variant, same) for base, same in named.items() for variant in same}


def _differing(variant: Variant, others: list[Variant]) -> str:
    names = _telling(sorted({name for other in others for name, _ in set(other) ^ set(variant)}), others)
    words = []
    for name in names:
        value = value_of(variant, name)
        section, _, last = name.rpartition(".")
        plain = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        words.append(plain if last in PRUNER and value is not None else f"{last if section in PLAIN else name} {plain}")
    return "".join(f", {word}" for word in words)


def _telling(names: list[str], others: list[Variant]) -> list[str]:
    """The settings without those that only come with another: one value or none, and the rest tells all apart as well."""
    for name in list(names):
        rest = [other for other in names if other != name]
        alone = len({text for variant in others for setting, text in variant if setting == name}) == 1
        if alone and len({tuple(dict(variant).get(other) for other in rest) for variant in others}) == len(others):
            names = rest
    return names


def budget_name(kind: str, target: float) -> str:
    if kind in ("latency_ms", "top1_drop", "tolerance") or target > 1:
        return f"{amount(target)} {KINDS.get(kind, kind)}"
    return f"{target * 100:.6g} % of {KINDS.get(kind, kind)}"


def amount(value: float) -> str:
    """A count for people: 3,386,544 -> 3.39 M."""
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:  # what rounds to 1,000 k is 1 M
            return f"{value / size:.3g} {unit}"
    return f"{value:.4g}"


def count(number, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}" if isinstance(number, (int, float)) else f"{number} {noun}s"
