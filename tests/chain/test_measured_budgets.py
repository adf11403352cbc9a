"""Budgets that must be measured: milliseconds by a table of layers, a drop of accuracy by bisection on validation."""

import json

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from pipeline.chain import bisection
from pipeline.chain.bisection import PARTS, smallest_that_fits
from pipeline.config.errors import BadInput
from tests.chain.test_run import given, run  # noqa: F401


@for_all(low=st.integers(1, 128), first=st.integers(1, 128))
def test_a_bisection_finds_the_first_that_fits_in_seven_tries_and_tries_none_twice(low, first):
    tried = []

    def fits(part):
        assert part not in tried
        tried.append(part)
        return part >= first

    assert smallest_that_fits(low, PARTS, fits) == max(low, first)
    assert len(tried) <= 7 and PARTS not in tried


def test_a_run_of_a_drop_is_the_run_of_the_share_that_was_found(given):  # noqa: F811
    found = run(given, "arm=none", "budget.top1_drop=25")
    row = found.result
    assert (row["budget_kind"], row["budget_target"]) == ("top1_drop", 25.0)
    facts = json.loads((given["root"] / "runs/stages" / f"bisection-{row['stages']['bisection']}" / "done.json").read_text())["facts"]
    part, drops = facts["part"], {int(at): drop for at, drop in facts["drops"].items()}
    assert drops[part] <= 25 and all(drop > 25 for at, drop in drops.items() if at < part)
    same = run(given, "arm=none", f"budget.prunable_macs={part / PARTS}").result
    assert same["stages"]["search"] == row["stages"]["search"] and same["top1"] == row["top1"]
    assert row["select_macs"] > same["select_macs"] and row["select_images"] == same["select_images"] + facts["images"]
    assert row["note"] is None or f"{drops[part]:.2f} points" in row["note"]


def test_a_drop_that_no_share_keeps_is_refused_with_the_least_there_is_and_leaves_no_stage(given, monkeypatch):  # noqa: F811
    def fails_at_once(*_):  # the validation part of this data is too small for a real network to lose at every share
        return {"top1": -1.0}

    monkeypatch.setattr(bisection, "accuracy", fails_at_once)
    with pytest.raises(BadInput, match="budget.top1_drop: 0.5 points are out of reach: .* are lost at 99.2%"):
        run(given, "arm=none", "budget.top1_drop=0.5%")
    assert all('"top1_drop": 0.005' not in path.read_text() for path in given["root"].glob("runs/stages/bisection-*/settings.json"))


def test_milliseconds_are_met_by_the_table_of_layers_and_told_as_measured_again(given):  # noqa: F811
    row = run(given, "arm=none", "budget.latency_ms=95%", "evaluate.latency=true", "evaluate.latency_batch=16").result
    assert {one["batch"] for one in row["latency"]} == {1, 16, 64} and row["stages"]["latencies"]
    again = run(given, "arm=finetune", "budget.latency_ms=95%", "evaluate.latency=true", "evaluate.latency_batch=16").result
    assert again["stages"]["latencies"] == row["stages"]["latencies"] and again["macs"] == row["macs"]
    (measured,) = (one for one in row["latency"] if one["batch"] == 16)
    missed = measured["ms"] / (0.95 * measured["ms_dense"]) - 1
    assert row["note"] is None if abs(missed) <= 0.01 else f"{missed:+.1%}" in row["note"] and "at batch 16" in row["note"]


def test_milliseconds_out_of_reach_are_refused_before_data_is_read(given):  # noqa: F811
    with pytest.raises(BadInput, match="budget.latency_ms: 1e-05 is out of reach"):
        run(given, "name=unreachable", "budget.latency_ms=0.001%", "evaluate.latency=true", "evaluate.latency_batch=16")
    (events,) = (path.read_text() for path in given["root"].glob("runs/unreachable-*/metrics.jsonl"))
    assert '"stage": "latencies"' in events and '"stage": "data"' not in events


def test_a_table_of_another_batch_makes_another_search(given):  # noqa: F811
    settings = ("arm=none", "budget.latency_ms=97%", "evaluate.latency=true")
    first, second = (run(given, *settings, f"evaluate.latency_batch={batch}").result["stages"] for batch in (8, 32))
    assert first["latencies"] != second["latencies"] and first["search"] != second["search"]
