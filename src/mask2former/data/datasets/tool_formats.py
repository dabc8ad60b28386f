"""Files of annotation tools as records: an image, its size, and shapes with a class. One small parser for each format.

Sources: the formats' own descriptions (LabelMe's and Supervisely's documentation, VIA's user guide, "CVAT for images
1.1", Label Studio's export formats and ``label_studio_sdk.converter.brush``). Reads no images.
"""

from __future__ import annotations

import base64
import contextlib
import math
import posixpath
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool

from mask2former import limits
from mask2former.data.archives import File
from mask2former.data.datasets.annotation_files import is_name, number
from mask2former.data.image_files import NamedBytes, open_image
from mask2former.data.images import IMAGE_SUFFIXES
from mask2former.documents import parse_xml, read_json, read_text
from mask2former.errors import UserError, prefixed
from mask2former.notes import note
from mask2former.ops.masks import Patch, decode_patch, encode_patch, merged, polygons_to_patch, tight
from mask2former.text import printable, quoted

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

__all__ = ["FORMATS", "Format", "Record", "Shape", "ToolName", "looks_like", "records_of"]

ToolName = Literal["labelme", "via", "cvat", "label-studio", "supervisely"]
_DEVIATION = 0.05  # pixels that a polygon lies off the ellipse it stands for


class Shape(NamedTuple):
    """One object.

    Attributes:
        label: its class.
        segmentation: polygons or run lengths in COCO's form, not checked yet; None: a shape that is no mask.
        what: what the tool calls the shape.
    """

    label: str
    segmentation: Any
    what: str


class Record(NamedTuple):
    """One image as a file describes it; a side is 0 where it does not say."""

    image: str
    size_hw: tuple[int, int]
    shapes: list[Shape]
    where: str


class _Source(NamedTuple):
    """A file that was read.

    Attributes:
        content: of JSON the value, of XML the root.
        name: what it is called below the folder of annotations; nothing where it was named itself.
        class_attribute: the choice of the user.
    """

    content: Any
    name: str
    class_attribute: str | None


class Format(NamedTuple):
    """One format.

    Attributes:
        title: for people.
        suffixes: of its files.
        parse: makes records; whatever is not as it should be is an error of Python.
        is_one: whether content is of this format.
        others: files of a folder that are no annotations.
    """

    title: str
    suffixes: tuple[str, ...]
    parse: Callable[[_Source], Iterator[Record]]
    is_one: Callable[[Any], bool]
    others: tuple[str, ...] = ()


def records_of(tool: ToolName, file: tuple[File, str], class_attribute: str | None = None) -> list[Record]:
    """What an annotation file holds.

    Args:
        tool: whose format it is in.
        file: the file, and its path below the folder of annotations, if there is one.
        class_attribute: of VIA, where regions have several attributes: the one that is the class.

    Raises:
        UserError: the file is missing, broken, or of another format.
    """
    path, name = file
    kind = FORMATS[tool]
    content = _content(path)
    if not kind.is_one(content):
        other = looks_like(content)
        hint = f"; it looks like {FORMATS[other].title} ({other})" if other else ""
        raise UserError(
            f"'{path}' is not in the format of {kind.title}{hint}; check the file and 'name' of the data set"
        )
    try:
        with _part(""):
            return list(kind.parse(_Source(content, name, class_attribute)))
    except _DamagedError as error:
        raise UserError(
            f"'{path}' is not as {kind.title} writes it: {error}; export it again, or export COCO"
        ) from error
    except UserError as error:
        raise UserError(f"'{path}': {error}") from error


class _DamagedError(Exception):
    """What is not as the tool writes it, in words; a mistake of the tool or of a hand, not of the user's choice."""


_DAMAGE = (TypeError, AttributeError, IndexError, ArithmeticError, RecursionError)


