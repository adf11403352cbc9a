"""Latency of one forward pass: dense and pruned in turns, so that a busy machine slows both alike."""

import copy
import statistics
import time

import torch
from torch import nn

from pipeline.data.images import Preprocess

BATCHES, WARM_UP, SECONDS, MOST = (1, 64), 3, 1.5, 200


def measure_latency(dense: nn.Module, pruned: nn.Module, preprocess: Preprocess, device, batch: int = 1) -> list[dict]:
    """Median milliseconds per batch at batch 1, 64 and the one given; one thread, float32, channels last."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pair = [copy.deepcopy(network).to(device, memory_format=torch.channels_last).eval() for network in (dense, pruned)]
        rows = []
        for batch in sorted({*BATCHES, batch}):
            images = torch.zeros(batch, preprocess.in_chans, preprocess.img_size, preprocess.img_size, device=device)
            ms_dense, ms = _medians(pair, images.contiguous(memory_format=torch.channels_last), device)
            row = {"device": device.type, "batch": batch, "dtype": "float32", "channels_last": True, "compile": False, "threads": 1}
            rows.append(row | {"ms": ms, "ms_dense": ms_dense})
        return rows
    finally:
        torch.set_num_threads(threads)


def _medians(pair, images, device) -> list[float]:
    times = [[], []]
    with torch.inference_mode():
        for network in pair * WARM_UP:
            network(images)
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end and len(times[0]) < MOST:
            for network, kept in zip(pair, times):
                _wait(device)
                began = time.perf_counter()
                network(images)
                _wait(device)
                kept.append(1000 * (time.perf_counter() - began))
    return [statistics.median(kept) for kept in times]


def _wait(device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
