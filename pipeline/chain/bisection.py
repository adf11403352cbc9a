"""Stage `bisection`: the smallest share of prunable MACs whose network, untrained, loses no more than `budget.top1_drop` on validation."""

import time
from dataclasses import dataclass, replace

from pipeline.chain.arm import open_shrunk
from pipeline.chain.context import Context
from pipeline.chain.measuring import accuracy
from pipeline.chain.normalise import bisection_settings
from pipeline.chain.selecting import selecting
from pipeline.chain.sources import Dense, splits_of
from pipeline.chain.target import target_of, units_and_cost
from pipeline.config.errors import BadInput
from pipeline.data.streams import validation_order
from pipeline.networks.saved import WEIGHTS as MODEL
from pipeline.stages.store import Done, Stage

PARTS = 128  # a share is a whole number of these: runs that allow another drop find the searches of this one


@dataclass(frozen=True)
class Tried:
    """A share that was tried: validation top-1 lost (percentage points), what that cost, and how much of it its search and second pass alone."""

    drop: float
    images: int
    macs: int
    seconds: float
    search: dict


def run_bisection(context: Context, data: Done, dense: Dense, baseline: Done) -> Done | None:
    """Stage `bisection`: {part: drop} of what was tried and the part chosen; None for a budget of another kind.

    Each try is the search of a run whose budget is that share. Raises BadInput where no share loses as little as asked.
    """
    settings = bisection_settings(context.config)
    if settings is None:
        return None
    allowed = 100 * settings["top1_drop"]
    top1 = baseline.facts["validation_top1"]
    if top1 is None:
        raise BadInput("budget.top1_drop: the data leaves no validation images to measure a drop on; give another kind of budget")
    stage = Stage("bisection", 2, settings, {"data": data.facts["train"], "dense": dense.digest})

    def work(folder, guard):
        tried: dict[int, Tried] = {}

        def fits(part: int) -> bool:
            tried[part] = _try(context, data, dense, top1, part)
            told = f"budget.top1_drop: {tried[part].drop:.2f} points lost on validation at {part / PARTS:.1%} of prunable MACs"
            context.observe({"event": "notice", "message": told})
            return tried[part].drop <= allowed

        part = smallest_that_fits(_least(context, dense), PARTS, fits)
        if part == PARTS:
            least = f"{tried[PARTS - 1].drop:.2f} are lost at {1 - 1 / PARTS:.1%} of prunable MACs" if tried else "no smaller share can be reached"
            raise BadInput(f"budget.top1_drop: {allowed:g} points are out of reach: {least}")
        facts = {"part": part, "drops": {str(at): one.drop for at, one in sorted(tried.items())}}
        facts |= {name: sum(getattr(one, name) for one in tried.values()) for name in ("images", "macs", "seconds")}
        own = tried[part].search  # the chosen share's search is the run's own, and counted there
        facts |= {name: facts[name] - own[name] for name in own}
        return [], facts | {"note": _note(allowed, part, tried)}

    return context.store.run(stage, work, context.observe)


def at_share(context: Context, bisection: Done) -> Context:
    """The context of a run with the budget that the bisection found."""
    return _with_budget(context, bisection.facts["part"])


def smallest_that_fits(low: int, high: int, fits) -> int:
    """The smallest whole number from `low` up that fits, where all above one that fits do too; `high` fits, untried."""
    while high > low:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return high


def _with_budget(context: Context, part: int) -> Context:
    return replace(context, config=context.config.model_copy(update={"budget": {"prunable_macs": part / PARTS}}))


def _least(context: Context, dense: Dense) -> int:
    """The smallest part that this pruner's allocation can reach."""
    parts = units_and_cost(context, dense)
    for part in range(1, PARTS):
        try:
            target_of(_with_budget(context, part).config, *parts)
            return part
        except BadInput:
            continue
    return PARTS


def _try(context: Context, data: Done, dense: Dense, top1: float, part: int) -> Tried:
    """The search and the shrunk network of one share, measured on validation."""

    def observe(event):
        if event["event"] == "unit":
            context.observe({"event": f"trying {part / PARTS:.1%}", "done": event["done"], "total": event["total"]})
        elif event["event"] in ("notice", "workers"):
            context.observe(event)

    one = replace(_with_budget(context, part), observe=observe)
    selected = {done.stage.name: done for done in selecting(one, data, dense)}
    split, folder = splits_of(data).train, selected["shrink"].folder
    order, began = validation_order(split), time.monotonic()
    found = accuracy(one, split, order, dense, open_shrunk(dense, folder, folder / MODEL), f"{part / PARTS:.1%}")
    chosen = (selected["search"].facts, selected["shrink"].facts)  # scores and curves are the run's own
    search = {name: sum(facts.get(name, 0) for facts in chosen) for name in ("images", "macs", "seconds")}
    macs = search["macs"] + len(order) * selected["shrink"].facts["cost"]["pruned"]["macs"]
    seconds = search["seconds"] + time.monotonic() - began
    return Tried(round(top1 - found["top1"], 4), search["images"] + len(order), macs, seconds, search)


def _note(allowed: float, part: int, tried: dict[int, Tried]) -> str | None:
    """Why less is lost than allowed, where it is by more than 1 %: the next share loses more."""
    drop = tried[part].drop
    if drop >= 0.99 * allowed:
        return None
    below = f"; {(part - 1) / PARTS:.1%} lose {tried[part - 1].drop:.2f}" if part - 1 in tried else ""
    return f"on validation {drop:.2f} points are lost at {part / PARTS:.1%} of prunable MACs, {allowed:g} are allowed{below}"
