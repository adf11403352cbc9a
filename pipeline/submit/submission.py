"""What is remembered of a submitted job, in the run or group directory that it works on."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.config.errors import BadInput
from pipeline.config.files import write_json

SUBMISSION, JOB = "submission.json", "job"


@dataclass(frozen=True)
class Submission:
    """`script` is relative to the directory; `tasks`: how many an array has, else null; `host`, `time`: where and when it was submitted."""

    launcher: str
    id: str
    cluster: str | None
    host: str
    time: str
    script: str
    tasks: int | None = None


def write_submission(folder: Path, submission: Submission) -> None:
    write_json(Path(folder) / SUBMISSION, asdict(submission))


def read_submission(folder: Path) -> Submission | None:
    """The latest job of a directory, or None. Raises BadInput when the file is damaged."""
    path = Path(folder) / SUBMISSION
    try:
        text = path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return Submission(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise BadInput(f"{path}: is damaged ({error}); delete it: the job's own state is the launcher's") from error


def cancelled_mark(folder: Path, submission: Submission) -> Path:
    """The file that tells a job not to go back to the queue."""
    return Path(folder) / JOB / f"cancelled-{submission.id}"
