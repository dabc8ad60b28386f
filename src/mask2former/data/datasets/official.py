"""The published data sets as downloaded, below one root folder; the only module that knows their layouts.

Each function returns a reader for one split. Folders may be in zip archives at the download location. The output of
``mask2former prepare`` is read where it exists; where it is not needed, the original files are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from mask2former.config import Task
from mask2former.data.datasets.cityscapes import Cityscapes
from mask2former.data.datasets.coco import CocoInstances
from mask2former.data.datasets.coco_panoptic import CocoPanoptic, PanopticFiles
from mask2former.data.datasets.label_folder import LabelFolder
from mask2former.data.datasets.pairs import Names
from mask2former.data.datasets.reader import Reader
from mask2former.data.datasets.youtube_vis import YouTubeVIS
from mask2former.errors import UserError
from mask2former.media.archives import File, Folder, find_file, find_folder
from mask2former.media.folders import data_root
from mask2former.structures.categories import Categories

__all__ = [
    "ade20k",
    "ade20k_full",
    "cityscapes",
    "coco",
    "coco_stuff_10k",
    "mapillary_vistas",
    "youtube_vis",
]

Split = Literal["train", "validation"]

Found = TypeVar("Found")


class _Layout:
    """Files of one data set below the root."""

    def __init__(self, name: str, root: str | None) -> None:
        self.name = name
        self.root = data_root(root)

    def folder(self, *names: str, hint: str = "") -> Folder:
        return self._first("folder", find_folder, names, hint)

    def file(self, *names: str, hint: str = "") -> File:
        return self._first("file", find_file, names, hint)

    def _first(self, kind: str, find: Callable[[Path, Path], Found | None], names: Sequence[str], hint: str) -> Found:
        """The first of these that exists.

        Raises:
            UserError: none does.
        """
        for name in names:
            if (found := find(self.root / name, self.root)) is not None:
                return found
        where = " or ".join(f"'{self.root / name}'" for name in names)
        advice = f"; {hint}" if hint else ""
        raise UserError(
            f"{self.name}: there is no {kind} {where}, nor a zip archive with it{advice}; is '{self.root}' the "
            "folder of the data sets? Set it with --data-root (in Python root), data.dataset.root or MASK2FORMER_DATA"
        )

    def has_file(self, name: str) -> bool:
        return find_file(self.root / name, self.root) is not None

    def has_folder(self, name: str) -> bool:
        return find_folder(self.root / name, self.root) is not None


# --- COCO ------------------------------------------------------------------------------------------------------------


def coco(root: str | None, split: Split, task: Task, *, filter_empty: bool = False) -> Reader:
    """COCO 2017; semantic labels are those of the panoptic annotations, crowd regions included."""
    if task == "instance":
        return _coco_objects(root, split, filter_empty=filter_empty)
    layout, part = _Layout("COCO", root), _COCO_PARTS[split]
    maps = layout.folder(
        f"coco/panoptic_{part}",
        f"coco/annotations/panoptic_{part}",
        hint="unpack panoptic_annotations_trainval2017.zip once; the archives in it are read as they are",
    )
    file, images = layout.file(f"coco/annotations/panoptic_{part}.json"), layout.folder(f"coco/{part}")
    objects = f"coco/annotations/instances_{part}.json"
    ground_truths_from: dict[Task, Callable[[], Reader]] = {}
    if layout.has_file(objects):
        ground_truths_from["instance"] = partial(_coco_objects, root, split)
    reader = CocoPanoptic(
        [PanopticFiles(file, maps, images)],
        task,
        categories=Categories.load("coco_panoptic"),
        ground_truths_from=ground_truths_from,
        filter_empty=filter_empty,
    )
    if ground_truths_from:
        reader.annotation_files = [*reader.annotation_files, layout.file(objects)]
    if task == "panoptic" and not ground_truths_from:
        reader.notes.append(f"there is no {objects}, so the segments of things are used as the ground-truth instances")
    return reader


_COCO_PARTS = {"train": "train2017", "validation": "val2017"}


def _coco_objects(root: str | None, split: Split, *, filter_empty: bool = False) -> CocoInstances:
    layout, part = _Layout("COCO", root), _COCO_PARTS[split]
    source = layout.file(f"coco/annotations/instances_{part}.json"), layout.folder(f"coco/{part}")
    return CocoInstances([source], categories=Categories.load("coco_instance"), filter_empty=filter_empty)


def coco_stuff_10k(root: str | None, split: Split) -> Reader:
    """COCO-Stuff 10k, version 1.0, as prepared; things and stuff on one label map."""
    layout = _Layout("COCO-Stuff 10k", root)
    part, base = "train" if split == "train" else "test", "coco/coco_stuff_10k"
    hint = "mask2former prepare coco-stuff-10k creates it from the download"
    categories = Categories.load("coco_stuff_10k_171")
    folders = [layout.folder(f"{base}/{kind}_detectron2/{part}", hint=hint) for kind in ("images", "annotations")]
    # The published preparation turns the unlabelled 0 into 254, and 1 into 255.
    return _labels(folders[0], folders[1], categories, range(len(categories)), (254, 255))


# --- ADE20K ----------------------------------------------------------------------------------------------------------


def ade20k(root: str | None, split: Split, task: Task, *, filter_empty: bool = False) -> Reader:
    """ADE20K, the 150 classes of SceneParse: label maps as downloaded, objects and segments as prepared."""
    if task == "semantic":
        return _ade20k_labels(root, split)
    if task == "instance":
        return _ade20k_objects(root, split, filter_empty=filter_empty)
    layout, (part, short) = _Layout("ADE20K", root), _ADE20K_PARTS[split]
    name = f"ADEChallengeData2016/ade20k_panoptic_{short}"
    source = PanopticFiles(
        layout.file(f"{name}.json", hint=_PREPARE_ADE20K),
        layout.folder(name, hint=_PREPARE_ADE20K),
        layout.folder(f"ADEChallengeData2016/images/{part}"),
    )
    # Things that occur only on the label maps are void in the panoptic ones.
    ground_truths_from: dict[Task, Callable[[], Reader]] = {
        "semantic": partial(_ade20k_labels, root, split),
        "instance": partial(_ade20k_objects, root, split),
    }
    table = Categories.load("ade20k_150")
    reader = CocoPanoptic(
        [source],
        categories=table,
        ground_truths_from=ground_truths_from,
        filter_empty=filter_empty,
        areas_from_file=True,
    )
    if layout.has_file(objects := f"ADEChallengeData2016/ade20k_instance_{short}.json"):
        reader.annotation_files = [*reader.annotation_files, layout.file(objects)]
    return reader


_ADE20K_PARTS = {"train": ("training", "train"), "validation": ("validation", "val")}
_PREPARE_ADE20K = "mask2former prepare ade20k creates it from annotations_instance"


def _ade20k_labels(root: str | None, split: Split) -> LabelFolder:
    layout, (part, _) = _Layout("ADE20K", root), _ADE20K_PARTS[split]
    base, table = "ADEChallengeData2016", Categories.load("ade20k_150")
    images = layout.folder(f"{base}/images/{part}")
    prepared = f"{base}/annotations_detectron2/{part}"
    if layout.has_folder(prepared):
        return _labels(images, layout.folder(prepared), table, range(len(table)), (255,))
    original = layout.folder(f"{base}/annotations/{part}")
    return _labels(images, original, table, range(1, len(table) + 1), (0,))


def _ade20k_objects(root: str | None, split: Split, *, filter_empty: bool = False) -> CocoInstances:
    layout, (part, short) = _Layout("ADE20K", root), _ADE20K_PARTS[split]
    file = layout.file(f"ADEChallengeData2016/ade20k_instance_{short}.json", hint=_PREPARE_ADE20K)
    images = layout.folder(f"ADEChallengeData2016/images/{part}")
    return CocoInstances([(file, images)], categories=Categories.load("ade20k_instance_100"), filter_empty=filter_empty)


def ade20k_full(root: str | None, split: Split) -> Reader:
    """ADE20K, release of 2021 with 847 classes, as prepared (16-bit TIFF)."""
    layout = _Layout("ADE20K (847 classes)", root)
    part = "training" if split == "train" else "validation"
    hint = "mask2former prepare ade20k-full creates it from the download"
    categories = Categories.load("ade20k_full_847")
    images, labels = (
        layout.folder(f"ADE20K_2021_17_01/{kind}_detectron2/{part}", hint=hint) for kind in ("images", "annotations")
    )
    return _labels(images, labels, categories, range(len(categories)), (categories.ignore_label,))


# --- Cityscapes and Mapillary Vistas ---------------------------------------------------------------------------------


def cityscapes(root: str | None, split: Split, task: Task, *, filter_empty: bool = False) -> Reader:
    """Cityscapes, fine annotations, as downloaded."""
    layout = _Layout("Cityscapes", root)
    part = "train" if split == "train" else "val"
    images, labels = (layout.folder(f"cityscapes/{kind}/{part}") for kind in ("leftImg8bit", "gtFine"))
    return Cityscapes(images, labels, task, filter_empty=filter_empty)


def mapillary_vistas(
    root: str | None, split: Split, task: Literal["panoptic", "semantic"], *, filter_empty: bool = False
) -> Reader:
    """Mapillary Vistas 1.2, as downloaded. There is no official instance metric for it."""
    if task == "semantic":
        return _vistas_labels(root, split)
    layout, base = _Layout("Mapillary Vistas", root), _VISTAS_PARTS[split]
    source = PanopticFiles(
        layout.file(f"{base}/panoptic/panoptic_2018.json"),
        layout.folder(f"{base}/panoptic"),
        layout.folder(f"{base}/images"),
    )
    ground_truths_from: dict[Task, Callable[[], Reader]] = {"semantic": partial(_vistas_labels, root, split)}
    table = Categories.load("mapillary_vistas_v1.2")
    reader = CocoPanoptic([source], categories=table, ground_truths_from=ground_truths_from, filter_empty=filter_empty)
    reader.tasks = ("panoptic", "semantic")
    return reader


_VISTAS_PARTS = {"train": "mapillary_vistas/training", "validation": "mapillary_vistas/validation"}


def _vistas_labels(root: str | None, split: Split) -> LabelFolder:
    layout, base = _Layout("Mapillary Vistas", root), _VISTAS_PARTS[split]
    table = Categories.load("mapillary_vistas_v1.2")
    images, labels = layout.folder(f"{base}/images"), layout.folder(f"{base}/labels")
    return _labels(images, labels, table, range(len(table)), (table.ignore_label,))


def _labels(
    images: Folder, labels: Folder, categories: Categories, numbers: Sequence[int], ignore: Sequence[int]
) -> LabelFolder:
    """Label maps on which the classes, in order, have these numbers."""
    class_of = {number: index for index, number in enumerate(numbers)}
    return LabelFolder([(images, labels)], categories, class_of=class_of, ignore=ignore, files=Names(unpaired="skip"))


# --- YouTube-VIS -----------------------------------------------------------------------------------------------------


def youtube_vis(root: str | None, split: Split, year: int, *, filter_empty: bool = False) -> YouTubeVIS:
    """YouTube-VIS 2019 or 2021; the official validation annotations are not public."""
    layout = _Layout(f"YouTube-VIS {year}", root)
    base = f"ytvis_{year}"
    part = "train" if split == "train" else "valid"
    files = (layout.file(f"{base}/{part}.json"), layout.folder(f"{base}/{part}/JPEGImages"))
    return YouTubeVIS([files], Categories.load(base), filter_empty=filter_empty)
