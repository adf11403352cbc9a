"""Ours beside the peers: who is measured against whom, paired by seed, each pair of computations once."""

import pytest

from pipeline.report.build import build_report
from pipeline.report.comparison import ROLES, differences, ours_of, role_of
from pipeline.report.figures.comparison import draw_comparison
from pipeline.report.runs import gather
from pipeline.report.table import sections_of
from pipeline.report.variants import value_of
from tests.report.directories import GREEDY, PRUNE, config_of, make_run

MARGINAL = GREEDY | {"allocation": "marginal", "curves": "own", "probe_samples": 500}
REFITTED = PRUNE | {"refit": "lsq", "mode": "sequential", "allocation": "marginal", "curves": "own", "probe_samples": 500}


def section_of(*runs):
    (section,) = sections_of(gather(runs))[0]
    return section


def test_a_difference_is_paired_by_seed_by_hand(tmp_path):
    ours = [make_run(tmp_path, config_of(GREEDY, arm="finetune", seed=seed), top1=top1) for seed, top1 in ((0, 90.0), (1, 88.0), (2, 86.0))]
    peer = [make_run(tmp_path, config_of(PRUNE, arm="finetune", seed=seed), top1=top1) for seed, top1 in ((0, 89.0), (1, 86.0), (5, 10.0))]
    found = {each.moment: each for each in differences(section_of(*ours, *peer))}
    tuned = found["fine-tune, 1 epoch"].spread
    assert (tuned.n, tuned.mean) == (2, 1.5)  # seeds 0 and 1: 1 and 2 points; 2 and 5 have no partner
    assert tuned.interval == pytest.approx((1.5 - 12.7062 * 0.5, 1.5 + 12.7062 * 0.5))
    assert found["untrained"].spread.mean == pytest.approx((0 + 1) / 2)  # ours 80 and 81, the peer 80 whatever the seed


def test_what_two_seeds_share_on_both_sides_counts_once(tmp_path):
    fixed = GREEDY | {"mode": None}  # the made rows of a pruner without mode share one search
    runs = [make_run(tmp_path, config_of(prune, seed=seed)) for prune in (fixed, PRUNE) for seed in (0, 1, 2)]
    (found,) = differences(section_of(*runs))
    assert (found.spread.n, found.spread.interval) == (1, None)


def test_roles_follow_selector_and_refit_and_ours_is_the_one_by_measured_curves(tmp_path):
    prunes = (GREEDY, MARGINAL, PRUNE, REFITTED, GREEDY | {"refit": "none"}, PRUNE | {"as_shipped": True})
    section = section_of(*(make_run(tmp_path, config_of(prune), allocation=prune["allocation"]) for prune in prunes))
    roles = {section.pruners[pruner]: role_of(pruner) for pruner in section.pruners}
    assert sorted(roles.values()) == sorted([ROLES[0]] * 2 + [ROLES[1]] + [ROLES[2]] * 2 + [ROLES[3]]), roles
    assert value_of(ours_of(section), "prune.allocation") == "marginal"


def test_settings_that_only_come_with_another_are_not_named(tmp_path):
    section = section_of(make_run(tmp_path, config_of(GREEDY)), make_run(tmp_path, config_of(MARGINAL)))
    assert set(section.pruners.values()) == {"reconstruction + lsq, uniform", "reconstruction + lsq, marginal"}


def test_without_ours_or_without_a_peer_it_says_so(tmp_path):
    section = section_of(make_run(tmp_path))
    figure = draw_comparison(section, "net0-comparison")
    assert figure.svg is None and "Missing" in figure.caption and differences(section) == [] and ours_of(section) is None
    assert draw_comparison(section_of(make_run(tmp_path / "ours", config_of(GREEDY))), "net0-comparison").svg is None


def test_the_page_tells_each_difference_with_its_sign(tmp_path):
    runs = [make_run(tmp_path, config_of(prune, seed=seed)) for prune in (GREEDY, PRUNE) for seed in (0, 1)]
    page = build_report(runs, tmp_path / "out").read_text()
    assert "Ours against each peer" in page and "+0.50 (-5.85 to +6.85)" in page
    markdown = (tmp_path / "out/report.md").read_text().replace("\\", "")
    assert "| +0.50 (-5.85 to +6.85) | 2 |" in markdown
