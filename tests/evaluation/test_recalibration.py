"""Batch-norm re-estimation by hand: the mean over full batches, whatever batch the search scores with."""

import torch
from torch import nn

from pipeline.data.streams import Batch
from pipeline.evaluation.recalibration import recalibrated


class Stream:
    """Images in batches of one, as a scoring batch of 1 gives them."""

    def __init__(self, images):
        self.images = images

    def block(self, start, stop):
        for i in range(start, stop):
            yield Batch(self.images[i : i + 1], torch.zeros(1, dtype=torch.long))


def test_the_norms_hold_the_statistics_of_the_images_even_from_batches_of_one():
    images = torch.randn(100, 3, 4, 4) * 2 + 5
    network = nn.Sequential(nn.BatchNorm2d(3))
    found = recalibrated(network, Stream(images), 100, torch.device("cpu"))[0]
    assert torch.allclose(found.running_mean, images.mean((0, 2, 3)), atol=1e-4)
    assert torch.allclose(found.running_var, images.var((0, 2, 3)), rtol=1e-3)
    assert torch.equal(network[0].running_mean, torch.zeros(3))
