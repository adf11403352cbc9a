"""A disk that is full in mid-sweep: a stop that can be resumed, wherever it is met."""

import subprocess

import pytest


@pytest.fixture
def small_disk(tmp_path):
    """A directory with room for 400 KiB, and what makes it larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", folder], capture_output=True).returncode:
        pytest.skip("no permission to mount a tmpfs here")
    yield folder, lambda: subprocess.run(["mount", "-o", "remount,size=40m", folder], check=True)
    subprocess.run(["umount", folder], check=True)


@pytest.mark.proof
def test_a_sweep_on_a_full_disk_stops_and_goes_on_when_there_is_room(make_group, small_disk):
    folder, enlarge = small_disk
    group = make_group(runs_dir=folder / "runs", sweep="sweep: {arm: [none, finetune]}\n")
    _, err = group.run(code=75)
    assert err.splitlines()[-1].startswith("gfs: error: ")
    assert "No space left on device; make room and run the same command" in err.splitlines()[-1]
    assert not list(folder.glob("runs/*/error.json"))
    enlarge()
    group.run()
    assert group.states() == {"done": 2}
