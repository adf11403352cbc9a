"""The files in slurm/ are what the product renders. Write them anew with GFS_WRITE_GOLDEN=1 pytest THIS_FILE."""

import os
import subprocess

import pytest

from pipeline.submit.script import Script, render
from pipeline.submit.site import Site, load_site
from tests.conftest import ROOT

HOME = "/shared/goodsubnets"
PLACES = {"job": f"{HOME}/runs/by-hand", "log": f"{HOME}/runs/by-hand/log.txt", "work": HOME, "bin": f"{HOME}/.venv/bin"}
USUAL = {"account": "my-project", "time": "12:00:00", "variables": {"OMP_NUM_THREADS": "1"}}
TINY = ("run", "-c", "configs/tiny.yaml")
FILES = {
    "one-node": (Script("gfs-tiny", command=TINY, ray=False, **PLACES), Site(cpus=2, **USUAL)),
    "several-nodes": (Script("gfs-tiny", command=(*TINY, "cluster.workers=4"), ray=True, **PLACES), Site(nodes=2, cpus=2, **USUAL)),
    "array": (Script("gfs-quickstart", command=("sweep", "-c", "configs/quickstart.yaml"), ray=False, tasks=18, **PLACES), Site(cpus=2, **USUAL)),
}


@pytest.mark.parametrize("name", FILES)
def test_the_files_for_use_by_hand_are_what_is_rendered(name):
    path = ROOT / "slurm" / f"{name}.sbatch"
    if os.environ.get("GFS_WRITE_GOLDEN"):
        path.write_text(render(*FILES[name]))
    assert path.read_text() == render(*FILES[name]), "write it anew with GFS_WRITE_GOLDEN=1"
    assert subprocess.run(["bash", "-n", path]).returncode == 0


def test_there_are_no_others_and_the_example_of_a_site_is_one():
    assert {path.stem for path in (ROOT / "slurm").glob("*.sbatch")} == set(FILES)
    assert load_site(str(ROOT / "slurm/site.yaml")).partition == "gpu"


def test_the_page_beside_them_names_every_setting_of_a_site():
    page = (ROOT / "slurm/README.md").read_text().partition("| key | meaning |")[2]
    assert [name for name in Site.model_fields if f"`{name}`" not in page] == []
