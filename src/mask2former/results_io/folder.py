"""A folder of label maps."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from mask2former.config import Task
from mask2former.errors import UserError
from mask2former.results_io.writing import ServerFolder, file_stem, png_of
from mask2former.structures.results import SemanticSegmentation

__all__ = ["LARGEST_LABEL", "LabelMapFiles"]

LARGEST_LABEL = 65535
"""The largest number in 16 bits."""


class LabelMapFiles(ServerFolder):
    """A PNG file of data-set ids per image; 8 bits, or 16 where an id needs them.

    For Cityscapes these are label ids, not train ids.

    Args:
        path: the folder; created if it does not exist.
        category_ids: of the data set, by class index of the model.
        no_class: the value of pixels without a class, and of classes that are missing in ``category_ids``.

    Raises:
        UserError: an id does not fit in 16 bits.
    """

    task: ClassVar[Task] = "semantic"

    def __init__(self, path: str | os.PathLike[str], category_ids: Mapping[int, int], no_class: int) -> None:
        super().__init__(path, category_ids)
        if wrong := [number for number in (*category_ids.values(), no_class) if not 0 <= number <= LARGEST_LABEL]:
            raise UserError(
                f"label maps can hold numbers from 0 to {LARGEST_LABEL}, got the class id {wrong[0]}; write run "
                "lengths instead (a name that ends in .json)"
            )
        # Ids by class index; the last one is for no class.
        self.table = np.full(max(self.category_ids, default=-1) + 2, no_class, dtype=np.int64)
        self.table[list(self.category_ids)] = list(self.category_ids.values())

    def add(self, image_id: int | str, result: SemanticSegmentation) -> None:
        """Write the label map of one image."""
        self.once(image_id)
        ids = self.table[np.minimum(result.labels, len(self.table) - 1)]
        kind = np.uint16 if self.table.max() > 255 else np.uint8
        self.write(f"{file_stem(image_id)}.png", png_of(ids.astype(kind)))
        self.count += 1
