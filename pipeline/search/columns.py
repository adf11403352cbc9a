"""A consumer as a matrix product: its input as rows of columns, neuron after neuron, its output back in shape."""

import torch
from torch import nn
from torch.nn import functional


def input_columns(consumer: nn.Module, values: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
    """The input as (rows, N k^2): a row per image and output position, the k^2 columns of a neuron side by side.

    `positions` (images, n): only these output positions of each image, in this order.
    """
    if isinstance(consumer, nn.Linear):
        return _taken(values.reshape(len(values), -1, values.shape[-1]), positions)
    if consumer.kernel_size == (1, 1) and _padding(consumer) == (0, 0):
        values = values[:, :, :: consumer.stride[0], :: consumer.stride[1]].permute(0, 2, 3, 1)
        return _taken(values.reshape(len(values), -1, values.shape[-1]), positions)
    if positions is not None:
        return _patches(consumer, values, positions)
    unfolded = functional.unfold(values, consumer.kernel_size, consumer.dilation, _padding(consumer), consumer.stride)
    return unfolded.transpose(1, 2).reshape(-1, unfolded.shape[1])


def _taken(rows: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
    """(images, P, N) as (rows, N), all of them or those at `positions`."""
    if positions is not None:
        rows = rows[torch.arange(len(rows), device=rows.device)[:, None], positions]
    return rows.reshape(-1, rows.shape[-1])


def _patches(consumer: nn.Conv2d, values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """What a k x k conv reads at some output positions (images, n), without unfolding the others: (images n, N k^2)."""
    (tall, wide), (height, length) = _padding(consumer), values.shape[2:]
    width = output_shape(consumer, values)[2]
    down, across = (torch.arange(size, device=values.device) * step for size, step in zip(consumer.kernel_size, consumer.dilation))
    rows = ((positions // width) * consumer.stride[0] - tall)[..., None, None] + down[:, None]
    columns = ((positions % width) * consumer.stride[1] - wide)[..., None, None] + across
    outside = (rows < 0) | (rows >= height) | (columns < 0) | (columns >= length)
    at = (rows.clamp(0, height - 1) * length + columns.clamp(0, length - 1)).flatten(1)
    read = _taken(values.permute(0, 2, 3, 1).flatten(1, 2), at).masked_fill_(outside.view(-1, 1), 0.0)
    return read.view(-1, len(down) * len(across), read.shape[-1]).transpose(1, 2).flatten(1)


def output_shape(consumer: nn.Module, values: torch.Tensor) -> tuple[int, ...]:
    """The shape of the consumer's output, channels last."""
    if isinstance(consumer, nn.Linear):
        return (*values.shape[:-1], consumer.out_features)
    sides = [
        (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, pad, dilation in zip(
            values.shape[2:], consumer.kernel_size, consumer.stride, _padding(consumer), consumer.dilation
        )
    ]
    return (values.shape[0], *sides, consumer.out_channels)


def _padding(consumer: nn.Conv2d) -> tuple[int, int]:
    """Its padding in numbers; units have words ("same", "valid") only on 1 x 1 consumers, where they mean none."""
    return (0, 0) if isinstance(consumer.padding, str) else consumer.padding


def as_output(consumer: nn.Module, rows: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """(rows, M) in the consumer's own layout."""
    rows = rows.view(shape)
    return rows if isinstance(consumer, nn.Linear) else rows.permute(0, 3, 1, 2)
