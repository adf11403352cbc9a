"""Stages `baseline`, `untrained` and `evaluate`: what is read from the test set, each network once however many runs share it."""

import copy
import time

import numpy as np
import torch
from torch import nn

from pipeline.chain.arm import BEST, LAST, open_shrunk
from pipeline.chain.context import Context
from pipeline.chain.normalise import baseline_settings, evaluate_settings, untrained_settings
from pipeline.chain.sources import Dense, splits_of
from pipeline.data.index import Split
from pipeline.data.streams import ScoringStream, scoring_order, validation_order
from pipeline.evaluation.accuracy import top_correct
from pipeline.evaluation.latency import measure_latency
from pipeline.evaluation.recalibration import has_batch_norm, recalibrated
from pipeline.networks.saved import ARCH
from pipeline.networks.saved import WEIGHTS as MODEL
from pipeline.stages.store import Done, Stage


def run_baseline(context: Context, data: Done, dense: Dense) -> Done:
    """Stage `baseline`: accuracy of the dense network, on the test images and, for the gate, on validation (null without any)."""
    inputs = {"data": data.facts["train"], "test": data.facts["test"], "dense": dense.digest}
    stage = Stage("baseline", 1, baseline_settings(context.config), inputs)

    def work(folder, guard):
        splits = splits_of(data)
        validation = accuracy(context, splits.train, validation_order(splits.train), dense, dense.network, "dense")
        tested = accuracy(context, splits.test, all_of(splits.test), dense, dense.network, "dense")
        return [], {"dense": tested, "validation_top1": validation and validation["top1"]}

    return context.store.run(stage, work, context.observe)


def run_untrained(context: Context, data: Done, dense: Dense, shrink: Done) -> Done:
    """Stage `untrained`: test accuracy of the selected network, as it is and with batch norms re-estimated; its latency."""
    inputs = {"data": data.facts["train"], "test": data.facts["test"], "dense": dense.digest, "shrink": shrink.digest(ARCH, MODEL)}
    stage = Stage("untrained", 1, untrained_settings(context.config), inputs)

    def work(folder, guard):
        settings, test = context.config.evaluate, splits_of(data).test
        selected = open_shrunk(dense, shrink.folder, shrink.folder / MODEL)
        facts = {"selected": accuracy(context, test, all_of(test), dense, selected, "selected")}
        if has_batch_norm(selected):
            split = splits_of(data).train
            stream = ScoringStream(split, scoring_order(split, context.config.seed), dense.preprocess, context.config.scoring.batch)
            again = recalibrated(selected, stream, min(settings.recalibration_samples, len(stream)), context.device)
            facts["recalibrated"] = accuracy(context, test, all_of(test), dense, again, "recalibrated")
        measured = (dense.network, selected, dense.preprocess, context.device, settings.latency_batch)
        facts["latency"] = measure_latency(*measured) if settings.latency else None
        return [], facts

    return context.store.run(stage, work, context.observe)


def run_evaluate(context: Context, data: Done, dense: Dense, shrink: Done, arm: Done | None, before: tuple[Done, Done]) -> Done:
    """Stage `evaluate`: test accuracy after the arm, beside what `before` (baseline and untrained) measured."""
    inputs = {stage.stage.name: stage.stage.key for stage in before}
    if arm:
        inputs["train"] = arm.digest(LAST, BEST)
    stage = Stage("evaluate", 2, evaluate_settings(context.config), inputs)

    def work(folder, guard):
        started, facts, test = time.monotonic(), {}, splits_of(data).test
        if arm:
            same = arm.artifacts[LAST] == arm.artifacts[BEST]
            for name, file in (("last", LAST), ("best", BEST)):
                network = None if name == "best" and same else open_shrunk(dense, shrink.folder, arm.folder / file)
                facts[name] = facts["last"] if network is None else accuracy(context, test, all_of(test), dense, network, name)
        for done in before:
            facts |= {name: value for name, value in done.facts.items() if name != "validation_top1"}
        return [], facts | {"seconds": time.monotonic() - started}

    return context.store.run(stage, work, context.observe)


def all_of(split: Split) -> np.ndarray:
    return np.arange(split.manifest.samples)


def accuracy(context: Context, split: Split, order: np.ndarray, dense: Dense, network: nn.Module, name: str) -> dict | None:
    """{top1, top5} in percent over the samples of an order; None when it is empty."""
    if not len(order):
        return None
    torch.set_num_threads(context.config.evaluate.threads)
    stream = ScoringStream(split, order, dense.preprocess, 250)
    network = copy.deepcopy(network).to(context.device, memory_format=torch.channels_last)

    def observe(event):
        context.observe(event | {"event": f"evaluating {name}"})

    correct = top_correct(network, stream.block(0, len(stream)), context.device, observe, len(stream))
    return {"top1": 100 * correct.top1 / correct.samples, "top5": 100 * correct.top5 / correct.samples}
