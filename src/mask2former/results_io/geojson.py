"""GeoJSON: polygons with holes, as read by QuPath, QGIS and shapely."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from mask2former.documents import encode_json
from mask2former.files import write_whole
from mask2former.notes import note
from mask2former.results_io.writing import PlaceOf, ResultFolder, file_stem, filled, json_entries, unknown
from mask2former.structures.result_base import ResultItem
from mask2former.structures.results import Segmentation

__all__ = ["GeoJsonFiles"]

ToWorld = Callable[[Float64[np.ndarray, "N 2"]], Float64[np.ndarray, "N 2"]]
"""From pixels (x, y) to map coordinates; (0, 0) is the top left corner of the top left pixel."""


class GeoJsonFiles(ResultFolder):
    """A file ``X.geojson`` for each image: a FeatureCollection with a MultiPolygon for each mask.

    Outlines follow the edges of pixels, so that rasterising them gives the masks back. ``properties`` has ``id``,
    ``score``, ``area`` and, as in QuPath, ``objectType``, ``classification`` (name, colour) and ``measurements``.

    Args:
        path: the folder; created if it does not exist.
        to_world: to map coordinates; without it they are pixels, as QuPath expects.
        crs: the name of its reference system, for instance ``urn:ogc:def:crs:EPSG::32633``, which GIS programs read;
            map coordinates without one are marked with ``"crs": null``, so that they are not taken for pixels.
        place_of: returns where the image with an id is, which then takes precedence over these two; a note says so.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        to_world: ToWorld | None = None,
        crs: str | None = None,
        *,
        place_of: PlaceOf = unknown,
    ) -> None:
        super().__init__(path)
        self.to_world, self.crs, self.place_of = to_world, crs, place_of

    def add(self, image_id: int | str, result: Segmentation) -> None:
        """Write the file of one image."""
        self.once(image_id)
        to_world, crs = self.to_world, self.crs
        if (place := self.place_of(image_id)) is not None:
            to_world, crs = place.to_world, place.crs
            note("images with map coordinates, which are used in their GeoJSON", f"'{image_id}' ({crs or 'no EPSG'})")
        target = self.path / f"{file_stem(image_id)}.geojson"

        def write(file: Path) -> None:
            with file.open("w", encoding="utf-8") as stream:
                stream.writelines(_text(result, to_world, crs))

        write_whole(target, write)
        self.count += 1


def _text(result: Segmentation, to_world: ToWorld | None, crs: str | None) -> Iterator[str]:
    """The file, feature by feature: outlines as lists take many times the memory of their text."""
    system = None if crs is None else {"type": "name", "properties": {"name": crs}}
    head = {} if to_world is None and system is None else {"crs": system}
    yield encode_json({"type": "FeatureCollection", **head}).removesuffix("}") + ', "features": ['
    yield from json_entries(_feature(item, to_world) for item in filled(result))
    yield "]}\n"


def _feature(item: ResultItem, to_world: ToWorld | None) -> dict[str, Any]:
    geometry, area = item.geometry, item.area
    if to_world is not None:
        geometry["coordinates"] = [
            _turned([np.asarray(to_world(np.asarray(ring, dtype=np.float64))).tolist() for ring in polygon])
            for polygon in geometry["coordinates"]
        ]
    measured = {"area": area} if item.score is None else {"area": area, "score": item.score}
    return {
        "type": "Feature",
        "geometry": geometry,
        "properties": {
            "objectType": "annotation",
            "classification": {"name": item.name, "color": list(item.category.color)},
            "measurements": measured,
            "id": item.id,
            **measured,
        },
    }


def _turned(rings: list[list[list[float]]]) -> list[list[list[float]]]:
    """Rings of a polygon, the exterior counter-clockwise (RFC 7946); an axis that points north reverses them."""
    x, y = (np.asarray(rings[0]) - rings[0][0]).T  # products of map coordinates would lose the area of a few pixels
    is_clockwise = float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) < 0
    return [ring[::-1] for ring in rings] if is_clockwise else rings
