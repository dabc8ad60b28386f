"""Cityscapes: label maps of training classes and panoptic files, as the data set's own tools make them.

Reads ``*_labelIds.png`` and ``*_instanceIds.png`` of ``cityscapes/gtFine/{split}/{city}``; writes
``*_labelTrainIds.png`` beside them, and ``cityscapes/gtFine/cityscapes_panoptic_{split}`` as ``.json`` and as a folder.
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

from mask2former.data.label_maps import colors_of_ids, read_label_map, remap
from mask2former.dataset_tools.prepare.stages import Index, Job, Plan, Stage, images_in, save_image
from mask2former.errors import UserError

__all__ = ["plan"]

_OFFICIAL = {"train": 2_975, "val": 500}
_OFFICIAL_TEST = 1_525  # its files hold nothing but the border, and no panoptic files are made of them


def plan(root: Path) -> Plan:
    """Label maps of all splits, panoptic files of those with annotations.

    Raises:
        UserError: no split is there.
    """
    folder = root / "cityscapes" / "gtFine"
    stages, notes = [], []
    for split, official in {**_OFFICIAL, "test": _OFFICIAL_TEST}.items():
        labels = list(images_in(folder / split, "_gtFine_labelIds.png"))
        if not labels:
            notes.append(f"{split} is not there: '{folder / split}' has no _gtFine_labelIds.png")
            continue
        jobs = [Job(_key(path), (path,), (_beside(path, "labelTrainIds"),)) for path in labels]
        stages.append(Stage(f"label maps of training classes, {split}", jobs, _convert_labels, official))
        if split == "test":
            continue
        maps = folder / f"cityscapes_panoptic_{split}"
        jobs = [
            Job(_key(path), (_beside(path, "instanceIds"),), (maps / f"{_key(path)}_gtFine_panoptic.png",))
            for path in labels
        ]
        index = Index(folder / f"cityscapes_panoptic_{split}.json", _panoptic_index)
        stages.append(Stage(f"panoptic maps, {split}", jobs, _convert_panoptic, official, index))
    if not stages:
        raise UserError(
            f"there are no annotations of Cityscapes in '{folder}': {'; '.join(notes)}; unpack gtFine_trainvaltest.zip "
            f"into '{root / 'cityscapes'}', or give another --data-root"
        )
    return Plan(tuple(stages), tuple(notes))


def _key(path: Path) -> str:
    """City, sequence and frame."""
    return path.name.removesuffix("_gtFine_labelIds.png")


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f"{_key(path)}_gtFine_{kind}.png")


@cache
def _labels() -> dict[int, dict[str, Any]]:
    """The table of the data set by label id, also of the labels that are not evaluated."""
    table = resources.files("mask2former.structures").joinpath("categories/cityscapes.json")
    return {entry["id"]: entry for entry in json.loads(table.read_text("utf-8"))["all_labels"]}


def _convert_labels(job: Job) -> None:
    classes = {number: entry["trainId"] for number, entry in _labels().items() if number >= 0}
    labels = read_label_map(job.sources[0])
    if unknown := set(np.unique(labels).tolist()) - set(classes):
        raise UserError(f"'{job.sources[0]}' has the labels {sorted(unknown)[:5]}, which Cityscapes does not have")
    save_image(job.outputs[0], Image.fromarray(remap(labels, classes, otherwise=255).astype(np.uint8)))


def _convert_panoptic(job: Job) -> dict[str, Any]:
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
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        left, top = int(columns[0]), int(rows[0])
        segments.append(
            {
                "id": value,
                "category_id": label_id,
                "area": int(np.count_nonzero(mask)),
                "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
                "iscrowd": int(label["hasInstances"] and value < 1000),  # things that were not told apart
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
    return {
        "images": [record["image"] for record in records],
        "annotations": [record["annotation"] for record in records],
        "categories": [
            {
                "id": entry["id"],
                "name": entry["name"],
                "color": entry["color"],
                "supercategory": entry["category"],
                "isthing": int(entry["hasInstances"]),
            }
            for entry in _labels().values()
            if not entry["ignoreInEval"]
        ],
    }
