"""Reading result.json: every field that the report relies on is there and has its type, or one error names the file."""

import json
import math
import re
from pathlib import Path

from pipeline.config.errors import BadInput

NAME, NUMBER = "goodsubnets/result", 1
HEX = re.compile(r"[0-9a-f]{8,128}")
STRUCTURED = ("stages", "latency", "versions", "not_run")  # all other fields are plain values: a cell of results.csv


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_word(value) -> bool:
    return isinstance(value, str) and bool(value)


def _is_percent(value) -> bool:
    return is_number(value) and 0 <= value <= 100


def _or_null(kind):
    return lambda value: value is None or kind(value)


def _is_stages(value) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) and HEX.fullmatch(key) for key in value.values())


def _is_latency(value) -> bool:
    words, numbers = ("device", "dtype"), ("batch", "threads", "ms", "ms_dense")
    return isinstance(value, list) and all(
        isinstance(one, dict) and all(_is_word(one.get(name)) for name in words)
        and all(is_number(one.get(name)) and one[name] > 0 for name in numbers)
        for one in value
    )  # fmt: skip


def _is_words(value) -> bool:
    return isinstance(value, dict) and all(isinstance(inner, str) for inner in value.values())


_KINDS = {
    _is_word: "model run dataset selector refit allocation budget_kind arm device git finished_utc",
    _or_null(_is_word): "group engine reference mode note",
    _is_percent: "top1 top1_err top5 top5_err top1_dense top1_selected",
    _or_null(_is_percent): "top1_recalibrated top1_best_val",
    _is_count: "img_size seed num_classes test_samples macs macs_dense macs_bn macs_bn_dense prunable_macs prunable_macs_dense params params_dense"
    " train_images train_macs select_images select_macs",
    _or_null(_is_count): "epoch_best_val",
    lambda value: is_number(value) and value >= 0: "param_count budget_target width_kept epochs select_seconds train_seconds",
    lambda value: isinstance(value, str) and bool(HEX.fullmatch(value)): "run_hash data_digest test_digest weights_sha256",
    _is_stages: "stages",
    _or_null(_is_latency): "latency",
    _is_words: "versions not_run",
}
FIELDS = {name: kind for kind, names in _KINDS.items() for name in names.split()}


def read_result(path: Path) -> dict:
    """The checked row of a finished run. Raises BadInput naming the file, what was found, and what to do."""
    row = read_object(path, "delete it and give the run's command again")
    schema = row.get("schema")
    name, _, number = schema.rpartition("/") if isinstance(schema, str) else ("", "", "")
    if name != NAME or not number.isdecimal():
        raise BadInput(f"{path}: schema is {schema!r}, no {NAME}; give a run directory of this program")
    if int(number) != NUMBER:
        raise BadInput(f"{path}: schema is {schema!r}, this program reads {NAME}/{NUMBER}; use the version that wrote it")
    for field, kind in FIELDS.items():
        if field not in row:
            raise BadInput(f"{path}: is damaged, {field} is missing; delete it and give the run's command again")
        if not kind(row[field]):
            raise BadInput(f"{path}: is damaged, {field} is {_short(row[field])}; delete it and give the run's command again")
    if 0 in (row["macs_dense"], row["params_dense"]):
        raise BadInput(f"{path}: is damaged, the dense network has no MACs or parameters; delete it and give the run's command again")
    return row


def read_object(path: Path, advice: str) -> dict:
    """A JSON object whose texts can be written as UTF-8. Raises BadInput naming the file."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); {advice}") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path}: holds no object but {_short(value)}; {advice}")
    return value


def _refuse(word: str):
    raise ValueError(f"{word} is no number")


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
