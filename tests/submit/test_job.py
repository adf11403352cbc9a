"""A config becomes a job: what is refused before anything is written, what comes into the directory, what is remembered."""

import json
import os
import re
from pathlib import Path

import pytest

from pipeline.chain.plan import plan_sweep
from pipeline.chain.run import run_hash
from pipeline.config.errors import BadInput
from pipeline.config.load import load_config
from pipeline.config.yaml import dump
from pipeline.submit.job import plan_job
from pipeline.submit.site import Site
from tests.conftest import run_gfs

LISTS = "sweep={arm: [none, finetune]}"


def plan(config, *overrides, array=False, **site):
    return plan_job(str(config), list(overrides), Site(**site), array)


def test_the_directory_is_that_of_the_run_or_the_group_and_nothing_is_written(small_config, tmp_path):
    run = plan(small_config)
    config = load_config(str(small_config))
    assert run.folder == tmp_path / "runs" / f"small-{run_hash(config)[:8]}"
    assert run.script.command == ("run", "-c", str(run.folder / "job/config.yaml")) and not run.script.ray
    group = plan(small_config, LISTS)
    assert group.folder == plan_sweep(str(small_config), [LISTS]).folder
    assert group.script.command[0] == "sweep" and group.script.ray and group.script.tasks is None
    array = plan(small_config, LISTS, array=True)
    assert array.folder == group.folder and not array.script.ray and array.script.tasks == 2
    assert "#SBATCH --array=0-1\n" in array.text and '--part "$SLURM_ARRAY_TASK_ID"' in array.text
    assert not (tmp_path / "runs").exists()


def test_a_config_for_gpus_is_planned_on_a_machine_without_one(small_config):
    assert plan(small_config, "device=cuda").folder == plan(small_config).folder
    assert plan(small_config, "device=cuda").plain["device"] == "cuda"
    assert plan(small_config, LISTS, "device=cuda").folder == plan(small_config, LISTS).folder


@pytest.mark.parametrize(
    "overrides, site, array, words",
    [
        ([], {}, True, "--array: is for groups"),
        (["cluster.address=10.0.0.1:6379"], {}, False, "cluster.address: a submitted job brings up a Ray of its own"),
        ([], {"nodes": 2}, False, "only one of the site's 2 nodes would work"),
        ([LISTS], {"nodes": 2}, True, "only one of the site's 2 nodes would work"),
        (["cluster.workers=5"], {"nodes": 2, "cpus": 2}, False, "5 of 1 CPU each, but the site's job has 2 x 2 CPU: room for 4"),
        (["cluster.workers=2", "cluster.cpus=1.5"], {"cpus": 2}, False, "2 of 1.5 CPU each, but the site's job has 1 x 2 CPU: room for 1"),
        (["cluster.workers=2", "cluster.gpus=1"], {"cpus": 8, "gpus": 1}, False, "2 of 1 CPU and 1 GPU each, but"),
        (["prune.selector=nope"], {}, False, "prune.selector"),
        ([LISTS, "budget={macs: 1%}"], {}, False, "macs: "),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(small_config, tmp_path, overrides, site, array, words):
    with pytest.raises(BadInput, match=words):
        plan(small_config, *overrides, array=array, **site)
    assert not (tmp_path / "runs").exists()


def piped(config: Path, place: Path) -> Path:
    """A pipe that gives a config's text once."""
    pipe = place / "pipe"
    os.mkfifo(pipe)
    if not os.fork():
        pipe.write_text(config.read_text())
        os._exit(0)
    return pipe


def test_dry_run_prints_the_script_and_reads_the_config_from_a_pipe(small_config, tmp_path):
    pipe = piped(small_config, tmp_path)
    done = run_gfs("submit", "slurm", "-c", pipe, "--dry-run", GFS_SITE=site_of(tmp_path))
    assert done.returncode == 0 and done.stdout.startswith("#!/bin/bash\n"), done.stderr
    assert not (tmp_path / "runs").exists()


def test_where_there_is_no_sbatch_that_is_told_and_nothing_is_left(small_config, tmp_path):
    done = run_gfs("submit", "slurm", "-c", small_config, GFS_SITE=site_of(tmp_path), PATH=str(tmp_path))
    assert done.returncode == 2 and "sbatch: is not found" in done.stderr
    assert list((tmp_path / "runs").iterdir()) == []


def site_of(place: Path) -> str:
    (place / "site.yaml").write_text("time: 10\n")
    return str(place / "site.yaml")


def test_a_group_whose_config_is_read_from_a_pipe_is_planned_from_what_was_read(small_config, tmp_path):
    pipe = piped(small_config, tmp_path)
    assert len(plan(pipe, LISTS).group.runs) == 2


def test_nasty_settings_come_back_from_the_job_s_own_config(small_config, tmp_path):
    name = "x'; touch \"$HOME\" #\n{{ 7*7 }}\r\u2028"
    planned = plan(small_config, f"name={json.dumps(name)}", 'network.train_images=7')
    path = tmp_path / "config.yaml"
    path.write_text(dump(planned.plain))
    assert load_config(str(path)).name == name
    assert re.fullmatch(r"gfs-[A-Za-z0-9_.-]+", planned.script.name)
    assert planned.folder.parent == tmp_path / "runs"
