"""Samples beside their ground truth and what a model makes of them, for the demonstration and for data checks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mask2former import drawing
from mask2former.config import Task
from mask2former.structures import Categories, Sample, Segmentation

__all__ = ["comparison_row"]


def comparison_row(
    sample: Sample, answers: Mapping[Task, Segmentation], categories: Categories, scale: int = 1
) -> list[Image.Image]:
    """The picture, its truth, then one overlay per answer, all ``scale`` times as large as the sample."""
    image = sample.image[0].permute(1, 2, 0).contiguous().numpy()
    plain = Image.fromarray(image)
    enlarged = plain.resize((plain.width * scale, plain.height * scale), Image.Resampling.BICUBIC)
    overlays = [answer.plot(image, scale=scale) for answer in answers.values()]
    return [enlarged, _truth(image, sample, categories, scale), *overlays]


def _truth(image: UInt8[np.ndarray, "H W 3"], sample: Sample, categories: Categories, scale: int) -> Image.Image:
    """The picture with its annotation drawn as predictions are, but without scores; later masks lie on top."""
    assert sample.target is not None
    masks = sample.target.masks[:, 0].numpy()
    ids = np.zeros(masks.shape[1:], np.int32)
    regions = []
    for number, (label, mask) in enumerate(zip(sample.target.labels.tolist(), masks, strict=True), start=1):
        ids[mask] = number
        item = categories[label]
        regions.append(drawing.Region(item.name, item.color, group=label, is_thing=item.is_thing))
    return drawing.overlay_panoptic(image, ids, range(1, len(regions) + 1), regions, scale=scale)