@contextlib.contextmanager
def _part(what: str) -> Iterator[None]:
    """Whatever goes wrong inside is said of one part of the file."""
    before = f"{what}: " if what else ""
    try:
        yield
    except _DamagedError as error:
        raise _DamagedError(f"{before}{error}") from error
    except UserError as error:
        raise prefixed(what, error) if what else error from error
    except KeyError as error:
        raise _DamagedError(f"{before}it has no '{printable(str(error.args[0]), 60)}'") from error
    except ValueError as error:  # those of this module are sentences
        raise _DamagedError(f"{before}{printable(str(error), 200)}") from error
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {printable(str(error), 200)}"
        raise _DamagedError(f"{before}something in it has an unexpected type ({reason})") from error


def _object(number: int, image: object = None) -> contextlib.AbstractContextManager[None]:
    """One object of a file, or of an image in it, counted from 1 in the order of the file."""
    return _part(f"object {number}" if image is None else f"object {number} of {quoted(image, 60)}")


def looks_like(content: Any) -> ToolName | None:
    """The format of what is in a JSON or XML file, if it is one of these."""
    return next((name for name, kind in FORMATS.items() if kind.is_one(content)), None)


def _content(path: File) -> Any:
    if path.name.lower().endswith(".xml"):
        return parse_xml(read_text(path, "annotation file", limits.TABLE_BYTES), f"the annotation file '{path}'")
    return read_json(path, "annotation file")


# --- shapes ----------------------------------------------------------------------------------------------------------


def _ellipse(x: float, y: float, across: float, down: float, degrees: float = 0.0) -> list[list[float]]:
    """A polygon that lies a twentieth of a pixel off an ellipse, at most."""
    longest = max(abs(across), abs(down), _DEVIATION)
    count = min(720, max(12, math.ceil(math.pi / math.acos(max(0.0, 1 - _DEVIATION / longest)))))
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    turn = math.radians(degrees)
    along, aside = across * np.cos(angles), down * np.sin(angles)
    corners = [x + along * math.cos(turn) - aside * math.sin(turn), y + along * math.sin(turn) + aside * math.cos(turn)]
    return [np.stack(corners, axis=1).ravel().tolist()]


def _run_lengths(patch: Patch, size_hw: tuple[int, int]) -> dict[str, Any]:
    """A mask in COCO's form.

    Raises:
        ValueError: it does not lie in its image.
    """
    top, left, mask = patch
    if not (0 <= top <= size_hw[0] - mask.shape[0] and 0 <= left <= size_hw[1] - mask.shape[1]):
        raise ValueError(
            f"a mask of {mask.shape[1]}x{mask.shape[0]} at x {left}, y {top} is not within its image of "
            f"{size_hw[1]}x{size_hw[0]} (width x height)"
        )
    return encode_patch(tight(patch), size_hw)


def _patch_of(segmentation: Any, size_hw: tuple[int, int]) -> Patch:
    if isinstance(segmentation, dict):
        return decode_patch(segmentation)
    return polygons_to_patch([np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in segmentation], size_hw)


def _without(patch: Patch, other: Patch) -> Patch:
    """The pixels of a mask that another one does not have."""
    top, left, mask = patch
    kept = mask.copy()
    rows = slice(max(other.top - top, 0), max(other.top + other.mask.shape[0] - top, 0))
    columns = slice(max(other.left - left, 0), max(other.left + other.mask.shape[1] - left, 0))
    window = kept[rows, columns]
    inner = other.mask[max(top - other.top, 0) :, max(left - other.left, 0) :][: window.shape[0], : window.shape[1]]
    window &= ~inner
    return Patch(top, left, kept)


def _check_pixels(height: int, width: int) -> None:
    """Refuse a mask that no image that is read could have, before it is unpacked."""
    limits.check_limit("a mask has pixels:", height * width, limits.INPUT_PIXELS, "annotate the image in tiles")


