"""Reads a data set completely: what it contains, and what is wrong with it.

Every image is read with its annotation, exactly as training would, and those of validation also as the evaluators
would; of clips every frame, and figures are those of frames. Only figures of an image are kept. Prints nothing; several
processes read.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Unpack

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from scipy import ndimage
from torch.utils.data import DataLoader, Dataset

from mask2former.config import (
    AugmentationConfig,
    ClipSampling,
    DatasetConfig,
    MixedConfig,
    Reading,
    ResizeCropFlipConfig,
    RunConfig,
    SceneClipsConfig,
    ScenesConfig,
    Task,
)
from mask2former.data.annotated import Annotated, AnnotatedSet
from mask2former.data.build import build_samples
from mask2former.data.checks import (
    Finding,
    Named,
    Split,
    class_findings,
    id_findings,
    label_findings,
    palette_findings,
    unlisted_findings,
)
from mask2former.data.clips import ClipSet
from mask2former.data.datasets.coco import CocoInstances
from mask2former.data.datasets.label_folder import LabelFolder
from mask2former.data.faults import Fault, collected_faults
from mask2former.data.label_maps import LabelCounts
from mask2former.data.mixed import Mixed
from mask2former.data.transforms.exposure import white_of
from mask2former.dataset_tools.requirements import class_map_findings, run_findings
from mask2former.errors import UserError
from mask2former.notes import Note, collect_notes, counted
from mask2former.ops.masks import Patch, iou, polygons_to_patch
from mask2former.processors import num_processors
from mask2former.structures.categories import Categories

__all__ = [
    "COCO_AREAS",
    "DataReport",
    "Finding",
    "Split",
    "SplitSummary",
    "area_shares",
    "check_dataset",
    "default_workers",
    "num_annotated_twice",
    "open_split",
    "quantiles",
]

_SPLITS: tuple[Split, ...] = ("train", "validation")
_NAMED = 20  # offenders that are listed; more are counted
_ALIKE = 0.8  # overlap (IoU) of the boxes of two objects, from which their masks are compared
_COMPARED = 256  # maximum number of other objects that one is compared with
_TWICE = 0.9  # overlap (IoU) from which two objects of a class are one object annotated twice
_PARTICULARS = re.compile(r"'[^']*'|\([^()]*\)|\[[^][]*\]|[\d.]+")  # removed, so that messages of one kind are equal
COCO_AREAS = (32**2, 96**2)  # pixels from which objects are medium and large
_DARK = 64  # of 255: colour jitter, which subtracts up to 32, takes half or more of what is brightest below this
_NOTHING = "nothing is annotated"

Unit = Literal["image", "frame"]  # what is counted: frames where the data are clips


@dataclass(frozen=True, slots=True)
class _Summary:
    """What is kept about one image."""

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


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """Figures of one split.

    Attributes:
        categories: its classes.
        num_images: number of those that could be read.
        sizes_hw: (height, width) and how many images have it, the most frequent first.
        objects: of every image, ascending; for label maps classes.
        areas: of every object in pixels, ascending; for label maps of every class in every image.
        images_of: images that have each class.
        objects_of: number of objects of each class.
        pixels_of: pixels of each class.
        channel_mean: of the values of each channel in 0..255, as the model sees them, over all pixels; empty where the
            images differ in their channels.
        channel_std: their deviations.
        num_dark: images whose brightest values (99.98 %) are in the lowest quarter of the range.
    """

    categories: Categories
    num_images: int
    sizes_hw: tuple[tuple[tuple[int, int], int], ...]
    objects: Int64[np.ndarray, " I"]
    areas: Int64[np.ndarray, " N"]
    images_of: Int64[np.ndarray, " K"]
    objects_of: Int64[np.ndarray, " K"]
    pixels_of: Int64[np.ndarray, " K"]
    channel_mean: tuple[float, ...] = ()
    channel_std: tuple[float, ...] = ()
    num_dark: int = 0

    @property
    def num_pixels(self) -> int:
        return sum(height * width * count for (height, width), count in self.sizes_hw)

    @property
    def size_shares(self) -> tuple[float, float, float]:
        """Shares of small, medium and large objects by COCO's limits."""
        return area_shares(self.areas, COCO_AREAS)

    def short_sides(self) -> Float64[np.ndarray, " I"]:
        """The shorter side of every image in pixels."""
        return np.repeat([min(size) for size, _ in self.sizes_hw], [count for _, count in self.sizes_hw])

    def long_sides(self) -> Float64[np.ndarray, " I"]:
        """The longer side of every image in pixels."""
        return np.repeat([max(size) for size, _ in self.sizes_hw], [count for _, count in self.sizes_hw])

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        rows = zip(self.categories, self.images_of.tolist(), self.objects_of.tolist(), strict=True)
        pixels = max(self.num_pixels, 1)
        return {
            "images": self.num_images,
            "sizes": [{"height": h, "width": w, "images": count} for (h, w), count in self.sizes_hw],
            "objects": int(self.objects.sum()),
            "objects_per_image": quantiles(self.objects),
            "area": quantiles(self.areas),
            "area_shares": dict(zip(("small", "medium", "large"), self.size_shares, strict=True)),
            "void_share": 1 - float(self.pixels_of.sum()) / pixels,
            "channels": {"mean": list(self.channel_mean), "std": list(self.channel_std)},
            "classes": [
                {"id": item.id, "name": item.name, "images": images, "objects": objects, "pixel_share": share}
                for (item, images, objects), share in zip(rows, (self.pixels_of / pixels).tolist(), strict=True)
            ],
        }


