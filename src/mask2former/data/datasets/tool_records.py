"""What parsers of annotation tools produce: records of images, shapes in COCO's form, errors that name the part."""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from mask2former import limits
from mask2former.data.datasets.annotation_files import is_name, number, polygons_of
from mask2former.data.datasets.mask_checks import lies_outside
from mask2former.errors import UserError, prefixed
from mask2former.media.image_files import NamedBytes, open_image
from mask2former.notes import note
from mask2former.ops.masks import Patch, decode_patch, encode_patch, merged, polygons_to_patch, tight
from mask2former.text import printable, quoted

__all__ = [
    "DamagedError",
    "Record",
    "Shape",
    "Source",
    "check_one_plane",
    "check_pixels",
    "ellipse",
    "flat",
    "joined",
    "label_of",
    "mask_of_image",
    "patch_of",
    "run_lengths",
    "side_of",
    "stated_side",
    "united",
    "within",
    "within_object",
    "without",
]

_DEVIATION = 0.05  # pixels by which a polygon may deviate from the ellipse that it replaces


class Shape(NamedTuple):
    """One object.

    Attributes:
        label: its class.
        segmentation: polygons or run lengths in COCO's form, not checked yet; None: a shape that is not a mask.
        what: what the tool calls the shape.
    """

    label: str
    segmentation: Any
    what: str


class Record(NamedTuple):
    """One image as described in a file; a side, and the number of bytes of the image, is 0 where it is not given."""

    image: str
    size_hw: tuple[int, int]
    shapes: list[Shape]
    where: str
    num_bytes: int = 0


class Source(NamedTuple):
    """A file that was read.

    Attributes:
        content: for JSON the value, for XML the root.
        name: its path below the folder of annotations; empty where the file itself was given.
        class_attribute: as chosen by the user.
        file: its name without folders.
    """

    content: Any
    name: str
    class_attribute: str | None
    file: str = ""

    @property
    def stem(self) -> str:
        """The name of the image of a file that does not name one, without suffix."""
        return (self.name or self.file).rpartition(".")[0]


class DamagedError(Exception):
    """What differs from the format of the tool, in words; not a fault of the user's settings."""


_DAMAGE = (TypeError, AttributeError, IndexError, ArithmeticError, RecursionError)


@contextlib.contextmanager
def within(what: str) -> Iterator[None]:
    """Attribute errors inside to one part of the file."""
    before = f"{what}: " if what else ""
    try:
        yield
    except DamagedError as error:
        raise DamagedError(f"{before}{error}") from error
    except UserError as error:
        raise prefixed(what, error) if what else error from error
    except KeyError as error:
        raise DamagedError(f"{before}it has no '{printable(str(error.args[0]), 60)}'") from error
    except ValueError as error:  # errors of this module are already sentences
        raise DamagedError(f"{before}{printable(str(error), 200)}") from error
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {printable(str(error), 200)}"
        raise DamagedError(f"{before}a value in it has an unexpected type ({reason})") from error


def within_object(number: int, image: object = None) -> contextlib.AbstractContextManager[None]:
    """One object of a file, or of an image in it, counted from 1 in file order."""
    return within(f"object {number}" if image is None else f"object {number} of {quoted(image, 60)}")


def ellipse(x: float, y: float, across: float, down: float, degrees: float = 0.0) -> list[list[float]]:
    """A polygon that deviates from an ellipse by at most a twentieth of a pixel."""
    longest = max(abs(across), abs(down), _DEVIATION)
    count = min(720, max(12, math.ceil(math.pi / math.acos(max(0.0, 1 - _DEVIATION / longest)))))
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    turn = math.radians(degrees)
    along, aside = across * np.cos(angles), down * np.sin(angles)
    corners = [x + along * math.cos(turn) - aside * math.sin(turn), y + along * math.sin(turn) + aside * math.cos(turn)]
    return [np.stack(corners, axis=1).ravel().tolist()]


def run_lengths(patch: Patch, size_hw: tuple[int, int]) -> dict[str, Any]:
    """A mask in COCO's form.

    Raises:
        ValueError: it does not lie within its image.
    """
    top, left, mask = patch
    if not (0 <= top <= size_hw[0] - mask.shape[0] and 0 <= left <= size_hw[1] - mask.shape[1]):
        raise ValueError(
            f"a mask of {mask.shape[1]}x{mask.shape[0]} at x {left}, y {top} is not within its image of "
            f"{size_hw[1]}x{size_hw[0]} (width x height)"
        )
    return encode_patch(tight(patch), size_hw)


def patch_of(segmentation: Any, size_hw: tuple[int, int], where: str | None) -> Patch:
    """The mask of polygons or run lengths in COCO's form, before it is joined with others.

    Args:
        segmentation: polygons may extend beyond the image.
        size_hw: of the image.
        where: the file or image that is named where polygons lie mostly outside the image; None: they may (holes).

    Raises:
        UserError: coordinates that are NaN or farther away than any pixel.
    """
    if isinstance(segmentation, dict):
        return decode_patch(segmentation)
    polygons = [np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in polygons_of(segmentation)[0]]
    patch = polygons_to_patch(polygons, size_hw)
    corners = np.concatenate(polygons)
    extents = np.array([[*corners.min(axis=0), *corners.max(axis=0)]])
    if where is not None and lies_outside(extents, np.array(size_hw)).any():
        note(
            "files or images with polygons that lie mostly outside their image and are joined with a mask, or have "
            "holes; what is outside is cut off",
            f"'{where}'",
        )
    return patch


