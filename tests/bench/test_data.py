"""`gfs bench data` on few images: its working is seen, never its speed."""

import numpy as np
import pytest
import torch

from pipeline.bench import data as bench_of
from pipeline.bench.data import PREPROCESS, bench_data, make_split, passed
from pipeline.bench.photos import SIZE, draw_photo, draw_photos
from pipeline.config.errors import Failed
from pipeline.data.images import decode
from pipeline.data.streams import training_epoch


def test_both_rows_are_there_and_scoring_gives_timms_own_pixels(holds_contract, monkeypatch):
    monkeypatch.setattr(bench_of, "ROUNDS", 2)
    monkeypatch.setattr(bench_of, "BATCH", 8)
    rows = bench_data(lambda line: None, 20)
    holds_contract(rows, ["scoring_stream", "training_stream"])
    scoring, training = (row.detail for row in rows)
    assert scoring["images"] == training["images"] == 20 and scoring["largest_difference_from_timm"] == 0
    assert scoring["pixels_digest"] != training["pixels_digest"]
    for row in rows:
        assert row.ours == row.detail["medians"]["ours"] and row.reference == row.detail["medians"]["timm"]
        assert all(len(values) == 2 for values in row.detail["rounds"].values())


def test_a_stream_that_gives_other_pixels_when_read_again_is_no_row():
    torch.manual_seed(0)
    with pytest.raises(Failed, match="other pixels when it was read again"):
        bench_of._in_turns({"ours": lambda: iter([(torch.rand(2, 3, 4, 4), torch.zeros(2))])})


def test_the_same_stream_has_one_digest_and_another_epoch_another(tmp_path):
    split = make_split(draw_photos(tmp_path / "photos", 16, 8), tmp_path / "shards")

    def epoch(number):
        batches = training_epoch(split, None, PREPROCESS, seed=0, epoch=number, batch=8)
        return passed((batch.images, batch.labels) for batch in batches)

    first, again, other = epoch(0), epoch(0), epoch(1)
    assert first.digest == again.digest != other.digest and first.images == other.images == 16
    assert torch.equal(first.first, again.first) and first.first.shape == (8, 3, 224, 224)


def test_photographs_hang_on_their_name_alone_and_are_of_the_stated_size():
    one, again, other = draw_photo("train", 3), draw_photo("train", 3), draw_photo("train", 4)
    assert one.tobytes() == again.tobytes() != other.tobytes() and one.size == SIZE
    pixels = np.asarray(one).astype(float)
    assert pixels.std() > 30 and np.abs(np.diff(pixels, axis=1)).mean() < 20  # varied, yet smooth: noise alone would differ by 34 or more


def test_every_photograph_is_in_the_shards_with_its_class(tmp_path):
    split = make_split(draw_photos(tmp_path / "photos", 16, 8), tmp_path / "shards")
    assert not split.validation.any() and sorted(split.label.tolist()) == sorted(i % 8 for i in range(16))
    for i in range(16):
        number = int(split.key(i).rpartition("-")[2])
        assert split.label[i] == number % 8
        given, kept = (np.asarray(image).astype(float) for image in (draw_photo("train", number), decode(split, i, 3)))
        assert np.abs(given - kept).mean() < 4  # but for what JPEG loses
