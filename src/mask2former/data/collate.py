"""Samples to padded batches; sizes are remembered, targets are padded alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import stack

from mask2former.structures.samples import Batch, ImageBatch, Sample, Target

__all__ = ["collate"]


def collate(samples: Sequence[Sample], size_divisibility: int = 32) -> Batch:
    """Pad bottom and right to the largest height and width, rounded up to ``size_divisibility``.

    Masks are padded with False. All samples have the same number of frames; samples without a target get none.
    """
    step = size_divisibility
    sizes = tuple((sample.image.shape[2], sample.image.shape[3]) for sample in samples)
    height = -(-max(h for h, _ in sizes) // step) * step
    width = -(-max(w for _, w in sizes) // step) * step
    pads = [(0, width - w, 0, height - h) for h, w in sizes]
    pixels = stack([F.pad(sample.image, pad) for sample, pad in zip(samples, pads, strict=True)])
    targets = tuple(
        Target(sample.target.labels, F.pad(sample.target.masks, pad))
        for sample, pad in zip(samples, pads, strict=True)
        if sample.target is not None
    )
    return Batch(ImageBatch(pixels, sizes), targets, tuple(sample.name for sample in samples))
