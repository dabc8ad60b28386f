"""A plan turns annotated images into samples; an augmentation draws one from a size and a generator.

So all frames of a clip can share one draw. Knows arrays only, no data sets and no models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Int64

from mask2former.data.annotated import Annotated, Polygons
from mask2former.data.packed import PackedSample, PackedTarget, paint, paint_ignored, plane_type
from mask2former.data.transforms.exposure import Exposure
from mask2former.data.transforms.geometry import Change, Geometry, Nearest
from mask2former.data.transforms.sizes import Size
from mask2former.ops.masks import Patch, polygons_to_patch
from mask2former.structures.samples import Sample

__all__ = ["Areas", "Augmentation", "ClassMap", "Plan", "class_map", "object_areas"]

_NO_SIDE = 1e-5  # pixels; an object whose box is not longer is lost

ClassMap = Int64[np.ndarray, "H W"]
Areas = Int64[np.ndarray, " N"]


@dataclass(frozen=True, slots=True)
class Plan:
    """One draw of a recipe. It can be applied to any number of images of its size, such as the frames of a clip.

    Attributes:
        color: changes of colour, after the steps and before padding: a :class:`ColorJitter`, or any other function from
            image to image, which keeps the size.
        exposure: how bright an image becomes, relative to its own brightest values or to those that were measured;
            colours are changed after it, and the brightness of a :class:`ColorJitter` in proportion.
        blur: a :class:`Blur` or another such function, after both.
        keep_lost: whether objects that were cut off stay as empty masks. Otherwise objects without a polygon (or, given
            as pixels, without a pixel) are left out. A polygon too small for any pixel is not lost.
    """

    geometry: Geometry
    color: Change | None = None
    keep_lost: bool = True
    exposure: Exposure | None = None
    blur: Change | None = None

    def __call__(self, annotated: Annotated) -> Sample:
        """The sample, image uint8 and masks at :attr:`Geometry.output_hw`, T is 1."""
        return self.packed(annotated).unpack()

    def packed(self, annotated: Annotated) -> PackedSample:
        """The same before its masks are expanded."""
        color = self.color if self.exposure is None else self.exposure.around(self.color, annotated.image)
        image = self.geometry.image(annotated.image, color, self.blur)
        return PackedSample(image[None], self.target(annotated), annotated.name, dict(annotated.info))

    def target(self, annotated: Annotated) -> PackedTarget:
        """The objects alone."""
        assert annotated.size_hw == self.geometry.size_hw, (annotated.size_hw, self.geometry.size_hw)
        count = len(annotated.labels)
        nearest: Nearest = "floor" if annotated.semantic else "centre"
        first = np.zeros((1, *self.geometry.output_hw), plane_type(count + (annotated.ignored is not None)))
        if annotated.ids is not None:
            ids = self.geometry.ids(annotated.ids.astype(first.dtype, copy=False), nearest)
            first[0, : ids.shape[0], : ids.shape[1]] = ids
        if annotated.semantic or not self.keep_lost:
            kept = torch.bincount(torch.from_numpy(first).flatten(), minlength=count + 1)[1:].numpy() > 0
        else:
            kept = np.ones(count, dtype=bool)
        planes, layer_of = paint(self._patches(annotated), first)
        kept[list(layer_of)] = True
        objects = np.flatnonzero(kept)
        layers = [layer_of.get(index, 0) for index in objects.tolist()]
        ignored = None
        if annotated.ignored is not None:
            moved = self.geometry.ids(annotated.ignored, nearest)
            canvas = np.zeros(first.shape, dtype=bool)
            canvas[0, : moved.shape[0], : moved.shape[1]] = moved
            ignored = paint_ignored(planes, canvas, count + 1)
        labels = annotated.labels[objects].astype(np.int64)
        return PackedTarget(labels, planes, layers, (objects + 1).tolist(), ignored)

    def _patches(self, annotated: Annotated) -> dict[int, Patch]:
        """The masks that are left of polygons and single masks, by object."""
        patches: dict[int, Patch] = {}
        for index, polygons in annotated.polygons.items():
            left = self.geometry.polygons(polygons)
            if left and _has_box(left):
                patches[index] = polygons_to_patch(left, self.geometry.output_hw)
        for index, mask in annotated.masks.items():
            moved: Bool[np.ndarray, "h w"] = self.geometry.ids(mask)
            if moved.any():
                patches[index] = Patch(0, 0, moved)
        return patches


def _has_box(polygons: Polygons) -> bool:
    corners = np.concatenate(list(polygons))
    return bool((np.ptp(corners, axis=0) > _NO_SIDE).all())


def class_map(annotated: Annotated) -> ClassMap:
    """The class index of every pixel, -1 where there is none; of objects that overlap one."""
    planes = Plan(Geometry(annotated.size_hw)).target(replace(annotated, ignored=None)).planes
    class_of = np.concatenate([[-1], annotated.labels])
    classes = class_of[planes[0][0]]
    for plane in planes[1:]:
        classes = np.where(plane[0] > 0, class_of[plane[0]], classes)
    return classes


def object_areas(annotated: Annotated) -> Areas:
    """Number of pixels of every object, in the order of its labels."""
    count = len(annotated.labels)
    areas = np.zeros(count, dtype=np.int64)
    if annotated.ids is not None:
        areas += np.bincount(annotated.ids.ravel(), minlength=count + 1)[1 : count + 1]
    # Not of a target's planes: of many objects in a large image, these take seconds and hundreds of megabytes.
    for index, polygons in annotated.polygons.items():
        areas[index] = np.count_nonzero(polygons_to_patch(polygons, annotated.size_hw).mask)
    for index, mask in annotated.masks.items():
        areas[index] = np.count_nonzero(mask)
    return areas


class Augmentation(Protocol):
    """A random recipe."""

    def draw(
        self,
        size_hw: Size,
        rng: np.random.Generator,
        classes: Callable[[], ClassMap] | None = None,
        areas: Callable[[], Areas] | None = None,
    ) -> Plan:
        """The plan for an image, or all frames of a clip, of this height and width.

        ``classes`` returns the :func:`class_map` of the image, for recipes that choose windows by it, and ``areas`` the
        :func:`object_areas` of its things, for recipes that choose the size by them.
        """
        ...
