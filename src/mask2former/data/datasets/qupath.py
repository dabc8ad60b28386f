"""GeoJSON as QuPath exports it, and as ``predict --also geojson`` writes it: one file for each image.

Sources: RFC 7946 and QuPath's documentation of its export. Reads no image files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from mask2former.data.datasets.annotation_files import is_name
from mask2former.data.datasets.tool_records import (
    Record,
    Shape,
    Source,
    check_one_plane,
    flat,
    joined,
    label_of,
    within_object,
)
from mask2former.errors import UserError
from mask2former.notes import note
from mask2former.text import quoted

__all__ = ["is_geojson", "parse_geojson"]

# Of QuPath's kinds: grids, which outline nothing; the long names are those of 0.2.
_NO_OBJECTS = ("root", "tile", "tma_core", "tmaCore", "PathRootObject", "PathTileObject", "TMACoreObject")


def parse_geojson(source: Source) -> Iterator[Record]:
    """The features of a file, as the objects of the image with its name.

    Raises:
        UserError: coordinates are not pixels, or objects belong to several planes of a stack.
        DamagedError: something differs from GeoJSON.
    """
    content = source.content
    if isinstance(content, dict) and "crs" in content:  # null: of a map without a known reference system
        raise UserError(
            "its coordinates refer to a map ('crs'), not to pixels; export them in pixels of the image, or export COCO "
            "(if they are pixels, remove 'crs')"
        )
    features = content
    if isinstance(content, dict):
        features = content["features"] if content["type"] == "FeatureCollection" else [content]
    shapes, planes, unnamed = [], Counter[tuple[int, ...]](), 0
    for position, feature in enumerate(_each(features), start=1):
        with within_object(position):
            properties = feature.get("properties") or {}
            # As in QuPath from 0.4 on, in 0.3, and in 0.2, where others have an id of their own.
            kind = properties.get("objectType") or properties.get("object_type") or feature.get("id")
            if kind in _NO_OBJECTS:
                note("GeoJSON files with tiles or cores, which are no objects", f"'{source.file}' ({kind})")
                continue
            if feature.get("nucleusGeometry") is not None:
                note("GeoJSON files whose cells have a nucleus, which is not read", f"'{source.file}'")
            label = _label(properties)
            geometry = feature["geometry"]
            shapes.append(_shape(geometry, label or "object"))
            unnamed += label is None
            plane = geometry.get("plane") or {}
            planes[int(plane.get("z", 0)) + 1, int(plane.get("t", 0)) + 1] += 1
    check_one_plane(source.file, planes, "z and t")
    if unnamed:
        note("GeoJSON files with objects without a class, which are read as 'object'", f"'{source.file}' ({unnamed})")
    yield Record(source.stem, (0, 0), shapes, source.name or source.file)


def _each(features: Any) -> Iterator[dict[str, Any]]:
    """The features and, after each, those inside it, as scripts of QuPath export its hierarchy of objects."""
    waiting = [*reversed(features)]
    while waiting:
        yield (feature := waiting.pop())
        waiting += reversed((feature.get("properties") or {}).get("childObjects") or [])


def _label(properties: dict[str, Any]) -> str | None:
    """The class of an object; None: it has none."""
    given = properties.get("classification")
    if isinstance(given, dict):
        names = given.get("names")  # of derived classes, from QuPath 0.5 on
        given = given.get("name") or (": ".join(map(str, names)) if isinstance(names, list) else None)
    return label_of(given) if is_name(given) else None


def _shape(geometry: dict[str, Any], label: str) -> Shape:
    kind = geometry["type"]
    if kind not in ("Polygon", "MultiPolygon"):
        return Shape(label, None, str(kind)[:40])
    parts = geometry["coordinates"] if kind == "MultiPolygon" else [geometry["coordinates"]]
    if not all(isinstance(rings, list) and rings for rings in parts):
        raise ValueError(f"its coordinates are {quoted(parts, 40)}; expected an outline for each of its parts")
    return Shape(label, [joined([flat(ring) for ring in rings]) for rings in parts], kind)


def is_geojson(content: Any) -> bool:
    """Whether the content of a JSON file is a feature, a list of features or a collection of them, also of none."""
    if content == []:
        return True
    first = content[0] if isinstance(content, list) and content else content
    if not isinstance(first, dict):
        return False
    if first.get("type") == "FeatureCollection":
        return isinstance(content, dict) and isinstance(first.get("features"), list)
    return first.get("type") == "Feature" and isinstance(first.get("geometry"), dict)
