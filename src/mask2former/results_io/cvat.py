"""CVAT: annotations to upload into a task, in its format "CVAT for images 1.1"."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from mask2former.errors import UserError
from mask2former.ops.masks import Patch
from mask2former.results_io.writing import ImageNames, ListFile, filled
from mask2former.structures.categories import Categories
from mask2former.structures.results import Segmentation
from mask2former.text import quoted

__all__ = ["CvatFile", "cvat_runs"]

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class CvatFile(ListFile):
    """An XML file with a mask for each object, to upload into a task with the same images and labels.

    CVAT finds images by their names. The format cannot store scores.

    Args:
        path: where to write it; missing folders are created.
        categories: the classes of the model, listed as labels.
        names: image file names by image id; an image without one is named by its id.
    """

    closing = "</annotations>\n"

    def __init__(
        self, path: str | os.PathLike[str], categories: Categories, names: Mapping[int | str, str] | None = None
    ) -> None:
        super().__init__(path)
        self.names = ImageNames(names)
        for name in (*categories.names, *(names or {}).values()):
            _check_xml(name)
        labels = "".join(
            f"<label><name>{escape(item.name)}</name><color>#{bytes(item.color).hex()}</color><type>mask</type></label>"
            for item in categories
        )
        head = f"<version>1.1</version>\n<meta><task><labels>{labels}</labels></task></meta>\n"
        self.opening = f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n{head}'

    def add(self, image_id: int | str, result: Segmentation) -> None:
        """Append the masks of one image."""
        self.once(image_id)
        height, width = result.size_hw
        name = self.names[image_id]
        _check_xml(name)
        name = quoteattr(name)
        lines = [f'<image id="{self.count}" name={name} width="{width}" height="{height}">\n']
        for item in filled(result):
            left, top, right, bottom = item.box
            runs = ", ".join(map(str, cvat_runs(item.patch)))
            lines.append(
                f'  <mask label={quoteattr(item.name)} source="auto" occluded="0" rle="{runs}" left="{left}" '
                f'top="{top}" width="{right - left}" height="{bottom - top}" z_order="0"></mask>\n'
            )
        self.write("".join([*lines, "</image>\n"]))
        self.count += 1


def _check_xml(name: str) -> None:
    if _NOT_XML.search(name):
        raise UserError(f"{quoted(name)} has a character that XML cannot hold; rename it, or leave out this format")


def cvat_runs(patch: Patch) -> list[int]:
    """Run lengths of the box of a mask, row by row, background first."""
    flat = np.concatenate([[False], patch.mask.ravel(), [not patch.mask.flat[-1]]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(edges, prepend=0).tolist()
