"""The order of samples: the scoring sequence, addressable by block, and training epochs, shuffled and of exact length."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pipeline.config.digests import digest, draw
from pipeline.config.errors import BadInput, Stopped
from pipeline.config.stopping import end_only_by_parent, held
from pipeline.data.images import Preprocess, evaluation_image, normalise, training_image
from pipeline.data.index import Split


@dataclass(frozen=True)
class Batch:
    """Normalised float32 images (B, C, S, S) and int64 labels (B,)."""

    images: torch.Tensor
    labels: torch.Tensor


class ScoringStream:
    """An exact, ordered, endless sequence of samples: position p is sample `order[p mod len(order)]`."""

    def __init__(self, split: Split, order: np.ndarray, preprocess: Preprocess, batch: int):
        if not len(order):
            raise BadInput(f"data: split {split.manifest.split!r} leaves no sample to score on; give it more images")
        self.split, self.order, self.preprocess, self.batch = split, order, preprocess, batch

    def __len__(self):
        return len(self.order)

    def block(self, start: int, stop: int):
        """Batches of the positions start..stop-1; a batch never straddles two shards nor the wrap."""
        first = start
        while first < stop:
            last = first + 1
            while last < min(stop, first + self.batch) and self._together(first, last):
                last += 1
            picks = [int(self.order[p % len(self.order)]) for p in range(first, last)]
            images = torch.stack([evaluation_image(self.split, i, self.preprocess) for i in picks])
            yield Batch(normalise(images, self.preprocess), torch.from_numpy(self.split.label[picks]))
            first = last

    def _together(self, first, p):
        a, b = first % len(self.order), p % len(self.order)
        return b > a and self.split.shard_of[self.order[a]] == self.split.shard_of[self.order[b]]


@dataclass(frozen=True)
class MemoryStream:
    """Images (N, C, S, S) and labels (N,) in memory as an exact, ordered, endless sequence."""

    images: torch.Tensor
    labels: torch.Tensor
    batch: int

    def block(self, start: int, stop: int):
        """Batches of the positions start..stop-1; a batch never straddles the wrap."""
        while start < stop:
            first = start % len(self.images)
            last = min(first + self.batch, first + stop - start, len(self.images))
            yield Batch(self.images[first:last], self.labels[first:last])
            start += last - first


def scoring_order(split: Split, seed: int) -> np.ndarray:
    """The training samples without validation: shards ordered by digest(seed, sha256), file order inside (design, section 2)."""
    shards = sorted(range(len(split.manifest.shards)), key=lambda n: digest([seed, split.manifest.shards[n].sha256]))
    rank = np.empty(len(shards), np.int64)
    rank[shards] = np.arange(len(shards))
    order = np.argsort(rank[split.shard_of], kind="stable")
    return order[~split.validation[order]]


def classes_missing(split: Split, order: np.ndarray, samples: int) -> list[str]:
    """Names of the classes of which the first `samples` positions of an order hold no image."""
    seen = set(split.label[order[:samples]].tolist())
    return [name for label, name in enumerate(split.manifest.classes) if label not in seen]


def validation_order(split: Split) -> np.ndarray:
    """The validation samples in file order."""
    return np.flatnonzero(split.validation)


class _Epoch(Dataset):
    def __init__(self, split, order, preprocess, seed, epoch, augment):
        self.parts = split, order, preprocess, seed, epoch, augment

    def __len__(self):
        return len(self.parts[1])

    def __getitem__(self, position):
        split, order, preprocess, seed, epoch, augment = self.parts
        i = int(order[position])
        try:
            return training_image(split, i, preprocess, seed, epoch, augment).numpy(), int(split.label[i])
        except (BadInput, Stopped) as error:
            return error  # raised where it arrives: a loader process would wrap it in its traceback


def _collate(samples):
    """(images, labels), or the first error; plain arrays, for which loader processes need no shared file descriptors."""
    error = next((sample for sample in samples if isinstance(sample, BaseException)), None)
    if error is not None:
        return error
    images, labels = zip(*samples)
    return np.stack(images), np.array(labels, np.int64)


def training_epoch(split: Split, samples, preprocess, *, seed, epoch, batch, start=0, augment="crop+flip", loaders=0):
    """Batches `start`, `start + 1`, ... of one epoch over the training samples without validation.

    `samples` (None = all) draws that many for the whole training, by seed; the order is new in every epoch and depends on
    nothing but (seed, epoch). A last batch of a single image is left out: batch norm has no variance of one.
    """
    chosen = np.flatnonzero(~split.validation)
    if samples is not None and samples < len(chosen):
        chosen = np.sort(draw("training samples", seed).permutation(chosen)[:samples])
    order = draw("training order", seed, epoch).permutation(chosen)
    data = _Epoch(split, order[start * batch :], preprocess, seed, epoch, augment)
    settings = {"batch_size": batch, "drop_last": len(data) % batch == 1, "collate_fn": _collate, "generator": torch.Generator()}
    with held():
        batches = iter(DataLoader(data, **settings, num_workers=loaders, worker_init_fn=end_only_by_parent))
    try:
        for found in batches:
            if isinstance(found, BaseException):
                raise found
            images, labels = (torch.from_numpy(array) for array in found)
            yield Batch(normalise(images, preprocess), labels)
    finally:
        del batches  # ends its processes now, not when somebody lets go of the error's traceback


def epoch_length(split: Split, samples, batch: int) -> tuple[int, int]:
    """(batches, images) of one training epoch."""
    images = int(np.count_nonzero(~split.validation))
    images = min(images, samples or images)
    images -= images % batch == 1
    return -(-images // batch), images
