"""`gfs bench data`: our two streams beside timm's WebDataset reader, on the same shards, in one process without loaders."""

import hashlib
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from timm.data import create_dataset, create_loader
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from pipeline.bench.photos import SIZE, draw_photos
from pipeline.bench.rows import Row
from pipeline.config.errors import Failed
from pipeline.config.files import write_json
from pipeline.config.settings import Data
from pipeline.data.images import Preprocess
from pipeline.data.index import Split
from pipeline.data.manifest import Manifest
from pipeline.data.prepare import find_origin, open_splits, prepare
from pipeline.data.streams import ScoringStream, training_epoch

IMAGES, CLASSES, SIDE, BATCH, ROUNDS = 256, 8, 224, 64, 3
PREPROCESS = Preprocess(3, SIDE, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, 0.875, "bilinear")  # what timm's loader does by default


@dataclass(frozen=True)
class Passed:
    """One pass over a stream: seconds inside it, images, a digest of all pixels and labels, the first batch's images."""

    seconds: float
    images: int
    digest: str
    first: torch.Tensor


def bench_data(say, images: int = IMAGES) -> list[Row]:
    """Rows `scoring_stream` and `training_stream`, images per second: medians of three rounds, all in turns.

    Raises Failed when our pixels differ from one pass to the next.
    """
    with tempfile.TemporaryDirectory(prefix="gfs-bench-") as root:
        folder = Path(root) / "shards"
        split = make_split(draw_photos(Path(root) / "photos", images, CLASSES), folder)
        kilobytes = sum(shard.bytes for shard in split.manifest.shards) / images / 1000
        say(f"{images} JPEGs of {SIZE[0]} x {SIZE[1]}, {kilobytes:.0f} kB each, to {SIDE} x {SIDE}")
        return [_scoring_row(split, folder / "train", say), _training_row(split, folder / "train", say)]


def make_split(photos: Path, folder: Path) -> Split:
    """The training photographs as shards of our own make, all of them to be read; timm's own list of shards lies beside them."""
    data = Data(source=str(photos))
    folder.mkdir()
    prepare(data, find_origin(data, CLASSES), folder, lambda event: None)
    split = open_splits(folder).train
    write_info(split.manifest, folder / "train")
    return replace(split, validation=np.zeros_like(split.validation))


def write_info(manifest: Manifest, folder: Path) -> None:
    """The `_info.json` by which timm knows a folder of shards."""
    names, lengths = [shard.path.name for shard in manifest.shards], [shard.samples for shard in manifest.shards]
    one = {"name": manifest.split, "filenames": names, "shard_lengths": lengths, "num_samples": manifest.samples}
    write_json(folder / "_info.json", {"name": manifest.name, "version": "1", "splits": {manifest.split: one}})


def timm_loader(folder: Path, split: str, training: bool, **transform):
    """timm's own loader over its WebDataset reader, in this process; its default transforms where `transform` names no other."""
    dataset = create_dataset("wds/bench", root=str(folder), split=split, is_training=training, batch_size=BATCH)
    plain = {"num_workers": 0, "persistent_workers": False, "use_prefetcher": False}
    return create_loader(dataset, (3, SIDE, SIDE), BATCH, is_training=training, **plain, **transform)


def passed(batches) -> Passed:
    """Go once through batches of (images, labels), timing what they take and nothing else."""
    batches, seconds, images, read, first = iter(batches), 0.0, 0, hashlib.blake2b(digest_size=16), None
    while True:
        began = time.perf_counter()
        batch = next(batches, None)
        seconds += time.perf_counter() - began
        if batch is None:
            return Passed(seconds, images, read.hexdigest(), first)
        images += len(batch[1])
        first = batch[0] if first is None else first
        for tensor in batch:
            read.update(tensor.contiguous().numpy().tobytes())


def _pairs(batches):
    return ((batch.images, batch.labels) for batch in batches)


def _scoring_row(split: Split, folder: Path, say) -> Row:
    stream = ScoringStream(split, np.arange(split.manifest.samples), PREPROCESS, BATCH)
    theirs = timm_loader(folder, split.manifest.split, False)
    rounds = _in_turns({"ours": lambda: _pairs(stream.block(0, len(stream))), "timm": lambda: theirs})
    difference = float((rounds["ours"][0].first - rounds["timm"][0].first).abs().max())
    return _row("scoring_stream", rounds, {"largest_difference_from_timm": difference}, say)


def _training_row(split: Split, folder: Path, say) -> Row:
    def epoch():
        return _pairs(training_epoch(split, None, PREPROCESS, seed=0, epoch=0, batch=BATCH))

    loaders = {"timm": timm_loader(folder, split.manifest.split, True)}
    loaders["timm without colour jitter"] = timm_loader(folder, split.manifest.split, True, color_jitter=None)
    rounds = _in_turns({"ours": epoch} | {name: lambda loader=loader: loader for name, loader in loaders.items()})
    return _row("training_stream", rounds, {"augment": "ours: random crop and flip; timm's default adds colour jitter"}, say)


def _in_turns(streams: dict) -> dict[str, list[Passed]]:
    """The passes of each stream; ours must be the same to the bit every time."""
    rounds = {name: [] for name in streams}
    for _ in range(ROUNDS):
        for name, open_stream in streams.items():
            rounds[name].append(passed(open_stream()))
    if len({one.digest for one in rounds["ours"]}) > 1:
        raise Failed("bench: the same stream gave other pixels when it was read again")
    return rounds


def _row(name: str, rounds: dict[str, list[Passed]], more: dict, say) -> Row:
    rates = {key: [one.images / one.seconds for one in passes] for key, passes in rounds.items()}
    middle = {key: statistics.median(values) for key, values in rates.items()}
    say(f"{name}: " + ", ".join(f"{key} {value:.0f} images/s" for key, value in middle.items()))
    first = rounds["ours"][0]
    detail = {"images": first.images, "side": SIDE, "batch": BATCH, "threads": torch.get_num_threads(), "loaders": 0, "pixels_digest": first.digest}
    detail |= {"rounds": rates, "medians": middle} | more
    what = "timm's WebDataset reader with its default transforms, same shards, same threads"
    return Row(name, middle["ours"], middle["timm"], what, "images/s", detail, more_is_better=True)
