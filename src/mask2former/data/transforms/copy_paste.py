"""Copy-paste: objects of one training image on another one, in front of what is there.

Reference: Ghiasi et al., Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation, CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool

from mask2former.data.packed import PackedSample, PackedTarget, plane_type

__all__ = ["choose_objects", "paste"]


def choose_objects(sample: PackedSample, is_thing: Bool[np.ndarray, " K"], rng: np.random.Generator) -> list[int]:
    """Some of the things of a sample that have a pixel: each with a chance of one half, but one at least."""
    target = sample.target
    seen = [set(np.unique(plane).tolist()) for plane in target.planes]
    there = [
        index
        for index, (layer, value) in enumerate(zip(target.layers, target.values, strict=True))
        if is_thing[target.labels[index]] and value in seen[layer]
    ]
    chosen = [index for index, number in zip(there, rng.random(len(there)), strict=True) if number < 0.5]
    return chosen or ([there[int(rng.integers(len(there)))]] if there else [])


def paste(onto: PackedSample, source: PackedSample, chosen: Sequence[int]) -> PackedSample:
    """``onto`` with the chosen objects of ``source``, at their positions from the top left; what does not fit is cut.

    Masks of ``onto``, and what is ignored there, lose what is covered; objects that lose all of their pixels by this
    are left out. Pasted objects come last and overlap one another as they did before.

    Args:
        onto: an image (T = 1).
        source: an image (T = 1).
        chosen: indices of objects of ``source``.
    """
    below, above = onto.target, source.target
    height, width = (min(one, two) for one, two in zip(onto.image.shape[2:], source.image.shape[2:], strict=True))
    masks = [above.planes[above.layers[index]][:, :height, :width] == above.values[index] for index in chosen]
    covered = np.zeros((1, *onto.image.shape[2:]), dtype=bool)
    for mask in masks:
        covered[:, :height, :width] |= mask
    window = torch.from_numpy(covered[0, :height, :width])
    image = onto.image.clone()
    image[0, :, :height, :width][:, window] = source.image[0, :, :height, :width][:, window]

    first = 1 + max([*below.values, below.ignored or 0], default=0)
    planes = [plane.astype(plane_type(first + len(chosen))) for plane in below.planes]
    hidden = [set(np.unique(plane[covered]).tolist()) for plane in planes]
    for plane in planes:
        plane[covered] = 0
    left = [set(np.unique(plane).tolist()) for plane in planes]
    kept = [
        index
        for index, (layer, value) in enumerate(zip(below.layers, below.values, strict=True))
        if value in left[layer] or value not in hidden[layer]  # one that was empty before stays so
    ]
    pasted = [index for index, mask in zip(chosen, masks, strict=True) if mask.any()]
    while len(planes) < 1 + max((above.layers[index] for index in pasted), default=0):
        planes.append(np.zeros_like(planes[0]))
    for number, mask in enumerate(mask for mask in masks if mask.any()):
        planes[above.layers[pasted[number]]][:, :height, :width][mask] = first + number
    target = PackedTarget(
        np.concatenate([below.labels[kept], above.labels[pasted]]),
        planes,
        [*(below.layers[index] for index in kept), *(above.layers[index] for index in pasted)],
        [*(below.values[index] for index in kept), *range(first, first + len(pasted))],
        below.ignored,
    )
    return PackedSample(image, target, onto.name, dict(onto.info))
