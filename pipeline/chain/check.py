"""`gfs check`: everything that can be wrong with a run, found before the run."""

import time
from pathlib import Path

import numpy as np
import torch

from pipeline.chain.asking import check_cluster
from pipeline.chain.context import Context, device_of
from pipeline.chain.gate import refuse_below_gate
from pipeline.chain.latencies import layer_times
from pipeline.chain.normalise import scores_settings, statistics_settings
from pipeline.chain.plan import Sweep
from pipeline.chain.sources import Dense, data_stage, dense_stage, open_dense, origin_of, plan_of, untrained
from pipeline.chain.summary import budget_table
from pipeline.chain.target import Target, target_of, units_and_cost
from pipeline.config.rules import measures_gram
from pipeline.config.settings import Config
from pipeline.data.images import normalise
from pipeline.data.prepare import Origin, open_splits
from pipeline.data.preview import preview
from pipeline.data.streams import Batch, classes_missing, scoring_order
from pipeline.evaluation.accuracy import top_correct
from pipeline.networks.saved import example_images
from pipeline.networks.zoo import load_weights, preprocess_of, read_weights, weights_file
from pipeline.selection.allocation import PROBED
from pipeline.selection.budgets import min_max_table
from pipeline.stages.store import Store, free_gib

MOST_TEST_IMAGES = 10_000
GIB = 2**30


def check_run(config: Config, say) -> None:
    """Config, data, network, dense gate, budgets, and an estimate of time, memory and disk. Raises BadInput."""
    context = Context(config, Store(Path(config.runs_dir), device_of(config)), lambda event: None)
    check_cluster(config.cluster, lambda message: say(f"warning: {message}"))
    plan, origin = plan_of(context), origin_of(config)
    samples = preview(config.data, origin)
    say(f"data: {samples['train'].total} training and {samples['test'].total} test images, {origin.classes} classes")
    for split, limit in (("train", config.data.train_samples), ("test", config.data.test_samples)):
        if limit and limit > samples[split].total:
            say(f"warning: data.{split}_samples: {limit}, but there are {samples[split].total}: all of them are taken")
    lacking = samples["train"].classes_without_samples()
    if lacking:
        say(f"warning: no training sample of class {', '.join(map(str, lacking[:5]))}")
    _warn_of_calibration(context, origin, say)
    dense, source = _dense(context, plan)
    say(f"network: {plan.model}, weights {source}")
    target = target_of(config, *units_and_cost(context, dense), layer_times(context, dense) if "latency_ms" in config.budget else None)
    _say_budgets(config, target, say)
    for name, reason in target.units.left.items():
        say(f"left whole: {name}: {reason}")
    _gate(context, dense, samples["test"], source, say)
    _estimate(context, dense, target, samples, say)


def _say_budgets(config: Config, target: Target, say) -> None:
    """The min-max table, with milliseconds where they were measured, and what this budget leaves."""
    rows = min_max_table(target.table, target.dense_widths, steps=target.sharing.steps)
    if "latency_ms" in config.budget:
        rows += min_max_table(target.sharing.table, target.dense_widths, ("latency_ms",), target.sharing.steps)
    say(budget_table(rows))
    kind = target.sharing.budget.kind
    low, high = target.sharing.reach()
    rounded = f", rounded up to multiples of {config.prune.round_to}" if config.prune.round_to else ""
    say(f"allocation {config.prune.allocation}{rounded}: {low:g} to {high:g} of {kind} ({low / high:.2%} to 100%)")
    allocation, whole = target.guessed(), target.table.cost({})
    if "top1_drop" in config.budget:
        return say("this budget: found by bisection over shares of prunable MACs, each searched and measured on validation")
    reached = target.table.cost(allocation.widths)
    say(f"this budget: about {reached.macs:,} of {whole.macs:,} MACs" + (f"; {allocation.note}" if allocation.note else ""))


def _warn_of_calibration(context: Context, origin: Origin, say) -> None:
    """Classes that the calibration images lack; their order is known once the shards are made."""
    data, samples = context.store.find(data_stage(context.config, origin)), context.config.prune.calibration_samples
    if data is None or samples is None:
        return
    split = open_splits(data.folder).train
    if lacking := classes_missing(split, scoring_order(split, context.config.seed), samples):
        say(f"warning: the {samples} calibration images hold none of class {', '.join(lacking[:5])}")


def _dense(context: Context, plan) -> tuple[Dense, str]:
    """The dense network without running its stage: finished, from its file, or untrained."""
    settings = context.config.network
    if settings.weights is not None and settings.weights != "timm":
        path = weights_file(settings.weights)
        network = untrained(plan, 0)
        load_weights(network, read_weights(path), path)
        return Dense(network.eval(), plan, preprocess_of(network, settings), "", None), str(path)
    if settings.weights == "timm" and (done := context.store.find(dense_stage(context, None))):
        return open_dense(done), "timm"
    network = untrained(plan, context.config.dense.seed, pretrained=settings.weights == "timm")
    return Dense(network.eval(), plan, preprocess_of(network, settings), "", None), settings.weights or "to be trained by stage dense"


