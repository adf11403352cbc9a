"""One attempt at a group's runs: Ray Tune places, starts and restarts the trials; an attempt that was cut off is restored from Tune's state."""

import logging
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ray import tune

from pipeline.chain.plan import Planned, Sweep
from pipeline.cluster.trial import FAILED, STOPPED, bundles, run_trial
from pipeline.config.digests import digest
from pipeline.config.errors import Stopped
from pipeline.config.files import write_json, write_text
from pipeline.config.settings import Cluster
from pipeline.config.stopping import SIGNALS

DEATHS = 3  # of a trial's process that Tune answers by starting it again
ENVIRONMENT = {"RAY_CHDIR_TO_TRIAL_DIR": "0", "TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}
BEGUN, FINISHED, ERROR = "begun", "finished", "error.json"


@dataclass(frozen=True)
class Attempt:
    """How an attempt ended: whether Tune's state was used, and {run: message} of what was stopped."""

    restored: bool
    stops: dict[str, str]


def attempt(sweep: Sweep, runs: list[Planned], recorder) -> Attempt:
    """Run trials through Tune: those of the last attempt if it was cut off, else of `runs`. Raises Stopped at a stop signal."""
    os.environ.update(ENVIRONMENT)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what becomes of a trial is told by its directory and by notices
    with _attended(sweep, runs[0].config.cluster, recorder):
        storage = _cut_off(sweep, recorder)
        results = _restored(storage, runs[0].config.cluster, recorder) if storage else None
        restored = results is not None
        if not restored:
            storage = sweep.folder / "tune" / str(len(_storages(sweep)))
            results = _fresh(sweep, runs, storage)
    write_text(storage / FINISHED, "every trial of this attempt ended\n")
    return Attempt(restored, _ends(results, {run.folder.name: run for run in sweep.runs}))


def _trainable(cluster: Cluster):
    """The trial in a placement group. With workers its own process holds nothing of it: they do."""
    return tune.with_resources(_run, tune.PlacementGroupFactory(([{}] if cluster.workers else []) + bundles(cluster)))


def _run(config: dict) -> dict:
    return run_trial(config["run"])


def _fresh(sweep: Sweep, runs: list[Planned], storage: Path):
    """The results of a new attempt."""
    shared = {"cwd": os.getcwd(), "path": sys.path, "group": sweep.folder.name}
    specs = [{"plain": run.plain, "place": str(run.folder), "run": run.folder.name, **shared} for run in runs]
    write_text(storage / BEGUN, _identity(sweep))
    tuner = tune.Tuner(
        _trainable(runs[0].config.cluster),
        param_space={"run": tune.grid_search(specs)},
        tune_config=tune.TuneConfig(reuse_actors=True, trial_name_creator=_trial_name, trial_dirname_creator=_trial_name),
        run_config=tune.RunConfig(
            name=storage.name,
            storage_path=str(storage.parent.resolve()),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=DEATHS),
            callbacks=[Steps()],
        ),
    )
    return tuner.fit()


def _trial_name(trial) -> str:
    return trial.config["run"]["run"]


def _storages(sweep: Sweep) -> list[Path]:
    return sorted((path for path in (sweep.folder / "tune").glob("*") if path.name.isdecimal()), key=lambda path: int(path.name))


def _identity(sweep: Sweep) -> str:
    """What an attempt was begun with: settings that are in no key count too, and where relative paths begin."""
    return digest([sweep.plain, os.getcwd()])


def _cut_off(sweep: Sweep, recorder) -> Path | None:
    """The last attempt, if it was cut off and began with the same settings."""
    last = (_storages(sweep) or [None])[-1]
    if last is None or (last / FINISHED).exists():
        return None
    if not (last / BEGUN).exists() or (last / BEGUN).read_bytes() != _identity(sweep).encode():
        _set_aside(last, "it was begun with other settings", recorder)
        return None
    return last


