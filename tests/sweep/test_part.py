"""The runs of a group one by one, as the tasks of an array job do them; the last one to end builds the report."""

import json

import pytest

from pipeline.chain.plan import plan_sweep
from pipeline.cluster.part import run_part
from pipeline.config.errors import BadInput
from pipeline.stages.lock import Lock
from tests.conftest import run_gfs
from tests.sweep.conftest import text_of
from tests.sweep.processes import computed

SWEEP = "sweep: {arm: [none, finetune]}\n"


@pytest.fixture
def sweep(tmp_path, image_folder):
    config = tmp_path / "sweep.yaml"
    config.write_text(text_of(image_folder, tmp_path / "runs", sweep=SWEEP))
    return plan_sweep(str(config))


def test_parts_share_stages_and_the_last_one_reports_once(sweep, tmp_path):
    reports = []
    states = [run_part(sweep, number, reports.append)["runs"] for number in (1, 0)]
    assert [[run["state"] for run in runs] for runs in states] == [["pending", "done"], ["done", "done"]]
    assert reports == [sweep.folder]
    assert json.loads((sweep.folder / "group.json").read_text())["hash"] == sweep.hash
    results = [json.loads((run.folder / "result.json").read_text()) for run in sweep.runs]
    assert {result["group"] for result in results} == {sweep.folder.name}
    assert set(computed(tmp_path / "runs").values()) == {1}
    (sweep.folder / "group.json").unlink()  # the run directories are the truth
    run_part(sweep, 0, reports.append)
    assert {run["state"] for run in json.loads((sweep.folder / "group.json").read_text())["runs"]} == {"done"}


def test_where_another_part_builds_the_report_this_one_leaves_it(sweep):
    reports = []
    run_part(sweep, 0, reports.append)
    with Lock(sweep.folder, "another part"):
        run_part(sweep, 1, reports.append)
    assert reports == []


def test_a_part_that_is_not_there_is_bad_input(sweep, tmp_path):
    with pytest.raises(BadInput, match="--part: 2: this group has the runs 0 to 1"):
        run_part(sweep, 2, None)
    assert not (tmp_path / "runs").exists()


def test_the_command_prints_the_group(sweep, tmp_path):
    done = run_gfs("sweep", "-c", tmp_path / "sweep.yaml", "--part", "0")
    assert done.returncode == 0 and done.stdout.split() == [str(sweep.folder)], done.stderr
