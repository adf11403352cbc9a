"""Forward, backward and swap (and l1 with the same re-fit) on one set of dense statistics: error, seconds, the optimum; and test top-1.

usage: compare.py RUNS_DIR quadratics   writes units.csv: each unit of both networks at seed 0, and cuts of 14 of its neurons beside the optimum
       compare.py RUNS_DIR networks [SEED...]   adds to top1.csv: independent (both allocations), sequential (what other tables do not hold)
One thread; RUNS_DIR keeps data and dense networks between calls. `figure.py` draws what these files hold.
"""

import copy
import csv
import itertools
import sys
import tempfile
import time
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch

from pipeline.chain.asking import bench_of
from pipeline.chain.context import Context, device_of
from pipeline.chain.curves import read_curves, run_curves
from pipeline.chain.sources import run_data, run_dense, splits_of
from pipeline.chain.statistics import measured_of, run_statistics
from pipeline.chain.target import find_target
from pipeline.config.digests import draw
from pipeline.config.load import load_config
from pipeline.data.streams import ScoringStream
from pipeline.evaluation.accuracy import top_correct
from pipeline.journal import Journal
from pipeline.networks.shrink import apply_choices
from pipeline.pruners.pruner import Job, Measured, prune_units, scores
from pipeline.search.artifacts import load_choice
from pipeline.search.coordinator import Coordinator
from pipeline.search.executor import InProcess
from pipeline.selection.budgets import Budget
from pipeline.selection.elimination import backward, forward
from pipeline.selection.guarantee import explained_share
from pipeline.selection.quadratic import from_dense, refit_error, ridged
from pipeline.selection.scored import falling
from pipeline.selection.swap import swap
from pipeline.stages.store import Store

HERE = Path(__file__).parent
NETWORKS = {"mobilenetv2_28": "quickstart", "resnet_28": "resnet28"}
ENGINES, SHARES, RIDGE = ("forward", "backward", "swap"), (0.5, 0.25, 0.15), 1e-2
SMALL, CUT, DRAWS = 16, 14, 3  # a unit of at most so many neurons is searched whole; of others so many neurons, drawn so often
WAYS = (("sequential", "marginal"), ("independent", "uniform"), ("sequential", "uniform"), ("independent", "marginal"))
UNITS = ["network", "unit", "neurons", "columns", "part", "share", "kept", "engine", "error", "seconds", "guarantee", "attained"]
TOP1 = ["network", "seed", "mode", "allocation", "share", "engine", "macs_share", "top1"]


def opened(runs: str, network: str, seed: int):
    """(context, data, dense, target) of one run of the first table, by engine backward along its curves."""
    where = ["sweep={}", f"runs_dir={runs}", f"seed={seed}", "prune.engine=backward", "prune.allocation=marginal"]
    where += [f"network.model=pipeline.networks.small:{network}", f"network.weights=configs/weights/{NETWORKS[network]}.safetensors"]
    config = load_config("configs/first-table.yaml", where)
    context = Context(config, Store(Path(runs), device_of(config)), lambda event: None)
    data = run_data(context)
    dense = run_dense(context, data)
    return context, data, dense, find_target(context, dense)


def coordinating(folder: str, opened_) -> Coordinator:
    context, data, dense, target = opened_
    executor = InProcess(bench_of(context, dense, data, target.units, Path(folder)))
    journal = Journal(Path(folder) / "journal.jsonl", context.observe)
    return Coordinator(executor, journal, Path(folder), context.config.scoring, 2000, context.observe)


def measured_in(opened_) -> Measured:
    """Quadratics of 2,000 images in the dense network and the orders of backward."""
    context, data, dense, target = opened_
    return measured_of(dense, target.units, run_statistics(context, data, dense))


def searched(engine: str, q, kept: int, ranked) -> tuple[list[int], float]:
    """(neurons, seconds of one thread's CPU); the seconds of `swap` hold those of the order it starts from."""
    began = time.process_time()
    if engine == "l1":
        found = ranked[:kept]
    elif engine == "forward":
        found = [pick.neuron for pick in forward(q, RIDGE, kept)]
    else:
        found = [pick.neuron for pick in backward(q, RIDGE)[:kept]]
        found = swap(q, RIDGE, found) if engine == "swap" else found
    return found, time.process_time() - began


def best_error(full, kept: int) -> float:
    """error(S) of the best set of `kept` neurons: every set is tried."""
    sets, best = torch.tensor(list(itertools.combinations(range(full.width), kept))), -torch.inf
    for some in sets.split(1024):
        at = (some[:, :, None] * full.columns + torch.arange(full.columns)).flatten(1)
        factor = torch.linalg.cholesky(full.gram[at[:, :, None], at[:, None, :]])
        explained = torch.linalg.solve_triangular(factor, full.cross.T[at], upper=False)
        best = max(best, float((explained**2).sum((1, 2)).max()))
    return full.total - best


