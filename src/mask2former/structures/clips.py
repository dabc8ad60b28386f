"""What a model answers for a whole clip: tracks, each one object with a mask per frame.

Knows neither how the tracks were made nor where the frames come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float64, Int64
from PIL import Image

from mask2former import visualization
from mask2former.ops import masks as mask_ops
from mask2former.structures.categories import Categories
from mask2former.structures.results import SCHEMA_VERSION, Instances

__all__ = ["VideoInstances"]


@dataclass(frozen=True, slots=True, eq=False)
class VideoInstances:
    """Objects followed through a clip, the most certain first; they may overlap and be out of sight in frames.

    Attributes:
        masks: one binary mask per object and frame.
        labels: class indices; an object has one class for the whole clip.
        scores: class probability in 0..1, descending.
        categories: the classes that ``labels`` count.
    """

    masks: Bool[np.ndarray, "N T H W"]
    labels: Int64[np.ndarray, " N"]
    scores: Float64[np.ndarray, " N"]
    categories: Categories

    task: ClassVar[str] = "instance"

    def __post_init__(self) -> None:
        count = len(self.masks)
        assert (self.masks.ndim, self.masks.dtype) == (4, bool), (self.masks.shape, self.masks.dtype)
        assert (self.labels.shape, self.labels.dtype) == ((count,), np.int64), (self.labels.shape, self.labels.dtype)
        assert (self.scores.shape, self.scores.dtype) == ((count,), np.float64), (self.scores.shape, self.scores.dtype)
        assert bool((self.scores[1:] <= self.scores[:-1]).all()), "tracks are sorted by score, descending"
        assert not count or 0 <= self.labels.min() <= self.labels.max() < len(self.categories)

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def num_frames(self) -> int:
        return self.masks.shape[1]

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.masks.shape[2], self.masks.shape[3]

    def above(self, threshold: float) -> VideoInstances:
        """Only the tracks whose score is greater than ``threshold``."""
        return self._best(int((self.scores > threshold).sum()))

    def at_least(self, threshold: float) -> VideoInstances:
        """Only the tracks whose score is ``threshold`` or greater."""
        return self._best(int((self.scores >= threshold).sum()))

    def _best(self, count: int) -> VideoInstances:
        """The first ones: they are sorted."""
        return VideoInstances(self.masks[:count], self.labels[:count], self.scores[:count], self.categories)

    def frame(self, index: int) -> Instances:
        """All tracks in one frame, in the same order; where one is out of sight its mask is empty."""
        masks = self.masks[:, index]
        return Instances(masks, self.labels, self.scores, mask_ops.boxes_xyxy(masks), self.categories)

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
            scale: enlarges small images first; None: so that names can be read.
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
        for masks, image in zip(shown.masks.swapaxes(0, 1), frames, strict=True):
            yield visualization.overlay_instances(image, masks, regions, scale=scale, labels=labels)

    def to_ytvis(self, video_id: int | str) -> list[dict[str, Any]]:
        """The records of a YouTube-VIS results file: one encoding per frame, also for empty masks.

        Category ids are those of the data set.
        """
        return [
            {
                "video_id": video_id,
                "score": float(score),
                "category_id": self.categories[label].id,
                "segmentations": mask_ops.encode(masks),
            }
            for label, score, masks in zip(self.labels, self.scores, self.masks, strict=True)
        ]

    def to_dict(self, *, model: str | None = None, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The result as plain values for JSON; masks are COCO run-length encodings, None where a track is not.

        ``model`` and ``settings`` say what made it and are passed through.
        """
        height, width = self.size_hw
        head = {"schema_version": SCHEMA_VERSION, "task": self.task, "model": model, "settings": dict(settings or {})}
        tracks = []
        for label, score, masks in zip(self.labels, self.scores, self.masks, strict=True):
            areas = mask_ops.areas(masks).tolist()
            rles = [rle if area else None for rle, area in zip(mask_ops.encode(masks), areas, strict=True)]
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
