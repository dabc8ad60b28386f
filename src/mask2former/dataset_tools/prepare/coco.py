"""COCO 2017: label maps of the 133 panoptic classes, on which the semantic output of panoptic models is measured.

Reads ``coco/annotations/panoptic_{split}.json`` and ``coco/panoptic_{split}``, writes
``coco/panoptic_semseg_{split}``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mask2former.data.label_maps import read_id_colors, remap
from mask2former.dataset_tools.prepare.stages import Job, Plan, Stage, read_json, save_image
from mask2former.errors import UserError
from mask2former.structures.categories import Categories
from mask2former.text import printable, quoted

__all__ = ["plan"]

_OFFICIAL = {"train2017": 118_287, "val2017": 5_000}


def plan(root: Path) -> Plan:
    """Label maps of both splits.

    Raises:
        UserError: no split is there, or its annotation file is broken.
    """
    folder = root / "coco"
    stages, notes = [], []
    for split, official in _OFFICIAL.items():
        file = folder / "annotations" / f"panoptic_{split}.json"
        # The archives of the PNGs lie in the folder of annotations, and many unpack them there.
        both = folder / f"panoptic_{split}", folder / "annotations" / f"panoptic_{split}"
        maps = next((index for index in both if index.is_dir()), both[0])
        if file.is_file() and maps.is_dir():
            jobs = _jobs(file, maps, folder / f"panoptic_semseg_{split}")
            stages.append(Stage(f"semantic label maps, {split}", jobs, _convert, official))
        else:
            notes.append(f"{split} is not there: expected '{file}' and '{maps}'")
    if not stages:
        raise UserError(
            f"there are no panoptic annotations of COCO in '{folder}': {'; '.join(notes)}; unpack "
            "panoptic_annotations_trainval2017.zip, and the archives in it, there, or give another --data-root"
        )
    return Plan(tuple(stages), tuple(notes))


def _jobs(file: Path, maps: Path, output: Path) -> list[Job]:
    class_of_id = Categories.load("coco_panoptic").index_of_id()
    jobs: dict[str, Job] = {}
    for entry in read_json(file, "annotations"):
        try:
            name = str(entry["file_name"])
            details = {int(item["id"]): class_of_id[item["category_id"]] for item in entry["segments_info"]}
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"'{file}': {printable(repr(error), 100)} in the annotation {quoted(entry)}; is it COCO's own file?"
            ) from error
        if not name.strip(".") or Path(name).name != name or name in jobs:  # what is written stays in its folder
            raise UserError(
                f"'{file}': the file name {quoted(name)} has folders or comes twice; is it COCO's own file?"
            )
        jobs[name] = Job(name, (maps / name,), (output / name,), details)
    return list(jobs.values())


def _convert(job: Job) -> None:
    # Crowd segments have their class here, too; what no segment covers is ignored.
    labels = remap(read_id_colors(job.sources[0]), job.details, otherwise=255)
    save_image(job.outputs[0], Image.fromarray(labels.astype(np.uint8)))
