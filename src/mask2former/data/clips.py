"""From annotated frames to training clips: which frames are taken, one augmentation for all of them, and the targets.

Clips are what videos, folders of frames and drawn scenes have in common; their file formats are not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from mask2former.data.annotated import Annotated, DataSet
from mask2former.data.transforms import Geometry, Plan
from mask2former.structures.samples import Sample, Target

__all__ = ["AnnotatedClip", "ClipSet", "MeasuredClips", "assemble_clip", "draw_frames", "whole_clip"]

LabelsFrom = Literal["last-frame", "any-frame"]


@dataclass(frozen=True, slots=True)
class AnnotatedClip:
    """Some frames of a clip; an object has the same number in all of them, and its true class as its label.

    Attributes:
        frames: in temporal order, all of the same size. Where an object is not annotated, its frame has no form of it.
        annotated: whether an object is annotated in a frame; its mask may still be empty.
    """

    frames: Sequence[Annotated]
    annotated: Bool[np.ndarray, "N T"]


@runtime_checkable
class MeasuredClips(DataSet, Protocol):
    """What a data set of clips provides for evaluation; ground truths cover all frames of a clip."""

    def images(self, index: int) -> list[UInt8[np.ndarray, "H W C"]]:
        """All frames of a clip, RGB.

        Raises:
            UserError: a file that is missing or broken.
        """
        ...


@runtime_checkable
class ClipSet(MeasuredClips, Protocol):
    """What every data set of clips that can be trained on provides, whatever its file format."""

    def wide(self) -> Bool[np.ndarray, " I"]:
        """Which clips are wider than high, for batches of one shape; from annotations or headers of frames."""
        ...

    def clip_length(self, index: int) -> int:
        """The number of frames of a clip."""
        ...

    def annotated(self, index: int, indices: Sequence[int], *, with_ignored: bool = False) -> AnnotatedClip:
        """The frames at these indices with the objects to be learned, without crowds.

        With ``with_ignored``, the result says where the ground truth is unknown: crowds, for instance.

        Raises:
            UserError: a file that is missing or broken, or frames of different sizes.
        """
        ...


def draw_frames(length: int, num_frames: int, frame_range: int, rng: np.random.Generator) -> list[int]:
    """Indices of ``num_frames`` frames out of ``length``, ascending (published training, ``SAMPLING_FRAME_*``).

    One is drawn from all frames, the others from those within ``frame_range`` of it, excluding itself; the others may
    repeat. A clip with a single frame yields that frame every time.
    """
    first = int(rng.integers(length))
    near = [
        index
        for index in range(max(0, first - frame_range), min(length, first + frame_range + 1))
        if index != first or length == 1
    ]
    return sorted([first, *(near[index] for index in rng.integers(len(near), size=num_frames - 1))])


def assemble_clip(
    frames: Sequence[Sample], annotated: Bool[np.ndarray, "N T"], num_classes: int, labels_from: LabelsFrom
) -> Sample:
    """One sample from several; objects without a pixel in any frame are left out.

    Args:
        frames: of the same size, with the same objects in the same order.
        annotated: see :class:`AnnotatedClip`.
        num_classes: K, which is the label for "no object".
        labels_from: ``last-frame`` gives an object that is not annotated in the last frame the label K, although its
            masks in other frames are learned; ``any-frame`` gives it its class.
    """
    targets = [frame.target for frame in frames if frame.target is not None]
    assert len(targets) == len(frames)
    labels = targets[-1].labels.clone()
    if labels_from == "last-frame":
        # Parity: the published model reads the classes from the last frame only.
        labels[~torch.from_numpy(annotated[:, -1])] = num_classes
    masks = torch.cat([target.masks for target in targets], dim=1)
    kept = masks.flatten(1).any(dim=1)
    ignored = None
    if any(target.ignored is not None for target in targets):
        nothing = torch.zeros((1, *masks.shape[2:]), dtype=torch.bool)
        ignored = torch.cat([nothing if target.ignored is None else target.ignored for target in targets])
    image = torch.cat([frame.image for frame in frames])
    return Sample(image, Target(labels[kept], masks[kept], ignored), frames[0].name, dict(frames[0].info))


def whole_clip(samples: ClipSet, index: int) -> Sample:
    """All frames at their original size with the true classes, and where the ground truth is unknown."""
    clip = samples.annotated(index, range(samples.clip_length(index)), with_ignored=True)
    plan = Plan(Geometry(clip.frames[0].size_hw))
    sample = assemble_clip([plan(frame) for frame in clip.frames], clip.annotated, len(samples.categories), "any-frame")
    return replace(sample, info={**sample.info, "clip_id": samples.image_id(index)})
