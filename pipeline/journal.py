"""The journal of a search: one choice per line, a checksum per line, fsynced before anything acts on it."""

import json
import os
import zlib
from pathlib import Path

from pipeline.config.digests import canonical
from pipeline.config.errors import Failed
from pipeline.config.files import sync_folder

SCHEMA = "goodsubnets/journal/1"


def encode(i: int, line: dict) -> bytes:
    """Line number `i` as canonical JSON with its crc32, without the newline."""
    line = line | {"i": i}
    return canonical(line | {"crc32": f"{zlib.crc32(canonical(line)):08x}"})


def decode(data: bytes, i: int, path) -> dict:
    """The line without `i` and `crc32`. Raises Failed naming file and line when its checksum or number is wrong."""
    try:
        line = json.loads(data)
        if not isinstance(line, dict) or encode(i, {k: v for k, v in line.items() if k not in ("i", "crc32")}) != data:
            raise ValueError("its checksum or number is wrong")
    except ValueError as error:
        raise Failed(f"journal {path}: line {i + 1} is damaged ({error}); delete the stage {Path(path).parent.name} and run again") from error
    return {key: value for key, value in line.items() if key not in ("i", "crc32")}


def read(path: Path) -> tuple[list[dict], int]:
    """(whole lines, bytes they take). A torn last line is left out; a damaged line raises Failed."""
    data = Path(path).read_bytes() if Path(path).exists() else b""
    *whole, _torn = data.split(b"\n")
    return [decode(line, i, path) for i, line in enumerate(whole)], sum(len(line) + 1 for line in whole)


class Journal:
    """Append with replay: what is already written is compared, what is new is written and fsynced."""

    def __init__(self, path: Path, observe, guard=None):
        self.path, self.cursor = Path(path), 0
        self.guard = guard or (lambda: None)  # raises when another process took over
        self.lines, whole = read(self.path)
        fresh = not self.path.exists()
        self.file = open(self.path, "ab", buffering=0)
        if fresh:
            sync_folder(self.path.parent)
        if (torn := self.file.tell() - whole) > 0:
            self.file.truncate(whole)
            os.fsync(self.file.fileno())
            observe({"event": "notice", "message": f"journal {self.path.name}: a torn last line of {torn} bytes was cut"})

    def commit(self, *lines: dict) -> None:
        """Make `lines` durable together; lines that a replay already holds must be equal to them."""
        known = self.lines[self.cursor : self.cursor + len(lines)]
        for offset, (old, new) in enumerate(zip(known, lines)):
            if canonical(old) != canonical(new):
                raise Failed(
                    f"journal {self.path}: line {self.cursor + offset + 1} is not what this computation gives; "
                    f"delete the stage {self.path.parent.name} and run again"
                )
        fresh = lines[len(known) :]
        if fresh:
            first = self.cursor + len(known)
            self._write(b"".join(encode(first + n, line) + b"\n" for n, line in enumerate(fresh)))
            self.lines.extend(fresh)
        self.cursor += len(lines)

    def _write(self, data: bytes) -> None:
        self.guard()
        try:
            while data:
                data = data[self.file.write(data) :]
            os.fsync(self.file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def replayed(self, unit: str) -> tuple[list[dict], dict | None]:
        """The picks of `unit` that a replay holds from here on, and its unit line if it is there; nothing is consumed."""
        picks, position = [], self.cursor
        while position < len(self.lines) and self.lines[position]["kind"] == "pick" and self.lines[position]["unit"] == unit:
            picks.append(self.lines[position])
            position += 1
        end = self.lines[position] if position < len(self.lines) else None
        return picks, end if end and end["kind"] == "unit" and end["unit"] == unit else None

    def close(self) -> None:
        self.file.close()
