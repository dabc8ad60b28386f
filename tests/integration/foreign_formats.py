"""Small data sets in the formats of common tools, as these tools write them: three images, two for training.

Every image has the objects of :func:`objects`, except those that a format cannot represent.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

H, W = 40, 60
SPLITS = {"train": ("a", "b"), "val": ("c",)}
COLORS = {"cell": (128, 0, 0), "dirt": (0, 128, 64)}


def image_file(path: Path) -> Path:
    """Write an image whose pixels depend on the name of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, str(path.name)))
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (H, W, 3), dtype=np.uint8)).save(path)
    return path


def objects(name: str) -> list[tuple[str, list[tuple[int, int]]]]:
    """Class and polygon of every object: two in image ``a``, and five in the others."""
    first = [("cell", [(5, 5), (15, 5), (15, 15), (5, 15)]), ("dirt", [(30, 20), (50, 20), (50, 30), (30, 30)])]
    more = [("cell", [(left, 33), (left + 4, 33), (left + 4, 37), (left, 37)]) for left in (2, 12, 22)]
    return first if name == "a" else first + more


def masks(name: str) -> list[np.ndarray]:
    found = []
    for _, corners in objects(name):
        mask = np.zeros((H, W), dtype=bool)
        (left, top), (right, bottom) = corners[0], corners[2]
        mask[top:bottom, left:right] = True
        found.append(mask)
    return found


def id_map(name: str) -> np.ndarray:
    ids = np.zeros((H, W), dtype=np.uint16)
    for number, mask in enumerate(masks(name), start=1):
        ids[mask] = number
    return ids


def class_map(name: str) -> np.ndarray:
    classes = np.zeros((H, W), dtype=np.uint8)
    for (label, _), mask in zip(objects(name), masks(name), strict=True):
        classes[mask] = 1 + list(COLORS).index(label)
    return classes


def painted(classes: np.ndarray) -> np.ndarray:
    return np.array([(0, 0, 0), *COLORS.values()], dtype=np.uint8)[classes]


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def named() -> Iterator[tuple[str, str]]:
    yield from ((split, name) for split, names in SPLITS.items() for name in names)


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def _png(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, format="PNG")
    return buffer.getvalue()


def _crop(mask: np.ndarray) -> tuple[int, int, np.ndarray]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    return top, left, mask[top : rows[-1] + 1, left : columns[-1] + 1]


# --- maps ------------------------------------------------------------------------------------------------------------


def colored(root: Path) -> Path:
    """CamVid as on Kaggle: folders side by side, and label maps in the colours of a table."""
    for split, name in named():
        image_file(root / split / f"{name}.png")
        save(root / f"{split}_labels" / f"{name}_L.png", painted(class_map(name)))
    rows = "".join(f"{label},{','.join(map(str, color))}\n" for label, color in COLORS.items())
    _write(root / "class_dict.csv", f"name,r,g,b\nbackground,0,0,0\n{rows}")
    return root


def palettes(root: Path) -> Path:
    """PNGs that each have their own palette, as paint programs write them."""
    for split, name in named():
        image_file(root / "images" / split / f"{name}.jpg")
        order = [0, 2, 1] if name == "b" else [0, 1, 2]
        image = Image.fromarray(np.argsort(order).astype(np.uint8)[class_map(name)], "P")
        colors = [(0, 0, 0), *COLORS.values()]
        image.putpalette([value for index in order for value in colors[index]])
        (root / "labels" / split).mkdir(parents=True, exist_ok=True)
        image.save(root / "labels" / split / f"{name}.png")
    _write(root / "labelmap.txt", "background:0,0,0::\ncell:128,0,0::\ndirt:0,128,64::\n")
    return root


def both_sides(root: Path) -> Path:
    """Images and maps named as in Cityscapes."""
    for split, name in named():
        image_file(root / "leftImg8bit" / split / "bonn" / f"{name}_leftImg8bit.png")
        folder = root / "gtFine" / split / "bonn"
        save(folder / f"{name}_gtFine_labelIds.png", class_map(name))
        save(folder / f"{name}_gtFine_color.png", painted(class_map(name)))
        save(folder / f"{name}_gtFine_instanceIds.png", id_map(name))
    _write(root / "names.txt", "background\ncell\ndirt\n")
    return root


def id_maps(root: Path) -> Path:
    for split, name in named():
        image_file(root / "images" / split / f"{name}.png")
        save(root / "masks" / split / f"{name}.tif", id_map(name))
    return root


def cellpose(root: Path) -> Path:
    """Masks that Cellpose writes beside images."""
    for split, name in named():
        image_file(root / split / f"{name}.png")
        save(root / split / f"{name}_cp_masks.png", id_map(name))
    return root


