"""The index of one split: where every sample lies, its label, and whether it belongs to validation."""

import hashlib
import io
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from pipeline.config.digests import sha256_of
from pipeline.config.errors import Stopped
from pipeline.data.manifest import Manifest, load_manifest
from pipeline.tensorfile import save_tensors

VALIDATION_SAMPLES = {"imagenet": 10_000}
VALIDATION_DEFAULT, VALIDATION_SHARE = 5_000, 10
OPEN_FILES = 64


def validation_samples(manifest: Manifest) -> int:
    """How many training samples validation takes: 5,000 (1,000 classes: 10,000), at most a tenth."""
    wanted = VALIDATION_SAMPLES["imagenet"] if len(manifest.classes) >= 1000 else VALIDATION_DEFAULT
    return min(wanted, manifest.samples // VALIDATION_SHARE)


def save_index(manifest: Manifest, scanned, path: Path, training: bool | None = None) -> None:
    """Write the index of a verified split; validation are the training samples with the smallest key digests.

    `training` (None = as the manifest calls its split): whether the run trains on it, whatever a foreign manifest calls it.
    """
    samples = [sample for shard in scanned for sample in shard]
    keys = [sample.key.encode(errors="surrogateescape") for sample in samples]  # a tar may hold names that are no UTF-8
    digests = [hashlib.blake2b(key, digest_size=16).digest() for key in keys]
    validation = np.zeros(len(samples), np.uint8)
    if manifest.split == "train" if training is None else training:
        validation[sorted(range(len(samples)), key=digests.__getitem__)[: validation_samples(manifest)]] = 1
    arrays = {
        "label": np.array([sample.label for sample in samples], np.int64),
        "offset": np.array([sample.offset for sample in samples], np.int64),
        "size": np.array([sample.size for sample in samples], np.int64),
        "validation": validation,
        "key_bytes": np.frombuffer(bytearray(b"".join(keys)), np.uint8),
        "key_ends": np.cumsum([len(key) for key in keys], dtype=np.int64),
    }
    save_tensors(path, {name: torch.from_numpy(array) for name, array in arrays.items()})


@dataclass
class Split:
    """A verified split, opened for reading; sample i is its i-th in manifest order."""

    manifest: Manifest
    label: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    validation: np.ndarray
    shard_of: np.ndarray
    _key_bytes: np.ndarray
    _key_ends: np.ndarray
    _files: dict = field(default_factory=dict)  # {shard: open file}, at most OPEN_FILES
    _verified: set = field(default_factory=set)  # shards whose sha256 was compared, here or before a loader was forked

    @classmethod
    def open(cls, manifest_path: Path, index_path: Path, places=None) -> "Split":
        """`places`: where the shards lie now, if they were moved since the manifest was written."""
        manifest, arrays = load_manifest(manifest_path), load_file(index_path)
        if places:
            manifest = replace(manifest, shards=tuple(replace(shard, path=path) for shard, path in zip(manifest.shards, places, strict=True)))
        shard_of = np.repeat(np.arange(len(manifest.shards)), [shard.samples for shard in manifest.shards])
        validation = arrays["validation"].astype(bool)
        return cls(manifest, arrays["label"], arrays["offset"], arrays["size"], validation, shard_of, arrays["key_bytes"], arrays["key_ends"])

    def key(self, i: int) -> str:
        """The key of sample i."""
        start = self._key_ends[i - 1] if i else 0
        return bytes(self._key_bytes[start : self._key_ends[i]]).decode(errors="surrogateescape")

    def place(self, i: int) -> str:
        """Shard and sample, for an error message."""
        return f"shard {self.manifest.shards[self.shard_of[i]].path}: sample {self.key(i)!r}"

    def image_bytes(self, i: int) -> io.BytesIO:
        """The encoded image of sample i. Raises Stopped if the shard's bytes changed since it was verified."""
        file = self._file(int(self.shard_of[i]))
        return io.BytesIO(os.pread(file.fileno(), int(self.size[i]), int(self.offset[i])))  # a forked loader shares the file's position

    def _file(self, number: int):
        """The open shard; its sha256 is compared once per process, at its first use."""
        if number not in self._files:
            shard = self.manifest.shards[number]
            try:
                if number not in self._verified:
                    self._verify(shard)
                    self._verified.add(number)
                if len(self._files) >= OPEN_FILES:
                    self._files.pop(next(iter(self._files))).close()
                self._files[number] = open(shard.path, "rb")
            except OSError as error:  # it was there when the stage data verified it
                raise Stopped(f"shard {shard.path}: cannot be read any more ({error.strerror}); put it back and run the same command") from error
        return self._files[number]

    @staticmethod
    def _verify(shard) -> None:
        if (found := sha256_of(shard.path)) != shard.sha256:
            raise Stopped(
                f"shard {shard.path}: sha256 is {found[:12]}..., it was {shard.sha256[:12]}... when it was verified; "
                "put the verified bytes back and run the same command"
            )

    def __getstate__(self):
        return self.__dict__ | {"_files": {}}  # a loader process opens its own files