def area_shares(areas: Int64[np.ndarray, " N"], limits: tuple[float, float]) -> tuple[float, float, float]:
    """Shares of areas below the first limit, below the second, and from there on."""
    edges = np.searchsorted(areas, limits)
    count = max(len(areas), 1)
    return float(edges[0]) / count, float(edges[1] - edges[0]) / count, float(len(areas) - edges[1]) / count


def quantiles(values: Int64[np.ndarray, " N"]) -> dict[str, float]:
    """Smallest, 5, 25, 50, 75, 95 percent and largest; empty without values."""
    shares = {"min": 0.0, "5%": 0.05, "25%": 0.25, "50%": 0.5, "75%": 0.75, "95%": 0.95, "max": 1.0}
    return {name: float(np.quantile(values, share)) for name, share in shares.items()} if len(values) else {}


@dataclass(frozen=True, slots=True)
class DataReport:
    """The result of a check.

    Attributes:
        splits: figures of those that could be read.
        findings: broken data first.
        task: what is annotated; ``semantic`` means label maps, whose "objects" are classes.
        num_queries: the number that objects per image were compared with.
        unit: what the figures of "images" count: frames, if the data are clips.
    """

    splits: dict[Split, SplitSummary]
    findings: tuple[Finding, ...]
    task: Task
    num_queries: int
    unit: Unit = "image"

    @property
    def is_broken(self) -> bool:
        return any(finding.broken for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "broken": self.is_broken,
            "task": self.task,
            "num_queries": self.num_queries,
            "unit": self.unit,
            "findings": [
                {
                    "split": finding.split,
                    "broken": finding.broken,
                    "message": finding.message,
                    "count": finding.count,
                    "offenders": list(finding.offenders),
                }
                for finding in self.findings
            ],
            "splits": {split: summary.to_dict() for split, summary in self.splits.items()},
        }


# --- reading ---------------------------------------------------------------------------------------------------------


