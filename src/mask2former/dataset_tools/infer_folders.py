"""The configuration of folders of images with label maps, id maps or mask files: from names and some of the maps."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from mask2former.config import STEM, DatasetConfig
from mask2former.data.array_files import ARRAY_SUFFIX, is_array_file
from mask2former.data.datasets.class_names import read_color_table, read_names
from mask2former.data.datasets.pairs import LABEL_SUFFIXES, map_files
from mask2former.data.label_maps import read_with_palette
from mask2former.data.sequence import spread_indices
from mask2former.dataset_tools.data_paths import (
    IMAGE_FOLDERS,
    NO_VALIDATION,
    VALIDATION,
    DataPaths,
    held_out,
    others,
    parsed,
)
from mask2former.errors import OptionError, UserError
from mask2former.media.archives import find_folder
from mask2former.media.folders import list_folder
from mask2former.media.image_files import open_image
from mask2former.media.images import IMAGE_SUFFIXES
from mask2former.text import listed

__all__ = ["infer_folders"]

_NAMES_FILES = ("names", "classes", "labels", "categories", "labelmap", "class_names", "class_dict", "label_colors")
_NAMES_SUFFIXES = (".txt", ".json", ".yaml", ".yml", ".csv")
_LABEL_FOLDERS = (
    *("labels", "masks", "annotations", "label", "mask", "gt", "ground_truth", "groundtruth"),
    *("instances", "ids", "SegmentationClass"),
)
_BESIDE = ("annot", "_labels", "_masks", "_mask", "_label")  # of folders: train and trainannot, train and train_labels
_LABEL_ENDINGS = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "_seg")  # of label maps beside their images
_CELLPOSE = ("_cp_masks.png", "_cp_masks.tif", "_seg.npy")  # no other tool writes these, and they show objects
_NAMES = "(--names, in Python DataPaths.names)"
_SAMPLED = 8  # maps that are examined
_COMPARED = 2_000  # names that are compared
_COLORS = 12  # that are listed


class _Pair(NamedTuple):
    images: Path
    labels: Path
    image_name: str = STEM
    label_name: str = STEM

    @property
    def names(self) -> dict[str, str]:
        return {
            key: value
            for key, value in (("image_name", self.image_name), ("label_name", self.label_name))
            if value != STEM
        }


def infer_folders(path: Path, paths: DataPaths) -> tuple[DatasetConfig, list[str]] | None:
    """The configuration of a folder with images and maps, and what was assumed; None if it is not such a folder.

    Raises:
        UserError: it is one, but something is missing.
    """
    return (
        _named(path, paths)
        or _voc(path, paths)
        or _mask_files(path, paths)
        or _maps(path, _pair_of(path, "train"), paths)
        or _maps(path, _pair_of(path, "training"), paths)
        or _maps(path, _pair_of(path), paths)
    )


def _named(path: Path, paths: DataPaths) -> tuple[DatasetConfig, list[str]] | None:
    if paths.images is None or paths.labels is None:
        return None
    return _maps(path, _with_pattern(paths.images, paths.labels) or _Pair(paths.images, paths.labels), paths)


# --- one file an object ----------------------------------------------------------------------------------------------


def _mask_files(path: Path, paths: DataPaths) -> tuple[DatasetConfig, list[str]] | None:
    """``a/images/X.png`` and ``a/masks/*.png`` for every image, as in the Data Science Bowl 2018."""
    roots = [root for name in ("", "stage1_train", "train") if (root := path / name).is_dir() and _has_masks(root)]
    if not roots:
        return None
    validation, notes = (paths.validation, []) if paths.validation else held_out(roots[0])
    values: dict[str, Any] = {"name": "mask-files", "train": [{"images": str(roots[0])}]}
    values["validation"] = [] if validation is None else [{"images": str(validation)}]
    notes += [] if validation is None else [f"used for validation: '{validation}'"]
    return parsed(values, path), [*notes, _one_class("mask file")]


def _has_masks(root: Path) -> bool:
    """Whether some folders have ``images``, with one image, and ``masks``; with several, these are maps of them."""
    folders = [entry for entry in list_folder(root, skip_unreadable=True)[:_SAMPLED] if (entry / "masks").is_dir()]
    inside = [list_folder(folder / "images") for folder in folders if (folder / "images").is_dir()]
    return any(sum(entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in entries) < 2 for entries in inside)


def _one_class(what: str) -> str:
    return (
        f"each {what} is read as one object of the class 'object'; to name the class, set class_name "
        "in 'dataset' of the run file"
    )


# --- VOC, and CVAT's "Segmentation mask" -----------------------------------------------------------------------------


def _voc(path: Path, paths: DataPaths) -> tuple[DatasetConfig, list[str]] | None:
    classes, objects = path / "SegmentationClass", path / "SegmentationObject"
    if paths.labels is not None and paths.labels.name == classes.name:
        objects = path / "-"  # whoever gives the class maps wants these
    if not classes.is_dir():
        return None
    images = paths.images or next((path / name for name in IMAGE_FOLDERS if (path / name).is_dir()), None)
    if images is None:
        raise OptionError(
            lambda name: (
                f"'{path}' has maps in VOC's layout, but no folder 'JPEGImages' or 'images'; give it with "
                f"{name('images')} (CVAT exports it with 'Save images')"
            )
        )
    names, notes = _names_file(path, paths)
    if names is None and (path / "Annotations").is_dir():
        names = "pascal_voc"
        notes.append(f"the classes are those of VOC 2012 (names: pascal_voc); to use others, give their file {_NAMES}")
    if names is None:
        raise OptionError(
            lambda name: (
                f"'{path}' has maps in VOC's layout, but no class names; write '{path / 'labelmap.txt'}' as "
                "CVAT exports it (cell:128,0,0:: on a line, for each class and the background), or 'names.txt' with "
                f"one name per line (the first is class 0); for the classes of VOC 2012, {name('names')} is pascal_voc"
            )
        )
    encoding, more = _encoding(classes, names)
    entry: dict[str, Any] = {"images": str(images), "labels": str(objects if objects.is_dir() else classes)}
    values: dict[str, Any] = {"name": "label-folder", "names": names, "encoding": encoding}
    if objects.is_dir():
        has_void = encoding == "numbers" and 255 not in read_names(names).index_of_id()
        values |= {"name": "id-maps", "ignore": [255] if has_void else []}
        entry["classes"] = str(classes)
        notes.append(
            f"objects are read from '{objects}' and their classes from '{classes}'; to learn classes only, give "
            f"'{classes}' as the label maps (--labels, in Python DataPaths.labels)"
        )
    lists = path / "ImageSets" / "Segmentation"
    train, validation = ({**entry, "split": str(file)} for file in (lists / "train.txt", lists / "val.txt"))
    if Path(train["split"]).is_file() and Path(validation["split"]).is_file():
        values |= {"train": [train], "validation": [validation]}
    else:
        everything = [file for file in list_folder(lists) if file.suffix == ".txt"] if lists.is_dir() else []
        values["train"] = [entry if len(everything) != 1 else {**entry, "split": str(everything[0])}]
        if len(everything) > 1:
            notes.append(
                f"the lists in '{lists}' are not used ({listed([file.name for file in everything], 5)}), so all images "
                "are training data: expected train.txt and val.txt, or a single list"
            )
        notes += [NO_VALIDATION] if paths.validation is None else []
    if paths.validation is not None:
        found = _voc(paths.validation, DataPaths(labels=paths.labels, names=Path(names)))
        if found is None:
            raise UserError(f"'{paths.validation}' has no folder 'SegmentationClass', as '{path}' has")
        values["validation"] = found[0].model_dump()["train"]
    return parsed(values, path), notes + more


# --- images and maps -------------------------------------------------------------------------------------------------


def _maps(path: Path, train: _Pair | None, paths: DataPaths) -> tuple[DatasetConfig, list[str]] | None:
    if train is None:
        return None
    validation = _validation_pair(train, paths)
    taken = [
        f"used for validation: the maps in '{pair.labels}' of the images in '{pair.images}'" for pair in validation
    ]
    notes = taken or [NO_VALIDATION]
    if train.names:
        notes.append(f"files are matched by name: images {train.image_name}, maps {train.label_name}")
    names, more = _names_file(path, paths)
    notes += more
    values: dict[str, Any] = {
        "train": [{"images": str(train.images), "labels": str(train.labels)}],
        "validation": [{"images": str(pair.images), "labels": str(pair.labels)} for pair in validation],
        **train.names,
    }
    if names is None:
        if not _has_id_maps(train):
            raise _no_names(path, train)
        values["name"] = "id-maps"
        notes.append(f"{_one_class('number on a map')}; for maps of classes write names.txt")
        return parsed(values, path), notes
    values |= {"name": "label-folder", "names": names}
    values["encoding"], more = _encoding(train.labels, names, train.label_name)
    return parsed(values, path), notes + more


def _no_names(path: Path, pair: _Pair | None = None) -> UserError:
    colors = [] if pair is None else _colors(pair)
    if colors:
        return OptionError(
            lambda name: (
                f"the label maps of '{path}' are drawn in colours ({listed(colors, _COLORS)}), but no file "
                f"says which classes these are; write '{path / 'names.csv'}' with the columns name, r, g, b, or give "
                f"one with {name('names')}"
            )
        )
    return OptionError(
        lambda name: (
            f"'{path}' has no file with class names; write one, for instance '{path / 'names.txt'}' (one name "
            f"per line, the first is class 0), or give it with {name('names')}; if each number on a map is an object, "
            "as in Cellpose and StarDist, write a run file whose data set has the name id-maps"
        )
    )


def _validation_pair(train: _Pair, paths: DataPaths) -> list[_Pair]:
    if paths.validation is not None:
        found = next((pair for split in (*VALIDATION, "") if (pair := _pair_of(paths.validation, split))), None)
        if found is None:
            raise UserError(f"'{paths.validation}' has no folders 'images' and 'labels' with label maps")
        return [found]
    if train.images == train.labels:
        folder, _ = held_out(train.images)
        return [] if folder is None else [train._replace(images=folder, labels=folder)]
    (images, _), (labels, _) = held_out(train.images), held_out(train.labels)
    if (images is None or labels is None) and train.images.parent == train.labels.parent:  # of other names
        pairs = map(_pair_of, filter(Path.is_dir, others(train.images.parent)))
        images, labels = next(((pair.images, pair.labels) for pair in pairs if pair is not None), (None, None))
    return [train._replace(images=images, labels=labels)] if images is not None and labels is not None else []


def _pair_of(path: Path, split: str = "") -> _Pair | None:
    """The folders of images and label maps: ``images/train`` and ``labels/train``, ``train/images`` and so on."""
    candidates = [
        folders
        for images in IMAGE_FOLDERS
        for labels in _LABEL_FOLDERS
        for folders in (
            (path / images / split, path / labels / split),
            (path / split / images, path / split / labels),
        )
    ]
    candidates += [(path / split, path / f"{split}{ending}") for ending in _BESIDE if split]
    candidates += [(path / "leftImg8bit" / split, path / "gtFine" / split)]
    for images, labels in candidates:
        if images.is_dir() and labels.is_dir() and (pair := _with_pattern(images, labels)):
            return pair
    return _side_by_side(path / split) if (path / split).is_dir() else None


def _side_by_side(folder: Path) -> _Pair | None:
    """Maps among their images, recognised by the suffix of their names: ``X.png`` and ``X_masks.png``."""
    names = [entry.name for entry in list_folder(folder, skip_unreadable=True)]
    stems = {name.rpartition(".")[0] for name in names if name.lower().endswith(IMAGE_SUFFIXES)}
    for suffixes in (LABEL_SUFFIXES, ARRAY_SUFFIX):
        maps = [name.rpartition(".")[0] for name in names if name.lower().endswith(suffixes)]
        for ending in _LABEL_ENDINGS:
            if any(stem.endswith(ending) and stem.removesuffix(ending) in stems for stem in maps):
                return _Pair(folder, folder, label_name=STEM + ending)
    return None


def _with_pattern(images: Path, labels: Path) -> _Pair | None:
    """The folders with what names have in addition to a common stem; None where there are no maps."""
    found = [find_folder(folder) for folder in (images, labels)]
    if found[0] is None or found[1] is None:
        return _Pair(images, labels)  # whoever gave it is told that it is missing
    of_images, of_maps = (
        [os.path.split(name.rpartition(".")[0]) for name in names]
        for names in (found[0].names(IMAGE_SUFFIXES), map_files(found[1]).values())
    )
    if not of_maps:
        return None
    if not of_images or set(of_images) & set(of_maps):
        return _Pair(images, labels)
    folder, stem = of_images[0]
    near = [name for where, name in of_maps if where == folder][:_COMPARED]
    patterns = {pattern for name in near for pattern in _patterns(stem, name)}
    known, maps = of_images[:_COMPARED], set(of_maps)

    def paired(pattern: tuple[str, str]) -> int:
        (before, behind), (other_before, other_behind) = (part.split(STEM) for part in pattern)
        stems = ((where, name, name[len(before) : len(name) - len(behind)]) for where, name in known)
        return sum(
            bool(stem) and name == before + stem + behind and (where, other_before + stem + other_behind) in maps
            for where, name, stem in stems
        )

    # Label ids before other maps of the same images: _gtFine_labelIds beside _gtFine_color and _gtFine_instanceIds.
    best = max(sorted(patterns), key=lambda pattern: (paired(pattern), "label" in pattern[1].lower()), default=None)
    if best is None or 2 * paired(best) <= min(len(known), len(maps)):
        return _Pair(images, labels)
    return _Pair(images, labels, *best)


def _patterns(image: str, label: str) -> Iterator[tuple[str, str]]:
    """Patterns in which two names share a stem: their common beginning, or their common end."""
    common = len(image[: _num_common(image, label)].rstrip("_-. "))
    if common:
        yield STEM + image[common:], STEM + label[common:]
    common = _num_common(image[::-1], label[::-1])
    if common:
        yield image[: len(image) - common] + STEM, label[: len(label) - common] + STEM


def _num_common(first: str, second: str) -> int:
    """Length of the common beginning of two texts."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((number for number, (one, other) in pairs if one != other), min(len(first), len(second)))


# --- what is on maps -------------------------------------------------------------------------------------------------


def _some_maps(labels: Path, label_name: str = STEM) -> list[Any]:
    folder = find_folder(labels)
    if folder is None:
        return []
    names = sorted(map_files(folder, label_name).values())
    return [folder / names[index] for index in spread_indices(len(names), _SAMPLED)]


def _is_colored(files: Iterable[Any]) -> bool:
    for file in files:
        if is_array_file(file):
            return False
        with open_image(file) as image:
            return image.mode in ("RGB", "RGBA")
    return False


def _colors(pair: _Pair) -> list[str]:
    """The most frequent colours on some maps, if the maps are in colour."""
    counts = Counter[tuple[int, ...]]()
    files = _some_maps(pair.labels, pair.label_name)
    if not _is_colored(files):
        return []
    for file in files:
        with open_image(file) as image:
            values, pixels = np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0, return_counts=True)
        counts.update(dict(zip(map(tuple, values.tolist()), pixels.tolist(), strict=True)))
    return [" ".join(map(str, color)) for color, _ in counts.most_common()]


def _encoding(labels: Path, names: str, label_name: str = STEM) -> tuple[str, list[str]]:
    """Whether label maps are drawn in the colours of the names file.

    They are if they are in colour, or have a palette in which numbers have the colours of other classes.
    """
    files = _some_maps(labels, label_name)
    if _is_colored(files):
        read_color_table(names)  # reports what is missing
        return "colors", [f"the label maps are read by the colours of '{names}'"]
    try:
        table = read_color_table(names)
    except UserError:
        return "numbers", []
    for file in files:
        numbers, palette = read_with_palette(file)
        for number in np.unique(numbers).tolist():
            red, green, blue = palette.get(number, (0, 0, 0))
            known = table.number_of.get(red | green << 8 | blue << 16)
            if palette and known is not None and known != number:
                why = f"in '{file}', {number} has the colour of {known}"
                return "colors", [f"the label maps are read by the colours of '{names}': {why}"]
    return "numbers", []


def _has_id_maps(pair: _Pair) -> bool:
    """Whether maps show objects, not classes: numbers from 1 on, a different count on each map, each in one place."""
    counts, places = [], 0
    files = _some_maps(pair.labels, pair.label_name)
    if files and files[0].name.endswith(_CELLPOSE):
        return True
    for file in files:
        try:
            numbers, _ = read_with_palette(file)
        except UserError:  # colours, or a fault that is reported when it is read
            return False
        kinds, of_pixel = np.unique(numbers, return_inverse=True)
        kinds = kinds[kinds > 0]
        counts.append(len(kinds))
        if len(kinds) and kinds[-1] > 1.2 * len(kinds):
            return False
        indices = of_pixel.reshape(numbers.shape).astype(np.int32) + int((numbers > 0).all())  # 0 stays 0
        for value, window in enumerate(ndimage.find_objects(indices), start=1):
            apart: Any = ndimage.label(indices[window] == value)
            places += apart[1]
    return len(set(counts)) > 1 and sum(counts) > 3 * len(counts) and places < 1.2 * sum(counts)


def _names_file(path: Path, paths: DataPaths) -> tuple[str | None, list[str]]:
    found: Sequence[Path] = [paths.names] if paths.names is not None else list(_names_files(path))
    if not found:
        return None, []
    beside = ", ".join(f"'{other.name}'" for other in found[1:])
    note = f"class names are read from '{found[0]}', not from {beside}; to use another file, give it {_NAMES}"
    return str(found[0]), [note] if beside else []


def _names_files(path: Path) -> Iterator[Path]:
    for name in _NAMES_FILES:
        for suffix in _NAMES_SUFFIXES:
            if (path / f"{name}{suffix}").is_file():
                yield path / f"{name}{suffix}"
