"""A search on images in memory: what the chain and prune() build, without files of data."""

from dataclasses import dataclass
from pathlib import Path

import torch
from timm.layers import Conv2dSame
from torch import nn
from torch.nn import functional

from pipeline.config.rules import resolve_prune
from pipeline.config.settings import Prune, Scoring
from pipeline.data.streams import Batch
from pipeline.journal import Journal
from pipeline.networks.units import find_units
from pipeline.pruners.pruner import Job, Measured, dense_quadratics, prune_units
from pipeline.search.actor import Bench
from pipeline.search.coordinator import Coordinator
from pipeline.search.executor import InProcess
from tests.networks.samples import Residual, Stripped, conv

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Samples:
    """Images in memory as an endless scoring stream; batches end where `shard` images end, as they do between shards."""

    images: torch.Tensor
    labels: torch.Tensor
    batch: int
    shard: int = 10**9

    def block(self, start, stop):
        while start < stop:
            first = start % len(self.images)
            last = min(first + self.batch, first + stop - start, len(self.images), (first // self.shard + 1) * self.shard)
            yield Batch(self.images[first:last], self.labels[first:last])
            start += last - first


def samples(count, channels, side, classes, batch, dtype=torch.float32, **more) -> Samples:
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(count, channels, side, side, generator=generator).to(dtype)
    return Samples(images, torch.randint(classes, (count,), generator=generator), batch, **more)


def bench(network, stream, folder, units=None, seed=0, **scoring) -> Bench:
    """`scoring`: settings other than the small defaults here."""
    scoring = Scoring(**{"batch": stream.batch, "block_samples": 16, "block_candidates": 4} | scoring)
    return Bench(network, units or find_units(network), stream, scoring, Path(folder), CPU, seed)


def coordinator(given: Bench, calibration=0, executor=None) -> Coordinator:
    journal = Journal(given.folder / "journal.jsonl", lambda event: None)
    return Coordinator(executor or InProcess(given), journal, given.folder, given.scoring, calibration, lambda event: None)


def measured_by(asking: Coordinator, given: Bench, options: Prune) -> Measured:
    """What mode independent measures in the dense network; orders are searched anew."""
    grams, sums = asking.dense_grams()
    return Measured(dense_quadratics(given.network, given.units, grams, sums if options.refit == "affine" else None), {})


def search(given: Bench, widths, calibration=0, executor=None, **prune) -> list[dict]:
    """Run a whole search in the bench's folder; the journal's lines."""
    options = resolve_prune(Prune(**prune), "test", "width")
    asking = coordinator(given, calibration, executor)
    measured = None
    if options.mode == "independent":
        measured = measured_by(asking, given, options)
    prune_units(Job(given.network, given.units, widths, options, given.seed, measured), asking)
    asking.journal.close()
    return asking.journal.lines


class Pointwise(nn.Module):
    """1 x 1 consumers of all sorts: with padding in words, with a stride, with real padding, timm's own."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(2, 6), nn.Conv2d(6, 5, 1, padding="same")
        self.c, self.d = nn.Conv2d(5, 7, 1, stride=2, bias=False), Conv2dSame(7, 8, 1)
        self.e, self.fc = nn.Conv2d(8, 4, 1, padding=1), nn.Linear(4, 3)

    def forward(self, x):
        for layer in (self.a, self.b, self.c, self.d):
            x = functional.gelu(layer(x))
        x = self.e(x)
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


class Awkward(nn.Module):
    """What a walk must carry right: the images themselves across cuts, a bare parameter used twice, maps of one position, tokens."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = conv(2, 8), nn.Conv2d(8, 2, 3, padding=2, dilation=2), conv(2, 6, stride=2), conv(6, 4)
        self.e, self.f = conv(4, 9, 1), nn.Conv2d(9, 4, (3, 1), padding=(1, 0), stride=(2, 1))
        self.shift, self.fc1, self.fc2 = nn.Parameter(torch.tensor([0.3, -0.2]).view(1, 2, 1, 1)), nn.Linear(4, 7), nn.Linear(7, 3)

    def forward(self, x):
        y = (x + self.shift) + self.b(torch.relu(self.a(x)))
        y = functional.relu(self.d(functional.gelu(self.c(x + y))), inplace=True)
        y = functional.adaptive_avg_pool2d(y, 1)
        y = self.f(functional.silu(self.e(y)))
        return self.fc2(torch.relu(self.fc1(torch.flatten(y, 1)))) + self.shift.sum()


class Carried(nn.Module):
    """The images, laid out otherwise than maps that convs write, live across a cut and are then summed over positions."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc1, self.fc2 = conv(2, 8), conv(8, 2), nn.Linear(2, 7), nn.Linear(7, 3)

    def forward(self, x):
        y = x + self.b(torch.relu(self.a(x)))
        y = torch.flatten(functional.adaptive_avg_pool2d(y, 1), 1)
        return self.fc2(functional.silu(self.fc1(y))) + torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1).sum()


def in_place() -> nn.Module:
    """A network that normalises its input in place."""
    return Stripped(lambda net, x: net.body(x.sub_(0.5).mul_(2)), body=Residual())