def check_dataset(
    config: DatasetConfig,
    *,
    run: RunConfig | None = None,
    num_queries: int = 100,
    num_workers: int = 0,
    progress: Callable[[Split, int, int], None] = lambda split, done, total: None,
    **reading: Unpack[Reading],
) -> DataReport:
    """Read all images and annotations of a data set, and apply every check that training and evaluation apply.

    Args:
        config: the data set.
        run: the run whose data it is, if any: its settings are checked, too.
        num_queries: of the model that is to be trained on it.
        num_workers: number of reading processes; 0: this one.
        progress: called with the split, the number of images done, and the total.
        reading: how that model reads images, see :func:`~mask2former.media.images.read_image`.

    Raises:
        UserError: the data set is drawn.
    """
    if isinstance(config, (ScenesConfig, SceneClipsConfig)):
        raise UserError(
            f"data sets '{config.name}' are drawn and not checked; expected images or clips that are read from files"
        )
    if isinstance(config, MixedConfig):  # each image counts once
        config = MixedConfig(parts=tuple(part.model_copy(update={"repeat": 1}) for part in config.parts))
    unit: Unit = "frame" if isinstance(config, ClipSampling) else "image"
    findings: list[Finding] = []
    opened: dict[Split, AnnotatedSet | ClipSet] = {}
    splits: dict[Split, SplitSummary] = {}
    digests: dict[Split, dict[bytes, str]] = {}
    maps: dict[Split, dict[str, list[Named]]] = {}  # of each part of a mixed data set
    task: Task = "instance"
    is_divided = run is not None and run.data.validation is not None
    same = is_divided or (
        getattr(config, "train", None) is not None and getattr(config, "train", 0) == getattr(config, "validation", 1)
    )
    is_alone = not same and getattr(config, "validation", None) == ()
    for split in _SPLITS[: 1 if same or is_alone else 2]:
        filter_empty = run is not None and run.data.filter_empty and not same and split == "train"
        samples, problems = open_split(config, split, filter_empty=filter_empty, **reading)
        # What is said of both in the same words is about one file, such as the names file.
        known = frozenset(findings)
        findings += [problem for problem in problems if replace(problem, split="train") not in known]
        if samples is None:
            continue
        task = "instance" if isinstance(samples, ClipSet) else samples.tasks[0]
        summaries = _read(samples, split, same or split == "validation", num_workers, progress)
        maps[split] = _maps_of_parts(samples, summaries)
        findings += _findings(summaries, samples, maps[split].get("", []), split, num_queries, task, unit)
        if isinstance(samples, Mixed):
            findings += _findings_of_parts(samples, maps[split], split)
        if split == "train" and (run is None or _darkens(run.data.augmentation)):
            findings += _dark_findings(summaries, split, unit)
        if all(samples.categories.names != other.categories.names for other in opened.values()):
            findings += class_findings(samples.categories, split)
        if (same or split == "validation") and not isinstance(samples, ClipSet):
            findings += id_findings(samples, split)
        opened[split], splits[split] = samples, _summary(summaries, samples.categories)
        digests[split] = {summary.digest: summary.name for summary in summaries if summary.problem is None}
    validation = opened.get("train" if same else "validation")
    if len(maps) == 2:
        for name in maps["train"].keys() & maps["validation"].keys():
            found = palette_findings(maps["validation"][name], "validation", maps["train"][name])
            findings += _named(found, name)
    if "train" in opened and validation is not None and not class_findings(opened["train"].categories, "train"):
        findings += class_map_findings(opened["train"].categories, validation.categories)
    if run is not None:
        if same and not is_divided:
            message = "the training data is used instead, so the metrics do not show how the model does on other images"
            findings.append(Finding("validation", False, message))
        if is_alone:
            findings.append(Finding("validation", False, "there is no validation data: no metrics are computed"))
        known = opened.get("train", validation)
        findings += run_findings(run, None if known is None else known.categories, validation)
    findings += _leaks(digests, unit)
    if same or is_alone or len(opened) == 2:  # images of a split that cannot be read may be there
        findings += unlisted_findings(opened)
    findings.sort(key=lambda finding: not finding.broken)
    return DataReport(splits, tuple(findings), task, num_queries, unit)


def open_split(
    config: DatasetConfig, split: Split, *, filter_empty: bool = False, **reading: Unpack[Reading]
) -> tuple[AnnotatedSet | ClipSet | None, list[Finding]]:
    """The data set without its broken parts, as far as its reader can continue; these parts; and what else to know."""
    samples: AnnotatedSet | ClipSet | None = None
    with collected_faults() as faults:
        try:
            samples = build_samples(config, split, filter_empty=filter_empty, **reading)
        except UserError as error:
            faults.append(Fault(str(error)))
    findings = []
    count_of = dict(faults)
    for messages in _kinds(list(count_of)):
        if len(messages) == 1:
            findings.append(Finding(split, True, messages[0], count=count_of[messages[0]]))
        else:
            shown = tuple(messages[:_NAMED])
            findings.append(Finding(split, True, "annotations that cannot be used", shown, len(messages)))
    for part in samples.parts if isinstance(samples, Mixed) else (samples,):
        if isinstance(part, CocoInstances) and part.num_crowds and sum(part.num_objects):
            message = (
                "annotations marked as crowd regions, which are ignored in training and in metrics; if they "
                "are single objects (CVAT and Datumaro mark painted masks), set crowds=objects"
            )
            findings.append(Finding(split, False, message, count=part.num_crowds))
    return samples, findings + [Finding(split, False, note) for note in (samples.notes if samples is not None else ())]


