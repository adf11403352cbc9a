"""The Tune sweep: Ray Tune places, starts and restarts the trials; the run directories decide what is finished."""

import os
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.chain.plan import Planned, Sweep
from pipeline.cluster.session import connected
from pipeline.cluster.trial import STOPPED, run_trial
from pipeline.config.errors import Stopped
from pipeline.config.files import write_json, write_text
from pipeline.config.settings import Cluster
from pipeline.config.yaml import dump
from pipeline.stages.groups import write_group
from pipeline.stages.lock import Lock
from pipeline.stages.recorder import Recorder

DEATHS = 3  # of a trial's process that Tune answers by starting it again
LOOK_SECONDS = 1.0
ENVIRONMENT = {"RAY_CHDIR_TO_TRIAL_DIR": "0", "TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}


def run_sweep(sweep: Sweep, report) -> dict:
    """Run what is not done of a group, then `report(folder)`; the content of group.json.

    Raises Stopped when something was stopped that the same command goes on with.
    """
    folder = sweep.folder
    if all(_is_done(run) for run in sweep.runs) and (folder / "report/report.html").exists():
        return _written(sweep)
    folder.mkdir(parents=True, exist_ok=True)
    with Lock(folder, f"group {folder.name}"):
        write_text(folder / "config.yaml", dump(sweep.plain))
        recorder = Recorder(folder)
        try:
            _run_trials(sweep, recorder)
            _written(sweep)
            if any(_is_done(run) for run in sweep.runs):
                report(folder)
        finally:
            group = _written(sweep)
            recorder.close()
    return group


def _is_done(run: Planned) -> bool:
    return (run.folder / "result.json").exists()


def _written(sweep: Sweep) -> dict:
    return write_group(sweep.folder, sweep.name, sweep.hash, [(run.folder.name, run.hash) for run in sweep.runs])


def _run_trials(sweep: Sweep, recorder) -> None:
    """Trials until every run is done or failed; a failed one of an earlier command is tried once more."""
    todo = [run for run in sweep.runs if not _is_done(run)]
    if not todo:
        return
    for run in todo:
        (run.folder / "error.json").unlink(missing_ok=True)
    recorder({"event": "notice", "message": f"{len(todo)} of {len(sweep.runs)} runs to do; {sharing(sweep)}"})
    clusters = [run.config.cluster for run in todo]
    cpus = max(os.cpu_count() or 1, *(sum(bundle["CPU"] for bundle in _bundles(cluster)) for cluster in clusters))
    gpus = max(sum(bundle.get("GPU", 0) for bundle in _bundles(cluster)) for cluster in clusters)
    with connected(clusters[0], cpus, gpus), _watched(sweep, recorder):
        restored = _tune(sweep, todo, recorder)
        forgotten = [run for run in todo if not _is_done(run) and not (run.folder / "error.json").exists()]
        if restored and forgotten:  # Tune's state called them finished; their directories do not
            _tune(sweep, forgotten, recorder)
    if open_ := [run for run in todo if not _is_done(run) and not (run.folder / "error.json").exists()]:
        raise Stopped(f"group {sweep.folder.name}: run {open_[0].folder.name} came to no end, see its log.txt; run the same command to go on")


def sharing(sweep: Sweep) -> str:
    """How often each stage is computed for how many runs, in words."""
    return ", ".join(f"{name} {times} for {runs}" for name, (runs, times) in sweep.shared().items() if times < runs) or "no stage is shared"


def _bundles(cluster: Cluster) -> list[dict[str, float]]:
    """What a trial holds: its workers' share each, one core without workers; the coordinator adds none."""
    one = {"CPU": cluster.cpus} | ({"GPU": cluster.gpus} if cluster.gpus else {})
    return [one] * max(cluster.workers, 1)


def _tune(sweep: Sweep, runs: list[Planned], recorder) -> bool:
    """Run trials through Tune: those of the last attempt if it was cut off, else of `runs`; whether it was restored."""
    from ray import tune

    os.environ.update(ENVIRONMENT)
    trainable = tune.with_resources(_trainable, _resources(tune, runs[0].config.cluster))
    attempts = sorted((sweep.folder / "tune").glob("[0-9]*"), key=lambda path: int(path.name))
    tuner, storage = None, sweep.folder / "tune" / str(len(attempts))
    if attempts and not (attempts[-1] / "finished").exists():
        tuner = _restored(tune, attempts[-1], trainable, recorder)
        storage = attempts[-1] if tuner else storage
    restored = tuner is not None
    results = (tuner or _fresh(tune, sweep, runs, trainable, storage)).fit()
    write_text(storage / "finished", "every trial of this attempt ended\n")
    _note_ends(results, {run.folder.name: run for run in sweep.runs})
    return restored


def _trainable(config: dict) -> dict:
    return run_trial(config["run"])


def _resources(tune, cluster: Cluster):
    """A placement group per trial. With workers its own process holds nothing of it: they do."""
    return tune.PlacementGroupFactory(([{}] if cluster.workers else []) + _bundles(cluster))


def _fresh(tune, sweep: Sweep, runs: list[Planned], trainable, storage: Path):
    specs = [
        {"plain": run.plain, "place": str(run.folder), "cwd": os.getcwd(), "path": sys.path, "group": sweep.folder.name, "run": run.folder.name}
        for run in runs
    ]
    return tune.Tuner(
        trainable,
        param_space={"run": tune.grid_search(specs)},
        tune_config=tune.TuneConfig(reuse_actors=True, trial_name_creator=_trial_name, trial_dirname_creator=_trial_name),
        run_config=tune.RunConfig(
            name=storage.name,
            storage_path=str(storage.parent.resolve()),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=DEATHS),
        ),
    )


