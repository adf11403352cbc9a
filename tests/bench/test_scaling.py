"""`gfs bench scaling` on a network so small that only its working is seen, never its speed."""

import json
import math

import pytest

from pipeline.bench import scaling
from pipeline.bench.rows import Row, save, table
from tests.conftest import ROOT

SCHEMA = ROOT.parent / "shared/contracts/schemas/bench.json"


def test_a_ratio_above_one_means_that_ours_takes_less(tmp_path):
    rows = [Row("workers.2/loss", 2.0, 3.0, "two bare processes", "s", {"rounds": {}})]
    save(rows, tmp_path / "rows.json")
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["ratio"] == 1.5 and row["ours"] == 2.0 and row["reference"] == 3.0
    assert "workers.2/loss" in table(rows) and "1.50" in table(rows)


@pytest.mark.slow
def test_both_searches_are_measured_on_ray_and_by_two_bare_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "ROUNDS", 1)
    network = scaling.SETTINGS["network"] | {"model": "pipeline.networks.small:tiny"}
    data = {"source": "fashion-mnist", "train_samples": 1500, "test_samples": 100}
    monkeypatch.setattr(scaling, "SETTINGS", scaling.SETTINGS | {"network": network, "data": data})
    searches = {
        "reconstruction": {"prune": {"selector": "reconstruction", "calibration_samples": 512}, "budget": {"prunable_macs": "50%"}},
        "loss": {"prune": {"selector": "loss", "refit": "none"}, "budget": {"width": 0.2}},
    }
    monkeypatch.setattr(scaling, "SEARCHES", searches)
    said = []
    rows = scaling.bench_scaling(said.append)
    assert [row.name for row in rows] == ["workers.2/reconstruction", "workers.2/loss"]
    for row in rows:
        assert row.ours == row.detail["workers_2"] > 0 and math.isclose(row.reference, row.detail["bare_halves"] + row.detail["choosing"])
        assert 0 < row.detail["choosing"] < row.detail["in_process"]
    if SCHEMA.exists():
        import jsonschema

        save(rows, tmp_path / "rows.json")
        jsonschema.validate(json.loads((tmp_path / "rows.json").read_text()), json.loads(SCHEMA.read_text()))