def _kinds(messages: Sequence[str]) -> list[list[str]]:
    """Groups messages that differ only in names and numbers."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for message in messages:
        kinds[_PARTICULARS.sub("", message)].append(message)
    return list(kinds.values())


class _Images(Dataset[list[_Summary]]):
    """Summaries by index; ``as_evaluated`` also makes the ground truth."""

    def __init__(self, samples: AnnotatedSet, as_evaluated: bool) -> None:
        self.samples = samples
        self.as_evaluated = as_evaluated

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> list[_Summary]:
        counts = None
        with collect_notes() as notes:
            try:
                annotated = self.samples.annotated(index, with_ignored=True)
                if self.as_evaluated:
                    self.samples.ground_truths(index, self.samples.tasks)
                problem = None
            except UserError as error:
                annotated, problem = None, str(error)
        part, own = self.samples.located(index) if isinstance(self.samples, Mixed) else (self.samples, index)
        if isinstance(part, LabelFolder):
            with contextlib.suppress(UserError):  # if it cannot be read, that has already been reported
                counts = part.counts(own)
        if annotated is None:
            return [_Summary(str(self.samples.image_id(index)), problem=problem, notes=tuple(notes), counts=counts)]
        return [replace(_summarized(annotated), notes=tuple(notes), counts=counts)]


class _Clips(Dataset[list[_Summary]]):
    """Summaries of all frames of a clip by index; ``as_evaluated`` also makes the ground truth."""

    def __init__(self, clips: ClipSet, as_evaluated: bool) -> None:
        self.clips = clips
        self.as_evaluated = as_evaluated

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> list[_Summary]:
        frames = range(self.clips.clip_length(index))
        with collect_notes() as notes:
            try:
                summaries = self._summaries(index, frames)
                if self.as_evaluated:
                    self.clips.ground_truths(index, self.clips.tasks)
            except UserError as error:
                # Which of its frames are broken, and the summaries of the others; or what is wrong with all of them.
                summaries = [summary for frame in frames for summary in self._alone(index, frame)]
                if all(summary.problem is None for summary in summaries):
                    summaries = [_Summary(self._name(index), problem=str(error))]
        return [replace(summaries[0], notes=tuple(notes)), *summaries[1:]]

    def _alone(self, index: int, frame: int) -> list[_Summary]:
        try:
            return self._summaries(index, [frame])
        except UserError as error:
            return [_Summary(self._name(index, frame), problem=str(error))]

    def _summaries(self, index: int, frames: Sequence[int]) -> list[_Summary]:
        clip = self.clips.annotated(index, frames, with_ignored=True)
        summaries = []
        for frame, annotated, present in zip(frames, clip.frames, clip.annotated.T, strict=True):
            summary = _summarized(annotated)
            labels, areas = summary.labels[present], summary.areas[present]
            summaries.append(replace(summary, name=self._name(index, frame), labels=labels, areas=areas))
        return summaries

    def _name(self, index: int, frame: int | None = None) -> str:
        return f"clip {self.clips.image_id(index)}" + ("" if frame is None else f", frame {frame}")


def _read(
    samples: AnnotatedSet | ClipSet,
    split: Split,
    as_evaluated: bool,
    num_workers: int,
    progress: Callable[[Split, int, int], None],
) -> list[_Summary]:
    total = len(samples)
    progress(split, 0, total)
    read = _Clips(samples, as_evaluated) if isinstance(samples, ClipSet) else _Images(samples, as_evaluated)
    loader: Iterable[list[_Summary]] = DataLoader(
        read,
        batch_size=None,
        num_workers=min(num_workers, total),
        collate_fn=_as_it_is,
    )
    summaries = []
    for done, found in enumerate(loader, start=1):
        summaries += found
        progress(split, done, total)
    return summaries


def _as_it_is(found: list[_Summary]) -> list[_Summary]:
    return found


def _summarized(annotated: Annotated) -> _Summary:
    count = len(annotated.labels)
    areas = np.zeros(count, dtype=np.int64)
    patches: dict[int, Patch] = {}
    for index, polygons in annotated.polygons.items():
        patches[index] = polygons_to_patch(polygons, annotated.size_hw)
    for index, mask in annotated.masks.items():
        window = next(iter(ndimage.find_objects(mask.astype(np.uint8))), None)
        if window is not None:
            patches[index] = Patch(window[0].start, window[1].start, mask[window])
    for index, patch in patches.items():
        areas[index] = np.count_nonzero(patch.mask)
    if annotated.ids is not None and count:
        pixels = np.bincount(annotated.ids.ravel(), minlength=count + 1)[1 : count + 1]
        areas += np.where([index in patches for index in range(count)], 0, pixels)
        if patches:  # one of these may lie exactly on one of the map
            for index, window in enumerate(ndimage.find_objects(annotated.ids.astype(np.int32), max_label=count)):
                if window is not None and index not in patches:
                    mask = annotated.ids[window] == index + 1
                    patches[index] = Patch(window[0].start, window[1].start, mask)
    image = annotated.image
    digest = hashlib.blake2b(image.tobytes() + str(image.shape).encode(), digest_size=16).digest()
    name = annotated.name or str(annotated.info.get("image_id", ""))
    twice = num_annotated_twice(annotated.labels, patches)
    return _Summary(
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


# --- what follows ----------------------------------------------------------------------------------------------------


def _summary(summaries: Sequence[_Summary], categories: Categories) -> SplitSummary:
    whole = [summary for summary in summaries if summary.problem is None]
    labels = np.concatenate([summary.labels for summary in whole] or [np.zeros(0, np.int64)])
    areas = np.concatenate([summary.areas for summary in whole] or [np.zeros(0, np.int64)])
    present = np.concatenate([np.unique(summary.labels) for summary in whole] or [np.zeros(0, np.int64)])
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
        sum(summary.white < _DARK for summary in whole),
    )


def _moments(summaries: Sequence[_Summary]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and deviations of all channels over all pixels; empty where not all images have the same channels."""
    pixels = sum(height * width for height, width in (summary.size_hw for summary in summaries))
    if not pixels or len({summary.sums.shape for summary in summaries}) != 1:
        return (), ()
    mean, square = np.sum([summary.sums for summary in summaries], axis=0) / pixels
    std = np.sqrt(np.maximum(square - mean**2, 0.0))
    return tuple(mean.round(3).tolist()), tuple(std.round(3).tolist())


