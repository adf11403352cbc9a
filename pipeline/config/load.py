"""A config file and its command-line overrides become one checked Config, or one clear error."""

import difflib
import itertools
from pathlib import Path

from pydantic import BaseModel, ValidationError

from pipeline.config.errors import BadInput
from pipeline.config.rules import resolve
from pipeline.config.settings import Config
from pipeline.config.yaml import parse

CASES = "cases"
REPLACED = ("budget", "data", "sweep")  # a mapping given for one of these replaces it; other sections are merged into


def load_config(path: str, overrides=()) -> Config:
    """Read `path` once, apply `key.sub=value` overrides and the one combination `sweep:` leaves, check everything.

    Raises BadInput naming file and key; also when more than one combination is left.
    """
    plain = read_plain(path, overrides)
    combinations = combine(plain)
    if len(combinations) > 1:
        raise BadInput(f"{path}: sweep: leaves {len(combinations)} combinations; `gfs run` does one: use `gfs sweep`, or override sweep={{}}")
    return check_plain(combinations[0], path)


def read_plain(path: str, overrides=()) -> dict:
    """The settings as a plain mapping, overrides applied."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"{path}: cannot be read ({reason}); give a config file, such as configs/quickstart.yaml") from error
    plain = parse(text, path)
    if not isinstance(plain, dict):
        raise BadInput(f"{path}: holds no settings; start from configs/quickstart.yaml")
    plain = _unshared(plain)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not all(part.strip() for part in key.split(".")):
            raise BadInput(f"{override!r}: is no override; write key.sub=value")
        assign(plain, key.strip(), parse(value, key))
    return plain


def assign(plain: dict, key: str, value) -> None:
    """Set one dotted key in place: mappings merge, except for `budget`, `data` and `sweep`, which are replaced."""
    *sections, last = key.split(".")
    if sections == ["budget"]:
        plain["budget"] = {last: value}
        return
    for section in sections:
        inner = plain.get(section)
        plain[section] = dict(inner) if isinstance(inner, dict) else {}
        plain = plain[section]
    if isinstance(value, dict) and isinstance(plain.get(last), dict) and (sections or last not in REPLACED):
        for inner, part in value.items():
            assign(plain[last], inner, part)
    else:
        plain[last] = value


def combine(plain: dict) -> list[dict]:
    """The settings of every combination of the `sweep:` lists; an entry of its list `cases` sets several keys together."""
    sweep = plain.get("sweep") or {}
    if not isinstance(sweep, dict) or not all(isinstance(values, list) and values for values in sweep.values()):
        raise BadInput("sweep: must map each key to a list of values")
    if not all(isinstance(case, dict) and case for case in sweep.get(CASES, ())):
        raise BadInput("sweep.cases: must list mappings, each of the settings that go together")
    rest = {key: value for key, value in plain.items() if key != "sweep"}
    combinations = []
    for values in itertools.product(*sweep.values()):
        one = _unshared(rest)
        for key, value in zip(sweep, values):
            for inner, part in value.items() if key == CASES else ((key, value),):
                assign(one, inner, _unshared(part))
        combinations.append(one)
    return combinations


def swept_keys(plain: dict) -> list[str]:
    """The settings that the `sweep:` lists of a config set."""
    sweep = plain.get("sweep") or {}
    return list(dict.fromkeys(inner for key, values in sweep.items() for case in values for inner in (case if key == CASES else (key,))))


def _unshared(value):
    """A copy in which no two places share a mapping, as a YAML alias makes them: `assign` writes in place."""
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value


def check_plain(plain: dict, place: str) -> Config:
    """The checked, resolved Config of plain settings."""
    try:
        config = Config.model_validate(plain)
    except ValidationError as error:
        faults = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")  # a typo also makes the right key missing
        raise BadInput(f"{place}: {_explain(faults[0])}") from error
    return resolve(config, place)


def _explain(fault: dict) -> str:
    """One pydantic error as a sentence that names the key and the nearest one that exists."""
    path = [str(part) for part in fault["loc"]]
    key = ".".join(path)
    if fault["type"] == "extra_forbidden":
        names = _fields(path[:-1])
        near = difflib.get_close_matches(path[-1], names, n=1)
        near_key = ".".join((*path[:-1], near[0])) if near else None
        return f"{key}: unknown setting; {f'did you mean {near_key}?' if near else 'known here: ' + ', '.join(names)}"
    if fault["type"] == "missing":
        return f"{key}: is missing; give it"
    message = str(fault["msg"]).removeprefix("Value error, ")
    given = fault.get("input")
    shown = f" (found {given!r})" if not isinstance(given, dict) and len(repr(given)) < 80 else ""
    return f"{key}: {message}{shown}".removeprefix(": ")


def _fields(path) -> list[str]:
    model = Config
    for part in path:
        field = model.model_fields.get(part) if isinstance(model, type) and issubclass(model, BaseModel) else None
        model = field.annotation if field else None
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []
