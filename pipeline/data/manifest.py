"""The manifest of one split: which shards, in which order, and the digest that is the data's identity."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.config.digests import digest, sha256_of
from pipeline.config.errors import BadInput
from pipeline.config.files import write_json


@dataclass(frozen=True)
class Shard:
    """One shard file: absolute path, number of samples, size in bytes, sha256."""

    path: Path
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """One split of a data set: class names in label order, shards in order."""

    name: str
    split: str
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]

    @cached_property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @cached_property
    def digest(self) -> str:
        """Identity of the data: classes, split and the ordered (sha256, samples); no names, no places."""
        return digest({"classes": list(self.classes), "split": self.split, "shards": [[s.sha256, s.samples] for s in self.shards]})


def save_manifest(manifest: Manifest, path: Path) -> None:
    """Write `manifest` to `path`; shards below its folder are named relative to it."""
    folder = Path(path).resolve().parent
    shards = [
        {
            "url": str(s.path.relative_to(folder)) if s.path.is_relative_to(folder) else str(s.path),
            "samples": s.samples,
            "bytes": s.bytes,
            "sha256": s.sha256,
        }
        for s in manifest.shards
    ]
    write_json(
        path,
        {"name": manifest.name, "split": manifest.split, "classes": list(manifest.classes), "samples": manifest.samples, "shards": shards},
    )


def load_manifest(path: Path, schemes=()) -> Manifest:
    """Read a manifest; raises BadInput naming the file and the field. `schemes`: url schemes that are allowed."""
    path = Path(path).resolve()
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"manifest {path}: cannot be read ({error}); make it with `gfs shards make`") from error
    try:
        classes = tuple(_typed(name, str, "classes") for name in _typed(value["classes"], list, "classes"))
        shards = tuple(
            Shard(
                local_path(path, _typed(entry["url"], str, "url"), schemes),
                _typed(entry["samples"], int, "samples"),
                _typed(entry["bytes"], int, "bytes"),
                _typed(entry["sha256"], str, "sha256"),
            )
            for entry in _typed(value["shards"], list, "shards")
        )
        manifest = Manifest(_typed(value["name"], str, "name"), _typed(value["split"], str, "split"), classes, shards)
        total = _typed(value["samples"], int, "samples")
    except (KeyError, TypeError) as error:
        raise BadInput(f"manifest {path}: field {error} is missing or has the wrong type; make it with `gfs shards make`") from error
    if not shards or not classes:
        raise BadInput(f"manifest {path}: lists no {'classes' if shards else 'shards'}; make it with `gfs shards make`")
    if len({shard.path for shard in shards}) < len(shards):
        raise BadInput(f"manifest {path}: a shard is listed twice; list each once")
    if total != manifest.samples:
        raise BadInput(f"manifest {path}: says {total} samples, its shards add up to {manifest.samples}; make it again")
    return manifest


def local_path(manifest: Path, url: str, schemes=()) -> Path:
    """The file behind a shard's url; anything but a plain path is refused unless its scheme is allowed."""
    if not url or "\0" in url:
        raise BadInput(f"{manifest}: shard url {url!r}: is no path; name the file")
    scheme, colon, _ = url.partition(":")
    if colon and "/" not in scheme and scheme not in schemes:
        raise BadInput(f"{manifest}: shard url {url!r}: scheme {scheme!r} is not allowed; use a path")
    if colon and "/" not in scheme:
        raise BadInput(f"{manifest}: shard url {url!r}: reading over {scheme!r} is not built yet; copy the shard to a path")
    return Path(url) if Path(url).is_absolute() else manifest.parent / url


def verify_shard(shard: Shard) -> None:
    """Compare size and sha256 of the file with the manifest's; raises BadInput naming the shard."""
    try:
        size = shard.path.stat().st_size
        found = sha256_of(shard.path) if size == shard.bytes else None
    except OSError as error:
        raise BadInput(f"shard {shard.path}: cannot be read ({error.strerror}); fetch it or mend the manifest") from error
    if size != shard.bytes:
        raise BadInput(f"shard {shard.path}: has {size} bytes, the manifest says {shard.bytes}; fetch or make it again")
    if found != shard.sha256:
        raise BadInput(f"shard {shard.path}: sha256 is {found[:12]}..., the manifest says {shard.sha256[:12]}...; fetch or make it again")


def _typed(value, kind, field):
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(field)
    return value
