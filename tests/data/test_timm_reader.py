"""timm's own WebDataset reader opens the shards we make: same images, same labels, each once."""

import numpy as np
from timm.data import create_dataset

from pipeline.bench.data import write_info
from pipeline.data.images import decode


def read(folder, split, **options) -> list[tuple[bytes, int]]:
    """(pixels, label) of every sample, as timm's reader hands them on."""
    dataset = create_dataset("wds/ours", root=str(folder), split=split, **options)
    return [(np.asarray(image).tobytes(), label) for image, label in dataset]


def ours(split) -> list[tuple[bytes, int]]:
    return [(np.asarray(decode(split, i, 3)).tobytes(), int(split.label[i])) for i in range(split.manifest.samples)]


def test_timm_reads_our_shards_by_a_brace_url_in_our_order(many, train, test_split):
    last, count = len(train.manifest.shards) - 1, train.manifest.samples
    assert last == 5 and read(many / "train", f"train-{{00000..{last:05d}}}.tar|{count}") == ours(train)
    assert read(many / "test", "test-{00000..00001}.tar") == ours(test_split)


def test_timm_reads_our_shards_by_a_list_of_them_and_in_training_each_sample_once(many, train, tmp_path):
    folder = tmp_path / "listed"
    folder.mkdir()
    for shard in train.manifest.shards:
        (folder / shard.path.name).symlink_to(shard.path)
    write_info(train.manifest, folder)
    assert read(folder, "train") == ours(train)
    shuffled = read(folder, "train", is_training=True, batch_size=1)
    assert sorted(shuffled) == sorted(ours(train)) and shuffled != ours(train)
