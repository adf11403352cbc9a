"""What goes together: senseless combinations name both settings, what is not built is refused by name, what is not used is null."""

import pytest

from pipeline.chain import normalise
from pipeline.config.digests import digest
from pipeline.config.errors import BadInput
from pipeline.config.load import check_plain
from pipeline.config.rules import curves_pruner, curves_read_gram, follows_curves, resolve_prune, warnings_of
from pipeline.config.settings import Prune

PLAIN = {"data": {"source": "fashion-mnist"}, "network": {"model": "mobilenetv2_050", "num_classes": 10, "in_chans": 1, "img_size": 28}}


def config(prune=None, **more):
    return check_plain({**PLAIN, "prune": prune or {}, **more}, "config.yaml")


def refusal(prune=None, **more) -> str:
    with pytest.raises(BadInput) as caught:
        config(prune, **more)
    assert str(caught.value).startswith("config.yaml: ")
    return str(caught.value)


@pytest.mark.parametrize("prune, expected", [
    ({}, ("sequential", "forward", None, 2000, 1e-2, None, None)),
    ({"mode": "independent", "calibration_samples": 99}, ("independent", "forward", None, 99, 1e-2, None, None)),
    ({"mode": None, "calibration_samples": None, "ridge": None}, ("sequential", "forward", None, 2000, 1e-2, None, None)),
    ({"selector": "reconstruction", "refit": "none", "ridge": 0.0}, ("sequential", "forward", None, 2000, 0.0, None, None)),
    ({"selector": "loss", "refit": "none"}, ("sequential", "stochastic", "paper", None, None, 50, None)),
    ({"selector": "loss", "engine": "exhaustive", "max_picks": 9}, ("sequential", "exhaustive", "paper", 2000, 1e-2, None, 9)),
    ({"selector": "loss", "engine": "stochastic", "reference": "paper", "candidates": 7}, ("sequential", "stochastic", "paper", 2000, 1e-2, 7, None)),
    ({"selector": "l1"}, ("sequential", None, None, 2000, 1e-2, None, None)),
    ({"selector": "l1", "refit": "affine"}, ("sequential", None, None, 2000, 1e-2, None, None)),
    ({"selector": "l1", "refit": "none"}, (None, None, None, None, None, None, None)),
    ({"selector": "random", "refit": "none", "max_picks": 3, "candidates": 3}, (None, None, None, None, None, None, None)),
])
def test_null_becomes_the_selectors_default_and_what_is_not_used_becomes_null(prune, expected):
    found = config(prune).prune
    assert (found.mode, found.engine, found.reference, found.calibration_samples, found.ridge, found.candidates, found.max_picks) == expected


@pytest.mark.parametrize("ignored", [
    {"mode": "independent"}, {"mode": None}, {"calibration_samples": 77}, {"ridge": 0.5}, {"candidates": 3}, {"max_picks": 5},
])
def test_what_an_l1_without_refit_ignores_changes_neither_its_search_nor_its_run(ignored):
    plain, given = (config({"selector": "l1", "refit": "none"} | more) for more in ({}, ignored))
    for settings in (normalise.search_settings, normalise.statistics_settings, normalise.run_settings):
        assert digest(settings(plain)) == digest(settings(given))
    assert plain == given


def test_an_l1_with_refit_does_read_its_calibration():
    first, second = (normalise.search_settings(config({"selector": "l1", "calibration_samples": n})) for n in (64, 65))
    assert digest(first) != digest(second)


@pytest.mark.parametrize("prune, two", [
    ({"engine": "stochastic"}, ("prune.engine", "prune.selector")),
    ({"engine": "exhaustive", "selector": "l1"}, ("prune.engine", "prune.selector")),
    ({"engine": "forward", "selector": "loss"}, ("prune.engine", "prune.selector")),
    ({"engine": "forward", "selector": "random"}, ("prune.engine", "prune.selector")),
    ({"engine": "swap", "selector": "loss"}, ("prune.engine", "prune.selector")),
    ({"engine": "lazy", "selector": "reconstruction"}, ("prune.engine", "prune.selector")),
    ({"reference": "paper"}, ("prune.reference", "prune.selector")),
    ({"reference": "paper", "selector": "l1", "refit": "none"}, ("prune.reference", "prune.selector")),
    ({"reference": "official", "selector": "reconstruction"}, ("prune.reference", "prune.selector")),
    ({"selector": "loss", "mode": "independent"}, ("prune.mode", "prune.selector")),
])
def test_a_combination_that_makes_no_sense_names_both_settings(prune, two):
    message = refusal(prune)
    assert all(f"{name}" in message for name in two) and "set one of the two" in message
    assert all(repr(value) in message for key, value in prune.items() if key in ("engine", "reference", "mode"))


