"""Collates samples into padded batches; original sizes are kept, and targets are padded like images.

A batch is packed for its way from a loader process to the device, where :meth:`PackedBatch.unpack` creates its masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Int64, Num, UInt8
from torch import Tensor

from mask2former.data.packed import PackedSample, expand, expand_ignored, pack_sample
from mask2former.structures.samples import Batch, ImageBatch, Sample, Target

__all__ = ["PackedBatch", "pack"]


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A :class:`Batch` before its masks are expanded.

    Two tensors, because each one that is passed between processes costs a shared-memory file; the rest is small.

    Attributes:
        pixels: padded, RGB in 0..255.
        planes: of all samples, unpadded, one after the other.
        sizes: height and width of every sample before padding.
        num_planes: number of planes of every sample.
        labels: class indices of the objects of every sample.
        layers: plane of every object, by sample.
        values: the value of the object in its plane.
        ignored: value of ignored pixels in the first plane, by sample; None: there are none.
        names: of the samples.
    """

    pixels: Num[Tensor, "B T C H W"]
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
        """The batch with dense masks, padded as the images are, on the device of the tensors."""
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


def pack(samples: Sequence[Sample | PackedSample], size_divisibility: int = 32) -> PackedBatch:
    """Samples padded at the bottom and right to the largest height and width, rounded up to ``size_divisibility``.

    Masks and ignored pixels are padded with False: the padding is known to be empty. All samples have a target and the
    same number of frames; :meth:`PackedBatch.unpack` returns what the model and the criterion expect.
    """
    ready = [sample if isinstance(sample, PackedSample) else pack_sample(sample) for sample in samples]
    sizes = tuple((sample.image.shape[2], sample.image.shape[3]) for sample in ready)
    frames = ready[0].image.shape[0]
    height, width = (-(-max(lengths) // size_divisibility) * size_divisibility for lengths in zip(*sizes, strict=True))
    pixels = torch.zeros((len(ready), frames, ready[0].image.shape[1], height, width), dtype=ready[0].image.dtype)
    for canvas, sample, (rows, columns) in zip(pixels, ready, sizes, strict=True):
        assert sample.image.shape[1] == pixels.shape[2], (
            "all samples of a data set must have the same number of channels"
        )
        canvas[..., :rows, :columns] = sample.image
    planes = [plane.ravel() for sample in ready for plane in sample.target.planes]
    return PackedBatch(
        pixels,
        torch.from_numpy(np.concatenate(planes)),  # the widest type of all
        sizes,
        tuple(len(sample.target.planes) for sample in ready),
        tuple(sample.target.labels for sample in ready),
        tuple(sample.target.layers for sample in ready),
        tuple(sample.target.values for sample in ready),
        tuple(sample.target.ignored for sample in ready),
        tuple(sample.name for sample in ready),
    )
