"""Samples beside their truth and what a model makes of them, for the demonstration and for training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mask2former import drawing
from mask2former.config import Task
from mask2former.structures import Categories, Sample, Segmentation, Target, VideoInstances

__all__ = ["clip_rows", "comparison_row"]


def comparison_row(
    sample: Sample, answers: Mapping[Task, Segmentation], categories: Categories, scale: int | None = None
) -> list[Image.Image]:
    """The image, its ground truth, then one overlay per answer, all ``scale`` times as large as the sample.

    None: large enough for names to be read (:func:`mask2former.drawing.readable_scale`).
    """
    image = sample.image[0].permute(1, 2, 0).contiguous().numpy()
    scale = scale or drawing.readable_scale(image.shape[:2])
    overlays = [answer.plot(image, scale=scale) for answer in answers.values()]
    return [_enlarged(image, scale), _truth(image, sample, categories, scale), *overlays]


def clip_rows(
    sample: Sample, tracks: VideoInstances, categories: Categories, scale: int | None = None
) -> list[list[Image.Image]]:
    """Rows as of :func:`comparison_row` for the first and the last frame of a clip; a track keeps its colour."""
    assert sample.target is not None
    images = sample.image.permute(0, 2, 3, 1).contiguous().numpy()
    scale = scale or drawing.readable_scale(images.shape[1:3])
    overlays = list(tracks.plot(images, scale=scale))
    rows = []
    for index in sorted({0, len(images) - 1}):
        target = Target(sample.target.labels, sample.target.masks[:, index : index + 1])
        frame = Sample(sample.image[index : index + 1], target, sample.name)
        truth = _truth(images[index], frame, categories, scale, keep_colors=True)
        rows.append([_enlarged(images[index], scale), truth, overlays[index]])
    return rows


def _enlarged(image: UInt8[np.ndarray, "H W 3"], scale: int) -> Image.Image:
    plain = Image.fromarray(image)
    return plain.resize((plain.width * scale, plain.height * scale), Image.Resampling.BICUBIC)


def _truth(
    image: UInt8[np.ndarray, "H W 3"], sample: Sample, categories: Categories, scale: int, keep_colors: bool = False
) -> Image.Image:
    """The image with its annotation drawn as predictions are, but without scores; later masks lie on top.

    ``keep_colors``: the colour of an object depends on its index only, as for the frames of a clip.
    """
    assert sample.target is not None
    masks = sample.target.masks[:, 0].numpy()
    ids = np.zeros(masks.shape[1:], np.int32)
    regions = []
    for number, (label, mask) in enumerate(zip(sample.target.labels.tolist(), masks, strict=True), start=1):
        ids[mask] = number
        item = categories[label]
        variant = number - 1 if keep_colors else None
        regions.append(drawing.Region(item.name, item.color, None, label, item.is_thing, variant=variant))
    return drawing.overlay_panoptic(image, ids, range(1, len(regions) + 1), regions, scale=scale)
