"""A user's loader in memory: its images and labels, iterated once; what cannot be used is refused by name."""

import torch

from pipeline.config.errors import BadInput

KEPT_LIMIT = 4 * 2**30  # bytes of calibration batches that are held in memory


def collect(loader, with_labels: bool, selector: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """All images and, where they are asked for, labels as int64; the loader is iterated exactly once."""
    images, labels, held = [], [], 0
    for item in _iterated(loader):
        parts = item if isinstance(item, (tuple, list)) else (item,)
        if len(parts) not in (1, 2) or not isinstance(parts[0], torch.Tensor) or parts[0].is_sparse:
            raise BadInput(f"loader: yields {_told(item, parts)}; give tensors of images, or (images, labels) pairs")
        batch = parts[0]
        if batch.ndim < 2:
            raise BadInput(f"loader: yields a tensor of shape {tuple(batch.shape)}; give batches of images, (images, channels, height, width)")
        held += batch.numel() * batch.element_size()
        if held > KEPT_LIMIT:
            raise BadInput(f"loader: its batches take more than {KEPT_LIMIT / 2**30:g} GiB, which are held in memory; give fewer calibration images")
        _refuse_another(batch, images)
        if not batch.isfinite().all():
            raise BadInput(f"loader: batch {len(images)} (from 0) holds values that are not finite; mend the images")
        images.append(batch.detach().cpu())
        labels += [_labels(parts, len(batch), selector)] if with_labels else []
    if not sum(map(len, images)):
        raise BadInput("loader: yields no image; give calibration images")
    return torch.cat(images), torch.cat(labels) if with_labels else None


def _iterated(loader):
    try:
        return iter(loader)
    except TypeError:
        raise BadInput(f"loader: is {type(loader).__name__}, which yields nothing; give a DataLoader or a list of batches") from None


def _told(item, parts) -> str:
    if len(parts) == 2 or isinstance(item, torch.Tensor):
        return f"{type(parts[0]).__name__}{' (sparse)' if isinstance(parts[0], torch.Tensor) else ''} as images"
    return f"{type(item).__name__} of {len(parts)}"


def _refuse_another(batch: torch.Tensor, before: list[torch.Tensor]) -> None:
    """Refuse images of another size or type than the batches before."""
    if not before:
        return
    if batch.shape[1:] != before[0].shape[1:]:
        raise BadInput(f"loader: yields images of {tuple(batch.shape[1:])} after {tuple(before[0].shape[1:])}; give images of one size")
    if batch.dtype != before[0].dtype:
        raise BadInput(f"loader: yields images of {batch.dtype} after {before[0].dtype}; give images of one type")


def _labels(parts, count: int, selector: str) -> torch.Tensor:
    """The labels of one batch as int64 (count,)."""
    if len(parts) == 1 or parts[1] is None:
        raise BadInput(f"loader: selector {selector!r} needs (batch, label) pairs; give labels, or take selector 'reconstruction'")
    try:
        label = torch.as_tensor(parts[1]).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"loader: labels cannot be read ({error}); give one integer per image") from error
    if label.is_floating_point() or label.is_complex() or label.shape != (count,) or (count and int(label.min()) < 0):
        raise BadInput(f"loader: labels are {label.dtype} of shape {tuple(label.shape)} for {count} images; give one integer per image, from 0")
    return label.long()


def refuse_beyond(labels: torch.Tensor | None, classes: int) -> None:
    """Refuse labels beyond the network's outputs."""
    if labels is not None and int(labels.max()) >= classes:
        raise BadInput(f"loader: label {int(labels.max())} is beyond the network's {classes} outputs; mend the labels")
