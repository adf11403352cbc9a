"""A job as its directory remembers it: what status says where the launcher cannot be asked, and what several tasks add up to."""

import json

import pytest

from pipeline.config.errors import BadInput
from pipeline.stages.cancel import cancel
from pipeline.stages.groups import write_group
from pipeline.stages.status import open_status, read_status
from pipeline.submit.launcher import Standing
from pipeline.submit.slurm import _of_tasks
from pipeline.submit.submission import Submission, read_submission, write_submission
from pipeline.view.ending import Ending
from pipeline.view.words import describe
from tests.stages.test_cancel import make_run

SUBMISSION = Submission("slurm", "71", "north", "login", "2026-01-01T00:00:00.000000Z", "job/job.sbatch")


@pytest.fixture
def run(tmp_path):
    """A run directory with a submission and nothing else, as it is while the job waits."""
    folder = tmp_path / "runs" / "x-01234567"
    folder.mkdir(parents=True)
    write_submission(folder, SUBMISSION)
    return folder


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine without SLURM's commands."""
    monkeypatch.setenv("PATH", str(tmp_path))


def test_a_submission_comes_back_as_it_was(run):
    assert read_submission(run) == SUBMISSION
    assert read_submission(run.parent) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"launcher": "slurm"}', '{"launcher": "slurm", "job": 1}'])
def test_a_damaged_submission_is_named(run, text):
    (run / "submission.json").write_text(text)
    with pytest.raises(BadInput, match="submission.json: is damaged .* delete it"):
        read_status(run)


def test_a_launcher_of_a_later_version_is_told(run):
    write_submission(run, Submission(**(SUBMISSION.__dict__ | {"launcher": "moon"})))
    with pytest.raises(BadInput, match="launcher 'moon' is not known here; this version knows slurm"):
        read_status(run)


def test_where_nobody_can_be_asked_status_says_so_and_cancel_refuses(run, nowhere):
    status = read_status(run)
    assert status["state"] == "stopped" and status["job"] == {"launcher": "slurm", "id": "71", "state": "unknown", "reason": "no squeue here; ask on a machine of the cluster"}
    assert describe(status) == "x-01234567: stopped, slurm job 71 is unknown (no squeue here; ask on a machine of the cluster)"
    with pytest.raises(BadInput, match="slurm job 71 is unknown"):
        cancel(str(run), print)


def test_a_run_that_is_done_needs_no_launcher(run, nowhere):
    (run / "config.yaml").write_text("name: x\n")
    (run / "result.json").write_text("{}")
    assert read_status(run)["job"] == {"launcher": "slurm", "id": "71"} and read_status(run)["state"] == "done"


def test_a_group_that_was_submitted_tells_its_job(tmp_path, nowhere):
    folder = make_run(tmp_path / "runs", "all-89abcdef")
    write_group(folder, "all", "89abcdef", [("x-01234567", "0" * 32)])
    write_submission(folder, SUBMISSION)
    status = open_status(folder).look()
    assert status["state"] == "stopped" and status["job"]["id"] == "71" and [run["state"] for run in status["runs"]] == ["pending"]
    json.dumps(status)


@pytest.mark.parametrize(
    "tasks, standing",
    [
        ([], None),
        ([("RUNNING", "None")], Standing("running")),
        ([("PENDING", "Resources")], Standing("pending", "Resources")),
        ([("PENDING", "Priority"), ("RUNNING", "None"), ("COMPLETED", "None")], Standing("running", "1 of 3 tasks")),
        ([("PENDING", "BeginTime"), ("COMPLETED", "None")], Standing("pending", "1 of 2 tasks, BeginTime")),
        ([("COMPLETED", "None"), ("TIMEOUT", "None"), ("COMPLETED", "None")], Standing("gone", "COMPLETED, TIMEOUT")),
        ([("BRAND_NEW_STATE", "None")], Standing("gone", "BRAND_NEW_STATE")),
    ],
)
def test_a_job_runs_as_long_as_one_of_its_tasks_does(tasks, standing):
    assert _of_tasks(tasks) == standing


def test_watching_goes_on_while_a_job_waits_and_ends_with_what_only_was_never_begun():
    job = {"launcher": "slurm", "id": "71", "state": "pending", "reason": ""}
    assert not Ending().has_come({"state": "pending", "job": job})
    assert Ending().has_come({"state": "pending", "job": None})
