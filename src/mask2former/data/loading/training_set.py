"""From a data set to training samples: images or clips, drawn and augmented at random, reproducibly for each draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool

from mask2former.config import ClipSampling
from mask2former.data.annotated import Annotated, AnnotatedSet
from mask2former.data.clips import ClipSet, assemble_clip, draw_frames
from mask2former.data.loading.sampling import Draw
from mask2former.data.packed import PackedSample, pack_sample
from mask2former.data.transforms import Augmentation, Geometry, Plan, class_map, object_areas
from mask2former.data.transforms.copy_paste import choose_objects, paste
from mask2former.data.transforms.exposure import white_of
from mask2former.structures.categories import Categories
from mask2former.structures.samples import Sample

__all__ = ["TrainingSet"]


class TrainingSet:
    """Samples by :class:`Draw`: the same index and seed give the same sample in any process and at any time.

    Args:
        samples: images, of which a sample has one, or clips, of which it has some frames, augmented alike.
        augmentation: drawn once per sample; None: images and frames are not changed.
        sampling: how frames are taken from clips.
        with_ignored: whether targets say where the ground truth is unknown.
        copy_paste: how often things from another image, any of the data set, are pasted into an image; 0..1.
    """

    def __init__(
        self,
        samples: AnnotatedSet | ClipSet,
        augmentation: Augmentation | None = None,
        *,
        sampling: ClipSampling | None = None,
        with_ignored: bool = False,
        copy_paste: float = 0.0,
    ) -> None:
        self.samples = samples
        self._clips: ClipSet | None = None
        self._images: AnnotatedSet | None = None
        if isinstance(samples, ClipSet):  # once, since it evaluates every property of the protocol
            self._clips = samples
        else:
            self._images = samples
        self.augmentation = augmentation
        self.sampling = sampling or ClipSampling()
        self.with_ignored = with_ignored
        self.copy_paste = copy_paste

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> Sample:
        return self.packed(draw).unpack()

    @property
    def categories(self) -> Categories:
        """The classes, already read."""
        return self.samples.categories

    def wide(self) -> Bool[np.ndarray, " I"]:
        """Which images or clips are wider than high."""
        return self.samples.wide()

    def packed(self, draw: Draw) -> PackedSample:
        """The sample before its masks are expanded: what loaders hand over."""
        rng = np.random.default_rng(draw.seed)
        if self._images is not None:
            sample = self._image(draw.index, rng)
            if self.copy_paste and rng.random() < self.copy_paste:
                other = self._image(int(rng.integers(len(self))), rng)
                sample = paste(sample, other, choose_objects(other, self._is_thing, rng))
            return sample
        assert self._clips is not None
        sampling, length = self.sampling, self._clips.clip_length(draw.index)
        indices = draw_frames(length, sampling.num_frames, sampling.frame_range, rng)
        clip = self._clips.annotated(draw.index, indices, with_ignored=self.with_ignored)
        # Objects keep their numbers until the frames are joined.
        plan = replace(self._plan(clip.frames[0], rng, clip.frames), keep_lost=True)
        frames = [plan(frame) for frame in clip.frames]
        return pack_sample(assemble_clip(frames, clip.annotated, len(self.categories), sampling.labels_from))

    @cached_property
    def _is_thing(self) -> Bool[np.ndarray, " K"]:
        return np.array([item.is_thing for item in self.categories], dtype=bool)

    def _image(self, index: int, rng: np.random.Generator) -> PackedSample:
        assert self._images is not None
        image = self._images.annotated(index, with_ignored=self.with_ignored)
        return self._plan(image, rng).packed(image)

    def _plan(self, frame: Annotated, rng: np.random.Generator, frames: Sequence[Annotated] = ()) -> Plan:
        if self.augmentation is None:
            return Plan(Geometry(frame.size_hw))
        # Regions of stuff are no objects whose size would tell the scale.
        plan = self.augmentation.draw(
            frame.size_hw, rng, lambda: class_map(frame), lambda: object_areas(frame)[self._is_thing[frame.labels]]
        )
        if not frames or plan.exposure is None or plan.exposure.measured is not None:
            return plan
        # The brightest frame decides for all of them.
        return replace(plan, exposure=replace(plan.exposure, measured=max(white_of(each.image) for each in frames)))
