"""Canonical JSON, digests, and randomness that comes from names instead of from state (design, section 2)."""

import hashlib
import json

import numpy as np


def canonical(value) -> bytes:
    """Canonical JSON: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def digest(value) -> str:
    """32 hex digits that name this JSON value."""
    return hashlib.blake2b(canonical(value), digest_size=16).hexdigest()


def draw(*name) -> np.random.Generator:
    """A random generator that depends on nothing but `name` (strings and integers)."""
    key = hashlib.blake2b(canonical(list(name)), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def number(*name) -> int:
    """A 63-bit integer that depends on nothing but `name`."""
    return int.from_bytes(hashlib.blake2b(canonical(list(name)), digest_size=8).digest(), "little") >> 1


def sha256_of(path) -> str:
    """sha256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
