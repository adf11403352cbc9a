"""The `data:` section: what it may point at, what identifies it, how its faults are named, and what stage `data` leaves."""

import gzip
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config.errors import BadInput, Stopped
from pipeline.config.settings import Data
from pipeline.data.images import evaluation_image
from pipeline.data.prepare import expand, find_origin, open_splits, places_of, prepare
from pipeline.data.preview import preview
from pipeline.data.sources import folder_split, raw_split
from tests.data.conftest import GREY


def quiet(event):
    pass


def prepared(data: Data, folder: Path, classes=3):
    origin = find_origin(data, classes)
    names = prepare(data, origin, folder, quiet)
    assert all((folder / name).is_file() for name in names)
    return open_splits(folder)


@pytest.fixture
def copied(many, tmp_path) -> Path:
    return Path(shutil.copytree(many, tmp_path / "copied"))


def test_an_image_folder_its_shards_and_their_brace_urls_are_the_same_samples(image_folder, many, tmp_path):
    urls = {split: f"{many}/{split}/{split}-{{00000..0000{last}}}.tar" for split, last in (("train", 5), ("test", 1))}
    kinds = {
        "images": Data(source=str(image_folder)),
        "shards": Data(source=str(many)),
        "manifests": Data(train=str(many / "train/manifest.json"), test=str(many / "test/manifest.json")),
        "urls": Data(**urls),
    }
    found = {name: prepared(data, tmp_path / name) for name, data in kinds.items()}
    expected = [(found["shards"].train.key(i), int(found["shards"].train.label[i]), bool(found["shards"].train.validation[i])) for i in range(120)]
    for splits in found.values():
        assert [(splits.train.key(i), int(splits.train.label[i]), bool(splits.train.validation[i])) for i in range(120)] == expected
        assert splits.test.manifest.samples == 30 and not splits.test.validation.any()
    assert found["manifests"].train.manifest.digest == found["shards"].train.manifest.digest
    assert [s.sha256 for s in found["urls"].train.manifest.shards] == [s.sha256 for s in found["shards"].train.manifest.shards]


def test_what_identifies_data_is_what_it_holds_and_not_where_it_lies(image_folder, many, copied, tmp_path):
    def inputs(**data):
        return find_origin(Data(**data), 3).inputs

    assert inputs(source=str(many)) == inputs(source=str(copied))
    assert inputs(source=str(many)) == inputs(train=str(many / "train/manifest.json"), test=str(many / "test/manifest.json"))
    moved = Path(shutil.copytree(image_folder, tmp_path / "images"))  # keeps the times
    before = inputs(source=str(moved))
    assert before == inputs(source=str(image_folder)) == inputs(source=str(moved))
    (moved / "train/bag/000.png").write_bytes((moved / "train/bag/001.png").read_bytes())
    assert inputs(source=str(moved)) != before


def test_a_training_split_has_validation_whatever_its_manifest_calls_it(copied, tmp_path):
    for split, name in (("train", "training"), ("test", "train")):
        path = copied / split / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"split": name}))
    splits = prepared(Data(source=str(copied)), tmp_path / "stage")
    assert splits.train.validation.sum() == 12 and splits.test.validation.sum() == 0


def test_val_is_taken_as_test_in_images_and_in_shards(image_folder, copied, tmp_path):
    images = Path(shutil.copytree(image_folder, tmp_path / "images"))
    for folder in (images, copied):
        (folder / "test").rename(folder / "val")
        assert prepared(Data(source=str(folder)), tmp_path / f"stage-{folder.name}").test.manifest.samples == 30


@pytest.mark.parametrize("data, words", [
    ({"source": "nowhere"}, "data.source: nowhere: no such folder"),
    ({"source": "{many}", "train_samples": 50}, "data.train_samples"),
    ({"train": "{many}/train/none.json", "test": "{many}/test/manifest.json"}, "none.json"),
    ({"train": "{many}/train/train-{{00000..00009}}.tar", "test": "{many}/test/manifest.json"}, "train-00006.tar: no such shard; near it: train"),
    ({"train": "{many}/train/trian-00000.tar", "test": "{many}/test/manifest.json"}, "near it: train-0000"),
    ({"train": "{many}/train/train-{{0..1.tar", "test": "{many}/test/manifest.json"}, "no brace url"),
    ({"train": "{many}/train/train-00000.tar::{many}/train/train-00000.tar", "test": "{many}/test/manifest.json"}, "twice"),
    ({"train": "pipe:cat {many}/train/train-00000.tar", "test": "{many}/test/manifest.json"}, "scheme 'pipe' is not allowed"),
    ({"train": "http://localhost:9/{{0..3}}.tar", "test": "{many}/test/manifest.json"}, "scheme 'http' is not allowed"),
    ({"train": "s3://bucket/a.tar", "test": "{many}/test/manifest.json"}, "scheme 's3' is not allowed"),
    ({"train": "{many}/train/manifest.json", "test": "eval:x"}, "scheme 'eval' is not allowed"),
])
def test_a_place_that_cannot_be_used_is_named(many, data, words):
    given = {key: value.format(many=many) if isinstance(value, str) else value for key, value in data.items()}
    with pytest.raises(BadInput) as caught:
        find_origin(Data(**given), 3)
    assert words in str(caught.value), str(caught.value)


