"""One run of a group by its number: what a task of an array job does. Tasks know nothing of each other; the store's locks let them share."""

from contextlib import suppress

from pipeline.chain.plan import Sweep
from pipeline.chain.run import run_chain
from pipeline.config.errors import BadInput, Stopped
from pipeline.config.files import write_text
from pipeline.config.yaml import dump
from pipeline.stages.groups import write_group
from pipeline.stages.lock import Lock
from pipeline.stages.runs import make_folder

ENDED = ("done", "failed")


def run_part(sweep: Sweep, number: int, report) -> dict:
    """Run number `number` (from 0) of a group in this process; the content of group.json. Whoever ends last calls `report(folder)`.

    Raises BadInput when the group has no such run, and what the run itself raises.
    """
    if not 0 <= number < len(sweep.runs):
        raise BadInput(f"--part: {number}: this group has the runs 0 to {len(sweep.runs) - 1}")
    run = sweep.runs[number]
    make_folder(sweep.folder, sweep.runs_dir)
    begin_group(sweep)
    try:
        run_chain(run.config, group=sweep.folder.name)
    finally:
        group = begin_group(sweep)
        if all(entry["state"] in ENDED for entry in group["runs"]) and any(entry["state"] == "done" for entry in group["runs"]):
            with suppress(Stopped), Lock(sweep.folder, f"group {sweep.folder.name}"):  # another task that ended now builds it
                report(sweep.folder)
    return group


def begin_group(sweep: Sweep) -> dict:
    """config.yaml, once, and group.json as the run directories tell it now; the content of the latter."""
    if not (sweep.folder / "config.yaml").exists():
        write_text(sweep.folder / "config.yaml", dump(sweep.plain))
    return write_group(sweep.folder, sweep.name, sweep.hash, [(run.folder.name, run.hash) for run in sweep.runs])
