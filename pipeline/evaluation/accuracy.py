"""Accuracy over a stream of batches."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Correct:
    """Counts over `samples` images: label among the best 1 and the best 5 outputs."""

    samples: int
    top1: int
    top5: int


def top_correct(network: nn.Module, batches, device, observe=None, total: int | None = None) -> Correct:
    """Count right answers of `network` in eval mode; `batches` yield .images and .labels."""
    network.eval()
    samples = top1 = top5 = 0
    with torch.inference_mode():
        for batch in batches:
            labels = batch.labels.to(device)
            logits = network(batch.images.to(device))
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices
            right = best == labels[:, None]
            samples += len(labels)
            top1 += int(right[:, 0].sum())
            top5 += int(right.any(1).sum())
            if observe:
                observe({"event": "evaluated", "done": samples, "total": total, "unit_name": "images"})
    return Correct(samples, top1, top5)
