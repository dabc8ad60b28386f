"""Scenes and clips of scenes as map-style data sets of samples, drawn on demand.

Here frames become tensors with one mask per segment; how a frame is drawn is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
import torch

from mask2former.data.scenes.classes import SCENE_CATEGORIES
from mask2former.data.scenes.rendering import SceneFrame, check_request, draw_clip, draw_scene
from mask2former.errors import RequestError
from mask2former.structures import Sample, Target

__all__ = ["SceneClips", "Scenes"]


def _sample(frames: Sequence[SceneFrame], name: str) -> Sample:
    """Image uint8 (T, 3, H, W), masks bool (N, T, H, W), ``info["ids"]`` int32 (T, H, W)."""
    image = torch.from_numpy(np.stack([frame.image.transpose(2, 0, 1) for frame in frames]))
    ids = torch.from_numpy(np.stack([frame.ids for frame in frames]))
    segments = frames[0].segments
    labels = torch.tensor([label for _, label in segments], dtype=torch.int64)
    numbers = torch.tensor([number for number, _ in segments], dtype=torch.int32)
    return Sample(image, Target(labels, ids[None] == numbers[:, None, None, None]), name, {"ids": ids})


class _Drawings(Sequence[Sample]):
    """Samples made on demand; sample i has the seed ``seed + i``."""

    categories = SCENE_CATEGORIES

    def __init__(self, image_size: int | tuple[int, int], seed: int = 0, length: int = 1000) -> None:
        self.size_hw = (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])
        self.seed = seed
        self.length = length
        check_request(seed, self.size_hw)
        if length < 0:
            raise RequestError(f"the number of scenes must not be negative, got {length}")

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self._draw(self.seed + place) for place in range(*index.indices(self.length))]
        place = index + self.length if index < 0 else index
        if not 0 <= place < self.length:
            raise IndexError(f"scene {index} of {self.length}")
        return self._draw(self.seed + place)

    def _draw(self, seed: int) -> Sample:
        raise NotImplementedError


class Scenes(_Drawings):
    """Endless pictures, as a map-style data set of ``length`` samples named ``scene-{seed + index}``.

    Args:
        image_size: side in pixels, or (height, width).
        seed: seed of the first scene; keep training and evaluation seeds apart.
        length: number of samples.

    Raises:
        RequestError: a negative seed or length, or an impossible size.
    """

    def _draw(self, seed: int) -> Sample:
        return _sample([draw_scene(seed, self.size_hw)], f"scene-{seed}")


class SceneClips(_Drawings):
    """Like :class:`Scenes`, with ``num_frames`` frames each; a thing out of sight has an empty mask in that frame."""

    def __init__(
        self, image_size: int | tuple[int, int], num_frames: int = 8, seed: int = 0, length: int = 1000
    ) -> None:
        super().__init__(image_size, seed, length)
        self.num_frames = num_frames
        if num_frames < 1:
            raise RequestError(f"a clip needs at least one frame, got {num_frames}")

    def _draw(self, seed: int) -> Sample:
        return _sample(draw_clip(seed, self.size_hw, self.num_frames), f"scene-clip-{seed}")
