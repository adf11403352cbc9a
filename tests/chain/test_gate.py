"""The dense gate: when it stops a run, and the causes that it names from what it can see."""

import pytest

from pipeline.chain.gate import refuse_below_gate
from pipeline.config.errors import BadInput
from pipeline.config.settings import Network

LITE = {"model": "tf_efficientnet_lite0", "weights": "lite0.safetensors", "num_classes": 1000, "img_size": 224}
GREY = {"model": "pipeline.networks.small:tiny", "weights": "tiny.safetensors", "num_classes": 4, "in_chans": 1, "img_size": 28}


def refusal(reached, **settings) -> str:
    with pytest.raises(BadInput) as caught:
        refuse_below_gate(Network(**settings), reached, "test")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_gate_stands_at_nine_tenths_of_what_is_expected_or_a_tenth_of_the_way_up_from_chance():
    for top1, settings in ((67.5, LITE | {"top1": 75}), (10.1, LITE), (32.5, GREY), (0, GREY | {"weights": None})):
        refuse_below_gate(Network(**settings), top1, "test")
    refuse_below_gate(Network(**GREY), None, "test")
    assert "dense top-1 on test is 67.40 %, below the gate of 67.50 %" in refusal(67.4, **LITE | {"top1": 75})
    assert "below the gate of 32.50 %" in refusal(32.4, **GREY) and "below the gate of 10.09 %" in refusal(10, **LITE)


def test_near_chance_it_names_the_order_of_the_classes_or_other_weights_and_above_it_the_preprocessing():
    near, above = refusal(0.1, **LITE | {"top1": 75}), refusal(60, **LITE | {"top1": 75})
    assert "near chance: another order of the classes in the data, or weights of another network" in near
    assert "well above chance: network.mean and std, crop_pct or interpolation; the order of the colour channels" in above
    assert "near chance" not in above
    assert "network.top1 75 was measured on other data" in above and "colour" not in refusal(20, **GREY)


def test_it_names_the_settings_that_differ_from_what_timm_records_for_the_model():
    wrong = {"mean": [0.485, 0.456, 0.406], "std": [0.5, 0.5, 0.5], "crop_pct": 1.0, "interpolation": "bilinear", "img_size": 128}
    line = refusal(40, **LITE | wrong | {"top1": 75})
    for words in (
        "network.mean is (0.485, 0.456, 0.406), timm's for tf_efficientnet_lite0 is (0.5, 0.5, 0.5)", "network.crop_pct is 1.0, timm's",
        "network.interpolation is bilinear, timm's for tf_efficientnet_lite0 is bicubic", "network.img_size is 128, timm's",
    ):  # fmt: skip
        assert words in line
    assert "network.std" not in line and "timm's for" not in refusal(40, **LITE | {"top1": 75})


@pytest.mark.parametrize("model, other", [("tf_efficientnet_lite0", "efficientnet_lite0"), ("efficientnet_lite0", "tf_efficientnet_lite0")])
def test_it_names_the_model_of_the_same_shapes_that_pads_otherwise(model, other):
    assert f"the weights are of {other}, whose shapes agree and whose padding does not" in refusal(40, **LITE | {"model": model, "top1": 75})
    assert "padding" not in refusal(40, **LITE | {"model": "resnet18", "top1": 75}) and "padding" not in refusal(5, **GREY)
