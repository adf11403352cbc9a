"""The stages in order: what `gfs run` calls."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from pipeline.chain.context import Context, device_of
from pipeline.chain.ending import run_evaluate, run_train
from pipeline.chain.normalise import run_settings, statistics_settings, train_settings
from pipeline.chain.result import result_row
from pipeline.chain.selection import find_target, run_search, run_shrink, run_statistics
from pipeline.chain.sources import dense_stage, plan_of, run_data, run_dense, splits_of, unseen
from pipeline.config.digests import digest
from pipeline.config.errors import BadInput, Failed, Stopped
from pipeline.config.files import DISK_FULL, read_json, write_json
from pipeline.config.settings import Config
from pipeline.config.yaml import dump
from pipeline.data.prepare import find_origin
from pipeline.data.streams import ScoringStream, validation_order
from pipeline.evaluation.accuracy import top_correct
from pipeline.networks.saved import ARCH
from pipeline.networks.saved import WEIGHTS as MODEL
from pipeline.stages.lock import Lock
from pipeline.stages.recorder import Recorder
from pipeline.stages.runs import begin_run, copy_into, make_folder, run_folder
from pipeline.stages.store import Done, Store

STAGES = ("data", "dense", "statistics", "search", "shrink", "train", "evaluate")
GATE_SHARE, GATE_ABOVE_CHANCE = 0.9, 0.1  # of the expected top-1; of what lies above chance where none is given


@dataclass(frozen=True)
class Finished:
    """A finished run, or the stage that `--until` named."""

    folder: Path
    run: Path
    result: dict | None


def run_hash(config: Config) -> str:
    """Digest of `name` and every hashed setting; data and weights enter by what they hold."""
    context = Context(config, Store(Path(config.runs_dir), device_of(config)), lambda event: None)
    origin = find_origin(config.data, config.network.num_classes)
    inputs = dict(origin.inputs)
    if config.network.weights is not None:
        inputs |= dense_stage(context, None).inputs
    return digest({"settings": run_settings(config), "inputs": inputs})


def run_chain(config: Config, until: str | None = None) -> Finished:
    """One run: every stage, resuming what exists. Raises BadInput, Stopped or Failed."""
    if until is not None and until not in STAGES:
        raise BadInput(f"--until: {until!r} is no stage; give one of {', '.join(STAGES)}")
    if (until == "statistics" and statistics_settings(config) is None) or (until == "train" and train_settings(config) is None):
        raise BadInput(f"--until: this run has no stage {until}: its settings leave it out")
    device = device_of(config)
    context = Context(config, Store(Path(config.runs_dir), device), None)
    plan_of(context)
    identity = {"run_hash": run_hash(config)}
    folder = run_folder(config.runs_dir, config.name, identity["run_hash"])
    if until not in ("data", "dense") and not (folder / "result.json").exists():
        find_target(context, unseen(context))  # units and budget hang on no weight: told before hours of training
    make_folder(folder, config.runs_dir)
    with Lock(folder, f"run {folder.name}"):
        if (folder / "result.json").exists():
            return _finished(folder, config, until)
        begin_run(folder, dump(config.model_dump(mode="json")), device)
        recorder = Recorder(folder)
        try:
            recorder({"event": "run", "run": folder.name, "state": "running"})
            context = Context(config, Store(Path(config.runs_dir), device), recorder)
            return _run_stages(context, folder, {"run": folder.name, **identity}, until)
        except (Exception, Stopped) as error:
            _record(error, folder, recorder)
            raise
        finally:
            recorder.close()


def _record(error: BaseException, folder: Path, recorder) -> None:
    """Leave word of an error; a stop that can be resumed, a full disk among them, is none. A disk too full for it hides nothing."""
    is_full = isinstance(error, OSError) and error.errno in DISK_FULL
    code = 75 if is_full else getattr(error, "exit_code", 1)
    with contextlib.suppress(OSError):
        recorder({"event": "error", "code": code, "message": str(error)})
        if code != 75:
            write_json(folder / "error.json", {"code": code, "message": str(error) or type(error).__name__})


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

    def reached(name: str, stage: Done | None) -> bool:
        if stage is not None:
            done[name] = stage
            write_json(folder / "stages.json", {key: value.stage.key for key, value in done.items()})
        return until == name

    data = run_data(context)
    if reached("data", data):
        return Finished(data.folder, folder, None)
    dense = run_dense(context, data)
    if reached("dense", dense.done):
        return Finished(dense.done.folder, folder, None)
    find_target(context, dense)
    check_gate(context, dense, data)
    statistics = run_statistics(context, data, dense)
    if reached("statistics", statistics):
        return Finished(statistics.folder, folder, None)
    search = run_search(context, data, dense, statistics)
    if reached("search", search):
        return Finished(search.folder, folder, None)
    shrink = run_shrink(context, dense, search)
    if reached("shrink", shrink):
        return Finished(shrink.folder, folder, None)
    arm = run_train(context, data, dense, shrink)
    if reached("train", arm):
        return Finished(arm.folder, folder, None)
    evaluate = run_evaluate(context, data, dense, shrink, arm)
    if reached("evaluate", evaluate):
        return Finished(evaluate.folder, folder, None)
    copy_into(folder, shrink.folder / ARCH, ARCH)
    copy_into(folder, arm.folder / "last.safetensors" if arm else shrink.folder / MODEL, MODEL)
    row = result_row(context, identity, done, dense)
    write_json(folder / "result.json", row)
    context.observe({"event": "result", **{name: row[name] for name in ("top1_dense", "top1_selected", "top1", "macs", "macs_dense")}})
    return Finished(folder, folder, row)


def check_gate(context: Context, dense, data: Done) -> None:
    """The dense gate of a run, on validation: weights that do not fit the data stop before the search.

    Raises BadInput when given weights reach less than 90 % of `network.top1`, or hardly more than chance where that is null.
    """
    network, split = context.config.network, splits_of(data).train
    order = validation_order(split)
    if network.weights is None or not len(order):
        return
    stream = ScoringStream(split, order, dense.preprocess, 250)
    correct = top_correct(dense.network, stream.block(0, len(order)), context.device)
    refuse_below_gate(network, 100 * correct.top1 / correct.samples, "validation")


def refuse_below_gate(network, top1: float, split: str) -> None:
    chance = 100 / network.num_classes
    expected = chance + GATE_ABOVE_CHANCE * (100 - chance) if network.top1 is None else network.top1 * GATE_SHARE
    if top1 < expected:
        raise BadInput(
            f"network.weights: {network.weights}: dense top-1 on {split} is {top1:.2f} %, below the gate of {expected:.2f} %; "
            "check the order of the classes, mean and std, or network.top1"
        )

