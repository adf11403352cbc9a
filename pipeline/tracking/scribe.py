"""The process that writes to W&B: it follows metrics.jsonl and says on stdout how it went.

Alone in a process, so that a hang, a crash or a setting of W&B's stays here, and so that runs may follow each other or go
on side by side in whatever process they are in. It ends when its stdin does: with the run's own process.
"""

import json
import os
import queue
import threading
from pathlib import Path

from pipeline.tracking.rows import metrics_of, summary_of, tables_of

LOOK_SECONDS = 0.5
INIT_SECONDS, FINISH_SECONDS = 15.0, 30.0
STOPPED = 75


def main() -> None:
    """Read one line that describes the run, then those that end it: {"row": ...} or {"stop": exit code}."""
    orders, answers = _detach()
    about = json.loads(orders.readline())
    told: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders, told), daemon=True).start()
    try:
        import wandb
    except BaseException as error:
        return _answer(answers, {"failed": _reason(error), "broken": True})
    try:
        _mirror(wandb, about, told)
        _answer(answers, {"done": True})
    except BaseException as error:  # whatever a foreign library raises
        _answer(answers, {"failed": _reason(error), "broken": False})
        os._exit(1)  # W&B's own way out would try to reach its server once more


def _detach():
    """Stdin and stdout for this module alone; what is started from here gets neither."""
    orders, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    return orders, answers


def _listen(orders, told) -> None:
    for line in orders:
        told.put(json.loads(line))
    os._exit(1)  # the run's process is gone; W&B's own service ends with this one


def _answer(answers, message: dict) -> None:
    print(json.dumps(message), file=answers, flush=True)


def _reason(error: BaseException) -> str:
    """One line, without the key, whatever W&B put there."""
    text = " ".join(str(error).split())
    if key := os.environ.get("WANDB_API_KEY"):
        text = text.replace(key, "(key)")
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _mirror(wandb, about: dict, told) -> None:
    """Follow the run's metrics until its end is told."""
    folder = Path(about["folder"])
    run = wandb.init(config=about["config"], settings=_settings(wandb, about))
    lines = _Lines(folder / "metrics.jsonl", first=run.starting_step)
    end = None
    while end is None:
        try:
            end = told.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            pass
        for number, values in lines.fresh():
            run.log(values, step=number, commit=True)
    if "row" in end:
        _add_result(wandb, run, folder, end["row"])
        run.finish(exit_code=0)
    else:
        if end["stop"] == STOPPED and about["mode"] == "online":
            run.mark_preempting()
        run.finish(exit_code=end["stop"])
    wandb.teardown()


def _settings(wandb, about: dict):
    """Everything W&B would add by itself is off: code, git, console, machine, requirements."""
    limits = {"init_timeout": INIT_SECONDS, "finish_timeout": FINISH_SECONDS}
    limits = {name: seconds for name, seconds in limits.items() if f"WANDB_{name.upper()}" not in os.environ}
    online = {"resume": "allow", "finish_timeout_raises": True, **limits} if about["mode"] == "online" else {}
    return wandb.Settings(
        mode=about["mode"], root_dir=about["folder"], project=about["project"], entity=about["entity"], run_id=about["id"],
        run_name=about["name"], run_group=about["group"], run_job_type=about["job_type"],
        console="off", silent=True, symlink=False, disable_code=True, save_code=False, disable_git=True, disable_job_creation=True,
        x_disable_stats=True, x_disable_meta=True, x_disable_machine_info=True, x_save_requirements=False,
        **online,
    )  # fmt: skip


def _add_result(wandb, run, folder: Path, row: dict) -> None:
    run.summary.update(summary_of(row, json.loads((folder / "arch.json").read_text())))
    artifact = wandb.Artifact(f"result-{run.id}", type="result")
    for name, (columns, rows) in tables_of(folder, row).items():
        artifact.add(wandb.Table(columns=columns, data=rows), name)
    with artifact.new_file("result.json") as file:
        json.dump(row, file, indent=1)
    run.log_artifact(artifact)


class _Lines:
    """The lines of a growing metrics.jsonl from number `first` on; a line's number is its step, also after a resume."""

    def __init__(self, path: Path, first: int):
        self.path, self.first, self.number, self.offset = path, first, 0, 0

    def fresh(self):
        """(number, values) of each whole line that was not given yet."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            data = file.read()
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                return
            self.offset += len(line)
            if self.number >= self.first:
                yield self.number, metrics_of(json.loads(line))
            self.number += 1


if __name__ == "__main__":
    main()
