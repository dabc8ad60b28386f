"""One frame of a clip of any length: which tracks are in it, where, and what they are.

A frame knows its own tracks only, so that clips without end need no more memory than short ones. Knows neither how the
tracks were made nor where the frames come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from PIL import Image

from mask2former import visualization
from mask2former.ops import masks as mask_ops
from mask2former.structures.categories import Categories
from mask2former.structures.results import PanopticSegmentation

__all__ = ["TrackedFrame"]


@dataclass(frozen=True, slots=True, eq=False)
class TrackedFrame:
    """The tracks of one frame, by rising id.

    Attributes:
        image: the frame itself.
        index: its place among the frames that were read, from 0.
        seconds: its time in the source.
        track_ids: from 1; an object has the same id in all frames.
        masks: empty where a track is out of sight or hidden.
        labels: class indices, from what was seen of the track so far.
        scores: class probability in 0..1, the mean over what was seen of the track so far.
        probabilities: of the classes, from this frame's window alone; what is missing to 1 is "no object".
        categories: the classes that ``labels`` count.
        panoptic: for video panoptic, every pixel of the frame: stuff of class k has the id k + 1, the thing of track n
            the id K + n. The masks are those of its things.
    """

    image: UInt8[np.ndarray, "H W 3"]
    index: int
    seconds: float
    track_ids: Int64[np.ndarray, " N"]
    masks: Bool[np.ndarray, "N H W"]
    labels: Int64[np.ndarray, " N"]
    scores: Float64[np.ndarray, " N"]
    probabilities: Float32[np.ndarray, "N K"]
    categories: Categories
    panoptic: PanopticSegmentation | None = None

    def __post_init__(self) -> None:
        count = len(self.track_ids)
        assert self.index >= 0
        assert (self.masks.ndim, self.masks.dtype) == (3, bool), (self.masks.shape, self.masks.dtype)
        assert self.masks.shape[1:] == self.image.shape[:2], (self.masks.shape, self.image.shape)
        assert len(self.masks) == len(self.labels) == len(self.scores) == len(self.probabilities) == count
        assert self.probabilities.shape[1] == len(self.categories)
        assert count == 0 or self.track_ids[0] >= 1
        assert bool((np.diff(self.track_ids) > 0).all()), "track ids rise"

    def __len__(self) -> int:
        return len(self.track_ids)

    @property
    def task(self) -> Literal["panoptic", "instance"]:
        return "instance" if self.panoptic is None else "panoptic"

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.masks.shape[1], self.masks.shape[2]

    def plot(self, *, scale: int | None = 1, labels: bool = True) -> Image.Image:
        """The frame with everything drawn on it; a track has the colour of its id in every frame.

        Args:
            scale: enlarges small images first; None: so that names can be read.
            labels: whether names and ids are written.
        """
        if self.panoptic is None:
            regions = [self._region(*row) for row in zip(self.track_ids.tolist(), self.labels.tolist(), strict=True)]
            return visualization.overlay_instances(self.image, self.masks, regions, scale=scale, labels=labels)
        offset = len(self.categories)
        regions = [
            self._region(segment.id - offset if segment.is_thing else None, segment.label)
            for segment in self.panoptic.segments
        ]
        numbers = [segment.id for segment in self.panoptic.segments]
        return visualization.overlay_panoptic(self.image, self.panoptic.ids, numbers, regions, scale=scale, labels=labels)

    def _region(self, track: int | None, label: int) -> visualization.Region:
        item = self.categories[label]
        name = item.name if track is None else f"{item.name} {track}"
        return visualization.Region(name, item.color, None, label, is_thing=track is not None, identity=track)

    def to_dict(self) -> dict[str, Any]:
        """The frame as plain values for JSON; tracks without a pixel are left out.

        Masks are COCO run-length encodings, boxes are (x, y, w, h) in pixels; stuff has the ``track_id`` None.
        """
        seen = np.flatnonzero(self.masks.any(axis=(1, 2)))
        objects = [
            self._record(int(self.track_ids[row]), int(self.labels[row]), float(self.scores[row]), self.masks[row])
            for row in seen
        ]
        if self.panoptic is not None:
            objects += [
                self._record(None, segment.label, segment.score, self.panoptic.ids == segment.id)
                for segment in self.panoptic.segments
                if not segment.is_thing
            ]
        return {"index": self.index, "seconds": round(self.seconds, 6), "objects": objects}

    def _record(self, track: int | None, label: int, score: float, mask: Bool[np.ndarray, "H W"]) -> dict[str, Any]:
        left, top, right, bottom = mask_ops.boxes_xyxy(mask[None])[0].tolist()
        item = self.categories[label]
        return {
            "track_id": track,
            "category_id": item.id,
            "category_name": item.name,
            "score": float(score),
            "area": int(np.count_nonzero(mask)),
            "bbox": [left, top, right - left, bottom - top],
            "segmentation": mask_ops.encode(mask[None])[0],
        }
