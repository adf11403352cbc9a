"""Who answers the questions of a run: an actor in this process, or workers on Ray, each with a bench of its own."""

import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pipeline.chain.context import Context
from pipeline.chain.sources import Dense, open_dense, splits_of
from pipeline.chain.target import units_and_cost
from pipeline.config.settings import Cluster, Config
from pipeline.data.streams import ScoringStream, classes_missing, scoring_order
from pipeline.networks.units import Units
from pipeline.search.actor import Bench
from pipeline.search.executor import InProcess
from pipeline.stages.store import Done, Store


@dataclass(frozen=True)
class Place:
    """Where a worker finds all it needs: the config, the finished stages, the folder of the artifacts; all of it plain data."""

    config: Config
    data: Done
    dense: Done
    folder: Path
    store: Store

    @classmethod
    def of(cls, context: Context, dense: Dense, data: Done, folder: Path) -> "Place":
        data, trained = (replace(done, folder=done.folder.resolve()) for done in (data, dense.done))
        return cls(context.config, data, trained, Path(folder).resolve(), context.store)


def open_bench(place: Place) -> Bench:
    """The bench of a worker, from files alone."""
    context = Context(place.config, place.store, lambda event: None)
    dense = open_dense(place.dense)
    return bench_of(context, dense, place.data, units_and_cost(context, dense)[0], place.folder)


def bench_of(context: Context, dense: Dense, data: Done, units: Units, folder: Path) -> Bench:
    """What an actor of this run is given."""
    config, split = context.config, splits_of(data).train
    stream = ScoringStream(split, scoring_order(split, config.seed), dense.preprocess, config.scoring.batch)
    return Bench(dense.network, units, stream, config.scoring, folder, context.device, config.seed)


def check_cluster(cluster: Cluster, say) -> None:
    """Refuse an address at which no Ray answers; say when this machine has fewer cores than its workers ask for."""
    if cluster.address is not None:
        from pipeline.cluster.session import check_address

        check_address(cluster.address)
    elif cluster.workers * cluster.cpus > (cores := os.cpu_count() or 1):
        say(f"cluster.workers: {cluster.workers} of {cluster.cpus:g} CPU each, but this machine has {cores} cores: they take turns")


@contextmanager
def executor_of(context: Context, dense: Dense, data: Done, units: Units, folder: Path):
    """The executor that `cluster:` asks for; a notice when the calibration images lack a class."""
    split, config = splits_of(data).train, context.config
    order = scoring_order(split, config.seed)
    if lacking := classes_missing(split, order, config.prune.calibration_samples or len(order)):
        context.observe({"event": "notice", "message": f"prune.calibration_samples: no image of class {', '.join(lacking[:5])}; raise it"})
    torch.set_num_threads(config.scoring.threads)  # the choosing too is the same, to the last digit, wherever it happens
    if not config.cluster.workers:
        yield InProcess(bench_of(context, dense, data, units, folder))
        return
    from pipeline.cluster.executor import on_ray  # a run in one process imports no Ray

    with on_ray(Place.of(context, dense, data, folder), config.cluster, context.observe) as executor:
        yield executor
