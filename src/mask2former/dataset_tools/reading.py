"""Reads all images of a split with their annotations, and keeps figures of each; several processes read."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from torch.utils.data import DataLoader, Dataset

from mask2former.data.annotated import Annotated, AnnotatedSet
from mask2former.data.checks import Split
from mask2former.data.clips import ClipSet
from mask2former.data.datasets.label_folder import LabelFolder
from mask2former.data.label_maps import LabelCounts
from mask2former.data.mixed import Mixed
from mask2former.data.transforms.exposure import white_of
from mask2former.dataset_tools.figures import SplitSummary
from mask2former.errors import UserError
from mask2former.notes import Note, collect_notes
from mask2former.ops.masks import Patch, iou, polygons_to_patch, tight
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.processors import num_processors
from mask2former.structures.categories import Categories

__all__ = ["DARK", "ImageSummary", "default_workers", "figures_of", "num_annotated_twice", "read_summaries"]

DARK = 64  # of 255: colour jitter, which subtracts up to 32, takes half or more of what is brightest below this
_ALIKE = 0.8  # overlap (IoU) of the boxes of two objects, from which their masks are compared
_COMPARED = 256  # maximum number of other objects that one is compared with
_TWICE = 0.9  # overlap (IoU) from which two objects of a class are one object annotated twice


@dataclass(frozen=True, slots=True)
class ImageSummary:
    """What is kept about one image, or one frame of a clip."""

    name: str
    problem: str | None = None
    size_hw: tuple[int, int] = (0, 0)
    labels: Int64[np.ndarray, " N"] = field(default_factory=lambda: np.zeros(0, np.int64))
    areas: Int64[np.ndarray, " N"] = field(default_factory=lambda: np.zeros(0, np.int64))  # pixels, alike
    twice: int = 0  # objects that another one covers almost exactly
    digest: bytes = b""
    white: int = 255  # of its values in 0..255, see white_of
    # of each channel: the sum of its values in 0..255, and of their squares
    sums: Float64[np.ndarray, "2 C"] = field(default_factory=lambda: np.zeros((2, 0)))
    counts: LabelCounts | None = None  # of its label map, if there is one, even where it cannot be used
    notes: tuple[Note, ...] = ()  # notes taken while it was read

    @property
    def is_dark(self) -> bool:
        return self.white < DARK


class _Summaries(Dataset[list[ImageSummary]]):
    """That of an image, or those of all frames of a clip, by index; ``as_evaluated`` also makes the ground truth."""

    def __init__(self, samples: AnnotatedSet | ClipSet, as_evaluated: bool) -> None:
        self.samples = samples
        self.as_evaluated = as_evaluated
        self.clips: ClipSet | None = None
        self.images: AnnotatedSet | None = None
        if isinstance(samples, ClipSet):  # once, since it evaluates every property of the protocol
            self.clips = samples
        else:
            self.images = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> list[ImageSummary]:
        frames = range(1 if self.clips is None else self.clips.clip_length(index))
        with collect_notes() as notes:
            try:
                summaries = self._read(index, frames)
                if self.as_evaluated:
                    self.samples.ground_truths(index, self.samples.tasks)
            except UserError as error:
                # Which frames of a clip are broken, and the summaries of the others; or what is wrong with all of them.
                summaries = [] if self.clips is None else [one for frame in frames for one in self._alone(index, frame)]
                if all(summary.problem is None for summary in summaries):
                    summaries = [ImageSummary(self._name(index), problem=str(error))]
        return [replace(summaries[0], notes=tuple(notes), counts=self._counts(index)), *summaries[1:]]

    def _read(self, index: int, frames: Sequence[int]) -> list[ImageSummary]:
        if self.images is not None:
            return [_summarized(self.images.annotated(index, with_ignored=True))]
        assert self.clips is not None
        clip = self.clips.annotated(index, frames, with_ignored=True)
        summaries = []
        for frame, annotated, present in zip(frames, clip.frames, clip.annotated.T, strict=True):
            summary = _summarized(annotated)
            labels, areas = summary.labels[present], summary.areas[present]
            summaries.append(replace(summary, name=self._name(index, frame), labels=labels, areas=areas))
        return summaries

    def _alone(self, index: int, frame: int) -> list[ImageSummary]:
        try:
            return self._read(index, [frame])
        except UserError as error:
            return [ImageSummary(self._name(index, frame), problem=str(error))]

    def _name(self, index: int, frame: int | None = None) -> str:
        name = str(self.samples.image_id(index))
        return name if self.clips is None else f"clip {name}" + ("" if frame is None else f", frame {frame}")

    def _counts(self, index: int) -> LabelCounts | None:
        part, own = self.samples.located(index) if isinstance(self.samples, Mixed) else (self.samples, index)
        if isinstance(part, LabelFolder):
            with contextlib.suppress(UserError):  # if it cannot be read, that has already been reported
                return part.counts(own)
        return None


def read_summaries(
    samples: AnnotatedSet | ClipSet,
    split: Split,
    as_evaluated: bool,
    num_workers: int,
    progress: Callable[[Split, int, int], None],
) -> list[ImageSummary]:
    """Figures of all images, or of all frames of all clips, in order.

    Args:
        samples: the data set.
        split: which split it is, for ``progress``.
        as_evaluated: also make the ground truth, as for an evaluation.
        num_workers: number of reading processes; 0: this one.
        progress: called with the split, the number of images or clips done, and the total.
    """
    total = len(samples)
    progress(split, 0, total)
    loader = DataLoader(
        _Summaries(samples, as_evaluated), batch_size=None, num_workers=min(num_workers, total), collate_fn=list
    )
    summaries: list[ImageSummary] = []
    for done, found in enumerate(loader, start=1):
        summaries += found
        progress(split, done, total)
    return summaries


def figures_of(summaries: Sequence[ImageSummary], categories: Categories) -> SplitSummary:
    """The figures of a split, from those of its images that could be read."""
    whole = [summary for summary in summaries if summary.problem is None]
    nothing = np.zeros(0, np.int64)
    labels = np.concatenate([nothing, *(summary.labels for summary in whole)])
    areas = np.concatenate([nothing, *(summary.areas for summary in whole)])
    present = np.concatenate([nothing, *(np.unique(summary.labels) for summary in whole)])
    count = len(categories)
    mean, std = _moments(whole)
    return SplitSummary(
        categories,
        len(whole),
        tuple(Counter(summary.size_hw for summary in whole).most_common()),
        np.sort([len(summary.labels) for summary in whole]).astype(np.int64),
        np.sort(areas),
        np.bincount(present, minlength=count),
        np.bincount(labels, minlength=count),
        np.bincount(labels, weights=areas, minlength=count).astype(np.int64),
        mean,
        std,
        sum(summary.is_dark for summary in whole),
    )


def _moments(summaries: Sequence[ImageSummary]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and deviations of all channels over all pixels; empty where not all images have the same channels."""
    pixels = sum(height * width for height, width in (summary.size_hw for summary in summaries))
    if not pixels or len({summary.sums.shape for summary in summaries}) != 1:
        return (), ()
    mean, square = np.sum([summary.sums for summary in summaries], axis=0) / pixels
    std = np.sqrt(np.maximum(square - mean**2, 0.0))
    return tuple(mean.round(3).tolist()), tuple(std.round(3).tolist())


