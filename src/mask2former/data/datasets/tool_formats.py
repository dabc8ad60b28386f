"""Files of annotation tools as records: an image, its size, and shapes with a class. One small parser per format.

Parsers that need more are in ``label_studio.py``, ``qupath.py`` and ``imagej_rois.py``, and what all parsers share in
``tool_records.py``.

Sources: the formats' own descriptions (LabelMe's and Supervisely's documentation, VIA's user guide, "CVAT for images
1.1"). Reads no image files.
"""

from __future__ import annotations

import base64
import math
import posixpath
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from mask2former import limits
from mask2former.data.datasets.annotation_files import is_name, without_repeats
from mask2former.data.datasets.file_names import Stems, find_name
from mask2former.data.datasets.imagej_rois import ROI_ENDINGS, is_roi_file, parse_rois, read_rois
from mask2former.data.datasets.label_studio import is_label_studio, parse_label_studio
from mask2former.data.datasets.qupath import is_geojson, parse_geojson
from mask2former.data.datasets.tool_records import (
    DamagedError,
    Record,
    Shape,
    Source,
    check_pixels,
    ellipse,
    flat,
    label_of,
    mask_of_image,
    patch_of,
    run_lengths,
    side_of,
    stated_side,
    united,
    within,
    within_object,
    without,
)
from mask2former.documents import parse_json, parse_xml, read_bytes, read_text
from mask2former.errors import UserError
from mask2former.media.archives import File, Folder
from mask2former.notes import note
from mask2former.ops.masks import Patch
from mask2former.text import printable, quoted

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

__all__ = ["FORMATS", "Format", "ToolName", "looks_like", "records_of"]

ToolName = Literal["labelme", "via", "cvat", "label-studio", "supervisely", "qupath", "imagej"]


def _content(path: File) -> Any:
    if path.name.lower().endswith(".xml"):
        return parse_xml(read_text(path, "annotation file", limits.TABLE_BYTES), f"the annotation file '{path}'")
    content = read_bytes(path, "annotation file", limits.JSON_BYTES)
    return parse_json(content, f"the annotation file '{path}'", without_repeats(path))


class Format(NamedTuple):
    """One format.

    Attributes:
        title: name for messages.
        suffixes: of its files.
        parse: creates records; unexpected content raises an ordinary Python error.
        is_one: whether content is in this format.
        others: files in a folder that are not annotations.
        endings: files do not name their image: it has their name, without one of these; None: files name it.
        read: returns the content of a file.
    """

    title: str
    suffixes: tuple[str, ...]
    parse: Callable[[Source], Iterator[Record]]
    is_one: Callable[[Any], bool]
    others: tuple[str, ...] = ()
    endings: tuple[str, ...] | None = None
    read: Callable[[File], Any] = _content

    def find(self, image: str, folder: Folder) -> str | None:
        """The name below a folder of the image that a record names; None: it is not there.

        Raises:
            UserError: several images have the name.
        """
        return find_name(image, folder) if self.endings is None else Stems(folder, self.endings).find(image)


def records_of(tool: ToolName, file: tuple[File, str], class_attribute: str | None = None) -> list[Record]:
    """The content of an annotation file.

    Args:
        tool: the tool whose format it is in.
        file: the file, and its path below the folder of annotations, if any.
        class_attribute: for VIA, where regions have several attributes: the one that is the class.

    Raises:
        UserError: the file is missing, broken, or of another format.
    """
    path, name = file
    kind = FORMATS[tool]
    content = kind.read(path)
    if not kind.is_one(content):
        other = looks_like(content)
        hint = f"; it looks like {FORMATS[other].title} ({other})" if other else ""
        raise UserError(
            f"'{path}' is not in the format of {kind.title}{hint}; check the file and the 'name' of the data set"
        )
    try:
        with within(""):
            return list(kind.parse(Source(content, name, class_attribute, path.name)))
    except DamagedError as error:
        raise UserError(
            f"'{path}' is not a valid file of {kind.title}: {error}; export it again, or export COCO"
        ) from error
    except UserError as error:
        raise UserError(f"'{path}': {error}") from error


def looks_like(content: Any) -> ToolName | None:
    """The format of the content of a JSON or XML file, if it is one of these."""
    return next((name for name, kind in FORMATS.items() if kind.is_one(content)), None)


# --- LabelMe ---------------------------------------------------------------------------------------------------------


def _labelme(source: Source) -> Iterator[Record]:
    content = source.content
    size = side_of(content.get("imageHeight")), side_of(content.get("imageWidth"))
    if content["shapes"] is None:
        raise UserError(
            "'shapes' is null; expected a list of objects, [] if there are none: open the image in LabelMe and save "
            "it again, or write []"
        )
    shapes = []
    for position, entry in enumerate(content["shapes"], start=1):
        with within_object(position):
            shapes.append(_labelme_shape(entry, size))
    image = content.get("imagePath")
    if not isinstance(image, str) or not image:
        raise ValueError(f"'imagePath' is {quoted(image, 60)}; expected the name of the image")
    # The path is relative to the file.
    folder = posixpath.dirname(source.name)
    image = posixpath.normpath(posixpath.join(folder, image.replace("\\", "/")))
    where = source.name or image
    yield Record(image, size, united(shapes, size, where), where)


