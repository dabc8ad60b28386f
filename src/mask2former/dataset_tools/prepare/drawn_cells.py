"""Drawn cells: 4,000 training and 100 validation images, as COCO instances of one class.

Needs no download. Writes ``drawn-cells/{train,val}`` and ``drawn-cells/instances_{train,val}.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mask2former.dataset_tools.prepare.stages import Index, Job, Plan, Stage, save_image
from mask2former.files import check_folder
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.scenes.cells import draw_cells

__all__ = ["plan"]

_SPLITS = {"train": (0, 4_000), "val": (1_000_000, 100)}  # first seed, number of images


def plan(root: Path) -> Plan:
    """Both splits; each image depends only on its seed.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = root / "drawn-cells"
    check_folder(folder)
    stages = []
    for split, (first, count) in _SPLITS.items():
        jobs = [Job(str(seed), (), (folder / split / f"{seed:07d}.png",)) for seed in range(first, first + count)]
        index = Index(folder / f"instances_{split}.json", _instances)
        stages.append(Stage(f"images of cells, {split}", jobs, _draw, None, index))
    return Plan(tuple(stages))


def _draw(job: Job) -> dict[str, Any]:
    seed = int(job.key)
    image, ids = draw_cells(seed)
    save_image(job.outputs[0], Image.fromarray(image))
    masks = SparseMasks.of_ids(ids, range(1, int(ids.max()) + 1))
    boxes = masks.boxes.astype(int).tolist()
    objects = [
        {"bbox": [left, top, right - left, bottom - top], "area": area, "segmentation": rle}
        for (left, top, right, bottom), area, rle in zip(boxes, masks.areas.tolist(), masks.encode(), strict=True)
    ]
    return {"id": seed, "file_name": job.outputs[0].name, "size": ids.shape, "objects": objects}


def _instances(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    annotations = []
    for record in records:
        for item in record["objects"]:
            head = {"id": len(annotations) + 1, "image_id": record["id"], "category_id": 1, "iscrowd": 0}
            annotations.append(head | item)
    images = [
        {"id": record["id"], "file_name": record["file_name"], "height": record["size"][0], "width": record["size"][1]}
        for record in records
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "nucleus"}]}