def _united(shapes: Sequence[tuple[Any, Shape]], size_hw: tuple[int, int]) -> list[Shape]:
    """Shapes with their groups, those of one class and group (not None) as one object, as COCO's exports have them."""
    groups: dict[Any, list[Shape]] = defaultdict(list)
    for position, (group, shape) in enumerate(shapes):
        has_mask = shape.segmentation is not None
        groups[(shape.label, group) if group is not None and has_mask else position].append(shape)
    found = []
    for parts in groups.values():
        first = parts[0]
        if len(parts) > 1 and all(isinstance(part.segmentation, list) for part in parts):
            first = first._replace(segmentation=[polygon for part in parts for polygon in part.segmentation])
        elif len(parts) > 1:
            patch = merged([_patch_of(part.segmentation, size_hw) for part in parts])
            first = first._replace(segmentation=_run_lengths(patch, size_hw))
        found.append(first)
    return found


def _label(value: Any) -> str:
    if not is_name(value):
        raise ValueError(f"it has {quoted(value, 40)} as its class; expected text")
    return str(value).strip()


def _side(value: Any) -> int:
    side = number(value) or 0.0
    return int(side) if 0 <= side <= limits.SIDE else 0


def _stated_side(entry: dict[str, Any], key: str) -> int:
    """A side of the image that shapes are computed with.

    Raises:
        ValueError: it is no number of pixels.
    """
    side = _side(entry[key])
    if not side:
        raise ValueError(f"'{key}' is {quoted(entry[key], 40)}; expected pixels of the image, 1 to {limits.SIDE:,}")
    return side


def _flat(corners: Sequence[Any]) -> list[Any]:
    """Corners as COCO has them: x, y, x, y, ...

    Raises:
        ValueError: one has another number of values, which would move all that come after it.
    """
    for corner in corners:
        if not isinstance(corner, list) or len(corner) != 2:
            raise ValueError(f"a corner is {quoted(corner, 40)}; expected x and y")
    return [value for corner in corners for value in corner]


def _bitmap(name: str, content: bytes) -> Bool[np.ndarray, "h w"]:
    """The mask of an image file: what is opaque, or where there is no alpha, what is not black."""
    with open_image(NamedBytes(name, content)) as image:
        pixels = np.asarray(image)
    if pixels.ndim == 2:
        return np.asarray(pixels > 0)
    return np.asarray(pixels[..., -1] > 0 if pixels.shape[2] in (2, 4) else pixels.any(axis=2))


# --- LabelMe ---------------------------------------------------------------------------------------------------------


def _labelme(source: _Source) -> Iterator[Record]:
    content = source.content
    size = _side(content.get("imageHeight")), _side(content.get("imageWidth"))
    if content["shapes"] is None:
        raise UserError(
            "'shapes' is null; expected the list of objects, which is [] where there are none: open the image in "
            "LabelMe and save it again, or write []"
        )
    shapes = []
    for position, entry in enumerate(content["shapes"], start=1):
        with _object(position):
            shapes.append(_labelme_shape(entry, size))
    image = content.get("imagePath")
    if not isinstance(image, str) or not image:
        raise ValueError(f"'imagePath' is {quoted(image, 60)}; expected the name of the image")
    # It is relative to the file.
    folder = posixpath.dirname(source.name)
    image = posixpath.normpath(posixpath.join(folder, image.replace("\\", "/")))
    yield Record(image, size, _united(shapes, size), source.name or image)


def _labelme_shape(entry: dict[str, Any], size: tuple[int, int]) -> tuple[Any, Shape]:
    """A shape, after its group."""
    kind, points = entry.get("shape_type") or "polygon", entry["points"]
    segmentation: Any = None
    if kind == "polygon":
        segmentation = [_flat(points)]
    elif kind == "circle":  # the centre, and a point on it
        (x, y), (other_x, other_y) = points
        radius = math.hypot(other_x - x, other_y - y)
        segmentation = _ellipse(x, y, radius, radius)
    elif kind == "mask":
        (left, top), _ = points
        mask = _bitmap("mask", base64.b64decode(entry["mask"], validate=True))
        segmentation = _run_lengths(Patch(round(top), round(left), mask), size)
    return entry.get("group_id"), Shape(_label(entry["label"]), segmentation, str(kind)[:40])


def _is_labelme(content: Any) -> bool:
    return isinstance(content, dict) and "imagePath" in content and isinstance(content.get("shapes", 0), list | None)


