"""A user's loader: images and labels in memory, and what is refused by name."""

import pytest
import torch

from pipeline.config.errors import BadInput
from pipeline.data.loader import collect, refuse_beyond

X, Y = torch.randn(4, 1, 9, 9), torch.tensor([0, 1, 2, 3])


def test_images_and_labels_come_out_in_order():
    images, labels = collect(iter([(X, Y), [2 * X, [3, 2, 1, 0]]]), True, "loss")
    assert torch.equal(images, torch.cat([X, 2 * X])) and labels.tolist() == [0, 1, 2, 3, 3, 2, 1, 0] and labels.dtype == torch.int64
    assert collect([X, (X,), (X, {"any": "thing"})], False, "l1")[1] is None


@pytest.mark.parametrize("loader, line", [
    (None, "loader: is NoneType, which yields nothing; give a DataLoader"),
    ([], "yields no image"), ([X[:0]], "yields no image"),
    (["abc"], "yields str of 1; give tensors"), ([X.numpy()], "yields ndarray of 1; give tensors"),
    ([(X.numpy(), Y)], "yields ndarray as images"), ([X.to_sparse()], r"yields Tensor \(sparse\) as images"),
    ([{"image": X}], "yields dict of 1"), ([(X, Y, Y)], "yields tuple of 3"), ([torch.tensor(1.0)], r"a tensor of shape \(\); give batches"),
    ([X, X[..., :8]], r"images of \(1, 9, 8\) after \(1, 9, 9\); give images of one size"),
    ([X, X.expand(4, 3, 9, 9)], r"images of \(3, 9, 9\) after \(1, 9, 9\)"),
    ([X, X.double()], "images of torch.float64 after torch.float32; give images of one type"),
    ([X, X / 0], r"batch 1 \(from 0\) holds values that are not finite; mend the images"),
])  # fmt: skip
def test_images_that_cannot_be_used_are_named(loader, line):
    with pytest.raises(BadInput, match=line):
        collect(loader, False, "l1")


@pytest.mark.parametrize("labels, line", [
    ({"label": Y}, "labels cannot be read"), (None, r"selector 'loss' needs \(batch, label\) pairs"),
    (Y.float(), "labels are torch.float32 of shape"), (Y.to(torch.complex64), "labels are torch.complex64 of shape"),
    (Y[:2], r"of shape \(2,\) for 4 images"), (torch.eye(4).long(), r"of shape \(4, 4\) for 4 images"), (Y - 1, "one integer per image, from 0"),
])  # fmt: skip
def test_labels_that_cannot_be_used_are_named(labels, line):
    with pytest.raises(BadInput, match=line):
        collect([(X, labels)], True, "loss")


def test_labels_beyond_the_outputs_are_named():
    refuse_beyond(None, 1)
    refuse_beyond(Y, 4)
    with pytest.raises(BadInput, match="label 3 is beyond the network's 3 outputs"):
        refuse_beyond(Y, 3)
