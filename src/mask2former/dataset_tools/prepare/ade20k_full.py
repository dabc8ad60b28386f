"""ADE20K, 2021 release: 16-bit label maps of the 847 most frequent classes, and images, at 512 pixels.

Reads ``ADE20K_2021_17_01/images/ADE/{training,validation}`` with ``X.jpg`` beside ``X_seg.png``, writes
``images_detectron2`` and ``annotations_detectron2`` beside it.
"""

from __future__ import annotations

import json
import shutil
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import UInt16
from PIL import Image

from mask2former.dataset_tools.prepare.stages import Job, Plan, Stage, images_in, planned, read_rgb, save_image
from mask2former.errors import UserError
from mask2former.files import write_whole
from mask2former.media.image_files import open_image

__all__ = ["plan"]

_OFFICIAL = {"training": 25_574, "validation": 2_000}  # of the release of 17 January 2021
_SHORT_SIDE = 512
_OTHER = 65535


def plan(root: Path) -> Plan:
    """Images and label maps of both splits.

    Raises:
        UserError: neither split exists.
    """
    folder = root / "ADE20K_2021_17_01"
    stages, notes = [], []
    for split, official in _OFFICIAL.items():
        source = folder / "images" / "ADE" / split
        jobs = []
        for labels in images_in(source, "_seg.png"):
            stem = labels.name.removesuffix("_seg.png")
            outputs = (
                folder / "images_detectron2" / split / f"{stem}.jpg",
                folder / "annotations_detectron2" / split / f"{stem}.tif",
            )
            jobs.append(Job(stem, (labels.with_name(f"{stem}.jpg"), labels), outputs))
        if jobs:
            stages.append(Stage(f"images and label maps, {split}", jobs, _convert, official))
        else:
            notes.append(f"{split} is missing: '{source}' contains no _seg.png")
    archive = f"ADE20K_2021_17_01.zip into '{root}'"
    return planned(stages, notes, "is no data of ADE20K's 2021 release", folder, archive)


@cache
def _labels_of_codes() -> UInt16[np.ndarray, " C"]:
    """Class index by object code; all others 65535."""
    table = resources.files("mask2former.structures").joinpath("categories/ade20k_full_847.json")
    labels = np.full(26 * 256, _OTHER, dtype=np.uint16)
    for entry in json.loads(table.read_text("utf-8"))["categories"]:
        labels[entry["id"]] = entry["trainId"]
    return labels


def _convert(job: Job) -> None:
    photo, labels = job.sources
    rgb = read_rgb(labels)
    codes = rgb[..., 0].astype(np.int32) // 10 * 256 + rgb[..., 1]
    values = _labels_of_codes()[codes]
    height, width = values.shape
    with open_image(photo) as image:
        if image.size != (width, height):
            raise UserError(f"'{photo}' and '{labels}' differ in size")
        smaller = None
        if min(height, width) > _SHORT_SIDE:
            scale = _SHORT_SIDE / min(height, width)
            size = round(width * scale), round(height * scale)
            smaller = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
            wide = Image.fromarray(values.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
            values = np.asarray(wide).astype(np.uint16)
    # Outside the block above, since an error here is not the image's fault.
    if smaller is None:
        write_whole(job.outputs[0], lambda path: shutil.copyfile(photo, path))
    else:
        save_image(job.outputs[0], smaller, "JPEG", quality=95)
    save_image(job.outputs[1], Image.fromarray(values), "TIFF", compression="tiff_deflate")
