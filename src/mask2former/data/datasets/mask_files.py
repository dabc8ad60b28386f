"""Images with one mask file for each object (Data Science Bowl 2018); all but 0, or black, is the object."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from mask2former.config import Task
from mask2former.data.annotated import Annotated, place_patches
from mask2former.data.array_files import ARRAY_SUFFIX
from mask2former.data.datasets.annotation_files import Location, some
from mask2former.data.datasets.pairs import LABEL_SUFFIXES
from mask2former.data.datasets.reader import Reader
from mask2former.data.label_maps import num_parts, read_object
from mask2former.errors import UserError
from mask2former.media.archives import File, Folder, open_folder
from mask2former.media.images import IMAGE_SUFFIXES, note_passed_over
from mask2former.notes import is_collecting, note
from mask2former.ops.masks import Patch, tight
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.structures.categories import Categories
from mask2former.structures.ground_truth import GroundTruth, InstanceGroundTruth

__all__ = ["MaskFiles", "MaskFolder"]

_FEW = 3  # parts; an object may be in two behind another one


class MaskFolder(NamedTuple):
    """Where images and their masks are.

    Attributes:
        images: images, at any depth.
        masks: contains a folder ``X`` for each image ``X.png``; None: the masks of ``a/images/X.png`` are in
            ``a/masks``.
    """

    images: Location | Folder
    masks: Location | Folder | None = None


class _Image(NamedTuple):
    images: Folder
    name: str
    masks: Folder
    mask_names: Sequence[str]


class MaskFiles(Reader):
    """Images with their objects, sorted by path; masks of one image may overlap.

    Args:
        sources: folders of one data set.
        class_name: of all objects.
        filter_empty: leaves out images without a mask file.

    Raises:
        UserError: no such folders, no image with masks, or several images with one folder of masks.
    """

    tasks: tuple[Task, ...] = ("instance",)

    def __init__(
        self, sources: Sequence[MaskFolder], class_name: str = "object", *, filter_empty: bool = False
    ) -> None:
        self.categories = Categories.from_names([class_name])
        self.notes: list[str] = []
        self._images: list[_Image] = []
        for source in sources:
            self._add(open_folder(source.images), None if source.masks is None else open_folder(source.masks))
        if filter_empty:
            self._images = [image for image in self._images if image.mask_names]
        self._counts = np.array([len(image.mask_names) for image in self._images], dtype=np.int64)
        if not self._counts.any():
            raise UserError(
                f"no image of '{sources[0].images}' has mask files; expected the masks of 'a/images/X.png' in "
                "'a/masks' or, if 'masks' is set, the masks of X.png in its folder X"
            )

    def _add(self, images: Folder, masks: Folder | None) -> None:
        note_passed_over(images)
        names = [name for name in images.names(IMAGE_SUFFIXES) if masks is not None or _mask_folder(name) is not None]
        by_folder: dict[str, list[str]] = defaultdict(list)
        for name in (masks or images).names(LABEL_SUFFIXES):
            by_folder[name.rpartition("/")[0]].append(name)
        taken: dict[str, str] = {}
        for name in names:
            folder = _mask_folder(name) if masks is None else name.rpartition(".")[0]
            assert folder is not None
            if taken.setdefault(folder, name) != name:
                raise UserError(
                    f"'{images}': the masks in '{folder}' would belong to '{taken[folder]}' and '{name}'; expected "
                    "one image per folder of masks"
                )
            self._images.append(_Image(images, name, masks or images, by_folder.get(folder, ())))
        if masks is not None:
            note_passed_over(masks)
            if alone := sorted(by_folder.keys() - taken.keys() - {""}):
                self.notes.append(f"'{masks}': left out folders of masks without an image: {some(alone)}")
            files = masks.names((*IMAGE_SUFFIXES, ARRAY_SUFFIX))
            if others := [name for name in files if "/" not in name or not name.lower().endswith(LABEL_SUFFIXES)]:
                self.notes.append(
                    f"'{masks}': left out files that are not masks ({', '.join(LABEL_SUFFIXES)}) in the folder of an "
                    f"image: {some(others)}"
                )
        if masks is None:
            read = {*names, *(name for folder in taken for name in by_folder.get(folder, ()))}
            if rest := [name for name in images.names(IMAGE_SUFFIXES) if name not in read]:
                self.notes.append(
                    f"'{images}': left out files that are neither images in a folder 'images' nor masks of one in the "
                    f"folder 'masks' beside it: {some(rest)}"
                )
        if empty := [image.name for image in self._images if not image.mask_names]:
            self.notes.append(f"'{images}': treated images without mask files as empty: {some(empty)}")

    def __len__(self) -> int:
        return len(self._images)

    @property
    def num_objects(self) -> Int64[np.ndarray, " I"]:
        return self._counts

    def file(self, index: int) -> File:
        return self._images[index].images / self._images[index].name

    def image_id(self, index: int) -> str:
        """The name of the image without its ending, with its folders."""
        return self._images[index].name.rpartition(".")[0]

    def annotated(self, index: int, *, with_ignored: bool = False) -> Annotated:
        """The image and its objects; the format has no ignored pixels."""
        image = self.image(index)
        size = (image.shape[0], image.shape[1])
        ids, masks = place_patches(dict(enumerate(self._patches(index, size))), size)
        labels = np.zeros(int(self._counts[index]), dtype=np.int64)
        name, info = self._images[index].name, {"image_id": self.image_id(index)}
        return Annotated(image, labels, ids=ids, masks=masks, name=name, info=info)

    def ground_truths(self, index: int, tasks: Sequence[Task]) -> dict[Task, GroundTruth]:
        size = self.size(self.file(index))
        masks = SparseMasks(self._patches(index, size), size)
        if lost := np.count_nonzero(masks.areas == 0):
            what = "images with mask files without a pixel, whose objects count as missed"
            note(what, f"'{self.file(index)}' ({lost} of {len(masks)} objects)")
        labels = np.zeros(len(masks), dtype=np.int64)
        found = InstanceGroundTruth(masks, labels, np.zeros(len(masks), dtype=bool))
        return {task: found for task in tasks if task in self.tasks}

    def _patches(self, index: int, size_hw: tuple[int, int]) -> list[Patch]:
        image = self._images[index]
        patches = []
        for name in image.mask_names:
            file = image.masks / name
            numbers = read_object(file)
            self.check_size(index, numbers.shape, size_hw, f"its mask '{file}' is")
            mask = numbers > 0
            if (numbers[mask] != numbers.max()).any():
                what = "mask files with several values; all but 0 are read as the object"
                note(what, f"'{file}' (up to {numbers.max()})")
            if is_collecting() and len(image.mask_names) == 1 and (count := num_parts(mask)) >= _FEW:
                what = "images with only one mask file, whose separate parts are read as one object"
                note(what, f"'{file}' ({count} parts)")
            patches.append(tight(Patch(0, 0, mask)))
        return patches


def _mask_folder(name: str) -> str | None:
    """``a/masks`` of ``a/images/X.png``."""
    parts = name.split("/")
    if len(parts) < 2 or parts[-2] != "images":
        return None
    return "/".join((*parts[:-2], "masks"))