def without(patch: Patch, other: Patch) -> Patch:
    """The pixels of a mask that are not in another one."""
    top, left, mask = patch
    kept = mask.copy()
    rows = slice(max(other.top - top, 0), max(other.top + other.mask.shape[0] - top, 0))
    columns = slice(max(other.left - left, 0), max(other.left + other.mask.shape[1] - left, 0))
    window = kept[rows, columns]
    inner = other.mask[max(top - other.top, 0) :, max(left - other.left, 0) :][: window.shape[0], : window.shape[1]]
    window &= ~inner
    return Patch(top, left, kept)


def check_pixels(height: int, width: int) -> None:
    """Refuse a mask larger than any image that can be read, before it is unpacked."""
    limits.check_limit(
        "a mask has too many pixels:", height * width, limits.INPUT_PIXELS, "annotate the image in tiles"
    )


def united(shapes: Sequence[tuple[Any, Shape]], size_hw: tuple[int, int], where: str) -> list[Shape]:
    """The shapes; those of one class and group (not None) become one object, as in exports to COCO.

    Args:
        shapes: each preceded by its group.
        size_hw: of the image.
        where: the file or image, for notes.
    """
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
            patch = merged([patch_of(part.segmentation, size_hw, where) for part in parts])
            first = first._replace(segmentation=run_lengths(patch, size_hw))
        found.append(first)
    return found


def joined(rings: Sequence[Sequence[float]]) -> list[float]:
    """Outlines, in COCO's form, as one: lines of no width lead to all but the first, so that holes stay holes.

    COCO fills polygons by the even-odd rule, and the two directions of a line cancel out.
    """
    first, *others = rings
    path = list(first)
    for ring in others:
        path += [*first[:2], *ring, *ring[:2]]
    return [*path, *first[:2]] if others else path


def check_one_plane(file: str, planes: Mapping[tuple[int, ...], int], what: str, otherwise: str = "") -> None:
    """Refuse objects on several planes of a stack, which would be merged, and note those on another than the first.

    Args:
        file: that has them, for messages.
        planes: numbers of objects by their plane, counted from 1; 0: on all planes.
        what: the meaning of the numbers.
        otherwise: what to do if they are all on one plane.

    Raises:
        UserError: they belong to several planes.
    """
    found = sorted(plane for plane in planes if any(plane))
    if len(found) > 1:
        listed = ", ".join("/".join(map(str, plane)) for plane in found[:5])
        raise UserError(
            f"its objects belong to {len(found)} planes of a stack ({what}: {listed}{', ...' if found[5:] else ''}); "
            f"save each plane as an image with annotations of its own{otherwise}"
        )
    if found and any(number > 1 for number in found[0]):
        note(
            "files whose objects were outlined on another plane of a stack than the first, which is the one that is "
            "read (save that plane as an image)",
            f"'{file}' ({what}: {'/'.join(map(str, found[0]))})",
        )


def label_of(value: Any) -> str:
    """The class of a shape.

    Raises:
        ValueError: it is not text.
    """
    if not is_name(value):
        raise ValueError(f"it has {quoted(value, 40)} as its class; expected text")
    return str(value).strip()


def side_of(value: Any) -> int:
    """A side of an image in pixels; 0 where the file gives none, or an impossible one."""
    side = number(value) or 0.0
    return int(side) if 0 <= side <= limits.SIDE else 0


def stated_side(entry: dict[str, Any], key: str) -> int:
    """A side of the image that the coordinates of shapes refer to.

    Raises:
        ValueError: it is not a number of pixels.
    """
    side = side_of(entry[key])
    if not side:
        raise ValueError(f"'{key}' is {quoted(entry[key], 40)}; expected pixels of the image, 1 to {limits.SIDE:,}")
    return side


def flat(corners: Sequence[Any]) -> list[Any]:
    """Corners in COCO's form: x, y, x, y, ...

    Raises:
        ValueError: a corner does not have two values, which would shift all that follow.
    """
    for corner in corners:
        if not isinstance(corner, list) or len(corner) != 2:
            raise ValueError(f"a corner is {quoted(corner, 40)}; expected x and y")
    return [value for corner in corners for value in corner]


def mask_of_image(name: str, content: bytes) -> Bool[np.ndarray, "h w"]:
    """The mask of an image file: the opaque pixels or, without alpha, those that are not black."""
    with open_image(NamedBytes(name, content)) as image:
        pixels = np.asarray(image)
    if pixels.ndim == 2:
        return np.asarray(pixels > 0)
    return np.asarray(pixels[..., -1] > 0 if pixels.shape[2] in (2, 4) else pixels.any(axis=2))
