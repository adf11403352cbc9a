"""Positions drawn by name, and the consumer's input at these positions alone."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.search.columns import input_columns, output_shape
from pipeline.search.positions import drawn_positions


def test_a_batch_draws_what_its_images_draw_alone():
    whole = drawn_positions(3, "unit", 100, 7, 49, 5)
    for image in range(7):
        assert torch.equal(drawn_positions(3, "unit", 100 + image, 1, 49, 5)[0], whole[image])


def test_positions_are_different_rising_and_all_equally_likely():
    found = drawn_positions(0, "unit", 0, 20_000, 10, 3)
    assert (found[:, 1:] > found[:, :-1]).all() and found.min() == 0 and found.max() == 9
    counts = torch.bincount(found.flatten(), minlength=10).numpy()  # 6,000 each, standard deviation 65
    assert np.abs(counts - 6000).max() < 5 * 65
    pairs = torch.bincount(found[:, 0] * 10 + found[:, 1], minlength=100)
    assert len(pairs[pairs > 0]) == sum(1 for a in range(8) for b in range(a + 1, 9))  # every pair that can come first does


def test_seed_and_unit_change_the_draw():
    draws = [drawn_positions(seed, unit, 0, 4, 100, 10) for seed in (0, 1, None) for unit in ("a", "b")]
    assert all(not torch.equal(one, other) for i, one in enumerate(draws) for other in draws[:i])


@pytest.mark.parametrize("consumer, shape", [
    (nn.Conv2d(5, 4, 3, padding=1), (3, 5, 8, 9)),
    (nn.Conv2d(5, 4, 3, stride=2, padding=1), (3, 5, 9, 8)),
    (nn.Conv2d(5, 4, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1)), (3, 5, 9, 8)),
    (nn.Conv2d(5, 4, 1), (3, 5, 6, 6)),
    (nn.Conv2d(5, 4, 1, stride=2), (3, 5, 7, 6)),
    (nn.Linear(5, 4), (3, 11, 5)),
])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_input_at_some_positions_is_those_rows_of_the_whole(consumer, shape, layout):
    values = torch.randn(shape)
    values = values.contiguous(memory_format=layout) if values.ndim == 4 else values
    each = int(np.prod(output_shape(consumer, values)[1:-1]))
    positions = drawn_positions(1, "unit", 0, len(values), each, 6)
    every = input_columns(consumer, values).view(len(values), each, -1)
    expected = torch.stack([every[image, at] for image, at in enumerate(positions)]).flatten(0, 1)
    assert torch.equal(input_columns(consumer, values, positions), expected)
