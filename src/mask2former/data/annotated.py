"""One image with its objects in the form that survives geometry best: polygons, one id map, or single masks.

What readers of annotation files hand to the transforms, before anything is rasterised. Knows no files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32, Int64, UInt8

from mask2former import limits
from mask2former.config import MetricStyle, Task
from mask2former.limits import check_limit
from mask2former.ops.masks import Patch
from mask2former.structures.categories import Categories
from mask2former.structures.ground_truth import GroundTruth
from mask2former.structures.samples import Sample

__all__ = [
    "Annotated",
    "AnnotatedSet",
    "DataSet",
    "Polygons",
    "cover",
    "place_patches",
]

Polygons = Sequence[Float64[np.ndarray, "P 2"]]


@dataclass(frozen=True, slots=True)
class Annotated:
    """An image and its objects; object k is in exactly one of ``polygons``, ``ids`` (as the value k + 1), ``masks``.

    Attributes:
        image: RGB in 0..255.
        labels: class index of every object.
        polygons: outlines by object, corners (x, y) in pixels; several parts are united.
        ids: of objects that do not overlap; 0 is none of them (void, ignored, background).
        masks: of objects that overlap others, by object.
        semantic: ``ids`` is a label map: object k is all that is of class ``labels[k]``. It is resized as the published
            semantic training does (see :class:`~mask2former.data.transforms.geometry.Nearest`), and classes without a
            pixel in the result are no targets.
        ignored: where the ground truth is not known; what objects cover is known all the same. None: it is known
            everywhere, or was not requested.
    """

    image: UInt8[np.ndarray, "H W C"]
    labels: Int64[np.ndarray, " N"]
    polygons: Mapping[int, Polygons] = field(default_factory=dict)
    ids: UInt8[np.ndarray, "H W"] | Int[np.ndarray, "H W"] | None = None
    masks: Mapping[int, Bool[np.ndarray, "H W"]] = field(default_factory=dict)
    name: str = ""
    info: dict[str, Any] = field(default_factory=dict)
    semantic: bool = False
    ignored: Bool[np.ndarray, "H W"] | None = None

    def __post_init__(self) -> None:
        """Refuse more objects than can be read each time in reasonable time and memory."""
        count = 0 if self.semantic else len(self.labels)
        check_limit(f"'{self.name}' has too many objects:", count, limits.OBJECTS, "cut the image into tiles")

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.image.shape[0], self.image.shape[1]


def place_patches(
    patches: Mapping[int, Patch], size_hw: tuple[int, int]
) -> tuple[Int32[np.ndarray, "H W"] | None, dict[int, Bool[np.ndarray, "H W"]]]:
    """Masks by object as one id map, and those that overlap an earlier one as masks of their own."""
    if not patches:
        return None, {}
    ids = np.zeros(size_hw, dtype=np.int32)
    masks: dict[int, Bool[np.ndarray, "H W"]] = {}
    for index, (top, left, mask) in patches.items():
        window = ids[top : top + mask.shape[0], left : left + mask.shape[1]]
        if window[mask].any():
            whole = np.zeros(size_hw, dtype=bool)
            whole[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
            masks[index] = whole
        else:
            window[mask] = index + 1
    return ids, masks


def cover(patches: Iterable[Patch], size_hw: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """What any of the masks covers."""
    covered = np.zeros(size_hw, dtype=bool)
    for top, left, mask in patches:
        covered[top : top + mask.shape[0], left : left + mask.shape[1]] |= mask
    return covered


class DataSet(Protocol):
    """What every data set offers, whatever its files, of images or of clips; both are counted from 0.

    Attributes:
        categories: its classes.
        tasks: those for which it has a ground truth.
        has_ground_truth: whether there are annotations; those of test sets are kept by their servers.
        metric_style: whose evaluation tools the numbers of its papers come from.
        notes: what a user should know, as sentences; reading may add some.
    """

    @property
    def categories(self) -> Categories: ...

    @property
    def tasks(self) -> tuple[Task, ...]: ...

    @property
    def has_ground_truth(self) -> bool: ...

    @property
    def metric_style(self) -> MetricStyle: ...

    @property
    def notes(self) -> Sequence[str]: ...

    @property
    def num_objects(self) -> Int64[np.ndarray, " I"] | None:
        """Training targets of every image or clip; None where only reading all of them would tell."""
        ...

    def __len__(self) -> int: ...

    def image_id(self, index: int) -> int | str:
        """What files of results call the image or clip."""
        ...

    def ground_truths(self, index: int, tasks: Sequence[Task]) -> Mapping[Task, GroundTruth]:
        """What is true about the image or clip at its own size, for those of its :attr:`tasks` that are requested.

        Crowd regions, void and ignored pixels are in it, as the evaluators expect them.

        Raises:
            UserError: a file that is missing or broken, or images and labels of different sizes.
        """
        ...


class AnnotatedSet(DataSet, Protocol):
    """What every data set of images offers: the images, with their annotation in three forms."""

    def wide(self) -> Bool[np.ndarray, " I"]:
        """Which images are wider than high, for batches of one shape; from annotation files or image headers."""
        ...

    def __getitem__(self, index: int, /) -> Sample:
        """The image at its own size with the targets of training, and where the ground truth is unknown."""
        ...

    def image(self, index: int) -> UInt8[np.ndarray, "H W C"]:
        """The image alone."""
        ...

    def annotated(self, index: int, *, with_ignored: bool = False) -> Annotated:
        """The image and the targets of training, before anything is rasterised or moved; without crowd regions.

        ``with_ignored`` asks where the ground truth is not known: void and ignored pixels, and crowd regions.

        Raises:
            UserError: a file that is missing or broken.
        """
        ...