def _trial_name(trial) -> str:
    return trial.config["run"]["run"]


def _restored(tune, folder: Path, trainable, recorder):
    """Tune's own state of an attempt that was cut off; None, with a notice, where it cannot be restored."""
    try:
        tuner = tune.Tuner.restore(str(folder.resolve()), trainable, resume_unfinished=True, restart_errored=True)
    except Exception as error:  # whatever a damaged pickle raises
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        message = f"Tune's state {folder} cannot be restored ({reason}); it is set aside, the run directories say what is left"
        recorder({"event": "notice", "message": message})
        return None
    recorder({"event": "notice", "message": f"Tune's state {folder} is restored"})
    return tuner


def _note_ends(results, runs: dict[str, Planned]) -> None:
    """Leave word of trials whose process died too often. Raises Stopped when one was stopped."""
    stopped = None
    for result in results:
        run = runs[result.config["run"]["run"]]
        if result.error is not None and not _is_done(run):
            reason = str(result.error).strip().splitlines()[-1][:300]
            message = f"the process of the trial died {DEATHS + 1} times; the last time: {reason}"
            run.folder.mkdir(parents=True, exist_ok=True)
            write_json(run.folder / "error.json", {"code": 1, "message": message})
        elif (result.metrics or {}).get("state") == STOPPED and not _is_done(run):
            stopped = stopped or f"run {run.folder.name}: {result.metrics['message']}"
    if stopped:
        raise Stopped(stopped)


@contextmanager
def _watched(sweep: Sweep, recorder):
    """Keep group.json and the log as the run directories are, while the trials work."""
    ended = threading.Event()

    def look():
        known: dict[str, str] = {}
        while True:
            with suppress(OSError):  # a full disk is told by whoever writes results
                states = {run["run"]: run["state"] for run in _written(sweep)["runs"]}
                done = sum(state in ("done", "failed") for state in states.values())
                for name, state in states.items():
                    if known.get(name, "pending") != state:
                        recorder({"event": "run", "run": name, "state": state, "done": done, "total": len(states), "unit_name": "runs"})
                known = states
            if ended.wait(LOOK_SECONDS):
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