def _summarized(annotated: Annotated) -> ImageSummary:
    count = len(annotated.labels)
    areas = np.zeros(count, dtype=np.int64)
    patches: dict[int, Patch] = {}
    for index, polygons in annotated.polygons.items():
        patches[index] = polygons_to_patch(polygons, annotated.size_hw)
    for index, mask in annotated.masks.items():
        patches[index] = tight(Patch(0, 0, mask))
    for index, patch in patches.items():
        areas[index] = np.count_nonzero(patch.mask)
    if annotated.ids is not None and count:
        pixels = np.bincount(annotated.ids.ravel(), minlength=count + 1)[1 : count + 1]
        areas += np.where([index in patches for index in range(count)], 0, pixels)
        if patches:  # one of these may lie exactly on one of the map
            others = [index for index in range(count) if index not in patches]
            patches.update(zip(others, SparseMasks.of_ids(annotated.ids, [index + 1 for index in others]), strict=True))
    image = annotated.image
    digest = hashlib.blake2b(image.tobytes() + str(image.shape).encode(), digest_size=16).digest()
    name = annotated.name or str(annotated.info.get("image_id", ""))
    twice = num_annotated_twice(annotated.labels, patches)
    return ImageSummary(
        name, None, annotated.size_hw, annotated.labels, areas, twice, digest, white_of(image), _sums(image)
    )


def _sums(image: UInt8[np.ndarray, "H W C"]) -> Float64[np.ndarray, "2 C"]:
    """Of the values of each channel, and of their squares."""
    counts = np.stack([np.bincount(plane.ravel(), minlength=256) for plane in image.transpose(2, 0, 1)], axis=1)
    values = np.arange(256.0)
    return np.stack([values, values**2]) @ counts


def num_annotated_twice(labels: Int64[np.ndarray, " N"], patches: dict[int, Patch]) -> int:
    """Objects that an earlier one of the same class covers almost exactly.

    Each is compared with the next ones of its class that begin below it, up to ``_COMPARED`` of them.
    """
    indices = np.array([index for index, patch in patches.items() if patch.mask.size], dtype=np.int64)
    if len(indices) < 2:
        return 0
    chosen = [patches[index] for index in indices.tolist()]
    boxes = np.array([(p.top, p.left, p.top + p.mask.shape[0], p.left + p.mask.shape[1]) for p in chosen])
    order = np.lexsort((boxes[:, 0], labels[indices]))
    indices, boxes, classes = indices[order], boxes[order], labels[indices[order]]
    sizes = boxes[:, 2:] - boxes[:, :2]
    areas = np.prod(sizes, axis=-1)
    twice = set()
    for first, index in enumerate(indices.tolist()):
        stop = np.searchsorted(classes, classes[first], side="right")
        # Almost equal masks have almost equal boxes.
        lowest = boxes[first, 0] + (1 - _ALIKE) / _ALIKE * sizes[first, 0] + 1
        stop = first + 1 + np.searchsorted(boxes[first + 1 : stop, 0], lowest, side="right")
        others = slice(first + 1, min(int(stop), first + 1 + _COMPARED))
        low, high = np.maximum(boxes[first, :2], boxes[others, :2]), np.minimum(boxes[first, 2:], boxes[others, 2:])
        common = np.prod(np.clip(high - low, 0, None), axis=-1)
        near = common >= _ALIKE * (areas[first] + areas[others] - common)
        for other in indices[others][near].tolist():
            later = max(index, other)
            if later not in twice and iou(patches[index], patches[other]) >= _TWICE:
                twice.add(later)
    return len(twice)


def default_workers() -> int:
    """Default number of reading processes: all processors that may be used but one, eight at most."""
    return max(0, min(8, num_processors() - 1))
