"""The command that goes on with a run or a group, as it would be typed here."""

import contextlib
import os
import shlex
from pathlib import Path

from pipeline.config.errors import BadInput
from pipeline.config.yaml import parse


def command_of(folder: Path, verb: str, name: str = "config.yaml") -> str:
    """`gfs VERB -c FOLDER/NAME`; with the directory to go to first where the config's own paths begin elsewhere."""
    file = Path(folder) / name
    place = _began_in(Path(folder), file)
    if place is None or place == Path.cwd():
        return f"gfs {verb} -c {shlex.quote(str(file))}"
    return f"cd {shlex.quote(str(place))} && gfs {verb} -c {shlex.quote(os.path.relpath(file.resolve(), place))}"


def _began_in(folder: Path, file: Path) -> Path | None:
    """The directory from which its relative `runs_dir` leads to `folder`; None where that is absolute or cannot be known."""
    with contextlib.suppress(OSError, BadInput, AttributeError, TypeError):
        named = Path(parse(file.read_text(), file.name).get("runs_dir", "runs"))
        if not named.is_absolute():
            parts, inside = folder.resolve().parent.parts, Path(os.path.normpath(named)).parts
            if parts[-len(inside) :] == inside:
                return Path(*parts[: -len(inside)])
    return None
