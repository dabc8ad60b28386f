"""ADE20K (SceneParse150): label maps, objects and panoptic maps from the PNGs of the challenge.

Below ``ADEChallengeData2016``, for the folders ``training`` and ``validation`` of ``annotations`` and
``annotations_instance``: writes ``annotations_detectron2/``, ``ade20k_instance_{train,val}.json`` and
``ade20k_panoptic_{train,val}`` as ``.json`` and as a folder. Class ids are SceneParse labels less one everywhere.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from scipy import ndimage

from mask2former.data.label_maps import colors_of_ids, read_label_map
from mask2former.dataset_tools.prepare.stages import (
    Index,
    Job,
    Plan,
    Stage,
    images_in,
    panoptic_index,
    planned,
    read_rgb,
    save_image,
)
from mask2former.errors import UserError
from mask2former.ops.masks import Patch, encode_patch
from mask2former.structures.categories import Categories

__all__ = ["plan"]

_SPLITS = {"training": ("train", 20_210), "validation": ("val", 2_000)}


def plan(root: Path) -> Plan:
    """Semantic, instance and panoptic files of both splits.

    Raises:
        UserError: neither split exists.
    """
    folder = root / "ADEChallengeData2016"
    stages: list[Stage] = []
    notes: list[str] = []
    for split, (short, official) in _SPLITS.items():
        labels = list(images_in(folder / "annotations" / split, ".png"))
        if not labels:
            notes.append(f"{split} is missing: '{folder / 'annotations' / split}' contains no PNG")
            continue
        output = folder / "annotations_detectron2" / split
        jobs = [Job(path.stem, (path,), (output / path.name,)) for path in labels]
        stages.append(Stage(f"semantic label maps, {split}", jobs, _convert_semantic, official))

        objects = folder / "annotations_instance" / split
        if not objects.is_dir():
            notes.append(
                f"no objects and panoptic maps for {split}: there is no '{objects}'; unpack annotations_instance.tar "
                f"(a separate download) into '{folder}'"
            )
            continue
        jobs = [Job(path.stem, (objects / path.name,), ()) for path in labels]
        index = Index(folder / f"ade20k_instance_{short}.json", _instance_index)
        stages.append(Stage(f"objects, {split}", jobs, _convert_instances, official, index))
        maps = folder / f"ade20k_panoptic_{short}"
        jobs = [Job(path.stem, (path, objects / path.name), (maps / path.name,)) for path in labels]
        index = Index(folder / f"ade20k_panoptic_{short}.json", _panoptic_index)
        stages.append(Stage(f"panoptic maps, {split}", jobs, _convert_panoptic, official, index))
    archive = f"ADEChallengeData2016.zip into '{root}'"
    return planned(stages, notes, "are no annotations of ADE20K", folder, archive)


# --- semantic --------------------------------------------------------------------------------------------------------


def _convert_semantic(job: Job) -> None:
    labels = _read_labels(job.sources[0]).astype(np.uint8)
    save_image(job.outputs[0], Image.fromarray(labels - np.uint8(1)))  # 0 (other) wraps around to 255 (ignored)


def _read_labels(path: Path) -> np.ndarray:
    labels = read_label_map(path)
    if labels.max(initial=0) > 150:
        raise UserError(f"'{path}' has the label {labels.max()}; expected 0 (other) to 150, the SceneParse labels")
    return labels


# --- objects ---------------------------------------------------------------------------------------------------------


@cache
def _class_ids() -> dict[int, int]:
    """Instance class 1..100 (red channel) to class id."""
    table = resources.files("mask2former.structures").joinpath("categories/ade20k_instance_100.json")
    return {entry["instance_id"]: entry["id"] for entry in json.loads(table.read_text("utf-8"))["categories"]}


_Region = tuple[int, tuple[slice, slice], Bool[np.ndarray, "h w"]]  # class id, window, mask in the window


def _objects(rgb: UInt8[np.ndarray, "H W 3"], path: Path) -> list[_Region]:
    """The objects of an image, by ascending number; ``path`` is for messages.

    Raises:
        UserError: an object has several classes, or a class is unknown.
    """
    classes, numbers = rgb[..., 0], rgb[..., 1].astype(np.int32)
    found = []
    for number, window in enumerate(ndimage.find_objects(numbers), start=1):
        if window is None:
            continue
        mask = numbers[window] == number
        values = np.unique(classes[window][mask]).tolist()
        if len(values) != 1 or values[0] not in _class_ids():
            raise UserError(
                f"'{path}': object {number} has the classes {values} in the red channel; expected one of 1 to 100"
            )
        found.append((_class_ids()[values[0]], (window[0], window[1]), mask))
    return found


def _described(region: _Region) -> dict[str, Any]:
    class_id, (rows, columns), mask = region
    return {
        "category_id": class_id,
        "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
        "area": int(np.count_nonzero(mask)),
        "iscrowd": 0,
    }


def _convert_instances(job: Job) -> dict[str, Any]:
    rgb = read_rgb(job.sources[0])
    height, width = rgb.shape[0], rgb.shape[1]
    annotations = []
    for region in _objects(rgb, job.sources[0]):
        _, (rows, columns), mask = region
        segmentation = encode_patch(Patch(rows.start, columns.start, mask), (height, width))
        annotations.append({"image_id": job.key, **_described(region), "segmentation": segmentation})
    return {"image": _image(job.key, height, width), "annotations": annotations}


def _image(key: str, height: int, width: int) -> dict[str, Any]:
    return {"id": key, "file_name": f"{key}.jpg", "width": width, "height": height}


def _instance_index(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    annotations = [entry for record in records for entry in record["annotations"]]
    table = Categories.load("ade20k_instance_100")
    return {
        "images": [record["image"] for record in records],
        "annotations": [{"id": number, **entry} for number, entry in enumerate(annotations, start=1)],
        "categories": [{"id": item.id, "name": item.name} for item in table],
    }


# --- panoptic --------------------------------------------------------------------------------------------------------


def _convert_panoptic(job: Job) -> dict[str, Any]:
    labels, objects = _read_labels(job.sources[0]), read_rgb(job.sources[1])
    height, width = labels.shape[0], labels.shape[1]
    if objects.shape[:2] != (height, width):
        raise UserError(f"'{job.sources[1]}' and '{job.sources[0]}' differ in size")
    table = Categories.load("ade20k_150")
    segments: list[_Region] = []
    # Things that only the label map shows stay void.
    for label, window in enumerate(ndimage.find_objects(labels), start=1):
        if window is not None and not table[label - 1].is_thing:
            segments.append((label - 1, (window[0], window[1]), labels[window] == label))
    segments += _objects(objects, job.sources[1])

    ids = np.zeros((height, width), dtype=np.int32)
    new_id = _SegmentIds(table, job.key)
    numbers = []
    for class_id, window, mask in segments:
        numbers.append(new_id(class_id))
        ids[window][mask] = numbers[-1]
    visible = set(np.unique(ids).tolist())  # evaluators refuse a segment without pixels
    save_image(job.outputs[0], Image.fromarray(colors_of_ids(ids)))
    return {
        "image": _image(job.key, height, width),
        "annotation": {
            "image_id": job.key,
            "file_name": job.outputs[0].name,
            # Parity: area and box are those before other segments were painted on top.
            "segments_info": [
                {"id": number, **_described(region)}
                for number, region in zip(numbers, segments, strict=True)
                if number in visible
            ],
        },
    }


class _SegmentIds:
    """Ids whose colours resemble those of their classes; always the same for the same image."""

    def __init__(self, table: Categories, key: str) -> None:
        self.colors = {item.id: item.color for item in table}
        self.taken = {(0, 0, 0)} | {item.color for item in table if not item.is_thing}
        self.stuff = {item.id for item in table if not item.is_thing}
        self.rng = np.random.default_rng(zlib.crc32(key.encode()))

    def __call__(self, class_id: int) -> int:
        color = self.colors[class_id]
        while class_id not in self.stuff and color in self.taken:
            near = np.array(self.colors[class_id]) + self.rng.integers(-30, 31, size=3)
            red, green, blue = near.clip(0, 255).tolist()
            color = (red, green, blue)
        self.taken.add(color)
        return color[0] + 256 * color[1] + 65536 * color[2]


def _panoptic_index(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    categories = [
        {"id": item.id, "name": item.name, "isthing": int(item.is_thing), "color": list(item.color)}
        for item in Categories.load("ade20k_150")
    ]
    return panoptic_index(records, categories)