# --- VIA (VGG Image Annotator) ---------------------------------------------------------------------------------------


def _via(source: _Source) -> Iterator[Record]:
    entries = source.content.get("_via_img_metadata", source.content)
    regions = [region for entry in entries.values() for region in _regions(entry)]
    attribute = source.class_attribute or _class_attribute(regions)
    for entry in entries.values():
        name = entry["filename"]
        if not isinstance(name, str) or not name:
            raise ValueError(f"'filename' is {quoted(name, 60)}; expected the name of the image")
        shapes = []
        for position, region in enumerate(_regions(entry), start=1):
            with _object(position, name):
                shapes.append(_via_shape(region, attribute))
        yield Record(name, (0, 0), shapes, name)


def _via_shape(region: dict[str, Any], attribute: str | None) -> Shape:
    shape = region["shape_attributes"]
    kind, segmentation = shape["name"], None
    if kind == "polygon":
        corners = zip(shape["all_points_x"], shape["all_points_y"], strict=True)
        segmentation = [[value for corner in corners for value in corner]]
    elif kind == "circle":
        segmentation = _ellipse(shape["cx"], shape["cy"], shape["r"], shape["r"])
    elif kind == "ellipse":
        turn = math.degrees(shape.get("theta", 0))
        segmentation = _ellipse(shape["cx"], shape["cy"], shape["rx"], shape["ry"], turn)
    label = "object" if attribute is None else _via_label(region["region_attributes"].get(attribute), attribute)
    return Shape(label, segmentation, str(kind)[:40])


def _regions(entry: Any) -> list[Any]:
    regions = entry.get("regions") or []
    return list(regions.values()) if isinstance(regions, dict) else list(regions)  # VIA 1 has a mapping


def _class_attribute(regions: Sequence[Any]) -> str | None:
    """The attribute that all regions' classes are in.

    Raises:
        UserError: there are several.
    """
    keys = sorted({key for region in regions for key in region.get("region_attributes") or ()})
    if len(keys) > 1:
        raise UserError(
            f"regions have the attributes {quoted(keys)}; say which one is the class (class_attribute: {keys[0]} in "
            "'dataset' of the run file)"
        )
    if not keys and regions:
        note(
            "VIA files whose regions have no attributes, so all belong to one class, 'object'",
            f"{len(regions)} regions",
        )
    return keys[0] if keys else None


def _via_label(value: Any, attribute: str) -> str:
    if isinstance(value, dict):  # checkboxes
        chosen = [name for name, is_chosen in value.items() if is_chosen]
        value = chosen[0] if len(chosen) == 1 else None
    if not is_name(value):
        raise UserError(
            f"it has {quoted(value, 40)} as '{printable(attribute, 40)}'; expected one class for each region"
        )
    return str(value).strip()


def _is_via(content: Any) -> bool:
    if not isinstance(content, dict):
        return False
    entries = content.get("_via_img_metadata", content)
    first = next(iter(entries.values()), None) if isinstance(entries, dict) else None
    return isinstance(first, dict) and "filename" in first and "regions" in first


# --- CVAT for images 1.1 ---------------------------------------------------------------------------------------------


def _cvat(source: _Source) -> Iterator[Record]:
    root = source.content
    if root.find("track") is not None:
        raise UserError(
            "it is 'CVAT for video', with tracks; export 'CVAT for images 1.1' or 'COCO 1.0' for images, or for clips "
            "convert it to YouTube-VIS format"
        )
    for entry in root.iter("image"):
        name = entry.attrib["name"]
        with _part(f"image {quoted(name, 60)}"):
            size = _side(float(entry.get("height", "0"))), _side(float(entry.get("width", "0")))
        if entry.find("tag") is not None:
            note("images with classes of the whole image (tags), which are not objects", f"'{name}'")
        shapes = []
        for position, element in enumerate((element for element in entry if element.tag != "tag"), start=1):
            with _object(position, name):
                shapes.append(_cvat_shape(element, size))
        yield Record(name, size, _united(shapes, size), name)