def _findings(
    summaries: Sequence[_Summary],
    samples: AnnotatedSet | ClipSet,
    maps: Sequence[Named],
    split: Split,
    num_queries: int,
    task: Task,
    unit: Unit,
) -> list[Finding]:
    whole = [summary for summary in summaries if summary.problem is None]
    things = "class" if task == "semantic" else "object"
    found = []

    def add(message: str, offenders: Sequence[str], broken: bool = False) -> None:
        if offenders:
            found.append(Finding(split, broken, message, tuple(offenders[:_NAMED]), len(offenders)))

    for problems in _kinds([summary.problem for summary in summaries if summary.problem is not None]):
        add(f"{unit}s that cannot be used", problems, broken=True)
    if isinstance(samples, ClipSet):
        found += _clip_findings(samples, split, num_queries)
    add(f"{unit}s without {things}", [summary.name for summary in whole if not len(summary.labels)])
    add(
        f"{unit}s with objects without pixels",
        [f"{summary.name}: {np.count_nonzero(summary.areas == 0)}" for summary in whole if (summary.areas == 0).any()],
    )
    add(f"{unit}s with objects that are annotated twice", [f"{f.name}: {f.twice}" for f in whole if f.twice])
    crowded = sorted(
        (summary for summary in whole if len(summary.labels) > num_queries), key=lambda summary: -len(summary.labels)
    )
    add(
        f"{unit}s with more objects than the model has queries ({num_queries})",
        [f"{summary.name}: {len(summary.labels)}" for summary in crowded],
    )
    by_digest: dict[bytes, list[str]] = defaultdict(list)
    for summary in whole:
        by_digest[summary.digest].append(summary.name)
    add(f"{unit}s that occur several times", [" = ".join(names) for names in by_digest.values() if len(names) > 1])
    for message, examples in counted(note for summary in summaries for note in summary.notes).items():
        add(message, examples)
    used = {label for summary in whole for label in np.unique(summary.labels).tolist()}
    if isinstance(samples, LabelFolder):
        found += label_findings(maps, samples, split) if whole else palette_findings(maps, split)
    else:
        absent = [item.name for index, item in enumerate(samples.categories) if index not in used]
        add(f"classes without any {'pixel' if task == 'semantic' else 'object'}", absent)
    # If no image can be used, that is the fault, and what is missing is its consequence.
    counts = samples.num_objects if isinstance(samples, ClipSet) else None
    is_empty = not used or (counts is not None and not counts.any())  # masks of clips may have no pixels
    is_said = any(finding.message.startswith(_NOTHING) for finding in found)
    if whole and is_empty and samples.has_ground_truth and not is_said:
        found.append(Finding(split, True, _NOTHING))
    return found


