"""One picture with its objects in the form that survives geometry best: polygons, one id map, or single masks.

What readers of annotation files hand to the transforms, before anything is rasterised. Knows no files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, UInt8

from mask2former.ops.masks import Patch
from mask2former.structures.samples import Sample

__all__ = ["Annotated", "Polygons", "from_sample", "place_patches"]

Polygons = Sequence[Float64[np.ndarray, "P 2"]]


@dataclass(frozen=True, slots=True)
class Annotated:
    """A picture and its objects; object k is in exactly one of ``polygons``, ``ids`` (as the value k + 1), ``masks``.

    Attributes:
        image: RGB in 0..255.
        labels: class index of every object.
        polygons: outlines by object, corners (x, y) in pixels; several parts are united.
        ids: of objects that do not overlap; 0 is none of them.
        masks: of objects that overlap others, by object.
    """

    image: UInt8[np.ndarray, "H W 3"]
    labels: Int64[np.ndarray, " N"]
    polygons: Mapping[int, Polygons] = field(default_factory=dict)
    ids: Int32[np.ndarray, "H W"] | None = None
    masks: Mapping[int, Bool[np.ndarray, "H W"]] = field(default_factory=dict)
    name: str = ""
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.image.shape[0], self.image.shape[1]


def place_patches(
    patches: Mapping[int, Patch], size_hw: tuple[int, int]
) -> tuple[Int32[np.ndarray, "H W"] | None, dict[int, Bool[np.ndarray, "H W"]]]:
    """Masks by object as one id map, and those that overlap an earlier one as masks of their own."""
    if not patches:
        return None, {}
    ids = np.zeros(size_hw, dtype=np.int32)
    masks: dict[int, Bool[np.ndarray, "H W"]] = {}
    for index, (top, left, mask) in patches.items():
        window = ids[top : top + mask.shape[0], left : left + mask.shape[1]]
        if window[mask].any():
            whole = np.zeros(size_hw, dtype=bool)
            whole[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
            masks[index] = whole
        else:
            window[mask] = index + 1
    return ids, masks


def from_sample(sample: Sample) -> Annotated:
    """The first frame of a sample with a target."""
    assert sample.target is not None
    image = np.ascontiguousarray(sample.image[0].permute(1, 2, 0).numpy())
    patches = {index: Patch(0, 0, mask) for index, mask in enumerate(sample.target.masks[:, 0].numpy())}
    ids, masks = place_patches(patches, (image.shape[0], image.shape[1]))
    return Annotated(image, sample.target.labels.numpy(), {}, ids, masks, sample.name)
