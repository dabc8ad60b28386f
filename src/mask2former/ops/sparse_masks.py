"""Binary masks of one image as boxes and the bits inside them: the form of results and ground truth.

A thousand small objects in a large image take megabytes this way, and gigabytes as full-size masks. Saving, drawing,
measuring and joining work on the boxes, which are unpacked one after the other to a byte per pixel; the dense array is
created on request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64, Integer

from mask2former.ops.box_index import Box
from mask2former.ops.masks import Patch, boxes_of_ids, encode_patch, overlap, tight

__all__ = ["AnyMasks", "AnyTracks", "PackedPatch", "SparseMasks", "common_pixels", "frames_of", "pairwise_iou"]

_FEW_IDS = 10  # below which the boxes of ids are not worth their search


class PackedPatch(NamedTuple):
    """A mask cropped to its tight box, with one bit for each of its pixels, row by row.

    Attributes:
        top: first row of the box in pixels.
        left: first column of the box in pixels.
        height: of the box; 0 where the mask is empty.
        width: the same.
        bits: its pixels, eight in a byte.
    """

    top: int
    left: int
    height: int
    width: int
    bits: bytes

    @classmethod
    def of(cls, patch: Patch) -> PackedPatch:
        """Of a part of a mask that holds all its pixels."""
        top, left, mask = tight(patch)
        height, width = mask.shape
        return cls(top, left, height, width, np.packbits(mask).tobytes())

    def unpacked(self) -> Patch:
        """Its pixels as an array of its own."""
        size = self.height * self.width
        bits = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=size) if size else np.zeros(0, np.uint8)
        return Patch(self.top, self.left, bits.view(bool).reshape(self.height, self.width))

    def moved(self, down: int, right: int) -> PackedPatch:
        """The same pixels elsewhere, which are not copied."""
        return PackedPatch(self.top + down, self.left + right, self.height, self.width, self.bits)

    @property
    def box(self) -> Box:
        """Top, left, bottom and right in pixels; the last two are excluded."""
        return self.top, self.left, self.top + self.height, self.left + self.width

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int.from_bytes(self.bits, "little").bit_count()


class SparseMasks:
    """Binary masks of one image, each cut to its tight box. Nothing changes it once it is made.

    Args:
        patches: a part of each mask that holds all its pixels, within the image; it is cut to its tight box.
            Packed ones are taken as they are.
        size_hw: height and width of the image in pixels.

    Attributes:
        packed: the masks, which parts and other results share.
        size_hw: as given.
    """

    __slots__ = ("packed", "size_hw")

    def __init__(self, patches: Iterable[Patch | PackedPatch], size_hw: tuple[int, int]) -> None:
        self.size_hw = (int(size_hw[0]), int(size_hw[1]))
        self.packed = tuple(patch if isinstance(patch, PackedPatch) else PackedPatch.of(patch) for patch in patches)

    @classmethod
    def of(cls, masks: AnyMasks) -> SparseMasks:
        """The same masks without what is outside their boxes; what is sparse already is returned as it is."""
        if isinstance(masks, SparseMasks):
            return masks
        assert (masks.ndim, masks.dtype) == (3, bool), (masks.shape, masks.dtype)
        return cls((Patch(0, 0, mask) for mask in masks), (masks.shape[1], masks.shape[2]))

    @classmethod
    def of_ids(cls, ids: Integer[np.ndarray, "H W"], wanted: Iterable[int]) -> SparseMasks:
        """The pixels of some ids of an id map or label map, in the order of the ids.

        The map is read once for the boxes of all, and then inside them. A few ids are compared with all of it, which is
        faster.
        """
        numbers = list(wanted)
        if len(numbers) <= _FEW_IDS or ids.dtype == np.uint64:  # which no signed type holds
            return cls((Patch(0, 0, ids == number) for number in numbers), (ids.shape[0], ids.shape[1]))
        boxes = boxes_of_ids(ids, np.array(numbers, dtype=np.int64)).tolist()
        patches = (
            Patch(top, left, ids[top:bottom, left:right] == number)
            for number, (top, left, bottom, right) in zip(numbers, boxes, strict=True)
        )
        return cls(patches, (ids.shape[0], ids.shape[1]))

    def __len__(self) -> int:
        return len(self.packed)

    def __iter__(self) -> Iterator[Patch]:
        """The masks, each as its top left corner and the pixels of its tight box; an empty one has none."""
        return (packed.unpacked() for packed in self.packed)

    def __getitem__(self, index: int) -> Patch:
        return self.packed[index].unpacked()

    def take(self, rows: slice | Sequence[int] | Int[np.ndarray, " n"] | Bool[np.ndarray, " N"]) -> SparseMasks:
        """Some of the masks: a slice, indices, or a flag for each."""
        chosen = np.arange(len(self))[rows] if len(self) or isinstance(rows, slice) else ()
        return SparseMasks((self.packed[row] for row in chosen), self.size_hw)

    @property
    def shape(self) -> tuple[int, int, int]:
        """That of the dense array: (N, H, W)."""
        return (len(self), *self.size_hw)

    @property
    def boxes(self) -> Float64[np.ndarray, "N 4"]:
        """Tight boxes (x1, y1, x2, y2) in pixels; x2 and y2 are one past the last pixel; zeros for an empty mask."""
        rows = [(left, top, left + width, top + height) for top, left, height, width, _ in self.packed]
        return np.asarray(rows, dtype=np.float64).reshape(-1, 4)

    @property
    def areas(self) -> Int64[np.ndarray, " N"]:
        """Pixels of each mask."""
        return np.fromiter((packed.area for packed in self.packed), dtype=np.int64, count=len(self))

    @property
    def centroids(self) -> Float64[np.ndarray, "N 2"]:
        """Mean x and y of the pixels of each mask, in the coordinates of boxes; NaN for an empty mask.

        The centre of the top left pixel is (0.5, 0.5).
        """
        rows = np.full((len(self), 2), np.nan)
        for row, (top, left, mask) in zip(rows, self, strict=True):
            for axis, start in enumerate((left, top)):
                pixels = np.count_nonzero(mask, axis=axis)
                if pixels.size:
                    row[axis] = start + np.average(np.arange(len(pixels)) + 0.5, weights=pixels)
        return rows

    def dense(self) -> Bool[np.ndarray, "N H W"]:
        """The masks as one array, which is large."""
        masks = np.zeros(self.shape, dtype=bool)
        for plane, (top, left, mask) in zip(masks, self, strict=True):
            plane[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
        return masks

    def encode(self) -> list[dict[str, Any]]:
        """Compressed COCO run-length encoding of each mask, ready for JSON."""
        return [encode_patch(patch, self.size_hw) for patch in self]

    def numbered(self) -> Int[np.ndarray, "H W"]:
        """A label map in which mask ``n`` is ``n + 1`` and 0 is background; where masks overlap the first one stays."""
        labels = np.zeros(self.size_hw, dtype=np.int32)
        for number in range(len(self), 0, -1):  # the first is painted last, over the others
            top, left, mask = self[number - 1]
            part = labels[top : top + mask.shape[0], left : left + mask.shape[1]]
            np.copyto(part, np.int32(number), where=mask)
        return labels

    def thinned(self, step: int) -> SparseMasks:
        """Every ``step``-th pixel of the image along both axes."""
        patches = []
        for top, left, mask in self:
            part = mask[-top % step :: step, -left % step :: step]
            patches.append(Patch(-(-top // step), -(-left // step), part))
        return SparseMasks(patches, (-(-self.size_hw[0] // step), -(-self.size_hw[1] // step)))


AnyMasks = SparseMasks | Bool[np.ndarray, "N H W"]
AnyTracks = Sequence[SparseMasks] | Bool[np.ndarray, "N T H W"]  # sparse: the masks of all tracks in each frame


def frames_of(tracks: AnyTracks) -> tuple[SparseMasks, ...]:
    """The masks of all tracks, frame by frame; what is sparse already is not copied."""
    if isinstance(tracks, np.ndarray):
        assert tracks.ndim == 4, tracks.shape
        return tuple(SparseMasks.of(tracks[:, index]) for index in range(tracks.shape[1]))
    assert len({masks.shape for masks in tracks}) <= 1, [masks.shape for masks in tracks]
    return tuple(tracks)


def common_pixels(one: SparseMasks, other: SparseMasks) -> Int64[np.ndarray, "N M"]:
    """How many pixels each mask shares with each of the others; both are of one image."""
    assert one.size_hw == other.size_hw, (one.size_hw, other.size_hw)
    common = np.zeros((len(one), len(other)), dtype=np.int64)
    # Most pairs of many objects lie apart, which their boxes tell.
    x1, y1, x2, y2 = one.boxes.T[:, :, None]
    left, top, right, bottom = other.boxes.T[:, None]
    meeting = (x1 < right) & (left < x2) & (y1 < bottom) & (top < y2)
    others = {column: other[column] for column in np.flatnonzero(meeting.any(axis=0)).tolist()}
    for row in np.flatnonzero(meeting.any(axis=1)).tolist():
        mine = one[row]
        for column in np.flatnonzero(meeting[row]).tolist():
            common[row, column] = overlap(mine, others[column])
    return common


def pairwise_iou(
    one: Sequence[SparseMasks], other: Sequence[SparseMasks], *, shares: Bool[np.ndarray, " M"] | None = None
) -> Float64[np.ndarray, "N M"]:
    """Intersection over union of each mask with each of the others; 0 where both are empty.

    Args:
        one: of every frame of a clip, which count together; an image is a clip of one frame.
        other: likewise.
        shares: with which of the others it is the share of the first mask that lies on the second, as crowd regions
            are measured; None: with none.
    """
    common = np.sum([common_pixels(*frame) for frame in zip(one, other, strict=True)], axis=0)
    sizes, others = (np.sum([masks.areas for masks in frames], axis=0) for frames in (one, other))
    unions = sizes[:, None] + others - common
    if shares is not None:
        unions = np.where(shares, sizes[:, None], unions)
    return common / np.maximum(unions, 1)
