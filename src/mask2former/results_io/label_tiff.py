"""Label images as TIFF, which ImageJ, napari, CellProfiler and tifffile read."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from PIL import Image

from mask2former.files import write_whole
from mask2former.notes import note
from mask2former.results_io.writing import PlaceOf, ResultFolder, file_stem, unknown
from mask2former.structures.result_base import SOFTWARE
from mask2former.structures.results import Instances, PanopticSegmentation, Segmentation

__all__ = ["LabelTiffFiles"]


class LabelTiffFiles(ResultFolder):
    """``X.tif`` for each image: 0 is nothing, instances are counted from 1, the best first, segments have their ids.

    In semantic segmentation a pixel is its class index plus 1. 16 bits, or 32 where a number needs them. Where
    instances overlap, the one with the higher score is kept; a note counts the images.

    Args:
        path: the folder; created if it does not exist.
        place_of: returns where the image with an id is, which its label image then stores, as a GeoTIFF.
    """

    def __init__(self, path: str | os.PathLike[str], *, place_of: PlaceOf = unknown) -> None:
        super().__init__(path)
        self.place_of = place_of

    def add(self, image_id: int | str, result: Segmentation) -> None:
        """Write the label image of one image."""
        self.once(image_id)
        if isinstance(result, Instances):
            values = result.sparse.numbered()
            if np.count_nonzero(values) < int(result.sparse.areas.sum()):
                note(
                    "images whose instances overlap, which a label image cannot show: the one with the higher "
                    "score is kept",
                    str(image_id),
                )
        elif isinstance(result, PanopticSegmentation):
            values = result.ids
        else:
            values = np.where(result.labels < len(result.categories), result.labels + 1, 0)
        image = Image.fromarray(values.astype(np.uint16 if values.max(initial=0) < 1 << 16 else np.int32))
        target = self.path / f"{file_stem(image_id)}.tif"
        place = self.place_of(image_id)
        options: dict[str, Any] = {"compression": "tiff_adobe_deflate", "software": SOFTWARE}
        options |= {} if place is None else {"tiffinfo": place.tiff_tags()}
        write_whole(target, lambda file: image.save(file, "TIFF", **options))
        self.count += 1
