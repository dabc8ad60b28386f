"""Masks as black and white images, one for each class."""

from __future__ import annotations

import os
import re
from collections import Counter

import numpy as np

from mask2former.files import write_whole
from mask2former.results_io.writing import ResultFolder, file_stem, png_of
from mask2former.structures.categories import Categories
from mask2former.structures.results import Segmentation

__all__ = ["ClassMaskFiles", "file_names"]


class ClassMaskFiles(ResultFolder):
    """``X/CLASS.png`` for each class in an image: 255 where any of its masks is, else 0.

    Args:
        path: the folder; created if it does not exist.
        categories: the classes of the model, which name the files.
    """

    def __init__(self, path: str | os.PathLike[str], categories: Categories) -> None:
        super().__init__(path)
        self.names = file_names(categories)

    def add(self, image_id: int | str, result: Segmentation) -> None:
        """Write the masks of one image; those of an earlier result are removed."""
        self.once(image_id)
        folder = self.path / file_stem(image_id)
        for old in folder.glob("*.png"):
            old.unlink()
        of_class: dict[int, np.ndarray] = {}
        for item in result:
            if item.label not in of_class:
                of_class[item.label] = np.zeros(result.size_hw, dtype=np.uint8)
            top, left, mask = item.patch
            of_class[item.label][top : top + mask.shape[0], left : left + mask.shape[1]][mask] = 255
        for label, plane in of_class.items():
            write_whole(folder / f"{self.names[label]}.png", png_of(plane))
        self.count += len(of_class)


def file_names(categories: Categories) -> list[str]:
    """A file name for each class: letters, digits and ``_.-``, with the index where two would be equal."""
    words = [re.sub(r"[^\w.-]+", "_", name)[:80].encode()[:200].decode(errors="ignore") for name in categories.names]
    words = [word.strip(".") or "class" for word in words]
    counts = Counter(word.casefold() for word in words)
    taken, names = set(counts), []
    for index, word in enumerate(words):
        name = word
        if counts[word.casefold()] > 1:
            name = f"{word}_{index}"
            while name.casefold() in taken:
                name += "_"
            taken.add(name.casefold())
        names.append(name)
    return names
