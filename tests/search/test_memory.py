"""What a search holds, counted in bytes of living tensors: bounded by settings, whatever the number of calibration images."""

import gc

import pytest
import torch

from pipeline.config.rules import resolve_prune
from pipeline.config.settings import Prune
from pipeline.pruners.pruner import Job, prune_units
from pipeline.search.question import Answer
from tests.networks.samples import Residual, shaken
from tests.search.benches import Samples, bench, coordinator, measured_by, samples

NOTHING = 1e-9  # GiB: no activation stays in memory between two units
ENOUGH = 1.0


def living() -> tuple[int, int]:
    """(bytes of all tensors that the collector tracks, each storage once; answers)."""
    objects = gc.get_objects()
    storages = [one.untyped_storage() for one in objects if issubclass(type(one), torch.Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values()), sum(type(one) is Answer for one in objects)


class Looked(Samples):
    """A stream that looks at what is held whenever a batch is taken."""

    def block(self, start, stop):
        for batch in super().block(start, stop):
            self.look()
            yield batch


def most_held(folder, calibration: int, mode: str, **scoring) -> tuple[int, int]:
    """The most (bytes, answers) held over a whole search on the same 32 images, over and over."""
    folder.mkdir()
    torch.manual_seed(0)
    network, seen = shaken(Residual()), []
    gc.collect()
    gc.freeze()  # what lives already is not looked at
    stream = Looked(**vars(samples(32, 3, 16, 4, 8)))
    object.__setattr__(stream, "look", lambda: seen.append(living()))
    given = bench(network, stream, folder, **scoring)
    options, asking = resolve_prune(Prune(selector="reconstruction", mode=mode), "test", "width"), coordinator(given, calibration)
    asking.observe = lambda event: seen.append(living())
    measured = measured_by(asking, given, options) if mode == "independent" else None
    widths = {name: unit.width // 2 for name, unit in given.units.units.items()}
    prune_units(Job(network, given.units, widths, options, 0, measured), asking)
    asking.journal.close()
    gc.unfreeze()
    assert len(seen) > calibration // 16
    return max(size for size, _ in seen), max(answers for _, answers in seen)


@pytest.mark.parametrize("mode, positions, block, few, many", [
    ("independent", None, 16, 48, 192),
    ("independent", 2, 16, 48, 192),
    ("independent", 2, 10_000, 512, 1024),
    ("sequential", 2, 16, 48, 192),
])
def test_what_is_held_does_not_grow_with_the_calibration_images(mode, positions, block, few, many, tmp_path):
    scoring = {"memory_limit": NOTHING, "positions": positions, "block_samples": block}
    small, large = (most_held(tmp_path / str(count), count, mode, **scoring) for count in (few, many))
    assert large == small and small[1] <= 2


def test_a_walk_holds_more_activations_up_to_the_memory_limit_and_no_more(tmp_path):
    limit = 1_000_000  # bytes
    scoring = {"none": NOTHING, "some": limit / 2**30, "all": ENOUGH}
    held = {name: most_held(tmp_path / name, 192, "sequential", memory_limit=most)[0] for name, most in scoring.items()}
    assert limit / 2 < held["some"] - held["none"] <= limit
    assert held["all"] - held["none"] > 2 * limit