def _labelme_shape(entry: dict[str, Any], size: tuple[int, int]) -> tuple[Any, Shape]:
    """A shape, preceded by its group."""
    kind, points = entry.get("shape_type") or "polygon", entry["points"]
    segmentation: Any = None
    if kind == "polygon":
        segmentation = [flat(points)]
    elif kind == "circle":  # the centre, and a point on the circle
        (x, y), (other_x, other_y) = points
        radius = math.hypot(other_x - x, other_y - y)
        segmentation = ellipse(x, y, radius, radius)
    elif kind == "mask":
        (left, top), _ = points
        mask = mask_of_image("mask", base64.b64decode(entry["mask"], validate=True))
        segmentation = run_lengths(Patch(round(top), round(left), mask), size)
    return entry.get("group_id"), Shape(label_of(entry["label"]), segmentation, str(kind)[:40])


def _is_labelme(content: Any) -> bool:
    return isinstance(content, dict) and "imagePath" in content and isinstance(content.get("shapes", 0), list | None)


# --- VIA (VGG Image Annotator) ---------------------------------------------------------------------------------------


def _via(source: Source) -> Iterator[Record]:
    entries = source.content.get("_via_img_metadata", source.content)
    regions = [region for entry in entries.values() for region in _regions(entry)]
    attribute = source.class_attribute or _class_attribute(regions)
    for entry in entries.values():
        name = entry["filename"]
        if not isinstance(name, str) or not name:
            raise ValueError(f"'filename' is {quoted(name, 60)}; expected the name of the image")
        shapes = []
        for position, region in enumerate(_regions(entry), start=1):
            with within_object(position, name):
                shapes.append(_via_shape(region, attribute))
        size = entry.get("size")
        yield Record(name, (0, 0), shapes, name, size if type(size) is int and size > 0 else 0)


def _via_shape(region: dict[str, Any], attribute: str | None) -> Shape:
    shape = region["shape_attributes"]
    kind, segmentation = shape["name"], None
    if kind == "polygon":
        corners = zip(shape["all_points_x"], shape["all_points_y"], strict=True)
        segmentation = [[value for corner in corners for value in corner]]
    elif kind == "circle":
        segmentation = ellipse(shape["cx"], shape["cy"], shape["r"], shape["r"])
    elif kind == "ellipse":
        if not abs(turn := shape.get("theta", 0)) <= 2 * math.pi:
            raise ValueError(f"'theta' is {quoted(turn, 40)}; expected radians")
        segmentation = ellipse(shape["cx"], shape["cy"], shape["rx"], shape["ry"], math.degrees(turn))
    label = "object" if attribute is None else _via_label(region["region_attributes"].get(attribute), attribute)
    return Shape(label, segmentation, str(kind)[:40])


def _regions(entry: Any) -> list[Any]:
    regions = entry.get("regions") or []
    return list(regions.values()) if isinstance(regions, dict) else list(regions)  # VIA 1 uses a mapping


def _class_attribute(regions: Sequence[Any]) -> str | None:
    """The attribute that holds the classes of all regions.

    Raises:
        UserError: there are several.
    """
    keys = sorted({key for region in regions for key in region.get("region_attributes") or ()})
    if len(keys) > 1:
        raise UserError(
            f"regions have the attributes {quoted(keys)}; specify which one is the class (class_attribute: {keys[0]} "
            "in 'dataset' of the run file)"
        )
    if not keys and regions:
        note(
            "VIA files whose regions have no attributes, so that all belong to one class, 'object'",
            f"{len(regions)} regions",
        )
    return keys[0] if keys else None


def _via_label(value: Any, attribute: str) -> str:
    if isinstance(value, dict):  # checkboxes
        chosen = [name for name, is_chosen in value.items() if is_chosen]
        value = chosen[0] if len(chosen) == 1 else None
    if not is_name(value):
        raise UserError(f"it has {quoted(value, 40)} as '{printable(attribute, 40)}'; expected one class per region")
    return str(value).strip()


def _is_via(content: Any) -> bool:
    if not isinstance(content, dict):
        return False
    entries = content.get("_via_img_metadata", content)
    first = next(iter(entries.values()), None) if isinstance(entries, dict) else None
    return isinstance(first, dict) and "filename" in first and "regions" in first


# --- CVAT for images 1.1 ---------------------------------------------------------------------------------------------


