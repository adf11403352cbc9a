"""One shard: a plain tar in WebDataset layout, written with the library, read by byte offsets so that any block is addressable."""

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.errors import BadInput
from pipeline.config.files import replacing

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
END = 1024  # bytes: two blocks of zeros
EPOCH = 0.0  # modification time of every member: the same samples give the same bytes


@dataclass(frozen=True)
class Sample:
    """One sample of a shard: its key, its label, and where its image lies in the file (bytes)."""

    key: str
    label: int
    offset: int
    size: int


def write_shard(path: Path, samples) -> None:
    """Write (key, image suffix, image bytes, label) tuples as one shard, atomically."""
    import webdataset  # here, because it brings torch: reading and verifying shards need neither

    with replacing(path) as temporary, open(temporary, "wb") as file:
        with webdataset.TarWriter(file, mtime=EPOCH, user="", group="", mode=0o644) as writer:
            for key, suffix, image, label in samples:
                writer.write({"__key__": key, suffix: image, "cls": str(label).encode()})


def read_shard(path: Path, classes: int) -> list[Sample]:
    """The samples of a shard in file order; every fault a shard can have is an error naming shard and sample."""
    found: dict[str, dict] = {}
    for member, data in _members(path):
        name = member.name.removeprefix("./")
        folder, _, base = name.rpartition("/")
        stem, _, suffix = base.partition(".")
        key, suffix = f"{folder}/{stem}" if folder else stem, suffix.lower()
        if not stem or suffix not in (*IMAGE_SUFFIXES, "cls"):
            continue
        part = "image" if suffix in IMAGE_SUFFIXES else "cls"
        entry = found.setdefault(key, {})
        if part in entry:
            raise BadInput(f"shard {path}: sample {key!r}: a second {part} ({name!r}); keys must be unique, make the shard again")
        entry[part] = (member.offset_data, member.size) if part == "image" else _label(path, key, data(), classes)
    for key, entry in found.items():
        if len(entry) < 2:
            raise BadInput(f"shard {path}: sample {key!r}: no {'label (.cls)' if 'image' in entry else 'image'}; make the shard again")
    return [Sample(key, entry["cls"], *entry["image"]) for key, entry in found.items()]


def _members(path):
    """(member, its bytes on demand) of every regular file in the tar; refuses what is cut off or not a regular file."""
    size = Path(path).stat().st_size
    try:
        with tarfile.open(path, mode="r:") as tar:
            for member in tar:
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse() or member.size < 0:
                    raise BadInput(f"shard {path}: member {member.name!r} is a link, a device or sparse, not a plain file; make the shard again")
                if member.offset_data + -(-member.size // 512) * 512 > size:
                    break
                yield member, lambda member=member: tar.extractfile(member).read()
            rest = _after(tar, size)
    except BadInput:
        raise
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise BadInput(f"shard {path}: cannot be read as a tar ({error}); fetch or make it again") from error
    if len(rest) < END:
        raise BadInput(f"shard {path}: is cut off at byte {size}: the end of the archive is missing; fetch or make it again")
    if rest.strip(b"\0"):
        raise BadInput(f"shard {path}: byte {size - len(rest)} begins neither a member nor the end of the archive; fetch or make it again")


def _after(tar, size: int) -> bytes:
    """What follows the last member: tarfile takes a damaged header for the end, which would silently make the set shorter."""
    tar.fileobj.seek(min(tar.offset, size))
    return tar.fileobj.read()


def _label(path, key, data: bytes, classes: int) -> int:
    try:
        label = int(data.decode("ascii").strip())
    except ValueError:
        raise BadInput(f"shard {path}: sample {key!r}: label {data[:40]!r} is not an integer; mend the .cls member") from None
    if not 0 <= label < classes:
        raise BadInput(f"shard {path}: sample {key!r}: label {label} is outside 0..{classes - 1}; check the class list of the manifest")
    return label


def png(image) -> bytes:
    """A PIL image as PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()
