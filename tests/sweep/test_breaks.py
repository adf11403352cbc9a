"""Sweeps broken off by real signals: the same command goes on to the same bytes."""

import os
import signal

import pytest

from tests.sweep.processes import computed, differing, kill, outcome, wait_for, working

EPOCHS = 30  # of an arm: time to break in

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def unbroken(make_shared_group):
    group = make_shared_group("unbroken", epochs=EPOCHS)
    group.run()
    return outcome(group.runs_dir)


def test_a_killed_trial_is_started_again_and_a_killed_driver_is_restored(make_group, unbroken):
    group = make_group(epochs=EPOCHS)
    process = group.start()
    folder, trial = wait_for(lambda: working(group.runs_dir), process)
    os.kill(trial, signal.SIGKILL)
    wait_for(lambda: any(folder.name in note and "started again" in note for note in group.notices()), process)
    wait_for(lambda: (found := working(group.runs_dir)) and found[1] != trial, process)
    kill(process)
    assert group.states()["done"] < 6
    _, err = group.run()
    assert len([note for note in group.notices() if note.endswith("is restored")]) == 1
    assert "is restored" in err
    assert group.states() == {"done": 6}
    assert not differing(unbroken, outcome(group.runs_dir))
    wait_for(lambda: not group.processes())


def test_stop_signals_leave_a_group_that_the_same_command_finishes(make_group, unbroken):
    """SIGTERM to the command, then SIGINT to its whole process group as a terminal sends it."""
    group = make_group(epochs=EPOCHS)
    for number, send in ((signal.SIGTERM, os.kill), (signal.SIGINT, os.killpg)):
        process = group.start()
        wait_for(lambda: working(group.runs_dir), process)
        send(process.pid, number)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 75, err
        assert err.splitlines()[-1] == f"gfs: error: stopped by {signal.Signals(number).name}; run the same command to go on"
        assert "Traceback" not in err
        states = group.states()
        assert states["stopped"] >= 1 and not states["running"]
        wait_for(lambda: not group.processes(), patience=20)
        assert not list(group.scratch.glob("gfs-ray-*"))
    group.run()
    assert group.states() == {"done": 6}
    assert not differing(unbroken, outcome(group.runs_dir))
    assert computed(group.runs_dir).total() >= 15, "a stage that was broken off is begun again, no finished one is"
