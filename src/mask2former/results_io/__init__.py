"""Result files: one module per format, which writes it and, where supported, reads it.

A writer receives one result after the other inside a ``with`` block. Files that list results appear completely when the
block ends without an error, else not at all; images appear completely one by one. Class ids are those of the data set.
Nothing here knows how results are made; any object with the methods of :class:`ResultWriter` can be used in place of
one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mask2former.config import MetricStyle, Task
from mask2former.errors import UserError
from mask2former.results_io.cityscapes import CityscapesInstanceFiles
from mask2former.results_io.coco import PanopticFiles, ResultsFile, SemanticFile
from mask2former.results_io.folder import LARGEST_LABEL, LabelMapFiles
from mask2former.results_io.writing import ResultWriter
from mask2former.results_io.youtube_vis import TracksFile
from mask2former.structures.categories import Categories

__all__ = [
    "CityscapesInstanceFiles",
    "LabelMapFiles",
    "PanopticFiles",
    "ResultWriter",
    "ResultsFile",
    "SemanticFile",
    "TracksFile",
    "result_writer",
]


def result_writer(
    task: Task,
    path: str | os.PathLike[str],
    categories: Categories,
    *,
    category_ids: Mapping[int, int] | None = None,
    style: MetricStyle = "coco",
) -> ResultWriter:
    """The writer for one task in the form that a data set's test server accepts.

    ===========  ============================================  =====================================================
    task         coco                                          cityscapes
    ===========  ============================================  =====================================================
    panoptic     ``X.json`` and the folder ``X`` of PNG files  the same
    instance     ``X.json``                                    a folder with a text file per image and a PNG file
                                                               per object
    semantic     ``X.json`` (run lengths), or a folder of      a folder of label maps
                 label maps if ``path`` does not end in
                 ``.json``
    ===========  ============================================  =====================================================

    For ``youtube-vis`` instances are tracks, in ``X.json`` (:class:`TracksFile`).

    Args:
        task: what the results are.
        path: a file ending in ``.json``, or a folder.
        categories: the classes of the model.
        category_ids: of the data set, by class index of the model; classes that are missing here are left out. By
            default the ids of ``categories``.
        style: the test server's format.

    Raises:
        UserError: a folder where a file is needed, or the reverse.
    """
    ids = {index: item.id for index, item in enumerate(categories)} if category_ids is None else dict(category_ids)
    target = Path(path)
    is_json = target.suffix == ".json"
    needs_folder = style == "cityscapes" and task != "panoptic"
    if needs_folder and is_json:
        raise UserError(f"{task} results for {style} are a folder of files, got '{target}'; leave out .json")
    if not needs_folder and not is_json and task != "semantic":
        raise UserError(f"{task} results are a JSON file, got '{target}'; expected a name that ends in .json")
    if task == "panoptic":
        return PanopticFiles(target, ids)
    if task == "instance":
        if style == "youtube-vis":
            return TracksFile(target, ids)
        return CityscapesInstanceFiles(target, ids) if needs_folder else ResultsFile(target, ids)
    if is_json:
        return SemanticFile(target, ids)
    free = (value for value in (categories.ignore_label, 255, LARGEST_LABEL) if value not in ids.values())
    no_class = 0 if needs_folder else next(free, min(set(range(len(ids) + 1)) - set(ids.values())))
    return LabelMapFiles(target, ids, no_class=no_class)