@pytest.mark.parametrize("prune, key", [
    *(({"engine": name, "selector": "loss"}, "prune.engine") for name in ("lazy", "racing")),
    *(({"reference": name, "selector": "loss"}, "prune.reference") for name in ("official", "official-fixed")),
    *(({"allocation": name}, "prune.allocation") for name in ("tolerance",)),
])
def test_a_pruner_that_is_not_built_is_refused_by_name_with_what_is(prune, key):
    message = refusal(prune)
    assert f"{key}: {prune[key.partition('.')[2]]!r} is not built yet; give " in message


@pytest.mark.parametrize("more, key", [
    *(({"budget": {kind: value}}, f"budget.{kind}")
      for kind, value in (("tolerance", 0.1),)),
])
def test_a_part_that_is_not_built_is_refused_by_name(more, key):
    message = refusal(**more)
    assert key in message and "not built yet" in message and "; " in message


def test_every_budget_kind_of_the_contract_is_known_and_seven_are_built():
    for kind in ("macs", "macs_bn", "prunable_macs", "width", "params", "latency_ms", "top1_drop"):
        assert config(budget={kind: "5%"}).budget == {kind: "5%"}


def test_a_drop_is_in_points_and_a_lost_percent_sign_is_caught():
    for same in ("2%", 0.02):
        assert normalise.bisection_settings(config(budget={"top1_drop": same}))["top1_drop"] == 0.02
    assert normalise.bisection_settings(config(budget={"top1_drop": 2}))["top1_drop"] == 0.02
    for odd in (0.5, 1, 120):
        assert "top1_drop" in refusal(budget={"top1_drop": odd}) and "0.5% for half a point" in refusal(budget={"top1_drop": odd})


@pytest.mark.parametrize("prune, word", [
    ({"selector": "recon"}, "reconstruction, loss, l1, l2, bn, random, tp.l1"), ({"selector": "tp.magnitude"}, "tp.taylor, tp.hessian"), ({"engine": "forwards"}, "give one of forward"),
    ({"selector": "loss", "engine": "stochastik"}, "stochastic, exhaustive"), ({"selector": "l1", "engine": "x"}, "give one of null"),
    ({"selector": "loss", "reference": "papers"}, "give one of paper"),
])
def test_an_unknown_value_is_refused_with_what_there_is(prune, word):
    message = refusal(prune)
    assert "unknown" in message and word in message


def test_an_arm_of_equal_compute_needs_to_know_what_given_weights_cost():
    network = {"model": "mobilenetv2_050", "num_classes": 10, "img_size": 28, "weights": "timm"}
    message = refusal(arm="reinit-compute", network=network)
    assert "arm: 'reinit-compute'" in message and "set network.train_images" in message
    assert config(arm="reinit-compute", network=network | {"train_images": 10**6}).network.train_images == 10**6
    assert config(arm="reinit-compute").network.weights is None


@pytest.mark.parametrize("prune, expected", [
    ({}, ("marginal", "own", 500)),
    ({"selector": "bn", "refit": "none"}, ("marginal", "own", 500)),
    ({"selector": "bn", "refit": "none", "curves": "reconstruction", "probe_samples": 99}, ("marginal", "reconstruction", 99)),
    ({"curves": "reconstruction"}, ("marginal", "own", 500)),
    ({"curves": "reconstruction", "refit": "affine"}, ("marginal", "own", 500)),
    ({"selector": "loss"}, ("uniform", None, None)),
    ({"selector": "loss", "allocation": "marginal"}, ("marginal", "reconstruction", 500)),
    ({"allocation": "uniform", "curves": "own", "probe_samples": 9}, ("uniform", None, None)),
])
def test_allocation_and_its_curves_have_a_default_that_fits_the_selector(prune, expected):
    found = config(prune).prune
    assert (found.allocation, found.curves, found.probe_samples) == expected


def test_curves_of_ours_for_a_peer_without_refit_need_our_calibration_and_its_own_search_does_not_walk():
    found = config({"selector": "bn", "refit": "none", "curves": "reconstruction"}).prune
    assert (found.calibration_samples, found.ridge, found.mode) == (2000, 1e-2, None)


@pytest.mark.parametrize("refit, measured", [("none", "lsq"), ("lsq", "lsq"), ("affine", "affine")])
def test_curves_of_ours_are_measured_under_the_peers_own_refit_or_least_squares(refit, measured):
    found = curves_pruner(config({"selector": "bn", "refit": refit, "curves": "reconstruction"}).prune)
    assert (found.selector, found.refit, found.engine) == ("reconstruction", measured, "forward")


def test_orders_about_the_means_are_measured_apart_from_others_which_keep_their_keys():
    settings = {refit: normalise.statistics_settings(config({"refit": refit, "mode": "independent"})) for refit in ("lsq", "affine")}
    assert "refit" not in settings["lsq"]["prune"] and settings["affine"]["prune"].pop("refit") == "affine"
    assert settings["lsq"] == settings["affine"]


@pytest.mark.parametrize("selector", ["loss", "random"])
def test_a_global_allocation_needs_scores(selector):
    message = refusal({"selector": selector, "allocation": "global"})
    assert "prune.allocation: 'global'" in message and repr(selector) in message and "set one of the two" in message