def _cvat_shape(element: Element, size: tuple[int, int]) -> tuple[str | None, Shape]:
    """A shape, after its group."""
    kind = element.tag
    segmentation: Any = None
    if kind == "polygon":
        pairs = [pair.split(",") for pair in element.attrib["points"].split(";") if pair.strip()]
        segmentation = [[float(value) for value in _flat(pairs)]]
    elif kind == "ellipse":
        cx, cy, rx, ry, turn = (float(element.get(key, "0")) for key in ("cx", "cy", "rx", "ry", "rotation"))
        segmentation = _ellipse(cx, cy, rx, ry, turn)
    elif kind == "mask":
        left, top, width, height = (int(element.attrib[key]) for key in ("left", "top", "width", "height"))
        runs = np.array([int(run) for run in element.attrib["rle"].split(",")], dtype=np.int64)
        _check_pixels(height, width)
        if (runs < 0).any() or runs.sum() != width * height:
            raise ValueError(f"the runs of a mask of {width}x{height} add up to {runs.sum()}")
        mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
        segmentation = _run_lengths(Patch(top, left, mask), size)
    group = element.get("group_id")
    shape = Shape(_label(element.get("label")), segmentation, printable(kind, 40))
    return None if group in (None, "", "0") else group, shape


def _is_cvat(content: Any) -> bool:
    return getattr(content, "tag", None) == "annotations" and (
        content.find("image") is not None or content.find("track") is not None or content.find("meta") is not None
    )


# --- Label Studio ----------------------------------------------------------------------------------------------------


def _label_studio(source: _Source) -> Iterator[Record]:
    for position, task in enumerate(source.content, start=1):
        if "annotations" not in task and "completions" not in task:
            if "predictions" in task:
                raise UserError(
                    "its tasks hold predictions that nobody has submitted; correct and submit them in Label Studio and "
                    "export 'JSON' (predictions as they are: predict --also coco-dataset)"
                )
            raise UserError("it is JSON-MIN of Label Studio, which says too little; export 'JSON'")
        with _part(f"task {quoted(task.get('id', position), 40)}"):
            image = _task_image(task["data"])
        done = [entry for entry in task.get("annotations", task.get("completions")) if not entry.get("was_cancelled")]
        if not done:  # nobody said that it has no objects
            note("tasks of Label Studio that were skipped or that nobody annotated, left out", f"'{image}'")
            continue
        if len(done) > 1:
            note(
                "images with several annotations of Label Studio, of which the first is read",
                f"'{image}' ({len(done)})",
            )
        with _part(f"task {quoted(task.get('id', position), 40)}"):
            _check_one_image(done[0]["result"], task["data"], image)
            size, shapes = _task_shapes(done[0]["result"], image)
        yield Record(image, size, shapes, image)


def _task_image(data: dict[str, Any]) -> str:
    for key in ("image", "img", "url"):
        if isinstance(data.get(key), str):
            return data[key]
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    images = {key: value for key, value in texts.items() if value.lower().endswith(IMAGE_SUFFIXES)}
    if len(set(images.values())) > 1:
        raise _several_images(list(images))
    names = [*images.values(), *texts.values()]
    if not names:
        raise ValueError("a task has no image in 'data'")
    return names[0]


def _several_images(keys: Sequence[Any]) -> UserError:
    return UserError(
        f"it has several images ({quoted(keys, 80)}); expected one image in a task: make a task of each image with its "
        "own annotations, or export COCO"
    )


def _check_one_image(results: Sequence[dict[str, Any]], data: dict[str, Any], image: str) -> None:
    """Regions name the tag that they were drawn on, and the position in it where it shows several images.

    Raises:
        UserError: they do not all lie on the image of the task.
    """
    regions = [result for result in results if _is_region(result.get("value") or {})]
    tags = list(dict.fromkeys(str(region["to_name"]) for region in regions if region.get("to_name") is not None))
    others = [tag for tag in tags if data.get(tag, image) != image]
    if len(tags) > 1 or others:
        raise _several_images(tags if len(tags) > 1 else list(data))
    if any(region.get("item_index") for region in regions):
        raise _several_images([f"'item_index' of {tag}" for tag in tags])


