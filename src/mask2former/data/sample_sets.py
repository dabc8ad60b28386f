"""Your own data set: a small class whose items are samples, as a reader for training and evaluation.

Knows no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, overload

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from mask2former.config import MetricStyle, Task
from mask2former.data.annotated import Annotated, AnnotatedSet, place_patches
from mask2former.data.clips import AnnotatedClip, ClipSet, MeasuredClips
from mask2former.data.sequence import SampleSequence
from mask2former.errors import UserError
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.structures.categories import Categories
from mask2former.structures.ground_truth import ground_truths_of_target
from mask2former.structures.samples import Sample, Target

__all__ = ["SampleSet", "as_reader"]


class SampleSet(Protocol):
    """What your own data set must provide: samples by index from 0, always the same sample for the same index.

    A sample is a clip of T frames; an image has T = 1. ``image`` is RGB, uint8 ``(T, 3, H, W)`` (for models of other
    images, with their channels); ``target.labels`` are indices of ``categories``, int64 ``(N,)``; ``target.masks`` are
    bool ``(N, T, H, W)``, empty where an object is out of sight; ``target.ignored``, bool ``(T, H, W)`` or None, is
    True where the ground truth is unknown.

    It may also have ``tasks`` (those for which its masks are a ground truth; by default all), ``image_id(index)`` (the
    id of a sample in result files; by default the index), and ``size(index)`` (height and width of a sample, which
    ``data.group_by_aspect`` needs).
    """

    @property
    def categories(self) -> Categories: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@overload
def as_reader(samples: AnnotatedSet) -> AnnotatedSet: ...
@overload
def as_reader(samples: ClipSet) -> ClipSet: ...
@overload
def as_reader(samples: MeasuredClips) -> MeasuredClips: ...
@overload
def as_reader(samples: SampleSet) -> AnnotatedSet | ClipSet: ...
def as_reader(
    samples: SampleSet | AnnotatedSet | MeasuredClips,
) -> AnnotatedSet | MeasuredClips:
    """Your own data set as training and evaluation read it; a reader is returned as it is.

    Whether it contains images or clips is decided by its first sample: one frame, or several.

    Raises:
        UserError: it has no length, samples or classes, is empty, or its first item is not a valid sample.
    """
    if isinstance(samples, MeasuredClips) or hasattr(samples, "annotated"):
        return samples  # pyright: ignore[reportReturnType]  (it is no mere set of samples)
    lacking = [name for name in ("__len__", "__getitem__", "categories") if not hasattr(samples, name)]
    if lacking or not isinstance(samples.categories, Categories):
        what = f"no {' and no '.join(lacking)}" if lacking else f"{type(samples.categories).__name__} as categories"
        raise UserError(
            f"a data set needs a length, a Sample for every index and Categories; {type(samples).__name__} has {what}"
        )
    if not len(samples):
        raise UserError(f"the data set {type(samples).__name__} is empty; expected at least one sample")
    first = _Samples(samples)[0]
    return _Images(samples) if first.image.shape[0] == 1 else _Clips(samples)


class _Samples(SampleSequence):
    """Samples, checked; the last one is kept, since it is read in several forms."""

    has_ground_truth = True
    metric_style: MetricStyle = "coco"
    num_objects = None  # known only after reading all of them
    tasks: tuple[Task, ...] = ("panoptic", "instance", "semantic")
    num_frames: int | None = None  # of every sample; None: any number

    def __init__(self, samples: SampleSet) -> None:
        self.samples = samples
        self.categories = samples.categories
        self.notes: list[str] = []
        self._last: tuple[int, Sample] | None = None
        self._channels: int | None = None  # of the first image
        offered = getattr(samples, "tasks", self.tasks)
        offered = (offered,) if isinstance(offered, str) else tuple(offered)
        self.tasks = tuple(task for task in self.tasks if task in offered)
        if not self.tasks or not set(offered) <= set(_Samples.tasks):
            raise UserError(
                f"the data set {type(samples).__name__} has the tasks {list(offered)}; expected some of "
                f"{list(type(self).tasks)}"
            )

    def __len__(self) -> int:
        return len(self.samples)

    def sample(self, position: int) -> Sample:
        if self._last is None or self._last[0] != position:
            sample = self.samples[position]
            self._check(sample, f"sample {position} of {type(self.samples).__name__}")
            self._last = position, sample
        return self._last[1]

    def _check(self, sample: Sample, subject: str) -> None:
        """Refuse what would fail later, or train something other than intended.

        Raises:
            UserError: naming the sample.
        """
        if not isinstance(sample, Sample):
            raise UserError(f"{subject} is a {type(sample).__name__}; expected a Sample")
        image, target = sample.image, sample.target
        given: list[tuple[str, Any]] = [("image", image)]
        if target is not None:
            given += [("labels", target.labels), ("masks", target.masks)]
            given += [("ignored pixels", target.ignored)] if target.ignored is not None else []
        for what, value in given:
            if not isinstance(value, torch.Tensor):
                raise UserError(
                    f"{subject} has {type(value).__name__} as {what}; expected a tensor (torch.as_tensor makes one)"
                )
        if image.dtype != torch.uint8 or image.ndim != 4 or 0 in image.shape:
            raise UserError(
                f"the image of {subject} is {_described(image)}; expected uint8 (frames, channels, height, width): "
                "red, green and blue, or the channels that the model expects; an image is a clip of one frame"
            )
        self._channels = self._channels or image.shape[1]
        if image.shape[1] != self._channels:
            raise UserError(
                f"the image of {subject} has {image.shape[1]} channels, but that of another sample has "
                f"{self._channels}; expected the same number in each"
            )
        if self.num_frames not in (None, image.shape[0]):
            raise UserError(
                f"{subject} has {image.shape[0]} frames, but the first sample has one; a data set contains either "
                "images or clips"
            )
        if target is None:
            raise UserError(f"{subject} has no target, so it can be used neither for training nor for evaluation")
        labels = target.labels
        if labels.dtype != torch.int64 or labels.ndim != 1:
            raise UserError(
                f"the labels of {subject} are {_described(labels)}; expected int64 (objects,): indices of its "
                f"{len(self.categories)} classes, from 0"
            )
        count, size = len(labels), (image.shape[0], *image.shape[2:])
        if target.masks.dtype != torch.bool or target.masks.shape != (count, *size):
            raise UserError(
                f"the masks of {subject} are {_described(target.masks)}; expected bool {(count, *size)}: labels, "
                "frames, height and width"
            )
        if not ((labels >= 0) & (labels < len(self.categories))).all():
            raise UserError(
                f"the labels of {subject} are {labels.tolist()[:10]}; expected indices of its {len(self.categories)} "
                "classes, from 0"
            )
        ignored = target.ignored
        if ignored is not None and (ignored.dtype != torch.bool or ignored.shape != size):
            raise UserError(f"the ignored pixels of {subject} are {_described(ignored)}; expected bool {size}")

    def _target(self, index: int) -> Target:
        target = self[index].target
        assert target is not None
        return target

    def image_id(self, index: int) -> int | str:
        return self.samples.image_id(index) if hasattr(self.samples, "image_id") else index  # pyright: ignore

    def ground_truths(self, index: int, tasks: Sequence[Task]) -> dict[Task, Any]:
        is_clip = self.num_frames is None
        return ground_truths_of_target(self._target(index), tasks, self.categories, is_clip=is_clip)

    def frames(self, index: int) -> list[UInt8[np.ndarray, "H W C"]]:
        """All frames."""
        return [np.ascontiguousarray(frame.permute(1, 2, 0).numpy()) for frame in self[index].image]

    def frame(self, index: int, position: int, *, with_ignored: bool) -> Annotated:
        """One frame with all objects of the sample."""
        sample, target = self[index], self._target(index)
        size = (sample.image.shape[2], sample.image.shape[3])
        patches = SparseMasks.of(target.masks[:, position].numpy())
        ids, masks = place_patches(dict(enumerate(patches)), size)
        ignored = None
        if with_ignored:
            ignored = np.zeros(size, dtype=bool) if target.ignored is None else target.ignored[position].numpy()
        image = np.ascontiguousarray(sample.image[position].permute(1, 2, 0).numpy())
        name = sample.name or str(self.image_id(index))
        return Annotated(image, target.labels.numpy(), {}, ids, masks, name, dict(sample.info), ignored=ignored)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width, without reading the sample.

        Raises:
            UserError: the data set does not provide it.
        """
        if not hasattr(self.samples, "size"):
            raise UserError(
                f"data.group_by_aspect needs the sizes of all samples; give {type(self.samples).__name__} a method "
                "size(index) -> (height, width), or set data.group_by_aspect=false"
            )
        return self.samples.size(index)  # pyright: ignore[reportAttributeAccessIssue]

    def wide(self) -> Bool[np.ndarray, " I"]:
        sizes = [self.size(index) for index in range(len(self))]
        return np.array([width > height for height, width in sizes], dtype=bool)


class _Images(_Samples):
    """Images: see :class:`~mask2former.data.annotated.AnnotatedSet`."""

    num_frames = 1

    def image(self, index: int) -> UInt8[np.ndarray, "H W C"]:
        return self.frames(index)[0]

    def annotated(self, index: int, *, with_ignored: bool = False) -> Annotated:
        return self.frame(index, 0, with_ignored=with_ignored)


class _Clips(_Samples):
    """Clips: see :class:`~mask2former.data.clips.ClipSet`."""

    metric_style: MetricStyle = "youtube-vis"
    tasks: tuple[Task, ...] = ("instance", "panoptic")

    def images(self, index: int) -> list[UInt8[np.ndarray, "H W C"]]:  # what distinguishes clips from images
        return self.frames(index)

    def clip_length(self, index: int) -> int:
        return self[index].image.shape[0]

    def annotated(self, index: int, indices: Sequence[int], *, with_ignored: bool = False) -> AnnotatedClip:
        frames = [self.frame(index, position, with_ignored=with_ignored) for position in indices]
        return AnnotatedClip(frames, self._target(index).masks[:, list(indices)].flatten(2).any(dim=2).numpy())


def _described(values: torch.Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} {tuple(values.shape)}"
