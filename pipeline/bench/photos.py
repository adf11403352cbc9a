"""Photographs drawn by name for a bench: of the usual size of ImageNet's, smooth with fine detail, so that JPEG has its usual work."""

from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.config.digests import draw

SIZE = (500, 375)  # pixels, width and height
GRAINS = ((3, 60.0), (8, 35.0), (25, 22.0), (80, 14.0), (240, 8.0))  # points across, and by how much they differ
QUALITY = 90


def draw_photos(root: Path, images: int, classes: int) -> Path:
    """root/train with `images` JPEGs and root/test with one of each class, a folder for each class; the root."""
    for split, number in (("train", images), ("test", classes)):
        for i in range(number):
            path = Path(root) / split / f"class-{i % classes:02d}" / f"{split}-{i:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_photo(split, i).save(path, quality=QUALITY)
    return Path(root)


def draw_photo(split: str, number: int) -> Image.Image:
    """One photograph; it hangs on its name alone."""
    random = draw("bench photo", split, number)
    light = 128 + sum(_field(random, *grain) for grain in GRAINS)
    channels = [light + _field(random, 5, 20.0) for _ in range(3)]
    return Image.fromarray(np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8))


def _field(random: np.random.Generator, points: int, spread: float) -> np.ndarray:
    small = random.normal(0, spread, (points * SIZE[1] // SIZE[0] + 1, points)).astype(np.float32)
    return np.asarray(Image.fromarray(small).resize(SIZE, Image.Resampling.BICUBIC))
