"""One result for an image from the predictions of its tiles, with one class per task; tiles come row by row.

Pixels that no later tile shows are decided and compressed at once, so only shared pixels wait for later tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mask2former.config import InferenceConfig, Task
from mask2former.inference.joining import join
from mask2former.inference.tile_grid import Grid, Tile
from mask2former.ops.packed_map import PackedMap
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.postprocessing import remove_overlaps
from mask2former.postprocessing.resampling import first_argmax
from mask2former.structures import Categories, Instances, PanopticSegmentation, Segment, Segmentation
from mask2former.structures.packed_results import PackedPanoptic, PackedSegmentation, PackedSemantic

__all__ = [
    "BlendedScores",
    "JoinedInstances",
    "JoinedSegments",
    "Results",
    "TilePrediction",
    "WholeResult",
    "whole_result",
]

Results = dict[Task, Segmentation]


@dataclass(frozen=True, slots=True)
class TilePrediction:
    """The prediction for a tile.

    Attributes:
        results: of the tasks instance and panoptic, at the size of the tile.
        class_scores: of the task semantic, at the size of the tile.
    """

    results: Results
    class_scores: Float[Tensor, "K h w"] | None = None


class WholeResult(Protocol):
    """The growing result of one task."""

    def take(self, tile: Tile, prediction: TilePrediction) -> None:
        """Add the next tile, in the order of the grid."""
        ...

    def finish(self) -> PackedSegmentation:
        """The result, after the last tile."""
        ...


def whole_result(task: Task, grid: Grid, categories: Categories, settings: InferenceConfig) -> WholeResult:
    """The empty result of a task."""
    kinds = {"panoptic": JoinedSegments, "instance": JoinedInstances, "semantic": BlendedScores}
    return kinds[task](grid, categories, settings)


class JoinedInstances:
    """Joins objects that several tiles show, see :func:`join`, and keeps the best ``max_instances`` of the image.

    Args:
        grid: the grid of tiles.
        categories: the classes of the model.
        settings: ``max_instances``, ``non_overlapping`` and ``overlap_threshold`` are used.
    """

    def __init__(self, grid: Grid, categories: Categories, settings: InferenceConfig) -> None:
        self._grid, self._categories, self._settings = grid, categories, settings
        self._found: list[tuple[Tile, Instances]] = []

    def take(self, tile: Tile, prediction: TilePrediction) -> None:
        instances = prediction.results["instance"]
        assert isinstance(instances, Instances)
        self._found.append((tile, instances))

    def finish(self) -> Instances:
        settings = self._settings
        joined = join(self._found, self._grid.size_hw, self._categories, settings.max_instances)
        self._found.clear()  # as large as the joined result
        return remove_overlaps(joined, settings.overlap_threshold) if settings.non_overlapping else joined


class BlendedScores:
    """The class of every pixel: the largest weighted sum of class scores over all tiles that show it.

    The weight of a tile is 1, and falls linearly over ``overlap`` pixels towards its border, along both axes. Scores
    are kept where later tiles show the same pixels: ``classes x overlap x width`` of the image, and one tile.

    Args:
        grid: the grid of tiles.
        categories: the classes of the scores.
        settings: not used.
    """

    def __init__(self, grid: Grid, categories: Categories, settings: InferenceConfig) -> None:
        self._grid, self._categories = grid, categories
        self._labels = PackedMap(grid.size_hw, np.uint16)
        rows, columns = (np.minimum(side / (grid.overlap + 1), 1) for side in grid.distances())
        self._weights = torch.from_numpy(rows[:, None] * columns)
        self._row = np.empty((0, grid.size_hw[1]), dtype=np.uint16)
        self._shared: Tensor | None = None  # scores of rows of tiles above, until the row below adds its own
        self._rows_above = 0  # rows of it that tiles above show, too
        self._before: Tensor | None = None  # scores for this tile from earlier tiles of its row

    def take(self, tile: Tile, prediction: TilePrediction) -> None:
        scores = prediction.class_scores
        assert scores is not None
        end_row, end_column = self._grid.done(tile)
        rows, columns = end_row - tile.top, end_column - tile.left
        if self._shared is None:
            most = max(one.bottom - self._grid.done(one)[0] for one in self._grid)
            self._shared = scores.new_empty((len(scores), most, self._grid.size_hw[1]))
        blended = scores * self._weights.to(scores)
        if self._before is not None:
            blended[:, :, : self._before.shape[2]] += self._before
        self._before = blended[:, :, columns:].clone()
        done, shared = blended[:, :, :columns], self._shared[:, :, tile.left : end_column]
        done[:, : self._rows_above] += shared[:, : self._rows_above]
        shared[:, : tile.bottom - end_row] = done[:, rows:]
        if tile.left == 0:
            self._row = np.empty((rows, self._grid.size_hw[1]), dtype=np.uint16)
        self._row[:, tile.left : end_column] = first_argmax(done[:, :rows].transpose(0, 1)).cpu().numpy()
        if tile.right == self._grid.size_hw[1]:
            self._labels.append(self._row)
            self._rows_above, self._before = tile.bottom - end_row, None

    def finish(self) -> PackedSemantic:
        return PackedSemantic(self._labels, self._categories)


class JoinedSegments:
    """Joins things that several tiles show, see :func:`join`; stuff of one class is one segment.

    Every pixel of a thing belongs to the best of those that cover it, and a thing that keeps less than
    ``overlap_threshold`` of its mask is dropped. Every other pixel belongs to the stuff that a tile shows there,
    preferably the tile whose border is farthest away (by the product over both axes). So things come before stuff where
    two tiles disagree.

    Args:
        grid: the grid of tiles.
        categories: the classes of the model.
        settings: ``overlap_threshold`` is used.
    """

    def __init__(self, grid: Grid, categories: Categories, settings: InferenceConfig) -> None:
        self._grid, self._categories, self._overlap_threshold = grid, categories, settings.overlap_threshold
        self._things: list[tuple[Tile, Instances]] = []
        self._stuff = PackedMap(grid.size_hw, np.uint16)  # class index plus 1; 0 for none
        self._scores: dict[int, float] = {}  # scores of stuff, by class
        rows, columns = grid.distances()
        self._distances = rows[:, None] * columns
        width = grid.size_hw[1]
        self._labels = np.zeros((grid.tile_hw[0], width), dtype=np.uint16)
        self._nearest = np.zeros((grid.tile_hw[0], width), dtype=np.float32)  # distances for the pixels in labels

    def take(self, tile: Tile, prediction: TilePrediction) -> None:
        result = prediction.results["panoptic"]
        assert isinstance(result, PanopticSegmentation)
        self._things.append((tile, _things(result)))
        label_of = np.zeros(max((segment.id for segment in result.segments), default=0) + 1, dtype=np.uint16)
        for segment in result.segments:
            if not segment.is_thing:
                label_of[segment.id] = segment.label + 1
                self._scores[segment.label] = max(segment.score, self._scores.get(segment.label, 0.0))
        labels, columns = label_of[result.ids], slice(tile.left, tile.right)
        better = (labels > 0) & (self._distances > self._nearest[:, columns])
        np.copyto(self._labels[:, columns], labels, where=better)
        np.copyto(self._nearest[:, columns], self._distances, where=better)
        if tile.right == self._grid.size_hw[1]:
            done = self._grid.done(tile)[0] - tile.top
            self._stuff.append(self._labels[:done])
            for rows in (self._labels, self._nearest):
                rows[: len(rows) - done] = rows[done:].copy()
                rows[len(rows) - done :] = 0

    def finish(self) -> PackedPanoptic:
        """Things in falling order of score, then stuff by class."""
        joined = join(self._things, self._grid.size_hw, self._categories, agreed=True)
        self._things.clear()  # as large as the joined result
        things = remove_overlaps(joined, self._overlap_threshold)
        stuff = sorted(self._scores)
        id_of_stuff = np.zeros(len(self._categories) + 1, dtype=np.int32)
        id_of_stuff[np.array(stuff, dtype=np.int64) + 1] = np.arange(len(stuff)) + len(things) + 1
        ids, areas = PackedMap(self._grid.size_hw, np.int32), np.zeros(len(things) + len(stuff) + 1, dtype=np.int64)
        tops, bottoms = things.boxes[:, 1], things.boxes[:, 3]
        for top, labels in self._stuff.strips():
            rows = id_of_stuff[labels]
            for index in np.flatnonzero((tops < top + len(rows)) & (bottoms > top)).tolist():
                _paint(rows, top, things.sparse, index)
            areas += np.bincount(rows.ravel(), minlength=len(areas))
            ids.append(rows)
        found = [
            *zip(things.labels.tolist(), things.scores.tolist(), strict=True),
            *((label, self._scores[label]) for label in stuff),
        ]
        segments = tuple(
            Segment(number, label, self._categories[label].is_thing, score, area)
            for number, ((label, score), area) in enumerate(zip(found, areas[1:].tolist(), strict=True), start=1)
            if area
        )
        return PackedPanoptic(ids, segments, self._categories)


def _things(result: PanopticSegmentation) -> Instances:
    """The things of a tile as instances."""
    things = sorted((segment for segment in result.segments if segment.is_thing), key=lambda segment: -segment.score)
    masks = SparseMasks.of_ids(result.ids, (segment.id for segment in things))
    labels = np.array([segment.label for segment in things], dtype=np.int64)
    scores = np.array([segment.score for segment in things], dtype=np.float64)
    return Instances(masks, labels, scores, masks.boxes, result.categories)


def _paint(rows: Int[np.ndarray, "rows W"], top: int, masks: SparseMasks, index: int) -> None:
    """Write the number of each mask, from 1, into the rows of an id map that starts at ``top``."""
    mask_top, left, mask = masks[index]
    part = mask[max(0, top - mask_top) : top + len(rows) - mask_top]
    start = max(0, mask_top - top)
    np.copyto(rows[start : start + len(part), left : left + mask.shape[1]], np.int32(index + 1), where=part)