_GEOMETRY = ("points", "rle", "imageDataURL", "radiusX", "radiusY", "x", "y", "width", "height", "rotation", "vertices")


def _is_region(value: dict[str, Any]) -> bool:
    return any(name in value for name in ("points", "rle", "imageDataURL", "radiusX", "x", "vertices"))


def _task_shapes(results: Sequence[dict[str, Any]], image: str) -> tuple[tuple[int, int], list[Shape]]:
    """Regions and their labels, which may be two results of one id, each with the geometry."""
    size = 0, 0
    regions: dict[Any, dict[str, Any]] = {}
    labels: dict[Any, list[Any]] = {}
    kinds: dict[Any, Any] = {}
    for position, result in enumerate(results, start=1):
        value, key = result.get("value") or {}, result.get("id")
        key = f"{position} without an id" if key is None else key
        given = next((value[name] for name in value if name.endswith("labels") and isinstance(value[name], list)), None)
        if given is not None:
            before = labels.get(key)
            labels[key] = given if before is None else [*before, *(name for name in given if name not in before)]
            kinds[key] = result.get("type")
        if not _is_region(value):
            if given is None:
                note("results of Label Studio that are not regions (choices, relations, ...)", f"'{image}'")
            continue
        geometry = {name: value[name] for name in _GEOMETRY if name in value}
        with _part(f"result {quoted(key, 40)}"):
            stated = _stated_side(result, "original_height"), _stated_side(result, "original_width")
            if size not in ((0, 0), stated):
                raise ValueError(f"its image has {stated} pixels (height, width), but {size} in the results before it")
            if regions.setdefault(key, geometry) != geometry:
                raise ValueError("another region has the same id; expected an id of its own for each")
        size = stated
        if result.get("image_rotation"):
            raise UserError(f"{quoted(image)} was rotated in Label Studio; annotate it without rotation")
    shapes = []
    for key in dict.fromkeys((*regions, *labels)):
        chosen = labels.get(key) or [None]
        with _part(f"region {quoted(key, 40)} of {quoted(image, 60)}"):
            if len(chosen) != 1:
                raise UserError(f"it has the labels {quoted(chosen)}; expected one class for each")
            shape = _region(regions[key], size) if key in regions else (None, str(kinds[key])[:40])
            shapes.append(Shape(_label(chosen[0]), *shape))
    return size, shapes


def _region(value: dict[str, Any], size_hw: tuple[int, int]) -> tuple[Any, str]:
    """Its segmentation, and what it is; coordinates are percent of width and height."""
    height, width = size_hw
    if "rle" in value:
        if not isinstance(value["rle"], list):  # of a number, bytes() would be as many zeros
            raise ValueError(f"'rle' is {quoted(value['rle'], 40)}; expected a list of numbers")
        mask = _decoded_brush(bytes(value["rle"]), size_hw)
        return _run_lengths(Patch(0, 0, mask), size_hw), "brush"
    if "imageDataURL" in value:
        head, _, png = value["imageDataURL"].partition("base64,")
        if not head.startswith("data:image/"):
            raise ValueError(f"its image is {quoted(value['imageDataURL'], 40)}, no 'data:image/png;base64,...'")
        mask = _bitmap("bitmask", base64.b64decode(png, validate=True))
        if mask.shape != size_hw:
            raise ValueError(f"its mask has {mask.shape} pixels, but its image {size_hw} (height, width)")
        return _run_lengths(Patch(0, 0, mask), size_hw), "bitmask"
    if "points" in value:
        _flat(value["points"])
        return [[part for x, y in value["points"] for part in (x * width / 100, y * height / 100)]], "polygon"
    if "radiusX" in value:
        across, down = value["radiusX"] * width / 100, value["radiusY"] * height / 100
        return _ellipse(
            value["x"] * width / 100, value["y"] * height / 100, across, down, value.get("rotation", 0)
        ), "ellipse"
    return None, "rectangle" if "height" in value else "keypoint" if "vertices" not in value else "vector"


