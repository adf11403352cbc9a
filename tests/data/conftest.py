"""Shards of twenty samples, so that a small set has several; splits opened from them."""

from pathlib import Path

import pytest

from pipeline.data import shards as module
from pipeline.data.images import Preprocess
from pipeline.data.index import Split, save_index
from pipeline.data.manifest import load_manifest

GREY = Preprocess(1, 28, (0.5,), (0.25,))


def open_split(manifest: Path, index: Path) -> Split:
    """The split of a manifest, verified and indexed as stage `data` does it."""
    found = load_manifest(manifest)
    save_index(found, module.verify_manifest(found, lambda event: None), index)
    return Split.open(manifest, index)


@pytest.fixture(scope="session")
def many(image_folder, tmp_path_factory) -> Path:
    """The image folder in shards of 20 samples (6 of training, 2 of test); read only."""
    folder = tmp_path_factory.mktemp("many")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SHARD_SAMPLES", 20)
        module.make_shards(str(image_folder), folder, lambda event: None)
    return folder


@pytest.fixture(scope="session")
def train(many, tmp_path_factory) -> Split:
    return open_split(many / "train/manifest.json", tmp_path_factory.mktemp("index") / "train.safetensors")


@pytest.fixture(scope="session")
def test_split(many, tmp_path_factory) -> Split:
    return open_split(many / "test/manifest.json", tmp_path_factory.mktemp("index") / "test.safetensors")
