"""The paper's search beside ours on single units of the quickstart network: network loss at each width, seconds of search.

Only the named unit is pruned, down to a quarter of its neurons, at most 24; the loss is the mean cross-entropy on the 5,000 validation images.
usage: compare.py RUNS_DIR SEARCH,SEARCH... UNIT...   writes results.csv beside this file; searches: see SEARCHES
"""

import copy
import csv
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional

from pipeline.chain.context import Context, device_of
from pipeline.chain.asking import bench_of
from pipeline.chain.sources import run_data, run_dense
from pipeline.chain.target import units_and_cost
from pipeline.config.load import load_config
from pipeline.data.prepare import open_splits
from pipeline.data.streams import ScoringStream, validation_order
from pipeline.journal import Journal
from pipeline.networks.shrink import Choice, apply_choice, consumer_columns
from pipeline.pruners.pruner import Job, prune_units
from pipeline.search.coordinator import Coordinator
from pipeline.search.executor import InProcess
from pipeline.selection.counts import coefficients
from pipeline.selection.quadratic import refit, ridged
from pipeline.stages.store import Store

SEARCHES = {
    "reconstruction forward": ["prune.selector=reconstruction", "prune.refit=lsq"],
    "loss stochastic": ["prune.selector=loss", "prune.refit=none", "prune.engine=stochastic"],
    "loss exhaustive": ["prune.selector=loss", "prune.refit=none", "prune.engine=exhaustive"],
}


def mean_loss(network, batches) -> float:
    with torch.inference_mode():
        sums = [functional.cross_entropy(network(b.images).double(), b.labels, reduction="sum") for b in batches]
    return float(sum(sums)) / sum(len(b.labels) for b in batches)


def search(runs, unit_name, overrides):
    """(context, dense, unit, picks in order, seconds, quadratic of the calibration images)."""
    config = load_config("configs/quickstart.yaml", ["sweep={}", "cluster.workers=0", "prune.allocation=uniform", f"runs_dir={runs}", *overrides])
    context = Context(config, Store(Path(runs), device_of(config)), lambda event: None)
    data = run_data(context)
    dense = run_dense(context, data)
    units, _ = units_and_cost(context, dense)
    unit = units.units[unit_name]
    only = replace(units, units={unit_name: unit})
    with tempfile.TemporaryDirectory() as folder:
        executor = InProcess(bench_of(context, dense, data, only, Path(folder)))
        journal = Journal(Path(folder) / "journal.jsonl", lambda event: None)
        coordinator = Coordinator(executor, journal, Path(folder), config.scoring, config.prune.calibration_samples or 0, lambda event: None)
        began = time.perf_counter()
        prune_units(Job(dense.network, only, {unit_name: min(unit.width // 4, 24)}, config.prune, config.seed), coordinator)
        seconds = time.perf_counter() - began
        picks = [line["neuron"] for line in journal.lines if line["kind"] == "pick"]
        calibration = Coordinator(InProcess(executor.actor.bench), None, Path(folder), config.scoring, 2000, lambda event: None)
        quadratic = calibration.quadratic(unit, [consumer_columns(dense.network, unit)])
    return context, data, dense, unit, picks, seconds, quadratic


def first_picks(picks, width):
    """The shortest run of picks with `width` distinct neurons."""
    for n in range(width, len(picks) + 1):
        if len(set(picks[:n])) == width:
            return picks[:n]
    raise ValueError(f"{width} distinct picks are not reached")


def main(runs, wanted, names):
    torch.set_num_threads(2)
    rows = []
    for name in names:
        for search_name, overrides in SEARCHES.items():
            if search_name not in wanted:
                continue
            context, data, dense, unit, picks, seconds, quadratic = search(runs, name, overrides)
            split = open_splits(data.folder).train
            order = validation_order(split)
            batches = list(ScoringStream(split, order, dense.preprocess, 250).block(0, len(order)))
            full = mean_loss(dense.network, batches)
            for width in sorted({max(1, min(unit.width // 4, 24) * share // 8) for share in range(1, 9)}):
                part = first_picks(picks, width)
                kept, gates = coefficients(part, unit.width)
                refitted = Choice(tuple(kept), weight=refit(ridged(quadratic, 1e-2), kept).float())
                losses = []
                for choice in (Choice(tuple(kept), torch.tensor(gates)), refitted):
                    network = copy.deepcopy(dense.network)
                    apply_choice(network, unit, choice)
                    losses.append(mean_loss(network, batches))
                plain = "" if search_name.startswith("rec") else round(losses[0], 5)
                row = [name, unit.width, search_name, width, len(part), plain, round(losses[1], 5), round(full, 5), round(seconds, 2)]
                rows.append(row)
                print(*row, flush=True)
    with open(Path(__file__).with_name("results.csv"), "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["unit", "neurons", "search", "width", "picks", "loss_own_coefficients", "loss_refitted", "loss_dense", "seconds"])
        writer.writerows(rows)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2].split(","), sys.argv[3:])