def cellpose_seg(root: Path) -> Path:
    """The _seg.npy files that Cellpose saves by default: pickled mappings that name the image, here by a Path."""
    for split, name in named():
        image = image_file(root / split / f"{name}.png")
        ids = id_map(name)
        flows = [np.zeros((1, H, W, 3), np.uint8), np.zeros((1, H, W), np.uint8), [], np.zeros((3, H, W), np.float32)]
        saved = {"outlines": ids, "masks": ids, "chan_choose": [0, 0], "ismanual": np.zeros(ids.max(), dtype=bool),
                 "filename": image, "flows": flows, "diameter": np.float64(30.0)}  # fmt: skip
        np.save(image.with_name(f"{name}_seg.npy"), np.array(saved, dtype=object), allow_pickle=True)
    return root


def voc(root: Path) -> Path:
    for split, name in named():
        image_file(root / "JPEGImages" / f"{name}.jpg")
        border = np.zeros((H, W), dtype=bool)
        border[4] = True
        for folder, values in (("SegmentationClass", class_map(name)), ("SegmentationObject", id_map(name))):
            numbers = np.where(border, 255, values).astype(np.uint8)
            image = Image.fromarray(numbers, "P")
            image.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
            (root / folder).mkdir(parents=True, exist_ok=True)
            image.save(root / folder / f"{name}.png")
        with (root / f"{split}.txt").open("a") as file:
            file.write(f"{name}\n")
    for split in SPLITS:
        _write(root / "ImageSets" / "Segmentation" / f"{split}.txt", (root / f"{split}.txt").read_text())
        (root / f"{split}.txt").unlink()
    _write(root / "names.txt", "background\ncell\ndirt\n")
    return root


def cvat_masks(root: Path) -> Path:
    """CVAT's "Segmentation mask 1.1": VOC's layout in colours."""
    for _, name in named():
        image_file(root / "JPEGImages" / f"{name}.jpg")
        save(root / "SegmentationClass" / f"{name}.png", painted(class_map(name)))
        colors = np.random.default_rng(0).integers(1, 256, (9, 3), dtype=np.uint8)
        colors[0] = 0
        save(root / "SegmentationObject" / f"{name}.png", colors[id_map(name)])
    _write(root / "ImageSets" / "Segmentation" / "default.txt", "a\nb\n")
    _write(
        root / "labelmap.txt",
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncell:128,0,0::\ndirt:0,128,64::\n",
    )
    return root


def one_file_an_object(root: Path) -> Path:
    """The layout of the Data Science Bowl 2018: one mask file for each object."""
    for split, name in named():
        folder = root / {"train": "stage1_train", "val": "stage1_val"}[split] / name
        image_file(folder / "images" / f"{name}.png")
        for number, mask in enumerate(masks(name)):
            save(folder / "masks" / f"{number}.png", mask.astype(np.uint8) * 255)
    return root


# --- tools -----------------------------------------------------------------------------------------------------------


def labelme(root: Path) -> Path:
    """LabelMe 5: a JSON file beside each image; the first object as polygon, the second as mask."""
    for split, name in named():
        image_file(root / split / f"{name}.png")
        shapes = []
        for number, ((label, corners), mask) in enumerate(zip(objects(name), masks(name), strict=True)):
            common = {"label": label, "group_id": None, "description": "", "flags": {}}
            if number == 1:
                top, left, crop = _crop(mask)
                corners = [[left, top], [left + crop.shape[1] - 1, top + crop.shape[0] - 1]]
                encoded = base64.b64encode(_png(crop)).decode()
                shapes.append({**common, "points": corners, "shape_type": "mask", "mask": encoded})
            else:
                shapes.append({**common, "points": corners, "shape_type": "polygon", "mask": None})
        head = {"version": "5.5.0", "flags": {}, "imagePath": f"{name}.png", "imageData": None}
        _write(root / split / f"{name}.json", {**head, "shapes": shapes, "imageHeight": H, "imageWidth": W})
    return root


def via(root: Path) -> Path:
    """VIA 2: one project for each split."""
    for split, names in SPLITS.items():
        entries = {}
        for name in names:
            size = image_file(root / split / f"{name}.png").stat().st_size
            regions = [
                {
                    "shape_attributes": {
                        "name": "polygon",
                        "all_points_x": [x for x, _ in corners],
                        "all_points_y": [y for _, y in corners],
                    },
                    "region_attributes": {"kind": label},
                }
                for label, corners in objects(name)
            ]
            entries[f"{name}.png{size}"] = {
                "filename": f"{name}.png",
                "size": size,
                "regions": regions,
                "file_attributes": {},
            }
        _write(root / f"{split}.json", {"_via_settings": {}, "_via_img_metadata": entries, "_via_attributes": {}})
    return root / "train.json"


