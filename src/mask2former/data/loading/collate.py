"""Samples to padded batches; sizes are remembered, targets are padded alike.

Batches come dense, or packed for the way from a loader's process to the device, where :meth:`PackedBatch.unpack` gives
the same batch bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int, Int64, UInt8
from torch import Tensor, stack

from mask2former.data.loading.packed import PackedSample, expand, expand_ignored
from mask2former.structures.samples import Batch, ImageBatch, Sample, Target

__all__ = ["PackedBatch", "collate", "pack"]


def _padded_size(sizes: Sequence[tuple[int, int]], step: int) -> tuple[int, int]:
    return -(-max(height for height, _ in sizes) // step) * step, -(-max(width for _, width in sizes) // step) * step


def collate(samples: Sequence[Sample], size_divisibility: int = 32) -> Batch:
    """Pad bottom and right to the largest height and width, rounded up to ``size_divisibility``.

    Masks and ignored pixels are padded with False: that nothing is in the padding is known. All samples have the same
    number of frames; samples without a target get none.
    """
    sizes = tuple((sample.image.shape[2], sample.image.shape[3]) for sample in samples)
    height, width = _padded_size(sizes, size_divisibility)
    pads = [(0, width - w, 0, height - h) for h, w in sizes]
    pixels = stack([F.pad(sample.image, pad) for sample, pad in zip(samples, pads, strict=True)])
    targets = tuple(
        Target(
            sample.target.labels,
            F.pad(sample.target.masks, pad),
            None if sample.target.ignored is None else F.pad(sample.target.ignored, pad),
        )
        for sample, pad in zip(samples, pads, strict=True)
        if sample.target is not None
    )
    return Batch(ImageBatch(pixels, sizes), targets, tuple(sample.name for sample in samples))


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A :class:`Batch` before its masks are expanded.

    Two tensors, because each one that goes from process to process costs a file of shared memory; the rest is small.

    Attributes:
        pixels: padded, RGB in 0..255.
        planes: of all samples, unpadded, one after the other.
        sizes: height and width of every sample before padding.
        num_planes: of every sample.
        labels: class indices of the objects of every sample.
        layers: plane of every object, by sample.
        values: what the object is in its plane.
        ignored: what ignored pixels are in the first plane, by sample; None: there are none.
        names: of the samples.
    """

    pixels: UInt8[Tensor, "B T 3 H W"]
    planes: UInt8[Tensor, " V"] | Int[Tensor, " V"]
    sizes: tuple[tuple[int, int], ...]
    num_planes: tuple[int, ...]
    labels: tuple[Int64[np.ndarray, " _"], ...]
    layers: tuple[Sequence[int], ...]
    values: tuple[Sequence[int], ...]
    ignored: tuple[int | None, ...]
    names: tuple[str, ...]

    def to(self, device: Any) -> PackedBatch:
        return self._with(self.pixels.to(device, non_blocking=True), self.planes.to(device, non_blocking=True))

    def pin_memory(self) -> PackedBatch:
        return self._with(self.pixels.pin_memory(), self.planes.pin_memory())

    def _with(self, pixels: Tensor, planes: Tensor) -> PackedBatch:
        return replace(self, pixels=pixels, planes=planes)

    def unpack(self) -> Batch:
        """What :func:`collate` makes of the unpacked samples, on the device of the tensors."""
        _, frames, _, *padded = self.pixels.shape
        targets, start = [], 0
        for index, (height, width) in enumerate(self.sizes):
            stop = start + self.num_planes[index] * frames * height * width
            planes = self.planes[start:stop].view(-1, frames, height, width)
            masks = expand(planes, self.layers[index], self.values[index], (padded[0], padded[1]))
            ignored = expand_ignored(planes, self.ignored[index], (padded[0], padded[1]))
            targets.append(Target(torch.from_numpy(self.labels[index]).to(masks.device), masks, ignored))
            start = stop
        return Batch(ImageBatch(self.pixels, self.sizes), tuple(targets), self.names)


def pack(samples: Sequence[PackedSample], size_divisibility: int = 32) -> PackedBatch:
    """Images padded as by :func:`collate`, and the planes of all of them in one piece."""
    sizes = tuple((sample.image.shape[2], sample.image.shape[3]) for sample in samples)
    frames, padded = samples[0].image.shape[0], _padded_size(sizes, size_divisibility)
    pixels = torch.zeros((len(samples), frames, 3, *padded), dtype=torch.uint8)
    for canvas, sample, (height, width) in zip(pixels, samples, sizes, strict=True):
        canvas[..., :height, :width] = sample.image
    planes = [plane.ravel() for sample in samples for plane in sample.target.planes]
    return PackedBatch(
        pixels,
        torch.from_numpy(np.concatenate(planes)),  # the widest type of all
        sizes,
        tuple(len(sample.target.planes) for sample in samples),
        tuple(sample.target.labels for sample in samples),
        tuple(sample.target.layers for sample in samples),
        tuple(sample.target.values for sample in samples),
        tuple(sample.target.ignored for sample in samples),
        tuple(sample.name for sample in samples),
    )
