"""Binary masks as arrays, complete or cropped to a box: run-length encoding, boxes, areas.

The only module that calls the mask functions of faster-coco-eval. It knows no classes, scores or results, and no
tensors, so that processes that only convert data need no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval.core import mask as coco_mask
from jaxtyping import Bool, Float64, Int64, Integer, Num, Shaped

from mask2former import limits
from mask2former.errors import UserError
from mask2former.text import quoted

__all__ = [
    "Patch",
    "areas",
    "boxes_of_ids",
    "boxes_xyxy",
    "check_dense_size",
    "check_outline",
    "compress",
    "decode",
    "decode_patch",
    "encode",
    "encode_patch",
    "encode_runs",
    "encoded_extent",
    "iou",
    "merged",
    "overlap",
    "polygons_to_patch",
    "tight",
    "typical_diameter",
]

_IDS_AT_ONCE = 1 << 20  # pixels of a map that are looked at together


class Patch(NamedTuple):
    """The part of a mask that can hold its pixels: everything outside is False."""

    top: int
    left: int
    mask: Bool[np.ndarray, "h w"]


def encode(masks: Bool[np.ndarray, "N H W"]) -> list[dict[str, Any]]:
    """Compressed COCO run-length encoding of each mask, ready for JSON.

    Returns:
        One ``{"size": [H, W], "counts": str}`` per mask; an empty list for no masks.
    """
    assert masks.ndim == 3, f"expected (N, H, W), got {masks.shape}"
    size = (masks.shape[1], masks.shape[2])
    return [encode_patch(tight(Patch(0, 0, mask)), size) for mask in masks]


def decode(rles: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Bool[np.ndarray, "N H W"]:
    """Masks of one or several run-length encodings; counts may be text, bytes or a plain list of run lengths.

    No encodings give an array of shape (0, 0, 0), since nothing says the size.

    Raises:
        UserError: something that is not a run-length encoding, or encodings of different sizes.
    """
    entries = [rles] if isinstance(rles, Mapping) else list(rles)
    if not entries:
        return np.zeros((0, 0, 0), dtype=bool)
    compressed = [_compressed(entry) for entry in entries]
    sizes = sorted({tuple(entry["size"]) for entry in compressed})
    if len(sizes) > 1:
        raise UserError(f"run-length encodings of one image differ in size (height, width): {sizes[0]}, {sizes[1]}")
    check_dense_size(len(compressed), sizes[0])
    masks = np.zeros((len(compressed), *sizes[0]), dtype=bool)
    for mask, entry in zip(masks, compressed, strict=True):
        top, left, patch = decode_patch(entry)
        mask[top : top + patch.shape[0], left : left + patch.shape[1]] = patch
    return masks


def check_dense_size(count: int, size: Sequence[int], what: str = "the masks") -> None:
    """Refuse this many dense masks of one size, (height, width) or (frames, height, width).

    Raises:
        UserError: they have more values than ``limits.MASK_VALUES``.
    """
    shape = "x".join(map(str, (count, *size)))
    advice = "cut the image into tiles or the clip into parts, or remove objects"
    limits.check_limit(f"{what} ({shape}) have too many values:", count * math.prod(size), limits.MASK_VALUES, advice)


def _compressed(rle: Mapping[str, Any]) -> dict[str, Any]:
    """The encoding with counts in the form that the library can decode."""
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        if min(height, width) < 1:
            raise ValueError("empty size")
        sides = f"a run-length encoding is {quoted([height, width])} and has too many pixels:"
        # The decoder counts pixels in 32 bits.
        limits.check_limit(sides, height * width, limits.IMAGE_PIXELS, "is it 'size': [height, width]?")
        if isinstance(counts, (str, bytes)):
            return {"size": [height, width], "counts": counts}
        most = 2 * height * width + 1
        limits.check_limit("a run-length encoding has too many runs:", len(counts), most, "is its 'size' right?")
        runs = [int(run) for run in counts]
        if min(runs, default=0) < 0 or sum(runs) != height * width:
            raise UserError(
                f"the runs of a run-length encoding must be 0 or more and add up to its {height}x{width} = "
                f"{height * width} pixels; these add up to {sum(runs)}"
            )
        return coco_mask.frPyObjects([{"size": [height, width], "counts": runs}], height, width)[0]
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise UserError(f"expected a run-length encoding with 'size' and 'counts', got {quoted(rle)}") from error


def compress(rle: Mapping[str, Any]) -> tuple[bytes, tuple[int, int]]:
    """The compressed counts of an encoding of either kind, and its (height, width).

    Raises:
        UserError: something that is not a run-length encoding.
    """
    compressed = _compressed(rle)
    counts = compressed["counts"]
    height, width = compressed["size"]
    try:
        return counts.encode("ascii") if isinstance(counts, str) else bytes(counts), (height, width)
    except UnicodeEncodeError as error:
        raise UserError(f"expected a run-length encoding with 'size' and 'counts', got {quoted(rle)}") from error


def _runs(counts: str | bytes) -> Int64[np.ndarray, " R"]:
    """The run lengths of compressed counts: first background, then foreground, and so on.

    Each number is the difference from the one before the last, in groups of five bits, the lowest first; a sixth bit
    says that more groups follow (COCO's mask format).
    """
    text = counts.encode("latin-1") if isinstance(counts, str) else bytes(counts)
    groups = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((groups & 32) == 0)
    if not groups.size or last.size == 0 or last[-1] != groups.size - 1 or groups.min() < 0 or groups.max() > 63:
        raise ValueError("the counts are malformed")
    first = np.concatenate([[0], last[:-1] + 1])
    positions = np.arange(groups.size) - np.repeat(first, last - first + 1)
    if positions.max() > 11:
        raise ValueError("the counts are malformed")
    numbers = np.add.reduceat((groups & 31) << (5 * positions), first)
    numbers -= np.where(groups[last] & 16, np.int64(1) << (5 * (last - first + 1)), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])  # the first number is no base of differences
    return numbers


def _foreground(rle: Mapping[str, Any]) -> tuple[Int64[np.ndarray, " R"], Int64[np.ndarray, " R"], int]:
    """Where the runs of an encoding start and end, counted down the columns, and the height of its mask."""
    compressed = _compressed(rle)
    height, width = compressed["size"]
    try:
        runs = _runs(compressed["counts"])
        # Each alone first: huge ones could add up to the size in 64 bits.
        if runs.min() < 0 or runs.max() > height * width or runs.sum() != height * width:
            raise ValueError("the runs do not add up to the size")
    except ValueError as error:
        raise UserError(f"a run-length encoding does not fit its size {compressed['size']}: {error}") from error
    ends = np.cumsum(runs)[1::2]
    starts = ends - runs[1::2]
    some = ends > starts
    return starts[some], ends[some], height


def encoded_extent(rle: Mapping[str, Any]) -> tuple[int, tuple[int, int, int, int]]:
    """Pixels of a run-length encoding and its tight box (x1, y1, x2, y2), without decoding it; zeros for no pixel.

    Raises:
        UserError: something that is not a run-length encoding.
    """
    starts, ends, height = _foreground(rle)
    if not starts.size:
        return 0, (0, 0, 0, 0)
    columns = starts // height
    left, right = int(columns[0]), int(ends[-1] - 1) // height + 1
    top, bottom = 0, height  # where a run goes on in the next column, it touches both rims
    if ((ends - 1) // height == columns).all():
        rows = columns * height
        top, bottom = int((starts - rows).min()), int((ends - rows).max())
    return int((ends - starts).sum()), (left, top, right, bottom)


def encode_patch(patch: Patch, size_hw: tuple[int, int]) -> dict[str, Any]:
    """Compressed COCO run-length encoding of a mask that is cut to a box; see :func:`encode`."""
    height, width = size_hw
    top, left, mask = patch
    rows, columns = mask.shape
    # Down the columns; a row of background below each ends its runs, unless they may go on in the next column.
    below = int(rows < height)
    flat = np.zeros((columns, rows + below), dtype=bool)
    flat[:, :rows] = mask.T
    values = np.concatenate([[False], flat.ravel(), [False]])
    edges = np.flatnonzero(values[1:] != values[:-1])
    column, row = np.divmod(edges, max(rows + below, 1))
    runs = np.diff((left + column) * height + top + row, prepend=0, append=height * width)
    return encode_runs(runs, size_hw)


def encode_runs(runs: Int64[np.ndarray, " R"], size_hw: tuple[int, int]) -> dict[str, Any]:
    """Compressed COCO run-length encoding of runs down the columns, which begin with background; see :func:`encode`."""
    return {"size": list(size_hw), "counts": _compressed_runs(runs[:-1] if runs[-1] == 0 else runs)}


def _compressed_runs(runs: Int64[np.ndarray, " R"]) -> str:
    """The inverse of :func:`_runs`."""
    numbers = runs.copy()
    numbers[3:] -= runs[1:-2]
    count = np.ones(len(numbers), dtype=np.int64)  # of groups of five bits, of which the highest is the sign
    for groups in range(1, 12):
        limit = np.int64(1) << (5 * groups - 1)
        beyond = (numbers >= limit) | (numbers < -limit)
        if not beyond.any():
            break
        count += beyond
    position = np.arange(count.max(initial=1))
    letters = (numbers[:, None] >> (5 * position)) & 31
    letters += 48 + 32 * (position < count[:, None] - 1)
    return letters[position < count[:, None]].astype(np.uint8).tobytes().decode("ascii")


def decode_patch(rle: Mapping[str, Any]) -> Patch:
    """The mask of a run-length encoding, cropped to a box around its pixels.

    Much faster than decoding the complete mask where objects are small compared with their image.

    Raises:
        UserError: something that is not a run-length encoding.
    """
    starts, ends, height = _foreground(rle)
    if not starts.size:
        return Patch(0, 0, np.zeros((0, 0), dtype=bool))
    first, last = starts // height, (ends - 1) // height  # columns
    rows, last_rows = starts - first * height, ends - 1 - last * height
    left, width = int(first[0]), int(last[-1]) + 1 - int(first[0])
    if (first == last).all():
        top, bottom = int(rows.min()), int(last_rows.max()) + 1
    else:  # some run goes on in the next column
        top, bottom = 0, height
    kept = bottom - top
    edges = np.zeros(2 * starts.size + 2, dtype=np.int64)  # 0, start, end, start, end, ..., all pixels of the patch
    edges[1:-1:2] = (first - left) * kept + rows - top
    edges[2:-1:2] = (last - left) * kept + last_rows + 1 - top
    edges[-1] = width * kept
    values = np.arange(edges.size - 1) % 2 == 1
    return Patch(top, left, np.repeat(values, np.diff(edges)).reshape(width, kept).T)


def polygons_to_patch(polygons: Sequence[Num[np.ndarray, "_P 2"]], size_hw: tuple[int, int]) -> Patch:
    """The union of polygons as COCO rasterises it, cut to its bounding box.

    Args:
        polygons: corners (x, y) in pixels, at least three each; they may leave the image.
        size_hw: height and width of the whole mask in pixels.

    Raises:
        UserError: a polygon with less than three corners, a corner that is NaN or farther than ``limits.CORNER``,
            or outlines that are together longer than ``limits.OUTLINE``.
    """
    if not polygons:
        return Patch(0, 0, np.zeros((0, 0), dtype=bool))
    farthest = [float(np.abs(polygon).max(initial=0)) for polygon in polygons]
    if min(map(len, polygons)) < 3 or not all(corner <= limits.CORNER for corner in farthest):  # NaN too
        raise UserError("a polygon needs at least three corners (x, y), in pixels")
    # Hardly ever needs looking at each edge.
    if sum(2 * far * len(polygon) for far, polygon in zip(farthest, polygons, strict=True)) > limits.OUTLINE:
        check_outline(sum(map(_outline, polygons)))
    height, width = size_hw
    rles: Any = coco_mask.frPyObjects([polygon.ravel().tolist() for polygon in polygons], height, width)
    patches = [decode_patch(rle) for rle in rles]
    return merged(patches)  # in arrays: the library takes milliseconds to merge encodings


def tight(patch: Patch) -> Patch:
    """The same pixels in the tightest box, as a view; ``Patch(0, 0, no pixel)`` if there are none."""
    top, left, mask = patch
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return Patch(0, 0, np.zeros((0, 0), dtype=bool))
    first, last = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[first:last].any(axis=0))
    start, stop = int(columns[0]), int(columns[-1]) + 1
    if (first, start, last, stop) == (0, 0, *mask.shape):
        return patch
    return Patch(top + first, left + start, mask[first:last, start:stop])


def merged(patches: Sequence[Patch]) -> Patch:
    """The union of several parts of one image."""
    filled = [patch for patch in patches if patch.mask.size]
    if len(filled) < 2:
        return filled[0] if filled else Patch(0, 0, np.zeros((0, 0), dtype=bool))
    top, left = min(patch.top for patch in filled), min(patch.left for patch in filled)
    bottom = max(patch.top + patch.mask.shape[0] for patch in filled)
    right = max(patch.left + patch.mask.shape[1] for patch in filled)
    union = np.zeros((bottom - top, right - left), dtype=bool)
    for row, column, mask in filled:
        union[row - top : row - top + mask.shape[0], column - left : column - left + mask.shape[1]] |= mask
    return Patch(top, left, union)


def overlap(first: Patch, second: Patch) -> int:
    """Pixels that two cropped masks of one image share."""
    top, left = max(first.top, second.top), max(first.left, second.left)
    bottom = min(patch.top + patch.mask.shape[0] for patch in (first, second))
    right = min(patch.left + patch.mask.shape[1] for patch in (first, second))
    if bottom <= top or right <= left:
        return 0
    parts = [
        patch.mask[top - patch.top : bottom - patch.top, left - patch.left : right - patch.left]
        for patch in (first, second)
    ]
    return int(np.count_nonzero(parts[0] & parts[1]))


def iou(first: Patch, second: Patch, off: int = 0) -> float:
    """Intersection over union of two cut masks of one image, ``off`` pixels taken off the union; 0 of nothing."""
    common = overlap(first, second)
    union = int(np.count_nonzero(first.mask)) + int(np.count_nonzero(second.mask)) - common - off
    return common / union if union else 0.0


def _outline(polygon: Num[np.ndarray, "P 2"]) -> float:
    """The length of an outline as the rasteriser walks it, pixel by pixel."""
    corners = np.asarray(polygon, dtype=np.float64)
    return float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())


def check_outline(length: float) -> None:
    """Refuse an outline of this many pixels, each of which takes time and memory, inside the image or not.

    Raises:
        UserError: it is longer than ``limits.OUTLINE``.
    """
    advice = "are the coordinates in pixels of the image?"
    limits.check_limit("the outline of an object has too many pixels:", round(length), limits.OUTLINE, advice)


def boxes_xyxy(masks: Bool[np.ndarray, "N H W"]) -> Float64[np.ndarray, "N 4"]:
    """Tight boxes (x1, y1, x2, y2) in pixels: x2 and y2 are one past the last pixel; an empty mask has zeros."""
    patches = [tight(Patch(0, 0, mask)) for mask in masks]
    boxes = [(left, top, left + part.shape[1], top + part.shape[0]) for top, left, part in patches]
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)


def boxes_of_ids(ids: Integer[np.ndarray, "H W"], wanted: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, "N 4"]:
    """Top, left, bottom and right of the pixels of some ids of a map, the last two excluded; zeros where there is none.

    Args:
        ids: of pixels, of any type that int64 holds.
        wanted: in any order, also several times.
    """
    height, width = ids.shape
    known, index_of = np.unique(wanted, return_inverse=True)
    first = np.full((len(known), 2), max(height, width), dtype=np.int64)
    last = np.full((len(known), 2), -1, dtype=np.int64)
    for top in range(0, height if len(known) and width else 0, step := max(1, _IDS_AT_ONCE // max(1, width))):
        rows = np.ascontiguousarray(ids[top : top + step])
        begins = np.ones(rows.shape, dtype=bool)
        np.not_equal(rows[:, 1:], rows[:, :-1], out=begins[:, 1:])
        starts = np.flatnonzero(begins)  # of runs of one id, which end with their row
        ends = np.append(starts[1:], rows.size) - 1
        found = rows.ravel()[starts]
        index = np.minimum(np.searchsorted(known, found), len(known) - 1)
        is_known = known[index] == found
        index, starts, ends = index[is_known], starts[is_known], ends[is_known]
        np.minimum.at(first[:, 0], index, top + starts // width)
        np.minimum.at(first[:, 1], index, starts % width)
        np.maximum.at(last[:, 0], index, top + starts // width)
        np.maximum.at(last[:, 1], index, ends % width)
    boxes = np.concatenate([first, last + 1], axis=1)
    boxes[last[:, 0] < 0] = 0
    return boxes[index_of]


def areas(masks: Bool[np.ndarray, "N H W"]) -> Int64[np.ndarray, " N"]:
    """Pixels of each mask."""
    return np.fromiter((np.count_nonzero(mask) for mask in masks), dtype=np.int64, count=len(masks))


def typical_diameter(areas: Shaped[np.ndarray, " N"]) -> float | None:
    """Diameter in pixels of a disc with the median area of objects; None where there are none of at least a pixel."""
    known = areas[areas > 0]
    return 2 * math.sqrt(float(np.median(known)) / math.pi) if known.size else None
