"""A submitted job as the directory of its run or group remembers it, whatever launched it."""

import time
from pathlib import Path

from pipeline.config.errors import BadInput
from pipeline.submit.launcher import Launcher, Standing
from pipeline.submit.slurm import NAME, Slurm
from pipeline.submit.submission import Submission, cancelled_mark, read_submission

LAUNCHERS: dict[str, Launcher] = {NAME: Slurm()}
AT_WORK = ("pending", "running")
ASK_SECONDS = 5.0  # between two questions to a cluster, however often somebody looks


class Submitted:
    """The latest job of a directory; `look()` asks its launcher, seldom."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.asked, self.known, self.standing = float("-inf"), None, None

    def look(self) -> tuple[Submission, Standing] | None:
        """The job and where it stands; None where nothing was submitted. Raises BadInput when submission.json is damaged."""
        submission = read_submission(self.folder)
        if submission is None:
            return None
        if submission != self.known or time.monotonic() - self.asked > ASK_SECONDS:
            self.known, self.standing = submission, launcher_of(submission).stand(submission)
            self.asked = time.monotonic()
        return submission, self.standing

    def adjust(self, status: dict) -> dict:
        """A status told by files, with what the launcher knows: the files do not tell a job that waits from one that is gone."""
        submission = read_submission(self.folder)
        if submission is None:
            return status
        job = {"launcher": submission.launcher, "id": submission.id}
        if status["state"] in ("done", "failed", "running"):
            return status | {"job": job}
        standing = self.look()[1]
        state = standing.state if standing.state in AT_WORK else "stopped"
        return status | {"state": state, "job": job | {"state": standing.state, "reason": standing.reason}}


def launcher_of(submission: Submission) -> Launcher:
    """Raises BadInput for one that this version does not know."""
    if submission.launcher not in LAUNCHERS:
        raise BadInput(f"job {submission.id}: launcher {submission.launcher!r} is not known here; this version knows {', '.join(LAUNCHERS)}")
    return LAUNCHERS[submission.launcher]


def words_of(submission: Submission, standing: Standing) -> str:
    """slurm job 12 is pending (Resources)"""
    return f"{submission.launcher} job {submission.id} is {standing.state}" + (f" ({standing.reason})" if standing.reason else "")


def at_work(folder: Path) -> str | None:
    """Words about a job that waits for or works on this directory; None when there is none. Raises BadInput where nobody can be asked."""
    found = Submitted(folder).look()
    if found and found[1].state == "unknown":
        raise BadInput(f"{Path(folder).name}: {words_of(*found)}")
    return words_of(*found) if found and found[1].state in AT_WORK else None


def stop_job(folder: Path) -> None:
    """Ask the job of a directory to stop resumably, and not to go back to the queue."""
    submission = read_submission(folder)
    mark = cancelled_mark(folder, submission)
    mark.parent.mkdir(exist_ok=True)
    mark.touch()
    launcher_of(submission).stop(submission)
