"""A config becomes a job on SLURM: planned, written into its run or group directory, submitted, remembered."""

import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.chain.plan import Sweep, plan_plain
from pipeline.chain.run import run_hash
from pipeline.cluster.part import begin_group
from pipeline.config.errors import BadInput, Stopped
from pipeline.config.files import write_text
from pipeline.config.load import check_plain, combine, read_plain
from pipeline.config.settings import Cluster
from pipeline.config.yaml import dump
from pipeline.stages.lock import is_live
from pipeline.stages.recorder import utc
from pipeline.stages.runs import make_folder, run_folder, safe_name
from pipeline.submit import slurm
from pipeline.submit.script import Script, render, write_script
from pipeline.submit.site import Site
from pipeline.submit.submission import JOB, Submission, write_submission

SCRIPT, CONFIG = "job.sbatch", "config.yaml"


@dataclass(frozen=True)
class Planned:
    """A job before it is submitted: the directory of its run or group, its settings, its script; `group` is null for a run."""

    folder: Path
    runs_dir: str
    plain: dict
    script: Script
    text: str
    group: Sweep | None

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        if self.group is None:
            return (self.folder / "result.json").exists()
        return all((run.folder / "result.json").exists() for run in self.group.runs) and (self.folder / "report/report.html").exists()


def plan_job(path: str, overrides, site: Site, array: bool) -> Planned:
    """What a config would become: a run, or a group where its `sweep:` lists leave more than one combination. Nothing is written.

    Raises BadInput for what `gfs run` and `gfs sweep` would refuse, and for a site that does not fit the config.
    """
    plain = read_plain(path, overrides)
    combinations = combine(plain)
    is_group = len(combinations) > 1
    if array and not is_group:
        raise BadInput(f"{path}: --array: is for groups, and this config is one run; leave --array out, or give sweep lists")
    config = check_plain(combinations[0], path)
    if config.cluster.address is not None:
        raise BadInput(f"{path}: cluster.address: a submitted job brings up a Ray of its own; leave it out")
    uses_ray = config.cluster.workers > 0 or (is_group and not array)
    _check_size(site, config.cluster, uses_ray, path)
    seen_here = {"device": "auto"} if config.device == "cuda" else {}  # in no key, and this machine may have no GPU
    group = plan_plain(plain | seen_here, path) if is_group else None
    folder = group.folder if group else run_folder(config.runs_dir, config.name, run_hash(check_plain(combinations[0] | seen_here, path)))
    job = folder.resolve() / JOB
    script = Script(
        name=f"gfs-{safe_name(config.name)}",
        job=str(job),
        log=str(folder.resolve() / "log.txt"),
        work=str(Path.cwd()),
        bin=site.bin or str(Path(sys.executable).absolute().parent),
        command=("sweep" if is_group else "run", "-c", str(job / CONFIG)),
        ray=uses_ray,
        tasks=len(group.runs) if group and array else None,
    )
    return Planned(folder, config.runs_dir, plain if is_group else combinations[0], script, render(script, site), group)


def _check_size(site: Site, cluster: Cluster, uses_ray: bool, path: str) -> None:
    """Refuse nodes that nothing would use, and workers for which there is no room."""
    if site.nodes > 1 and not uses_ray:
        raise BadInput(f"{path}: cluster.workers: is 0, so only one of the site's {site.nodes} nodes would work; set cluster.workers, or nodes: 1")
    if not uses_ray:
        return
    each = [int(site.cpus / cluster.cpus), *([int(site.gpus / cluster.gpus)] if cluster.gpus else [])]
    room, wanted = site.nodes * min(each), max(cluster.workers, 1)
    if wanted > room:
        need = f"{cluster.cpus:g} CPU" + (f" and {cluster.gpus:g} GPU" if cluster.gpus else "")
        have = f"{site.nodes} x {site.cpus} CPU" + (f" and {site.gpus} GPU" if site.gpus else "")
        raise BadInput(f"{path}: cluster.workers: {wanted} of {need} each, but the site's job has {have}: room for {room}; raise nodes, cpus or gpus")


def submit_job(planned: Planned, is_alive) -> Submission:
    """Write the job into its directory, hand it to sbatch, remember it there. `is_alive(folder)`: words about a job that is at it, or None.

    Raises Stopped while a job or a process works on the directory, BadInput when sbatch refuses: then nothing is left behind.
    """
    folder = planned.folder
    if words := is_alive(folder) or (is_live(folder / "lock.json") and "a process works on it"):
        raise Stopped(f"{folder}: {words}; `gfs cancel` it, or wait for it")
    was_there = folder.exists()
    make_folder(folder, planned.runs_dir)
    write_text(folder / JOB / CONFIG, dump(planned.plain))
    write_script(folder / JOB / SCRIPT, planned.text)
    if planned.group:
        begin_group(planned.group)
    try:
        number, cluster = slurm.submit(folder / JOB, SCRIPT)
    except BadInput:
        if not was_there:
            shutil.rmtree(folder)
        raise
    submission = Submission(slurm.NAME, number, cluster, socket.gethostname(), utc(), f"{JOB}/{SCRIPT}", planned.script.tasks)
    write_submission(folder, submission)
    return submission
