"""SLURM by its own commands: sbatch, squeue, sacct, scancel."""

import os
import shutil
import subprocess
from pathlib import Path

from pipeline.config.errors import BadInput
from pipeline.submit.launcher import Standing
from pipeline.submit.submission import Submission

NAME = "slurm"
PATIENCE = 60.0  # seconds that a SLURM command may take
PENDING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
RUNNING = {"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "SUSPENDED", "STOPPED", "RESIZING"}
KEPT = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "SLURM_CONF", "MANPATH")  # of the environment, for the job
KEPT_BEGINNINGS = ("LC_", "LMOD_", "MODULE", "BASH_FUNC_module", "BASH_FUNC_ml")


def submit(folder: Path, script: str) -> tuple[str, str | None]:
    """Hand `script`, which lies in `folder`, to sbatch; (job id, cluster or None). Raises BadInput with sbatch's own words.

    Of the environment the job gets what finds programs and modules: SLURM keeps a job's environment in files, so no key may be in it.
    """
    done = _call(["sbatch", "--parsable", "--export=ALL", script], folder)
    if done.returncode:
        raise BadInput(f"sbatch: {_words(done)}; see the site file's settings and {Path(folder) / script}")
    number, _, cluster = done.stdout.strip().splitlines()[-1].partition(";")
    return number, cluster or _cluster()


def _cluster() -> str | None:
    """The name of the cluster that sbatch spoke to."""
    for line in _call(["scontrol", "show", "config"]).stdout.splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "ClusterName":
            return value.strip()
    return None


class Slurm:
    """The launcher behind a submission of SLURM."""

    def stand(self, submission: Submission) -> Standing:
        """By squeue; by sacct what squeue has forgotten, where the site keeps accounts."""
        if not shutil.which("squeue"):
            return Standing("unknown", "no squeue here; ask on a machine of the cluster")
        asked = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={submission.id}", "--format=%T|%r"]
        try:
            done = _call([*asked, *_on(submission)])
        except BadInput as error:
            return Standing("unknown", str(error))
        if done.returncode and "Invalid job id" not in done.stderr:
            return Standing("unknown", _words(done))
        tasks = [line.partition("|") for line in done.stdout.splitlines() if line.strip()]
        return _of_tasks([(state.strip(), reason.strip()) for state, _, reason in tasks]) or self._accounted(submission)

    def _accounted(self, submission: Submission) -> Standing:
        if shutil.which("sacct"):
            asked = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={submission.id}", "--format=State"]
            done = _call([*asked, *_on(submission)])
            states = [line.split()[0] for line in done.stdout.splitlines() if line.strip()] if not done.returncode else []
            if found := _of_tasks([(state, "") for state in states]):
                return found
        return Standing("gone", "SLURM does not know it any more")

    def stop(self, submission: Submission) -> None:
        """SIGUSR2 to the batch shells, which hand it on; what waits in the queue leaves it."""
        self._scancel(submission, ["--state=PENDING"])
        self._scancel(submission, ["--batch", "--signal=USR2"])

    def _scancel(self, submission: Submission, options: list[str]) -> None:
        done = _call(["scancel", "--quiet", *options, *_on(submission), submission.id])
        # --quiet says nothing of a job that ended meanwhile
        if done.returncode and done.stderr.strip() and not any(words in done.stderr for words in ("Invalid job id", "already complet")):
            raise BadInput(f"scancel: {_words(done)}")


def _of_tasks(tasks: list[tuple[str, str]]) -> Standing | None:
    """One standing for (state, reason) of all tasks of a job: it runs as long as one does."""
    for name, states in (("running", RUNNING), ("pending", PENDING)):
        found = [(state, reason) for state, reason in tasks if state in states]
        if found:
            reasons = dict.fromkeys(reason for _, reason in found if reason not in ("", "None"))
            count = f"{len(found)} of {len(tasks)} tasks" if len(tasks) > 1 else ""
            return Standing(name, ", ".join([*([count] if count else []), *reasons]))
    return Standing("gone", ", ".join(dict.fromkeys(state for state, _ in tasks))) if tasks else None


def _on(submission: Submission) -> list[str]:
    """Where several clusters share one door, the job's own is named."""
    return [f"--clusters={submission.cluster}"] if submission.cluster and os.environ.get("SLURM_CLUSTERS") else []


def _call(words: list[str], folder: Path | None = None) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name in KEPT or name.startswith(KEPT_BEGINNINGS)}
    try:
        return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise BadInput(f"{words[0]}: is not found; give the command on a machine of the cluster, where SLURM's commands are") from error
    except subprocess.TimeoutExpired as error:
        raise BadInput(f"{words[0]}: no answer within {PATIENCE:g} s; is the controller up? `sinfo` tells") from error


def _words(done: subprocess.CompletedProcess) -> str:
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {done.returncode}"
