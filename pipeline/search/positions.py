"""Which output positions of each image a Gram matrix is summed over: drawn by name, a whole batch at once."""

import math

import numpy as np
import torch

from pipeline.config.digests import number
from pipeline.search.columns import output_shape


def positions_read(consumer, read: torch.Tensor, wanted: int | None, seed: int | None, name: str, first: int) -> torch.Tensor | None:
    """`wanted` output positions of each image that a layer reads, on its device: (images, wanted); None where it has no more or all are wanted."""
    each = math.prod(output_shape(consumer, read)[1:-1])
    if wanted is None or each <= wanted:
        return None
    return drawn_positions(seed, name, first, len(read), each, wanted).to(read.device)


def drawn_positions(seed: int | None, unit: str, first: int, images: int, each: int, wanted: int) -> torch.Tensor:
    """`wanted` of `each` positions, rising, of the images that stand at first, first + 1, ... in the sequence: (images, wanted).

    A position's rank is a hash of (seed, unit, image, position): no batch, block or order of asking changes it.
    """
    counter = (np.arange(first, first + images, dtype=np.uint64)[:, None] * np.uint64(each)) + np.arange(each, dtype=np.uint64)
    ranks = _mixed(counter + np.uint64(number("positions", seed, unit)))
    picks = np.argpartition(ranks, wanted - 1, axis=1)[:, :wanted]
    return torch.from_numpy(np.sort(picks, axis=1))


def _mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser on uint64, so that neighbours get unrelated ranks (Steele, Lea and Flood 2014)."""
    values = values * np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
