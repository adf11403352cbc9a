"""The sweep of a group: what is not done goes to Ray Tune; the run directories decide what is finished, Tune's state never does."""

import os
import threading
import time
from contextlib import contextmanager, suppress

from pipeline.chain.plan import Planned, Sweep
from pipeline.cluster.session import connected, ended_with_its_head
from pipeline.cluster.trial import bundles
from pipeline.config.errors import Stopped
from pipeline.config.files import write_text
from pipeline.config.yaml import dump
from pipeline.stages.groups import write_group
from pipeline.stages.lock import Lock, is_live
from pipeline.stages.recorder import Recorder
from pipeline.stages.runs import make_folder

LOOK_SECONDS, ENDING_SECONDS = 1.0, 15.0


def run_sweep(sweep: Sweep, report) -> dict:
    """Run what is not done of a group, then `report(folder)`; the content of group.json.

    Raises Stopped when something was stopped that the same command goes on with.
    """
    folder = sweep.folder
    if all(_is_done(run) for run in sweep.runs) and (folder / "report/report.html").exists():
        return _written(sweep)
    make_folder(folder, sweep.runs_dir)
    with Lock(folder, f"group {folder.name}"):
        write_text(folder / "config.yaml", dump(sweep.plain))
        _written(sweep)
        recorder = Recorder(folder)
        try:
            _run_trials(sweep, recorder)
            _written(sweep)
            if any(_is_done(run) for run in sweep.runs):
                report(folder)
        except Stopped as stop:
            recorder({"event": "error", "code": Stopped.exit_code, "message": str(stop)})
            raise
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
    recorder({"event": "notice", "message": f"group {sweep.folder}: {len(todo)} of {len(sweep.runs)} runs to do; {sharing(sweep)}"})
    cluster = todo[0].config.cluster
    needs = bundles(cluster)
    cpus = max(os.cpu_count() or 1, sum(bundle["CPU"] for bundle in needs))
    try:
        with connected(cluster, cpus, sum(bundle.get("GPU", 0) for bundle in needs)) as ray:
            from pipeline.cluster.attempt import attempt

            for run in todo:  # only now: where no Ray comes, what a run failed of stays known
                (run.folder / "error.json").unlink(missing_ok=True)
            with _watched(sweep, recorder), ended_with_its_head(ray, recorder):
                _await_ends(todo)  # trials of a command that was killed may live on for a moment
                ended = attempt(sweep, todo, recorder)
                if ended.restored and (forgotten := _open(todo)):  # Tune's state called them finished; their directories do not
                    ended = attempt(sweep, forgotten, recorder)
    finally:
        _await_ends(todo)  # a Ray that is taken down does not wait for the trials' processes
    if left := _open(todo):
        name = left[0].folder.name
        reason = ended.stops.get(name, "came to no end, see its log.txt; run the same command to go on")
        raise Stopped(f"group {sweep.folder.name}: run {name}: {reason}")


def _open(runs: list[Planned]) -> list[Planned]:
    return [run for run in runs if not _is_done(run) and not (run.folder / "error.json").exists()]


def _await_ends(runs: list[Planned]) -> None:
    """Wait until no process works on these runs; not for long, another command may be at them."""
    end = time.monotonic() + ENDING_SECONDS
    while any(is_live(run.folder / "lock.json") for run in runs) and time.monotonic() < end:
        time.sleep(0.2)


def sharing(sweep: Sweep) -> str:
    """How often each stage is computed for how many runs, in words."""
    return ", ".join(f"{name} {times} for {runs}" for name, (runs, times) in sweep.shared().items() if times < runs) or "no stage is shared"


@contextmanager
def _watched(sweep: Sweep, recorder):
    """Keep group.json and the log as the run directories are, while the trials work."""
    ended = threading.Event()

    def look():
        known = {run["run"]: run["state"] for run in _written(sweep)["runs"]}
        while True:
            last = ended.wait(LOOK_SECONDS)
            with suppress(OSError):  # a full disk is told by whoever writes results
                states = {run["run"]: run["state"] for run in _written(sweep)["runs"]}
                done = sum(state in ("done", "failed") for state in states.values())
                for name in [name for name in states if states[name] != known[name]]:
                    recorder({"event": "run", "run": name, "state": states[name], "done": done, "total": len(states), "unit_name": "runs"})
                known = states
            if last:
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
