"""What every bench owes: rows of the promised names that the contract's own check accepts."""

import math
import subprocess
import sys

import pytest

from pipeline.bench.rows import save
from tests.conftest import ROOT

CHECK = ROOT.parent / "shared/contracts/check.py"


@pytest.fixture
def holds_contract(tmp_path):
    """A function: rows of these names, in this order, all figures finite and positive, accepted by the contract's check."""

    def holds(rows, names):
        assert [row.name for row in rows] == names
        assert all(0 < value < math.inf for row in rows for value in (row.ours, row.reference, row.ratio))
        save(rows, tmp_path / "rows.json")
        if CHECK.exists():
            checked = subprocess.run([sys.executable, CHECK, "--as", "bench", tmp_path / "rows.json"], capture_output=True, text=True)
            assert checked.returncode == 0, checked.stdout + checked.stderr

    return holds
