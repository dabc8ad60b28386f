"""Cityscapes fine annotations (Cordts et al., CVPR 2016), read directly from the downloaded files.

Everything is in the PNGs ``*_gtFine_instanceIds.png``: label ids of stuff, void and groups, and label id * 1000 +
object number. Neither panoptic files nor label maps of training ids have to be created first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int32, Int64

from mask2former.config import MetricStyle, Task
from mask2former.data.datasets.annotation_files import some
from mask2former.data.datasets.reader import SegmentReader
from mask2former.data.label_maps import read_label_map, remap, runs_of
from mask2former.errors import UserError
from mask2former.media.archives import File, Folder
from mask2former.structures.categories import Categories
from mask2former.structures.ground_truth import CityscapesGroundTruth, GroundTruth

__all__ = ["Cityscapes"]

_IMAGE, _LABELS = "_leftImg8bit.png", "_gtFine_instanceIds.png"
_FIRST_OBJECT = 1000  # label id times this; smaller values are label ids
_LABEL_IDS = range(34)  # with those that are not trained on
_OBJECT_LABEL_IDS = range(24, 34)  # that have objects


class Cityscapes(SegmentReader):
    """Images of one split, sorted by city and name; image ids are the first three parts of the file name.

    Objects are the pixels in their PNG, which the data set's own tools measure against: the polygons of the JSON files
    painted in order, later ones over earlier ones. Regions of several objects ("group") are crowd regions.

    Args:
        images: ``leftImg8bit/SPLIT``.
        labels: ``gtFine/SPLIT``.
        task: what targets are made for, see :class:`SegmentReader`.
        filter_empty: leaves out images without targets; every PNG is read once for this.

    Raises:
        UserError: images without annotations, annotations without images, or none at all.
    """

    metric_style: MetricStyle = "cityscapes"

    def __init__(self, images: Folder, labels: Folder, task: Task, *, filter_empty: bool = False) -> None:
        super().__init__(Categories.load("cityscapes"), task)
        self._class_of_label = Categories.load("cityscapes").index_of_id()
        self._images, self._labels = images, labels
        image_files = {name.removesuffix(_IMAGE) for name in images.names([_IMAGE.lower()])}
        maps = {name.removesuffix(_LABELS) for name in labels.names([_LABELS.lower()])}
        for index, alone, suffix in ((labels, image_files - maps, _LABELS), (images, maps - image_files, _IMAGE)):
            if alone:
                missing = some([name + suffix for name in sorted(alone)])
                raise UserError(f"'{index}' lacks Cityscapes files: {missing}; unpack both archives completely")
        self._names = sorted(image_files)
        if filter_empty:
            self._names = [name for index, name in enumerate(self._names) if self._has_targets(index)]
        if not self._names:
            raise UserError(f"'{images}' contains no Cityscapes images (CITY/X{_IMAGE})")

    def _has_targets(self, index: int) -> bool:
        _, classes, crowds = self.segments(index, "training")
        return bool(self.are_targets(classes, crowds).any())

    def __len__(self) -> int:
        return len(self._names)

    def file(self, index: int) -> File:
        return self._images / (self._names[index] + _IMAGE)

    def image_id(self, index: int) -> str:
        return self._names[index].rpartition("/")[2]

    def ground_truths(self, index: int, tasks: Sequence[Task]) -> dict[Task, GroundTruth]:
        """The ground truth of the image; instances and pixels have their own metrics here, each with its own form."""
        ground_truths = super().ground_truths(index, [task for task in tasks if task == "panoptic"])
        own: list[Task] = [task for task in tasks if task != "panoptic"]
        if own:
            values = self._values(index)
            self.check_size(index, values.shape)
            ground_truths.update(dict.fromkeys(own, CityscapesGroundTruth(values)))
        return ground_truths

    def segments(
        self, index: int, purpose: Literal["training", "evaluation"]
    ) -> tuple[Int32[np.ndarray, "H W"], Int64[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
        """The map, on which segment k has the value k + 1, and the class and crowd flag of every segment."""
        values = self._values(index)
        present = np.unique(runs_of(values)[0]).tolist()
        listed = [(value, value if value < _FIRST_OBJECT else value // _FIRST_OBJECT) for value in present]
        listed = [(value, self._class_of_label[label]) for value, label in listed if label in self._class_of_label]
        ids = remap(values, {value: position for position, (value, _) in enumerate(listed, start=1)}, 0)
        classes = np.array([label for _, label in listed], dtype=np.int64)
        crowds = np.array([value < _FIRST_OBJECT for value, _ in listed], dtype=bool) & self._is_thing[classes]
        return ids, classes, crowds

    def _values(self, index: int) -> Int32[np.ndarray, "H W"]:
        """The map.

        Raises:
            UserError: it is broken, or has values that Cityscapes does not have, which would be void without a word.
        """
        file = self._labels / (self._names[index] + _LABELS)
        values = read_label_map(file)
        if unknown := [value for value in np.unique(runs_of(values)[0]).tolist() if not _is_known(value)]:
            raise UserError(
                f"'{file}' contains the values {some(unknown)}; expected label ids of Cityscapes (0 to 33) or, for "
                "objects, 1000 times these (24 to 33) plus a number: download it again, or read other label maps as "
                "label-folder or id-maps"
            )
        return values


def _is_known(value: int) -> bool:
    return value in _LABEL_IDS if value < _FIRST_OBJECT else value // _FIRST_OBJECT in _OBJECT_LABEL_IDS
