"""Real jobs on a real SLURM: submitted, looked at, cancelled; their journals are those of a run in one process."""

import json
import os
import shutil
from pathlib import Path

import pytest

from pipeline.config.errors import BadInput, Stopped
from tests.cluster.slurm.machine import events, said, wait_for
from tests.conftest import ROOT
from tests.sweep.processes import computed

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]
PLANTED = "planted-7d1c0e5f"


def test_a_run_on_one_node_ends_in_the_journal_of_a_run_in_one_process(jobs, reference):
    given = ("submit", "slurm", "-c", jobs.config, f"runs_dir={jobs.runs}", "--site", jobs.site())
    folder, job = jobs.gfs(*given).stdout.split()
    folder = Path(folder)
    assert jobs.await_state(folder, "done", "failed", "stopped")["state"] == "done", said(folder)
    assert jobs.journal() == reference[1]
    remembered = json.loads((folder / "submission.json").read_text())
    assert (remembered["launcher"], remembered["id"], remembered["cluster"]) == ("slurm", job, "private")
    assert (folder / remembered["script"]).read_text().startswith("#!/bin/bash\n")
    assert jobs.status(folder)["job"]["id"] == job
    assert "nothing was submitted" in jobs.gfs(*given).stderr


def test_a_key_in_the_environment_reaches_no_file_of_the_job_or_of_slurm(jobs, monkeypatch):
    for name in ("WANDB_API_KEY", "RAY_AUTH_TOKEN", "MY_PASSWORD", "SBATCH_COMMENT"):
        monkeypatch.setenv(name, PLANTED)
    jobs.brake.touch()
    folder, job = jobs.submit(prologue=[f"env > {jobs.place}/environment"])
    jobs.await_search(folder)
    assert "PYTHONPATH=" in (jobs.place / "environment").read_text()  # what the site exports is there
    kept = [path for place in (jobs.place, jobs.machine.place) for path in place.rglob("*") if path.is_file()]
    assert any(path.name == "environment" and "controller" in path.parts for path in kept), "SLURM keeps the environment where it was looked for"
    assert not [path for path in kept if PLANTED.encode() in path.read_bytes()]
    assert PLANTED not in jobs.machine.ask("scontrol", "show", "job", job)


def test_a_run_on_two_nodes_has_ray_workers_on_both(jobs, reference):
    jobs.brake.touch()
    folder, job = jobs.submit("cluster.workers=2", nodes=2)
    wait_for(lambda: any(event["event"] == "workers" and event["alive"] == 2 for event in events(folder)), lambda: said(folder))
    token = folder / "job" / f"token-{job}"
    assert token.stat().st_mode & 0o777 == 0o600 and len(token.read_text()) == 64
    at_work = {node: [read_command(pid) for pid in jobs.machine.processes(node)] for node in ("n1", "n2")}
    assert all(any("Worker" in command for command in commands) for commands in at_work.values()), at_work
    secret = token.read_text().encode()
    jobs.brake.unlink()
    assert jobs.await_state(folder, "done", "failed", "stopped")["state"] == "done", said(folder)
    assert jobs.journal() == reference[1]
    wait_for(lambda: not jobs.machine.ask("squeue", "--noheader", "--states=running,completing"))
    assert not token.exists() and not os.path.exists(f"/tmp/gfs-{job}")
    assert not [path for place in (jobs.place, jobs.machine.place) for path in place.rglob("*") if path.is_file() and secret in path.read_bytes()]


def test_a_directory_whose_name_wants_to_break_out_is_only_a_directory(jobs, reference):
    place = jobs.runs / "it's 50%j \"$(touch broken)\" \\n é\r\n#SBATCH --hold"
    place.mkdir()
    shutil.copytree(reference[0] / "stages", place / "stages")
    done = jobs.gfs("submit", "slurm", "-c", jobs.config, f"runs_dir={json.dumps(str(place))}", GFS_SITE=str(jobs.site()))
    job = done.stdout.splitlines()[-1]
    (folder,) = place.glob("tiny-*")
    assert jobs.await_state(folder, "done", "failed", "stopped")["state"] == "done", said(folder)
    assert "run " in (folder / "job" / f"slurm-{job}.out").read_text()
    assert not [path for path in (*jobs.place.rglob("broken"), *ROOT.glob("broken"))]


