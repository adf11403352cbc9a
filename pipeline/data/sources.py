"""Where samples come from before they are shards: Fashion-MNIST, or a folder of class folders in ImageNet layout."""

import gzip
import os
import struct
import subprocess
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.config.errors import BadInput
from pipeline.data.folder import class_folders
from pipeline.data.tar import png

FASHION_CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
FASHION_FILES = {"train": "train", "test": "t10k"}
FASHION_PACKAGE = "dataset-fashion-mnist"


@dataclass(frozen=True)
class Raw:
    """One split before sharding: samples are (key, label); `read(i)` gives (suffix, bytes) of sample i, `stamp(i)` (size, time).

    `refuse_faulty(picks, whole)` raises BadInput where images among `picks` cannot be used.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    samples: list[tuple[str, int]]
    read: object
    stamp: object = None  # None for a source that never changes
    refuse_faulty: object = lambda picks, whole: None


def raw_split(source: str, split: str) -> Raw:
    """The samples of `split` ('train' or 'test') of `source` (`fashion-mnist` or a folder)."""
    return fashion_split(split) if source == "fashion-mnist" else folder_split(Path(source), split)


def source_fingerprint(source: str):
    """A JSON value that changes when the source's content does, without reading all of it."""
    if source == "fashion-mnist":
        return "fashion-mnist"
    splits = [folder_split(Path(source), split) for split in ("train", "test")]
    return [[list(raw.classes), [[key, label, raw.stamp(i)] for i, (key, label) in enumerate(raw.samples)]] for raw in splits]


# Fashion-MNIST ------------------------------------------------------------------------------------


def fashion_split(split: str) -> Raw:
    """Fashion-MNIST from the Debian package, or from torchvision's download."""
    folder, stem = fashion_folder(), FASHION_FILES[split]
    images = _idx(folder / f"{stem}-images-idx3-ubyte.gz", dimensions=3)
    labels = _idx(folder / f"{stem}-labels-idx1-ubyte.gz", dimensions=1)
    if len(images) != len(labels):
        raise BadInput(f"{folder}: {len(images)} {split} images but {len(labels)} labels; install {FASHION_PACKAGE} again")
    samples = [(f"{split}-{i:05d}", int(label)) for i, label in enumerate(labels)]
    return Raw("fashion-mnist", split, FASHION_CLASSES, samples, lambda i: ("png", png(Image.fromarray(images[i]))))


def fashion_folder() -> Path:
    """The folder of the four idx files: installed, fetched before, or fetched now (no root needed)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "goodsubnets"
    unpacked = cache / "debian/usr/share/datasets/fashion-mnist"
    downloaded = cache / "torchvision/FashionMNIST/raw"
    places = (Path("/usr/share/datasets/fashion-mnist"), unpacked, downloaded)
    for place in places:
        if (place / "t10k-labels-idx1-ubyte.gz").exists():
            return place
    if _unpack_debian_package(cache):
        return unpacked
    try:
        from torchvision.datasets import FashionMNIST

        FashionMNIST(str(cache / "torchvision"), download=True)
    except Exception as error:
        raise BadInput(
            f"data.source: fashion-mnist: neither the Debian package {FASHION_PACKAGE} nor a download can be had ({error}); "
            f"install the package or put the four idx files into {places[0]}"
        ) from error
    return downloaded


def _unpack_debian_package(cache: Path) -> bool:
    """Fetch the package with apt's own lists and state below `cache`, and unpack it there."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as work:
        for folder in ("lists/partial", "archives/partial"):
            (Path(work) / folder).mkdir(parents=True)
        own = [f"-oDir::State::lists={work}/lists", f"-oDir::Cache={work}", f"-oDir::Cache::archives={work}/archives", "-oAPT::Sandbox::User="]
        commands = (["apt-get", *own, "-qq", "update"], ["apt-get", *own, "-qq", "download", FASHION_PACKAGE])
        try:
            for command in commands:
                subprocess.run(command, cwd=work, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300)
            package = next(Path(work).glob("*.deb"))
            subprocess.run(["dpkg-deb", "-x", package, Path(work) / "tree"], check=True)
            (Path(work) / "tree").rename(cache / "debian")
        except (OSError, subprocess.SubprocessError, StopIteration):
            return (cache / "debian").exists()
    return True


def _idx(path: Path, dimensions: int) -> np.ndarray:
    try:
        data = gzip.decompress(path.read_bytes())
        header = struct.unpack(f">{1 + dimensions}I", data[: 4 + 4 * dimensions])
        return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(header[1:])
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise BadInput(f"{path}: is not a whole idx file ({error}); install {FASHION_PACKAGE} again") from error


# Image folders ------------------------------------------------------------------------------------


def folder_split(root: Path, split: str) -> Raw:
    """One split of an image folder: root/train, or root/test (or root/val, taken as test)."""
    found = class_folders(root, split)
    return Raw(root.resolve().name, split, found.classes, found.samples, found.files, found.files.stamp, found.files.refuse_faulty)
