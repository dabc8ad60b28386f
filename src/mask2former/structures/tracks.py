"""One frame of a clip of any length: which tracks are in it, where, and their classes.

A frame contains only its own tracks, so that endless clips need no more memory than short ones. Knows neither how the
tracks were made nor where the frames come from.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from PIL import Image

from mask2former import visualization
from mask2former.ops import masks as mask_ops
from mask2former.ops.sparse_masks import AnyMasks, SparseMasks
from mask2former.pixels import displayed
from mask2former.structures.categories import Categories
from mask2former.structures.results import PanopticSegmentation
from mask2former.structures.tables import ROW_COLUMNS, table_rows

__all__ = ["TRACK_COLUMNS", "TrackedFrame"]

TRACK_COLUMNS = ("frame", "seconds", "track_id", *ROW_COLUMNS[1:])
"""The keys of the rows of a frame, in the order of columns."""


@dataclass(frozen=True, slots=True, eq=False, init=False)
class TrackedFrame:
    """The tracks of one frame, by ascending id.

    Attributes:
        image: the frame itself.
        index: its index among the frames that were read, from 0.
        seconds: its time in the source.
        track_ids: from 1; an object has the same id in all frames.
        sparse: masks, each as its box and the pixels inside; empty where a track is out of view or hidden.
        labels: class indices, from what was seen of the track so far.
        scores: class probability in 0..1, the mean over what was seen of the track so far.
        probabilities: of the classes, from this frame's window alone; the remainder to 1 is "no object".
        categories: the classes that ``labels`` count.
        panoptic: for video panoptic, every pixel of the frame: stuff of class k has the id k + 1, the thing of track n
            the id K + n. The masks are those of its things.
    """

    image: UInt8[np.ndarray, "H W C"]
    index: int
    seconds: float
    track_ids: Int64[np.ndarray, " N"]
    sparse: SparseMasks
    labels: Int64[np.ndarray, " N"]
    scores: Float64[np.ndarray, " N"]
    probabilities: Float32[np.ndarray, "N K"]
    categories: Categories
    panoptic: PanopticSegmentation | None

    def __init__(
        self,
        image: UInt8[np.ndarray, "H W C"],
        index: int,
        seconds: float,
        track_ids: Int64[np.ndarray, " N"],
        masks: AnyMasks,
        labels: Int64[np.ndarray, " N"],
        scores: Float64[np.ndarray, " N"],
        probabilities: Float32[np.ndarray, "N K"],
        categories: Categories,
        panoptic: PanopticSegmentation | None = None,
    ) -> None:
        count, sparse = len(track_ids), SparseMasks.of(masks)
        assert index >= 0
        assert sparse.size_hw == image.shape[:2], (sparse.size_hw, image.shape)
        assert len(sparse) == len(labels) == len(scores) == len(probabilities) == count
        assert probabilities.shape[1] == len(categories)
        assert count == 0 or track_ids[0] >= 1
        assert bool((np.diff(track_ids) > 0).all()), "track ids rise"
        values = (image, index, seconds, track_ids, sparse, labels, scores, probabilities, categories, panoptic)
        for item, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, item.name, value)  # it is frozen

    @property
    def masks(self) -> Bool[np.ndarray, "N H W"]:
        """One binary mask per track: an array that is created at each access."""
        return self.sparse.dense()

    def __len__(self) -> int:
        return len(self.track_ids)

    @property
    def task(self) -> Literal["panoptic", "instance"]:
        return "instance" if self.panoptic is None else "panoptic"

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.sparse.size_hw

    def plot(self, *, scale: int | None = 1, labels: bool = True) -> Image.Image:
        """The frame with everything drawn on it; a track keeps the colour of its id in every frame.

        Args:
            scale: enlarges small images first; None: so that names can be read.
            labels: whether names and ids are written.
        """
        if self.panoptic is None:
            regions = [self._region(*row) for row in zip(self.track_ids.tolist(), self.labels.tolist(), strict=True)]
            return visualization.overlay_instances(
                displayed(self.image), self.sparse, regions, scale=scale, labels=labels
            )
        offset = len(self.categories)
        regions = [
            self._region(segment.id - offset if segment.is_thing else None, segment.label)
            for segment in self.panoptic.segments
        ]
        numbers = [segment.id for segment in self.panoptic.segments]
        return visualization.overlay_panoptic(
            displayed(self.image), self.panoptic.ids, numbers, regions, scale=scale, labels=labels
        )

    def _region(self, track: int | None, label: int) -> visualization.Region:
        item = self.categories[label]
        name = item.name if track is None else f"{item.name} {track}"
        return visualization.Region(name, item.color, None, label, is_thing=track is not None, identity=track)

    def to_dict(self) -> dict[str, Any]:
        """The frame as plain values for JSON; tracks without a pixel are left out.

        Masks are COCO run-length encodings, boxes are (x, y, w, h) in pixels; stuff has the ``track_id`` None.
        """
        rows = zip(self.track_ids.tolist(), self.labels.tolist(), self.scores.tolist(), self.sparse, strict=True)
        objects = [self._record(*row) for row in rows if row[-1].mask.size]
        if self.panoptic is not None:
            both = zip(self.panoptic.segments, self.panoptic.sparse, strict=True)
            objects += [self._record(None, item.label, item.score, patch) for item, patch in both if not item.is_thing]
        return {"index": self.index, "seconds": round(self.seconds, 6), "objects": objects}

    def rows(self) -> list[dict[str, Any]]:
        """A flat record for each object, as in :meth:`to_dict`, with the keys :data:`TRACK_COLUMNS`: for tables.

        See :meth:`~mask2former.structures.results.PanopticSegmentation.rows`; ``track_id`` is None for stuff.
        """
        entries = zip(self.track_ids.tolist(), self.labels.tolist(), self.scores.tolist(), strict=True)
        rows = table_rows(entries, self.sparse, self.categories)
        if self.panoptic is not None:
            rows += [{**row, "id": None} for row in self.panoptic.rows() if not row["is_thing"]]
        head = {"frame": self.index, "seconds": round(self.seconds, 6)}
        return [{**head, "track_id": row.pop("id"), **row} for row in rows if row["area"]]

    def _record(self, track: int | None, label: int, score: float, patch: mask_ops.Patch) -> dict[str, Any]:
        height, width = patch.mask.shape
        item = self.categories[label]
        return {
            "track_id": track,
            "category_id": item.id,
            "category_name": item.name,
            "score": float(score),
            "area": int(np.count_nonzero(patch.mask)),
            "bbox": [float(side) for side in (patch.left, patch.top, width, height)],
            "segmentation": mask_ops.encode_patch(patch, self.size_hw),
        }