def _restored(storage: Path, cluster: Cluster, recorder):
    """The results of an attempt that was cut off, brought to its end; None, with a notice, where Tune's state is damaged."""
    try:
        tuner = tune.Tuner.restore(str(storage.resolve()), _trainable(cluster), resume_unfinished=True, restart_errored=True)
        _check_trials(tuner)
        recorder({"event": "notice", "message": f"Tune's state {storage} is restored"})
        return tuner.fit()
    except Exception as error:  # whatever a damaged pickle raises
        if _AT_WORK[-1].began:  # a fault of the work, not of the state
            raise
        _set_aside(storage, str(error).partition("\n")[0][:200] or type(error).__name__, recorder)
        return None


def _check_trials(tuner) -> None:
    """Raise when the state of the trials cannot be read: `fit` would begin with none."""
    try:
        tuner.get_results()
    except RuntimeError as error:
        raise ValueError("the state of its trials is missing or damaged") from error


def _set_aside(storage: Path, reason: str, recorder) -> None:
    message = f"Tune's state {storage} cannot be restored ({reason}); it is set aside, the run directories say what is left"
    recorder({"event": "notice", "message": message})


def _ends(results, runs: dict[str, Planned]) -> dict[str, str]:
    """{run: message} of what was stopped; word is left of trials whose process died too often."""
    stops = {}
    for result in results:
        run = runs.get(result.config["run"]["run"])
        if run is None or (run.folder / "result.json").exists():
            continue
        end = result.metrics or {}
        if result.error is not None:
            _fail(run, f"the process of the trial died {DEATHS + 1} times; the last time: {_reason(result.error)}")
        elif end.get("state") == FAILED and not (run.folder / ERROR).exists():  # before its directory was made
            _fail(run, end["message"])
        elif end.get("state") == STOPPED:
            stops[run.folder.name] = end["message"]
    return stops


def _fail(run: Planned, message: str) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    write_json(run.folder / ERROR, {"code": 1, "message": message})


def _reason(error) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


@dataclass
class _Attendance:
    """What is seen to between two steps of Tune."""

    sweep: Sweep
    cluster: Cluster
    recorder: object
    signals: list[int]
    since: float  # when a trial was at work
    began: bool = False  # Tune made a step

    def heed_signals(self) -> None:
        if self.signals:
            raise Stopped(f"stopped by {signal.Signals(self.signals[0]).name}; run the same command to go on")

    def check_room(self, trials) -> None:
        """Raise Stopped when no trial found room for `cluster.wait_seconds`."""
        now = time.monotonic()
        if any(trial.status == "RUNNING" for trial in trials) or not any(trial.status == "PENDING" for trial in trials):
            self.since = now
        elif now - self.since > self.cluster.wait_seconds:
            need = " + ".join(", ".join(f"{amount:g} {what}" for what, amount in bundle.items()) for bundle in bundles(self.cluster))
            raise Stopped(f"cluster: no room for a trial ({need}) within {self.cluster.wait_seconds:g} s; make room and run the same command")


_AT_WORK: list[_Attendance] = []  # of this process; Tune keeps its callbacks in a pickle


class Steps(tune.Callback):
    """Tune's door to the attendance at work: an exception that a signal raised inside Ray's C code would be lost there."""

    def on_step_begin(self, iteration, trials, **_):
        _AT_WORK[-1].began = True
        _AT_WORK[-1].heed_signals()
        _AT_WORK[-1].check_room(trials)

    def on_trial_recover(self, iteration, trials, trial, **_):
        message = f"{trial}: the process of the trial died; it is started again"
        _AT_WORK[-1].recorder({"event": "notice", "message": message})


@contextmanager
def _attended(sweep: Sweep, cluster: Cluster, recorder):
    """Inside, stop signals are heeded between two steps of Tune and at the end."""
    noted: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS} if threading.current_thread() is threading.main_thread() else {}
    for number in before:
        signal.signal(number, lambda number, frame: noted.append(number))
    _AT_WORK.append(_Attendance(sweep, cluster, recorder, noted, time.monotonic()))
    try:
        yield
        _AT_WORK[-1].heed_signals()
    finally:
        _AT_WORK.pop()
        for number, handler in before.items():
            signal.signal(number, handler)
