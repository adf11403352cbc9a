"""`gfs shards make` and `verify`: a source becomes shards of at most 1,000 samples, shuffled once by a seed of their own."""

from pathlib import Path

from pipeline.config.digests import draw, sha256_of
from pipeline.config.errors import BadInput
from pipeline.data.manifest import Manifest, Shard, load_manifest, save_manifest, verify_shard
from pipeline.data.sources import Raw, raw_split
from pipeline.data.tar import read_shard, write_shard

SPLITS = ("train", "test")
SHARD_SAMPLES = 1000
ORDER_SEED = 0  # never the run's: so that the seeds of runs draw different calibration sets


def make_shards(source: str, destination: Path, observe, limits=None) -> dict[str, Manifest]:
    """Write destination/train and destination/test, a manifest in each; a split that is already whole is kept.

    `limits`: {split: most samples}, the first ones after the shuffle. Raises BadInput naming the source's fault.
    """
    destination = Path(destination).resolve()
    if destination.exists() and not destination.is_dir():
        raise BadInput(f"{destination}: is a file; name a folder for the shards")
    raws = {split: raw_split(source, split) for split in SPLITS}
    if raws["train"].classes != raws["test"].classes:
        odd = sorted(set(raws["train"].classes) ^ set(raws["test"].classes))
        raise BadInput(f"{source}: train and test have different classes (only in one of them: {', '.join(odd[:5])}); make them equal")
    occupied = [split for split in SPLITS if (destination / split).exists() and any((destination / split).iterdir())]
    if occupied and not _same(destination, raws, limits or {}):
        raise BadInput(f"{destination / occupied[0]}: is not empty and not what this command makes; choose another folder or remove it")
    for split, raw in raws.items():
        if not (destination / split / "manifest.json").exists():
            raw.refuse_faulty(_order(raw, (limits or {}).get(split)), whole=True)  # all of them, before anything is written
    return {split: _make_split(raws[split], destination / split, (limits or {}).get(split), observe) for split in SPLITS}


def _same(destination, raws, limits) -> bool:
    """Whether what lies in `destination` is a whole or partial result of the same command."""
    for split in SPLITS:
        path = destination / split / "manifest.json"
        if not path.exists():
            names = [file.name for file in (destination / split).iterdir()] if (destination / split).exists() else []
            if any(not name.removeprefix(".").startswith(f"{split}-") for name in names):
                return False
            continue
        manifest, raw, order = load_manifest(path), raws[split], _order(raws[split], limits.get(split))
        if (manifest.name, manifest.classes) != (raw.name, raw.classes) or manifest.samples != len(order):
            return False
        found = [sample for samples in verify_manifest(manifest, lambda event: None) for sample in samples]
        if any(not _is(raw, i, sample) for i, sample in zip(order, found)):
            return False
    return True


def _is(raw: Raw, i: int, sample) -> bool:
    """Whether a shard's sample is the source's sample i, as far as its key, label and size tell."""
    return raw.samples[i] == (sample.key, sample.label) and (raw.stamp is None or raw.stamp(i)[0] == sample.size)


def _order(raw: Raw, limit):
    return draw("shard order", ORDER_SEED, raw.split).permutation(len(raw.samples))[:limit]


def _make_split(raw: Raw, folder: Path, limit, observe) -> Manifest:
    if (folder / "manifest.json").exists():
        return load_manifest(folder / "manifest.json")
    for path in folder.glob(".*.tmp"):
        path.unlink()  # half a shard, of a command that was killed
    order, shards = _order(raw, limit), []
    for first in range(0, len(order), SHARD_SAMPLES):
        picks = order[first : first + SHARD_SAMPLES]
        path = folder / f"{raw.split}-{first // SHARD_SAMPLES:05d}.tar"
        write_shard(path, ((raw.samples[i][0], *raw.read(i), raw.samples[i][1]) for i in picks))
        shards.append(Shard(path, len(picks), path.stat().st_size, sha256_of(path)))
        observe({"event": "shard", "split": raw.split, "done": first + len(picks), "total": len(order), "unit_name": "images"})
    manifest = Manifest(raw.name, raw.split, raw.classes, tuple(shards))
    save_manifest(manifest, folder / "manifest.json")
    return manifest


def manifest_of(folder: Path, split: str) -> Path:
    """Where a folder of shards keeps the manifest of a split; ImageNet's val/ is taken as test."""
    path = folder / split / "manifest.json"
    return folder / "val/manifest.json" if split == "test" and not path.exists() and (folder / "val/manifest.json").exists() else path


def find_manifests(path: Path) -> list[Path]:
    """The manifests `gfs shards verify PATH` speaks of: one file, or those of train/ and test/ below a folder."""
    path = Path(path)
    if path.is_file():
        return [path]
    found = [manifest_of(path, split) for split in SPLITS if manifest_of(path, split).exists()]
    if not found and (path / "manifest.json").exists():
        found = [path / "manifest.json"]
    if not found:
        raise BadInput(f"{path}: holds no train/manifest.json or test/manifest.json; make them with `gfs shards make`")
    return found


def verify_manifest(manifest: Manifest, observe):
    """Check sizes, sha256, counts, keys and labels of every shard; the samples of each, in order."""
    scanned, seen = [], {}
    for shard in manifest.shards:
        verify_shard(shard)
        samples = read_shard(shard.path, len(manifest.classes))
        if not samples:
            raise BadInput(f"shard {shard.path}: holds no sample; leave it out")
        if len(samples) != shard.samples:
            raise BadInput(f"shard {shard.path}: holds {len(samples)} samples, the manifest says {shard.samples}; make it again")
        for sample in samples:
            if sample.key in seen:
                raise BadInput(f"shard {shard.path}: sample {sample.key!r}: the key is also in {seen[sample.key]}; keys must be unique")
            seen[sample.key] = shard.path
        scanned.append(samples)
        observe({"event": "verified", "split": manifest.split, "done": len(scanned), "total": len(manifest.shards), "unit_name": "shards"})
    return scanned
