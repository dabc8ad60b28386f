"""Binary masks from strips of logits, sparse from the start."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mask2former.ops.masks import Patch, merged, tight
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.postprocessing.resampling import Size

__all__ = ["MaskBands"]

_BAND_PIXELS = 2**28  # bytes of dense binary masks in memory at a time; 200 of 1024x1024, more than most images need


class MaskBands:
    """Binary masks from strips of logits, cropped to their boxes band by band, so they are never dense all at once.

    A band is as many rows as fit into a buffer, usually all rows of an image, since many small strips are slower to
    crop.
    """

    def __init__(self, count: int, size_hw: Size, device: torch.device) -> None:
        self.size_hw = size_hw
        height, width = size_hw
        rows = min(height, max(1, _BAND_PIXELS // max(1, count * width)))
        self._buffer = torch.empty((count, rows, width), dtype=torch.bool, device=device)
        self._start, self._filled = 0, 0  # first row of the band in the image, number of its rows so far
        self._patches: list[list[Patch]] = [[] for _ in range(count)]

    def add(self, rows: slice, logits: Float[Tensor, "rows C W"]) -> None:
        """Add the next rows."""
        assert rows.start == self._start + self._filled
        while len(logits):
            room = self._buffer.shape[1] - self._filled
            part, logits = logits[:room], logits[room:]
            torch.gt(part.transpose(0, 1), 0, out=self._buffer[:, self._filled : self._filled + len(part)])
            self._filled += len(part)
            if self._filled == self._buffer.shape[1]:
                self._cut()

    def masks(self) -> SparseMasks:
        """All masks, once every row was added."""
        self._cut()
        return SparseMasks(map(merged, self._patches), self.size_hw)

    def _cut(self) -> None:
        for patches, mask in zip(self._patches, self._buffer[:, : self._filled].cpu().numpy(), strict=True):
            top, left, part = tight(Patch(self._start, 0, mask))
            if part.size:
                patches.append(Patch(top, left, part.copy()))  # a copy, since the buffer is reused
        self._start, self._filled = self._start + self._filled, 0