def test_a_scheme_that_is_allowed_is_still_told_to_be_missing(many):
    with pytest.raises(BadInput, match="not built yet; copy the shard to a path"):
        expand("http://localhost:9/a.tar", ["http"])
    assert expand(str(many / "train/train-00000.tar")) == [many / "train/train-00000.tar"]


def test_train_and_test_of_different_classes_are_refused_naming_the_odd_ones(image_folder, copied, tmp_path):
    images = Path(shutil.copytree(image_folder, tmp_path / "images"))
    (images / "test/bag").rename(images / "test/sack")
    with pytest.raises(BadInput, match="bag, sack"):
        find_origin(Data(source=str(images)), 3)
    path = copied / "test/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"classes": ["coat", "bag", "ankle"]}))  # another order
    with pytest.raises(BadInput, match="differ in their classes"):
        find_origin(Data(source=str(copied)), 3)


@pytest.mark.parametrize("make, words", [
    (lambda root: shutil.rmtree(root / "train"), "no folder train"),
    (lambda root: shutil.rmtree(root / "test"), "no folder test or val"),
    (lambda root: [shutil.rmtree(folder) for folder in (root / "train").iterdir()], "no class folders"),
    (lambda root: (root / "train/zebra").mkdir(), "zebra"),
    (lambda root: shutil.copy(root / "train/bag/000.png", root / "train/bag/000.webp"), "bag/000"),
])
def test_an_image_folder_that_is_not_whole_is_named(image_folder, tmp_path, make, words):
    root = Path(shutil.copytree(image_folder, tmp_path / "images"))
    make(root)
    with pytest.raises(BadInput) as caught:
        for split in ("train", "test"):
            folder_split(root, split)
    assert str(root) in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize("kind", ["images", "shards", "urls"])
def test_a_preview_shows_the_same_labels_and_pixels_as_the_stage_will(image_folder, many, tmp_path, kind):
    data = {"images": Data(source=str(image_folder)), "shards": Data(source=str(many)),
            "urls": Data(train=str(many / "train/train-{00000..00005}.tar"), test=str(many / "test/manifest.json"))}[kind]
    seen, splits = preview(data, find_origin(data, 3)), prepared(data, tmp_path / "stage")
    for split, found in (("train", splits.train), ("test", splits.test)):
        assert seen[split].total == found.manifest.samples and sorted(seen[split].label) == sorted(found.label)
        assert seen[split].classes_without_samples() == []
        pixels = {evaluation_image(seen[split], i, GREY).numpy().tobytes() for i in range(seen[split].total)}
        assert pixels == {evaluation_image(found, i, GREY).numpy().tobytes() for i in range(found.manifest.samples)}


@pytest.mark.parametrize("fault, words", [
    (lambda folder: (folder / "train/train-00002.tar").write_bytes(b"x" * 20_480), "train-00002.tar"),
    (lambda folder: (folder / "test/manifest.json").write_text((folder / "test/manifest.json").read_text().replace('"samples": 10', '"samples": 9')
                                                               .replace('"samples": 30', '"samples": 29')), "holds 10 samples, the manifest says 9"),
])
def test_what_stops_the_stage_stops_a_preview_too(copied, fault, words):
    fault(copied)
    data = Data(source=str(copied))
    with pytest.raises(BadInput) as caught:
        preview(data, find_origin(data, 3))
    assert words in str(caught.value)


def test_an_empty_shard_is_refused(copied):
    import tarfile

    tarfile.open(copied / "train/train-00000.tar", "w").close()
    data = Data(train=str(copied / "train/train-00000.tar"), test=str(copied / "test/manifest.json"))
    with pytest.raises(BadInput, match="holds no sample"):
        preview(data, find_origin(data, 3))


