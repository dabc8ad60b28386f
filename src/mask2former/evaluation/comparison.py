"""Samples beside their ground truth and the predictions of a model, for the demonstration and for data checks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mask2former import visualization
from mask2former.config import Task
from mask2former.pixels import displayed
from mask2former.structures import Categories, Sample, Segmentation

__all__ = ["annotation_overlay", "comparison_row"]


def comparison_row(
    sample: Sample, predictions: Mapping[Task, Segmentation], categories: Categories, scale: int
) -> list[Image.Image]:
    """The image, its ground truth, then one overlay per prediction, all enlarged by ``scale``."""
    image = _image(sample)
    overlays = [prediction.plot(image, scale=scale) for prediction in predictions.values()]
    return [visualization.enlarged(image, scale), annotation_overlay(sample, categories, scale), *overlays]


def annotation_overlay(sample: Sample, categories: Categories, scale: int) -> Image.Image:
    """The image with its annotation drawn like predictions, but without scores; later masks are on top."""
    assert sample.target is not None
    masks = sample.target.masks[:, 0].numpy()
    ids = np.zeros(masks.shape[1:], np.int32)
    regions = []
    for number, (label, mask) in enumerate(zip(sample.target.labels.tolist(), masks, strict=True), start=1):
        ids[mask] = number
        item = categories[label]
        regions.append(visualization.Region(item.name, item.color, group=label, is_thing=item.is_thing))
    return visualization.overlay_panoptic(_image(sample), ids, range(1, len(regions) + 1), regions, scale=scale)


def _image(sample: Sample) -> UInt8[np.ndarray, "H W 3"]:
    return displayed(sample.image[0].permute(1, 2, 0).contiguous().numpy())
