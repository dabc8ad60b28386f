# pyright: reportMissingImports=false, reportMissingModuleSource=false, reportAttributeAccessIssue=false
"""COCO files of instances: read, together with the targets and ground truth of every image."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import atheris
import numpy as np
from PIL import Image

with atheris.instrument_imports(include=["mask2former"]):
    from harness import InMemory, Provider, changed, run

    from mask2former.data.datasets.coco import CocoInstances

BOX, SIZE = [1, 1, 5, 5], [8, 9]
DOCUMENT = {
    "images": [
        {"id": 1, "file_name": "a.png", "height": 8, "width": 9},
        {"id": 2, "file_name": "x/b.png"},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "segmentation": [[1, 1, 6, 1, 6, 6]], "bbox": BOX, "area": 9},
        {"id": 2, "image_id": 1, "category_id": 5, "segmentation": {"size": SIZE, "counts": [3, 20, 49]}, "iscrowd": 1},
        {"id": 3, "image_id": 2, "category_id": 5, "segmentation": {"size": SIZE, "counts": "j035000f0"}, "iscrowd": 0},
        {"id": 4, "image_id": 2, "category_id": 3, "segmentation": [[0, 0, 8, 0, 8, 7], [[1, 2], [3, 4], [1, 5]]]},
    ],
    "categories": [
        {"id": 3, "name": "cat", "color": [1, 2, 3]},
        {"id": 5, "name": "dog", "isthing": 1, "supercategory": "animal"},
    ],
}  # fmt: skip
FOLDER = Path(tempfile.mkdtemp())
(FOLDER / "x").mkdir()
for name in ("a.png", "x/b.png"):
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(FOLDER / name)


def target(data: Provider) -> None:
    options = data.ConsumeIntInRange(0, 15)
    document = json.dumps(changed(DOCUMENT, data)).encode()
    samples = CocoInstances(
        [(InMemory(document), FOLDER)],  # pyright: ignore[reportArgumentType]
        filter_empty=bool(options & 1),
        missing_images="skip" if options & 2 else "error",
        missing_masks="skip" if options & 4 else "error",
        crowds="objects" if options & 8 else "regions",
    )
    samples.wide()
    for index in range(len(samples)):
        samples.annotated(index, with_ignored=True)
        samples[index]
        samples.ground_truths(index, ["instance"])


if __name__ == "__main__":
    run(target)