def idx_files(folder: Path, labels=(3, 0, 9, 3)) -> Path:
    """The four files of Fashion-MNIST, of a few images, where a fetched package would lie."""
    place = folder / "goodsubnets/debian/usr/share/datasets/fashion-mnist"
    place.mkdir(parents=True)
    for stem in ("train", "t10k"):
        pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 28, 28), np.uint8)
        header = np.array([0x803, len(labels), 28, 28], ">u4").tobytes()
        (place / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels.tobytes()))
        (place / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(np.array([0x801, len(labels)], ">u4").tobytes() + bytes(labels)))
    return place


needs_no_package = pytest.mark.skipif(Path("/usr/share/datasets/fashion-mnist").exists(), reason="the Debian package is installed and goes first")


@needs_no_package
def test_fashion_mnist_is_read_from_its_files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    idx_files(tmp_path)
    found = raw_split("fashion-mnist", "test")
    assert [label for _, label in found.samples] == [3, 0, 9, 3] and found.classes[9] == "Ankle boot"
    suffix, data = found.read(2)
    expected = np.random.default_rng(0).integers(0, 256, (4, 28, 28), np.uint8)[2]
    assert suffix == "png" and (np.asarray(Image.open(io.BytesIO(data))) == expected).all()


@needs_no_package
@pytest.mark.parametrize("fault", ["cut", "a flipped byte", "no gzip", "a short one inside", "fewer labels"])
def test_a_file_of_fashion_mnist_that_is_not_whole_is_named(tmp_path, monkeypatch, fault):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    images = idx_files(tmp_path) / "train-images-idx3-ubyte.gz"
    data = images.read_bytes()
    broken = {"cut": data[:900], "no gzip": b"text", "a flipped byte": data[:600] + bytes([data[600] ^ 255]) + data[601:],
              "a short one inside": gzip.compress(gzip.decompress(data)[:-5]), "fewer labels": data}[fault]
    images.write_bytes(broken)
    if fault == "fewer labels":
        (images.parent / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(np.array([0x801, 3], ">u4").tobytes() + bytes(3)))
    with pytest.raises(BadInput) as caught:
        raw_split("fashion-mnist", "train")
    assert str(images.parent) in str(caught.value) and "install" in str(caught.value)


def test_a_brace_url_beside_a_manifest_takes_its_class_names(many, tmp_path):
    splits = prepared(Data(train=str(many / "train/train-{00000..00005}.tar"), test=str(many / "test/manifest.json")), tmp_path / "stage")
    assert splits.train.manifest.classes == ("ankle", "bag", "coat")
    assert splits.train.manifest.digest == find_origin(Data(source=str(many)), 3).inputs["train"]


def test_the_first_samples_of_a_source_are_a_setting(image_folder, tmp_path):
    splits = prepared(Data(source=str(image_folder), train_samples=50, test_samples=9), tmp_path / "stage")
    assert (splits.train.manifest.samples, splits.test.manifest.samples, int(splits.train.validation.sum())) == (50, 9, 5)


def test_keys_that_are_no_utf8_are_kept_byte_for_byte(copied, tmp_path):
    from tests.data.test_tar import sample, tar

    shard = tar(copied / "foreign.tar", *sample("caf\udce9/0"), *sample("caf\udcff/1", b"1"))
    splits = prepared(Data(train=str(shard), test=str(copied / "test/test-{00000..00001}.tar")), tmp_path / "stage")
    assert [splits.train.key(i) for i in range(2)] == ["caf\udce9/0", "caf\udcff/1"]
    assert np.array_equal(splits.train.label, [0, 1]) and r"\udcff" in splits.train.place(1)


def test_shards_are_read_where_the_settings_say_that_they_lie_now(copied, tmp_path):
    before = prepared(Data(source=str(copied)), tmp_path / "stage").train.image_bytes(7).getvalue()
    moved = Path(shutil.move(copied, tmp_path / "moved"))
    for data in (Data(source=str(moved)), Data(train=str(moved / "train/train-{00000..00005}.tar"), test=str(moved / "test/manifest.json"))):
        splits = open_splits(tmp_path / "stage", places_of(data, find_origin(data, 3)))
        assert splits.train.image_bytes(7).getvalue() == before and str(moved) in splits.test.place(0)
    with pytest.raises(Stopped, match="put it back"):
        open_splits(tmp_path / "stage").train.image_bytes(7)
