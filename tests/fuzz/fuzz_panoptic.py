# pyright: reportMissingImports=false, reportMissingModuleSource=false, reportAttributeAccessIssue=false
"""COCO files of panoptic segments: read, together with the targets and ground truth of every image for all tasks."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import atheris
import numpy as np
from PIL import Image

with atheris.instrument_imports(include=["mask2former"]):
    from harness import InMemory, Provider, changed, run

    from mask2former.data.datasets.coco_panoptic import CocoPanoptic, PanopticFiles

DOCUMENT = {
    "images": [
        {"id": 1, "file_name": "a.jpg", "height": 8, "width": 9},
        {"id": 2, "file_name": "b.jpg", "height": 8, "width": 9},
    ],
    "annotations": [
        {
            "image_id": number,
            "file_name": f"{name}.png",
            "segments_info": [
                {"id": 1, "category_id": 1, "iscrowd": 0, "bbox": [0, 0, 9, 4], "area": 36},
                {"id": 300, "category_id": 7, "iscrowd": 1, "area": 18},
                {"id": 70000, "category_id": 9},
            ],
        }
        for number, name in ((1, "a"), (2, "b"))
    ],
    "categories": [
        {"id": 1, "name": "cat", "isthing": 1, "color": [1, 2, 3]},
        {"id": 7, "name": "dog", "isthing": 1},
        {"id": 9, "name": "sky", "isthing": 0},
    ],
}
FOLDER = Path(tempfile.mkdtemp())
ids = np.zeros((8, 9), np.int64)
ids[:4], ids[4:6], ids[6:, 2:] = 1, 300, 70000
for name in ("a", "b"):
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(FOLDER / f"{name}.jpg")
    Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)).save(
        FOLDER / f"{name}.png"
    )


def target(data: Provider) -> None:
    options = data.ConsumeIntInRange(0, 11)
    document = json.dumps(changed(DOCUMENT, data)).encode()
    samples = CocoPanoptic(
        [PanopticFiles(InMemory(document), FOLDER, FOLDER)],  # pyright: ignore[reportArgumentType]
        (["panoptic", "instance", "semantic"])[options % 3],  # pyright: ignore[reportArgumentType]
        filter_empty=bool(options & 1),
        missing_images="skip" if options & 2 else "error",
        areas_from_file=bool(options & 4),
    )
    samples.wide()
    for index in range(len(samples)):
        samples.annotated(index, with_ignored=True)
        samples[index]
        samples.ground_truths(index, samples.tasks)


if __name__ == "__main__":
    run(target)
