"""Stage `curves`: what it costs to keep n neurons of each unit; no budget is read, so all budgets share it."""

import shutil

import numpy as np

from pipeline.chain.asking import executor_of
from pipeline.chain.context import Context
from pipeline.chain.normalise import curves_settings
from pipeline.chain.scores import scores_of
from pipeline.chain.sources import Dense
from pipeline.chain.statistics import measured_of
from pipeline.chain.target import units_and_cost
from pipeline.config.files import read_json, write_json
from pipeline.config.rules import curves_pruner
from pipeline.pruners.curves import PROBES, measure_curves, score_curves
from pipeline.pruners.pruner import Job
from pipeline.pruners.spending import spent_on_curves
from pipeline.search.coordinator import Coordinator
from pipeline.stages.clock import timed
from pipeline.stages.store import Done, Stage

CURVES = "curves.json"


def run_curves(context: Context, data: Done, dense: Dense, scores: Done | None, statistics: Done | None) -> Done | None:
    """Stage `curves`: {unit: width, widths probed, divergences, the curve}; None where the allocation reads none."""
    config, settings = context.config, curves_settings(context.config)
    if settings is None:
        return None
    units, table = units_and_cost(context, dense)
    scores = scores if curves_pruner(config.prune).selector == config.prune.selector else None
    inputs = {"data": data.facts["train"], "dense": dense.digest}
    inputs |= {done.stage.name: done.digest(*done.artifacts) for done in (scores, statistics) if done}
    stage = Stage("curves", 2, settings, inputs)

    def work(folder, guard, watch):
        prune = curves_pruner(config.prune)
        job = Job(dense.network, units, {}, prune, config.seed, measured_of(dense, units, statistics), scores_of(scores))
        if prune.allocation == "global":
            write_json(folder / CURVES, {name: vars(curve) for name, curve in score_curves(job).items()})
            return [CURVES], {"seconds": watch.seconds(), "images": 0, "macs": 0}
        with executor_of(context, dense, data, units, folder) as executor:
            coordinator = Coordinator(executor, None, folder, config.scoring, prune.calibration_samples or 0, context.observe)
            curves = measure_curves(job, coordinator, config.prune.probe_samples)
        write_json(folder / CURVES, {name: vars(curve) for name, curve in curves.items()})
        shutil.rmtree(folder / PROBES, ignore_errors=True)  # choices tried, of no use any more
        cost = spent_on_curves(curves, config.prune.probe_samples, units, table)
        return [CURVES], {"seconds": watch.seconds(), **vars(cost)}

    return context.store.run(stage, timed(work), context.observe)


def read_curves(curves: Done) -> dict[str, np.ndarray]:
    """{unit: cost at floor..N kept} of a finished stage."""
    return {name: np.asarray(curve["values"]) for name, curve in read_json(curves.folder / CURVES).items()}
