"""Stages `statistics`, `search` and `shrink`: from the dense network to a smaller one."""

import copy
from dataclasses import dataclass

import torch
from safetensors.torch import load_file

from pipeline.chain.context import Context
from pipeline.chain.normalise import search_settings, statistics_settings
from pipeline.chain.sources import Dense, splits_of
from pipeline.config.digests import draw
from pipeline.config.errors import BadInput, Failed
from pipeline.config.files import read_json, write_json
from pipeline.config.rules import warnings_of
from pipeline.config.settings import budget_target
from pipeline.data.streams import ScoringStream, classes_missing, scoring_order
from pipeline.journal import SCHEMA, Journal
from pipeline.journal import read as read_journal
from pipeline.networks.cost import CostTable
from pipeline.networks.gates import FOLDING_LIMIT, folding_difference
from pipeline.networks.saved import ARCH, arch_of, example_images, save_pruned
from pipeline.networks.saved import WEIGHTS as MODEL
from pipeline.networks.shrink import Choice, apply_choice
from pipeline.networks.units import Units, find_units, without_large
from pipeline.pruners.pruner import Job, Measured, dense_quadratic, prune_units
from pipeline.pruners.spending import spent
from pipeline.search.actor import Bench
from pipeline.search.artifacts import explained_share, load_choice
from pipeline.search.coordinator import Coordinator
from pipeline.search.executor import InProcess
from pipeline.search.question import Commit
from pipeline.selection.budgets import Allocation, Budget, uniform
from pipeline.selection.elimination import Pick, forward
from pipeline.stages.clock import Stopwatch
from pipeline.stages.store import Done, Stage
from pipeline.tensorfile import save_tensors


@dataclass(frozen=True)
class Target:
    """What a search must reach: the units, their exact cost, the widths of the budget."""

    units: Units
    table: CostTable
    budget: Budget
    allocation: Allocation

    @property
    def dense_widths(self) -> dict[str, int]:
        return {name: unit.width for name, unit in self.units.units.items()}


def find_target(context: Context, dense: Dense) -> Target:
    """Units, cost and widths; raises BadInput when the budget is out of reach."""
    units, table = units_and_cost(context, dense)
    ((kind, target),) = context.config.budget.items()
    budget = Budget(kind, budget_target(kind, target))
    return Target(units, table, budget, uniform(budget, table, {name: unit.width for name, unit in units.units.items()}))


def units_and_cost(context: Context, dense: Dense) -> tuple[Units, CostTable]:
    """The units that this pruner may cut, and the cost of any width vector."""
    prune, scoring = context.config.prune, context.config.scoring
    units = find_units(dense.network, prune.units)
    images = example_images(dense.preprocess.in_chans, dense.preprocess.img_size)
    _check_outputs(dense, images, context.config.network.num_classes)
    table = CostTable(dense.network, units, images)  # of all units: what counts as prunable is the same for every pruner
    if prune.selector == "reconstruction" or prune.refit != "none":
        units = without_large(units, scoring.gram_limit)
    return units, table


def _check_outputs(dense: Dense, images, num_classes: int) -> None:
    """Refuse a builder that pays no heed to `num_classes`."""
    with torch.inference_mode():
        found = tuple(dense.network(images).shape)
    if found != (1, num_classes):
        raise BadInput(f"network.num_classes: is {num_classes}, {dense.plan.model} gives an output of shape {found} for one image; make them equal")


def bench_of(context: Context, dense: Dense, data: Done, units: Units, folder) -> Bench:
    """What the actors of this run are given; a notice when the calibration images lack a class."""
    split = splits_of(data).train
    order = scoring_order(split, context.config.seed)
    if lacking := classes_missing(split, order, context.config.prune.calibration_samples or len(order)):
        context.observe({"event": "notice", "message": f"prune.calibration_samples: no image of class {', '.join(lacking[:5])}; raise it"})
    stream = ScoringStream(split, order, dense.preprocess, context.config.scoring.batch)
    return Bench(dense.network, units, stream, context.config.scoring, folder, context.device, context.config.seed)


def run_statistics(context: Context, data: Done, dense: Dense) -> Done | None:
    """Stage `statistics`: G of every unit in the dense network, each unit's order and curve; None in mode sequential."""
    settings = statistics_settings(context.config)
    if settings is None:
        return None
    units, _ = units_and_cost(context, dense)
    stage = Stage("statistics", 1, settings, {"data": data.facts["train"], "dense": dense.digest})

    def work(folder, guard):
        watch = Stopwatch(folder)
        executor = InProcess(bench_of(context, dense, data, units, folder))
        samples = context.config.prune.calibration_samples
        coordinator = Coordinator(executor, None, folder, context.config.scoring, samples, context.observe)
        grams = coordinator.dense_grams()
        save_tensors(folder / "grams.safetensors", grams)
        names = ["grams.safetensors"]
        if context.config.prune.selector == "reconstruction":
            orders = {}
            for name, gram in grams.items():
                picks = forward(dense_quadratic(dense.network, units.units[name], gram), context.config.prune.ridge)
                orders[name] = [vars(pick) for pick in picks]
                context.observe({"event": "order", "unit": name, "done": len(orders), "total": len(grams), "unit_name": "units"})
            write_json(folder / "orders.json", orders)
            names.append("orders.json")
        return names, {"seconds": watch.seconds()}

    return context.store.run(stage, work, context.observe)


