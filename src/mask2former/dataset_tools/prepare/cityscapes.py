"""Cityscapes: panoptic files, which are not read here but required by its official tool for panoptic quality.

Reads ``*_instanceIds.png`` of ``cityscapes/gtFine/{split}/{city}``. Writes ``cityscapes_panoptic_{split}`` in
``cityscapes/gtFine``, as ``.json`` and as a folder, as the data set's own ``createPanopticImgs`` does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mask2former.data.label_maps import colors_of_ids, read_label_map
from mask2former.dataset_tools.prepare.stages import (
    Index,
    Job,
    Plan,
    Stage,
    images_in,
    panoptic_index,
    planned,
    save_image,
)
from mask2former.errors import UserError
from mask2former.ops.masks import Patch, tight

__all__ = ["plan"]

_OFFICIAL = {"train": 2_975, "val": 500}
_SUFFIX = "_gtFine_instanceIds.png"


def plan(root: Path) -> Plan:
    """Panoptic files of the splits with public annotations.

    Raises:
        UserError: no split exists.
    """
    folder = root / "cityscapes" / "gtFine"
    stages, notes = [], []
    for split, official in _OFFICIAL.items():
        sources = list(images_in(folder / split, _SUFFIX))
        if not sources:
            notes.append(f"{split} is missing: '{folder / split}' contains no {_SUFFIX}")
            continue
        maps = folder / f"cityscapes_panoptic_{split}"
        keys = [path.name.removesuffix(_SUFFIX) for path in sources]  # city, sequence and frame
        jobs = [
            Job(key, (path,), (maps / f"{key}_gtFine_panoptic.png",)) for key, path in zip(keys, sources, strict=True)
        ]
        index = Index(folder / f"cityscapes_panoptic_{split}.json", _panoptic_index)
        stages.append(Stage(f"panoptic maps, {split}", jobs, _convert, official, index))
    archive = f"gtFine_trainvaltest.zip into '{root / 'cityscapes'}'"
    return planned(stages, notes, "are no annotations of Cityscapes", folder, archive)


@cache
def _labels() -> dict[int, dict[str, Any]]:
    """The table of the data set by label id, also of the labels that are not evaluated."""
    table = resources.files("mask2former.structures").joinpath("categories/cityscapes.json")
    return {entry["id"]: entry for entry in json.loads(table.read_text("utf-8"))["all_labels"]}


def _convert(job: Job) -> dict[str, Any]:
    values = read_label_map(job.sources[0])
    ids = np.zeros(values.shape, dtype=np.int32)
    segments = []
    for value in np.unique(values).tolist():
        label_id = value // 1000 if value >= 1000 else value
        label = _labels().get(label_id)
        if label is None:
            raise UserError(f"'{job.sources[0]}' has the label {label_id}, which Cityscapes does not have")
        if label["ignoreInEval"]:
            continue
        mask = values == value
        ids[mask] = value
        top, left, inside = tight(Patch(0, 0, mask))
        segments.append(
            {
                "id": value,
                "category_id": label_id,
                "area": int(np.count_nonzero(inside)),
                "bbox": [left, top, inside.shape[1], inside.shape[0]],
                "iscrowd": int(label["hasInstances"] and value < 1000),  # things that were not distinguished
            }
        )
    save_image(job.outputs[0], Image.fromarray(colors_of_ids(ids)))
    return {
        "image": {
            "id": job.key,
            "width": values.shape[1],
            "height": values.shape[0],
            "file_name": f"{job.key}_gtFine_leftImg8bit.png",
        },
        "annotation": {"image_id": job.key, "file_name": job.outputs[0].name, "segments_info": segments},
    }


def _panoptic_index(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    categories = [
        {
            "id": entry["id"],
            "name": entry["name"],
            "color": entry["color"],
            "supercategory": entry["category"],
            "isthing": int(entry["hasInstances"]),
        }
        for entry in _labels().values()
        if not entry["ignoreInEval"]
    ]
    return panoptic_index(records, categories)
