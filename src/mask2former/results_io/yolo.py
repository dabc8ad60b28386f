"""YOLO segmentation labels: a text file of polygons for each image."""

from __future__ import annotations

import json
import os

import numpy as np
from jaxtyping import Int64

from mask2former.files import write_whole
from mask2former.notes import note
from mask2former.ops.polygons import Ring
from mask2former.results_io.writing import ResultFolder, file_stem
from mask2former.structures.categories import Categories
from mask2former.structures.results import Segmentation

__all__ = ["YoloFiles", "joined_rings"]


class YoloFiles(ResultFolder):
    """``labels/X.txt`` for each image and ``data.yaml`` with the names, as Ultralytics and supervision read them.

    A line is the class index and the corners of one polygon, in shares of the width and height. The format knows
    neither holes nor parts: they are joined to the outline by lines of no width, which fills as the mask again. Scores
    have no place in it.

    Args:
        path: the folder; it is made.
        categories: the classes of the model.
    """

    def __init__(self, path: str | os.PathLike[str], categories: Categories) -> None:
        super().__init__(path, {})
        self.names = categories.names

    def add(self, image_id: int | str, result: Segmentation) -> None:
        """Write the labels of one image."""
        self.once(image_id)
        height, width = result.size_hw
        lines = []
        for item in result:
            if not item.patch.mask.size:
                continue
            rings = [ring for polygon in item.polygons for ring in polygon]
            if len(rings) > 1:
                note("masks with holes or of several parts, which YOLO's labels hold as one joined polygon", item.name)
            corners = joined_rings(rings) / np.array([width, height])
            lines.append(f"{item.label} {' '.join(f'{value:.6f}' for value in corners.ravel())}\n")
        text = "".join(lines)
        target = self.path / "labels" / f"{file_stem(image_id)}.txt"
        write_whole(target, lambda file: file.write_text(text, encoding="utf-8"))
        if not self.count:
            # JSON text is YAML, whatever a name holds.
            names = "".join(f"  {index}: {json.dumps(name)}\n" for index, name in enumerate(self.names))
            yaml = f"path: .\ntrain: images\nval: images\nnames:\n{names}"
            write_whole(self.path / "data.yaml", lambda file: file.write_text(yaml, encoding="utf-8"))
        self.count += 1


def joined_rings(rings: list[Ring]) -> Int64[np.ndarray, "corners 2"]:
    """Several outlines as one: each is reached from its nearest corner of those before, and left the same way."""
    joined = rings[0]
    for ring in rings[1:]:
        steps = np.abs(joined[:, None] - ring[None]).sum(axis=2)
        here, there = divmod(int(steps.argmin()), len(ring))
        around = np.concatenate([ring[there:], ring[: there + 1]])
        joined = np.concatenate([joined[: here + 1], around, joined[here:]])
    return joined