def _measured(dense: Dense, units: Units, statistics: Done | None) -> Measured | None:
    if statistics is None:
        return None
    grams, orders = load_file(statistics.folder / "grams.safetensors"), {}
    if "orders.json" in statistics.artifacts:
        orders = {name: [Pick(**pick) for pick in picks] for name, picks in read_json(statistics.folder / "orders.json").items()}
    return Measured({name: dense_quadratic(dense.network, unit, grams[name]) for name, unit in units.units.items()}, orders)


def run_search(context: Context, data: Done, dense: Dense, statistics: Done | None) -> Done:
    """Stage `search`: the journal, and an artifact per re-fitted unit."""
    config, target = context.config, find_target(context, dense)
    inputs = {"data": data.facts["train"], "dense": dense.digest}
    if statistics:
        inputs["statistics"] = statistics.digest(*statistics.artifacts)
    stage = Stage("search", 1, search_settings(config), inputs)
    for warning in warnings_of(config.prune):
        context.observe({"event": "notice", "message": warning})

    def work(folder, guard):
        watch = Stopwatch(folder)
        executor = InProcess(bench_of(context, dense, data, target.units, folder)) if config.prune.mode else None
        begin = {"kind": "begin", "schema": SCHEMA, "stage_key": stage.key, "settings": stage.settings, "data_digest": data.facts["train"]}
        begin |= {"weights_sha256": dense.done.artifacts["weights.safetensors"], "units": target.dense_widths}
        journal = Journal(folder / "journal.jsonl", context.observe, guard)
        journal.commit(begin)
        coordinator = Coordinator(executor, journal, folder, config.scoring, config.prune.calibration_samples or 0, context.observe)
        job = Job(dense.network, target.units, target.allocation.widths, config.prune, config.seed, _measured(dense, target.units, statistics))
        prune_units(job, coordinator)
        journal.commit({"kind": "end"})
        journal.close()
        shares = {c.unit: explained_share(folder, c) for c in coordinator.committed}
        cost = spent(journal.lines, config.prune, config.scoring, target.units, target.table, dense.network)
        facts = {"note": target.allocation.note, "explained_share": shares, "left": target.units.left, "seconds": watch.seconds(), **vars(cost)}
        return ["journal.jsonl", *(c.artifact for c in coordinator.committed if c.artifact)], facts

    return context.store.run(stage, work, context.observe)


def choices_of(search: Done) -> dict[str, Choice]:
    """The committed choices of a finished search, from its journal and artifacts."""
    lines = [line for line in read_journal(search.folder / "journal.jsonl")[0] if line["kind"] == "unit"]
    commits = [Commit(line["unit"], tuple(line["kept"]), line["artifact"], line["sha256"]) for line in lines]
    return {commit.unit: load_choice(search.folder, commit) for commit in commits}


def run_shrink(context: Context, dense: Dense, search: Done) -> Done:
    """Stage `shrink`: the physically smaller network; raises Failed if it is not the gated one to 1e-10."""
    stage = Stage("shrink", 1, {}, {"dense": dense.digest, "search": search.digest(*search.artifacts)})

    def work(folder, guard):
        units, table = units_and_cost(context, dense)
        choices, shape = choices_of(search), (dense.preprocess.in_chans, dense.preprocess.img_size)
        images = torch.from_numpy(draw("folding images").standard_normal((4, shape[0], shape[1], shape[1])))
        difference = folding_difference(dense.network, units, choices, images)
        if difference > FOLDING_LIMIT:
            raise Failed(f"shrink: gated and shrunk network differ by {difference:.1e} (relative, float64), allowed is {FOLDING_LIMIT:g}")
        single = folding_difference(dense.network, units, choices, images, torch.float32)
        shrunk = copy.deepcopy(dense.network)
        for name, choice in choices.items():
            apply_choice(shrunk, units.units[name], choice)
        save_pruned(folder, shrunk, arch_of(dense.plan, units, choices, context.config.prune.units))
        widths = {name: len(choice.kept) for name, choice in choices.items()}
        sizes = {"dense": vars(table.cost({})), "pruned": vars(table.cost(widths))}
        return [ARCH, MODEL], {"folding_float64": difference, "folding_float32": single, "cost": sizes}

    return context.store.run(stage, work, context.observe)
