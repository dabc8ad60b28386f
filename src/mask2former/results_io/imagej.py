"""Regions of interest of ImageJ: a zip file for each image."""

from __future__ import annotations

import io
import os
import re
import zipfile
from typing import Any

import numpy as np

from mask2former.extras import need
from mask2former.files import write_whole
from mask2former.results_io.writing import ResultFolder, file_stem, filled
from mask2former.structures.result_base import ResultItem
from mask2former.structures.results import Segmentation

__all__ = ["RoiFiles"]

_LARGEST_GROUP = 255


class RoiFiles(ResultFolder):
    """``X.zip`` for each image, which ImageJ's ROI manager and roifile open: a polygon for each mask, or a composite.

    A mask with holes or of several parts is a composite of its outlines. Names are ``0001-class`` and property lists
    hold ``score``. If there are several classes, the group is the class index plus 1 up to 255, whose colour ImageJ
    shows instead of that of the class.

    Args:
        path: the folder; created if it does not exist.

    Raises:
        MissingExtraError: roifile is not installed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        need("imagej", "roifile", to="write regions of ImageJ")
        import roifile

        self._roifile = roifile

    def add(self, image_id: int | str, result: Segmentation) -> None:
        """Write the regions of one image."""
        self.once(image_id)
        # Regions that are drawn in ImageJ have no group, so that with one class they are of this class.
        has_groups = len(result.categories) > 1
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for item in filled(result):
                roi = self._roi(item, has_groups)
                archive.writestr(zipfile.ZipInfo(f"{roi.name}.roi"), roi.tobytes())
        content = stream.getvalue()
        write_whole(self.path / f"{file_stem(image_id)}.zip", lambda file: file.write_bytes(content))
        self.count += 1

    def _roi(self, item: ResultItem, has_group: bool) -> Any:
        rings = [ring for polygon in item.polygons for ring in polygon]
        roi = self._roifile.ImagejRoi.frompoints(rings[0])
        roi.roitype = self._roifile.ROI_TYPE.POLYGON
        if len(rings) > 1:  # moves (0), lines (1) and closings (4), as in java.awt; ImageJ fills by the even-odd rule
            path: list[int] = []
            for ring in rings:
                for index, (x, y) in enumerate(ring.tolist()):
                    path += [min(index, 1), x, y]
                path.append(4)
            roi.roitype, roi.n_coordinates, roi.integer_coordinates = self._roifile.ROI_TYPE.RECT, 0, None
            roi.multi_coordinates, roi.shape_roi_size = np.array(path, dtype=np.float32), len(path)
            roi.left, roi.top, roi.right, roi.bottom = item.box
        word = re.sub(r"[^\w.-]+", "_", item.name)
        roi.name = f"{item.id:04d}-{word}"
        roi.group = item.label + 1 if has_group and item.label < _LARGEST_GROUP else 0
        roi.stroke_color = bytes((255, *item.category.color))
        if item.score is not None:
            roi.props = f"score: {item.score!r}\n"
        return roi
