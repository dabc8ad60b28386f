"""The configuration of a data set from its path: the format of a file or folder, and where its other parts are.

Examines names, the top of annotation files and some images and maps; does not read data sets. What it cannot find is
requested by name; unsupported formats are named, with the way to export them as COCO.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from mask2former import limits
from mask2former.config import DatasetConfig, RunConfig, YoloConfig, parse
from mask2former.data.datasets.file_names import find_name, is_file_name
from mask2former.data.datasets.tool_formats import FORMATS, ToolName, looks_like, records_of
from mask2former.dataset_tools.data_paths import (
    IMAGE_FOLDERS,
    NO_VALIDATION,
    VALIDATION,
    DataPaths,
    held_out,
    near,
    parsed,
    refuse_paths,
)
from mask2former.dataset_tools.infer_folders import infer_folders
from mask2former.documents import parse_xml, read_json, read_text, read_yaml
from mask2former.errors import OptionError, UserError
from mask2former.media.archives import Folder, find_folder
from mask2former.media.folders import list_folder
from mask2former.media.images import IMAGE_SUFFIXES
from mask2former.text import quoted

__all__ = ["DataPaths", "infer_format"]

_COCO_FILES = (
    "train/_annotations.coco.json",
    "annotations/instances_train.json",
    "annotations/instances_default.json",
    "annotations/train.json",
    "annotations.json",
    "result.json",
    "train.json",
)
_KNOWN = (
    "expected a run file (.yaml), COCO, YOLO (data.yaml), a file or folder of LabelMe, VIA, CVAT, Label Studio, "
    "Supervisely, QuPath (GeoJSON) or ImageJ (.roi, .zip), or a folder of images with label maps, id maps or mask files"
)
_SAMPLED = 8  # files that are examined
_POLYGONS = "masks cannot be learned from boxes: annotate or export polygons or masks, for instance as COCO"
# Files that are recognised but not supported: by suffix, what they are and what to do.
_REFUSED_FILES: dict[str, tuple[str, str]] = {
    ".npy": (
        "a NumPy array, which is read as the map of an image (also Cellpose's _seg.npy)",
        "give the folder with images and maps, or the two folders (--images and --labels, in Python DataPaths)",
    ),
    ".ndjson": ("JSON lines, as Labelbox exports", "convert it to COCO with Labelbox's own converters"),
    ".csv": ("a table", "export JSON (VIA: 'Export Annotations (as json)') or COCO from your tool"),
    ".mat": ("a MATLAB file", "save its label maps as PNG"),
    ".zip": ("an archive", "unpack it"),
    ".tfrecord": ("TFRecord", "export COCO from your tool"),
}


# The parts that data of a format may have beside its path.
_PARTS = {
    "coco-instance": {"images", "validation"},
    "coco-panoptic": {"images", "labels", "validation"},
    "supervisely": {"names", "validation"},
    "mask-files": {"validation"},
    "label-folder": {"images", "labels", "names", "validation"},
    "id-maps": {"images", "labels", "names", "validation"},
}
_PARTS_OF_TOOLS = {"images", "names", "validation"}


def _has(*keys: str) -> Callable[[Any], bool]:
    return lambda content: isinstance(content, dict) and all(key in content for key in keys)


# JSON that is recognised but not supported.
_REFUSED_JSON: tuple[tuple[Callable[[Any], bool], str, str], ...] = (
    (
        _has("items", "categories"),
        "Datumaro's own JSON",
        "export 'COCO 1.0' (datum convert -if datumaro -i FOLDER -f coco -o coco)",
    ),
    (_has("item", "annotations"), "JSON of V7 Darwin", "export 'COCO'"),
    (_has("dataset", "created_at"), "a release of Segments.ai", "export COCO panoptic with its SDK (export_dataset)"),
    (_has("frames"), "Scalabel's JSON (BDD100K)", "convert it with 'python -m scalabel.label.to_coco'"),
    (
        _has("annotations", "videos"),
        "YouTube-VIS format",
        "take the run file of 'mask2former recipe ytvis2019-instance/r50', name your clips in its data.dataset "
        "(docs/video.md, 'Your own clips'), and check that",
    ),
)


def infer_format(path: Path, paths: DataPaths | None = None) -> tuple[DatasetConfig | RunConfig, list[str]]:
    """The configuration of a data set, or of the run whose file is given, and sentences about what was assumed.

    Args:
        path: a run file; a COCO file (instances or panoptic); a YOLO ``data.yaml``; a file of an annotation tool; or a
            folder of these, of images with label maps, id maps or mask files, or in VOC's layout.
        paths: what cannot be found from the path alone.

    Raises:
        UserError: it is none of these; the message says what is missing and how to give it, or how to export it. Or a
            part was given that its format does not have.
    """
    known = paths or DataPaths()
    config, notes = _inferred(path, known)
    if not isinstance(config, RunConfig) and (unused := known.given() - _PARTS.get(config.name, _PARTS_OF_TOOLS)):
        raise OptionError(
            lambda name: (
                f"{name(min(unused))} does not apply to '{path}', which is in the format {config.name}; leave out "
                f"{name(min(unused))}"
            )
        )
    return config, notes


def _inferred(path: Path, known: DataPaths) -> tuple[DatasetConfig | RunConfig, list[str]]:
    if path.suffix.lower() == ".zip" and _has_rois(path):
        return _tool("imagej", path, known)
    if any(part.suffix.lower() == ".zip" and part.is_file() for part in (path, *path.parents)):
        raise OptionError(
            lambda name: (
                f"'{path}' is in an archive, from which only images and label maps can be read; unpack the "
                f"annotations and give their path (the images may stay in the archive: give it with {name('images')})"
            )
        )
    if not path.exists():
        raise UserError(f"there is no file or folder '{path}'; check the path")
    suffix = path.suffix.lower()
    if path.is_dir():
        return _folder(path, known)
    if suffix == ".roi":
        return _tool("imagej", path, known)
    if suffix in (".json", ".geojson"):
        return _json(path, known)
    if suffix in (".yaml", ".yml"):
        refuse_paths(known, f"'{path}'")
        return _yaml(path)
    if suffix == ".xml":
        return _xml(path, known)
    if suffix in _REFUSED_FILES:
        what, todo = _REFUSED_FILES[suffix]
        raise UserError(f"'{path}' is {what}; {todo}")
    raise UserError(f"'{path}' is not a known data set: {_KNOWN}")


def _yaml(path: Path) -> tuple[DatasetConfig | RunConfig, list[str]]:
    values = read_yaml(path, "YAML file")
    if isinstance(values, dict) and "names" in values and "train" in values:
        return YoloConfig(data=str(path)), []
    if isinstance(values, dict) and set(values) & set(RunConfig.model_fields):
        return parse(RunConfig, values, str(path)), []
    raise UserError(f"'{path}' is neither a run file (model, data, ...) nor a YOLO data.yaml (train, val, names)")


def _folder(path: Path, paths: DataPaths) -> tuple[DatasetConfig, list[str]]:
    for name in ("data.yaml", "dataset.yaml"):
        if (path / name).is_file():
            config, notes = _yaml(path / name)
            if isinstance(config, YoloConfig):
                refuse_paths(paths, f"'{path / name}'")
                return config, notes
    if (path / "classes.txt").is_file() and (path / "labels").is_dir() and (path / "notes.json").is_file():
        raise UserError(
            f"'{path}' is Label Studio's export for YOLO, without a data.yaml; export 'JSON', or write "
            f"'{path}/data.yaml' with 'train: images', 'val: images' and 'names', the lines of classes.txt"
        )
    if found := [name for name in _COCO_FILES if (path / name).is_file()]:
        config, notes = _json(path / found[0], paths)
        beside = ", ".join(found[1:])
        return config, [*notes, f"used as the data: '{path / found[0]}', not {beside}"] if beside else notes
    if (path / "labels.json").is_file() and (path / "data").is_dir():  # FiftyOne's COCO
        return _json(path / "labels.json", paths)
    if (path / "annotations.xml").is_file():
        return _xml(path / "annotations.xml", paths)
    if (path / "meta.json").is_file() or (path / "ann").is_dir():
        return _supervisely(path, paths)
    if (inferred := infer_folders(path, paths) or _tool_folder(path, paths)) is not None:
        return inferred
    inner = [entry for entry in list_folder(path) if entry.is_dir()]
    deeper = [entry for folder in inner for entry in list_folder(folder, skip_unreadable=True) if entry.is_dir()]
    for folder in (path, *inner, *deeper):
        for entry in list_folder(folder, skip_unreadable=True):
            if entry.suffix.lower() in (".npy", ".xml"):
                return infer_format(entry, paths)  # pyright: ignore[reportReturnType]  (only YAML may be a run)
    raise OptionError(
        lambda name: (
            f"'{path}' contains no known data set: {_KNOWN}; give the folders of images and maps with "
            f"{name('images')} and {name('labels')}"
        )
    )


# --- annotation tools ------------------------------------------------------------------------------------------------


def _json(path: Path, paths: DataPaths) -> tuple[DatasetConfig, list[str]]:
    content = read_json(path, "annotation file")
    if isinstance(content, dict) and "annotations" in content and not content.keys() & {"videos", "item"}:
        return _coco(path, paths, content)
    is_empty = content == [] and path.suffix.lower() == ".json"  # of any tool, or of none
    if not is_empty and (tool := looks_like(content)) is not None:
        return _tool(tool, path, paths)
    for is_one, what, todo in _REFUSED_JSON:
        if is_one(content):
            raise UserError(f"'{path}' is {what}, which cannot be read directly; {todo}")
    return _coco(path, paths, content)  # which reports what is missing


def _xml(path: Path, paths: DataPaths) -> tuple[DatasetConfig, list[str]]:
    root = parse_xml(read_text(path, "annotation file", limits.TABLE_BYTES), f"the annotation file '{path}'")
    if looks_like(root) == "cvat":
        return _tool("cvat", path, paths)
    if root.tag == "annotation":
        if root.find("object/polygon/pt") is not None:
            raise UserError(
                f"'{path}' is XML of the old LabelMe web tool, which is not supported; convert its folder to COCO "
                "(pip install 'datumaro[cli]'; datum convert -if label_me -i FOLDER -f coco -o coco)"
            )
        raise UserError(f"'{path}' has the boxes of one image (VOC detection, LabelImg); {_POLYGONS}")
    raise UserError(f"'{path}' is XML of an unknown kind (root '{root.tag[:40]}'); export COCO from your tool")


def _tool(tool: ToolName, path: Path, paths: DataPaths) -> tuple[DatasetConfig, list[str]]:
    """A file of a tool, or a folder with one file per image, with the validation data beside it."""
    train = {"annotations": str(path), "images": str(paths.images or _images_of(tool, path))}
    found, notes = (paths.validation, []) if paths.validation else held_out(path, FORMATS[tool].suffixes, folders=True)
    values: dict[str, Any] = {"name": tool, "train": [train]}
    if paths.names is not None:
        values["names"] = str(paths.names)
    if found is None:
        return parsed(values, path), notes
    images = _images_of(tool, found, near(paths.images))
    values["validation"] = [{"annotations": str(found), "images": str(images)}]
    return parsed(values, path), [_taken(found, images)]


def _images_of(tool: ToolName, path: Path, folders: Sequence[Path] = ()) -> Path:
    """The image folder of annotation files: one of those that were given, or one beside them."""
    file, name = path, ""
    if path.is_dir():
        name = next(iter(_tool_files(path, FORMATS[tool].suffixes)), "")
        file = path / name
    record = next(iter(records_of(tool, (file, name))), None)
    if record is None:
        raise UserError(f"'{file}' lists no images")
    find = FORMATS[tool].find
    found = next((folder for folder in folders if find(record.image, Folder(folder))), None)
    found = found or _folder_with(record.image, path / "-" if path.is_dir() else path, find=find)
    if found is None:
        raise _not_found("images", path, record.image, folders)
    return found


def _one_with(names: Sequence[str], folders: Sequence[Path]) -> Path | None:
    """The first folder that contains a file with one of these names."""
    return next((folder for folder in folders if any(find_name(name, Folder(folder)) for name in names)), None)


def _not_found(what: Literal["images", "labels"], path: Path, name: str, folders: Sequence[Path]) -> UserError:
    """The error for files of an annotation file that were not found; given folders are for the training data."""
    kind = "images" if what == "images" else "PNGs"
    if not folders:
        return OptionError(
            lambda called: (
                f"the {kind} of '{path}', for instance {quoted(name)}, are not beside it; give their folder "
                f"with {called(what)}"
            )
        )
    places = " and ".join(f"'{folder}'" for folder in folders)
    return OptionError(
        lambda called: (
            f"the {kind} of the validation data '{path}', for instance {quoted(name)}, are neither in {places} (see "
            f"{called(what)}) nor beside that file; move them there, or specify both folders in a run file "
            "(data.dataset)"
        )
    )


def _taken(found: Path, images: Path | str) -> str:
    return f"used for validation: '{found}', with the images in '{images}'"


def _tool_files(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    return [name for name in Folder(folder).names(suffixes) if name.rpartition("/")[2] != "meta.json"]


def _tool_folder(path: Path, paths: DataPaths) -> tuple[DatasetConfig, list[str]] | None:
    """A folder with one file of a tool for each image, or with a single one for all."""
    for folder in (path / "train", path / "training", path):
        # GeoJSON last: annotations of another format may lie beside an exported map.
        names = (_tool_files(folder, (".json",)) or _tool_files(folder, (".geojson",))) if folder.is_dir() else []
        if not names:
            rois = _tool_files(folder, (".roi", ".zip")) if folder.is_dir() else []
            if rois and all(name.lower().endswith(".roi") or _has_rois(folder / name) for name in rois[:_SAMPLED]):
                return _tool("imagej", folder, paths)
            continue
        tool = looks_like(read_json(folder / names[0], "annotation file"))
        if tool is None:
            return None if len(names) > 1 else _json(folder / names[0], paths)
        return _tool(tool, folder / names[0] if len(names) == 1 and "/" not in names[0] else folder, paths)
    return None


def _has_rois(path: Path) -> bool:
    """Whether a zip file contains regions of ImageJ, or nothing at all, as that of an image without objects."""
    try:
        folder = find_folder(path) if path.is_file() else None
        archive = None if folder is None else folder.archive
        return folder is not None and archive is not None and (archive.is_empty or bool(folder.names((".roi",))))
    except UserError:  # damaged: reported when it is read
        return False


def _supervisely(path: Path, paths: DataPaths) -> tuple[DatasetConfig, list[str]]:
    """A project, a folder of ``ann`` and ``img`` for each of its data sets; or one such data set."""
    folders = [folder for folder in (path, *list_folder(path)) if (folder / "ann").is_dir()]
    if not folders:
        raise UserError(f"'{path}' has a meta.json, but no folder with 'ann' and 'img' (Supervisely); check the path")
    given = paths.validation
    held_out = [given] if given is not None else [folder for folder in folders if folder.name in VALIDATION]
    rest = [folder for folder in folders if folder not in held_out and folder.name != "test"]
    entries = [
        [{"annotations": str(folder / "ann"), "images": str(folder / "img")} for folder in part]
        for part in (rest or folders, held_out)
    ]
    values: dict[str, Any] = {"name": "supervisely", "train": entries[0], "validation": entries[1]}
    if paths.names is not None:
        values["names"] = str(paths.names)
    return parsed(values, path), [] if held_out else [NO_VALIDATION]


# --- COCO ------------------------------------------------------------------------------------------------------------


def _coco(path: Path, paths: DataPaths, content: Any) -> tuple[DatasetConfig, list[str]]:
    first, train = _coco_files(path, paths, content)
    validation = train
    found, notes = (paths.validation, []) if paths.validation else held_out(path)
    if found is not None:
        # Folders that were given are for the training data, and may contain these files, too.
        beside = replace(paths, images=None, labels=None)
        folders = near(paths.images), near(paths.labels)
        second, validation = _coco_files(found, beside, read_json(found, "annotation file"), *folders)
        if second != first:
            raise UserError(
                f"'{path}' is in {first} format, but '{found}' is in {second} format; give two files in the same format"
            )
        notes.append(_taken(found, validation["images"]))
    return parsed({"name": first, "train": [train], "validation": [validation]}, path), notes


def _coco_files(
    path: Path, paths: DataPaths, content: Any, near_images: Sequence[Path] = (), near_labels: Sequence[Path] = ()
) -> tuple[str, dict[str, str]]:
    """The kind of a file, and the file with its folders of images and, if it is panoptic, PNGs; given ones first."""
    try:
        annotations, image_files = content["annotations"], content.get("images") or []
        is_panoptic = any("segments_info" in entry for entry in annotations[:1])
        names = [entry["file_name"] for entry in image_files[:1]]
        maps = [entry["file_name"] for entry in annotations[:1]] if is_panoptic else []
        if not all(map(is_file_name, (*names, *maps))):
            raise TypeError("a name is not text")
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}' is not a COCO file: expected 'images', 'annotations' and 'categories'") from error
    if not is_panoptic and not image_files:
        raise UserError(f"'{path}' lists no images")
    segments = paths.labels or _one_with(maps, near_labels) or _folder_with(maps[0], path) if is_panoptic else None
    if is_panoptic and segments is None:
        raise _not_found("labels", path, maps[0], near_labels)
    # A file without a list of images does not show which suffix they have.
    wanted = names or [f"{Path(maps[0]).with_suffix('')}{suffix}" for suffix in IMAGE_SUFFIXES]
    images = paths.images or _one_with(wanted, near_images)
    images = images or next((folder for name in wanted if (folder := _folder_with(name, path, segments))), None)
    if images is None:
        raise _not_found("images", path, wanted[0], near_images)
    entry = {"annotations": str(path), "images": str(images)}
    return ("coco-instance", entry) if segments is None else ("coco-panoptic", {**entry, "segments": str(segments)})


def _folder_with(
    name: str,
    path: Path,
    other_than: Path | None = None,
    find: Callable[[str, Folder], str | None] = find_name,
) -> Path | None:
    """The folder near an annotation file that contains its first image."""
    split = re.sub(r"^(instances|panoptic|annotations)_", "", path.stem)
    roots = path.parent, path.parent.parent
    folders = [root / part for part in (path.stem, split) for root in roots]
    names = (*IMAGE_FOLDERS, "data")  # the last in exports of FiftyOne
    folders += [root / part / deeper for root in roots for part in names for deeper in (split, "")]
    for folder in (*folders, *roots):
        if folder.is_dir() and folder != other_than and find(name, Folder(folder)) is not None:
            return folder
    return None
