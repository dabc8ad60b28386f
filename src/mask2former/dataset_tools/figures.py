"""Figures of a data set, by split, and what was found in it: the result of a check."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int64

from mask2former.config import Task
from mask2former.data.checks import Finding, Split
from mask2former.ops.masks import typical_diameter
from mask2former.structures.categories import Categories

__all__ = ["COCO_AREAS", "DataReport", "SplitSummary", "Unit", "area_shares", "cell_diameter", "quantiles"]

COCO_AREAS = (32**2, 96**2)  # pixels from which objects are medium and large
_CELL_SHARE = 1 / 8  # of the shorter side: the largest diameter of the median object
_CELLS_PER_IMAGE = 5

Unit = Literal["image", "frame"]  # what is counted: frames where the data are clips


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """Figures of one split.

    Attributes:
        categories: its classes.
        num_images: number of those that could be read.
        sizes_hw: (height, width) and how many images have it, the most frequent first.
        objects: of every image, ascending; for label maps classes.
        areas: of every object in pixels, ascending; for label maps of every class in every image.
        images_of: images that have each class.
        objects_of: number of objects of each class.
        pixels_of: pixels of each class.
        channel_mean: of the values of each channel in 0..255, as the model sees them, over all pixels; empty where the
            images differ in their channels.
        channel_std: their deviations.
        num_dark: images whose brightest values (99.98 %) are in the lowest quarter of the range.
    """

    categories: Categories
    num_images: int
    sizes_hw: tuple[tuple[tuple[int, int], int], ...]
    objects: Int64[np.ndarray, " I"]
    areas: Int64[np.ndarray, " N"]
    images_of: Int64[np.ndarray, " K"]
    objects_of: Int64[np.ndarray, " K"]
    pixels_of: Int64[np.ndarray, " K"]
    channel_mean: tuple[float, ...] = ()
    channel_std: tuple[float, ...] = ()
    num_dark: int = 0

    @property
    def num_pixels(self) -> int:
        return sum(height * width * count for (height, width), count in self.sizes_hw)

    @property
    def size_shares(self) -> tuple[float, float, float]:
        """Shares of small, medium and large objects by COCO's limits."""
        return area_shares(self.areas)

    def short_sides(self) -> Float64[np.ndarray, " I"]:
        """The shorter side of every image in pixels."""
        return np.repeat([min(size) for size, _ in self.sizes_hw], [count for _, count in self.sizes_hw])

    def long_sides(self) -> Float64[np.ndarray, " I"]:
        """The longer side of every image in pixels."""
        return np.repeat([max(size) for size, _ in self.sizes_hw], [count for _, count in self.sizes_hw])

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        rows = zip(self.categories, self.images_of.tolist(), self.objects_of.tolist(), strict=True)
        pixels = max(self.num_pixels, 1)
        return {
            "images": self.num_images,
            "sizes": [{"height": h, "width": w, "images": count} for (h, w), count in self.sizes_hw],
            "objects": int(self.objects.sum()),
            "objects_per_image": quantiles(self.objects),
            "area": quantiles(self.areas),
            "area_shares": dict(zip(("small", "medium", "large"), self.size_shares, strict=True)),
            "void_share": 1 - float(self.pixels_of.sum()) / pixels,
            "channels": {"mean": list(self.channel_mean), "std": list(self.channel_std)},
            "classes": [
                {"id": item.id, "name": item.name, "images": images, "objects": objects, "pixel_share": share}
                for (item, images, objects), share in zip(rows, (self.pixels_of / pixels).tolist(), strict=True)
            ],
        }


def area_shares(areas: Int64[np.ndarray, " N"]) -> tuple[float, float, float]:
    """Shares of small, medium and large objects by COCO's limits; areas are ascending, in pixels."""
    edges = np.searchsorted(areas, COCO_AREAS)
    count = max(len(areas), 1)
    return float(edges[0]) / count, float(edges[1] - edges[0]) / count, float(len(areas) - edges[1]) / count


def quantiles(values: Int64[np.ndarray, " N"]) -> dict[str, float]:
    """Smallest, 5, 25, 50, 75, 95 percent and largest; empty without values."""
    shares = {"min": 0.0, "5%": 0.05, "25%": 0.25, "50%": 0.5, "75%": 0.75, "95%": 0.95, "max": 1.0}
    return dict(zip(shares, np.quantile(values, [*shares.values()]).tolist(), strict=True)) if len(values) else {}


def cell_diameter(summary: SplitSummary) -> float | None:
    """:func:`~mask2former.ops.masks.typical_diameter` of the objects; None unless they are many and small."""
    diameter = typical_diameter(summary.areas)
    if len(summary.categories) != 1 or diameter is None:
        return None
    is_small = diameter <= _CELL_SHARE * float(np.median(summary.short_sides()))
    is_many = float(np.median(summary.objects)) >= _CELLS_PER_IMAGE
    return diameter if is_small and is_many else None


@dataclass(frozen=True, slots=True)
class DataReport:
    """The result of a check.

    Attributes:
        splits: figures of those that could be read.
        findings: broken data first.
        task: what is annotated; ``semantic`` means label maps, whose "objects" are classes.
        num_queries: of the model that is to be trained; objects per image were compared with it.
        is_tiled: whether that model segments tile by tile, with as many queries for each; then nothing was compared.
        unit: what the figures of "images" count: frames, if the data are clips.
    """

    splits: dict[Split, SplitSummary]
    findings: tuple[Finding, ...]
    task: Task
    num_queries: int
    unit: Unit = "image"
    is_tiled: bool = False

    @property
    def is_broken(self) -> bool:
        return any(finding.broken for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "broken": self.is_broken,
            "task": self.task,
            "num_queries": self.num_queries,
            "is_tiled": self.is_tiled,
            "unit": self.unit,
            "findings": [asdict(finding) for finding in self.findings],
            "splits": {split: summary.to_dict() for split, summary in self.splits.items()},
        }
