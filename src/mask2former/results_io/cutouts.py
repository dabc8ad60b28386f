"""Objects cut out of their image."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from mask2former.files import write_whole
from mask2former.ops.masks import Patch
from mask2former.pixels import ArrayRegions, displayed
from mask2former.results_io.class_masks import file_names
from mask2former.results_io.writing import ReadImage, ResultFolder, file_stem, filled, png_of
from mask2former.structures.categories import Categories
from mask2former.structures.results import Segmentation

__all__ = ["CutoutFiles"]


class CutoutFiles(ResultFolder):
    """``X/0001_CLASS.png`` for each mask: the image inside its box, transparent outside the mask.

    Args:
        path: the folder; created if it does not exist.
        categories: the classes of the model, which name the files.
        read: returns the image with an id.
    """

    def __init__(self, path: str | os.PathLike[str], categories: Categories, read: ReadImage) -> None:
        super().__init__(path)
        self.names, self.read = file_names(categories), read

    def add(self, image_id: int | str, result: Segmentation) -> None:
        """Write the cut-outs of one image; those of an earlier result are removed."""
        self.once(image_id)
        folder, image = self.path / file_stem(image_id), self.read(image_id)
        parts = ArrayRegions(image) if isinstance(image, np.ndarray) else image
        for old in folder.glob("*.png"):
            old.unlink()
        # From top to bottom: an image that is read in parts keeps what it decoded last.
        for item in sorted(filled(result), key=lambda item: item.patch[:2]):
            left, top, right, bottom = item.box
            pixels = displayed(parts.read(top, left, bottom, right))
            alone = replace(item, patch=Patch(0, 0, item.patch.mask), size_hw=(bottom - top, right - left))
            name = f"{item.id:04d}_{self.names[item.label]}.png"
            write_whole(folder / name, png_of(np.asarray(alone.cutout(pixels))))
            self.count += 1
