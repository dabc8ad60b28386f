"""Joins objects that several tiles show, by their masks where the tiles overlap. Models and images are not needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from mask2former.inference.tile_grid import Tile
from mask2former.ops.box_index import BoxIndex
from mask2former.ops.masks import Patch
from mask2former.ops.sparse_masks import PackedPatch, SparseMasks
from mask2former.structures import Categories, Instances

__all__ = ["LEAST_SCORE", "join"]

Size = tuple[int, int]

LEAST_SCORE = 0.05  # every tile has as many candidates as queries; those below are ignored
_SAME_OBJECT = 0.5  # IoU in the overlap of two tiles above which two masks are the same object
_PART_OF = 0.7  # share of a complete candidate, in the overlap, above which it is a minor duplicate of a known object
_AS_GOOD = 0.9  # factor: tiles that show an object about as well as the one that shows it best
_MANY = 16  # pieces of one object, which are then merged


@dataclass(slots=True)
class _Object:
    """One object, as seen by one or more tiles."""

    label: int
    score: float
    box: Tile  # of the complete mask
    seen: list[PackedPatch]  # its parts
    tiles: list[Tile]  # the tiles in which they were seen
    cut: bool = False  # whether its tile cuts it off, and another one shows all of it

    def take(self, other: _Object) -> None:
        """Become the union of both, or the one that is not cut; the score does not change."""
        self.tiles += other.tiles
        if other.cut and not self.cut:
            return
        if self.cut and not other.cut:
            self.box, self.seen, self.cut = other.box, other.seen, False
            return
        self.box = _around(self.box, other.box)
        self.seen += other.seen
        if len(self.seen) > _MANY:
            self.seen = [self.whole()]

    def within(self, area: Tile) -> Bool[np.ndarray, "h w"]:
        """The mask on a part of the image."""
        if len(self.seen) == 1 and self.seen[0].box == area:
            return self.seen[0].unpacked().mask
        mask = np.zeros((area.bottom - area.top, area.right - area.left), dtype=bool)
        for part in self.seen:
            box = Tile(*part.box)
            if (common := box.common(area)) is not None:
                shown = common.seen_from(area).of(mask)
                shown |= common.seen_from(box).of(part.unpacked().mask)
        return mask

    def whole(self) -> PackedPatch:
        """The complete mask; not copied if it is from a single tile."""
        if len(self.seen) == 1:
            return self.seen[0]
        return PackedPatch.of(Patch(self.box.top, self.box.left, self.within(self.box)))


def join(
    found: Sequence[tuple[Tile, Instances]],
    size_hw: Size,
    categories: Categories,
    max_instances: int | None = None,
    *,
    agreed: bool = False,
) -> Instances:
    """One result for an image, joined from the results of its tiles.

    The best candidates come first. A later candidate of the same class from another tile is compared with those already
    kept, on the pixels that both tiles show. Above an IoU of 0.5 it is the same object: its mask becomes the union, and
    its score remains the best one. A candidate is dropped if most of its complete mask lies there, within a kept one.
    Objects larger than a tile grow from tile to tile in this way. Candidates of one tile are never compared, as in
    complete images. Candidates at the rims of objects are poor: an object that a tile cuts off and another tile shows
    completely only contributes a better score to what that tile finds there.

    Args:
        found: the instances of each tile, at its size.
        size_hw: height and width of the image.
        categories: the classes of the model.
        max_instances: how many of the best are kept; None: all.
        agreed: also drop objects that the tile with the best view of them does not find, see :func:`_is_agreed`. This
            is for results above a threshold, whose scores do not reveal minor duplicates.
    """
    candidates: list[_Object] = []
    for tile, instances in found:
        for mask, label, score in zip(instances.sparse.packed, instances.labels, instances.scores, strict=True):
            if score < LEAST_SCORE or not mask.bits:
                continue
            mask = mask.moved(tile.top, tile.left)
            candidates.append(_Object(int(label), float(score), Tile(*mask.box), [mask], [tile]))
    tiles = _Tiles([tile for tile, _ in found], size_hw)
    for candidate in candidates:
        cut = not tiles.show_whole(candidate.box, np.array(candidate.tiles[:1]))[0]
        candidate.cut = cut and len(tiles.showing_whole(candidate.box)) > 0
    kept = _merged(sorted(candidates, key=lambda candidate: -candidate.score))
    # Objects that have grown may turn out to be the same, such as both ends of an object that three tiles show.
    while len(again := _merged(kept)) < len(kept):
        kept = again
    kept = [item for item in kept if not item.cut and (not agreed or _is_agreed(item, tiles))][:max_instances]
    masks = SparseMasks((item.whole() for item in kept), size_hw)
    return Instances(
        masks=masks,
        labels=np.array([item.label for item in kept], dtype=np.int64),
        scores=np.array([item.score for item in kept], dtype=np.float64),
        boxes=masks.boxes,
        categories=categories,
    )


class _Tiles:
    """The tiles of an image, of which only those at the height of an object are checked."""

    def __init__(self, tiles: Sequence[Tile], size_hw: Size) -> None:
        self._size_hw = size_hw
        self._sides = np.array(sorted(tiles), dtype=np.int64).reshape(-1, 4)
        self._highest = max((tile.bottom - tile.top for tile in tiles), default=0)

    def showing_whole(self, box: Tile) -> Int64[np.ndarray, "n 4"]:
        """The corners of the tiles that show a box and a pixel around it, except beyond the image border."""
        tops = self._sides[:, 0]
        first, end = np.searchsorted(tops, box.bottom - self._highest), np.searchsorted(tops, box.top, "right")
        near = self._sides[first:end]
        return near[self.show_whole(box, near)]

    def show_whole(self, box: Tile, sides: Int64[np.ndarray, "tiles 4"]) -> Bool[np.ndarray, " tiles"]:
        """Which of the tiles with these corners show the box in this way."""
        top, left, bottom, right = sides.T
        whole = ((top < box.top) | (top == 0)) & ((left < box.left) | (left == 0))
        height, width = self._size_hw
        return whole & ((bottom > box.bottom) | (bottom == height)) & ((right > box.right) | (right == width))


def _is_agreed(item: _Object, tiles: _Tiles) -> bool:
    """Whether the tile that shows all of it, farthest from its border, finds it; True if no tile shows all of it."""
    whole = tiles.showing_whole(item.box)
    if not len(whole):
        return True
    top, left, bottom, right = whole.T
    y, x = (item.box.top + item.box.bottom) / 2, (item.box.left + item.box.right) / 2
    distances = np.minimum(y - top, bottom - y) * np.minimum(x - left, right - x)
    best = distances.max()
    return any(Tile(*corners) in item.tiles for corners in whole[distances >= _AS_GOOD * best].tolist())


def _merged(objects: list[_Object]) -> list[_Object]:
    """Each object, best first, joined to the most similar one before it, or dropped as a part of one."""
    kept: list[_Object] = []
    index = BoxIndex()
    for item in objects:
        alike = {position: _alike(kept[position], item) for position in index.meeting(item.box)}
        best = max(alike, key=lambda position: alike[position].iou, default=None)
        if best is not None and alike[best].iou > _SAME_OBJECT:
            kept[best].take(item)
            index.put(best, kept[best].box)
        elif all(shared.part <= _PART_OF for shared in alike.values()):
            index.put(len(kept), item.box)
            kept.append(item)
    return kept


class _Alike(NamedTuple):
    """How much two objects overlap where the tiles of both overlap."""

    iou: float
    part: float  # share of the complete later one


def _alike(kept: _Object, candidate: _Object) -> _Alike:
    """The overlap, which is nothing unless both are of one class and from different tiles."""
    mine = candidate.within(candidate.box)
    common = kept.within(candidate.box) & mine
    if kept.label != candidate.label or not common.any() or not set(kept.tiles).isdisjoint(candidate.tiles):
        return _Alike(0.0, 0.0)
    shared = _shared(kept.tiles, candidate.tiles, candidate.box)
    both = int(np.count_nonzero(common & shared))
    two = int(np.count_nonzero(mine & shared))
    # Pixels of the kept object outside the candidate's box count, too.
    around = _around(kept.box, candidate.box)
    one = int(np.count_nonzero(kept.within(around) & _shared(kept.tiles, candidate.tiles, around)))
    return _Alike(both / max(one + two - both, 1), both / int(np.count_nonzero(mine)))


def _shared(some: list[Tile], others: list[Tile], area: Tile) -> Bool[np.ndarray, "h w"]:
    """The pixels of a part of the image that tiles of both lists show."""
    seen = []
    for listed in (some, others):
        mask = np.zeros((area.bottom - area.top, area.right - area.left), dtype=bool)
        for tile in listed:
            if (shown := tile.common(area)) is not None:
                shown.seen_from(area).of(mask)[:] = True
        seen.append(mask)
    return seen[0] & seen[1]


def _around(one: Tile, two: Tile) -> Tile:
    return Tile(min(one.top, two.top), min(one.left, two.left), max(one.bottom, two.bottom), max(one.right, two.right))
