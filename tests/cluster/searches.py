"""A search of configs/tiny.yaml in this process, on workers of a Ray that is there; what must not depend on them."""

import json
import shutil
from pathlib import Path

from pipeline.chain.asking import Place, bench_of
from pipeline.chain.context import Context, device_of
from pipeline.chain.run import run_chain
from pipeline.chain.sources import run_data, run_dense
from pipeline.chain.target import find_target
from pipeline.cluster.executor import on_ray
from pipeline.config.load import load_config
from pipeline.config.settings import Cluster
from pipeline.journal import Journal
from pipeline.pruners.pruner import Job, prune_units
from pipeline.search.coordinator import Coordinator
from pipeline.search.executor import InProcess
from pipeline.stages.store import Store
from tests.cluster.conftest import PRUNERS, QUIET, TINY


def chain(prepared: Path, runs: Path, pruner: str, *overrides) -> dict[str, bytes]:
    """A whole run of the chain up to stage shrink, from finished data and dense; its outcome."""
    if not runs.exists():
        shutil.copytree(prepared, runs)
    run_chain(load_config(str(TINY), [f"runs_dir={runs}", *QUIET, *PRUNERS[pruner], *overrides]), until="shrink")
    return outcome(runs)


def outcome(runs: Path) -> dict[str, bytes]:
    """Journal, selection artifacts, measured orders and curves, shrunk weights: {path below stages: bytes}."""
    patterns = ("search-*/journal.jsonl", "search-*/units/*", "statistics-*/*.safetensors", "statistics-*/orders.json", "curves-*/curves.json", "shrink-*/model.safetensors")
    return {str(path.relative_to(runs)): path.read_bytes() for p in patterns for path in sorted(Path(runs).glob(f"stages/{p}"))}


def events(runs: Path, kind: str) -> list[dict]:
    texts = [path.read_text() for path in Path(runs).glob("tiny-*/metrics.jsonl")]  # one of the preparation, one of the run
    return [event for text in texts for event in map(json.loads, text.splitlines()) if event["event"] == kind]


def search(
    prepared: Path, folder: Path, pruner: str, cluster: Cluster | None, faults=None, watch=None, warm=False, overrides=()
) -> tuple[bytes, list[dict]]:
    """(journal, events) of the search alone, on workers that meet `faults`.

    `watch(event)` sees each event as it comes; with `warm` all workers load first.
    """
    folder.mkdir(parents=True)
    config = load_config(str(TINY), [f"runs_dir={prepared}", *QUIET, *PRUNERS[pruner], *overrides])
    seen: list[dict] = []

    def observe(event):
        seen.append(event)
        if watch:
            watch(event)

    context = Context(config, Store(prepared, device_of(config)), lambda event: None)
    data = run_data(context)
    dense = run_dense(context, data)
    target = find_target(context, dense)
    journal = Journal(folder / "journal.jsonl", observe)
    job = Job(dense.network, target.units, target.sharing.widths(None).widths, config.prune, config.seed)

    def go(executor):
        coordinator = Coordinator(executor, journal, folder, config.scoring, config.prune.calibration_samples or 0, observe)
        if config.prune.mode == "independent":
            coordinator.dense_grams()
        else:
            prune_units(job, coordinator)

    if cluster is None:
        go(InProcess(bench_of(context, dense, data, target.units, folder)))
    else:
        with on_ray(Place.of(context, dense, data, folder), cluster, observe, faults) as executor:
            if warm:
                executor.warm()
            go(executor)
    journal.close()
    return (folder / "journal.jsonl").read_bytes(), seen
