# pyright: reportMissingImports=false, reportMissingModuleSource=false, reportAttributeAccessIssue=false
"""Clips in YouTube-VIS and VIPSeg format: read, together with the targets and ground truth of every clip."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import atheris
import numpy as np
from PIL import Image

with atheris.instrument_imports(include=["mask2former"]):
    from harness import InMemory, Provider, changed, run

    from mask2former.data.datasets.video_panoptic import VideoPanoptic
    from mask2former.data.datasets.youtube_vis import YouTubeVIS

MASK = {"size": [8, 9], "counts": [3, 20, 49]}
TRACKS = {
    "videos": [
        {"id": 1, "file_names": ["c/0.png", "c/1.png"], "height": 8, "width": 9, "length": 2},
        {"id": "two", "file_names": ["c/1.png"], "height": 8, "width": 9},
    ],
    "annotations": [
        {
            "id": 1,
            "video_id": 1,
            "category_id": 3,
            "segmentations": [[[1, 1, 6, 1, 6, 6]], MASK],
            "bboxes": [[1, 1, 5, 5], [0, 0, 4, 8]],
            "areas": [12, 20],
        },
        {"id": 2, "video_id": 1, "category_id": 5, "segmentations": [None, MASK], "iscrowd": 1},
        {"id": 3, "video_id": "two", "category_id": 5, "segmentations": [[[[1, 1], [6, 1], [6, 6]]]], "iscrowd": 0},
    ],
    "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
}
SEGMENTS = [{"id": 1, "category_id": 3, "iscrowd": 0}, {"id": 2, "category_id": 5, "iscrowd": 0}]
PANOPTIC = {
    "videos": [
        {
            "video_id": "c",
            "images": [{"id": str(n), "file_name": f"{n}.png", "height": 8, "width": 9} for n in range(2)],
        }
    ],
    "annotations": [
        {
            "video_id": "c",
            "annotations": [{"image_id": str(n), "file_name": f"{n}.png", "segments_info": SEGMENTS} for n in range(2)],
        }
    ],
    "categories": [{"id": 3, "name": "cat", "isthing": 1}, {"id": 5, "name": "sky", "isthing": 0}],
}
FOLDER = Path(tempfile.mkdtemp())
(FOLDER / "c").mkdir()
for frame in range(2):
    ids = np.zeros((8, 9, 3), np.uint8)
    ids[:4, :, 0], ids[4:, :, 0] = 1, 2
    Image.fromarray(ids).save(FOLDER / "c" / f"{frame}.png")


def target(data: Provider) -> None:
    if data.ConsumeBool():
        content = InMemory(json.dumps(changed(TRACKS, data)).encode())
        clips = YouTubeVIS([(content, FOLDER)])  # pyright: ignore[reportArgumentType]
        for index in range(len(clips)):
            if clips.clip_length(index) <= 10:
                clips.annotated(index, range(clips.clip_length(index)), with_ignored=True)
                clips.ground_truths(index, ["instance"])
    else:
        content = InMemory(json.dumps(changed(PANOPTIC, data)).encode())
        frames = VideoPanoptic(content, FOLDER, FOLDER)  # pyright: ignore[reportArgumentType]
        for index in range(len(frames)):
            frames.images(index)
            frames.ground_truths(index, ["panoptic"])


if __name__ == "__main__":
    run(target)
