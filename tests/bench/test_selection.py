"""`gfs bench selection` on a network so small that only its working is seen, never its speed."""

import json
import subprocess
import sys

import pytest

from pipeline.bench import selection, steps
from pipeline.bench.rows import save
from pipeline.config.errors import Failed
from tests.conftest import ROOT

SCHEMA = ROOT.parent / "shared/contracts/schemas/bench.json"
TINY = "pipeline.networks.small:tiny"


def test_every_row_is_there_and_its_parts_add_up(tmp_path):
    said = []
    rows = {row.name: row for row in selection.bench_selection(said.append, [TINY], 64)}
    kinds = ("reconstruction.independent", "reconstruction.sequential", "loss.exhaustive", "loss.stochastic")
    assert list(rows) == [f"{kind}/{TINY}" for kind in kinds] and len(said) == 5
    for kind in kinds[:2]:
        detail = rows[f"{kind}/{TINY}"].detail
        assert rows[f"{kind}/{TINY}"].ours == pytest.approx(detail["passes"] + detail["choosing"]) and detail["positions"] == 8
    first, last = (rows[f"{kind}/{TINY}"].detail for kind in (kinds[0], kinds[3]))
    assert first["error_units"] == 3 and -1 < first["error_added_mean"] <= first["error_added_most"] < 1
    assert last["loss_all"] <= last["loss_fifty"] and rows[f"{kinds[2]}/{TINY}"].detail["evaluations"] == 48
    if SCHEMA.exists():
        import jsonschema

        save(list(rows.values()), tmp_path / "rows.json")
        jsonschema.validate(json.loads((tmp_path / "rows.json").read_text()), json.loads(SCHEMA.read_text()))


def test_a_search_whose_losses_are_not_those_of_full_passes_is_no_row(monkeypatch):
    honest = steps._full_passes
    monkeypatch.setattr(steps, "_full_passes", lambda *given: (honest(*given)[0], honest(*given)[1].flip(0)))
    with pytest.raises(Failed, match="by suffixes are not .* by full passes"):
        selection.bench_selection(lambda line: None, [TINY], 64)


def test_it_needs_none_of_the_packages_that_only_runs_need():
    code = "import sys\nfor name in ('ray', 'webdataset', 'wandb', 'torch_pruning'):\n    sys.modules[name] = None\n"
    code += f"from pipeline.cli import main\nsys.argv = ['gfs', 'bench', 'selection', '--images', '64', '--network', '{TINY}']\nmain()"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0 and "loss.exhaustive" in ended.stdout, ended.stderr
