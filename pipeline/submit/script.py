"""The sbatch script of a job: one template; every name, path and setting in it goes through bash quoting."""

from dataclasses import dataclass
from pathlib import Path

import jinja2

from pipeline.cluster.session import ENVIRONMENT
from pipeline.submit.quoting import quoted, quoted_all
from pipeline.submit.site import Site

OUTPUT = "slurm-%j.out"  # %j: the id; of an array's task its own


@dataclass(frozen=True)
class Script:
    """What a script is made of. `command`: of gfs; `ray`: whether the work needs one; `tasks`: how many an array has, else null."""

    name: str  # of the job: letters, digits, dot, dash, underscore
    job: str
    log: str
    work: str
    bin: str
    command: tuple[str, ...]
    ray: bool
    tasks: int | None = None


def render(script: Script, site: Site) -> str:
    """The text, ready for sbatch."""
    layout = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True, "comment_start_string": "<#", "comment_end_string": "#>"}
    environment = jinja2.Environment(loader=jinja2.PackageLoader("pipeline.submit"), undefined=jinja2.StrictUndefined, **layout)
    return environment.get_template("job.sbatch.j2").render(
        title=_title(script, site),
        options=_options(script, site),
        site=site,
        ray=script.ray,
        array=script.tasks is not None,
        command=quoted_all(script.command),
        inside=quoted_all(site.container),
        modules=quoted_all(site.modules),
        scratch=quoted(site.scratch),
        variables=[(name, quoted(value)) for name, value in site.variables.items()],
        ray_variables=[(name, quoted(value)) for name, value in ENVIRONMENT.items()],
        **{name: quoted(getattr(script, name)) for name in ("job", "log", "work", "bin")},
    )


def write_script(path: Path, text: str) -> None:
    """Paths may hold bytes that are no text: they come back as they were."""
    path.write_bytes(text.encode("utf-8", "surrogateescape"))


def _title(script: Script, site: Site) -> str:
    what = {"run": "One run", "sweep": "A group of runs"}[script.command[0]]
    if script.tasks is not None:
        what = "A group of runs, each a task of an array"
    where = "one node" if site.nodes == 1 else f"{site.nodes} nodes"
    return f"{what} of goodsubnets on {where}{', on Ray' if script.ray else ''}."


def _options(script: Script, site: Site) -> list[str]:
    """The #SBATCH lines. No quoting there: the settings are words, the name is made of safe letters."""
    named = {"partition": site.partition, "account": site.account, "qos": site.qos, "constraint": site.constraint}
    named |= {"reservation": site.reservation, "time": site.time, "mem": site.memory}
    options = [f"--job-name={script.name}"]
    options += [f"--{name}={value}" for name, value in named.items() if value is not None]
    options += [f"--nodes={site.nodes}", "--ntasks-per-node=1", f"--cpus-per-task={site.cpus}"]
    options += [f"--gpus-per-node={site.gpus}"] if site.gpus else []
    options += ["--exclusive"] if site.exclusive else []
    if script.tasks is not None:
        options.append(f"--array=0-{script.tasks - 1}" + (f"%{site.tasks_at_once}" if site.tasks_at_once else ""))
    return [*options, f"--signal=B:USR2@{site.notice_seconds}", "--requeue", "--open-mode=append", f"--output={OUTPUT}", *site.options]
