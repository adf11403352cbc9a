"""Which stages the runs of a directory name, and what the runs at work have not named yet."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config.errors import BadInput
from pipeline.config.files import read_json
from pipeline.stages.groups import GROUP
from pipeline.stages.lock import is_live


@dataclass(frozen=True)
class Named:
    """`stages`: directory names below stages/; `at_work`: {live run: the kinds of stages that it has named so far}."""

    stages: set[str] = field(default_factory=set)
    at_work: dict[str, set[str]] = field(default_factory=dict)


def read_named(root: Path) -> Named:
    """All that the runs below `root` name. Raises BadInput for a run that cannot be read: what it needs must not be lost."""
    named = Named()
    for run in sorted(path for path in Path(root).iterdir() if path.is_dir() and path.name != "stages"):
        if (run / GROUP).exists():
            continue
        live = is_live(run / "lock.json")  # asked first: what it names after this is of a kind that it had not named
        keys = _keys_of(run)
        named.stages.update(f"{kind}-{key}" for kind, key in keys)
        if live:
            named.at_work[run.name] = {kind for kind, _ in keys}
    return named


def _keys_of(run: Path) -> set[tuple[str, str]]:
    """(kind, key) by stages.json and result.json; an unfinished run also names those that its events tell of."""
    found: set[tuple[str, str]] = set()
    try:
        if (run / "stages.json").exists():
            found |= set(read_json(run / "stages.json").items())
        if (run / "result.json").exists():
            found |= set(read_json(run / "result.json")["stages"].items())
        elif (run / "metrics.jsonl").exists():
            found |= _told(run / "metrics.jsonl")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{run}: what it names cannot be read ({error}); give its command again, or delete it, then clean") from error
    return {(str(kind), str(key)) for kind, key in found}


def _told(path: Path) -> set[tuple[str, str]]:
    """The stages that a run began or found, by its events; torn lines tell nothing."""
    found = set()
    for line in path.read_text(errors="replace").splitlines():
        try:
            event = json.loads(line)
            if event["event"] == "stage":
                found.add((event["stage"], event["key"]))
        except (ValueError, KeyError, TypeError):
            continue
    return found
