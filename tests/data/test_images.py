"""Encoded bytes to pixels: what converts, what is refused with shard and sample, what augmentation depends on."""

import io
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.config.errors import BadInput
from pipeline.data.images import Preprocess, decode, evaluation_image, normalise, training_image
from pipeline.data.tar import png

CHANGE = st.tuples(st.integers(0, 399), st.integers(0, 255))
GREY, COLOUR = Preprocess(1, 28, (0.5,), (0.25,)), Preprocess(3, 28, (0.5,) * 3, (0.25,) * 3)


def picture(mode: str, size=(28, 28)) -> Image.Image:
    """A ramp from dark to bright, left to right, in any mode."""
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, size[0]).astype(np.uint8), (size[1], 1)))
    if mode.startswith("I"):
        return Image.fromarray(np.asarray(ramp).astype(np.uint16) * 257)
    return ramp.convert("RGB").convert("P") if mode == "P" else ramp.convert("RGB").convert(mode)


def encoded(image: Image.Image, form="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


@dataclass
class Samples:
    """Encoded images in the place of an opened split."""

    data: list[bytes]
    manifest = SimpleNamespace(shards=[SimpleNamespace(sha256="0" * 64)])

    @property
    def shard_of(self):
        return np.zeros(len(self.data), int)

    def image_bytes(self, i):
        return io.BytesIO(self.data[i])

    def place(self, i):
        return f"shard s.tar: sample 'k/{i}'"

    def key(self, i):
        return f"k/{i}"


@pytest.mark.parametrize("mode, form", [
    ("L", "PNG"), ("RGB", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("1", "PNG"), ("I;16", "PNG"), ("CMYK", "JPEG"), ("L", "JPEG"),
    ("RGB", "JPEG"),
    ("YCbCr", "JPEG"), ("RGB", "WEBP"), ("RGBA", "WEBP"),
])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_legal_kind_of_image_becomes_grey_or_colour_of_the_same_brightness(mode, form, channels):
    options = {"quality": 95} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
    image = decode(Samples([encoded(picture(mode), form, **options)]), 0, channels)
    assert image.mode == {1: "L", 3: "RGB"}[channels]
    found, ramp = np.asarray(image.convert("L")).astype(float), np.asarray(picture("L")).astype(float)
    assert np.abs(found.mean(0) - ramp.mean(0)).max() < {"1": 140, "P": 20}.get(mode, 12)  # two tones, or a palette's, are dithered
    assert abs(found.mean() - ramp.mean()) < 6


def test_sixteen_bits_are_scaled_to_eight_and_not_clipped():
    found = np.asarray(decode(Samples([encoded(picture("I;16"))]), 0, 1))
    assert (found == np.asarray(picture("L"))).all() and len(np.unique(found)) == 28


@pytest.mark.parametrize("data, words", [
    (b"", "cannot identify"), (b"garbage" * 50, "cannot identify"), (png(picture("L"))[:60], "truncated"), (png(picture("L"))[:40], ""),
    (encoded(picture("RGB"), "JPEG")[:300], ""), (encoded(picture("RGB"), "GIF"), "cannot identify"),
    (encoded(picture("RGB"), "EPS"), "cannot identify"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "cannot identify"),
], ids=["empty", "garbage", "cut png", "cut header", "cut jpeg", "gif", "eps", "eps header"])
def test_an_image_that_cannot_be_decoded_is_named_with_shard_and_sample(data, words):
    with pytest.raises(BadInput) as caught:
        decode(Samples([png(picture("L")), data]), 1, 1)
    message = str(caught.value)
    assert message.startswith("shard s.tar: sample 'k/1': image cannot be decoded") and words in message and "make the shards again" in message


def test_an_image_of_too_many_pixels_is_refused_before_it_fills_the_memory():
    bomb = encoded(Image.new("1", (20_000, 10_000)))
    assert len(bomb) < 50_000
    with pytest.raises(BadInput, match="cannot be decoded"):
        decode(Samples([bomb]), 0, 1)


@settings(deadline=None, max_examples=150)
@given(form=st.sampled_from(["PNG", "JPEG", "WEBP"]), cut=st.integers(0, 400), changes=st.lists(CHANGE, max_size=5))
def test_any_damage_to_an_image_is_a_picture_or_a_bad_input(form, cut, changes):
    data = bytearray(encoded(picture("RGB", (16, 16)), form))
    for at, value in changes:
        data[at % len(data)] = value
    try:
        image = decode(Samples([bytes(data[: max(len(data) - cut, 0)])]), 0, 3)
    except BadInput as error:
        assert "s.tar" in str(error) and "'k/0'" in str(error)
        return
    assert image.mode == "RGB"


def test_an_image_of_the_right_size_is_taken_as_it_is():
    found = evaluation_image(Samples([png(picture("L"))]), 0, replace(GREY, crop_pct=0.875))
    assert found.dtype == torch.uint8 and (found.numpy()[0] == np.asarray(picture("L"))).all()


@pytest.mark.parametrize("size", [(56, 56), (90, 40), (28, 64), (7, 7), (1, 300), (64, 27)])
@pytest.mark.parametrize("preprocess", [GREY, COLOUR, replace(COLOUR, crop_pct=0.875, interpolation="bilinear")])
def test_any_size_is_resized_and_cropped_to_what_the_network_takes(size, preprocess):
    found = evaluation_image(Samples([png(picture("RGB", size))]), 0, preprocess)
    assert found.shape == (preprocess.in_chans, 28, 28) and found.dtype == torch.uint8
    middle = found[0, 14].float()
    assert (middle[1:] >= middle[:-1] - 2).all()  # still a ramp from left to right


@pytest.mark.parametrize("side", [28, 80])
def test_augmentation_depends_on_seed_epoch_shard_and_key_and_on_nothing_else(side):
    preprocess, samples = replace(COLOUR, img_size=side), Samples([png(picture("RGB", (side, side)))] * 40)

    def pictures(seed=1, epoch=2, picks=range(40), augment="crop+flip"):
        return torch.stack([training_image(samples, i, preprocess, seed, epoch, augment) for i in picks])

    first = pictures()
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(pictures(picks=reversed(range(40))).flip(0), first)
    assert not torch.equal(pictures(seed=3), first) and not torch.equal(pictures(epoch=3), first)
    assert len(torch.unique(first, dim=0)) > 5  # images of other keys are drawn anew
    left, right = side // 4, 3 * side // 4
    flipped = sum(bool(image[0, 14, left] > image[0, 14, right]) for image in first)
    assert 8 <= flipped <= 32 and not any(image[0, 14, left] > image[0, 14, right] for image in pictures(augment="crop"))
    assert torch.equal(pictures(augment="none")[7], evaluation_image(samples, 7, preprocess))


def test_small_images_are_shifted_by_at_most_two_pixels_over_black():
    samples = Samples([png(Image.new("L", (28, 28), 200))] * 30)
    for i in range(30):
        found = training_image(samples, i, GREY, 0, 0, "crop")[0].numpy()
        rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
        assert len(rows) >= 26 and len(columns) >= 26 and set(np.unique(found)) <= {0, 200}


def test_normalising_takes_the_networks_mean_and_deviation_per_channel():
    images = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    preprocess = Preprocess(3, 5, (0.1, 0.2, 0.3), (0.5, 0.25, 0.125))
    found = normalise(images, preprocess)
    assert found.dtype == torch.float32
    for channel, (mean, std) in enumerate(zip(preprocess.mean, preprocess.std)):
        assert torch.allclose(found[:, channel], (images[:, channel] / 255 - mean) / std, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 3, 224, 224), (5, 1, 224, 224), (400, 1, 28, 28), (1, 3, 9, 9)])
def test_normalising_a_few_images_at_a_time_gives_the_bytes_and_the_layout_of_the_whole_batch_at_once(shape):
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    preprocess = Preprocess(shape[1], shape[2], (0.485, 0.456, 0.406)[: shape[1]], (0.229, 0.224, 0.225)[: shape[1]])
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (preprocess.mean, preprocess.std))
    whole = ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
    found = normalise(images, preprocess)
    assert torch.equal(found, whole) and found.stride() == whole.stride()
