"""What breaks into jobs on a real SLURM: time limits, preemption, nodes that die or never come. The journal does not tell of it."""

import os
import re
import signal
import time

import pytest

from tests.cluster.slurm.machine import events, said, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]


def log(folder) -> str:
    return (folder / "log.txt").read_text()


def ends_in(jobs, folder, journal: bytes) -> None:
    assert jobs.await_state(folder, "done", "failed", "stopped")["state"] == "done", said(folder)
    assert jobs.journal() == journal


def test_at_its_time_limit_a_run_stops_goes_back_to_the_queue_and_on_to_the_same_journal(jobs, reference):
    jobs.brake.touch()
    folder, job = jobs.submit(time="3", notice_seconds=30)  # SLURM signals up to a minute earlier
    jobs.await_search(folder)
    wait_for(lambda: "goes back to the queue, time 1 of 20" in log(folder), lambda: said(folder))
    assert re.search(rf"job {job}: stopped by USR2, resumably", log(folder))
    assert reference[1].startswith(jobs.journal()) and len(jobs.journal()) < len(reference[1])
    jobs.brake.unlink()
    wait_for(lambda: log(folder).count("begins on") > 1, lambda: said(folder))
    ends_in(jobs, folder, reference[1])
    assert jobs.machine.fields(job)["Restarts"] == (folder / "job" / f"requeues-{job}").read_text().strip() != "0"


def test_a_job_goes_back_to_the_queue_no_more_often_than_it_may(jobs):
    jobs.brake.touch()
    folder, job = jobs.submit(time="1", notice_seconds=10, requeues=0)
    status = jobs.await_state(folder, "stopped")
    assert "no more are allowed" in log(folder) and status["job"]["reason"] == "FAILED"
    assert jobs.machine.fields(job)["ExitCode"] == "75:0"


def test_a_higher_partition_takes_the_node_and_the_run_goes_on_afterwards(jobs, reference):
    jobs.brake.touch()
    folder, job = jobs.submit(partition="low", exclusive=True)
    jobs.await_search(folder)
    other = jobs.machine.ask("sbatch", "--parsable", "--partition=main", "--nodes=2", "--exclusive", "--time=1", "--output=/dev/null", "--wrap", "sleep 5")
    wait_for(lambda: jobs.machine.fields(other)["JobState"] == "COMPLETED", lambda: said(folder))
    assert "stopped by SIGTERM" in log(folder)
    assert reference[1].startswith(jobs.journal()) and len(jobs.journal()) < len(reference[1])
    jobs.brake.unlink()
    wait_for(lambda: log(folder).count("begins on") == 2, lambda: said(folder))
    ends_in(jobs, folder, reference[1])
    assert jobs.machine.fields(job)["Restarts"] == "1"


def test_a_node_that_dies_in_mid_run_costs_nothing_but_time(jobs, reference):
    jobs.brake.touch()
    folder, job = jobs.submit("cluster.workers=2", nodes=2)
    jobs.await_search(folder)
    wait_for(lambda: any(event["event"] == "workers" and event["alive"] == 2 for event in events(folder)), lambda: said(folder))
    jobs.machine.kill_node("n2")
    wait_for(lambda: jobs.machine.fields(job)["Restarts"] == "1" or "cluster: lost worker" in log(folder), lambda: said(folder))
    wait_for(lambda: jobs.machine.fields(job)["Restarts"] == "1", lambda: said(folder))
    assert reference[1].startswith(jobs.journal()) and len(jobs.journal()) < len(reference[1])
    jobs.brake.unlink()
    jobs.machine.order("node", "n2")
    wait_for(lambda: log(folder).count("begins on") == 2, lambda: said(folder))
    ends_in(jobs, folder, reference[1])


def test_a_node_that_never_comes_is_named_within_the_time_given(jobs):
    os.kill(jobs.machine.daemon("n2"), signal.SIGSTOP)
    began = time.monotonic()
    folder, job = jobs.submit("cluster.workers=2", nodes=2, wait_seconds=15, requeues=0)
    jobs.await_state(folder, "stopped")
    assert time.monotonic() - began < 180
    assert f"node n2 did not come within 15 s: it is down, or it does not share {folder}/job" in log(folder)
    assert jobs.machine.fields(job)["ExitCode"] == "75:0"
    assert "Ray is up" not in log(folder)


def test_a_node_whose_ray_does_not_join_is_named(jobs):
    refuses = 'case "$SLURMD_NODENAME$*" in n2*start*) exit 1 ;; esac; exec "$@"'
    folder, job = jobs.submit("cluster.workers=2", nodes=2, wait_seconds=20, requeues=0, container=["bash", "-c", refuses, "inside"])
    jobs.await_state(folder, "stopped")
    assert "node n2 did not join Ray within 20 s" in log(folder)
    assert jobs.machine.fields(job)["ExitCode"] == "75:0"