@pytest.mark.parametrize("prune, follows, gram", [
    ({"allocation": "uniform"}, False, False),
    ({"allocation": "marginal"}, True, True),
    ({"allocation": "global"}, True, True),
    ({"selector": "l1", "allocation": "marginal"}, True, True),
    ({"selector": "l1", "allocation": "global"}, True, False),
    ({"selector": "l1", "refit": "none", "allocation": "marginal"}, True, False),
    ({"selector": "l1", "refit": "none", "allocation": "marginal", "curves": "reconstruction"}, True, True),
    ({"selector": "tp.taylor", "refit": "none", "allocation": "marginal"}, True, False),
])
def test_which_curves_are_followed_and_which_read_the_gram_matrices(prune, follows, gram):
    found = config(prune).prune
    assert (follows_curves(found), curves_read_gram(found)) == (follows, gram)


def test_the_loss_search_has_no_curves_of_its_own():
    message = refusal({"selector": "loss", "allocation": "marginal", "curves": "own"})
    assert "prune.curves: 'own'" in message and "'loss'" in message and "set reconstruction" in message


def test_only_a_reconstruction_without_refit_warns():
    pairs = [(selector, refit) for selector in ("reconstruction", "loss", "l1", "random") for refit in ("none", "lsq", "affine")]
    warned = [pair for pair in pairs if warnings_of(config(dict(zip(("selector", "refit"), pair))).prune)]
    assert warned == [("reconstruction", "none")]


def test_the_python_door_resolves_by_the_same_rules():
    assert resolve_prune(Prune(selector="l1", refit="none"), "prune()", "macs") == config({"selector": "l1", "refit": "none"}).prune
    with pytest.raises(BadInput, match=r"prune\(\): prune.selector: 'tp.magnitude' is unknown"):
        resolve_prune(Prune(selector="tp.magnitude"), "prune()", "macs")


@pytest.mark.parametrize("engine", ["backward", "swap"])
def test_an_engine_that_inverts_the_gram_matrix_needs_a_ridge(engine):
    message = refusal({"engine": engine, "ridge": 0})
    assert "prune.ridge: 0" in message and engine in message and "1e-2" in message
    assert config({"engine": engine, "ridge": 1e-6}).prune.engine == engine


@pytest.mark.parametrize("selector, images", [("tp.l1", None), ("tp.lamp", None), ("tp.taylor", 2000), ("tp.hessian", 2000)])
def test_only_criteria_of_gradients_read_images_where_nothing_is_refitted(selector, images):
    found = config({"selector": selector, "refit": "none", "allocation": "uniform"}).prune
    assert (found.calibration_samples, found.ridge, found.mode) == (images, None, None)
    assert config({"selector": selector}).prune.calibration_samples == 2000


@pytest.mark.parametrize("prune", [{}, {"selector": "l1"}, {"selector": "reconstruction", "refit": "none"}])
def test_streams_are_refitted_in_the_dense_network_alone(prune):
    message = refusal(prune | {"units": ["hidden", "stream"]})
    assert "prune.mode: 'sequential'" in message and "prune.units stream" in message and "independent" in message
    assert config(prune | {"units": ["hidden", "stream"], "mode": "independent"}).prune.units == ["hidden", "stream"]
    assert config({"selector": "bn", "refit": "none", "units": ["stream"]}).prune.units == ["stream"]


def test_the_loss_search_of_streams_is_not_refitted():
    message = refusal({"selector": "loss", "refit": "lsq", "mode": None, "units": ["stream"]})
    assert "prune.refit: 'lsq'" in message and "set refit none" in message


@pytest.mark.parametrize("prune, words", [
    ({"selector": "l1", "as_shipped": True}, ("prune.as_shipped", "'l1'", "tp.l1")),
    ({"selector": "tp.l1", "as_shipped": True, "refit": "lsq"}, ("prune.refit: 'lsq'", "prune.as_shipped", "set one of the two")),
    ({"selector": "tp.l1", "as_shipped": True, "allocation": "marginal"}, ("prune.allocation: 'marginal'", "prune.as_shipped")),
    ({"selector": "tp.l1", "as_shipped": True, "units": ["hidden"]}, ("prune.units", "prune.as_shipped", "stream")),
    ({"selector": "tp.l1", "as_shipped": True, "round_to": 8}, ("prune.round_to: 8", "prune.as_shipped")),
])
def test_nothing_of_ours_takes_part_as_shipped(prune, words):
    message = refusal(prune)
    assert all(word in message for word in words), message


def test_what_as_shipped_means_is_filled_in_and_can_be_given_again():
    found = config({"selector": "tp.taylor", "as_shipped": True}).prune
    assert (found.refit, found.allocation, found.units, found.mode, found.calibration_samples) == ("none", "uniform", ["hidden", "stream"], None, 2000)
    assert config(found.model_dump()).prune == found