def cvat(root: Path) -> Path:
    """CVAT for images 1.1: the first object as polygon, the second as painted mask."""
    for split, names in SPLITS.items():
        lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations><version>1.1</version><meta/>"]
        for number, name in enumerate(names):
            image_file(root / split / "images" / f"{name}.png")
            lines.append(f'<image id="{number}" name="{name}.png" width="{W}" height="{H}">')
            for position, ((label, corners), mask) in enumerate(zip(objects(name), masks(name), strict=True)):
                if position == 1:
                    top, left, crop = _crop(mask)
                    size = f'left="{left}" top="{top}" width="{crop.shape[1]}" height="{crop.shape[0]}"'
                    lines.append(f'<mask label="{label}" source="manual" occluded="0" rle="0, {crop.size}" {size}/>')
                else:
                    points = ";".join(f"{x:.2f},{y:.2f}" for x, y in corners)
                    lines.append(f'<polygon label="{label}" occluded="0" points="{points}" z_order="0"></polygon>')
            lines.append("</image>")
        _write(root / split / "annotations.xml", "\n".join([*lines, "</annotations>"]))
    return root / "train" / "annotations.xml"


def label_studio(root: Path) -> Path:
    """Label Studio's JSON: polygons in percent, and images with names of uploads."""
    for split, names in SPLITS.items():
        tasks = []
        for number, name in enumerate(names):
            image_file(root / split / f"{name}.png")
            result = [
                {
                    "original_width": W,
                    "original_height": H,
                    "image_rotation": 0,
                    "value": {
                        "points": [[100 * x / W, 100 * y / H] for x, y in corners],
                        "closed": True,
                        "polygonlabels": [label],
                    },
                    "id": f"r{position}",
                    "from_name": "label",
                    "to_name": "image",
                    "type": "polygonlabels",
                }
                for position, (label, corners) in enumerate(objects(name))
            ]
            data = {"image": f"/data/upload/1/0a1b2c3d-{name}.png"}
            tasks.append({"id": number, "annotations": [{"was_cancelled": False, "result": result}], "data": data})
        _write(root / f"{split}.json", tasks)
    return root / "train.json"


def supervisely(root: Path) -> Path:
    """A Supervisely project: the first object as polygon, the second as bitmap."""
    for split, name in named():
        image_file(root / split / "img" / f"{name}.png")
        shapes: list[dict[str, Any]] = []
        for number, ((label, corners), mask) in enumerate(zip(objects(name), masks(name), strict=True)):
            if number == 1:
                top, left, crop = _crop(mask)
                data = base64.b64encode(zlib.compress(_png(crop))).decode()
                shapes.append(
                    {"classTitle": label, "geometryType": "bitmap", "bitmap": {"data": data, "origin": [left, top]}}
                )
            else:
                points = {"exterior": [list(corner) for corner in corners], "interior": []}
                shapes.append({"classTitle": label, "geometryType": "polygon", "points": points})
        content = {"description": "", "tags": [], "size": {"height": H, "width": W}, "objects": shapes}
        _write(root / split / "ann" / f"{name}.png.json", content)
    _write(root / "meta.json", {"classes": [{"title": label, "shape": "any"} for label in COLORS], "tags": []})
    return root


def qupath(root: Path) -> Path:
    """GeoJSON of QuPath, one file beside each image."""
    for split, name in named():
        image_file(root / split / f"{name}.png")
        features = [
            {
                "type": "Feature",
                "id": f"{number:08d}-0000-4000-8000-000000000000",
                "geometry": {"type": "Polygon", "coordinates": [[*map(list, corners), list(corners[0])]]},
                "properties": {"objectType": "annotation", "classification": {"name": label, "color": [200, 0, 0]}},
            }
            for number, (label, corners) in enumerate(objects(name))
        ]
        _write(root / split / f"{name}.geojson", {"type": "FeatureCollection", "features": features})
    return root


def imagej(root: Path) -> Path:
    """What ImageJ's ROI manager saves, one zip file beside each image."""
    for split, name in named():
        image_file(root / split / f"{name}.png")
        with zipfile.ZipFile(root / split / f"{name}_RoiSet.zip", "w") as archive:
            for number, (_, corners) in enumerate(objects(name), start=1):
                (left, top), (right, bottom) = corners[0], corners[2]
                head = struct.pack(">4shBx4hH46x", b"Iout", 228, 0, top, left, bottom, right, len(corners))
                body = (np.array(corners) - [left, top]).T.astype(">i2").tobytes()
                archive.writestr(f"{number:04d}.roi", head + body)
    return root


# By name: the function that writes it, the data set that it is read as, and whether it has classes.
FORMATS: dict[str, tuple[Callable[[Path], Path], str, bool]] = {
    "colours": (colored, "label-folder", True),
    "palettes by colour": (palettes, "label-folder", True),
    "names on both sides": (both_sides, "label-folder", True),
    "id maps": (id_maps, "id-maps", False),
    "cellpose": (cellpose, "id-maps", False),
    "cellpose-seg": (cellpose_seg, "id-maps", False),
    "voc": (voc, "id-maps", True),
    "cvat masks": (cvat_masks, "id-maps", True),
    "dsb": (one_file_an_object, "mask-files", False),
    "labelme": (labelme, "labelme", True),
    "via": (via, "via", True),
    "cvat": (cvat, "cvat", True),
    "label studio": (label_studio, "label-studio", True),
    "supervisely": (supervisely, "supervisely", True),
    "qupath": (qupath, "qupath", True),
    "imagej": (imagej, "imagej", False),
}
