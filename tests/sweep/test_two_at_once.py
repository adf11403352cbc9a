"""Several sweeps at once: of one group only one, of groups that share runs nothing twice."""

import json

import pytest

from tests.sweep.processes import PATIENCE, computed

SWEEPS = ("sweep: {arm: [none, finetune]}\n", "sweep: {arm: [finetune, reinit-epochs]}\n")


@pytest.mark.slow
def test_sweeps_at_once_compute_nothing_twice(make_group, tmp_path):
    first, second = (make_group(name, runs_dir=tmp_path / "runs", sweep=sweep) for name, sweep in zip("ab", SWEEPS))
    at_once = [(group, group.start()) for group in (first, second, first)]
    ended = []
    for group, process in at_once:
        _, err = process.communicate(timeout=PATIENCE)
        ended.append((group, process.returncode, err.splitlines()[-1] if err else ""))
    refused = [line for group, code, line in ended if code == 75 and ": is locked by live process " in line and line.startswith("gfs: error: group ")]
    assert len(refused) == 1, ended
    assert any(f"is locked by live process {process.pid} on " in refused[0] for _, process in at_once)
    assert all(code == 0 or (code == 75 and "is locked by live process" in line) for _, code, line in ended), ended
    for group in (first, second):
        group.run()
    groups = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/group.json")]
    assert [[run["state"] for run in group["runs"]] for group in groups] == [["done"] * 2] * 2
    assert len(list((tmp_path / "runs").glob("*/result.json"))) == 3
    assert set(computed(tmp_path / "runs").values()) == {1}
