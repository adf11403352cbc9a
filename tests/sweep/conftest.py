"""A tiny sweep: two pruners x three arms on the image folder."""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.sweep.processes import Group

SWEEP = "sweep: {prune: [{selector: reconstruction, refit: lsq}, {selector: l1, refit: none}], arm: [none, finetune, reinit-epochs]}\n"


def text_of(images, runs_dir, epochs=1, sweep=SWEEP, model="pipeline.networks.small:tiny", title="small") -> str:
    """The config; `epochs` of an arm, so that a test can have time to break in."""
    return (
        f"name: '{title}'\nruns_dir: '{runs_dir}'\ndata: {{source: {images}}}\n"
        f"network: {{model: '{model}', num_classes: 3, in_chans: 1, img_size: 28, mean: [0.5], std: [0.25]}}\n"
        "dense: {epochs: 2, batch: 16, threads: 1}\nprune: {calibration_samples: 64, allocation: uniform}\nbudget: {prunable_macs: 50%}\n"
        f"train: {{epochs: {epochs}, batch: 16, threads: 1, checkpoint_seconds: 0}}\nscoring: {{batch: 16, block_samples: 32, block_candidates: 4}}\n"
        f"evaluate: {{recalibration_samples: 32, latency: false, threads: 1}}\ntracking: {{mode: off}}\n{sweep}"
    )


@pytest.fixture
def make_group(tmp_path, image_folder):
    """make_group(name="a", **settings): a Group below tmp_path; processes of it that still live at the end are killed."""
    yield from _maker(tmp_path, image_folder)


@pytest.fixture(scope="module")
def make_shared_group(tmp_path_factory, image_folder):
    """As make_group, for groups that several tests look at."""
    yield from _maker(tmp_path_factory.mktemp("groups"), image_folder)


def _maker(place: Path, images: Path):
    made = []

    def make(name="a", cwd=None, environment=None, runs_dir=None, **settings) -> Group:
        (place / name).mkdir()
        config = place / name / "sweep.yaml"
        runs_dir = runs_dir or place / name / "runs"
        config.write_text(text_of(images, runs_dir, **settings))
        scratch = Path(tempfile.mkdtemp(prefix="gs-"))  # short: paths of sockets may have 107 bytes
        made.append(Group(config, Path(runs_dir), scratch, environment=environment or {}, **({"cwd": cwd} if cwd else {})))
        return made[-1]

    yield make
    for group in made:
        group.end()
        shutil.rmtree(group.scratch, ignore_errors=True)
