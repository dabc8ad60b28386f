"""Masks as polygons with holes, along the edges of their pixels: rasterising them gives the mask back, pixel for pixel.

Knows no classes, results or files. Polygons become masks in :mod:`mask2former.ops.masks`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int64

from mask2former.ops.masks import Patch

__all__ = ["Ring", "mask_to_polygons"]

Ring = Int64[np.ndarray, "corners 2"]

# What surrounds a corner of pixels: 1 top left, 2 top right, 4 bottom left, 8 bottom right. Outlines have the mask on
# their right, so that each corner is entered along one axis and left along the other.
_LEAVES_SIDEWAYS = np.isin(np.arange(16), (1, 8, 11, 13))  # along the row; the others along the column
_EDGE_ON_RIGHT = np.isin(np.arange(16), (2, 7, 8, 13))  # which of the two edges in its row ends there
_EDGE_BELOW = np.isin(np.arange(16), (4, 7, 8, 11))  # likewise in its column
_PIXEL = {1: (-1, -1), 2: (-1, 0), 4: (0, -1), 8: (0, 0), 7: (-1, -1), 11: (-1, 0), 13: (0, -1), 14: (0, 0)}


def mask_to_polygons(patch: Patch) -> list[list[Ring]]:
    """The outlines of a mask: one polygon for each part that is connected by edges of pixels, the topmost first.

    Corners are corners of pixels: the pixel in row y and column x reaches from (x, y) to (x + 1, y + 1). Only those
    where the outline turns are listed. No ring touches itself; parts and holes that meet in a corner only are rings of
    their own, so the polygons are valid as GIS programs and GeoJSON have it.

    Args:
        patch: the mask, cut to any box.

    Returns:
        For each polygon its rings, as (x, y) in pixels of the image, without repeating the first corner at the end. The
        first ring is the exterior, clockwise as it is seen on a screen; the others are holes, counter-clockwise.
    """
    top, left, mask = patch
    padded = np.pad(mask, 1).astype(np.uint8)
    around = padded[:-1, :-1] + 2 * padded[:-1, 1:] + 4 * padded[1:, :-1] + 8 * padded[1:, 1:]
    rows, columns, kinds = _corners(around)
    following = _following(rows, columns, kinds).tolist()
    meets = np.isin(around[rows, columns], (6, 9)).tolist()  # two outlines, or one twice
    places = (rows * around.shape[1] + columns).tolist()
    rings = [ring for start in _each_once(following) for ring in _simple(start, following, meets, places)]

    exteriors: list[list[int]] = []
    holes: list[list[int]] = []
    for ring in rings:
        (exteriors if _doubled_area(columns[ring], rows[ring]) > 0 else holes).append(ring)
    offset = np.array([left, top], dtype=np.int64)

    def corners(ring: list[int]) -> Ring:
        return np.stack([columns[ring], rows[ring]], axis=1) + offset

    polygons = [[corners(ring)] for ring in exteriors]
    if len(exteriors) == 1:
        polygons[0] += map(corners, holes)
    elif holes:
        part = _part_of(mask, rows, columns, kinds)
        index = {part(ring): number for number, ring in enumerate(exteriors)}
        for ring in holes:
            polygons[index[part(ring)]].append(corners(ring))
    return polygons


def _corners(around: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and kinds of the corners of outlines, row by row; where two pixels meet diagonally there are two.

    Such a pair is cut apart: one turns around each pixel, the one whose edge is on the left first.
    """
    straight = np.isin(around, (0, 3, 5, 10, 12, 15))  # nothing, an edge that goes on, or the inside
    rows, columns = np.nonzero(~straight)
    kinds = around[rows, columns].astype(np.int64)
    pairs = np.isin(kinds, (6, 9))
    again = np.repeat(np.arange(len(rows)), 1 + pairs)
    rows, columns, kinds = rows[again], columns[again], kinds[again]
    first = np.flatnonzero(pairs) + np.arange(np.count_nonzero(pairs))
    is_falling = kinds[first] == 9
    kinds[first], kinds[first + 1] = np.where(is_falling, 1, 4), np.where(is_falling, 8, 2)
    return rows, columns, kinds


def _following(rows: np.ndarray, columns: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """The index of the corner that comes after each: edges join neighbours of a row or column, two by two."""
    partners = np.empty((2, len(rows)), dtype=np.int64)
    along_rows = np.lexsort((_EDGE_ON_RIGHT[kinds], columns, rows))
    along_columns = np.lexsort((_EDGE_BELOW[kinds], rows, columns))
    for partner, order in zip(partners, (along_rows, along_columns), strict=True):
        partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    return np.where(_LEAVES_SIDEWAYS[kinds], partners[0], partners[1])


def _each_once(following: list[int]) -> list[int]:
    """The first corner of every outline."""
    seen = bytearray(len(following))
    starts = []
    for start in range(len(following)):
        if not seen[start]:
            starts.append(start)
            corner = start
            while not seen[corner]:
                seen[corner] = True
                corner = following[corner]
    return starts


def _simple(start: int, following: list[int], meets: list[bool], places: list[int]) -> list[list[int]]:
    """An outline as rings that do not touch themselves: cut where it comes by for the second time."""
    ring: list[int] = []
    rings: list[list[int]] = []
    before: dict[int, int] = {}  # where in the ring a place is that may come again
    corner = start
    while True:
        if meets[corner]:
            place = places[corner]
            if place in before:
                since = before[place]
                rings.append(ring[since:])
                for cut in ring[since:]:
                    before.pop(places[cut], None)
                del ring[since:]
            before[place] = len(ring)
        ring.append(corner)
        corner = following[corner]
        if corner == start:
            return [ring, *rings]


def _doubled_area(x: np.ndarray, y: np.ndarray) -> int:
    """Twice the area that a ring surrounds; negative for holes, which go the other way round."""
    return int(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def _part_of(mask: np.ndarray, rows: np.ndarray, columns: np.ndarray, kinds: np.ndarray) -> Callable[[list[int]], int]:
    """A function from a ring to the number of the connected part that it bounds."""
    from scipy import ndimage  # takes a while to import, and only masks of several parts with holes need it

    labelled: Any = ndimage.label(mask)
    parts = labelled[0]

    def part(ring: list[int]) -> int:
        row, column = _PIXEL[int(kinds[ring[0]])]
        return int(parts[rows[ring[0]] + row, columns[ring[0]] + column])

    return part
