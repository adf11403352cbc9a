"""What a search says it cost is what it did: images read and MACs, counted while it runs; and what it says without memory."""

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config.rules import resolve_prune
from pipeline.config.settings import Prune
from pipeline.networks.cost import CostTable
from pipeline.pruners.spending import spent
from tests.conftest import ROOT
from tests.networks.samples import Branched, Residual, Squeezed, shaken
from tests.search.benches import Samples, bench, samples, search


class Counted(Samples):
    """Samples that count how many were read."""

    read = 0

    def block(self, start, stop):
        for batch in super().block(start, stop):
            Counted.read += len(batch.labels)
            yield batch


@pytest.mark.parametrize("settings", [
    dict(selector="reconstruction", mode="independent"),
    dict(selector="reconstruction", mode="sequential"),
    dict(selector="l1", refit="none"),
    dict(selector="loss", refit="none", engine="exhaustive"),
    dict(selector="loss", refit="none", candidates=3),
])  # fmt: skip
def test_images_and_macs_are_what_the_search_used(settings, tmp_path):
    plain = samples(40, 3, 16, 4, 8)
    network, stream = shaken(Residual()), Counted(plain.images, plain.labels, plain.batch)
    given = bench(network, stream, tmp_path)
    options = resolve_prune(Prune(**settings, calibration_samples=24, allocation="uniform"), "test", "width")
    Counted.read = 0
    with FlopCounterMode(display=False) as counter:
        lines = search(given, {"first": 4, "expand": 5}, options.calibration_samples or 0, **settings, calibration_samples=24)
    table = CostTable(network, given.units, torch.zeros(1, 3, 16, 16))
    cost = spent(lines, options, given.scoring, given.units, table, network)
    assert cost.images == Counted.read
    if settings["selector"] == "l1":
        assert (cost.images, cost.macs, counter.get_total_flops()) == (0, 0, 0)
    elif settings["selector"] == "reconstruction":
        passes = 2 if settings["mode"] == "sequential" else 1
        assert cost.macs == 24 * passes * table.cost({}).macs
    else:
        by_hand, widths, order = 0, {}, [layer.path for layer in table.layers]
        for line in lines:
            if line["kind"] == "unit":
                widths[line["unit"]] = len(line["kept"])
                continue
            at = order.index(given.units.units[line["unit"]].consumer)
            layers = [table.stretch(widths, number, number + 1) for number in range(len(order))]
            by_hand += 8 * (sum(layers[:at]) + line["candidates"] * sum(layers[at:]))
        assert cost.macs == by_hand
        assert 0.3 < counter.get_total_flops() / 2 / cost.macs < 1.1  # candidates change one column of the consumer, not all


@pytest.mark.parametrize("build", [Squeezed, Branched])
@pytest.mark.parametrize("mode", ["sequential", "independent"])
def test_a_unit_that_is_measured_once_more_reads_no_image_again(build, mode, tmp_path):
    plain = samples(40, 3, 16, 4, 8)
    network, stream = shaken(build()), Counted(plain.images, plain.labels, plain.batch)
    given = bench(network, stream, tmp_path)
    settings = dict(selector="reconstruction", mode=mode, calibration_samples=24)
    options = resolve_prune(Prune(**settings, allocation="uniform"), "test", "width")
    Counted.read = 0
    lines = search(given, {name: 3 for name in given.units.units}, 24, **settings)
    table = CostTable(network, given.units, torch.zeros(1, 3, 16, 16))
    assert spent(lines, options, given.scoring, given.units, table, network).images == Counted.read == 24


LIMITED = """
import resource, sys, torch
from pathlib import Path
torch.set_num_threads(1)
from tests.networks.samples import Residual, shaken
from tests.search.benches import bench, samples
from pipeline.search.actor import Actor
from pipeline.search.question import Question
from pipeline.config.errors import Failed
given = bench(shaken(Residual()), samples(64, 3, 160, 4, 64), Path(sys.argv[1]))
actor = Actor(given)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20, used + 300 * 2**20))
try:
    actor.answer(Question("loss", (), "first", 0, (0, 64), tuple(range(10))))
except Failed as error:
    print(error)
"""


def test_a_block_that_does_not_fit_memory_names_the_settings(tmp_path):
    """An allocation that really fails, under a limit on the address space."""
    ended = subprocess.run([sys.executable, "-c", LIMITED, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout.startswith("unit first: a block does not fit memory ("), ended.stderr
    assert ended.stdout.rstrip().endswith("lower scoring.batch, scoring.block_candidates or scoring.block_samples")
    assert ended.stdout.count("\n") == 1
