"""Image folders: what is taken as it is, with the right brightness; what is refused in one line that names the file, nothing written."""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config.errors import BadInput
from pipeline.config.settings import Data
from pipeline.data.images import Preprocess, evaluation_image
from pipeline.data.prepare import find_origin
from pipeline.data.preview import preview
from pipeline.data.shards import make_shards
from tests.conftest import save_images
from tests.data.conftest import open_split

RAMP = np.tile(np.linspace(0, 255, 28).astype(np.uint8), (28, 1))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes of a few images that may be spoilt."""
    for split in ("train", "test"):
        save_images(tmp_path / "in" / split, classes=("bag", "coat"), each=3)
    return tmp_path / "in"


def shards_of(folder: Path):
    return make_shards(str(folder), folder.parent / "out", lambda event: None)


def refused(folder: Path) -> str:
    with pytest.raises(BadInput) as caught:
        shards_of(folder)
    assert not (folder.parent / "out").exists()
    return str(caught.value)


def ramp(mode: str) -> Image.Image:
    """Dark to bright, left to right, in any mode."""
    grey = Image.fromarray(RAMP)
    if mode == "I;16":
        return Image.fromarray(RAMP.astype(np.uint16) * 257)
    return grey.quantize(256) if mode == "P" else grey.convert("RGB").convert(mode)


@pytest.mark.parametrize("mode, name", [
    ("L", "x.png"), ("RGB", "x.jpg"), ("CMYK", "x.jpeg"), ("I;16", "x.png"), ("RGBA", "x.png"), ("LA", "x.png"), ("P", "x.png"), ("RGBA", "x.webp"),
    ("L", "x.JPG"),
])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_image_comes_out_of_the_shards_with_its_brightness(folder, mode, name, channels):
    quality = {"lossless": True} if name.endswith("webp") else {} if name.endswith("png") else {"quality": 95}
    ramp(mode).save(folder / "train/bag" / name, **quality)
    split = open_split(folder.parent / "out/train/manifest.json", folder.parent / "index") if shards_of(folder) else None
    (at,) = [i for i in range(split.manifest.samples) if split.key(i) == "bag/x"]
    found = evaluation_image(split, at, Preprocess(channels, 28, (0.5,) * channels, (0.5,) * channels)).numpy().astype(int)
    assert np.abs(found - RAMP).max() <= (12 if mode == "CMYK" or name.lower().endswith("g") and not name.endswith("png") else 1)


def saved(image, name, **options):
    return lambda place: image.save(place / name, **options)


def cut(place):
    buffer = io.BytesIO()
    Image.fromarray(RAMP).resize((200, 200)).save(buffer, "JPEG")
    (place / "x.jpg").write_bytes(buffer.getvalue()[:-200])


@pytest.mark.parametrize("spoil, words", [
    (saved(Image.new("1", (20_000, 10_000)), "x.png"), "x.png: cannot be decoded (Image size (200000000 pixels) exceeds limit"),
    (lambda place: (place / "x.png").write_bytes(b""), "x.png: is an empty file; replace or remove it"),
    (lambda place: (place / "x.png").write_text("a picture"), "x.png: is no whole JPEG, PNG, WEBP image (cannot identify image file)"),
    (cut, "x.jpg: is no whole JPEG, PNG, WEBP image (image file is truncated"),
    (saved(Image.fromarray(RAMP), "x.png", format="TIFF"), "x.png: is no whole JPEG, PNG, WEBP image"),
    (saved(ramp("I;16"), "x.tiff"), "x.tiff: tiff images are not read; convert it to one of"),
    (saved(ramp("L"), "x.gif"), "x.gif: gif images are not read; convert it"),
    (saved(Image.new("RGBA", (28, 28), (0, 0, 0, 128)), "x.png"), "x.png: has transparent pixels, whose colour nobody sees"),
    (saved(Image.new("LA", (28, 28), (0, 0)), "x.png"), "x.png: has transparent pixels"),
    (saved(ramp("P"), "x.png", transparency=5), "x.png: has transparent pixels"),
    (lambda place: os.symlink(place / "none.png", place / "x.png"), "x.png: is a link to nothing"),
    (lambda place: os.mkfifo(place / "x.png"), "x.png: is no plain file"),
    (lambda place: shutil.copytree(place, place / "more"), "bag/more: is a folder inside a class folder"),
    (lambda place: shutil.copy(place / "000.png", place.parent), "train/000.png: lies beside the class folders"),
    (saved(Image.fromarray(RAMP), "000.jpg"), "bag/000.png: gives the sample key 'bag/000', as {place}/000.jpg does; rename one"),
    (saved(Image.fromarray(RAMP), "000.PNG", format="PNG"), "gives the sample key 'bag/000', as {place}/000.PNG does"),
    (lambda place: shutil.copytree(place, place.parent / "caf\udce9"), r"the class folder 'caf\udce9' has characters that no report can print"),
])
def test_what_cannot_be_used_is_refused_in_one_line_and_nothing_is_written(folder, spoil, words):
    place = folder / "train/bag"
    spoil(place)
    line = refused(folder)
    assert words.format(place=place) in line and str(folder / "train") in line and "\n" not in line


def test_all_faulty_images_are_counted_and_the_first_named(folder):
    for place in ("test/bag/000.png", "test/coat/002.png"):
        (folder / place).write_bytes(b"")
    line = refused(folder)
    assert line == f"{folder}/test/bag/000.png: is an empty file; {folder}/test/coat/002.png: is an empty file; replace or remove them"
    for path in (folder / "test").rglob("*.png"):
        path.write_bytes(b"")
    assert refused(folder).endswith("; and 3 more; replace or remove them")


def test_what_programs_leave_beside_images_is_left_out_and_odd_names_and_links_are_taken(folder):
    bag = folder / "train/bag"
    for name in (".DS_Store", "._000.png", "Thumbs.db", "about.txt"):
        (bag / name).write_bytes(b"x")
    (folder / "train/.DS_Store").write_bytes(b"x")
    (bag / ".ipynb_checkpoints").mkdir()
    (folder / "train/list.csv").write_text("x")
    for name in ("caf\udce9.png", "n" * 250 + ".png", "two\nlines.png", "A.png", "a.png"):
        shutil.copy(bag / "000.png", bag / name)
    os.symlink(bag / "000.png", bag / "link.png")
    manifests = shards_of(folder)
    split = open_split(folder.parent / "out/train/manifest.json", folder.parent / "index")
    keys = {split.key(i) for i in range(split.manifest.samples)}
    assert manifests["train"].samples == 12 and {"bag/caf\udce9", "bag/" + "n" * 250, "bag/two\nlines", "bag/A", "bag/a", "bag/link"} < keys
    (at,) = [i for i in range(12) if split.key(i) == "bag/two\nlines"]
    assert "\n" not in split.place(at)


def test_a_preview_tells_bombs_and_empty_files_from_the_headers_alone(folder):
    data = Data(source=str(folder))
    (folder / "train/bag/001.png").write_bytes(b"")
    Image.new("1", (20_000, 10_000)).save(folder / "train/bag/002.png")
    with pytest.raises(BadInput, match="001.png: is an empty file; .*002.png: cannot be decoded .*; replace or remove them"):
        preview(data, find_origin(data, 2))


def test_shards_that_are_whole_are_kept_without_another_look_at_the_images(folder):
    before = shards_of(folder)
    picture = folder / "train/bag/000.png"
    picture.write_bytes(b"x" * picture.stat().st_size)
    assert shards_of(folder) == before
