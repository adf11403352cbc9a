"""Budgets through the command: out of reach they are refused with the range before any work; `gfs check` tells the range."""

import re

import pytest

from pipeline import cli


def ended(capsys, *arguments) -> tuple[int, str]:
    """The command in this very process: its exit code, and all that it said."""
    code = cli.main([str(argument) for argument in arguments])
    return code, "".join(capsys.readouterr())


@pytest.mark.parametrize("overrides, words", [
    (["budget.prunable_macs=0.1%"], ["budget.prunable_macs", "out of reach", "to 100%"]),
    (["budget.macs=0.1%"], ["budget.macs", "out of reach", "to 100%"]),
    (["budget.macs_bn=0.1%"], ["budget.macs_bn", "out of reach", "to 100%"]),
    (["budget.params=1%"], ["budget.params", "out of reach", "to 100%"]),
    (["budget.width=1%"], ["budget.width", "out of reach", "to 100%"]),
    (["budget.width=4%", "prune.allocation=marginal"], ["budget.width", "marginal and global leave 6% of each unit", "prune.allocation to uniform"]),
    (["budget.width=20%", "prune.round_to=8"], ["budget.width", "out of reach", "multiples of prune.round_to 8 allow 24 to 48 (50.00% to 100%)"]),
    (["budget.params=9M"], ["budget.params", "out of reach", "to 100%"]),
    (["budget.width=1%", "prune={selector: tp.l1, as_shipped: true}"], ["budget.width", "out of reach"]),
    (["budget.width=1%", "prune={units: [hidden, stream], mode: independent}"], ["budget.width", "out of reach"]),
])  # fmt: skip
def test_a_budget_out_of_reach_is_refused_with_the_range_before_any_work(small_config, tmp_path, capsys, overrides, words):
    code, said = ended(capsys, "run", "-c", small_config, *overrides)
    line = said.splitlines()[-1]
    assert code == 2 and line.startswith("gfs: error: ") and all(word in line for word in words), said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("overrides, told", [
    ([], r"allocation uniform: 3188 to \d+ of prunable_macs \(\d+\.\d\d% to 100%\)"),
    (["budget.width=50%", "prune.round_to=4"], r"allocation uniform, rounded up to multiples of 4: 12 to 48 of width \(25.00% to 100%\)"),
    (["budget.width=50%", "prune.allocation=marginal"], r"allocation marginal: 3 to 48 of width \(6.25% to 100%\)"),
    (["budget.width=50%", "prune={units: [hidden, stream], mode: independent, allocation: uniform}"], r"allocation uniform: \d+ to \d+ of width"),
    (["budget.params=60%", "prune={selector: tp.l1, as_shipped: true}"], r"allocation uniform: \d+ to \d+ of params"),
    (["budget.latency_ms=90%", "evaluate.latency=true"], r"latency_ms +\d+\.\d+ +\d+\.\d+ "),
    (["budget.top1_drop=1%"], r"found by bisection over shares of prunable MACs"),
])  # fmt: skip
def test_check_tells_what_every_kind_of_budget_can_ask_for(small_config, capsys, overrides, told):
    code, said = ended(capsys, "check", "-c", small_config, *overrides)
    assert code == 0, said
    assert re.search(told, said), said
    for kind in ("macs", "macs_bn", "prunable_macs", "params", "width"):
        low, high = re.search(rf"^\s*{kind} +([\d,]+) +([\d,]+) +[\d.]+%", said, re.MULTILINE).groups()
        assert 0 < int(low.replace(",", "")) < int(high.replace(",", ""))
