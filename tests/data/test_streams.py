"""The scoring sequence and training epochs: exact, ordered, addressable, resumable, and the same for any loader count."""

import hashlib
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config.digests import digest
from pipeline.config.errors import BadInput, Stopped
from pipeline.data.images import evaluation_image, normalise
from pipeline.data.index import validation_samples
from pipeline.data.streams import ScoringStream, classes_missing, epoch_length, scoring_order, training_epoch, validation_order
from tests.conftest import ROOT
from tests.data.conftest import GREY, open_split

SHARED = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def joined(batches) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(batches)
    return torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches])


def epoch(split, **options) -> list:
    return list(training_epoch(split, options.pop("samples", None), GREY, **{"seed": 3, "epoch": 1, "batch": 16} | options))


def same(found, expected) -> bool:
    return len(found) == len(expected) and all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in zip(found, expected))


def images_of(split, picks) -> torch.Tensor:
    return normalise(torch.stack([evaluation_image(split, int(i), GREY) for i in picks]), GREY)


# Validation ---------------------------------------------------------------------------------------


def test_validation_is_a_tenth_with_the_smallest_key_digests(train):
    ranked = sorted(range(120), key=lambda i: hashlib.blake2b(train.key(i).encode(), digest_size=16).digest())
    assert sorted(ranked[:12]) == validation_order(train).tolist()


@pytest.mark.parametrize("classes, samples, expected", [
    (10, 120, 12), (10, 9, 0), (10, 50_000, 5_000), (10, 60_000, 5_000), (1000, 1_281_167, 10_000), (1000, 20_000, 2_000),
])
def test_validation_takes_five_or_ten_thousand_but_at_most_a_tenth(classes, samples, expected):
    assert validation_samples(SimpleNamespace(classes=range(classes), samples=samples)) == expected


def test_validation_calibration_and_training_never_meet_and_leave_nothing_out(train):
    validation, calibration = set(validation_order(train).tolist()), set(scoring_order(train, 5).tolist())
    assert not validation & calibration and validation | calibration == set(range(120))
    assert joined(epoch(train, augment="none"))[0].shape[0] == 108
    own, other = images_of(train, sorted(calibration)), joined(epoch(train, augment="none"))[0]
    assert sorted(map(digest_of, own)) == sorted(map(digest_of, other))


def digest_of(image: torch.Tensor) -> str:
    return hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()


def test_a_test_split_has_no_validation_whatever_the_manifest_calls_it(test_split, many, tmp_path):
    assert not test_split.validation.any()
    from pipeline.data import index, shards
    from pipeline.data.manifest import load_manifest

    manifest = load_manifest(many / "test/manifest.json")
    index.save_index(manifest, shards.verify_manifest(manifest, lambda event: None), tmp_path / "index.safetensors", training=True)
    assert index.Split.open(many / "test/manifest.json", tmp_path / "index.safetensors").validation.sum() == 3


# The scoring sequence -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_scoring_order_takes_shards_by_digest_of_seed_and_bytes_and_files_in_order(train, seed):
    order = scoring_order(train, seed)
    shards = [shard for n, shard in enumerate(train.shard_of[order]) if n == 0 or shard != train.shard_of[order][n - 1]]
    assert shards == sorted(range(6), key=lambda n: digest([seed, train.manifest.shards[n].sha256]))
    for shard in range(6):
        assert (np.diff(order[train.shard_of[order] == shard]) > 0).all()


def test_the_scoring_order_does_not_hang_on_where_or_how_shards_are_named(train, many, tmp_path):
    import shutil

    moved = open_split(shutil.copytree(many, tmp_path / "moved") / "train/manifest.json", tmp_path / "index.safetensors")
    assert scoring_order(moved, 4).tolist() == scoring_order(train, 4).tolist()


def test_seeds_draw_different_calibration_sets(train):
    assert len({tuple(scoring_order(train, seed)[:20]) for seed in range(8)}) >= 4


