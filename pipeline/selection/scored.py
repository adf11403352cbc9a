"""Selectors that do not search: an order of the neurons from their weights or from chance."""

import torch

from pipeline.config.digests import draw


def l1_order(producer_weight: torch.Tensor) -> list[int]:
    """Neurons by falling L1 norm of their producer's filter (N, ...), ties to the lowest index (Li et al. 2017)."""
    norms = producer_weight.detach().double().abs().flatten(1).sum(1)
    return sorted(range(len(norms)), key=lambda i: (-float(norms[i]), i))


def random_order(width: int, seed: int, unit: str) -> list[int]:
    """A permutation that depends on nothing but (seed, unit)."""
    return [int(i) for i in draw("random selector", seed, unit).permutation(width)]
