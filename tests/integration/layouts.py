"""Miniatures of the published data sets in their official layouts, with two images per split, written by the tests."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mask2former.data.datasets.scenes import SceneClips
from mask2former.data.label_maps import colors_of_ids
from mask2former.ops import masks as mask_ops
from mask2former.structures import Categories

H, W = 48, 64
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Drawn:
    """One image: pixels, id map (segment k is k + 1, void 0), class and crowd flag of every segment."""

    name: str
    split: str
    image: np.ndarray
    ids: np.ndarray
    classes: list[int]
    crowds: list[bool]

    def masks(self) -> np.ndarray:
        return np.stack([self.ids == number for number in range(1, len(self.classes) + 1)])

    def labels(self, ignore: int) -> np.ndarray:
        return np.array([ignore, *self.classes])[self.ids]


def drawings(categories: Categories, *, crowd: bool = True) -> Iterator[Drawn]:
    """Images with stuff, three things of two classes, a crowd region of one of these, and void."""
    stuff, things = categories.stuff_indices, categories.thing_indices
    few = stuff or things
    for number, split in enumerate(SPLITS * 2):
        rng = np.random.default_rng(number)
        regions = [  # class, crowd, rows, columns; later ones on top
            (few[-1], False, slice(0, 16), slice(0, W)),
            (few[len(few) // 2], False, slice(32, H), slice(0, W)),
            (things[0], False, slice(20, 36), slice(0, 16)),
            (things[2], False, slice(20, 32), slice(18 + number, 34)),
            (things[0], crowd, slice(24, 40), slice(36, 48)),
            (things[0], False, slice(10, 44), slice(52, 60)),
        ]
        ids = np.zeros((H, W), dtype=np.int32)
        image = rng.integers(0, 60, (H, W, 3)).astype(np.uint8)
        for index, (label, _, rows, columns) in enumerate(regions, start=1):
            ids[rows, columns] = index
            image[rows, columns] = np.array(categories[label].color) // 2 + rng.integers(0, 60, 3)
        name = f"{split[:3]}_{number:06d}"
        yield Drawn(name, split, image, ids, [r[0] for r in regions], [r[1] for r in regions])


def save(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write(content: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def colors(ids: np.ndarray) -> np.ndarray:
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)


def listed(categories: Categories) -> list[dict[str, Any]]:
    return [{"id": item.id, "name": item.name, "isthing": int(item.is_thing)} for item in categories]


def panoptic(image_files: list[Drawn], categories: Categories, file: Path, folder: Path) -> None:
    """Write the JSON file and the PNGs; segment ids use all three bytes."""
    annotations = []
    for index, drawn in enumerate(image_files):
        keys = [(k * 70_001) % (1 << 24) for k in range(len(drawn.classes) + 1)]
        save(colors(np.array(keys)[drawn.ids]), folder / f"{drawn.name}.png")
        infos = [
            {"id": key, "category_id": categories[label].id, "iscrowd": int(crowd), "area": 1, "bbox": [0, 0, 1, 1]}
            for key, label, crowd in zip(keys[1:], drawn.classes, drawn.crowds, strict=True)
        ]
        annotations.append({"image_id": index + 7, "file_name": f"{drawn.name}.png", "segments_info": infos})
    images = [
        {"id": index + 7, "file_name": f"{drawn.name}.jpg", "height": H, "width": W}
        for index, drawn in enumerate(image_files)
    ]
    write({"images": images, "annotations": annotations, "categories": listed(categories)}, file)


def instances(image_files: list[Drawn], categories: Categories, things: Categories, file: Path) -> None:
    """Write run-length encodings of the things; areas are half a pixel too large, unlike computed ones."""
    annotations, index_of = [], things.index_of_id()
    for index, drawn in enumerate(image_files):
        for mask, label, crowd in zip(drawn.masks(), drawn.classes, drawn.crowds, strict=True):
            if categories[label].id in index_of:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index + 7,
                        "category_id": categories[label].id,
                        "segmentation": mask_ops.encode(mask[None])[0],
                        "area": int(mask.sum()) + 0.5,
                        "iscrowd": int(crowd),
                    }
                )
    images = [
        {"id": index + 7, "file_name": f"{drawn.name}.jpg", "height": H, "width": W}
        for index, drawn in enumerate(image_files)
    ]
    write({"images": images, "annotations": annotations, "categories": listed(things)}, file)


def by_split(drawn: list[Drawn]) -> dict[str, list[Drawn]]:
    return {split: [image for image in drawn if image.split == split] for split in SPLITS}


# --- the layouts -----------------------------------------------------------------------------------------------------


def coco(root: Path) -> list[Drawn]:
    table, things = Categories.load("coco_panoptic"), Categories.load("coco_instance")
    drawn = list(drawings(table))
    for split, images in by_split(drawn).items():
        part = "train2017" if split == "train" else "val2017"
        for image in images:
            save(image.image, root / "coco" / part / f"{image.name}.jpg")
        folder = root / "coco" / "annotations"
        panoptic(images, table, folder / f"panoptic_{part}.json", root / "coco" / f"panoptic_{part}")
        instances(images, table, things, folder / f"instances_{part}.json")
    return drawn


def coco_stuff_10k(root: Path) -> list[Drawn]:
    table = Categories.load("coco_stuff_10k_171")
    drawn = list(drawings(table))
    for split, images in by_split(drawn).items():
        part, base = "train" if split == "train" else "test", root / "coco" / "coco_stuff_10k"
        for number, image in enumerate(images):
            save(image.image, base / "images_detectron2" / part / f"{image.name}.jpg")
            labels = image.labels(255 - number % 2).astype(np.uint8)  # 254 and 255 are both unlabelled
            save(labels, base / "annotations_detectron2" / part / f"{image.name}.png")
    return drawn


def ade20k(root: Path) -> list[Drawn]:
    """Write the layout of the download: label maps, and maps of objects with classes in red and numbers in green."""
    table, things = Categories.load("ade20k_150"), Categories.load("ade20k_instance_100")
    drawn = list(drawings(table, crowd=False))
    number_of = {item.id: number for number, item in enumerate(things, start=1)}
    for split, images in by_split(drawn).items():
        part, base = "training" if split == "train" else "validation", root / "ADEChallengeData2016"
        for image in images:
            save(image.image, base / "images" / part / f"{image.name}.jpg")
            save((image.labels(255) + 1).astype(np.uint8), base / "annotations" / part / f"{image.name}.png")
            objects = np.zeros((H, W, 3), dtype=np.uint8)
            for mask, label, number in zip(image.masks(), image.classes, range(1, 99), strict=False):
                if table[label].is_thing:
                    objects[mask] = number_of[table[label].id], number, 0
            save(objects, base / "annotations_instance" / part / f"{image.name}.png")
    return drawn


def ade20k_full(root: Path) -> list[Drawn]:
    table = Categories.load("ade20k_full_847")
    drawn = list(drawings(table))
    for split, images in by_split(drawn).items():
        part, base = "training" if split == "train" else "validation", root / "ADE20K_2021_17_01"
        for image in images:
            save(image.image, base / "images_detectron2" / part / f"{image.name}.jpg")
            labels = image.labels(65535).astype(np.uint16)
            save(labels, base / "annotations_detectron2" / part / f"{image.name}.tif")
    return drawn


def cityscapes(root: Path) -> list[Drawn]:
    table = Categories.load("cityscapes")
    drawn = list(drawings(table))
    for split, images in by_split(drawn).items():
        part = "train" if split == "train" else "val"
        for number, image in enumerate(images):
            city = ("aachen", "bochum")[number]
            name = f"{city}_000000_{image.name[-6:]}"
            save(image.image, root / "cityscapes" / "leftImg8bit" / part / city / f"{name}_leftImg8bit.png")
            values = [1 + 3 * number]  # 1 and 4 are void
            for index, (label, crowd) in enumerate(zip(image.classes, image.crowds, strict=True)):
                one_object = table[label].is_thing and not crowd
                values.append(table[label].id * 1000 + index if one_object else table[label].id)
            ids = np.array(values)[image.ids]
            labels = root / "cityscapes" / "gtFine" / part / city
            save(ids.astype(np.uint16), labels / f"{name}_gtFine_instanceIds.png")
            save(np.where(ids < 1000, ids, ids // 1000).astype(np.uint8), labels / f"{name}_gtFine_labelIds.png")
    return drawn


def mapillary_vistas(root: Path) -> list[Drawn]:
    table = Categories.load("mapillary_vistas_v1.2")
    drawn = list(drawings(table))
    for split, images in by_split(drawn).items():
        base = root / "mapillary_vistas" / ("training" if split == "train" else "validation")
        for image in images:
            save(image.image, base / "images" / f"{image.name}.jpg")
            labels = Image.fromarray(image.labels(table.ignore_label).astype(np.uint8))
            labels.putpalette(bytes(channel for item in table for channel in item.color))
            (base / "labels").mkdir(parents=True, exist_ok=True)
            labels.save(base / "labels" / f"{image.name}.png")
        panoptic(images, table, base / "panoptic" / "panoptic_2018.json", base / "panoptic")
        file = base / "panoptic" / "panoptic_2018.json"
        content = json.loads(file.read_text())
        for entry in content["annotations"]:
            entry["image_id"] = Path(entry["file_name"]).stem
        content["images"] = [
            {"id": entry["image_id"], "file_name": f"{entry['image_id']}.jpg", "height": H, "width": W}
            for entry in content["annotations"]
        ]
        write(content, file)
    return drawn


LAYOUTS: dict[str, Callable[[Path], list[Drawn]]] = {
    "coco": coco,
    "coco-stuff-10k": coco_stuff_10k,
    "ade20k": ade20k,
    "ade20k-full": ade20k_full,
    "cityscapes": cityscapes,
    "mapillary-vistas": mapillary_vistas,
}

# The names of the downloads, and the folders and files that each makes when it is unpacked in its folder.
ARCHIVES: dict[str, dict[str, tuple[str, ...]]] = {
    "coco": {
        "coco/train2017.zip": ("train2017",),
        "coco/val2017.zip": ("val2017",),
        "coco/annotations_trainval2017.zip": (
            "annotations/instances_train2017.json",
            "annotations/instances_val2017.json",
        ),
        "coco/panoptic_annotations_trainval2017.zip": (
            "annotations/panoptic_train2017.json",
            "annotations/panoptic_val2017.json",
        ),
        "coco/panoptic_train2017.zip": ("panoptic_train2017",),
        "coco/panoptic_val2017.zip": ("panoptic_val2017",),
    },
    "ade20k": {"ADEChallengeData2016.zip": ("ADEChallengeData2016",)},
    "cityscapes": {
        "cityscapes/leftImg8bit_trainvaltest.zip": ("leftImg8bit",),
        "cityscapes/gtFine_trainvaltest.zip": ("gtFine",),
    },
    "mapillary-vistas": {"mapillary_vistas/mapillary-vistas-dataset_public_v1.2.zip": ("training", "validation")},
}


def pack(root: Path, name: str) -> None:
    """Replace the folders of a layout by the archives that they come from."""
    packed: list[Path] = []
    for archive, parts in ARCHIVES[name].items():
        base = (root / archive).parent
        with zipfile.ZipFile(root / archive, "w", zipfile.ZIP_DEFLATED) as file:
            for part in parts:
                paths = [base / part] if (base / part).is_file() else sorted((base / part).rglob("*"))
                for path in (path for path in paths if path.is_file()):
                    file.write(path, path.relative_to(base).as_posix())
                    packed.append(path)
    for path in packed:
        path.unlink()
        parent = path.parent
        while parent != root and not any(parent.iterdir()):
            parent.rmdir()
            parent = parent.parent


def write_vipseg(root: Path, clips: SceneClips) -> dict[str, Any]:
    """Write ``clips.json``, ``images/CLIP/X.png`` and ``maps/CLIP/X.png`` in VIPSeg's format; return the JSON."""
    content: dict[str, Any] = {"videos": [], "annotations": [], "categories": clips.categories.to_dict()["categories"]}
    for index in range(len(clips)):
        name, images, annotations = f"clip{index}", [], []
        for folder in ("images", "maps"):
            (root / folder / name).mkdir(parents=True)
        height, width = clips.size_hw
        for position, (image, ground_truth) in enumerate(
            zip(clips.images(index), clips.ground_truths(index, ["panoptic"])["panoptic"], strict=True)
        ):
            file = f"{position:04}.png"
            Image.fromarray(image).save(root / "images" / name / file)
            Image.fromarray(colors_of_ids(ground_truth.ids)).save(root / "maps" / name / file)
            images.append({"id": str(position), "file_name": file, "height": height, "width": width})
            infos = [
                {
                    "id": number,
                    "category_id": clips.categories[label].id,
                    "iscrowd": 0,
                    "area": int((ground_truth.ids == number).sum()),
                }
                for number, label, _ in ground_truth.segments
            ]
            annotations.append({"image_id": str(position), "file_name": file, "segments_info": infos})
        content["videos"].append({"video_id": name, "images": images})
        content["annotations"].append({"video_id": name, "annotations": annotations})
    (root / "clips.json").write_text(json.dumps(content))
    return content
