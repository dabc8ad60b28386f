"""What all readers share: indexing, samples made from annotated images, and what follows from segments.

A reader of one format says where an image is and what its segments or labels are; the forms that training and
evaluation need are made here. Knows no file format.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64, UInt8

from mask2former.config import MetricStyle, Reading, Task
from mask2former.data.annotated import Annotated
from mask2former.data.clips import whole_clip
from mask2former.data.label_maps import runs_of
from mask2former.data.sequence import SampleSequence, spread_indices
from mask2former.data.transforms import Geometry, Plan, object_areas
from mask2former.errors import UserError
from mask2former.media.archives import File
from mask2former.media.images import Exif, check_size, image_size, read_image
from mask2former.notes import collect_notes, note, sentences
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.structures.categories import Categories
from mask2former.structures.ground_truth import GroundTruth, InstanceGroundTruth, PanopticGroundTruth, with_classes
from mask2former.structures.samples import Sample
from mask2former.text import quoted

__all__ = ["ClipReader", "ImageReader", "Reader", "SegmentReader", "annotated_labels", "notes_of_some"]


class ImageReader:
    """How the images of a data set are read; set after the data set has been opened.

    Attributes:
        exif: ``ignore`` reads images as they are stored, for annotations that were made on those.
        reading: how the model reads values and bands; see :func:`~mask2former.media.images.read_image`.
        annotation_files: the files that were read to open the data set, not those of images, label maps and masks.
    """

    exif: Exif = "apply"
    reading: Reading = {}  # noqa: RUF012  (replaced as a whole)
    annotation_files: Sequence[File] = ()

    def read(self, file: File) -> UInt8[np.ndarray, "H W C"]:
        """An image of the data set."""
        return read_image(file, **self.reading, exif=self.exif)

    def size(self, file: File) -> tuple[int, int]:
        """(height, width) of an image of the data set."""
        return image_size(file, exif=self.exif)


class Reader(ImageReader, SampleSequence):
    """Images by index; see :class:`~mask2former.data.annotated.AnnotatedSet`.

    A subclass sets the attributes and implements ``__len__``, ``annotated``, ``ground_truths``, ``image_id`` and
    ``file``, which all take an index from 0.
    """

    categories: Categories
    tasks: tuple[Task, ...]
    has_ground_truth = True
    metric_style: MetricStyle = "coco"
    notes: list[str]

    def file(self, index: int) -> File:
        """The path of the image."""
        raise NotImplementedError

    def image_id(self, index: int) -> int | str:
        raise NotImplementedError

    def annotated(self, index: int, *, with_ignored: bool = False) -> Annotated:
        raise NotImplementedError

    def ground_truths(self, index: int, tasks: Sequence[Task]) -> dict[Task, GroundTruth]:
        raise NotImplementedError

    @property
    def num_objects(self) -> Int64[np.ndarray, " I"] | None:
        """The number of training targets of every image; None where this is known only after reading all label maps."""
        return None

    def wide(self) -> Bool[np.ndarray, " I"]:
        """Which images are wider than high."""
        return self._wide

    @cached_property
    def _wide(self) -> Bool[np.ndarray, " I"]:
        sizes = [self.size(self.file(index)) for index in range(len(self))]
        return np.array([width > height for height, width in sizes], dtype=bool)

    def image(self, index: int) -> UInt8[np.ndarray, "H W C"]:
        return self.read(self.file(index))

    counted = "image"

    def sample(self, position: int) -> Sample:
        annotated = self.annotated(position, with_ignored=True)
        return Plan(Geometry(annotated.size_hw))(annotated)

    def check_size(
        self, index: int, labels_hw: Sequence[int] | None, image_hw: Sequence[int] | None = None, what: str = ""
    ) -> None:
        """Refuse labels whose size differs from that of their image; None: the annotations do not give the size.

        Raises:
            UserError: the sizes differ.
        """
        file = self.file(index)
        size = image_hw or self.size(file)
        check_size(file, size, labels_hw, what or "its label map is", exif=self.exif)


class ClipReader(ImageReader, SampleSequence):
    """Clips by index; see :class:`~mask2former.data.clips.ClipSet`.

    A subclass sets the attributes and implements ``__len__``, ``clip_length``, ``clip_size``, ``image_id``, ``images``,
    ``annotated`` and ``ground_truths``, which all take an index from 0.
    """

    categories: Categories
    tasks: tuple[Task, ...] = ("instance",)
    has_ground_truth: bool = True
    metric_style: MetricStyle = "youtube-vis"
    notes: list[str]

    counted = "clip"

    def clip_size(self, index: int) -> tuple[int, int]:
        """Height and width of the frames."""
        raise NotImplementedError

    def wide(self) -> Bool[np.ndarray, " I"]:
        """Which clips are wider than high."""
        sizes = [self.clip_size(index) for index in range(len(self))]
        return np.array([width > height for height, width in sizes], dtype=bool)

    def sample(self, position: int) -> Sample:
        return whole_clip(self, position)  # pyright: ignore[reportArgumentType]  (its subclasses are sets of clips)


def notes_of_some(samples: object, most: int = 32) -> list[str]:
    """What is noted when some images of a data set, at even distances, are read with their annotations.

    For training, which cannot read all of them before it starts; faults are left for training to report.
    """
    if not isinstance(samples, ImageReader) or not isinstance(samples, Sequence):
        return []
    indices = spread_indices(len(samples), most)
    with collect_notes() as found:
        for index in indices:
            with contextlib.suppress(UserError):
                if isinstance(samples, Reader):
                    annotated = samples.annotated(index)
                    if lost := np.count_nonzero(object_areas(annotated) == 0):
                        message = "images with objects that have no pixels, and therefore no mask to learn"
                        note(message, f"'{samples.file(index)}' ({lost} of {len(annotated.labels)} objects)")
                else:  # of a clip, the first frame
                    samples.annotated(index, [0])  # pyright: ignore[reportAttributeAccessIssue]
    return [f"of {len(indices)} read (check-data reads all): {line}" for line in sentences(found)]


def annotated_labels(
    image: UInt8[np.ndarray, "H W C"],
    classes: Int[np.ndarray, "H W"],
    num_classes: int,
    name: str,
    image_id: int | str,
    *,
    with_ignored: bool = False,
) -> Annotated:
    """One object per class that is present, ascending; values that are not a class are ignored."""
    runs, lengths = runs_of(classes)
    values, indices = np.unique(runs, return_inverse=True)
    is_class = (values >= 0) & (values < num_classes)
    ids = np.repeat(np.where(is_class, np.cumsum(is_class), 0).astype(np.int32)[indices], lengths).reshape(
        classes.shape
    )
    present = values[is_class].astype(np.int64)
    ignored = ids == 0 if with_ignored else None
    return Annotated(image, present, ids=ids, name=name, info={"image_id": image_id}, semantic=True, ignored=ignored)


class _Other(NamedTuple):
    """A data set that has the ground truth of a task."""

    data: Reader
    indices: dict[int | str, int]  # by image id
    class_map: Int64[np.ndarray, " K"]


class SegmentReader(Reader):
    """Images with a map of segments, for any of the three tasks.

    For ``panoptic`` every segment except crowd regions is a target, in annotation order, even without pixels; for
    ``instance`` those of things, and the classes are the things; for ``semantic`` everything of one class is one
    target, crowd regions included. Void is ignored, and so are crowd regions that are not targets; stuff is background
    for ``instance``.

    Args:
        categories: of the segments.
        task: the task that targets are made for.
        ground_truths_from: data sets of the same images, matched by image id, that have the ground truth of a task;
            opened when needed. Where one lacks images, the segments are the ground truth, and ``notes`` say so.
    """

    def __init__(
        self, categories: Categories, task: Task, ground_truths_from: Mapping[Task, Callable[[], Reader]] | None = None
    ) -> None:
        self.task: Task = task
        self.notes = []
        self._ground_truths_from = dict(ground_truths_from or {})
        self._others: dict[Task, _Other | None] = {}
        self._index_of_class = np.arange(len(categories), dtype=np.int64)
        if task == "instance":
            self.categories = categories.things()
            self._index_of_class = np.full(len(categories), -1, dtype=np.int64)
            self._index_of_class[list(categories.thing_indices)] = np.arange(len(self.categories))
        else:
            self.categories = categories
        self._is_thing = np.array([item.is_thing for item in categories], dtype=bool)
        by_task: dict[Task, tuple[Task, ...]] = {"panoptic": ("panoptic", "instance", "semantic")}
        self.tasks = by_task.get(task, (task,))

    def segments(
        self, index: int, purpose: Literal["training", "evaluation"]
    ) -> tuple[Int32[np.ndarray, "H W"], Int64[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
        """The map, segment k having the value k + 1 and void 0, and the class and crowd flag of every segment."""
        raise NotImplementedError

    def are_targets(self, classes: Int64[np.ndarray, " N"], crowds: Bool[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
        """Which segments are learned, alone or with others of their class."""
        if self.task == "semantic":
            return np.ones(len(classes), dtype=bool)
        return ~crowds & ((self.task == "panoptic") | self._is_thing[classes])

    def annotated(self, index: int, *, with_ignored: bool = False) -> Annotated:
        ids, classes, crowds = self.segments(index, "training")
        image = self.image(index)
        self.check_size(index, ids.shape, image.shape[:2])
        name, image_id = self.file(index).name, self.image_id(index)
        if self.task == "semantic":
            labels, count = np.append(-1, classes)[ids], len(self.categories)
            return annotated_labels(image, labels, count, name, image_id, with_ignored=with_ignored)
        wanted = (self.task == "panoptic") | self._is_thing[classes]
        ignored = np.append(True, crowds & wanted)[ids] if with_ignored else None
        kept = np.flatnonzero(self.are_targets(classes, crowds))
        if len(kept) < len(classes):
            table = np.zeros(len(classes) + 1, dtype=np.int32)
            table[kept + 1] = np.arange(1, len(kept) + 1)
            ids = table[ids]
        labels = self._index_of_class[classes[kept]]
        return Annotated(image, labels, ids=ids, name=name, info={"image_id": image_id}, ignored=ignored)

    def ground_truths(self, index: int, tasks: Sequence[Task]) -> dict[Task, GroundTruth]:
        ground_truths: dict[Task, GroundTruth] = {}
        for task in tasks:
            if (other := self._other(task)) is not None:
                ground_truth = other.data.ground_truths(other.indices[self.image_id(index)], [task])[task]
                ground_truths[task] = with_classes(ground_truth, other.class_map, self.categories.ignore_label)
        if len(ground_truths) < len(tasks):
            segments = self.segments(index, "evaluation")
            self.check_size(index, segments[0].shape)
            ground_truths.update(
                {task: self._ground_truth(task, *segments) for task in tasks if task not in ground_truths}
            )
        return ground_truths

    def _other(self, task: Task) -> _Other | None:
        if task not in self._others:
            found = None
            if task in self._ground_truths_from:
                data = self._ground_truths_from[task]()
                indices = {data.image_id(index): index for index in range(len(data))}
                lacking = [image_id for index in range(len(self)) if (image_id := self.image_id(index)) not in indices]
                if lacking:
                    self.notes.append(
                        f"the {task} annotations lack {len(lacking)} of the images, such as {quoted(lacking[0])}: "
                        "the panoptic annotations are used as the ground truth instead"
                    )
                else:
                    own = self.categories.index_of_id()
                    class_map = np.array([own[item.id] for item in data.categories], dtype=np.int64)
                    found = _Other(data, indices, class_map)
            self._others[task] = found
        return self._others[task]

    def _ground_truth(
        self,
        task: Task,
        ids: Int32[np.ndarray, "H W"],
        classes: Int64[np.ndarray, " N"],
        crowds: Bool[np.ndarray, " N"],
    ) -> GroundTruth:
        if task == "panoptic":
            rows = zip(range(1, len(classes) + 1), classes.tolist(), crowds.tolist(), strict=True)
            return PanopticGroundTruth(ids, list(rows))
        if task == "semantic":
            return np.append(self.categories.ignore_label, classes).astype(np.int32)[ids]
        things = np.flatnonzero(self._is_thing[classes])
        masks = SparseMasks.of_ids(ids, (things + 1).tolist())
        return InstanceGroundTruth(masks, self._index_of_class[classes[things]], crowds[things])
