"""YOLO segmentation labels: a text file of polygons for each image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import chain, pairwise
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import yaml
from jaxtyping import Int64

from mask2former.files import write_whole
from mask2former.notes import note
from mask2former.ops.polygons import Ring
from mask2former.results_io.writing import ResultFolder, file_stem, filled
from mask2former.structures.categories import Categories
from mask2former.structures.results import Segmentation

__all__ = ["YoloFiles", "joined_rings"]

_FEW_CORNERS = 2_000  # of outlines, that are compared with each other one by one
_OF_A_TREE = 256  # corners, of which a search tree is made at least


class YoloFiles(ResultFolder):
    """``labels/X.txt`` for each image and ``data.yaml`` with the names, as Ultralytics and supervision read them.

    A line is the class index and the corners of one polygon, in shares of the width and height. The format knows
    neither holes nor parts: they are joined to the outline by lines of no width, which fills as the mask again. Scores
    have no place in it.

    Args:
        path: the folder; it is made.
        categories: the classes of the model.
        names: image file names by image id. A note counts the images whose labels have another name than programs look
            for, which is that of the image without its suffix.
    """

    def __init__(
        self, path: str | os.PathLike[str], categories: Categories, names: Mapping[int | str, str] | None = None
    ) -> None:
        super().__init__(path)
        self.classes, self.names = categories.names, names or {}

    def add(self, image_id: int | str, result: Segmentation) -> None:
        """Write the labels of one image."""
        self.once(image_id)
        name = self.names.get(image_id)
        if name is not None and PurePosixPath(name).with_suffix("").as_posix() != file_stem(image_id):
            note(
                "images whose labels have another name, so that YOLO programs do not find them (rename the images)",
                f"'{name}' (labels/{file_stem(image_id)}.txt)",
            )
        height, width = result.size_hw
        lines = []
        for item in filled(result):
            rings = [ring for polygon in item.polygons for ring in polygon]
            if len(rings) > 1:
                note("masks with holes or of several parts, which YOLO labels store as one joined polygon", item.name)
            corners = joined_rings(rings) / np.array([width, height])
            lines.append(f"{item.label} {' '.join(f'{value:.6f}' for value in corners.ravel())}\n")
        text = "".join(lines)
        target = self.path / "labels" / f"{file_stem(image_id)}.txt"
        write_whole(target, lambda file: file.write_text(text, encoding="utf-8"))
        if not self.count:
            values = {"path": ".", "train": "images", "val": "images", "names": dict(enumerate(self.classes))}
            content = yaml.safe_dump(values, sort_keys=False)
            write_whole(self.path / "data.yaml", lambda file: file.write_text(content, encoding="utf-8"))
        self.count += 1


def joined_rings(rings: list[Ring]) -> Int64[np.ndarray, "corners 2"]:
    """Several outlines as one: each is reached from its nearest corner of those before, and left the same way."""
    if sum(map(len, rings)) > _FEW_CORNERS:
        return _joined_many(rings)
    joined = rings[0]
    for ring in rings[1:]:
        steps = np.abs(joined[:, None] - ring[None]).sum(axis=2)
        here, there = divmod(int(steps.argmin()), len(ring))
        around = np.concatenate([ring[there:], ring[: there + 1]])
        joined = np.concatenate([joined[: here + 1], around, joined[here:]])
    return joined


def _joined_many(rings: list[Ring]) -> Int64[np.ndarray, "corners 2"]:
    """The same of any number, where comparing each ring with all corners before it would take hours."""
    corners = np.concatenate(rings)
    starts = np.cumsum([0, *map(len, rings)]).tolist()
    known = _Corners(corners)
    reached: dict[int, list[tuple[int, int]]] = {}  # by corner: rings that it leads to, and at which of their corners
    for number, (start, end) in enumerate(pairwise(starts)):
        if number:
            here, there = known.nearest(start, end)
            reached.setdefault(here, []).append((number, there))
        known.add(end)

    path: list[int] = []
    ways: list[Iterator[int]] = [iter(range(starts[1]))]
    while ways:
        for corner in ways[-1]:
            path.append(corner)
            if corner in reached:
                for number, there in reached.pop(corner):
                    around = chain(range(there, starts[number + 1]), range(starts[number], there + 1))
                    ways += iter([corner]), around
                break
        else:
            ways.pop()
    return corners[path]


class _Corners:
    """The first corners of a list, of which more and more are known, in search trees of doubling sizes."""

    def __init__(self, corners: Int64[np.ndarray, "N 2"]) -> None:
        self._corners = corners
        self._trees: list[tuple[int, int, Any]] = []  # start, end and tree
        self._indexed = self._known = 0

    def add(self, end: int) -> None:
        """All corners before this one are known now."""
        from scipy.spatial import KDTree  # takes a while to import

        self._known = end
        if end - self._indexed < _OF_A_TREE:
            return
        start = self._indexed
        while self._trees and self._trees[-1][1] - self._trees[-1][0] <= end - start:
            start = self._trees.pop()[0]
        self._trees.append((start, end, KDTree(self._corners[start:end])))
        self._indexed = end

    def nearest(self, start: int, end: int) -> tuple[int, int]:
        """Of known corners and those of a ring, the two that are nearest to each other, along the axes."""
        ring, found = self._corners[start:end], []
        for first, _, tree in self._trees:
            steps, where = tree.query(ring, p=1)
            best = int(steps.argmin())
            found.append((float(steps[best]), first + int(where[best]), start + best))
        if self._indexed < self._known:
            steps = np.abs(self._corners[self._indexed : self._known, None] - ring[None]).sum(axis=2)
            here, there = divmod(int(steps.argmin()), len(ring))
            found.append((float(steps[here, there]), self._indexed + here, start + there))
        _, here, there = min(found)
        return here, there
