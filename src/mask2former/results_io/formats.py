"""The formats that ``mask2former predict --also`` writes beside its own, each in a folder with its name."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mask2former.errors import OptionError, UserError
from mask2former.files import check_folder, write_whole
from mask2former.results_io.class_masks import ClassMaskFiles
from mask2former.results_io.coco_dataset import CocoDatasetFile
from mask2former.results_io.cutouts import CutoutFiles
from mask2former.results_io.cvat import CvatFile
from mask2former.results_io.geojson import GeoJsonFiles
from mask2former.results_io.imagej import RoiFiles
from mask2former.results_io.label_studio import LabelStudioFile
from mask2former.results_io.label_tiff import LabelTiffFiles
from mask2former.results_io.writing import FormatWriter, PixelSizeOf, PlaceOf, ReadImage, unknown
from mask2former.results_io.yolo import YoloFiles
from mask2former.structures.categories import Categories
from mask2former.text import did_you_mean, listed, quoted

__all__ = ["FORMATS", "FormatWriter", "ImagesOfRun", "files_of_image", "format_folder", "open_format"]

_MARK = ".mask2former"  # marks folders that are ours


@dataclass(frozen=True, slots=True)
class ImagesOfRun:
    """What formats need besides results.

    Attributes:
        categories: the classes of the model.
        names: image file names, by image id.
        read: returns the image with an id.
        model: its name.
        place_of: returns where on the Earth the image with an id is; None: unknown.
        rooted: like names, preceded by the folder that these are in (``slides/a.png``); for images without a folder
            like names.
        pixel_size_of: returns the size that the file of the image with an id states; None: it states none.
    """

    categories: Categories
    names: Mapping[int | str, str]
    read: ReadImage
    model: str = ""
    place_of: PlaceOf = unknown
    rooted: Mapping[int | str, str] = field(default_factory=dict)
    pixel_size_of: PixelSizeOf = unknown


FORMATS: Mapping[str, Callable[[Path, ImagesOfRun], FormatWriter]] = {
    "class-masks": lambda folder, run: ClassMaskFiles(folder, run.categories),
    "coco-dataset": lambda folder, run: CocoDatasetFile(folder / "annotations.json", run.categories, run.names),
    "cutouts": lambda folder, run: CutoutFiles(folder, run.categories, run.read),
    "cvat": lambda folder, run: CvatFile(folder / "annotations.xml", run.categories, run.names),
    "geojson": lambda folder, run: GeoJsonFiles(folder, place_of=run.place_of),
    "imagej": lambda folder, run: RoiFiles(folder),
    "label-studio": lambda folder, run: LabelStudioFile(folder / "tasks.json", run.rooted, model=run.model),
    "label-studio-polygons": lambda folder, run: LabelStudioFile(
        folder / "tasks.json", run.rooted, regions="polygon", model=run.model
    ),
    "label-tiff": lambda folder, run: LabelTiffFiles(folder, place_of=run.place_of),
    "yolo": lambda folder, run: YoloFiles(folder, run.categories, run.names),
}


_OF_IMAGE = {  # the files of an image in the folder of a format that has some for each
    "class-masks": "{}/*.png",
    "cutouts": "{}/*.png",
    "geojson": "{}.geojson",
    "imagej": "{}.zip",
    "label-tiff": "{}.tif",
    "yolo": "labels/{}.txt",
}


def files_of_image(output: Path, image_id: str) -> list[Path]:
    """The files of an image in all format folders of ``output`` that are ours."""
    return [
        path
        for name, pattern in _OF_IMAGE.items()
        if (output / name / _MARK).exists()
        for path in sorted((output / name).glob(pattern.format(glob.escape(image_id))))
    ]


def format_folder(output: Path, name: str, *, overwrite: bool) -> Path:
    """The folder of a format, which can be written and contains no files of others.

    Raises:
        UserError: the format does not exist, or the folder cannot be written or contains other files.
    """
    if name not in FORMATS:
        hint = did_you_mean(name, sorted(FORMATS)) or f"expected one of {listed(sorted(FORMATS), most=None)}"
        raise UserError(f"there is no format {quoted(name)}; {hint}")
    folder = output / name
    check_folder(folder)
    if folder.exists() and not overwrite and not (folder / _MARK).exists() and any(folder.iterdir()):
        raise OptionError(
            lambda called: (
                f"'{folder}' already exists and was not written by mask2former predict; choose another "
                f"output, or replace files with the same names with {called('overwrite')}"
            )
        )
    return folder


def open_format(folder: Path, run: ImagesOfRun) -> FormatWriter:
    """The writer of the format that a folder is named after; the folder is marked as ours.

    Raises:
        UserError: the folder cannot be written.
        MissingExtraError: a package for the format is not installed.
    """
    writer = FORMATS[folder.name](folder, run)
    write_whole(folder / _MARK, lambda file: file.write_text("made by mask2former predict\n", encoding="utf-8"))
    return writer
