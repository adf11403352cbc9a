"""Selectors that do not search: scores of the neurons from their weights, or an order from chance."""

import torch

from pipeline.config.digests import draw


def l1_scores(producer_weight: torch.Tensor) -> torch.Tensor:
    """L1 norm of each neuron's filter in its producer (N, ...): (N,) (Li et al. 2017)."""
    return producer_weight.detach().double().abs().flatten(1).sum(1)


def l2_scores(producer_weight: torch.Tensor) -> torch.Tensor:
    """L2 norm of each neuron's filter in its producer (N, ...): (N,)."""
    return (producer_weight.detach().double() ** 2).flatten(1).sum(1).sqrt()


def bn_scores(scale: torch.Tensor) -> torch.Tensor:
    """Absolute scale of each neuron in the batch norm behind its producer (N,): (N,) (Liu et al. 2017)."""
    return scale.detach().double().abs()


def falling(scores: torch.Tensor) -> list[int]:
    """Neurons by falling score (N,), ties to the lowest index."""
    values = scores.tolist()
    return sorted(range(len(values)), key=lambda i: (-values[i], i))


def random_order(width: int, seed: int, unit: str) -> list[int]:
    """A permutation that depends on nothing but (seed, unit)."""
    return [int(i) for i in draw("random selector", seed, unit).permutation(width)]
