"""Shards and manifests: what `gfs shards make` leaves, keeps and refuses, and what verifying finds."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from pipeline.config.errors import BadInput
from pipeline.data import shards as module
from pipeline.data.manifest import Manifest, Shard, load_manifest, save_manifest
from pipeline.data.shards import find_manifests, make_shards, verify_manifest
from pipeline.data.sources import raw_split
from pipeline.data.tar import read_shard
from tests.conftest import ROOT, save_images

CONTRACTS = ROOT.parent / "shared/contracts/check.py"


def quiet(event):
    pass


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def verify(folder: Path):
    for path in find_manifests(folder):
        verify_manifest(load_manifest(path), quiet)


@pytest.fixture
def copied(many, tmp_path) -> Path:
    return Path(shutil.copytree(many, tmp_path / "copied"))


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_manifest_meets_the_contract(many, split):
    if not CONTRACTS.exists():
        pytest.skip("the contracts are not beside this checkout")
    checked = subprocess.run([sys.executable, CONTRACTS, many / split / "manifest.json"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_shards_made_twice_are_the_same_bytes(image_folder, tmp_path):
    for name in ("first", "second"):
        make_shards(str(image_folder), tmp_path / name, quiet)
    assert files(tmp_path / "first") == files(tmp_path / "second")


def test_making_again_keeps_what_is_there(image_folder, copied, monkeypatch):
    monkeypatch.setattr(module, "SHARD_SAMPLES", 20)
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    made = make_shards(str(image_folder), copied, quiet)
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*")} == before
    assert (made["train"].samples, made["test"].samples) == (120, 30)


def test_a_split_that_was_not_finished_is_made_and_half_a_shard_is_removed(image_folder, many, copied, monkeypatch):
    monkeypatch.setattr(module, "SHARD_SAMPLES", 20)
    for path in (copied / "train/manifest.json", copied / "train/train-00004.tar"):
        path.unlink()
    (copied / "train/.train-00004.tar.99.tmp").write_bytes(b"half a shard")
    make_shards(str(image_folder), copied, quiet)
    assert files(copied) == files(many)


def test_a_shard_holds_at_most_a_thousand_samples_and_all_are_there_once(tmp_path):
    folder = tmp_path / "images"
    save_images(folder / "train", classes=("a", "b"), each=550, side=4)
    save_images(folder / "test", classes=("a", "b"), each=2, side=4)
    made = make_shards(str(folder), tmp_path / "made", quiet)["train"]
    assert [shard.samples for shard in made.shards] == [1000, 100]
    keys = [sample.key for shard in made.shards for sample in read_shard(shard.path, 2)]
    assert sorted(keys) == sorted(f"{name}/{n:03d}" for name in "ab" for n in range(550)) and keys != sorted(keys)
    assert {sample.label for sample in read_shard(made.shards[1].path, 2)} == {0, 1}  # shuffled: no shard of one class


def test_limits_take_the_first_samples_of_the_same_shuffle(image_folder, many, tmp_path):
    made = make_shards(str(image_folder), tmp_path / "made", quiet, {"train": 25, "test": 7})
    assert (made["train"].samples, made["test"].samples) == (25, 7)
    few = [sample.key for sample in read_shard(made["train"].shards[0].path, 3)]
    every = [sample.key for shard in load_manifest(many / "train/manifest.json").shards for sample in read_shard(shard.path, 3)]
    assert few == every[:25]


def test_webdataset_itself_reads_the_same_samples_in_the_same_order(many, train):
    urls = [str(shard.path) for shard in train.manifest.shards]
    found = [(sample["__key__"], int(sample["cls"]), sample["png"]) for sample in webdataset.WebDataset(urls, shardshuffle=False)]
    own = [(train.key(i), int(train.label[i]), train.image_bytes(i).getvalue()) for i in range(train.manifest.samples)]
    assert found == own and len(own) == 120


def test_images_are_stored_as_they_were_and_labels_follow_the_sorted_class_names(image_folder, train):
    classes = sorted(folder.name for folder in (image_folder / "train").iterdir())
    assert list(train.manifest.classes) == classes
    for i in (0, 57, 119):
        name, _, stem = train.key(i).partition("/")
        assert train.image_bytes(i).getvalue() == (image_folder / "train" / name / f"{stem}.png").read_bytes()
        assert classes[train.label[i]] == name


def test_the_datas_identity_is_in_its_bytes_and_not_in_its_place_or_names(many, copied):
    moved = copied.parent / "moved"
    copied.rename(moved)
    here, there = load_manifest(many / "train/manifest.json"), load_manifest(moved / "train/manifest.json")
    assert here.digest == there.digest and here.shards[0].path != there.shards[0].path
    value = json.loads((moved / "train/manifest.json").read_text())
    (moved / "train/train-00000.tar").rename(moved / "train/renamed.tar")
    value["shards"][0]["url"], value["name"] = "renamed.tar", "other"
    (moved / "train/manifest.json").write_text(json.dumps(value))
    assert load_manifest(moved / "train/manifest.json").digest == here.digest
    value["classes"][0], value["shards"][0]["url"] = "boot", "train-00000.tar"
    (moved / "train/manifest.json").write_text(json.dumps(value))
    assert load_manifest(moved / "train/manifest.json").digest != here.digest


def test_a_manifest_names_shards_elsewhere_by_their_whole_path(many, tmp_path):
    manifest = load_manifest(many / "test/manifest.json")
    save_manifest(manifest, tmp_path / "manifest.json")
    assert load_manifest(tmp_path / "manifest.json") == manifest
    assert all(Path(shard["url"]).is_absolute() for shard in json.loads((tmp_path / "manifest.json").read_text())["shards"])


@pytest.mark.parametrize("change, words", [
    (lambda v: v.pop("classes"), "'classes'"),
    (lambda v: v.update(samples="120"), "samples"),
    (lambda v: v.update(samples=119), "119 samples"),
    (lambda v: v.update(samples=True), "samples"),
    (lambda v: v.update(classes="abc"), "classes"),
    (lambda v: v.update(classes=[]), "no classes"),
    (lambda v: v.update(shards=[], samples=0), "no shards"),
    (lambda v: v["shards"].append(v["shards"][0]), "listed twice"),
    (lambda v: v["shards"][0].update(url="pipe:cat x.tar"), "'pipe'"),
    (lambda v: v["shards"][0].update(url="http://host/x.tar"), "'http'"),
    (lambda v: v["shards"][0].update(url=3), "url"),
    (lambda v: v["shards"][0].update(url=""), "is no path"),
    (lambda v: v["shards"][0].update(url="a\0b.tar"), "is no path"),
    (lambda v: v["shards"][0].update(sha256=None), "sha256"),
    (lambda v: v["shards"][0].pop("bytes"), "'bytes'"),
    (lambda v: v["shards"].__setitem__(0, "train-00000.tar"), "missing or has the wrong type"),
])
def test_a_manifest_that_is_not_whole_is_named_with_the_field(copied, change, words):
    path = copied / "train/manifest.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    with pytest.raises(BadInput) as caught:
        load_manifest(path)
    assert str(path) in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"3", b'"text"', b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_no_json_object_is_named(tmp_path, data):
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(BadInput, match="manifest.json"):
        load_manifest(tmp_path / "manifest.json")


@pytest.mark.parametrize("fault, words", [
    (lambda shard: shard.unlink(), "cannot be read"),
    (lambda shard: shard.write_bytes(b""), "has 0 bytes"),
    (lambda shard: shard.write_bytes(shard.read_bytes()[:-512]), "bytes, the manifest says"),
    (lambda shard: shard.write_bytes(shard.read_bytes()[:-1] + b"\1"), "sha256"),
])
def test_verifying_names_a_shard_whose_bytes_are_not_the_manifests(copied, fault, words):
    shard = copied / "train/train-00003.tar"
    fault(shard)
    with pytest.raises(BadInput) as caught:
        verify(copied)
    assert str(shard) in str(caught.value) and words in str(caught.value)


def test_verifying_finds_a_key_that_is_in_two_shards_and_a_count_that_is_wrong(copied):
    path = copied / "train/manifest.json"
    manifest = load_manifest(path)
    first, second = manifest.shards[:2]
    shutil.copy(first.path, second.path)
    save_manifest(Manifest("x", "train", manifest.classes, (first, Shard(second.path, first.samples, first.bytes, first.sha256))), path)
    with pytest.raises(BadInput, match="the key is also in"):
        verify(copied)
    save_manifest(Manifest("x", "train", manifest.classes, (Shard(first.path, 19, first.bytes, first.sha256),)), path)
    with pytest.raises(BadInput, match="holds 20 samples, the manifest says 19"):
        verify(copied)


@pytest.mark.parametrize("change", ["an image is added", "an image is other", "a class is renamed", "a foreign file is there", "a limit differs"])
def test_a_folder_that_holds_something_else_is_never_overwritten_nor_taken_for_the_same(image_folder, tmp_path, change):
    source, made = Path(shutil.copytree(image_folder, tmp_path / "images")), tmp_path / "made"
    if change == "a foreign file is there":
        (made / "train").mkdir(parents=True)
        (made / "train/notes.txt").write_text("mine")
    else:
        make_shards(str(source), made, quiet)
    if change == "an image is added":
        shutil.copy(source / "train/bag/000.png", source / "train/bag/900.png")
        (source / "train/bag/001.png").unlink()  # the count stays
    if change == "an image is other":
        Image.fromarray(np.zeros((28, 28), np.uint8)).save(source / "test/coat/003.png")
    if change == "a class is renamed":
        for split in ("train", "test"):
            (source / split / "bag").rename(source / split / "sack")
    before = files(made)
    with pytest.raises(BadInput, match="choose another folder"):
        make_shards(str(source), made, quiet, {"train": 50} if change == "a limit differs" else None)
    assert files(made) == before


def test_a_file_where_the_folder_should_be_is_named(image_folder, tmp_path):
    (tmp_path / "made").write_text("")
    with pytest.raises(BadInput, match="is a file"):
        make_shards(str(image_folder), tmp_path / "made", quiet)


def test_manifests_are_found_below_a_folder_in_val_or_given_alone(many, copied, tmp_path):
    assert [path.parent.name for path in find_manifests(many)] == ["train", "test"]
    (copied / "test").rename(copied / "val")
    assert [path.parent.name for path in find_manifests(copied)] == ["train", "val"]
    assert find_manifests(many / "train/manifest.json") == [many / "train/manifest.json"]
    assert find_manifests(many / "train") == [many / "train/manifest.json"]
    with pytest.raises(BadInput, match="gfs shards make"):
        find_manifests(tmp_path)


def test_extra_files_and_hidden_ones_of_an_image_folder_are_ignored(image_folder, tmp_path):
    source = Path(shutil.copytree(image_folder, tmp_path / "images"))
    (source / "train/bag/notes.txt").write_text("text")
    (source / "train/bag/._000.png").write_bytes(b"what macOS leaves")
    (source / "train/bag/folder.png").mkdir()
    (source / "train/.ipynb_checkpoints").mkdir()
    (source / "train/README.md").write_text("text")
    (source / "train/bag/001.png").rename(source / "train/bag/001.PNG")
    found, plain = raw_split(str(source), "train"), raw_split(str(image_folder), "train")
    assert found.samples == plain.samples and found.classes == plain.classes
