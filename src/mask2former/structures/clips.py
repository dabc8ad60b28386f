"""What a model predicts for a whole clip: tracks, each one object with a mask per frame.

Knows neither how the tracks were made nor where the frames come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float64, Int64
from PIL import Image

from mask2former import visualization
from mask2former.ops.sparse_masks import AnyTracks, SparseMasks, frames_of
from mask2former.structures.categories import Categories
from mask2former.structures.result_base import SCHEMA_VERSION, Ranked, counted_labels
from mask2former.structures.results import Instances

__all__ = ["VideoInstances"]


@dataclass(frozen=True, slots=True, eq=False, init=False, repr=False)
class VideoInstances(Ranked):
    """Objects tracked through a clip, the highest score first; they may overlap, and be out of view in some frames.

    Attributes:
        sparse: for each frame one binary mask per object, as its box and the pixels inside; memory grows with the
            objects, not the frames.
        labels: class indices; an object has one class for the whole clip.
        scores: class probability in 0..1, descending.
        categories: the classes that ``labels`` indexes.
    """

    sparse: tuple[SparseMasks, ...]
    labels: Int64[np.ndarray, " N"]
    scores: Float64[np.ndarray, " N"]
    categories: Categories

    task: ClassVar[str] = "instance"

    def __init__(
        self,
        masks: AnyTracks,
        labels: Int64[np.ndarray, " N"],
        scores: Float64[np.ndarray, " N"],
        categories: Categories,
    ) -> None:
        frames = frames_of(masks)
        assert frames, "a clip has at least one frame"
        for item, value in zip(fields(self), (frames, labels, scores, categories), strict=True):
            object.__setattr__(self, item.name, value)  # it is frozen
        self._check(len(frames[0]))

    @property
    def masks(self) -> Bool[np.ndarray, "N T H W"]:
        """One binary mask per object and frame: a large array, computed at every access."""
        return np.stack([masks.dense() for masks in self.sparse], axis=1)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        height, width = self.size_hw
        extent = f"{self.num_frames} frames of {height}x{width} pixels"
        return f"VideoInstances({counted_labels(self.labels.tolist(), self.categories, extent)})"

    @property
    def num_frames(self) -> int:
        return len(self.sparse)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.sparse[0].size_hw

    def _part(self, rows: slice | Int64[np.ndarray, " n"]) -> VideoInstances:
        frames = [masks.take(rows) for masks in self.sparse]
        return VideoInstances(frames, self.labels[rows], self.scores[rows], self.categories)

    def frame(self, index: int) -> Instances:
        """All tracks in one frame, in the same order; the mask of a track that is out of view is empty."""
        masks = self.sparse[index]
        return Instances(masks, self.labels, self.scores, masks.boxes, self.categories)

    def plot(
        self,
        frames: Iterable[visualization.ImageLike],
        *,
        scale: int | None = 1,
        labels: bool = True,
        threshold: float = 0.0,
    ) -> Iterator[Image.Image]:
        """The frames, one at a time, with the tracks drawn on them; a track keeps its colour.

        Args:
            frames: as many as the clip has.
            scale: enlarges small images first; None: enough for names to be legible.
            labels: whether names and scores, or counts, are written.
            threshold: tracks with a lower score are left out.

        Raises:
            UserError: a frame has another size than the result.
        """
        shown = self.at_least(threshold)
        classes, regions = shown.labels.tolist(), []
        for label, score, rank in zip(classes, shown.scores.tolist(), visualization.ranks(classes), strict=True):
            item = self.categories[label]
            regions.append(visualization.Region(item.name, item.color, score, label, variant=rank))
        for masks, image in zip(shown.sparse, frames, strict=True):
            yield visualization.overlay_instances(image, masks, regions, scale=scale, labels=labels)

    def to_ytvis(self, video_id: int | str) -> list[dict[str, Any]]:
        """The records of a YouTube-VIS results file: one encoding per frame, also for empty masks.

        Category ids are those of the data set.
        """
        rows = zip(self.labels, self.scores, self._encoded(), strict=True)
        return [
            {
                "video_id": video_id,
                "score": float(score),
                "category_id": self.categories[label].id,
                "segmentations": rles,
            }
            for label, score, rles in rows
        ]

    def _encoded(self) -> list[list[dict[str, Any]]]:
        """One encoding per frame of each track."""
        frames = [masks.encode() for masks in self.sparse]
        return [[frame[row] for frame in frames] for row in range(len(self))]

    def to_dict(self, *, model: str | None = None, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The result as plain values for JSON; masks are COCO run-length encodings, None where a track is out of sight.

        ``model`` and ``settings`` say what produced it and are passed through.
        """
        height, width = self.size_hw
        head = {"schema_version": SCHEMA_VERSION, "task": self.task, "model": model, "settings": dict(settings or {})}
        tracks = []
        every = np.stack([masks.areas for masks in self.sparse], axis=1).tolist()
        for label, score, areas, encoded in zip(self.labels, self.scores, every, self._encoded(), strict=True):
            rles = [rle if area else None for rle, area in zip(encoded, areas, strict=True)]
            item = self.categories[label]
            tracks.append(
                {
                    "category_id": item.id,
                    "category_name": item.name,
                    "score": float(score),
                    "areas": areas,
                    "segmentations": rles,
                }
            )
        return {**head, "size": [height, width], "num_frames": self.num_frames, "tracks": tracks}
