"""The stages in order: what `gfs run` calls."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from pipeline.chain.arm import LAST, run_train
from pipeline.chain.bisection import at_share, run_bisection
from pipeline.chain.asking import check_cluster
from pipeline.chain.context import Context, device_of
from pipeline.chain.gate import refuse_below_gate
from pipeline.chain.measuring import run_baseline, run_evaluate, run_untrained
from pipeline.chain.latencies import run_latencies
from pipeline.chain.normalise import (
    bisection_settings,
    curves_settings,
    latencies_settings,
    run_settings,
    scores_settings,
    statistics_settings,
    train_settings,
)
from pipeline.chain.rate import with_rate
from pipeline.chain.result import result_row, selection_cost
from pipeline.chain.selecting import selecting
from pipeline.chain.sources import dense_stage, plan_of, run_data, run_dense, unseen
from pipeline.chain.target import find_target
from pipeline.config.digests import digest
from pipeline.config.errors import BadInput, Failed, Stopped
from pipeline.config.files import DISK_FULL, read_json, write_json
from pipeline.config.settings import Config
from pipeline.config.yaml import dump
from pipeline.data.prepare import find_origin
from pipeline.networks.saved import ARCH
from pipeline.networks.saved import WEIGHTS as MODEL
from pipeline.stages.lock import Lock
from pipeline.stages.recorder import Recorder
from pipeline.stages.runs import begin_run, copy_into, make_folder, run_folder
from pipeline.stages.standing import STAGES
from pipeline.stages.store import Done, Store
from pipeline.tracking.tracker import About, Tracker



@dataclass(frozen=True)
class Finished:
    """A finished run, or the stage that `--until` named."""

    folder: Path
    run: Path
    result: dict | None


def run_hash(config: Config, inputs: dict | None = None) -> str:
    """Digest of `name` and every hashed setting; data and weights enter by what they hold (`inputs`, where it is known)."""
    return digest({"settings": run_settings(config), "inputs": run_inputs(config) if inputs is None else inputs})


def run_inputs(config: Config) -> dict[str, str]:
    """The digests of data and weights: they are read, or looked at file by file."""
    context = Context(config, Store(Path(config.runs_dir), device_of(config)), lambda event: None)
    inputs = dict(find_origin(config.data, config.network.num_classes).inputs)
    if config.network.weights is not None:
        inputs |= dense_stage(context, None).inputs
    return inputs


def run_chain(config: Config, until: str | None = None, group: str | None = None) -> Finished:
    """One run: every stage, resuming what exists; `group` is the sweep that asks for it. Raises BadInput, Stopped or Failed."""
    if until is not None and until not in STAGES:
        raise BadInput(f"--until: {until!r} is no stage; give one of {', '.join(STAGES)}")
    optional = {"scores": scores_settings, "statistics": statistics_settings, "curves": curves_settings, "train": train_settings}
    optional |= {"latencies": latencies_settings, "bisection": bisection_settings}
    if until in optional and optional[until](config) is None:
        raise BadInput(f"--until: this run has no stage {until}: its settings leave it out")
    device = device_of(config)
    context = Context(config, Store(Path(config.runs_dir), device), None)
    plan_of(context)
    identity = {"run_hash": run_hash(config), "group": group}
    folder = run_folder(config.runs_dir, config.name, identity["run_hash"])
    early = until not in ("latencies", "data", "dense") and "latency_ms" not in config.budget  # which stage latencies tells, first of all
    if early and not (folder / "result.json").exists():
        find_target(context, unseen(context))  # units and budget hang on no weight: told before hours of training
    make_folder(folder, config.runs_dir)
    with Lock(folder, f"run {folder.name}"):
        if (folder / "result.json").exists():
            return _finished(folder, config, until)
        begin_run(folder, dump(config.model_dump(mode="json")), device)
        recorder = Recorder(folder)
        about = About(identity["run_hash"], folder.name, group, config.arm, run_settings(config))
        tracker = Tracker(config.tracking, folder, about, recorder)
        try:
            recorder({"event": "run", "run": folder.name, "state": "running"})
            check_cluster(config.cluster, lambda message: recorder({"event": "notice", "message": message}))
            tracker.begin()
            context = Context(config, Store(Path(config.runs_dir), device), tracker)
            finished = _run_stages(context, folder, {"run": folder.name, **identity}, until)
            if finished.result:
                tracker.finish(finished.result)
                write_json(folder / "result.json", finished.result)  # the last: with it the run is done
            return finished
        except (Exception, Stopped) as error:
            tracker.close(_record(error, folder, recorder))
            raise
        finally:
            tracker.close()
            recorder.close()


def _record(error: BaseException, folder: Path, recorder) -> int:
    """Leave word of an error; its exit code. A stop that can be resumed, a full disk among them, is none; a disk too full for it hides nothing."""
    is_full = isinstance(error, OSError) and error.errno in DISK_FULL
    code = 75 if is_full else getattr(error, "exit_code", 1)
    with contextlib.suppress(OSError):
        recorder({"event": "error", "code": code, "message": str(error)})
        if code != 75:
            write_json(folder / "error.json", {"code": code, "message": str(error) or type(error).__name__})
    return code


def _finished(folder: Path, config: Config, until: str | None) -> Finished:
    """A run that is done, found as it is; nothing is written. Raises Failed naming what is damaged or missing."""
    try:
        row = read_json(folder / "result.json")
        stages = row["stages"]
    except (ValueError, KeyError, TypeError) as error:
        raise Failed(f"run {folder}: result.json is damaged ({error}); delete it and run again") from error
    for name in (ARCH, MODEL):
        if not (folder / name).exists():
            raise Failed(f"run {folder}: {name} is missing; delete result.json there and run again")
    if until is None:
        return Finished(folder, folder, row)
    return Finished(Path(config.runs_dir) / "stages" / f"{until}-{stages[until]}", folder, None)


def _run_stages(context: Context, folder: Path, identity: dict, until: str | None) -> Finished:
    done: dict[str, Done] = {}
    for stage, dense in _in_order(context):
        done[stage.stage.name] = stage
        write_json(folder / "stages.json", {name: value.stage.key for name, value in done.items()})
        if until == stage.stage.name:
            return Finished(stage.folder, folder, None)
    arm, shrink = done.get("train"), done["shrink"]
    copy_into(folder, shrink.folder / ARCH, ARCH)
    copy_into(folder, arm.folder / LAST if arm else shrink.folder / MODEL, MODEL)
    row = result_row(context, identity, done, dense)
    context.observe({"event": "result", **{name: row[name] for name in ("top1_dense", "top1_selected", "top1", "macs", "macs_dense")}})
    return Finished(folder, folder, row)


def _in_order(context: Context):
    """(finished stage, dense network once there is one) of every stage that this run has."""
    if "latency_ms" in context.config.budget:
        yield run_latencies(context, unseen(context)), None
        find_target(context, unseen(context))  # as early as for the other kinds
    data = run_data(context)
    yield data, None
    dense = run_dense(context, data)
    yield dense.done, dense
    find_target(context, dense)
    baseline = run_baseline(context, data, dense)
    refuse_below_gate(context.config.network, baseline.facts["validation_top1"], "validation")
    yield baseline, dense
    if bisection := run_bisection(context, data, dense, baseline):
        yield bisection, dense
        context = at_share(context, bisection)
    selected: dict[str, Done] = {"bisection": bisection} if bisection else {}
    for done in selecting(context, data, dense):
        selected[done.stage.name] = done
        yield done, dense
    shrink = selected["shrink"]
    if arm := run_train(with_rate(context, data, dense), data, dense, shrink, selection_cost(selected, "macs")):
        yield arm, dense
    untrained = run_untrained(context, data, dense, shrink)
    yield untrained, dense
    yield run_evaluate(context, data, dense, shrink, arm, (baseline, untrained)), dense
