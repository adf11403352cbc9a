"""Latency of a network at widths that do not exist yet: what each of its layers takes, measured at a few shares of all units."""

import copy
import statistics
import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import nn

from pipeline.networks.cost import CostTable, Layer
from pipeline.networks.shrink import Choice, apply_choices
from pipeline.networks.units import Unit
from pipeline.selection.quota import in_turns

SHARES = (1.0, 0.85, 0.7, 0.55, 0.42, 0.3, 0.2, 0.12, 0.06)
WARM_UP, SECONDS, ROUNDS = 3, 6.0, (7, 60)  # rounds at least and at most


@dataclass(frozen=True)
class LayerTimes:
    """Milliseconds per batch: `ms` (shares, layers) from each layer's call to the next one's, at `widths` of each share."""

    batch: int
    widths: list[dict[str, int]]
    ms: list[list[float]]


@dataclass(frozen=True)
class Latency:
    """Milliseconds per batch that widths are expected to take."""

    latency_ms: float


def measure_layer_times(network: nn.Module, units: dict[str, Unit], table: CostTable, images: torch.Tensor) -> LayerTimes:
    """Time every layer of `network` with all units cut to each share, in turns, one thread, on the device of `images`."""
    widths = [{name: unit.groups * max(1, round(share * unit.width / unit.groups)) for name, unit in units.items()} for share in SHARES]
    layout = torch.channels_last if images.ndim == 4 else torch.contiguous_format
    networks = [_cut(network, units, kept).to(images.device, memory_format=layout) for kept in widths]
    images = images.contiguous(memory_format=layout)
    paths, threads = [layer.path for layer in table.layers], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for one in networks * WARM_UP:
                one(images)
            rounds, end = [], time.perf_counter() + SECONDS
            while len(rounds) < ROUNDS[0] or (time.perf_counter() < end and len(rounds) < ROUNDS[1]):
                rounds.append([(_stretches(one, paths, images), _stretches(one, [], images)) for one in networks])
    finally:
        torch.set_num_threads(threads)
    return LayerTimes(len(images), widths, [_medians([taken[i] for taken in rounds]) for i in range(len(networks))])


def _medians(rounds) -> list[float]:
    """Each layer's median, all scaled to add up to a pass in which no layer is looked at: looking takes time of its own."""
    ms = [statistics.median(times) for times in zip(*(layers for layers, _ in rounds))]
    whole = statistics.median(sum(times) for _, times in rounds)
    return [one * whole / sum(ms) for one in ms]


def _cut(network: nn.Module, units: dict[str, Unit], widths: dict[str, int]) -> nn.Module:
    smaller = copy.deepcopy(network).eval()
    first = {name: in_turns(range(unit.width), unit.width, unit.groups) for name, unit in units.items()}
    apply_choices(smaller, units, {name: Choice(tuple(first[name][:kept])) for name, kept in widths.items()})
    return smaller


def _stretches(network: nn.Module, paths: list[str], images: torch.Tensor) -> list[float]:
    """Milliseconds from each layer's call to the next one's; the first has what comes before it, the last what comes after."""
    stamps = []

    def note(module, inputs):
        stamps.append(_stamp(images.device))

    handles = [network.get_submodule(path).register_forward_pre_hook(note) for path in dict.fromkeys(paths)]
    try:
        begin = _stamp(images.device)
        network(images)
        end = _stamp(images.device)
    finally:
        for handle in handles:
            handle.remove()
    marks = [begin, *stamps[1:], end]
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)
        return [first.elapsed_time(second) for first, second in zip(marks, marks[1:])]
    return [1000 * (second - first) for first, second in zip(marks, marks[1:])]


def _stamp(device):
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


@dataclass(frozen=True)
class LatencyTable:
    """Expected latency of any widths: each layer goes along its own times, over the share of its inputs times that of its outputs."""

    table: CostTable
    times: LayerTimes

    def cost(self, widths: dict[str, int]) -> Latency:
        """Milliseconds per batch at these widths; units that are not named stay whole."""
        total = 0.0
        for i, layer in enumerate(self.table.layers):
            key = (i, self._share(layer, widths))
            if key not in self._known:
                self._known[key] = float(np.interp(key[1], *self._curves[i]))
            total += self._known[key]
        return Latency(total)

    def _share(self, layer: Layer, widths: dict[str, int]) -> float:
        dense, share = self.table.dense, 1.0
        for name in {self.table.reads.get(layer.path), self.table.writes.get(layer.path)} & set(widths):
            share *= widths[name] / dense[name]
        return share

    @cached_property
    def _known(self) -> dict:
        return {}

    @cached_property
    def _curves(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(shares, milliseconds) of each layer, never falling: a busy moment must not make a wider layer look cheaper."""
        curves = []
        for i, layer in enumerate(self.table.layers):
            shares = np.array([self._share(layer, widths) for widths in self.times.widths])
            taken = np.array([row[i] for row in self.times.ms])
            if len(set(shares.tolist())) == 1:
                curves.append((shares[:1], np.median(taken, keepdims=True)))
                continue
            order = np.argsort(shares, kind="stable")
            taken = taken[order]
            taken = (np.maximum.accumulate(taken) + np.minimum.accumulate(taken[::-1])[::-1]) / 2
            curves.append((shares[order], taken))
        return curves