def cuts(name: str, q, ranked):
    """(what was cut, quadratic, its neurons by l1): the unit whole, and where it is large small ones of a few of its neurons."""
    yield "whole", q, ranked
    for number in range(DRAWS if q.width > SMALL else 0):
        neurons = sorted(int(n) for n in draw("cut", name, number).permutation(q.width)[:CUT])
        at = q.block(neurons)
        yield f"cut {number}", from_dense(q.gram[at][:, at], q.weight[:, at], q.columns, q.precision), sorted(range(CUT), key=lambda i: ranked.index(neurons[i]))


def write_units(runs: str) -> None:
    with open(HERE / "units.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(UNITS)
        for network in NETWORKS:
            given = opened(runs, network, 0)
            job = Job(given[2].network, given[3].units, {}, given[0].config.prune.model_copy(update={"selector": "l1"}), 0)
            for name, quadratic in measured_in(given).quadratics.items():
                ranked = falling(scores(job, given[3].units.units[name]))
                for part, q, order in cuts(name, quadratic, ranked):
                    full = ridged(q, RIDGE)
                    for share in SHARES:
                        kept = max(1, round(share * q.width))
                        best = full.total - best_error(full, kept) if q.width <= SMALL else None
                        for engine in (*ENGINES, "l1"):
                            found, seconds = searched(engine, q, kept, order)
                            error = refit_error(full, found)
                            bound = [explained_share(q, RIDGE, found), (full.total - error) / best] if best else ["", ""]
                            writer.writerow([network, name, q.width, q.columns, part, share, kept, engine, error / full.total, round(seconds, 4), *bound])
                        if best:
                            error = (full.total - best) / full.total
                            writer.writerow([network, name, q.width, q.columns, part, share, kept, "optimum", error, "", "", 1.0])
            print(network, flush=True)


def pruned(given, job: Job):
    """The dense network of `given` as the job prunes it."""
    network = copy.deepcopy(job.network)
    with tempfile.TemporaryDirectory() as folder:
        coordinator = coordinating(folder, given)
        prune_units(job, coordinator)
        apply_choices(network, job.units.units, {commit.unit: load_choice(Path(folder), commit) for commit in coordinator.committed})
    return network


@cache
def prepared(runs: str, network: str, seed: int):
    """(what `opened` gives, job without widths, orders of each engine, curves of backward)."""
    given = opened(runs, network, seed)
    context, data, dense, target = given
    statistics = run_statistics(context, data, dense)
    measured = measured_of(dense, target.units, statistics)
    orders = {"forward": {name: forward(q, RIDGE) for name, q in measured.quadratics.items()}, "l1": {}}
    orders |= {"backward": measured.orders, "swap": measured.orders}
    curves = read_curves(run_curves(context, data, dense, None, statistics))
    return given, Job(dense.network, target.units, {}, context.config.prune, seed, measured), orders, curves


@cache
def test_batches(runs: str, network: str) -> list:
    _, data, dense, _ = opened(runs, network, 0)
    test = splits_of(data).test
    return list(ScoringStream(test, range(test.manifest.samples), dense.preprocess, 250).block(0, test.manifest.samples))


def measured_row(runs, network, seed, mode, allocation, share, engine) -> list:
    given, job, orders, curves = prepared(runs, network, seed)
    context, _, _, target = given
    sharing = replace(target.sharing, allocation=allocation, budget=Budget("prunable_macs", share))
    widths = sharing.widths(curves).widths
    chosen = {"selector": "l1", "engine": None} if engine == "l1" else {"engine": engine}
    measured = replace(job.measured, orders=orders[engine]) if mode == "independent" else None
    one = replace(job, widths=widths, prune=job.prune.model_copy(update=chosen | {"mode": mode}), measured=measured)
    correct = top_correct(pruned(given, one), test_batches(runs, network), context.device)
    macs = target.table.cost(widths).prunable_macs / target.table.cost({}).prunable_macs
    return [network, seed, mode, allocation, share, engine, round(macs, 5), round(100 * correct.top1 / correct.samples, 2)]


def write_networks(runs: str, seeds: list[int]) -> None:
    path = HERE / "top1.csv"
    known = path.read_text().splitlines() if path.exists() else []
    done = {tuple(line.split(",")[:6]) for line in known}
    with open(path, "a", newline="") as file:
        writer = csv.writer(file)
        if not known:
            writer.writerow(TOP1)
        for (mode, allocation), seed, network, share, engine in itertools.product(WAYS, seeds, NETWORKS, SHARES, (*ENGINES, "l1")):
            if mode == "sequential" and (engine in ("forward", "l1") or (allocation == "uniform" and network == "mobilenetv2_28")):
                continue  # in ../first-table/results.csv and results.csv
            if (network, str(seed), mode, allocation, str(share), engine) not in done:
                writer.writerow(measured_row(runs, network, seed, mode, allocation, share, engine))
                file.flush()


def main(runs: str, step: str, *seeds: str) -> None:
    torch.set_num_threads(1)
    {"quadratics": write_units, "networks": partial(write_networks, seeds=[int(s) for s in seeds or "012"])}[step](runs)


if __name__ == "__main__":
    main(*sys.argv[1:])
