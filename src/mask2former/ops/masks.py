"""Binary masks as arrays: run-length encoding, boxes, areas, and the one way mask logits are resized.

The only module that calls the mask functions of faster-coco-eval. It knows no classes, scores or results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from faster_coco_eval.core import mask as coco_mask
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from mask2former.errors import RequestError

__all__ = ["areas", "boxes_xyxy", "decode", "encode", "resize_masks"]


def encode(masks: Bool[np.ndarray, "N H W"]) -> list[dict[str, Any]]:
    """Compressed COCO run-length encoding of each mask, ready for JSON.

    Returns:
        One ``{"size": [H, W], "counts": str}`` per mask; an empty list for no masks.
    """
    assert masks.ndim == 3, f"expected (N, H, W), got {masks.shape}"
    if not len(masks):
        return []
    # The encoder walks columns: (H, W, N) in Fortran order is (N, W, H) in C order.
    columns = np.ascontiguousarray(masks.transpose(0, 2, 1), dtype=np.uint8).transpose(2, 1, 0)
    encoded = []
    for rle in coco_mask.encode(columns):
        counts = rle["counts"]
        text = counts.decode("ascii") if isinstance(counts, bytes) else str(counts)
        encoded.append({"size": [int(side) for side in rle["size"]], "counts": text})
    return encoded


def decode(rles: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Bool[np.ndarray, "N H W"]:
    """Masks of one or several run-length encodings; counts may be text, bytes or a plain list of run lengths.

    No encodings give an array of shape (0, 0, 0), since nothing says the size.

    Raises:
        RequestError: something that is no run-length encoding, or encodings of different sizes.
    """
    entries = [rles] if isinstance(rles, Mapping) else list(rles)
    if not entries:
        return np.zeros((0, 0, 0), dtype=bool)
    compressed = [_compressed(entry) for entry in entries]
    sizes = sorted({tuple(entry["size"]) for entry in compressed})
    if len(sizes) > 1:
        raise RequestError(
            f"run-length encodings of one picture differ in size (height, width): {sizes[0]}, {sizes[1]}"
        )
    try:
        columns = coco_mask.decode(compressed)  # (H, W, N), Fortran order
    except (ValueError, RuntimeError) as error:
        raise RequestError(f"a run-length encoding does not fit its size {sizes[0]}: {error}") from error
    return np.ascontiguousarray(columns.transpose(2, 0, 1)).astype(bool)


def _compressed(rle: Mapping[str, Any]) -> dict[str, Any]:
    """The encoding with counts in the form that the library decodes."""
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        if min(height, width) < 1:
            raise ValueError("empty size")
        if isinstance(counts, (str, bytes)):
            return {"size": [height, width], "counts": counts}
        runs = [int(run) for run in counts]
        if min(runs, default=0) < 0 or sum(runs) != height * width:
            raise ValueError("the runs do not add up to the size")
        return coco_mask.frPyObjects([{"size": [height, width], "counts": runs}], height, width)[0]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RequestError(f"expected a run-length encoding with 'size' and 'counts', got {rle!r:.80}") from error


def boxes_xyxy(masks: Bool[np.ndarray, "N H W"]) -> Float64[np.ndarray, "N 4"]:
    """Tight boxes (x1, y1, x2, y2) in pixels: x2 and y2 are one past the last pixel; an empty mask has zeros."""
    count, _height, _width = masks.shape
    boxes = np.zeros((count, 4), dtype=np.float64)
    for index, mask in enumerate(masks):
        rows = np.flatnonzero(mask.any(axis=1))
        if rows.size:
            columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
            boxes[index] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def areas(masks: Bool[np.ndarray, "N H W"]) -> Int64[np.ndarray, " N"]:
    """Pixels of each mask."""
    return np.fromiter((np.count_nonzero(mask) for mask in masks), dtype=np.int64, count=len(masks))


def resize_masks(logits: Float[Tensor, "*batch h w"], size_hw: tuple[int, int]) -> Float[Tensor, "*batch H W"]:
    """Mask logits (or class scores) at another size: bilinear, ``align_corners=False``, at least float32.

    Half precision is promoted, because thresholds at 0 and 0.5 flip with it; float64 stays float64.
    """
    promoted = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if tuple(promoted.shape[-2:]) == tuple(size_hw):
        return promoted
    leading = promoted.shape[:-2]
    planes = promoted.reshape(1, -1, *promoted.shape[-2:])  # (1, batch, h, w)
    if planes.shape[1] == 0:  # interpolate refuses an empty batch
        return promoted.new_zeros((*leading, *size_hw))
    resized = F.interpolate(planes, size=size_hw, mode="bilinear", align_corners=False)
    return resized.reshape(*leading, *size_hw)
