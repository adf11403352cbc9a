"""`gfs export`: an ONNX file that gives torch's numbers, or an error that leaves no file."""

import shutil

import pytest
import torch
from torch import nn

from pipeline.chain.run import run_chain
from pipeline.config.errors import Failed
from pipeline.config.load import load_config
from pipeline.networks.onnx_file import write_onnx
from pipeline.networks.saved import load_pruned
from tests.conftest import run_gfs
from tests.networks.samples import images


@pytest.fixture
def finished(small_config):
    """The directory of a finished run."""
    return run_chain(load_config(str(small_config), ["arm=none"])).folder


def refused(folder, code, *words):
    done = run_gfs("export", folder)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("gfs: error: ") and done.stderr.count("\n") == 1 and all(word in done.stderr for word in words), done.stderr
    assert not list(folder.rglob("*.onnx*")) and not list(folder.rglob(".*.tmp"))


def test_a_run_is_exported_beside_its_result_with_what_an_image_must_be(finished):
    onnxruntime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    done = run_gfs("export", finished)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == str(finished / "model.onnx"), done.stderr
    values = images(3, 1, 28)
    session = onnxruntime.InferenceSession(str(finished / "model.onnx"))
    found = torch.from_numpy(session.run(None, {"images": values.numpy()})[0])
    with torch.no_grad():
        assert torch.allclose(found, load_pruned(finished)(values), rtol=1e-4, atol=1e-5)
    told = {entry.key: entry.value for entry in onnx.load(finished / "model.onnx").metadata_props}
    assert (told["mean"], told["std"], told["selector"], told["run"]) == ("0.5", "0.25", "reconstruction", finished.name)


def test_what_is_no_finished_run_is_refused(finished, tmp_path):
    refused(tmp_path / "runs", 2, "is no run")
    (finished / "result.json").rename(finished / "kept.json")
    refused(finished, 2, "no result.json", "end the run first")
    (finished / "kept.json").rename(finished / "result.json")
    shutil.copy(finished / "arch.json", finished / "model.safetensors")
    refused(finished, 2, "is no saved network")
    (finished / "result.json").write_text("{")
    refused(finished, 2, "result.json", "damaged")


class Restless(nn.Module):
    """Gives other numbers at each call, as a module with state would."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.calls = 0

    def forward(self, values):
        self.calls += 1
        return self.head(values.flatten(1)) * self.calls


def test_a_network_whose_file_differs_fails_and_leaves_no_file(tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(Failed, match="onnxruntime and torch differ by .* nothing was written"):
        write_onnx(Restless(), (1, 2, 2), tmp_path / "model.onnx", {})
    assert not list(tmp_path.iterdir())


class Undecided(nn.Module):
    """Looks at values to choose its way: no graph can hold that."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, values):
        values = self.head(values.flatten(1))
        return values if values.sum() > 0 else -values


def test_a_network_that_cannot_be_written_fails_with_the_reason_and_leaves_no_file(tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(Failed, match="cannot be written as ONNX"):
        write_onnx(Undecided(), (1, 2, 2), tmp_path / "model.onnx", {})
    assert not list(tmp_path.iterdir())
