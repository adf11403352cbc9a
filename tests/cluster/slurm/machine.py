"""A private SLURM of two nodes on this machine, and runs submitted to it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline.stages.status import read_status
from pipeline.submit.job import plan_job, submit_job
from pipeline.submit.site import load_site
from pipeline.submit.submitted import at_work
from tests.cluster.slurm.slow import BRAKE
from tests.conftest import ROOT, run_gfs

PATIENCE = 600
SCRIPT = Path(__file__).with_name("slurm.sh")
INSTALL = "a SLURM is not installed: apt-get install -y slurm-wlm munge"


def is_installed() -> bool:
    places = os.environ["PATH"] + ":/usr/sbin:/sbin"
    return all(shutil.which(name, path=places) for name in ("sbatch", "slurmctld", "slurmd", "munged"))


class Machine:
    """`place` holds all its state; short, since paths of sockets may have 107 bytes."""

    def __init__(self, place: Path):
        self.place = place
        self.environment = {"SLURM_CONF": str(place / "slurm.conf")}

    def order(self, *words) -> None:
        """A verb of slurm.sh."""
        verb, *rest = words
        subprocess.run(["bash", SCRIPT, verb, self.place, *rest], check=True, timeout=120, stdin=subprocess.DEVNULL)

    def ask(self, *words) -> str:
        """What a SLURM command prints."""
        done = subprocess.run(words, env=os.environ | self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def fields(self, job: str) -> dict[str, str]:
        """What SLURM knows of a job."""
        return dict(part.split("=", 1) for part in self.ask("scontrol", "show", "job", job).split() if "=" in part)

    def daemon(self, node: str) -> int:
        return int((self.place / f"run/slurmd.{node}.pid").read_text())

    def processes(self, node: str) -> set[int]:
        """Those of jobs on a node, the step daemons above them included."""
        found = set()
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError):
                words = (place / "environ").read_bytes().split(b"\0")
                if f"SLURMD_NODENAME={node}".encode() in words and f"SLURM_CONF={self.environment['SLURM_CONF']}".encode() in words:
                    found.add(int(place.name))
                    parent = Path("/proc", (place / "stat").read_text().rpartition(")")[2].split()[1])
                    if (parent / "comm").read_text().strip() == "slurmstepd":
                        found.add(int(parent.name))
        return found

    def kill_node(self, node: str) -> None:
        """As if its power went: the daemon, the step daemons, every process of a job."""
        os.kill(self.daemon(node), signal.SIGKILL)
        while left := self.processes(node):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)

    def empty(self) -> None:
        """No job is left, and both nodes are idle again."""
        self.ask("scancel", "--quiet", "--user", self.ask("id", "-un"))
        wait_for(lambda: not self.ask("squeue", "--noheader"))
        for node in ("n1", "n2"):
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                os.kill(self.daemon(node), signal.SIGCONT)
        wait_for(lambda: self.ask("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T").split() == ["idle", "idle"])


@dataclass
class Jobs:
    """Submits configs below a directory of its own, with site settings of its own."""

    machine: Machine
    place: Path
    config: Path

    def __post_init__(self):
        self.brake = self.place / "brake"

    @property
    def runs(self) -> Path:
        return self.place / "runs"

    def site(self, **settings) -> Path:
        variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", BRAKE: str(self.brake)}
        path = self.place / "site.yaml"
        path.write_text(yaml.safe_dump({"partition": "main", "time": "20", "variables": variables} | settings))
        return path

    def submit(self, *overrides, array=False, **settings) -> tuple[Path, str]:
        """(directory, job id) of what `gfs submit slurm` does, in this process: torch is loaded here already."""
        planned = plan_job(str(self.config), [f"runs_dir={self.runs}", *overrides], load_site(str(self.site(**settings))), array)
        return planned.folder, submit_job(planned, at_work).id

    def gfs(self, *arguments, code=0, **environment):
        done = run_gfs(*arguments, timeout=PATIENCE, **self.machine.environment, **environment)
        assert done.returncode == code, f"exit code {done.returncode}: {done.stdout}\n{done.stderr}"
        return done

    def status(self, folder: Path) -> dict:
        """Asked in this process: `gfs status` a hundred times would be the heaviest work of a test."""
        return read_status(str(folder))

    def await_state(self, folder: Path, *states: str) -> dict:
        """The first status with one of these states."""
        return wait_for(lambda: (found := self.status(folder))["state"] in states and found, lambda: said(folder))

    def await_search(self, folder: Path) -> None:
        """Until picks are in the journal, while the brake is there."""
        wait_for(lambda: any(b'"kind":"pick"' in path.read_bytes() for path in self.runs.glob("stages/search-*/journal.jsonl")), lambda: said(folder))

    def journal(self) -> bytes:
        (path,) = self.runs.glob("stages/search-*/journal.jsonl")
        return path.read_bytes()


def said(folder: Path) -> str:
    """What the run, its job and Ray wrote."""
    files = [folder / "log.txt", *sorted(folder.glob("job/*.out")), *sorted(folder.glob("job/ray-*.txt"))]
    return "\n".join(f"-- {path.name}\n{path.read_text()[-3000:]}" for path in files if path.exists())


def events(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def wait_for(condition, tell=lambda: "", patience=PATIENCE):
    """The first truthy value of condition()."""
    end = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < end, f"did not come within {patience} s\n{tell()}"
        time.sleep(1)
    return value
