"""Batch-norm re-estimation: the statistics of every batch norm measured anew on training images."""

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from pipeline.data.streams import ScoringStream

BATCH = 128


def has_batch_norm(network: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def recalibrated(network: nn.Module, stream: ScoringStream, samples: int, device) -> nn.Module:
    """A copy of `network` whose batch norms hold the mean over full batches of the stream's first `samples` images."""
    network = copy.deepcopy(network).to(device, memory_format=torch.channels_last)
    images = torch.cat([batch.images for batch in stream.block(0, samples)])  # batches of one size, across shards: all weigh the same
    size = min(len(images), BATCH)
    update_bn((images[i : i + size] for i in range(0, len(images) - size + 1, size)), network, device=device)
    return network.eval()
