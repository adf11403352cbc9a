"""Stages `search` and `shrink`: from the dense network to a smaller one."""

import copy
from contextlib import nullcontext

import torch

from pipeline.chain.asking import executor_of
from pipeline.chain.context import Context
from pipeline.chain.curves import read_curves
from pipeline.chain.latencies import finished_latencies
from pipeline.chain.normalise import search_settings, shrink_settings
from pipeline.chain.scores import gradients_of, scores_of
from pipeline.chain.sources import Dense, splits_of
from pipeline.chain.statistics import measured_of
from pipeline.chain.target import find_target, units_and_cost
from pipeline.config.digests import draw
from pipeline.config.errors import Failed
from pipeline.config.rules import warnings_of
from pipeline.data.streams import ScoringStream, scoring_order
from pipeline.journal import SCHEMA, Journal
from pipeline.journal import read as read_journal
from pipeline.networks.gates import FOLDING_LIMIT, folding_difference
from pipeline.networks.saved import ARCH, arch_of, example_images, save_pruned
from pipeline.networks.saved import WEIGHTS as MODEL
from pipeline.networks.shrink import Choice, apply_choices
from pipeline.pruners.pruner import Job, prune_units
from pipeline.pruners.second_pass import Samples, refit_layers
from pipeline.pruners.shipped import ship
from pipeline.pruners.spending import spent
from pipeline.search.artifacts import explained_share, load_choice
from pipeline.search.coordinator import Coordinator
from pipeline.search.question import Commit
from pipeline.stages.clock import timed
from pipeline.stages.store import Done, Stage


def run_search(context: Context, data: Done, dense: Dense, scores: Done | None, statistics: Done | None, curves: Done | None) -> Done:
    """Stage `search`: the journal, and an artifact per re-fitted unit. Mode sequential reads no statistics."""
    config, target = context.config, find_target(context, dense)
    statistics = statistics if config.prune.mode == "independent" else None
    read = [done for done in (scores, statistics, curves, finished_latencies(context)) if done]
    inputs = {"data": data.facts["train"], "dense": dense.digest} | {done.stage.name: done.digest(*done.artifacts) for done in read}
    stage = Stage("search", 4, search_settings(config), inputs)
    for warning in warnings_of(config.prune):
        context.observe({"event": "notice", "message": warning})

    def work(folder, guard, watch):
        begin = {"kind": "begin", "schema": SCHEMA, "stage_key": stage.key, "settings": stage.settings, "data_digest": data.facts["train"]}
        begin |= {"weights_sha256": dense.done.artifacts["weights.safetensors"], "units": target.dense_widths}
        journal = Journal(folder / "journal.jsonl", context.observe, guard)
        journal.commit(begin)
        measured = measured_of(dense, target.units, statistics)
        if config.prune.as_shipped:
            images = example_images(dense.preprocess.in_chans, dense.preprocess.img_size)
            allocation, shipped = ship(config.prune.selector, dense.network, target.units, target.sharing, images, gradients_of(scores))
        else:
            allocation, shipped = target.sharing.widths(curves and read_curves(curves)), None
        job = Job(dense.network, target.units, allocation.widths, config.prune, config.seed, measured, scores_of(scores), shipped)
        with executor_of(context, dense, data, target.units, folder) if config.prune.mode else nullcontext() as executor:
            coordinator = Coordinator(executor, journal, folder, config.scoring, config.prune.calibration_samples or 0, context.observe)
            prune_units(job, coordinator)
        journal.commit({"kind": "end"})
        journal.close()
        shares = {c.unit: explained_share(folder, c) for c in coordinator.committed}
        cost = spent(journal.lines, config.prune, config.scoring, target.units, target.table, dense.network)
        facts = {"note": allocation.note, "raw_widths": allocation.raw, "explained_share": shares, "left": target.units.left}
        facts |= {"seconds": watch.seconds(), **vars(cost)}
        return ["journal.jsonl", *(c.artifact for c in coordinator.committed if c.artifact)], facts

    return context.store.run(stage, timed(work), context.observe)


def choices_of(search: Done) -> dict[str, Choice]:
    """The committed choices of a finished search, from its journal and artifacts."""
    lines = [line for line in read_journal(search.folder / "journal.jsonl")[0] if line["kind"] == "unit"]
    commits = [Commit(line["unit"], tuple(line["kept"]), line["artifact"], line["sha256"]) for line in lines]
    return {commit.unit: load_choice(search.folder, commit) for commit in commits}


def run_shrink(context: Context, data: Done, dense: Dense, search: Done) -> Done:
    """Stage `shrink`: the physically smaller network, after a second pass where one is asked for.

    Raises Failed if, before that pass, it is not the gated network to 1e-10.
    """
    settings, inputs = shrink_settings(context.config), {"dense": dense.digest, "search": search.digest(*search.artifacts)}
    stage = Stage("shrink", 1, settings, inputs | ({"data": data.facts["train"]} if settings else {}))

    def work(folder, guard, watch):
        units, table = units_and_cost(context, dense)
        choices, shape = choices_of(search), (dense.preprocess.in_chans, dense.preprocess.img_size)
        images = torch.from_numpy(draw("folding images").standard_normal((4, shape[0], shape[1], shape[1])))
        difference = folding_difference(dense.network, units, choices, images)
        if difference > FOLDING_LIMIT:
            raise Failed(f"shrink: gated and shrunk network differ by {difference:.1e} (relative, float64), allowed is {FOLDING_LIMIT:g}")
        single = folding_difference(dense.network, units, choices, images, torch.float32)
        shrunk = copy.deepcopy(dense.network)
        apply_choices(shrunk, units.units, choices)
        widths = {name: len(choice.kept) for name, choice in choices.items()}
        sizes = {"dense": vars(table.cost({})), "pruned": vars(table.cost(widths))}
        facts = {"folding_float64": difference, "folding_float32": single, "cost": sizes}
        if settings:
            shrunk = _second_pass(context, data, dense, shrunk, units, {name: choice.kept for name, choice in choices.items()})
            images = context.config.prune.calibration_samples
            facts |= {"images": images, "macs": images * sum(size["macs"] for size in sizes.values()), "seconds": watch.seconds()}
        save_pruned(folder, shrunk, arch_of(dense.plan, units, choices, context.config.prune.units))
        return [ARCH, MODEL], facts

    return context.store.run(stage, timed(work), context.observe)


def _second_pass(context: Context, data: Done, dense: Dense, shrunk, units, kept):
    """The shrunk network with every layer re-fitted once more, on the images that it was chosen on."""
    config, split = context.config, splits_of(data).train
    stream = ScoringStream(split, scoring_order(split, config.seed), dense.preprocess, config.scoring.batch)
    samples = Samples(stream, config.prune.calibration_samples, config.seed, context.device)
    networks = [copy.deepcopy(network).to(context.device, memory_format=torch.channels_last) for network in (dense.network, shrunk)]
    refit_layers(*networks, units, kept, samples, config.prune.ridge, config.scoring, context.observe)
    return networks[1].to("cpu")