@SHARED
@given(cuts=st.lists(st.integers(1, 249), max_size=8), batch=st.integers(1, 40), seed=st.integers(0, 3))
def test_any_partition_into_blocks_gives_the_same_samples_in_the_same_order(train, cuts, batch, seed):
    order = scoring_order(train, seed)
    stream = ScoringStream(train, order, GREY, batch)
    bounds = [0, *sorted(set(cuts)), 250]
    images, labels = joined(found for start, stop in zip(bounds, bounds[1:]) for found in stream.block(start, stop))
    positions = [order[p % len(order)] for p in range(250)]
    assert torch.equal(labels, torch.from_numpy(train.label[positions]))
    assert torch.equal(images, images_of(train, positions))


@SHARED
@given(start=st.integers(0, 300), length=st.integers(1, 150), batch=st.integers(1, 40))
def test_a_batch_straddles_neither_two_shards_nor_the_wrap_and_is_never_empty(train, start, length, batch):
    order = scoring_order(train, 1)
    sizes = [len(found.labels) for found in ScoringStream(train, order, GREY, batch).block(start, start + length)]
    assert sum(sizes) == length and 0 < min(sizes) and max(sizes) <= batch
    position = start
    for n, size in enumerate(sizes):
        places = [p % len(order) for p in range(position, position + size)]
        assert places == sorted(places) and len(set(train.shard_of[order[places]])) == 1
        following = (position + size) % len(order)
        full = size == batch or following == 0 or train.shard_of[order[following]] != train.shard_of[order[places[-1]]]
        assert full or n == len(sizes) - 1  # a batch ends early only where it must
        position += size


def test_an_empty_block_has_no_batches_and_an_empty_stream_is_refused(train):
    assert list(ScoringStream(train, scoring_order(train, 0), GREY, 8).block(5, 5)) == []
    with pytest.raises(BadInput, match="leaves no sample"):
        ScoringStream(train, np.array([], np.int64), GREY, 8)


def test_classes_that_the_first_samples_lack_are_named(train):
    order = scoring_order(train, 0)
    assert classes_missing(train, order, 1) == [n for i, n in enumerate(train.manifest.classes) if i != train.label[order[0]]]
    assert classes_missing(train, order, len(order)) == []


# Training epochs ----------------------------------------------------------------------------------


@SHARED
@given(batch=st.integers(2, 60), samples=st.none() | st.integers(2, 130), number=st.integers(0, 3))
def test_an_epoch_has_exactly_its_length_and_no_image_twice(train, batch, samples, number):
    found = epoch(train, batch=batch, samples=samples, epoch=number, augment="none")
    batches, images = epoch_length(train, samples, batch)
    assert (len(found), sum(len(b.labels) for b in found)) == (batches, images)
    assert all(len(b.labels) == batch for b in found[:-1]) and all(len(b.labels) > 1 for b in found)
    wanted = min(samples or 108, 108)
    assert images == wanted - (wanted % batch == 1)
    assert len(set(map(digest_of, joined(found)[0]))) == images


def test_every_epoch_is_a_new_order_of_the_same_images_and_the_seed_another(train):
    orders = {n: tuple(map(digest_of, joined(epoch(train, epoch=n, augment="none"))[0])) for n in range(4)}
    assert len(set(orders.values())) == 4 and len({frozenset(order) for order in orders.values()}) == 1
    assert tuple(map(digest_of, joined(epoch(train, seed=4, augment="none"))[0])) != orders[1]
    assert same(epoch(train), epoch(train))


def test_a_smaller_training_set_is_drawn_once_by_seed_for_all_epochs(train):
    sets = [{digest_of(i) for i in joined(epoch(train, samples=40, epoch=n, seed=s, augment="none"))[0]} for s, n in ((1, 0), (1, 1), (2, 0))]
    assert sets[0] == sets[1] != sets[2] and len(sets[0]) == 40


