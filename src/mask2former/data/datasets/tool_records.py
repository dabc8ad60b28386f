"""What parsers of annotation tools make: records of images, their shapes in COCO's form, errors that name the part."""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from mask2former import limits
from mask2former.data.datasets.annotation_files import is_name, number
from mask2former.errors import UserError, prefixed
from mask2former.media.image_files import NamedBytes, open_image
from mask2former.ops.masks import Patch, decode_patch, encode_patch, merged, polygons_to_patch, tight
from mask2former.text import printable, quoted

__all__ = [
    "DamagedError",
    "Record",
    "Shape",
    "Source",
    "check_pixels",
    "ellipse",
    "flat",
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


class Source(NamedTuple):
    """A file that was read.

    Attributes:
        content: of JSON the value, of XML the root.
        name: what it is called below the folder of annotations; nothing where it was named itself.
        class_attribute: the choice of the user.
    """

    content: Any
    name: str
    class_attribute: str | None


class DamagedError(Exception):
    """What is not as the tool writes it, in words; a mistake of the tool or of a hand, not of the user's choice."""


_DAMAGE = (TypeError, AttributeError, IndexError, ArithmeticError, RecursionError)


@contextlib.contextmanager
def within(what: str) -> Iterator[None]:
    """Whatever goes wrong inside is said of one part of the file."""
    before = f"{what}: " if what else ""
    try:
        yield
    except DamagedError as error:
        raise DamagedError(f"{before}{error}") from error
    except UserError as error:
        raise prefixed(what, error) if what else error from error
    except KeyError as error:
        raise DamagedError(f"{before}it has no '{printable(str(error.args[0]), 60)}'") from error
    except ValueError as error:  # those of this module are sentences
        raise DamagedError(f"{before}{printable(str(error), 200)}") from error
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {printable(str(error), 200)}"
        raise DamagedError(f"{before}something in it has an unexpected type ({reason})") from error


def within_object(number: int, image: object = None) -> contextlib.AbstractContextManager[None]:
    """One object of a file, or of an image in it, counted from 1 in the order of the file."""
    return within(f"object {number}" if image is None else f"object {number} of {quoted(image, 60)}")


def ellipse(x: float, y: float, across: float, down: float, degrees: float = 0.0) -> list[list[float]]:
    """A polygon that lies a twentieth of a pixel off an ellipse, at most."""
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
        ValueError: it does not lie in its image.
    """
    top, left, mask = patch
    if not (0 <= top <= size_hw[0] - mask.shape[0] and 0 <= left <= size_hw[1] - mask.shape[1]):
        raise ValueError(
            f"a mask of {mask.shape[1]}x{mask.shape[0]} at x {left}, y {top} is not within its image of "
            f"{size_hw[1]}x{size_hw[0]} (width x height)"
        )
    return encode_patch(tight(patch), size_hw)


def patch_of(segmentation: Any, size_hw: tuple[int, int]) -> Patch:
    """The mask of polygons or run lengths in COCO's form."""
    if isinstance(segmentation, dict):
        return decode_patch(segmentation)
    return polygons_to_patch([np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in segmentation], size_hw)


def without(patch: Patch, other: Patch) -> Patch:
    """The pixels of a mask that another one does not have."""
    top, left, mask = patch
    kept = mask.copy()
    rows = slice(max(other.top - top, 0), max(other.top + other.mask.shape[0] - top, 0))
    columns = slice(max(other.left - left, 0), max(other.left + other.mask.shape[1] - left, 0))
    window = kept[rows, columns]
    inner = other.mask[max(top - other.top, 0) :, max(left - other.left, 0) :][: window.shape[0], : window.shape[1]]
    window &= ~inner
    return Patch(top, left, kept)


def check_pixels(height: int, width: int) -> None:
    """Refuse a mask that no image that is read could have, before it is unpacked."""
    limits.check_limit("a mask has pixels:", height * width, limits.INPUT_PIXELS, "annotate the image in tiles")


def united(shapes: Sequence[tuple[Any, Shape]], size_hw: tuple[int, int]) -> list[Shape]:
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
            patch = merged([patch_of(part.segmentation, size_hw) for part in parts])
            first = first._replace(segmentation=run_lengths(patch, size_hw))
        found.append(first)
    return found


def label_of(value: Any) -> str:
    """The class of a shape.

    Raises:
        ValueError: it is no text.
    """
    if not is_name(value):
        raise ValueError(f"it has {quoted(value, 40)} as its class; expected text")
    return str(value).strip()


def side_of(value: Any) -> int:
    """A side of an image in pixels; 0 where the file says none that could be."""
    side = number(value) or 0.0
    return int(side) if 0 <= side <= limits.SIDE else 0


def stated_side(entry: dict[str, Any], key: str) -> int:
    """A side of the image that shapes are computed with.

    Raises:
        ValueError: it is no number of pixels.
    """
    side = side_of(entry[key])
    if not side:
        raise ValueError(f"'{key}' is {quoted(entry[key], 40)}; expected pixels of the image, 1 to {limits.SIDE:,}")
    return side


def flat(corners: Sequence[Any]) -> list[Any]:
    """Corners as COCO has them: x, y, x, y, ...

    Raises:
        ValueError: one has another number of values, which would move all that come after it.
    """
    for corner in corners:
        if not isinstance(corner, list) or len(corner) != 2:
            raise ValueError(f"a corner is {quoted(corner, 40)}; expected x and y")
    return [value for corner in corners for value in corner]


def mask_of_image(name: str, content: bytes) -> Bool[np.ndarray, "h w"]:
    """The mask of an image file: what is opaque, or where there is no alpha, what is not black."""
    with open_image(NamedBytes(name, content)) as image:
        pixels = np.asarray(image)
    if pixels.ndim == 2:
        return np.asarray(pixels > 0)
    return np.asarray(pixels[..., -1] > 0 if pixels.shape[2] in (2, 4) else pixels.any(axis=2))