def _maps_of_parts(samples: AnnotatedSet | ClipSet, summaries: Sequence[_Summary]) -> dict[str, list[Named]]:
    """The contents of label maps by the name of the part, which is empty where the data set is not mixed."""
    lengths = (
        {name: len(part) for name, part in samples.named()} if isinstance(samples, Mixed) else {"": len(summaries)}
    )
    ends = itertools.accumulate(lengths.values())
    return {
        name: [(found.name, found.counts) for found in summaries[end - length : end] if found.counts is not None]
        for (name, length), end in zip(lengths.items(), ends, strict=True)
    }


def _findings_of_parts(samples: Mixed, maps: Mapping[str, Sequence[Named]], split: Split) -> list[Finding]:
    """What the label maps of each part show."""
    return [
        finding
        for name, part in samples.named()
        if isinstance(part, LabelFolder)
        for finding in _named(label_findings(maps[name], part, split), name)
    ]


def _named(findings: Iterable[Finding], part: str) -> list[Finding]:
    return [replace(finding, message=f"{part}: {finding.message}" if part else finding.message) for finding in findings]


def _darkens(augmentation: AugmentationConfig) -> bool:
    """Whether values are subtracted from all images alike."""
    if not isinstance(augmentation, ResizeCropFlipConfig):
        return False
    return augmentation.color_jitter and augmentation.exposure is None


def _dark_findings(summaries: Sequence[_Summary], split: Split, unit: Unit) -> list[Finding]:
    dark = [f"{summary.name}: {summary.white}" for summary in summaries if summary.white < _DARK]
    message = (
        f"dark {unit}s (99.98 % of the values are below {_DARK} of 255; the colour jitter of resize-crop-flip "
        "subtracts up to 32, unless data.augmentation.exposure is set, for example to [0.15, 1.0])"
    )
    return [Finding(split, False, message, tuple(dark[:_NAMED]), len(dark))] if dark else []


def _clip_findings(clips: ClipSet, split: Split, num_queries: int) -> list[Finding]:
    """Findings about complete clips."""
    found = []
    if not clips.has_ground_truth and split == "train":
        found.append(Finding(split, True, "the training clips have no 'annotations' to learn from"))
    counts = clips.num_objects
    crowded = [] if counts is None else np.flatnonzero(counts > num_queries).tolist()
    if counts is not None and crowded:
        offenders = tuple(f"{clips.image_id(index)}: {counts[index]}" for index in crowded[:_NAMED])
        message = f"clips with more tracks than the model has queries ({num_queries})"
        found.append(Finding(split, False, message, offenders, len(crowded)))
    return found


def _leaks(digests: dict[Split, dict[bytes, str]], unit: Unit) -> list[Finding]:
    training, validation = (digests.get(split, {}) for split in _SPLITS)
    both = [f"{name} = {training[digest]}" for digest, name in validation.items() if digest in training]
    if not both:
        return []
    return [
        Finding("validation", False, f"{unit}s that are also training data", tuple(both[:_NAMED]), len(both)),
    ]


def default_workers() -> int:
    """Default number of reading processes: all processors that may be used but one, eight at most."""
    return max(0, min(8, num_processors() - 1))
