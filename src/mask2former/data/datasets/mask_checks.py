"""Comparison of masks with their box, area and image size in the same file. Knows no files.

The mask is the annotation; box and area are copies that the tool derived from it. Where they differ, something was
converted wrongly, and the copies show what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from mask2former.data.datasets.annotation_files import some
from mask2former.errors import UserError

__all__ = [
    "Findings",
    "MaskSummary",
    "PolygonFigures",
    "Remark",
    "box_of",
    "boxes_agree",
    "check_masks",
    "lies_outside",
]

_SLACK = 2.0  # pixels; tools round boxes, and may or may not count the last pixel
_SAME_BOX = 0.5  # IoU from which two boxes belong to the same object; people draw boxes loosely
_NEARLY_ALL = 0.9  # share from which it is not a slip in single annotations but the way in which the file was written
_FEW = 3  # annotations; with fewer, nothing is concluded about the file
_SHARE = 1.02  # the largest coordinate that may be a share of width or height
_LARGEST_AREA = 1e10  # pixels; COCO's evaluation ignores objects above this size
_NO_BOX = (np.nan,) * 4
_NUMBERS = frozenset((int, float))


class Remark(NamedTuple):
    """A phrase, and the indices of the masks that it applies to."""

    message: str
    masks: Int64[np.ndarray, " M"]


@dataclass(frozen=True, slots=True)
class Findings:
    """The result of the comparison.

    Attributes:
        areas: in pixels, as given in the file; NaN where it gives none, or something that cannot be an area.
        remarks: what to know about the masks, which are used as they are.
        refusal: why the masks of the file as a whole cannot be what the file says.
    """

    areas: Float64[np.ndarray, " M"]
    remarks: Sequence[Remark]
    refusal: Remark | None

    def notes(self, names: Sequence[Any], file: object) -> list[str]:
        """The remarks as sentences; ``names`` are the names of the masks.

        Raises:
            UserError: there is a refusal.
        """

        def sentence(remark: Remark) -> str:
            return f"'{file}': {remark.message}: annotations {some([names[index] for index in remark.masks.tolist()])}"

        if self.refusal is not None:
            raise UserError(sentence(self.refusal))
        return [sentence(remark) for remark in self.remarks]


@dataclass(frozen=True, slots=True)
class MaskSummary:
    """What a file says about its masks.

    Attributes:
        extents: x1, y1, x2, y2 around each mask in pixels; for polygons as written, not clipped.
        is_polygon: whether a mask is given by polygons.
        pixels: area of each mask; for polygons the area inside them, which may be off by their boundary.
        boxes: x, y, width, height as given in the file; NaN where not given.
        areas: as given in the file; NaN where not given.
        wrong_areas: where the file gives something that is not a number.
        sizes_hw: of the image of each mask; 0 where the file does not say.
    """

    extents: Float64[np.ndarray, "M 4"]
    is_polygon: Bool[np.ndarray, " M"]
    pixels: Float64[np.ndarray, " M"]
    boxes: Float64[np.ndarray, "M 4"]
    areas: Float64[np.ndarray, " M"]
    wrong_areas: Bool[np.ndarray, " M"]
    sizes_hw: Int64[np.ndarray, "M 2"]


class PolygonFigures(NamedTuple):
    """Figures of some polygons, each computed for all at once."""

    flat: Bool[np.ndarray, " P"]  # no interior: fewer than three corners, or all on one line
    extents: Float64[np.ndarray, "P 4"]  # x1, y1, x2, y2
    areas: Float64[np.ndarray, " P"]
    lengths: Float64[np.ndarray, " P"]  # of the outlines in pixels, as the rasteriser walks them

    @classmethod
    def of(cls, corners: Float64[np.ndarray, "C 2"], counts: Int64[np.ndarray, " P"]) -> PolygonFigures:
        """For polygons one after the other, with this many corners each, at least one."""
        if not len(counts):
            return cls(np.zeros(0, bool), np.zeros((0, 4)), np.zeros(0), np.zeros(0))
        starts = np.cumsum(counts) - counts
        arms = corners - np.repeat(corners[starts], counts, axis=0)
        lengths = (arms * arms).sum(axis=1)
        longest = np.flatnonzero(lengths == np.repeat(np.maximum.reduceat(lengths, starts), counts))
        ways = np.repeat(arms[longest[np.searchsorted(longest, starts)]], counts, axis=0)
        aside = arms[:, 0] * ways[:, 1] != arms[:, 1] * ways[:, 0]
        flat = (counts < 3) | ~np.logical_or.reduceat(aside, starts)
        low, high = np.minimum.reduceat(corners, starts), np.maximum.reduceat(corners, starts)
        following = np.arange(1, len(corners) + 1)
        following[starts + counts - 1] = starts
        edges = np.abs(corners[following] - corners)
        lengths = np.add.reduceat(np.maximum(edges[:, 0], edges[:, 1]), starts)
        crosses = arms[:, 0] * arms[following, 1] - arms[:, 1] * arms[following, 0]
        areas = np.abs(np.add.reduceat(crosses, starts)) / 2
        return cls(flat, np.concatenate([low, high], axis=1), areas, lengths)


def box_of(value: Any) -> Sequence[float]:
    """Four numbers of JSON, NaN for anything else: boxes are only compared, so a broken one does no harm."""
    if not isinstance(value, list) or len(value) != 4 or not _NUMBERS.issuperset(map(type, value)):
        return _NO_BOX
    try:
        return tuple(map(float, value))
    except OverflowError:  # whole numbers of hundreds of digits
        return _NO_BOX


def check_masks(summary: MaskSummary) -> Findings:
    """Compare masks with their boxes, areas and images."""
    remarks: list[Remark] = []
    shares, refusal = _shares(summary, remarks)
    compared = _boxes(summary, shares, remarks)
    outside = _outside(summary, shares, remarks)
    return Findings(_areas(summary, remarks), remarks, refusal or compared or outside)


def _are_nearly_all(part: Bool[np.ndarray, " M"], of: Bool[np.ndarray, " M"]) -> bool:
    return int(np.count_nonzero(part)) >= max(_FEW, _NEARLY_ALL * int(np.count_nonzero(of)))


def _shares(summary: MaskSummary, remarks: list[Remark]) -> tuple[Bool[np.ndarray, " M"], Remark | None]:
    """Polygons in 0..1, which are at most one pixel."""
    low, high = summary.extents[:, :2], summary.extents[:, 2:]
    small = ((low >= 1 - _SHARE) & (high <= _SHARE)).all(axis=1) & (summary.extents % 1 != 0).any(axis=1)
    found = summary.is_polygon & small & ((summary.sizes_hw == 0) | (summary.sizes_hw > 2)).all(axis=1)
    where = np.flatnonzero(found)
    if _are_nearly_all(found, summary.is_polygon):
        what = (
            "polygons have coordinates from 0 to 1, as fractions of width and height; expected pixels: multiply x "
            "by the width of the image and y by its height"
        )
        return found, Remark(what, where)
    if len(where):
        remarks.append(
            Remark("polygons in 0..1, which may be fractions of width and height, are read as pixels", where)
        )
    return found, None


def _boxes(summary: MaskSummary, shares: Bool[np.ndarray, " M"], remarks: list[Remark]) -> Remark | None:
    """Masks that do not match their boxes."""
    x, y, width, height = summary.boxes.T
    # Copies of one object agree in what is inside the image.
    high = np.where(summary.sizes_hw > 0, summary.sizes_hw, np.inf)[:, [1, 0, 1, 0]].astype(np.float64)
    extents = np.clip(summary.extents, 0, high)
    is_box = np.isfinite(summary.boxes).all(axis=1) & (width > 0) & (height > 0)
    off = is_box & ~shares & ~boxes_agree(extents, np.clip(np.stack([x, y, x + width, y + height], axis=1), 0, high))
    where = np.flatnonzero(off)
    if not len(where):
        return None
    # Boxes in another convention: they are not used, so nothing is lost.
    scale = summary.sizes_hw[:, [1, 0, 1, 0]]
    others = {
        "x1, y1, x2, y2": np.stack([x, y, width, height], axis=1),
        "centre x, centre y, width, height": np.stack(
            [x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1
        ),
        "fractions of width and height": np.stack([x, y, x + width, y + height], axis=1) * scale,
    }
    for name, boxes in others.items():
        if _are_nearly_all(off & boxes_agree(extents, boxes), off):
            remarks.append(Remark(f"'bbox' is {name} instead of x, y, width, height; it is not used", where))
            return None
    swapped = np.stack([y, x, y + height, x + width], axis=1)
    if _are_nearly_all(off & boxes_agree(summary.extents, swapped), off) and _are_nearly_all(off, is_box):
        what = (
            "masks fit their 'bbox' with x and y swapped; expected x, y, x, y, ... in polygons and x, y, width, "
            "height in boxes: swap them, or if the boxes are wrong remove 'bbox' from the file"
        )
        return Remark(what, where)
    if _are_nearly_all(off, is_box):
        what = (
            f"nearly all masks with a 'bbox' do not match it (IoU below {_SAME_BOX:g}); expected polygons in pixels of "
            "the image, x before y: correct them, or if the boxes are wrong remove 'bbox' from the file"
        )
        return Remark(what, where)
    what = f"masks do not match their 'bbox' (IoU below {_SAME_BOX:g}) and are used as they are"
    remarks.append(Remark(what, where))
    return None


def boxes_agree(found: Float64[np.ndarray, "M 4"], given: Float64[np.ndarray, "M 4"]) -> Bool[np.ndarray, " M"]:
    """Whether boxes x1, y1, x2, y2 belong to the same object."""
    with np.errstate(invalid="ignore", over="ignore"):
        low, high = np.maximum(found[:, :2], given[:, :2]), np.minimum(found[:, 2:], given[:, 2:])
        common = np.clip(high - low, 0, None).prod(axis=1)
        sizes = [np.clip(box[:, 2:] - box[:, :2], 0, None).prod(axis=1) for box in (found, given)]
        same = common >= _SAME_BOX * (sizes[0] + sizes[1] - common)
        return (np.abs(found - given) <= _SLACK).all(axis=1) | (same & (common > 0))


def _outside(summary: MaskSummary, shares: Bool[np.ndarray, " M"], remarks: list[Remark]) -> Remark | None:
    """Polygons outside their image."""
    known = summary.is_polygon & (summary.sizes_hw > 0).all(axis=1)
    gone = known & ~shares & (_seen(summary.extents, summary.sizes_hw) == 0)
    if _are_nearly_all(gone, known):
        what = "polygons lie outside their image; expected pixels of the image, x before y, from its top left corner"
        return Remark(what, np.flatnonzero(gone))
    for where, message in (
        (gone, "polygons lie outside their image, so that nothing of them is visible"),
        (
            known & ~gone & lies_outside(summary.extents, summary.sizes_hw),
            "polygons lie mostly outside their image",
        ),
    ):
        if where.any():
            remarks.append(Remark(message, np.flatnonzero(where)))
    return None


def _seen(extents: Float64[np.ndarray, "M 4"], sizes_hw: Int64[np.ndarray, "*M 2"]) -> Float64[np.ndarray, " M"]:
    """The area of boxes x1, y1, x2, y2 within their images."""
    low, high = extents[:, :2], extents[:, 2:]
    return np.clip(np.minimum(high, sizes_hw[..., ::-1]) - np.maximum(low, 0), 0, None).prod(axis=1)


def lies_outside(extents: Float64[np.ndarray, "M 4"], sizes_hw: Int64[np.ndarray, "*M 2"]) -> Bool[np.ndarray, " M"]:
    """Whether boxes x1, y1, x2, y2 in pixels lie mostly outside their image, which may be one image for all."""
    return _seen(extents, sizes_hw) < (extents[:, 2:] - extents[:, :2]).prod(axis=1) / 2


def _areas(summary: MaskSummary, remarks: list[Remark]) -> Float64[np.ndarray, " M"]:
    """The areas in the file that are plausible; they decide what is small, medium and large, as published."""
    whole = summary.sizes_hw.prod(axis=1)
    most = np.where(whole > 0, whole, _LARGEST_AREA)
    given = ~np.isnan(summary.areas)
    wrong = summary.wrong_areas | (given & ~((summary.areas > 0) & (summary.areas <= most)))
    # Polygons may extend beyond the image.
    wrong &= ~(given & (summary.areas <= 2 * summary.pixels) & (summary.areas > 0))
    if wrong.any():
        what = "'area' is not a positive number that fits into the image; pixels are counted instead"
        remarks.append(Remark(what, np.flatnonzero(wrong)))
    box = (summary.extents[:, 2:] - summary.extents[:, :2]).prod(axis=1)
    off = given & ~wrong & ((summary.areas > 1.1 * box + 16) | (summary.areas < summary.pixels / 2 - 16))
    if off.any():
        what = "'area' differs from the area of the mask; it still decides what counts as small, medium and large"
        remarks.append(Remark(what, np.flatnonzero(off)))
    return np.where(wrong, np.nan, summary.areas)