class _Bits:
    """Numbers of some bits each, one after the other."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._position = 0

    def read(self, count: int) -> int:
        stop = self._position + count
        last = -(-stop // 8)
        if last > len(self._content):
            raise ValueError("the run lengths of a brush are cut short")
        whole = int.from_bytes(self._content[self._position // 8 : last], "big")
        self._position = stop
        return whole >> (8 * last - stop) & ((1 << count) - 1)


def _decoded_brush(content: bytes, size_hw: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """The mask in Label Studio's run lengths: the alpha of R, G, B, alpha, R, ..., packed by ``@thi.ng/rle-pack``."""
    bits = _Bits(content)
    count, bits_of_word = bits.read(32), bits.read(5) + 1
    bits_of_run = [bits.read(4) + 1 for _ in range(4)]
    _check_pixels(*size_hw)
    if count != 4 * size_hw[0] * size_hw[1]:
        raise ValueError(f"the run lengths of a brush are of {count} values, not 4 for each of {size_hw} pixels")
    alpha = np.zeros(count // 4, dtype=bool)
    position = 0
    while position < count:
        is_run = bits.read(1)
        stop = min(count, position + 1 + bits.read(bits_of_run[bits.read(2)]))
        pixels = slice(position // 4, stop // 4)  # whose alpha lies in the run
        if is_run:
            alpha[pixels] = bits.read(bits_of_word) > 0
        else:
            values = [bits.read(bits_of_word) > 0 for _ in range(stop - position)]
            alpha[pixels] = values[3 - position % 4 :: 4]
        position = stop
    return alpha.reshape(size_hw)


def _is_label_studio(content: Any) -> bool:
    if not isinstance(content, list) or not content or not isinstance(content[0], dict):
        return False
    return isinstance(content[0].get("data"), dict) or "label" in content[0] or "annotation_id" in content[0]


# --- Supervisely -----------------------------------------------------------------------------------------------------


def _supervisely(source: _Source) -> Iterator[Record]:
    content = source.content
    if not source.name:
        raise UserError("it is a single Supervisely file; give the folder 'ann' that contains it")
    with _part("size"):
        size = _stated_side(content["size"], "height"), _stated_side(content["size"], "width")
    shapes = []
    for position, entry in enumerate(content["objects"], start=1):
        with _part(f"object {position} (id {quoted(entry['id'], 40)})" if "id" in entry else f"object {position}"):
            shapes.append(_supervisely_shape(entry, size))
    yield Record(source.name.removesuffix(".json"), size, shapes, source.name)


def _supervisely_shape(entry: dict[str, Any], size: tuple[int, int]) -> Shape:
    kind = entry["geometryType"]
    segmentation: Any = None
    if kind == "polygon":
        points = entry["points"]
        rings = (points["exterior"], *points.get("interior", ()))
        outer, *holes = (_flat(ring) for ring in rings)
        segmentation = [outer]
        if holes:
            patch = _without(_patch_of([outer], size), _patch_of(holes, size))
            segmentation = _run_lengths(patch, size)
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
        segmentation = _run_lengths(Patch(top, left, _bitmap("bitmap", png)), size)
    return Shape(_label(entry["classTitle"]), segmentation, str(kind)[:40])


def _is_supervisely(content: Any) -> bool:
    return (
        isinstance(content, dict) and isinstance(content.get("objects"), list) and isinstance(content.get("size"), dict)
    )


FORMATS: dict[ToolName, Format] = {
    "labelme": Format("LabelMe", (".json",), _labelme, _is_labelme),
    "via": Format("VIA (VGG Image Annotator)", (".json",), _via, _is_via),
    "cvat": Format("CVAT for images", (".xml",), _cvat, _is_cvat),
    "label-studio": Format("Label Studio", (".json",), _label_studio, _is_label_studio),
    "supervisely": Format(
        "Supervisely", (".json",), _supervisely, _is_supervisely, ("meta.json", "obj_class_to_machine_color.json")
    ),
}
