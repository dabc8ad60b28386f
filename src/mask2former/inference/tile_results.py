"""One result for an image from the predictions of its tiles, one class per task; tiles arrive row by row.

Pixels that no later tile shows are decided at once and compressed, so that only shared pixels wait for the next tiles.
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
    """The output of the network for a tile.

    Attributes:
        results: of the tasks instance and panoptic, at the size of the tile.
        class_scores: of the task semantic, likewise.
    """

    results: Results
    class_scores: Float[Tensor, "K h w"] | None = None


class WholeResult(Protocol):
    """The result of one task, built up tile by tile."""

    def take(self, tile: Tile, prediction: TilePrediction) -> None:
        """The next tile, in the order of the grid."""
        ...

    def finish(self) -> PackedSegmentation:
        """The result, after the last tile."""
        ...


def whole_result(task: Task, grid: Grid, categories: Categories, settings: InferenceConfig) -> WholeResult:
    """The empty result of a task."""
    kinds = {"panoptic": JoinedSegments, "instance": JoinedInstances, "semantic": BlendedScores}
    return kinds[task](grid, categories, settings)


class JoinedInstances:
    """Objects visible in several tiles are merged by :func:`join`; the best ``max_instances`` of the image are kept.

    Args:
        grid: of the tiles.
        categories: the classes of the model.
        settings: of which ``max_instances``, ``non_overlapping`` and ``overlap_threshold`` count.
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
        self._found.clear()  # they are as large as what was made of them
        return remove_overlaps(joined, settings.overlap_threshold) if settings.non_overlapping else joined


class BlendedScores:
    """The class of every pixel: the largest of the class scores of all tiles that show it, weighted and added.

    The weight of a tile is 1, and falls linearly over ``overlap`` pixels towards its border, along both axes. Scores
    are held where later tiles show the same pixels: ``classes x overlap x width`` of the image, and one tile.

    Args:
        grid: of the tiles.
        categories: the classes of the scores.
        settings: no more are needed here.
    """

    def __init__(self, grid: Grid, categories: Categories, settings: InferenceConfig) -> None:
        self._grid, self._categories = grid, categories
        self._labels = PackedMap(grid.size_hw, np.uint16)
        rows, columns = (np.minimum(side / (grid.overlap + 1), 1) for side in grid.distances())
        self._weights = torch.from_numpy(rows[:, None] * columns)
        self._row = np.empty((0, grid.size_hw[1]), dtype=np.uint16)
        self._shared: Tensor | None = None  # by rows of tiles: what those above say until the one below says more
        self._rows_above = 0  # of it, that the rows of tiles above show, too
        self._before: Tensor | None = None  # what earlier tiles of this row say of this one

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
    """Things that several tiles show become one, as :func:`join` decides; stuff of one class is one segment.

    Every pixel of a thing belongs to the best of those that cover it, and what keeps less than ``overlap_threshold``
    of its mask is dropped. Every other pixel is of the stuff that tiles show there, that of the tile whose border is
    farthest away (along both axes: the product counts). So things come before stuff where two tiles disagree.

    Args:
        grid: of the tiles.
        categories: the classes of the model.
        settings: of which ``overlap_threshold`` counts.
    """

    def __init__(self, grid: Grid, categories: Categories, settings: InferenceConfig) -> None:
        self._grid, self._categories, self._overlap_threshold = grid, categories, settings.overlap_threshold
        self._things: list[tuple[Tile, Instances]] = []
        self._stuff = PackedMap(grid.size_hw, np.uint16)  # class index plus 1; 0 is none
        self._scores: dict[int, float] = {}  # of stuff, by class
        rows, columns = grid.distances()
        self._distances = rows[:, None] * columns
        width = grid.size_hw[1]
        self._top = 0
        self._labels = np.zeros((grid.tile_hw[0], width), dtype=np.uint16)
        self._nearest = np.zeros((grid.tile_hw[0], width), dtype=np.float32)  # distances of what is in labels

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
        """Things by falling score, then stuff by class."""
        joined = join(self._things, self._grid.size_hw, self._categories, agreed=True)
        self._things.clear()  # they are as large as what was made of them
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
    """Write the number of a mask, from 1, into the rows of an id map that begin at ``top``."""
    mask_top, left, mask = masks[index]
    part = mask[max(0, top - mask_top) : top + len(rows) - mask_top]
    start = max(0, mask_top - top)
    np.copyto(rows[start : start + len(part), left : left + mask.shape[1]], np.int32(index + 1), where=part)
