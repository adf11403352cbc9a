"""A look at data that need not be shards yet: labels of every sample, pixels of some."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.config.settings import Data
from pipeline.data.images import Preprocess, evaluation_image
from pipeline.data.manifest import Manifest
from pipeline.data.prepare import Origin, given_manifest
from pipeline.data.shards import verify_manifest
from pipeline.data.sources import raw_split


@dataclass(frozen=True)
class Preview:
    """One split: labels in order, `image_bytes(i)` and `place(i)` as an opened split has them."""

    label: np.ndarray
    classes: int
    read: Callable[[int], bytes]
    name: Callable[[int], str]
    bytes_to_write: int

    @property
    def total(self) -> int:
        return len(self.label)

    def image_bytes(self, i: int) -> io.BytesIO:
        return io.BytesIO(self.read(i))

    def place(self, i: int) -> str:
        return self.name(i)

    def classes_without_samples(self) -> list[int]:
        return sorted(set(range(self.classes)) - set(self.label.tolist()))

    def batches(self, picks, preprocess: Preprocess, batch: int):
        """(uint8 images, labels) of the picked samples."""
        for first in range(0, len(picks), batch):
            part = [int(i) for i in picks[first : first + batch]]
            yield torch.stack([evaluation_image(self, i, preprocess) for i in part]), torch.from_numpy(self.label[part])


def preview(data: Data, origin: Origin) -> dict[str, Preview]:
    """Both splits. Raises BadInput naming the shard or the file; shards are read whole and their sha256 compared."""
    if origin.raw is None:
        return {split: _of_shards(given_manifest(data, origin, split), origin) for split in origin.manifests}
    found = {}
    for split, limit in (("train", data.train_samples), ("test", data.test_samples)):
        raw = raw_split(origin.raw, split)
        raw.refuse_faulty(range(len(raw.samples)), whole=False)
        labels = np.array([label for _, label in raw.samples], np.int64)[:limit]
        size = len(raw.read(0)[1]) + 2048
        found[split] = Preview(
            labels,
            origin.classes,
            lambda i, raw=raw: raw.read(i)[1],
            lambda i, raw=raw: f"{origin.raw}: sample {raw.samples[i][0]!r}",
            size * len(labels),
        )
    return found


def _of_shards(manifest: Manifest, origin: Origin) -> Preview:
    scanned = verify_manifest(manifest, lambda event: None)
    samples = [(shard.path, sample) for shard, found in zip(manifest.shards, scanned) for sample in found]

    def read(i):
        path, sample = samples[i]
        with open(path, "rb") as file:
            file.seek(sample.offset)
            return file.read(sample.size)

    labels = np.array([sample.label for _, sample in samples], np.int64)
    return Preview(labels, origin.classes, read, lambda i: f"shard {samples[i][0]}: sample {samples[i][1].key!r}", 0)