@SHARED
@given(start=st.integers(0, 7), batch=st.sampled_from([16, 18, 107]))
def test_an_epoch_goes_on_from_any_batch_with_the_same_bytes(train, start, batch):
    assert same(epoch(train, batch=batch, start=start), epoch(train, batch=batch)[start:])


def test_loader_processes_give_the_same_batches_even_after_this_process_read_the_shards(train):
    expected = epoch(train)  # opens every shard here: a forked process shares their position in the file
    assert same(epoch(train, loaders=2), expected) and same(epoch(train, loaders=1, start=2), expected[2:])


def test_processes_that_share_an_open_shard_read_their_own_images(train):
    expected = [train.image_bytes(i).getvalue() for i in range(120)]

    def wrong(seed) -> int:
        picks = np.random.default_rng(seed).integers(0, 120, 20_000)
        return sum(train.image_bytes(int(i)).getvalue() != expected[i] for i in picks)

    if (child := os.fork()) == 0:
        os._exit(1 if wrong(1) else 0)
    assert wrong(2) == 0 and os.waitpid(child, 0)[1] == 0


def test_reading_an_epoch_leaves_torchs_own_randomness_alone(train):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    epoch(train), epoch(train, loaders=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("loaders", [0, 2])
def test_an_image_that_cannot_be_read_is_one_plain_error_from_any_loader(many, tmp_path, loaders):
    import shutil

    folder = shutil.copytree(many, tmp_path / "copied")
    split = open_split(folder / "train/manifest.json", tmp_path / "index.safetensors")
    split.size[:] = 20  # every image cut short
    with pytest.raises(BadInput) as caught:
        epoch(split, loaders=loaders)
    assert "cannot be decoded" in str(caught.value) and "\n" not in str(caught.value) and str(folder) in str(caught.value)
    shard = split.manifest.shards[0].path
    shard.write_bytes(shard.read_bytes()[:-1] + b"\1")
    again = open_split(many / "train/manifest.json", tmp_path / "other.safetensors")
    changed = type(again)(split.manifest, again.label, again.offset, again.size, again.validation, again.shard_of, again._key_bytes, again._key_ends)
    with pytest.raises(Stopped, match="sha256"):
        epoch(changed, loaders=loaders)


GROUP = """
import sys, time
from pathlib import Path
from pipeline.config.errors import Stopped
from pipeline.config.stopping import finish, raise_on_signals
from pipeline.data.index import Split
from pipeline.data.streams import training_epoch
from tests.data.conftest import GREY
split = Split.open(Path(sys.argv[1]), Path(sys.argv[2]))
raise_on_signals()
try:
    for number in range(10_000):
        for batch in training_epoch(split, None, GREY, seed=0, epoch=number, batch=8, loaders=2):
            print(number, flush=True)
except Stopped as error:
    print(error)
finally:
    finish()
"""


ABANDONED = """
import sys
from pathlib import Path
from pipeline.data.index import Split
from pipeline.data.streams import training_epoch
from tests.data.conftest import GREY
split = Split.open(Path(sys.argv[1]), Path(sys.argv[2]))
kept = [training_epoch(split, None, GREY, seed=0, epoch=0, batch=8, loaders=2) for _ in range(2)]
print([len(next(batches).labels) for batches in kept])
"""


def test_loaders_that_somebody_forgot_do_not_keep_a_process_from_ending(train, many, tmp_path):
    open_split(many / "train/manifest.json", tmp_path / "index.safetensors")
    command = [sys.executable, "-c", ABANDONED, many / "train/manifest.json", tmp_path / "index.safetensors"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[8, 8]\n", "")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_to_the_whole_process_group_stops_loaders_without_a_word(train, many, tmp_path, name):
    open_split(many / "train/manifest.json", tmp_path / "index.safetensors")
    command = [sys.executable, "-c", GROUP, many / "train/manifest.json", tmp_path / "index.safetensors"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
                               env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert process.stdout.readline() == "0\n"
    os.killpg(process.pid, getattr(signal, name))
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0 and f"stopped by {name}" in stdout and stderr == ""
