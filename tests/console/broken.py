"""Ways to break a shard: rewrite its members and, where the fault is not the sha256, the manifest's entry."""

import hashlib
import io
import json
import tarfile
from pathlib import Path


def members(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]


def write(path: Path, entries) -> None:
    """Write (name, bytes) or ready-made TarInfo entries as a tar, and make the manifest beside it agree."""
    with tarfile.open(path, "w") as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                tar.addfile(info, io.BytesIO(entry[1]))
    agree(path)


def agree(path: Path, samples: int | None = None) -> None:
    """Give the manifest the shard's present size and sha256."""
    manifest = path.parent / "manifest.json"
    value, data = json.loads(manifest.read_text()), path.read_bytes()
    entry = value["shards"][0]
    entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if samples is not None:
        entry["samples"] = value["samples"] = samples
    manifest.write_text(json.dumps(value))


def missing_label(path):
    write(path, [m for m in members(path) if m[0] != first_key(path) + ".cls"])


def word_label(path):
    write(path, [(n, b"cat" if n == first_key(path) + ".cls" else d) for n, d in members(path)])


def label_out_of_range(path):
    write(path, [(n, b"3" if n == first_key(path) + ".cls" else d) for n, d in members(path)])


def duplicate_key(path):
    found = members(path)
    write(path, found + found[:2])


def symbolic_link(path):
    info = tarfile.TarInfo("bag/link.png")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    write(path, [*members(path), info])


def device(path):
    info = tarfile.TarInfo("bag/device.png")
    info.type = tarfile.CHRTYPE
    write(path, [*members(path), info])


def truncated(path):
    path.write_bytes(path.read_bytes()[:20_000])
    agree(path)


def not_a_tar(path):
    path.write_bytes(b"this is no archive" * 600)
    agree(path)


def changed_byte(path):
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)


def wrong_count(path):
    agree(path, samples=119)


def first_key(path) -> str:
    return members(path)[0][0].partition(".")[0]


def undecodable(path, key=None):
    """Make every image of the shard garbage (its label stays)."""
    write(path, [(n, b"garbage" if n.endswith(".png") else d) for n, d in members(path)])
