"""Cityscapes result files."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from mask2former.config import Task
from mask2former.results_io.writing import ServerFolder, file_stem, filled, png_of
from mask2former.structures.results import Instances

__all__ = ["CityscapesInstanceFiles"]


class CityscapesInstanceFiles(ServerFolder):
    """Cityscapes instance results: ``NAME_pred.txt`` per image, and a black and white PNG file per object beside it.

    Each line is the name of the PNG file, the label id and the score. Empty masks are left out. The text file comes
    last. ``NAME`` is the id of the image, which for Cityscapes is ``city_sequence_frame``.

    Args:
        path: the folder; created if it does not exist.
        category_ids: label ids by class index of the model; classes that are missing here are left out.
    """

    task: ClassVar[Task] = "instance"

    def add(self, image_id: int | str, result: Instances) -> None:
        """Write the instances of one image."""
        self.once(image_id)
        stem = file_stem(image_id)
        lines = []
        for item in filled(result):
            if (number := self.category_ids.get(item.label)) is not None:
                image = f"{stem}_{len(lines):03d}_{number}.png"
                self.write(image, png_of(item.mask.astype(np.uint8) * np.uint8(255)))
                lines.append(f"{Path(image).name} {number} {item.score!r}\n")
        text = "".join(lines)
        self.write(f"{stem}_pred.txt", lambda file: file.write_text(text, encoding="utf-8"))
        self.count += len(lines)
