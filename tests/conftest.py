"""What many tests share: the installed console command, a folder of real images, small configs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

ROOT = Path(__file__).parents[1]
CONSOLE = Path(sys.executable).with_name("gfs")
torch.set_num_threads(1)
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
settings.load_profile("house")


def run_gfs(*arguments, timeout=300, cwd=ROOT, **environment) -> subprocess.CompletedProcess:
    """Run the installed `gfs` as a user would; its output as text."""
    env = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.run([CONSOLE, *map(str, arguments)], cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)


@pytest.fixture
def gfs():
    return run_gfs


def save_images(folder: Path, classes=("ankle", "bag", "coat"), each=20, side=28, seed=0) -> Path:
    """folder/<class>/<n>.png: stripes whose direction tells the class, with noise."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for n in range(each):
            wave = np.sin((rows * np.cos(label) + columns * np.sin(label)) * (0.6 + 0.2 * label) + random.uniform(0, 6))
            pixels = np.clip(128 + 80 * wave + random.normal(0, 20, wave.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{n:03d}.png")
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """An image folder in ImageNet layout: train/ and test/, three classes, 60 and 30 grey images of 28 x 28."""
    root = tmp_path_factory.mktemp("images")
    save_images(root / "train", each=40, seed=1)
    save_images(root / "test", each=10, seed=2)
    return root


@pytest.fixture(scope="session")
def shards(image_folder, tmp_path_factory) -> Path:
    """The image folder as shards with manifests; read only."""
    from pipeline.data.shards import make_shards

    destination = tmp_path_factory.mktemp("shards")
    make_shards(str(image_folder), destination, lambda event: None)
    return destination


@pytest.fixture
def small_config(tmp_path, image_folder) -> Path:
    """A config file of the tiny network on the image folder, below a runs directory of its own."""
    path = tmp_path / "small.yaml"
    path.write_text(
        f"name: small\nruns_dir: {tmp_path / 'runs'}\ndata: {{source: {image_folder}}}\n"
        "network: {model: 'pipeline.networks.small:tiny', num_classes: 3, in_chans: 1, img_size: 28, mean: [0.5], std: [0.25]}\n"
        "dense: {epochs: 2, batch: 16, threads: 1}\nprune: {calibration_samples: 64, allocation: uniform}\ntrain: {epochs: 1, batch: 16, threads: 1}\n"
        "scoring: {batch: 16, block_samples: 32, block_candidates: 4}\nevaluate: {recalibration_samples: 32, latency: false, threads: 1}\n"
        "tracking: {mode: off}\n"
    )
    return path
