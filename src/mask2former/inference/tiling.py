"""Images in tiles of one scale, passed through the network one by one and merged into one result, for every task.

A model with 100 queries cannot find 400 objects, one trained on objects of 40 pixels does not recognise those of 10,
and a complete slide does not fit into memory. So the image is cut into overlapping tiles. Class scores are blended
where tiles overlap, objects that two tiles show are matched by their masks in the overlap, and stuff of one class is
one segment. This is our addition; the published models take complete images. The module receives a function that
predicts tiles and does not depend on a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Bool, UInt8

from mask2former.config import InferenceConfig, Task
from mask2former.inference.joining import LEAST_SCORE
from mask2former.inference.tile_grid import Grid, Tile
from mask2former.inference.tile_results import TilePrediction, WholeResult, whole_result
from mask2former.media.regions import RegionsPart
from mask2former.ops.masks import typical_diameter
from mask2former.pixels import Regions
from mask2former.progress import tell_tiles
from mask2former.structures import Categories, Instances
from mask2former.structures.packed_results import PackedSegmentation

__all__ = ["PackedResults", "PredictTiles", "segment_in_tiles"]

Size = tuple[int, int]
PackedResults = dict[Task, PackedSegmentation]


class PredictTiles(Protocol):
    """From tiles to predictions: :meth:`~mask2former.inference.predictor.Predictor.predict_tiles`."""

    def __call__(
        self,
        images: Sequence[UInt8[np.ndarray, "H W C"]],
        input_size: Size,
        tasks: Sequence[Task],
        settings: InferenceConfig,
        /,
    ) -> Sequence[TilePrediction]: ...


_SURE = 0.9  # score from which results define the diameter of objects; with 0.5, false candidates distorted it
_NEARLY = 0.95  # share of the best score from which they do so if a model is less certain
_LEAST_SURE = 0.5  # best score below which an image is not cut again
_ALIKE = 1.25  # factor: tiles whose size differs by less are not worth another round
_FARTHEST = 4  # factor: how much smaller or larger than ``tile`` tiles can become
_SMALLEST = 16  # pixels: least side of a tile
_PIXELS_AT_ONCE = 1 << 19  # network input per call: eight tiles of 256 pixels
_OWN_PIXELS_AT_ONCE = 1 << 22  # pixels of the image per call
_AGAIN = 2  # times that an image is cut again
_STRIDE = 32  # pixels; sides of the network input are padded to multiples of it
_MANY_TILES = 48  # above which parts of the image define the diameter


def segment_in_tiles(
    image: Regions,
    predict: PredictTiles,
    tasks: Sequence[Task],
    categories: Categories,
    settings: InferenceConfig,
) -> PackedResults:
    """The results of an image, tile by tile.

    Args:
        image: image that is read tile by tile.
        predict: returns the predictions of several tiles at once.
        tasks: of the results.
        categories: the classes of the model.
        settings: settings with ``tile``. Tiles are resized by ``short_edge / tile`` (0: not at all), so objects have
            one scale in images of any size; ``max_instances`` and ``non_overlapping`` apply to the complete image. With
            ``diameter``, which is for the task instance only, the size of objects is measured in the results (of parts
            of the image, if there are many tiles), and the image is cut again, up to twice, into tiles that show the
            objects at that diameter.
    """
    assert settings.tile

    def through(part: Regions, side: int) -> PackedResults:
        return _through_tiles(part, side, predict, tasks, categories, settings)

    side, results = _of_diameter(image, through, settings) if settings.diameter else (settings.tile, None)
    results = results or through(image, side)
    instances = results.get("instance")
    if isinstance(instances, Instances):
        results["instance"] = instances.at_least(settings.instance_threshold, settings.class_thresholds)
    return results


def _of_diameter(
    image: Regions, through: Callable[[Regions, int], PackedResults], settings: InferenceConfig
) -> tuple[int, PackedResults | None]:
    """The side of tiles that show objects at the diameter of training, and the results if they are already known."""
    side = settings.tile
    results: list[PackedResults] = []
    for _ in range(_AGAIN):
        results = [through(part, side) for part in _sample(image, side, settings)]
        if len(results) > 1 and _diameter(results) is None:
            results = [through(image, side)]
        typical = _diameter(results)
        if typical is None:
            break
        better = _side(typical, settings)
        if max(better / side, side / better) < _ALIKE:
            break
        shrinks, side = better < side, better
        results = []
        if shrinks:  # only once: enlarged noise looks like many small objects, which would be enlarged even more
            break
    return side, results[0] if len(results) == 1 else None


def _sample(image: Regions, side: int, settings: InferenceConfig) -> list[Regions]:
    """Images to measure the diameter of objects: the image, or if it has many tiles, four parts of four tiles."""
    overlap = _overlap(side, settings)
    if len(Grid.over(image.size_hw, side, overlap)) <= _MANY_TILES:
        return [image]
    part = 2 * side - overlap  # objects that one tile cuts off are complete in four tiles
    tops, lefts = (sorted({round(share * max(0, length - part)) for share in (0.25, 0.75)}) for length in image.size_hw)
    height, width = (min(part, length) for length in image.size_hw)
    return [RegionsPart(image, top, left, (height, width)) for top in tops for left in lefts]


def _diameter(found: Sequence[PackedResults]) -> float | None:
    """The typical diameter of the most certain objects in an image or its parts; None if no object is certain."""
    results = [instances for one in found if isinstance(instances := one["instance"], Instances)]
    best = max((result.scores[0] for result in results if len(result)), default=0.0)
    if best < _LEAST_SURE:
        return None
    sure = [result.above(min(_SURE, _NEARLY * best)) for result in results]
    whole = [result.sparse if len(results) == 1 else result.sparse.take(_inside(result)) for result in sure]
    return typical_diameter(np.concatenate([masks.areas for masks in whole]))


def _inside(result: Instances) -> Bool[np.ndarray, " N"]:
    """Which instances do not touch the border, where a part of an image would cut them off."""
    height, width = result.size_hw
    x1, y1, x2, y2 = result.boxes.T
    return (x1 > 0) & (y1 > 0) & (x2 < width) & (y2 < height)


def _side(typical: float, settings: InferenceConfig) -> int:
    """The side of tiles in which objects of this diameter appear as large as in training."""
    side = round(settings.short_edge * typical / settings.diameter)
    return min(max(side, _SMALLEST, settings.tile // _FARTHEST), _FARTHEST * settings.tile)


def _overlap(side: int, settings: InferenceConfig) -> int:
    """The overlap of tiles of this side in pixels, in proportion to the overlap in the settings."""
    return settings.tile_overlap * side // settings.tile


def _through_tiles(
    image: Regions,
    side: int,
    predict: PredictTiles,
    tasks: Sequence[Task],
    categories: Categories,
    settings: InferenceConfig,
) -> PackedResults:
    """The results with tiles of one side."""
    grid = Grid.over(image.size_hw, side, _overlap(side, settings))
    factor = settings.short_edge / side if settings.short_edge else 1.0
    height, width = (max(1, round(length * factor)) for length in grid.tile_hw)
    padded = (-(-height // _STRIDE) * _STRIDE) * (-(-width // _STRIDE) * _STRIDE)
    at_once = max(1, min(_PIXELS_AT_ONCE // padded, _OWN_PIXELS_AT_ONCE // (grid.tile_hw[0] * grid.tile_hw[1])))
    # A weaker candidate in one tile may be the better one of another tile, so all relevant ones are joined first.
    everything = {"non_overlapping": False, "instance_threshold": LEAST_SCORE, "class_thresholds": {}}
    every = settings.model_copy(update=everything)

    def found() -> Iterator[tuple[Tile, TilePrediction]]:
        # A few tiles at a time: only the parts of each tile that the joined results need are kept.
        listed = list(grid)
        for start in range(0, len(listed), at_once):
            some = listed[start : start + at_once]
            parts = [image.read(tile.top, tile.left, tile.bottom, tile.right) for tile in some]
            yield from zip(some, predict(parts, (height, width), tasks, every), strict=True)
            if len(listed) > at_once:
                tell_tiles(start + len(some), len(listed))

    whole: dict[Task, WholeResult] = {task: whole_result(task, grid, categories, settings) for task in tasks}
    for tile, prediction in found():
        for result in whole.values():
            result.take(tile, prediction)
    return {task: result.finish() for task, result in whole.items()}
