"""A sweep broken off by real signals, again and again: the same command goes on to the same bytes."""

import glob
import os
import signal

import pytest

from tests.sweep.processes import computed, differing, kill, outcome, wait_for, working

EPOCHS = 80  # of an arm: time to break in


def break_by_kills(group):
    """SIGKILL of a trial's process, of which the sweep itself makes good, then of the command."""
    process = group.start()
    folder, trial = wait_for(lambda: working(group.runs_dir), process)
    os.kill(trial, signal.SIGKILL)
    wait_for(lambda: any(folder.name in note and "started again" in note for note in group.notices()), process)
    wait_for(lambda: (found := working(group.runs_dir)) and found[1] != trial, process)
    kill(process)


def break_by_signal(group, number, send):
    """A stop signal in mid-run: exit code 75, one line, no process and no directory left."""
    before = group.processes()  # what a kill has left: trials live on for a moment, Ray's own agents for a minute
    process = group.start()
    wait_for(lambda: (found := working(group.runs_dir)) and found[1] not in before, process)
    send(process.pid, number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert err.splitlines()[-1] == f"gfs: error: stopped by {signal.Signals(number).name}; run the same command to go on"
    assert "Traceback" not in err
    states = group.states()
    assert states["stopped"] >= 1 and not states["running"]
    wait_for(lambda: not group.processes().keys() - before, patience=20)
    assert not list(group.scratch.glob(f"gfs-ray-{process.pid}-*"))


@pytest.mark.slow
def test_kills_and_stop_signals_leave_no_trace_in_results(make_group):
    whole = make_group("whole", epochs=EPOCHS)
    whole.run()
    group = make_group("broken", epochs=EPOCHS)
    break_by_kills(group)
    assert group.states()["done"] < 6
    break_by_signal(group, signal.SIGTERM, os.kill)
    break_by_signal(group, signal.SIGINT, os.killpg)  # as a terminal sends it: to every process of the command
    _, err = group.run()
    assert "is restored" in err
    assert len([note for note in group.notices() if note.endswith("is restored")]) == 3
    assert group.states() == {"done": 6}
    assert not differing(outcome(whole.runs_dir), outcome(group.runs_dir))
    wait_for(lambda: not group.processes())
    begun = computed(group.runs_dir)
    assert begun.keys() == computed(whole.runs_dir).keys()
    assert any(key.startswith("train-") and times > 1 for key, times in begun.items()), "a stage that was broken off is begun again"


@pytest.mark.proof
@pytest.mark.parametrize("sign", ["{scratch}/gfs-ray-*", "{scratch}/gfs-ray-*/session_*/sockets/raylet", "{runs_dir}/*/tune/0/begun"])
def test_a_stop_while_ray_or_tune_starts_is_a_stop(make_group, sign):
    group = make_group("broken")
    process = group.start()
    wait_for(lambda: glob.glob(sign.format(scratch=group.scratch, runs_dir=group.runs_dir)), process)
    err = kill(process, signal.SIGTERM)
    assert process.returncode == 75, err
    assert err.splitlines()[-1] == "gfs: error: stopped by SIGTERM; run the same command to go on"
    wait_for(lambda: not group.processes(), patience=20)
