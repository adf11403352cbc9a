"""Selectors that do not search: an order of the neurons from their weights or from chance."""

import torch

from pipeline.config.digests import draw


def l1_order(producer_weight: torch.Tensor) -> list[int]:
    """Neurons by falling L1 norm of their producer's filter (N, ...), ties to the lowest index (Li et al. 2017)."""
    return _falling(producer_weight.detach().double().abs().flatten(1).sum(1))


def l2_order(producer_weight: torch.Tensor) -> list[int]:
    """Neurons by falling L2 norm of their producer's filter (N, ...), ties to the lowest index."""
    return _falling((producer_weight.detach().double() ** 2).flatten(1).sum(1))


def bn_order(scale: torch.Tensor) -> list[int]:
    """Neurons by falling absolute scale of the batch norm behind their producer (N,), ties to the lowest index (Liu et al. 2017)."""
    return _falling(scale.detach().double().abs())


def _falling(scores: torch.Tensor) -> list[int]:
    values = scores.tolist()
    return sorted(range(len(values)), key=lambda i: (-values[i], i))


def random_order(width: int, seed: int, unit: str) -> list[int]:
    """A permutation that depends on nothing but (seed, unit)."""
    return [int(i) for i in draw("random selector", seed, unit).permutation(width)]
