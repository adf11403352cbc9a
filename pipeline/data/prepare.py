"""From the `data:` section to verified, indexed splits in one folder."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from webdataset.shardlists import expand_urls

from pipeline.config.digests import digest, sha256_of
from pipeline.config.errors import BadInput
from pipeline.config.settings import Data
from pipeline.data.index import Split, save_index
from pipeline.data.manifest import Manifest, Shard, load_manifest, local_path, save_manifest
from pipeline.data.shards import SPLITS, make_shards, manifest_of, verify_manifest
from pipeline.data.sources import FASHION_CLASSES, folder_split, source_fingerprint
from pipeline.data.tar import read_shard


@dataclass(frozen=True)
class Origin:
    """Where the data comes from: a raw source to shard, or {split: manifest file or brace url}; what identifies it."""

    raw: str | None
    manifests: dict[str, str]
    names: tuple[str, ...]  # of the classes, in label order
    inputs: dict[str, str]

    @property
    def classes(self) -> int:
        return len(self.names)


def find_origin(data: Data, num_classes: int) -> Origin:
    """Look at the `data:` section without reading images. Raises BadInput naming the key."""
    if data.train:
        given = {"train": data.train, "test": data.test}
    elif (Path(data.source) / "train/manifest.json").exists() or (Path(data.source) / "manifest.json").exists():
        given = {split: str(manifest_of(Path(data.source), split)) for split in SPLITS}
    elif data.source == "fashion-mnist":
        return Origin(data.source, {}, FASHION_CLASSES, {"source": digest("fashion-mnist")})
    elif not Path(data.source).is_dir():
        raise BadInput(f"data.source: {data.source}: no such folder; give fashion-mnist, a folder of images or a folder that holds manifests")
    else:
        classes = {split: folder_split(Path(data.source), split).classes for split in SPLITS}
        _same_classes(data.source, classes)
        return Origin(data.source, {}, classes["train"], {"source": digest(source_fingerprint(data.source))})
    if data.train_samples or data.test_samples:
        raise BadInput("data.train_samples: goes with a source that is still to be sharded; make smaller shards instead")
    inputs, classes = {}, {}
    for split, place in given.items():
        if place.endswith(".json"):
            manifest = load_manifest(Path(place), data.allow_schemes)
            inputs[split], classes[split] = manifest.digest, manifest.classes
        else:
            inputs[split] = digest([num_classes, [sha256_of(path) for path in expand(place, data.allow_schemes)]])
    classes = classes or {"train": tuple(str(label) for label in range(num_classes))}  # a brace url alone knows no names
    _same_classes(data.source or data.train, {split: classes.get(split, next(iter(classes.values()))) for split in SPLITS})
    return Origin(None, given, next(iter(classes.values())), inputs)


def _same_classes(place, classes) -> None:
    if classes["train"] != classes["test"]:
        odd = sorted(set(classes["train"]) ^ set(classes["test"]))
        raise BadInput(f"data: {place}: train and test differ in their classes{' (' + ', '.join(odd[:5]) + ')' if odd else ''}; make them equal")


def expand(url: str, schemes=()) -> list[Path]:
    """The files of a brace url. Raises BadInput naming near files when one is missing, or a scheme that is refused."""
    try:
        parts = expand_urls(url)
    except ValueError as error:
        raise BadInput(f"data: {url}: is no brace url ({error}); write it as train-{{000..009}}.tar") from error
    paths = [local_path(Path("data"), part, schemes) if ":" in part else Path(part) for part in parts]
    for path in paths:
        if not path.is_file():
            folder = path.parent if path.parent.is_dir() else None
            near = difflib.get_close_matches(path.name, [f.name for f in folder.iterdir()], n=3, cutoff=0.4) if folder else []
            raise BadInput(f"data: {path}: no such shard{'; near it: ' + ', '.join(near) if near else ''}; mend the url")
    if len(set(paths)) < len(paths):
        raise BadInput(f"data: {url}: lists a shard twice; list each once")
    return paths


def prepare(data: Data, origin: Origin, folder: Path, observe) -> list[str]:
    """Leave train/ and test/ in `folder`, each with manifest.json and index.safetensors; the names of these files."""
    if origin.raw:
        limits = {"train": data.train_samples, "test": data.test_samples}
        manifests = make_shards(origin.raw, folder, observe, limits)
    else:
        manifests = {split: given_manifest(data, origin, split) for split in origin.manifests}
    names = []
    for split, manifest in manifests.items():
        scanned = verify_manifest(manifest, observe)
        if not origin.raw:
            save_manifest(manifest, folder / split / "manifest.json")
        save_index(manifest, scanned, folder / split / "index.safetensors", training=split == "train")
        names += [f"{split}/manifest.json", f"{split}/index.safetensors"]
    return names


def given_manifest(data: Data, origin: Origin, split: str) -> Manifest:
    """The manifest of a split that is shards already; of a brace url it is made by reading them."""
    place = origin.manifests[split]
    if place.endswith(".json"):
        return load_manifest(Path(place), data.allow_schemes)
    paths = [path.resolve() for path in expand(place, data.allow_schemes)]
    shards = tuple(Shard(p, len(read_shard(p, origin.classes)), p.stat().st_size, sha256_of(p)) for p in paths)
    return Manifest(paths[0].parent.name or split, split, origin.names, shards)


@dataclass(frozen=True)
class Splits:
    """The two splits of a data set, opened."""

    train: Split
    test: Split


def places_of(data: Data, origin: Origin) -> dict[str, list[Path]]:
    """Where the shards of each split lie now; empty for a source that is no shards, whose shards the stage made."""
    places = {}
    for split, place in origin.manifests.items():
        shards = load_manifest(Path(place), data.allow_schemes).shards if place.endswith(".json") else ()
        places[split] = [shard.path for shard in shards] or [path.resolve() for path in expand(place, data.allow_schemes)]
    return places


def open_splits(folder: Path, places=None) -> Splits:
    """What `prepare` left in `folder`; `places` as `places_of` gives them."""
    files = {split: (folder / split / "manifest.json", folder / split / "index.safetensors") for split in SPLITS}
    return Splits(*(Split.open(*files[split], (places or {}).get(split)) for split in SPLITS))