def _gate(context, dense, test, source, say) -> None:
    """The dense accuracy gate, on test images."""
    if context.config.network.weights is None:
        return say("dense gate: not run, the network is still to be trained")
    picks = np.linspace(0, test.total - 1, min(test.total, MOST_TEST_IMAGES)).astype(int)
    torch.set_num_threads(context.config.evaluate.threads)
    batches = (Batch(normalise(images, dense.preprocess), labels) for images, labels in test.batches(picks, dense.preprocess, 250))
    correct = top_correct(dense.network, batches, torch.device("cpu"))
    top1 = 100 * correct.top1 / correct.samples
    say(f"dense gate: top-1 {top1:.2f} % on {correct.samples} test images")
    refuse_below_gate(context.config.network, top1, "test")


def _estimate(context, dense, target, samples, say) -> None:
    """Time of each stage from one timed forward pass, memory of the walk, disk of the shards; all of them estimates."""
    prune = context.config.prune
    seconds = _seconds(context.config, _forward(dense), target, samples)
    widest = max(unit.width * unit.columns for unit in target.units.units.values())
    held = _held_per_image(dense, target.units) * (prune.calibration_samples or 0) * 2 if prune.mode == "sequential" else 0
    limit = context.config.scoring.memory_limit * GIB
    memory = (min(limit, held) + 6 * widest**2 * 8) / GIB + 1.0
    disk = samples["train"].bytes_to_write + samples["test"].bytes_to_write + max(0, held - limit)
    disk += 10 * sum(p.numel() * 4 for p in dense.network.parameters())
    free = free_gib(Path(context.config.runs_dir))
    total = sum(seconds.values()) / 60
    say(f"estimate: about {total:.1f} minutes, {memory:.1f} GiB of memory, {disk / GIB:.2f} GiB of disk ({free:.0f} free)")


def _forward(dense: Dense) -> float:
    """Seconds per image of a dense forward pass, on one core of this machine."""
    images = example_images(dense.preprocess.in_chans, dense.preprocess.img_size, 16)
    with torch.inference_mode():
        dense.network(images)
        began = time.perf_counter()
        dense.network(images)
    return (time.perf_counter() - began) / len(images)


def _seconds(config: Config, forward: float, target: Target, samples) -> dict[str, float]:
    """Estimated seconds of every stage that takes long, from those of one image's forward pass."""
    prune = config.prune
    widths = target.guessed().widths
    share = target.table.cost(widths).macs / target.table.cost({}).macs
    rates = 1 + len(config.train.lr_search or ())
    train = rates * min(config.train.samples or samples["train"].total, samples["train"].total) * config.train.epochs if config.arm != "none" else 0
    steps = sum(min(prune.max_picks or 4 * w, 4 * w) for w in widths.values()) if prune.selector == "loss" else 0
    scored = steps * config.scoring.batch * (min(prune.candidates or 10**9, max(target.dense_widths.values())) + 1)
    measured = (prune.calibration_samples or 0) * (2 if prune.mode == "sequential" else 1)
    probes = (prune.probe_samples or 0) * len(target.dense_widths) * (2 + len(PROBED)) / 2  # half the network behind a unit
    again = 2 * (prune.calibration_samples or 0) if prune.second_pass else 0
    found = {
        "curves": probes,
        "scores": 3 * (prune.calibration_samples or 0) if scores_settings(config) else 0,
        "statistics": (prune.calibration_samples or 0) if statistics_settings(config) else 0,
        "dense": 3 * config.dense.epochs * samples["train"].total if config.network.weights is None else 0,
        "baseline": samples["test"].total,
        "search": scored + measured,
        "shrink": again,
        "bisection": (scored + measured + again) * 7 if "top1_drop" in config.budget else 0,  # and as many looks at validation
        "train": train * (3 * share + config.train.distill),
        "untrained": 2 * samples["test"].total * share + config.evaluate.recalibration_samples,
        "evaluate": 2 * samples["test"].total * share if train else 0,
    }
    return {name: forward * passes for name, passes in found.items()}


def check_sweep(sweep: Sweep, say) -> None:
    """Every run's settings and budget (found by planning), the first run in full, what is shared, the hours of it all."""
    check_run(sweep.runs[0].config, say)
    say(f"sweep: {len(sweep.runs)} runs in {sweep.folder}; stage: times computed for runs that need it")
    for name, (runs, times) in sweep.shared().items():
        say(f"  {name:<11}{times:>4} for {runs}")
    found, total, known = set(), 0.0, {}
    for run in sweep.runs:
        place = (run.stages["dense"], measures_gram(run.config.prune), run.config.scoring.gram_limit)
        if place not in known:
            context = Context(run.config, Store(Path(run.config.runs_dir), device_of(run.config)), lambda event: None)
            dense, _ = _dense(context, plan_of(context))
            known[place] = _forward(dense), units_and_cost(context, dense), preview(run.config.data, origin_of(run.config))
        forward, parts, samples = known[place]
        seconds = _seconds(run.config, forward, target_of(run.config, *parts), samples)
        total += sum(value for name, value in seconds.items() if (name, run.stages.get(name)) not in found)
        found |= set(run.stages.items())
    say(f"estimate: about {total / 3600:.2f} core hours, on as many cores as trials hold")


def _held_per_image(dense, units) -> int:
    """Bytes of activations per image that a walk holds of one network at its widest cut."""
    values, at = units.graph.begin(example_images(dense.preprocess.in_chans, dense.preprocess.img_size))
    sizes = []
    with torch.inference_mode():
        for unit in units.units.values():
            values, at = units.graph.run(dense.network, values, at, unit.hold), unit.hold
            sizes.append(sum(value.numel() * value.element_size() for node, value in values.items() if node.op != "get_attr"))
    return max(sizes)
