"""Instances of large images with many small objects: tiles of one scale, segmented one by one and joined.

A model of 100 queries cannot find 400 objects, and one that learned objects of 40 pixels does not know those of 10.
So the image is cut into overlapping tiles; objects that two tiles show are found again by their masks where both do.
Ours; the published model takes whole images. Knows no model: it is given a function that segments tiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from mask2former.config import InferenceConfig, Task
from mask2former.ops.masks import Patch, typical_diameter
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.postprocessing import remove_overlaps
from mask2former.structures.categories import Categories
from mask2former.structures.results import Instances, Segmentation

__all__ = ["Results", "SegmentImages", "Tile", "join", "segment_in_tiles", "tiles"]

Size = tuple[int, int]
Results = dict[Task, Segmentation]


class SegmentImages(Protocol):
    """From images to results at their own sizes: :meth:`~mask2former.inference.predictor.Predictor.segment`."""

    def __call__(
        self,
        images: Sequence[UInt8[np.ndarray, "H W 3"]],
        input_size: Size,
        tasks: Sequence[Task],
        settings: InferenceConfig,
        /,
    ) -> list[Results]: ...


_LEAST_SCORE = 0.05  # every tile offers as many candidates as there are queries; those below are not considered
_SAME_OBJECT = 0.5  # IoU, where two tiles overlap, above which two masks are one object
_PART_OF = 0.7  # share of a whole candidate, there, above which it is a lesser one at an object that is known
_MANY = 16  # pieces of one object, which are then made one
_SURE = 0.9  # score from which results tell the diameter of objects; with 0.5, candidates at noise misled it
_NEARLY = 0.95  # of the best score, from which they do where a model is less sure
_LEAST_SURE = 0.5  # best score below which an image is not cut again
_ALIKE = 1.25  # times: tiles that are less than this larger or smaller are not worth another round
_FARTHEST = 4  # times: how much smaller or larger than ``tile`` tiles get
_SMALLEST = 16  # pixels: side of a tile
_PIXELS_AT_ONCE = 1 << 19  # that the model is shown: eight tiles of 256 pixels
_AGAIN = 2  # times that an image is cut again
_CELL = 64  # pixels: side of the squares by which objects are found that lie near each other
_STRIDE = 32  # pixels that the sides of what the model is shown are padded to a multiple of
_MANY_TILES = 48  # above which a part of the image tells the diameter


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of an image, in pixels; bottom and right are excluded."""

    top: int
    left: int
    bottom: int
    right: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """What the tile shows of an array whose first axes are height and width."""
        return image[self.top : self.bottom, self.left : self.right]

    def common(self, other: Tile) -> Tile | None:
        """What both show, if anything."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return Tile(top, left, bottom, right) if top < bottom and left < right else None


def tiles(size_hw: Size, side: int, overlap: int) -> list[Tile]:
    """Squares of ``side`` pixels that cover an image, row by row.

    They are evenly spread, each over its neighbours by at least ``overlap`` pixels, and as high or wide as the image
    where that is smaller.
    """
    rows, columns = (_starts(length, side, overlap) for length in size_hw)
    height, width = min(side, size_hw[0]), min(side, size_hw[1])
    return [Tile(top, left, top + height, left + width) for top in rows for left in columns]


def _starts(length: int, side: int, overlap: int) -> list[int]:
    if length <= side:
        return [0]
    count = -(-(length - overlap) // (side - overlap))
    return [round(index * (length - side) / (count - 1)) for index in range(count)]


def segment_in_tiles(
    image: UInt8[np.ndarray, "H W 3"], segment: SegmentImages, categories: Categories, settings: InferenceConfig
) -> Instances:
    """The instances of an image, tile by tile.

    Args:
        image: RGB, at its own size.
        segment: gives the instances of some tiles at once.
        categories: the classes of the model.
        settings: with ``tile``, ``non_overlapping`` and ``instance_threshold``. Tiles are resized by ``short_edge /
            tile`` (0: not at all), so that objects have one scale in images of any size; ``max_instances`` counts for
            the whole image. With ``diameter`` the results, of parts where there are many tiles, tell how large the
            objects are, and the image is cut again into tiles that show them at that diameter, up to twice.
    """
    assert settings.tile
    through = partial(_through_tiles, segment=segment, categories=categories, settings=settings)
    side = settings.tile
    result: Instances | None = None
    for _ in range(_AGAIN if settings.diameter else 0):
        found = [through(part, side) for part in _sample(image, side, settings)]
        if len(found) > 1 and _diameter(found) is None:
            found = [through(image, side)]
        result = found[0] if len(found) == 1 else None
        typical = _diameter(found)
        if typical is None:
            break
        better = _side(typical, settings)
        if max(better / side, side / better) < _ALIKE:
            break
        shrinks, side, result = better < side, better, None
        if shrinks:  # once only: noise that is enlarged looks like many small objects, and is enlarged the more
            break
    found = through(image, side) if result is None else result
    return found.at_least(settings.instance_threshold, settings.class_thresholds)


def _sample(
    image: UInt8[np.ndarray, "H W 3"], side: int, settings: InferenceConfig
) -> list[UInt8[np.ndarray, "_h _w 3"]]:
    """What tells the diameter of objects: the image, or where that has many tiles, four parts of four tiles."""
    overlap = _overlap(side, settings)
    height, width = image.shape[:2]
    if len(tiles((height, width), side, overlap)) <= _MANY_TILES:
        return [image]
    part = 2 * side - overlap  # objects that one tile cuts off are whole in four
    tops, lefts = (
        sorted({round(share * max(0, length - part)) for share in (0.25, 0.75)}) for length in (height, width)
    )
    return [image[top : top + part, left : left + part] for top in tops for left in lefts]


def _diameter(results: Sequence[Instances]) -> float | None:
    """The typical diameter of what the model is surest of, in an image or parts; None where it is sure of nothing."""
    best = max((result.scores[0] for result in results if len(result)), default=0.0)
    if best < _LEAST_SURE:
        return None
    sure = [result.above(min(_SURE, _NEARLY * best)) for result in results]
    whole = [result.sparse if len(results) == 1 else result.sparse.take(_inside(result)) for result in sure]
    return typical_diameter(np.concatenate([masks.areas for masks in whole]))


def _inside(result: Instances) -> Bool[np.ndarray, " N"]:
    """Which instances do not touch the rim, where a part of an image would cut them off."""
    height, width = result.size_hw
    x1, y1, x2, y2 = result.boxes.T
    return (x1 > 0) & (y1 > 0) & (x2 < width) & (y2 < height)


def _side(typical: float, settings: InferenceConfig) -> int:
    """The side of tiles that show objects of this diameter as large as those of training."""
    side = round(settings.short_edge * typical / settings.diameter)
    return min(max(side, _SMALLEST, settings.tile // _FARTHEST), _FARTHEST * settings.tile)


def _overlap(side: int, settings: InferenceConfig) -> int:
    """The pixels that tiles of this side share, in proportion to those of the settings."""
    return settings.tile_overlap * side // settings.tile


def _through_tiles(
    image: UInt8[np.ndarray, "H W 3"],
    side: int,
    segment: SegmentImages,
    categories: Categories,
    settings: InferenceConfig,
) -> Instances:
    """The result through tiles of one side."""
    size_hw = (image.shape[0], image.shape[1])
    shown = tiles(size_hw, side, _overlap(side, settings))
    factor = settings.short_edge / side if settings.short_edge else 1.0
    height, width = (
        max(1, round(length * factor)) for length in (shown[0].bottom - shown[0].top, shown[0].right - shown[0].left)
    )
    padded = (-(-height // _STRIDE) * _STRIDE) * (-(-width // _STRIDE) * _STRIDE)
    at_once = max(1, _PIXELS_AT_ONCE // padded)
    # What is a lesser candidate in one tile may be the better one of another, so all are joined first.
    everything = {"non_overlapping": False, "instance_threshold": 0.0, "class_thresholds": {}}
    every = settings.model_copy(update=everything)

    def found() -> Iterator[tuple[Tile, Instances]]:
        # Some after others: of each tile only the boxes of its objects are kept.
        for start in range(0, len(shown), at_once):
            some = shown[start : start + at_once]
            results = segment([tile.of(image) for tile in some], (height, width), ("instance",), every)
            for tile, result in zip(some, results, strict=True):
                instances = result["instance"]
                assert isinstance(instances, Instances)
                yield tile, instances

    joined = join(found(), size_hw, categories, settings.max_instances)
    return remove_overlaps(joined, settings.overlap_threshold) if settings.non_overlapping else joined


@dataclass(slots=True)
class _Object:
    """What one or more tiles take for one object."""

    label: int
    score: float
    box: Tile  # of the whole mask
    seen: list[tuple[Tile, Bool[np.ndarray, "h w"]]]  # masks cut to their boxes, with the position of these
    tiles: list[Tile]  # the tiles that they were seen through
    cut: bool = False  # its tile cuts it off, and another one shows all of it

    def take(self, other: _Object) -> None:
        """Become the union, or the one that is not cut; the score stays."""
        self.tiles += other.tiles
        if other.cut and not self.cut:
            return
        if self.cut and not other.cut:
            self.box, self.seen, self.cut = other.box, other.seen, False
            return
        self.box = _around(self.box, other.box)
        self.seen += other.seen
        if len(self.seen) > _MANY:
            self.seen = [(self.box, self.within(self.box))]

    def within(self, area: Tile) -> Bool[np.ndarray, "h w"]:
        """The mask on a part of the image."""
        mask = np.zeros((area.bottom - area.top, area.right - area.left), dtype=bool)
        for box, part in self.seen:
            common = box.common(area)
            if common is not None:
                there = Tile(
                    common.top - box.top, common.left - box.left, common.bottom - box.top, common.right - box.left
                )
                mask[common.top - area.top : common.bottom - area.top, common.left - area.left :][
                    :, : common.right - common.left
                ] |= there.of(part)
        return mask


def join(
    found: Iterable[tuple[Tile, Instances]], size_hw: Size, categories: Categories, max_instances: int
) -> Instances:
    """One result for an image from those of tiles of it.

    The best candidates come first. A later one that another tile made of the same class is compared with those kept,
    on the pixels that both tiles show: above an IoU of 0.5 it is the same object, whose mask becomes the union and
    whose score stays the best; a candidate that lies there with most of its mask, within one that is kept, is dropped.
    Objects larger than a tile grow from tile to tile this way. Candidates of one tile are never compared, as in
    whole images. Candidates at the rims of objects are poor: what a tile cuts off, and another one shows whole, only
    counts as a better score of what that one finds there.

    Args:
        found: the instances of each tile, at its size.
        size_hw: height and width of the image.
        categories: the classes of the model.
        max_instances: how many of the best are kept.
    """
    candidates: list[_Object] = []
    shown: list[Tile] = []
    for tile, instances in found:
        shown.append(tile)
        for (y, x, mask), label, score in zip(instances.sparse, instances.labels, instances.scores, strict=True):
            if score < _LEAST_SCORE or not mask.size:
                continue
            top, left = tile.top + y, tile.left + x
            box = Tile(top, left, top + mask.shape[0], left + mask.shape[1])
            candidates.append(_Object(int(label), float(score), box, [(box, mask)], [tile]))
    sides = np.array([_corners(tile) for tile in shown], dtype=np.int64).reshape(-1, 4)
    for candidate in candidates:
        own = np.array([_corners(candidate.tiles[0])])
        cut = not _shown_whole(candidate.box, own, size_hw)[0]
        candidate.cut = cut and bool(_shown_whole(candidate.box, sides, size_hw).any())
    kept = _merged(sorted(candidates, key=lambda candidate: -candidate.score))
    # Objects may turn out to be one when they have grown, such as both ends of one that three tiles show.
    while len(again := _merged(kept)) < len(kept):
        kept = again
    kept = [item for item in kept if not item.cut][:max_instances]
    masks = SparseMasks((Patch(item.box.top, item.box.left, item.within(item.box)) for item in kept), size_hw)
    return Instances(
        masks=masks,
        labels=np.array([item.label for item in kept], dtype=np.int64),
        scores=np.array([item.score for item in kept], dtype=np.float64),
        boxes=masks.boxes,
        categories=categories,
    )


def _shown_whole(box: Tile, sides: Int64[np.ndarray, "tiles 4"], size_hw: Size) -> Bool[np.ndarray, " tiles"]:
    """Which tiles show the box and a pixel around it, but where the image ends."""
    top, left, bottom, right = sides.T
    whole = ((top < box.top) | (top == 0)) & ((left < box.left) | (left == 0))
    height, width = size_hw
    return whole & ((bottom > box.bottom) | (bottom == height)) & ((right > box.right) | (right == width))


def _merged(objects: list[_Object]) -> list[_Object]:
    """Each object, best first, joined to the one before it that it is most alike, or dropped as a part of one."""
    kept: list[_Object] = []
    index = _Index()
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


class _Index:
    """Boxes by where they are, so that each is compared with those around it and not with all."""

    def __init__(self) -> None:
        self._boxes: dict[int, Tile] = {}
        self._cells: dict[tuple[int, int], set[int]] = {}

    def put(self, number: int, box: Tile) -> None:
        """Enter a box, or the larger or smaller one that it has become."""
        if number in self._boxes:
            for cell in _cells(self._boxes[number]):
                self._cells[cell].discard(number)
        self._boxes[number] = box
        for cell in _cells(box):
            self._cells.setdefault(cell, set()).add(number)

    def meeting(self, box: Tile) -> list[int]:
        """Numbers of the boxes that have pixels in common with this one, ascending."""
        found = set[int]().union(*(self._cells.get(cell, ()) for cell in _cells(box)))
        return sorted(number for number in found if self._boxes[number].common(box) is not None)


def _cells(box: Tile) -> Iterator[tuple[int, int]]:
    """Squares of the image that a box touches."""
    rows = range(box.top // _CELL, (box.bottom - 1) // _CELL + 1)
    columns = range(box.left // _CELL, (box.right - 1) // _CELL + 1)
    return ((row, column) for row in rows for column in columns)


def _corners(box: Tile) -> tuple[int, int, int, int]:
    return box.top, box.left, box.bottom, box.right


class _Alike(NamedTuple):
    """How much of two objects is common where the tiles of both overlap."""

    iou: float
    part: float  # share of all of the later one


def _alike(kept: _Object, candidate: _Object) -> _Alike:
    """Nothing, unless they are of one class and of different tiles."""
    mine = candidate.within(candidate.box)
    common = kept.within(candidate.box) & mine
    if kept.label != candidate.label or not common.any() or not set(kept.tiles).isdisjoint(candidate.tiles):
        return _Alike(0.0, 0.0)
    shared = _shared(kept.tiles, candidate.tiles, candidate.box)
    both = int(np.count_nonzero(common & shared))
    two = int(np.count_nonzero(mine & shared))
    # Of what is kept, the pixels outside the box of the candidate count, too.
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
                mask[
                    shown.top - area.top : shown.bottom - area.top, shown.left - area.left : shown.right - area.left
                ] = True
        seen.append(mask)
    return seen[0] & seen[1]


def _around(one: Tile, two: Tile) -> Tile:
    return Tile(min(one.top, two.top), min(one.left, two.left), max(one.bottom, two.bottom), max(one.right, two.right))
