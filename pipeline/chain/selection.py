"""Stages `statistics`, `search` and `shrink`: from the dense network to a smaller one."""

import copy
from contextlib import nullcontext

import torch
from safetensors.torch import load_file

from pipeline.chain.asking import executor_of
from pipeline.chain.context import Context
from pipeline.chain.normalise import search_settings, statistics_settings
from pipeline.chain.sources import Dense
from pipeline.chain.target import find_target, units_and_cost
from pipeline.config.digests import draw
from pipeline.config.errors import Failed
from pipeline.config.files import read_json, write_json
from pipeline.config.rules import warnings_of
from pipeline.journal import SCHEMA, Journal
from pipeline.journal import read as read_journal
from pipeline.networks.gates import FOLDING_LIMIT, folding_difference
from pipeline.networks.saved import ARCH, arch_of, save_pruned
from pipeline.networks.saved import WEIGHTS as MODEL
from pipeline.networks.shrink import Choice, apply_choice
from pipeline.networks.units import Units
from pipeline.pruners.pruner import Job, Measured, dense_quadratic, order_of, prune_units
from pipeline.pruners.spending import spent
from pipeline.search.artifacts import explained_share, load_choice
from pipeline.search.coordinator import Coordinator
from pipeline.search.question import Commit
from pipeline.selection.elimination import Pick
from pipeline.stages.clock import timed
from pipeline.stages.store import Done, Stage
from pipeline.tensorfile import save_tensors


def run_statistics(context: Context, data: Done, dense: Dense) -> Done | None:
    """Stage `statistics`: G of every unit in the dense network, each unit's order and curve; None in mode sequential."""
    settings = statistics_settings(context.config)
    if settings is None:
        return None
    units, _ = units_and_cost(context, dense)
    stage = Stage("statistics", 2, settings, {"data": data.facts["train"], "dense": dense.digest})

    def work(folder, guard, watch):
        samples = context.config.prune.calibration_samples
        with executor_of(context, dense, data, units, folder) as executor:
            grams = Coordinator(executor, None, folder, context.config.scoring, samples, context.observe).dense_grams()
        save_tensors(folder / "grams.safetensors", grams)
        names = ["grams.safetensors"]
        if context.config.prune.selector == "reconstruction":
            orders = {}
            for name, gram in grams.items():
                picks = order_of(context.config.prune, dense_quadratic(dense.network, units.units[name], gram))
                orders[name] = [vars(pick) for pick in picks]
                context.observe({"event": "order", "unit": name, "done": len(orders), "total": len(grams), "unit_name": "units"})
            write_json(folder / "orders.json", orders)
            names.append("orders.json")
        return names, {"seconds": watch.seconds()}

    return context.store.run(stage, timed(work), context.observe)


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
    stage = Stage("search", 2, search_settings(config), inputs)
    for warning in warnings_of(config.prune):
        context.observe({"event": "notice", "message": warning})

    def work(folder, guard, watch):
        begin = {"kind": "begin", "schema": SCHEMA, "stage_key": stage.key, "settings": stage.settings, "data_digest": data.facts["train"]}
        begin |= {"weights_sha256": dense.done.artifacts["weights.safetensors"], "units": target.dense_widths}
        journal = Journal(folder / "journal.jsonl", context.observe, guard)
        journal.commit(begin)
        job = Job(dense.network, target.units, target.allocation.widths, config.prune, config.seed, _measured(dense, target.units, statistics))
        with executor_of(context, dense, data, target.units, folder) if config.prune.mode else nullcontext() as executor:
            coordinator = Coordinator(executor, journal, folder, config.scoring, config.prune.calibration_samples or 0, context.observe)
            prune_units(job, coordinator)
        journal.commit({"kind": "end"})
        journal.close()
        shares = {c.unit: explained_share(folder, c) for c in coordinator.committed}
        cost = spent(journal.lines, config.prune, config.scoring, target.units, target.table, dense.network)
        facts = {"note": target.allocation.note, "explained_share": shares, "left": target.units.left, "seconds": watch.seconds(), **vars(cost)}
        return ["journal.jsonl", *(c.artifact for c in coordinator.committed if c.artifact)], facts

    return context.store.run(stage, timed(work), context.observe)


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
