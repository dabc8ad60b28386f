"""Regions of interest of ImageJ: ``X.roi``, or a zip file of them, as its ROI manager, Cellpose and we write them.

Sources: the layout in ImageJ's ``ij.io.RoiDecoder`` (public domain). Reads no image files.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mask2former import limits
from mask2former.data.datasets.tool_records import (
    Record,
    Shape,
    Source,
    check_one_plane,
    ellipse,
    joined,
    within,
)
from mask2former.documents import read_bytes
from mask2former.errors import UserError
from mask2former.media.archives import ArchivedFile, File, find_folder
from mask2former.notes import note
from mask2former.text import printable, quoted

__all__ = ["ROI_ENDINGS", "RoiFile", "is_roi_file", "parse_rois", "read_rois"]

ROI_ENDINGS = ("_rois", "_roi", "_RoiSet", "-RoiSet", "_ROIs")
"""What programs append to the name of the image."""

_SUFFIX = ".roi"
_HEADER = struct.Struct(">4s h B x 4h H 4f 2x i 10x h 4x 2i")
_MORE = struct.Struct(">4x 3i 14x B")  # of the second header: the position in a stack, and the group
_POLYGON, _RECTANGLE, _OVAL, _FREEHAND, _TRACED = 0, 1, 2, 7, 8
_KINDS = ("polygon", "rectangle", "oval", "line", "freeline", "polyline", "no roi", "freehand", "traced", "angle")
_SPLINE, _SUBPIXEL = 1, 128  # options
_FIRST_SUBPIXEL = 222, 223  # versions with exact coordinates of polygons, and of ovals
_LOWEST = -5000  # coordinate in 16 bits; what is below is one above 32,767, as ImageJ reads it
_CURVE_STEPS = 16
# Of a region of a stack that has no name of its own: slice, y and x. ImageJ stores the slice only there, unless it
# associates positions, and takes it from there.
_SLICE_IN_NAME = re.compile(r"(\d{4}|\d{5}|\d{6})-\d{4,6}-\d{4,6}(?!\d)")
_NUMBERS = {0: 2, 1: 2, 2: 4, 3: 6, 4: 0}  # of a step in an outline of several parts: move, line, curves, close


class RoiFile(NamedTuple):
    """The content of a file: the regions by name, in the order of the file."""

    regions: dict[str, bytes]


class _Region(NamedTuple):
    segmentation: list[list[float]] | None
    kind: str
    group: int
    plane: tuple[int, ...]


def read_rois(file: File) -> RoiFile:
    """The regions of a ``.roi`` or ``.zip`` file; an empty zip file, as ``predict`` writes it, has none.

    Raises:
        UserError: it is missing, damaged or too large, or holds only other files.
    """
    if file.name.lower().endswith(_SUFFIX):
        return RoiFile({file.name: read_bytes(file, "region of ImageJ", limits.REGION_BYTES)})
    folder = find_folder(file) if isinstance(file, Path) else None
    if folder is None:
        raise UserError(f"there is no zip file of regions '{file}'; check the path, and unpack outer archives")
    names = folder.names((_SUFFIX,))
    if not names and not (folder.archive is not None and folder.archive.is_empty):
        raise UserError(f"'{file}' contains no regions of ImageJ ({_SUFFIX}); check the file")
    files = {name: folder / name for name in names}
    # Together, before any is read: a zip file of some megabytes can hold thousands of large ones.
    size = sum(region.num_bytes for region in files.values() if isinstance(region, ArchivedFile))
    limits.check_limit(
        f"the regions in '{file}' have too many bytes:", size, limits.REGIONS_BYTES, "is it the right file?"
    )
    return RoiFile(
        {name: read_bytes(region, "region of ImageJ", limits.REGION_BYTES) for name, region in files.items()}
    )


def is_roi_file(content: Any) -> bool:
    """Whether content is that of a file of regions."""
    return isinstance(content, RoiFile)


def parse_rois(source: Source) -> Iterator[Record]:
    """The regions of a file, as the objects of the image with its name.

    ImageJ has no classes: regions are of the class ``object``, or ``group N`` if they are in a group (noted).

    Raises:
        UserError: regions belong to several planes of a stack.
        DamagedError: something differs from what ImageJ writes.
    """
    content: RoiFile = source.content
    regions = []
    for name, data in content.regions.items():
        with within(f"region {quoted(name, 60)}"):
            region = _region(data, source.file)
            if not any(region.plane) and name != source.file and (stated := _SLICE_IN_NAME.match(Path(name).name)):
                region = region._replace(plane=(int(stated[1]),))
            regions.append(region)
    check_one_plane(
        source.file,
        Counter(region.plane for region in regions),
        "z and t, or the slice",
        ", or, if these are channels of one plane, remove the slices in the ROI manager (More, Remove Positions)",
    )
    numbers = Counter(region.group for region in regions)
    alone = numbers.pop(0, 0)
    if groups := ", ".join(map(str, sorted(numbers))):
        note(
            "files of ImageJ with groups of regions, each of which is read as a class (group N)",
            f"'{source.file}' ({groups})",
        )
    if groups and alone:  # those that were drawn beside the regions of a prediction
        note(
            "files of ImageJ with regions in no group beside those of groups, which are read as another class, "
            "'object' (if they belong to one, set their group in the properties of the ROI manager)",
            f"'{source.file}' ({alone} in no group, groups {groups})",
        )
    shapes = [
        Shape(f"group {region.group}" if region.group else "object", region.segmentation, region.kind)
        for region in regions
    ]
    yield Record(source.stem, (0, 0), shapes, source.name or source.file)


def _region(data: bytes, file: str) -> _Region:
    try:
        mark, version, kind, top, left, bottom, right, count, *floats, path, options, index, more = _HEADER.unpack_from(
            data
        )
        if mark != b"Iout":
            raise ValueError(f"it begins with {quoted(mark.decode('latin-1'), 20)}; expected Iout")
        channel, z, t, group = _MORE.unpack_from(data, more) if more > 0 else (0, 0, 0, 0)
        top, left, bottom, right = _coordinates(np.array([top, left, bottom, right])).tolist()
        plane = (z, t) if channel or z or t else (index,)  # all channels of a plane show the same objects
        word = _KINDS[kind] if kind < len(_KINDS) else "point" if kind == len(_KINDS) else f"kind {kind}"
        if path > 0:
            rings = _path(_values(data, ">f4", path, 64))
            return _Region([joined([ring.ravel().tolist() for ring in rings])], "composite", group, plane)
        if kind == _OVAL:
            x, y, width, height = float(left), float(top), float(right - left), float(bottom - top)
            if options & _SUBPIXEL and version >= _FIRST_SUBPIXEL[1]:
                x, y, width, height = floats
            rings = ellipse(x + width / 2, y + height / 2, width / 2, height / 2)
            return _Region(rings, word, group, plane)
        if kind not in (_POLYGON, _FREEHAND, _TRACED):
            return _Region(None, word, group, plane)
        if not count:  # does not fit into 16 bits
            count = struct.unpack_from(">i", data, 18)[0]
        if count < 0:
            raise ValueError(f"it has {count} corners; expected a positive number")
        if options & _SPLINE:
            note(
                "files of ImageJ with regions fitted to a spline, whose corners are joined by straight lines (in "
                "ImageJ, 'Edit > Selection > Interpolate' and 'Update' store the curve)",
                f"'{file}'",
            )
        if options & _SUBPIXEL and version >= _FIRST_SUBPIXEL[0]:
            corners = _values(data, ">f4", 2 * count, 64 + 4 * count)
        else:
            corners = _coordinates(_values(data, ">i2", 2 * count, 64)) + np.repeat([left, top], count)
    except struct.error as error:
        raise ValueError(f"it is cut short ({len(data)} bytes)") from error
    return _Region([corners.reshape(2, count).T.ravel().tolist()], printable(word, 40), group, plane)


def _values(data: bytes, kind: str, count: int, offset: int) -> np.ndarray:
    """Numbers of an outline.

    Raises:
        struct.error: the data end before.
    """
    if offset + count * np.dtype(kind).itemsize > len(data):
        raise struct.error("too few bytes")
    return np.frombuffer(data, kind, count, offset).astype(np.float64)


def _coordinates(values: np.ndarray) -> np.ndarray:
    """Those that were stored in 16 bits, of which images may have more than 32,767."""
    return values + (values < _LOWEST) * (1 << 16)


def _path(steps: np.ndarray) -> list[np.ndarray]:
    """The outlines of a region of several parts or with holes, each (N, 2)."""
    rings: list[list[Sequence[float]]] = []
    index = 0
    while index < len(steps):
        kind = steps[index].item()
        if kind not in _NUMBERS or index + 1 + _NUMBERS[kind] > len(steps) or (kind and not rings):
            raise ValueError(f"its outline has an unknown step, {kind:g}")
        points = steps[index + 1 : index + 1 + _NUMBERS[kind]].reshape(-1, 2)
        index += 1 + _NUMBERS[kind]
        if kind == 0:
            rings.append([points[0].tolist()])
        elif kind == 1:
            rings[-1].append(points[0].tolist())
        elif len(points):
            rings[-1] += _curve(np.array([rings[-1][-1], *points])).tolist()
    found = [np.array(ring) for ring in rings if len(ring) > 2]
    if not found:
        raise ValueError("its outline has fewer than three corners")
    return found


def _curve(points: np.ndarray) -> np.ndarray:
    """Points on a Bezier curve after its first one, by repeated interpolation."""
    share = np.linspace(0, 1, _CURVE_STEPS + 1)[1:, None, None]
    levels = np.broadcast_to(points, (_CURVE_STEPS, *points.shape))
    while levels.shape[1] > 1:
        levels = levels[:, :-1] * (1 - share) + levels[:, 1:] * share
    return levels[:, 0]
