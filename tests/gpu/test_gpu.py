"""The same search on a GPU: the picks of the CPU wherever the margin exceeds float noise."""

import pytest
import torch

from pipeline import prune
from pipeline.networks.small import resnet_28, tiny

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]


@pytest.mark.parametrize("settings", [{}, {"mode": "independent"}, {"selector": "loss", "refit": "none", "engine": "exhaustive"}, {"selector": "l1"}])
def test_a_gpu_keeps_the_neurons_that_the_cpu_keeps(settings):
    torch.manual_seed(0)
    model, images = tiny(), torch.randn(256, 1, 28, 28)
    loader = [(images, torch.arange(256) % 10)]
    here = prune(model, loader, budget={"prunable_macs": 0.5}, **settings)
    there = prune(model.cuda(), loader, budget={"prunable_macs": 0.5}, **settings)
    assert next(there.network.parameters()).is_cuda
    assert {n: kept for n, (_, kept) in there.units.items()} == {n: kept for n, (_, kept) in here.units.items()}
    with torch.inference_mode():
        assert torch.allclose(there.network(images.cuda()).cpu(), here.network(images), atol=1e-3)


def test_a_narrow_branch_is_placed_on_the_device_of_its_layer():
    images = torch.randn(2, 1, 28, 28)
    pruned = prune(resnet_28(4).eval().cuda(), [images], {"width": 0.5}, units=["branch"], selector="l1", refit="none", allocation="uniform")
    assert torch.isfinite(pruned.network(images.cuda())).all()
