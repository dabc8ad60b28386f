"""Your own images with maps of objects: every number, or every colour, is one object, and 0, or black, is none.

The format that Cellpose, StarDist and Fiji save, and that of VOC's SegmentationObject, with the classes in
SegmentationClass beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64

from mask2former.data.datasets.annotation_files import Location, some
from mask2former.data.datasets.pairs import Names, pair_files
from mask2former.data.datasets.reader import SegmentReader
from mask2former.data.label_maps import ColorTable, inner_numbers, num_parts, read_ids, read_label_map, remap, rgb_text
from mask2former.errors import UserError
from mask2former.media.archives import File, Folder, open_folder
from mask2former.notes import is_collecting, note
from mask2former.structures.categories import Categories
from mask2former.text import quoted

__all__ = ["IdMapFolders", "IdMaps", "object_categories", "things_beside_background"]

_BACKGROUND = 0  # the first class, which is not a thing
_NO_OBJECT = 0  # on id maps
_FEW = 3  # fewer objects, or parts of one, say nothing about the map


class IdMapFolders(NamedTuple):
    """Where images, id maps and, optionally, class maps are, and a list of the images to use; None: all."""

    images: Location | Folder
    labels: Location | Folder
    classes: Location | Folder | None = None
    split: Location | None = None


def object_categories(name: str) -> Categories:
    """A background and one class of things."""
    return Categories.from_names(["background", name], things=[name])


def things_beside_background(classes: Categories, source: str) -> Categories:
    """The classes of a names file; the first is the background, all others are things.

    Raises:
        UserError: there are no others.
    """
    background, *things = classes
    if not things:
        raise UserError(
            f"'{source}' has only one class, which is the background; expected the classes of the objects after it"
        )
    kinds = (replace(background, is_thing=False), *(replace(thing, is_thing=True) for thing in things))
    return Categories(kinds, classes.ignore_label)


class _Files(NamedTuple):
    images: Folder
    image: str
    labels: Folder
    label: str
    classes: File | None


class IdMaps(SegmentReader):
    """Images with their objects, sorted by path; the background is known to contain no objects.

    Args:
        sources: folders of one data set.
        categories: the background first; all others are things.
        files: how images and id maps are named, and how to treat images without a map and the reverse.
        ignore: numbers on id maps and class maps that mark pixels where the ground truth is unknown; those of colours
            only on class maps.
        colors: the numbers of the colours on the class maps, where these are drawn in colours.
        filter_empty: leaves out images without objects, for which all maps are read.

    Raises:
        UserError: the folders do not exist, or contain no matching images and id maps; or a number is both ignored and
            a class or "no object".
    """

    def __init__(
        self,
        sources: Sequence[IdMapFolders],
        categories: Categories,
        *,
        files: Names = Names(),  # noqa: B008  (it is frozen)
        ignore: Sequence[int] = (),
        colors: ColorTable | None = None,
        filter_empty: bool = False,
    ) -> None:
        super().__init__(categories, "instance")
        self._class_of = categories.index_of_id()
        has_classes = any(source.classes is not None for source in sources)
        if both := sorted(set(ignore) & (self._class_of.keys() if has_classes else {_NO_OBJECT})):
            what = "classes of the names file" if has_classes else "where no object is"
            raise UserError(f"the numbers {quoted(both)} are {what} and also ignored; remove them from dataset.ignore")
        self._ignore = set(ignore)
        # A number that only stands for a colour on class maps may be that of an object.
        self._ignored_ids = sorted(self._ignore - set(() if colors is None else colors.number_of.values()))
        self._colors = colors
        self._files: list[_Files] = []
        for source in sources:
            images, labels = open_folder(source.images), open_folder(source.labels, "folder of id maps")
            pairs = pair_files(images, labels, files, source.split, self.notes, "id map")
            classes = None if source.classes is None else open_folder(source.classes, "folder of class maps")
            if classes is not None and (without := [label for _, label in pairs if not classes.exists(label)]):
                raise UserError(f"'{classes}' has no class maps for the id maps {some(without)}")
            self._files += [
                _Files(images, image, labels, label, None if classes is None else classes / label)
                for image, label in pairs
            ]
        if filter_empty:
            self._files = [
                files for index, files in enumerate(self._files) if len(self.segments(index, "training")[1]) > 1
            ]
            if not self._files:
                raise UserError(f"'{sources[0].labels}' has no images with objects; set filter_empty: false")

    def __len__(self) -> int:
        return len(self._files)

    def file(self, index: int) -> File:
        return self._files[index].images / self._files[index].image

    def image_id(self, index: int) -> str:
        """The path below the image folder, without the ending."""
        return self._files[index].image.rpartition(".")[0]

    def segments(
        self, index: int, purpose: Literal["training", "evaluation"]
    ) -> tuple[Int32[np.ndarray, "H W"], Int64[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
        """The background as the first segment, then the objects by their numbers.

        Raises:
            UserError: a map is missing or broken, the two differ in size, or do not give one class for each object.
        """
        files = self._files[index]
        label_file = files.labels / files.label
        numbers, is_colored = read_ids(label_file)
        if is_colored:
            note("id maps in colours; each colour is read as one object, and black as none", f"'{label_file}'")
        values, of_pixel = np.unique(numbers, return_inverse=True)
        is_object = (values != _NO_OBJECT) & ~np.isin(values, self._ignored_ids)
        segment = np.where(values == _NO_OBJECT, 1, np.where(is_object, 1 + np.cumsum(is_object), 0))
        if is_collecting():
            if is_object.all() and files.classes is None:
                what = "id maps without 0: every pixel is part of an object, and so is a background of another number"
                note(what, f"'{label_file}'")
            _note_other_kinds(numbers, values[is_object], label_file)
        ids = segment[of_pixel].reshape(numbers.shape).astype(np.int32)
        count = int(is_object.sum())
        classes = np.ones(count, dtype=np.int64)
        if files.classes is not None:
            names = [rgb_text(value) if is_colored else str(value) for value in values[is_object].tolist()]
            ids, classes = self._classes(files.classes, label_file, ids, names)
        return ids, np.append(_BACKGROUND, classes), np.zeros(count + 1, dtype=bool)

    def _classes(
        self, file: File, label_file: File, ids: Int32[np.ndarray, "H W"], names: Sequence[str]
    ) -> tuple[Int32[np.ndarray, "H W"], Int64[np.ndarray, " N"]]:
        """The ids without those that the class map ignores, and the class of every object."""
        numbers = read_label_map(file) if self._colors is None else self._colors.read(file)
        if numbers.shape != ids.shape:
            raise UserError(
                f"'{file}' is {numbers.shape[1]}x{numbers.shape[0]} and '{label_file}' {ids.shape[1]}x{ids.shape[0]} "
                "(width x height); expected maps of the same size"
            )
        unknown = sorted(set(np.unique(numbers).tolist()) - self._class_of.keys() - self._ignore)
        if unknown:
            raise UserError(
                f"'{file}' contains the numbers {some(unknown)}, which are not classes; name them in the names file, "
                "or ignore them (dataset.ignore)"
            )
        of_pixel = remap(numbers, self._class_of, -1)
        pairs, pixels = np.unique(np.stack([ids.ravel(), of_pixel.ravel()]), axis=1, return_counts=True)
        is_class = (pairs[0] > 1) & (pairs[1] > _BACKGROUND)
        segments, classes = pairs[:, is_class]
        twice = segments[1:][segments[1:] == segments[:-1]]
        lost = np.setdiff1d(np.arange(2, len(names) + 2), segments)
        for wrong, what in ((twice, "have several classes"), (lost, "have no class")):
            if len(wrong):
                found = [names[segment - 2] for segment in np.unique(wrong).tolist()]
                raise UserError(
                    f"objects of '{label_file}' {what} in '{file}': {some(found)}; expected all pixels of an object "
                    "to be of one class"
                )
        if bare := pixels[(pairs[0] > 1) & (pairs[1] == _BACKGROUND)].sum():
            what = "id maps with pixels of objects that are background on their class map; they stay with their objects"
            note(what, f"'{label_file}' ({bare} pixels)")
        alone = pixels[(pairs[0] == 1) & (pairs[1] > _BACKGROUND)].sum()
        if alone:
            raise UserError(
                f"{alone} pixels of '{file}' have a class but belong to no object of '{label_file}'; paint them in "
                "both maps, or train on classes only (label-folder)"
            )
        return np.where(of_pixel < 0, 0, ids).astype(np.int32), classes.astype(np.int64)


def _note_other_kinds(numbers: Int32[np.ndarray, "H W"], objects: Int32[np.ndarray, " N"], file: File) -> None:
    """Note signs that the numbers are not those of objects: slivers, and one number in many parts."""
    slivers = np.setdiff1d(objects, inner_numbers(numbers))
    if len(objects) >= _FEW and 2 * len(slivers) > len(objects):
        what = "id maps on which most objects are nowhere wider than two pixels, as if resized with smoothing"
        note(what, f"'{file}' ({len(slivers)} of {len(objects)})")
    if len(objects) == 1 and (count := num_parts(numbers == objects[0])) >= _FEW:
        what = "id maps with only one number, whose separate parts are read as one object; is it that of a class?"
        note(what, f"'{file}' ({count} parts)")
