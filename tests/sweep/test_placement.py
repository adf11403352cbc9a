"""What a trial holds of the machine, and when."""

import os
import threading
from pathlib import Path

import pytest

from pipeline.chain.plan import plan_sweep
from pipeline.cluster.session import PREFIX, connected
from pipeline.cluster.sweep import run_sweep
from pipeline.config.settings import Cluster
from pipeline.stages.lock import is_live
from tests.sweep.conftest import text_of
from tests.sweep.processes import computed, events

ARMS = "sweep: {arm: [finetune, reinit-epochs]}\n"


def plan(place, images, *overrides):
    config = place / "sweep.yaml"
    config.write_text(text_of(images, place / "runs", epochs=40, sweep=ARMS))
    return plan_sweep(str(config), overrides)


def report(folder):
    (folder / "report").mkdir()


def watched(sweep, look) -> list:
    """What look() saw again and again while the sweep ran."""
    seen, ended = [], threading.Event()

    def watch():
        while not ended.wait(0.1):
            seen.append(look())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        group = run_sweep(sweep, report)
    finally:
        ended.set()
        thread.join()
    assert [run["state"] for run in group["runs"]] == ["done", "done"]
    return seen


def at_work(sweep) -> int:
    """How many runs were at work at one moment: a lock seen before and after the others was held while they were looked at."""

    def held():
        return {run.hash for run in sweep.runs if is_live(run.folder / "lock.json")}

    return len(held() & held())


def search_workers() -> int:
    """Processes that are a search's workers now, of the Ray that this process started."""
    found, mark = 0, f"{PREFIX}{os.getpid()}-".encode()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            named = (place / "cmdline").read_bytes().startswith(b"ray::Worker")
            found += named and mark in (place / "environ").read_bytes()
        except OSError:
            continue
    return found


@pytest.mark.proof
def test_two_trials_of_one_core_work_at_once_and_share_one_search(tmp_path, image_folder):
    with connected(Cluster(), cpus=2) as ray:
        sweep = plan(tmp_path, image_folder)
        seen = watched(sweep, lambda: (at_work(sweep), bundles_of(ray)))
    assert max(working for working, _ in seen) == 2
    assert {tuple(group) for _, groups in seen for group in groups} == {(1.0,)}, "a trial without workers holds one core"
    times = computed(sweep.runs_dir)
    assert set(times.values()) == {1}
    assert sum(key.startswith("search-") for key in times) == 1


def bundles_of(ray) -> list[list[float]]:
    """The cores of each bundle of each placement group that is in use."""
    groups = [group for group in ray.util.placement_group_table().values() if group["state"] == "CREATED"]
    return [sorted(bundle.get("CPU", 0.0) for bundle in group["bundles"].values()) for group in groups]


@pytest.mark.slow
def test_workers_hold_all_cores_of_a_trial_and_are_gone_when_it_trains(tmp_path, image_folder):
    with connected(Cluster(), cpus=2) as ray:
        assert ray.cluster_resources()["CPU"] == 2, "a Ray that an earlier test left behind"
        sweep = plan(tmp_path, image_folder, "cluster.workers=2")

        def look():
            last = [event for run in sweep.runs if is_live(run.folder / "lock.json") for event in events(run.folder)[-1:]]
            return [event.get("stage") for event in last if event["event"] == "epoch"], search_workers(), bundles_of(ray), at_work(sweep)

        seen = watched(sweep, look)
    assert {tuple(group) for _, _, groups, _ in seen for group in groups} == {(1.0, 1.0)}, "two bundles; the coordinator adds none"
    assert max(working for *_, working in seen) == 1, "two cores are room for one trial of two workers"
    assert max(workers for _, workers, _, _ in seen) >= 1
    training = [workers for stages, workers, _, _ in seen if stages == ["train"]]
    assert training and min(training) == 0
    hired = [event for run in sweep.runs for event in events(run.folder) if event["event"] == "workers"]
    assert max(event["alive"] for event in hired) >= 1
    assert {event["stage"] for event in hired} == {"search"}


@pytest.mark.proof
def test_trials_that_need_more_cores_than_the_machine_has_run(make_group):
    cores = (os.cpu_count() or 1) + 1
    group = make_group(sweep="sweep: {arm: [none]}\n")
    group.run(f"cluster.workers={cores}")
    assert group.states() == {"done": 1}