def read_command(pid: int) -> str:
    """How Ray's processes call themselves, too."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def test_the_tasks_of_an_array_share_stages_and_the_last_one_builds_the_report(jobs):
    folder, job = jobs.submit("sweep={arm: [none, finetune], prune.selector: [l1, random]}", "prune.engine=null", "train.epochs=1", array=True)
    submission = json.loads((folder / "submission.json").read_text())
    assert submission["tasks"] == 4 and submission["id"] == job
    status = jobs.await_state(folder, "done", "failed", "stopped")
    assert status["state"] == "done" and len(status["runs"]) == 4, said(folder)
    wait_for(lambda: (folder / "report/report.html").exists(), lambda: said(folder))
    group = json.loads((folder / "group.json").read_text())
    assert {run["state"] for run in group["runs"]} == {"done"}
    results = [json.loads((folder.parent / run["run"] / "result.json").read_text()) for run in group["runs"]]
    assert {result["group"] for result in results} == {folder.name}
    counts = computed(jobs.runs)
    assert set(counts.values()) == {1}, counts  # nothing was computed twice
    assert sum(stage.startswith("search-") for stage in counts) == 2


def test_a_group_as_one_job_runs_on_a_ray_of_its_own(jobs):
    folder, job = jobs.submit("sweep={arm: [none, finetune]}", "prune={selector: l1, refit: none, allocation: uniform, engine: null}", "train.epochs=1", nodes=2)
    assert jobs.await_state(folder, "done", "failed", "stopped")["state"] == "done", said(folder)
    assert "Ray is up on n1 n2" in (folder / "log.txt").read_text()


def test_cancel_stops_a_run_resumably_and_submitting_again_goes_on(jobs, reference):
    jobs.brake.touch()
    folder, job = jobs.submit()
    jobs.await_search(folder)
    with pytest.raises(Stopped, match=f"slurm job {job} is running"):  # one job at a time
        jobs.submit()
    line = jobs.gfs("cancel", folder).stdout
    assert line.startswith(f"{folder.name}: stopped; go on with: ") and "gfs submit slurm -c " in line
    assert jobs.machine.fields(job)["JobState"] == "FAILED" and jobs.machine.fields(job)["ExitCode"] == "75:0"
    assert jobs.status(folder)["state"] == "stopped"
    jobs.brake.unlink()
    again, second = jobs.submit()
    assert again == folder and second != job
    assert jobs.await_state(folder, "done", "failed", "stopped")["state"] == "done", said(folder)
    assert jobs.journal() == reference[1]


def test_a_job_that_waits_says_why_and_can_be_cancelled(jobs):
    folder, job = jobs.submit(options=["--begin=now+1hour"])
    status = jobs.status(folder)
    assert status["state"] == "pending" and status["job"] == {"launcher": "slurm", "id": job, "state": "pending", "reason": "BeginTime"}
    assert f"slurm job {job} is pending (BeginTime)" in jobs.gfs("status", folder).stdout
    assert jobs.gfs("cancel", folder).stdout.startswith(f"{folder.name}: stopped")
    assert jobs.machine.fields(job)["JobState"] == "CANCELLED"


def test_what_sbatch_refuses_is_told_and_leaves_nothing_behind(jobs):
    with pytest.raises(BadInput, match="sbatch: .*partition"):
        jobs.submit(partition="nowhere")
    assert [path.name for path in jobs.runs.iterdir()] == ["stages"]


@pytest.mark.parametrize("path", sorted((ROOT / "slurm").glob("*.sbatch")), ids=lambda path: path.name)
def test_slurm_itself_takes_the_files_for_use_by_hand(jobs, path):
    jobs.machine.ask("sbatch", "--test-only", "--time=1", "--partition=main", "--cpus-per-task=1", str(path))
