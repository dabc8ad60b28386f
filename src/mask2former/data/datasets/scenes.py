"""Scenes and clips of scenes as map-style data sets of samples, drawn on demand.

Frames become tensors with one mask per segment here; drawing them happens elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from mask2former.config import MetricStyle, Task
from mask2former.data.annotated import Annotated
from mask2former.data.clips import AnnotatedClip
from mask2former.data.label_maps import remap
from mask2former.data.sequence import SampleSequence
from mask2former.errors import UserError
from mask2former.scenes.classes import SCENE_CATEGORIES
from mask2former.scenes.rendering import SceneFrame, check_request, draw_clip, draw_scene
from mask2former.structures import Sample, Target
from mask2former.structures.ground_truth import ground_truths_of_target

__all__ = ["SceneClips", "Scenes"]


def _sample(frames: Sequence[SceneFrame], name: str) -> Sample:
    """Image uint8 (T, 3, H, W), masks bool (N, T, H, W), ``info["ids"]`` int32 (T, H, W)."""
    image = torch.from_numpy(np.stack([frame.image.transpose(2, 0, 1) for frame in frames]))
    ids = torch.from_numpy(np.stack([frame.ids for frame in frames]))
    segments = frames[0].segments
    labels = torch.tensor([label for _, label in segments], dtype=torch.int64)
    numbers = torch.tensor([number for number, _ in segments], dtype=torch.int32)
    return Sample(image, Target(labels, ids[None] == numbers[:, None, None, None]), name, {"ids": ids})


class _Drawings(SampleSequence):
    """Samples created on demand; sample i has the seed ``seed + i``."""

    categories = SCENE_CATEGORIES
    has_ground_truth = True
    metric_style: MetricStyle = "coco"
    notes: tuple[str, ...] = ()
    num_objects = None  # they would have to be drawn
    counted = "scene"
    is_clip = False

    def __init__(self, image_size: int | tuple[int, int], seed: int = 0, length: int = 1000) -> None:
        self.size_hw = (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])
        self.seed = seed
        self.length = length
        check_request(seed, self.size_hw)
        if length < 0:
            raise UserError(f"the number of scenes must not be negative, got {length}")

    def __len__(self) -> int:
        return self.length

    def wide(self) -> Bool[np.ndarray, " I"]:
        """Which scenes are wider than high: all or none."""
        return np.full(len(self), self.size_hw[1] > self.size_hw[0])

    def ground_truths(self, index: int, tasks: Sequence[Task]) -> dict[Task, Any]:
        """Every pixel belongs to a segment, whose id stays the same throughout a clip; there are no crowds."""
        target = self[index].target
        assert target is not None
        return ground_truths_of_target(target, tasks, self.categories, is_clip=self.is_clip)


class Scenes(_Drawings):
    """Endless images, as a map-style data set with ``length`` samples named ``scene-{seed + index}``.

    Args:
        image_size: side in pixels, or (height, width).
        seed: seed of the first scene; keep training and evaluation seeds apart.
        length: number of samples.

    Raises:
        UserError: a negative seed or length, or an impossible size.
    """

    tasks: tuple[Task, ...] = ("panoptic", "instance", "semantic")

    def sample(self, position: int) -> Sample:
        seed = self.seed + position
        return _sample([draw_scene(seed, self.size_hw)], f"scene-{seed}")

    def image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        return draw_scene(self.seed + index, self.size_hw).image

    def image_id(self, index: int) -> int:
        return index

    def annotated(self, index: int, *, with_ignored: bool = False) -> Annotated:
        """The image and its segments as one id map; every pixel belongs to a segment, so nothing is ignored."""
        frame = draw_scene(self.seed + index, self.size_hw)
        ids = remap(frame.ids, {number: position for position, (number, _) in enumerate(frame.segments, start=1)}, 0)
        labels = np.array([label for _, label in frame.segments], dtype=np.int64)
        return Annotated(frame.image, labels, ids=ids, name=f"scene-{self.seed + index}", info={"image_id": index})


class SceneClips(_Drawings):
    """Like :class:`Scenes`, with ``num_frames`` frames each; the mask of a thing is empty where it is out of view.

    Also a :class:`~mask2former.data.clips.ClipSet`, with stuff among the objects that are learned but not among the
    tracks of the ground truth.
    """

    tasks: tuple[Task, ...] = ("instance", "panoptic")
    metric_style: MetricStyle = "youtube-vis"
    is_clip = True

    def __init__(
        self, image_size: int | tuple[int, int], num_frames: int = 8, seed: int = 0, length: int = 1000
    ) -> None:
        super().__init__(image_size, seed, length)
        self.num_frames = num_frames
        if num_frames < 1:
            raise UserError(f"a clip needs at least one frame, got {num_frames}")

    def sample(self, position: int) -> Sample:
        seed = self.seed + position
        return _sample(draw_clip(seed, self.size_hw, self.num_frames), f"scene-clip-{seed}")

    def clip_length(self, index: int) -> int:
        return self.num_frames

    def image_id(self, index: int) -> int:
        """The seed of the clip."""
        return self.seed + index

    def images(self, index: int) -> list[UInt8[np.ndarray, "H W 3"]]:
        """All frames of a clip."""
        return [frame.image for frame in draw_clip(self.image_id(index), self.size_hw, self.num_frames)]

    def annotated(self, index: int, indices: Sequence[int], *, with_ignored: bool = False) -> AnnotatedClip:
        """Some frames of a clip, drawn alone, with nothing to ignore.

        Every segment counts as annotated where it has pixels.
        """
        frames = draw_clip(self.image_id(index), self.size_hw, indices)
        numbers = np.array([number for number, _ in frames[0].segments])
        labels = np.array([label for _, label in frames[0].segments], dtype=np.int64)
        present = np.stack([np.isin(numbers, frame.ids) for frame in frames], axis=1)
        name = f"scene-clip-{self.image_id(index)}"
        # Segment ids count from 1 in the order of the list, which is what an id map of objects is.
        return AnnotatedClip([Annotated(frame.image, labels, {}, frame.ids, name=name) for frame in frames], present)