def _cvat(source: Source) -> Iterator[Record]:
    root = source.content
    if root.find("track") is not None:
        raise UserError(
            "it is 'CVAT for video', with tracks; export 'CVAT for images 1.1' or 'COCO 1.0' for images, or for clips "
            "convert it to YouTube-VIS format"
        )
    for entry in root.iter("image"):
        name = entry.attrib["name"]
        with within(f"image {quoted(name, 60)}"):
            size = side_of(float(entry.get("height", "0"))), side_of(float(entry.get("width", "0")))
        if entry.find("tag") is not None:
            note("images with image-level classes (tags), which are not objects", f"'{name}'")
        shapes = []
        for position, element in enumerate((element for element in entry if element.tag != "tag"), start=1):
            with within_object(position, name):
                shapes.append(_cvat_shape(element, size))
        yield Record(name, size, united(shapes, size, name), name)


def _cvat_shape(element: Element, size: tuple[int, int]) -> tuple[str | None, Shape]:
    """A shape, preceded by its group."""
    kind = element.tag
    segmentation: Any = None
    if kind == "polygon":
        pairs = [pair.split(",") for pair in element.attrib["points"].split(";") if pair.strip()]
        segmentation = [[float(value) for value in flat(pairs)]]
    elif kind == "ellipse":
        cx, cy, rx, ry = (float(element.attrib[key]) for key in ("cx", "cy", "rx", "ry"))
        segmentation = ellipse(cx, cy, rx, ry, float(element.get("rotation", "0")))
    elif kind == "mask":
        left, top, width, height = (int(element.attrib[key]) for key in ("left", "top", "width", "height"))
        runs = np.array([int(run) for run in element.attrib["rle"].split(",")], dtype=np.int64)
        check_pixels(height, width)
        if (runs < 0).any() or runs.sum() != width * height:
            raise ValueError(f"the runs of a mask of {width}x{height} add up to {runs.sum()}")
        mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
        segmentation = run_lengths(Patch(top, left, mask), size)
    group = element.get("group_id")
    shape = Shape(label_of(element.get("label")), segmentation, printable(kind, 40))
    return None if group in (None, "", "0") else group, shape


def _is_cvat(content: Any) -> bool:
    return getattr(content, "tag", None) == "annotations" and (
        content.find("image") is not None or content.find("track") is not None or content.find("meta") is not None
    )


# --- Supervisely -----------------------------------------------------------------------------------------------------


def _supervisely(source: Source) -> Iterator[Record]:
    content = source.content
    if not source.name:
        raise UserError("it is a single Supervisely file; give the folder 'ann' that contains it")
    with within("size"):
        size = stated_side(content["size"], "height"), stated_side(content["size"], "width")
    shapes = []
    for position, entry in enumerate(content["objects"], start=1):
        with within(f"object {position} (id {quoted(entry['id'], 40)})" if "id" in entry else f"object {position}"):
            shapes.append(_supervisely_shape(entry, size, source.name))
    yield Record(source.name.removesuffix(".json"), size, shapes, source.name)


def _supervisely_shape(entry: dict[str, Any], size: tuple[int, int], where: str) -> Shape:
    kind = entry["geometryType"]
    segmentation: Any = None
    if kind == "polygon":
        points = entry["points"]
        rings = (points["exterior"], *points.get("interior", ()))
        outer, *holes = (flat(ring) for ring in rings)
        segmentation = [outer]
        if holes:
            patch = without(patch_of([outer], size, where), patch_of(holes, size, None))
            segmentation = run_lengths(patch, size)
    elif kind == "bitmap":
        left, top = entry["bitmap"]["origin"]
        unpacker = zlib.decompressobj()
        try:
            packed = base64.b64decode(entry["bitmap"]["data"], validate=True)
            png = unpacker.decompress(packed, limits.TEXT_BYTES)
        except zlib.error as error:
            raise ValueError(f"a bitmap cannot be unpacked: {error}") from error
        if unpacker.unconsumed_tail:
            raise ValueError(f"a bitmap is unpacked to more than {limits.TEXT_BYTES:,} bytes")
        segmentation = run_lengths(Patch(top, left, mask_of_image("bitmap", png)), size)
    return Shape(label_of(entry["classTitle"]), segmentation, str(kind)[:40])


def _is_supervisely(content: Any) -> bool:
    return (
        isinstance(content, dict) and isinstance(content.get("objects"), list) and isinstance(content.get("size"), dict)
    )


FORMATS: dict[ToolName, Format] = {
    "labelme": Format("LabelMe", (".json",), _labelme, _is_labelme),
    "via": Format("VIA (VGG Image Annotator)", (".json",), _via, _is_via),
    "cvat": Format("CVAT for images", (".xml",), _cvat, _is_cvat),
    "label-studio": Format("Label Studio", (".json",), parse_label_studio, is_label_studio),
    "supervisely": Format(
        "Supervisely", (".json",), _supervisely, _is_supervisely, ("meta.json", "obj_class_to_machine_color.json")
    ),
    "qupath": Format("QuPath (GeoJSON)", (".geojson", ".json"), parse_geojson, is_geojson, endings=()),
    "imagej": Format(
        "ImageJ (regions of interest)", (".zip", ".roi"), parse_rois, is_roi_file, endings=ROI_ENDINGS, read=read_rois
    ),
}
