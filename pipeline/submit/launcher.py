"""What every launcher of jobs can be asked."""

from dataclasses import dataclass
from typing import Literal, Protocol

from pipeline.submit.submission import Submission


@dataclass(frozen=True)
class Standing:
    """Where a job stands. `gone`: it ended, or is not known any more; `unknown`: nobody can be asked here. `reason` is for people."""

    state: Literal["pending", "running", "gone", "unknown"]
    reason: str = ""


class Launcher(Protocol):
    """The door to a cluster: SLURM's is `pipeline.submit.slurm`."""

    def stand(self, submission: Submission) -> Standing:
        """Where the job stands now."""

    def stop(self, submission: Submission) -> None:
        """Ask the job to stop resumably. Raises BadInput when it cannot be asked from here."""
