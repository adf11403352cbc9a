"""Runs of a group that left no settings of their own, placed by the group's config: what it asks for and no run covers."""

from dataclasses import replace
from pathlib import Path

from pipeline.config.digests import canonical
from pipeline.config.errors import BadInput
from pipeline.config.load import check_plain, combine, read_plain
from pipeline.report.run import Run

TELLING = ("seed", "data", "network", "dense", "prune", "budget", "arm", "train", "scoring", "evaluate")


def place_unbegun(runs: list[Run], config: Path) -> list[Run]:
    """`runs` of one group, those without settings given the combinations that are left, where that is certain."""
    bare = [run for run in runs if not run.row and not run.config]
    if not bare or not config.is_file() or len({(run.state, run.error) for run in bare}) > 1:
        return runs
    covered = {_telling(run.config) for run in runs if run.config}
    left = {key: plain for key, plain in _combinations(config).items() if key not in covered}
    if len(left) != len(bare):
        return runs
    given = dict(zip((run.folder for run in bare), left.values()))  # all in one state: which is which changes no table
    return [replace(run, config=given[run.folder], begun=False) if run.folder in given else run for run in runs]


def _combinations(config: Path) -> dict[bytes, dict]:
    """Each combination of a sweep's config as resolved settings; none when this version cannot read it."""
    try:
        resolved = [check_plain(plain, str(config)).model_dump(mode="json") for plain in combine(read_plain(str(config)))]
    except BadInput:
        return {}
    return {_telling(plain): plain for plain in resolved}


def _telling(settings: dict) -> bytes:
    return canonical([settings.get(name) for name in TELLING])
