"""Paths of data sets to their configuration: what format a file or folder is in, and where its other parts lie.

Looks at names, at the top of annotation files and at the first image, reads no data set. What it cannot find it asks
for by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mask2former.config import DatasetConfig, RunConfig, YoloConfig, parse
from mask2former.data.archives import Folder
from mask2former.data.datasets.file_names import find_name, is_file_name
from mask2former.data.folders import walk_folder
from mask2former.data.images import IMAGE_SUFFIXES
from mask2former.documents import read_json, read_yaml
from mask2former.errors import UserError
from mask2former.text import quoted

__all__ = ["DataPaths", "infer_format"]

_NAMES_FILES = ("names", "classes", "labels", "categories", "labelmap", "class_names")
_NAMES_SUFFIXES = (".txt", ".json", ".yaml", ".yml", ".csv")
_COCO_FILES = (
    "train/_annotations.coco.json",
    "annotations/instances_train.json",
    "annotations/instances_default.json",
    "annotations/train.json",
    "annotations.json",
    "result.json",
    "train.json",
)
_LABEL_FOLDERS = ("labels", "masks", "annotations", "label")
_IMAGE_FOLDERS = ("images", "imgs", "images", "image")
_VALIDATION = ("val", "valid", "validation")


@dataclass(frozen=True, slots=True)
class DataPaths:
    """Where things are that a path does not tell; None where it does.

    Attributes:
        images: folder of the images.
        labels: folder of the label maps or panoptic PNGs.
        names: file with the names of the classes.
        validation: the data for validation, of the same form as the path.
    """

    images: Path | None = None
    labels: Path | None = None
    names: Path | None = None
    validation: Path | None = None


def infer_format(path: Path, paths: DataPaths | None = None) -> tuple[DatasetConfig | RunConfig, list[str]]:
    """The configuration of a data set, or of the run whose file this is, and sentences about what was assumed.

    Args:
        path: a run file; a COCO file (instances or panoptic); a YOLO ``data.yaml`` or its folder; a folder of images
            with label maps, or of COCO files as tools export them.
        paths: what cannot be found from the path.

    Raises:
        UserError: nothing of this kind; the message says what is missing and how to name it.
    """
    known = paths or DataPaths()
    if any(part.suffix.lower() == ".zip" and part.is_file() for part in (path, *path.parents)):
        raise UserError(
            f"'{path}' is in an archive, of which only images and label maps are read here; unpack the annotations and "
            "name them (the images may stay where they are: --images ARCHIVE.zip)"
        )
    if not path.exists():
        raise UserError(f"there is no file or folder '{path}'; check the path")
    if path.is_dir():
        return _folder(path, known)
    if path.suffix.lower() == ".json":
        return _coco(path, known)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _yaml(path)
    raise UserError(
        f"'{path}' is no data set that is known: expected a run file or data.yaml, a COCO file (.json), or a folder"
    )


def _yaml(path: Path) -> tuple[DatasetConfig | RunConfig, list[str]]:
    values = read_yaml(path, "YAML file")
    if isinstance(values, dict) and "names" in values and "train" in values:
        return YoloConfig(data=str(path)), []
    if isinstance(values, dict) and set(values) & set(RunConfig.model_fields):
        return parse(RunConfig, values, str(path)), []
    raise UserError(f"'{path}' is neither a run file (model, data, ...) nor a YOLO data.yaml (train, val, names)")


# --- COCO ------------------------------------------------------------------------------------------------------------


def _coco(path: Path, paths: DataPaths) -> tuple[DatasetConfig, list[str]]:
    first, images, segments = _coco_files(path, paths)
    train = {"annotations": str(path), "images": str(images)}
    if segments is not None:
        train["segments"] = str(segments)
    validation, notes = train, []
    found = paths.validation or next((other for other in _others(path) if other.is_file()), None)
    if found is None:
        notes.append(_NO_VALIDATION)
    else:
        # Folders that were named are those of the training data; others are looked for beside the file.
        beside = replace(paths, images=_sibling(paths.images, path, found), labels=_sibling(paths.labels, path, found))
        second, images, segments = _coco_files(found, beside)
        if second != first:
            raise UserError(f"'{path}' is in {first} format, '{found}' in {second} format; give two of one kind")
        validation = {"annotations": str(found), "images": str(images)}
        if segments is not None:
            validation["segments"] = str(segments)
        if paths.validation is None:
            notes.append(f"taken for validation: '{found}'")
    return _parsed({"name": first, "train": [train], "validation": [validation]}, path), notes


_NO_VALIDATION = (
    "there is no validation data beside it, so the training data is used for it, and metrics say nothing about other "
    "images; name some with --validation"
)


def _parsed(values: dict[str, Any], path: Path) -> DatasetConfig:
    from mask2former.config import DataConfig

    return parse(DataConfig, {"dataset": values}, str(path)).dataset


def _coco_files(path: Path, paths: DataPaths) -> tuple[str, Path, Path | None]:
    """The kind of a file, its folder of images, and its folder of PNGs if it is panoptic."""
    content = read_json(path, "annotation file")
    try:
        annotations, image_files = content["annotations"], content.get("images") or []
        is_panoptic = any("segments_info" in entry for entry in annotations[:1])
        names = [entry["file_name"] for entry in image_files[:1]]
        maps = [entry["file_name"] for entry in annotations[:1]] if is_panoptic else []
        if not all(map(is_file_name, (*names, *maps))):
            raise TypeError("a name is no text")
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}' is no COCO file: expected 'images', 'annotations' and 'categories'") from error
    if not is_panoptic and not image_files:
        raise UserError(f"'{path}' lists no images")
    segments = paths.labels or _folder_with(maps[0], path) if is_panoptic else None
    if is_panoptic and segments is None:
        raise UserError(
            f"the PNGs of '{path}', for instance {quoted(maps[0])}, are not beside it; name their folder with --labels"
        )
    # A file without a list of images leaves open which ending they have.
    wanted = names or [f"{Path(maps[0]).with_suffix('')}{suffix}" for suffix in IMAGE_SUFFIXES]
    images = paths.images or next((folder for name in wanted if (folder := _folder_with(name, path, segments))), None)
    if images is None:
        raise UserError(
            f"the images of '{path}', for instance {quoted(wanted[0])}, are not beside it; name their folder with "
            "--images"
        )
    return ("coco-panoptic" if is_panoptic else "coco-instance"), images, segments


def _folder_with(name: str, path: Path, other_than: Path | None = None) -> Path | None:
    """The folder near an annotation file that has its first image."""
    split = re.sub(r"^(instances|panoptic|annotations)_", "", path.stem)
    roots = path.parent, path.parent.parent
    folders = [root / part for part in (path.stem, split) for root in roots]
    folders += [root / part / deeper for root in roots for part in _IMAGE_FOLDERS for deeper in (split, "")]
    for folder in (*folders, *roots):
        if folder.is_dir() and folder != other_than and find_name(name, Folder(folder)) is not None:
            return folder
    return None


def _others(path: Path) -> Iterator[Path]:
    """What a path would be for validation, where it says ``train`` or ``training``: in its name, or in a folder."""
    for pattern in (r"training", r"train"):
        for index in range(len(path.parts) - 1, -1, -1):
            part = path.parts[index]
            for other in _VALIDATION:
                renamed = re.sub(pattern, other, part)
                if renamed != part:
                    yield Path(*path.parts[:index], renamed, *path.parts[index + 1 :])


def _sibling(folder: Path | None, path: Path, found: Path) -> Path | None:
    """The folder of validation files beside that of training files, if it can be told; else the same one."""
    if folder is None:
        return None
    return next((other for other in _others(folder) if other.is_dir()), folder)


# --- folders ---------------------------------------------------------------------------------------------------------


def _folder(path: Path, paths: DataPaths) -> tuple[DatasetConfig, list[str]]:
    for name in ("data.yaml", "dataset.yaml"):
        if (path / name).is_file():
            config, notes = _yaml(path / name)
            if isinstance(config, YoloConfig):
                return config, notes
    found = [name for name in _COCO_FILES if (path / name).is_file()]
    if found:
        config, notes = _coco(path / found[0], paths)
        others = ", ".join(found[1:])
        return config, [*notes, f"taken for the data: '{path / found[0]}', not {others}"] if others else notes
    return _label_folders(path, paths)


def _label_folders(path: Path, paths: DataPaths) -> tuple[DatasetConfig, list[str]]:
    if paths.images is not None and paths.labels is not None:
        train = paths.images, paths.labels
    else:
        train = _pair(path, "train") or _pair(path, "training") or _pair(path)
    if train is None:
        raise UserError(
            f"'{path}' holds no data set that is known: expected data.yaml (YOLO), COCO files, or the folders "
            "'images' and 'labels' with images and label maps; name the latter with --images and --labels"
        )
    validation = _validation_pair(path, train, paths)
    notes = [] if validation else [_NO_VALIDATION]
    found = [paths.names] if paths.names is not None else list(_names_files(path))
    names = next(iter(found), None)
    if len(found) > 1:
        others = ", ".join(f"'{other.name}'" for other in found[1:])
        notes.append(f"the class names are taken from '{names}', not from {others}; name another one with --names")
    if names is None:
        raise UserError(
            f"'{path}' has no file with the names of the classes; write one, for instance '{path / 'names.txt'}' (a "
            "name per line, the first is class 0), or name it with --names"
        )
    pairs = [[{"images": str(images), "labels": str(labels)}] for images, labels in (train, validation or train)]
    values = {"name": "label-folder", "train": pairs[0], "validation": pairs[1], "names": str(names)}
    return _parsed(values, path), notes


def _validation_pair(path: Path, train: tuple[Path, Path], paths: DataPaths) -> tuple[Path, Path] | None:
    if paths.validation is not None:
        found = next((pair for split in _VALIDATION if (pair := _pair(paths.validation, split))), None)
        found = found or _pair(paths.validation)
        if found is None:
            raise UserError(f"'{paths.validation}' has no folders 'images' and 'labels' with label maps")
        return found
    images, labels = (next((other for other in _others(folder) if other.is_dir()), None) for folder in train)
    return (images, labels) if images is not None and labels is not None else None


def _pair(path: Path, split: str = "") -> tuple[Path, Path] | None:
    """The folders of images and label maps: ``images/train`` and ``labels/train``, or ``train/images`` and so on."""
    for images in _IMAGE_FOLDERS:
        for labels in _LABEL_FOLDERS:
            for first, second in (
                (path / images / split, path / labels / split),
                (path / split / images, path / split / labels),
            ):
                if first.is_dir() and second.is_dir() and _has_label_maps(second):
                    return first, second
    return None


def _has_label_maps(folder: Path) -> bool:
    suffixes = (".png", ".tif", ".tiff", ".bmp")
    return any(name.lower().endswith(suffixes) for _, _, names in walk_folder(folder) for name in names)


def _names_files(path: Path) -> Iterator[Path]:
    for name in _NAMES_FILES:
        for suffix in _NAMES_SUFFIXES:
            if (path / f"{name}{suffix}").is_file():
                yield path / f"{name}{suffix}"
