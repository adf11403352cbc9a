"""A consumer as a matrix product: its input as rows of columns, neuron after neuron, its output back in shape."""

import torch
from torch import nn
from torch.nn import functional


def input_columns(consumer: nn.Module, values: torch.Tensor) -> torch.Tensor:
    """The input as (rows, N k^2): a row per image and output position, the k^2 columns of a neuron side by side."""
    if isinstance(consumer, nn.Linear):
        return values.reshape(-1, values.shape[-1])
    if consumer.kernel_size == (1, 1) and _padding(consumer) == (0, 0):
        values = values[:, :, :: consumer.stride[0], :: consumer.stride[1]]
        return values.permute(0, 2, 3, 1).reshape(-1, values.shape[1])
    unfolded = functional.unfold(values, consumer.kernel_size, consumer.dilation, _padding(consumer), consumer.stride)
    return unfolded.transpose(1, 2).reshape(-1, unfolded.shape[1])


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
