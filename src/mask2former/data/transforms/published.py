"""The augmentations of the published training runs, and their options for images without a fixed scale or exposure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace

import numpy as np

from mask2former.config import Resampling
from mask2former.config.augmentation import Flip as FlipKind
from mask2former.data.transforms.blur import draw_blur
from mask2former.data.transforms.color_jitter import draw_color_jitter
from mask2former.data.transforms.exposure import draw_exposure
from mask2former.data.transforms.geometry import Crop, Flip, Geometry, Resize, turned_size
from mask2former.data.transforms.plan import Areas, ClassMap, Plan
from mask2former.data.transforms.sizes import Size, shortest_edge_size
from mask2former.ops.masks import typical_diameter

__all__ = ["LargeScaleJitter", "ResizeCropFlip"]

_MOST_RESIZED = 8.0  # times, up or down, to bring objects to one diameter


def _transposed(kind: FlipKind, rng: np.random.Generator) -> bool:
    """Whether the image is transposed before all else; only ``turns`` draws a number for it."""
    return kind == "turns" and rng.random() < 0.5


def _flip(kind: FlipKind, rng: np.random.Generator) -> tuple[Flip, ...]:
    if kind in ("both", "turns"):
        return (*_flip("horizontal", rng), *_flip("vertical", rng))
    if kind == "none" or rng.random() >= 0.5:
        return ()
    return (Flip(kind),)


@dataclass(frozen=True)
class LargeScaleJitter:
    """Flip, resize to fit a box of random scale, cut or pad to a fixed size (Ghiasi et al., CVPR 2021).

    Args:
        image_size: height and width of the results, and of the box at scale 1.
        min_scale: smallest scale of the box.
        max_scale: largest scale of the box; one in between is drawn uniformly.
        flip: axes along which an image is flipped, each with a probability of a half; ``turns`` flips along both and,
            with the same probability, exchanges them.
        resampling: of images.
        keep_lost: see :class:`Plan`.
    """

    image_size: Size = (1024, 1024)
    min_scale: float = 0.1
    max_scale: float = 2.0
    flip: FlipKind = "horizontal"
    _: KW_ONLY
    resampling: Resampling = "antialiased"
    keep_lost: bool = False

    def draw(
        self,
        size_hw: Size,
        rng: np.random.Generator,
        classes: Callable[[], ClassMap] | None = None,
        areas: Callable[[], Areas] | None = None,
    ) -> Plan:
        transposed = _transposed(self.flip, rng)
        flip = _flip(self.flip, rng)
        scale = rng.uniform(self.min_scale, self.max_scale)
        index = rng.random()
        turned = turned_size(size_hw, transposed)
        ratio = min(scale * box / side for box, side in zip(self.image_size, turned, strict=True))
        height, width = (max(1, round(side * ratio)) for side in turned)  # round() is half to even, as published
        # Parity: the same number places the window on both axes.
        top, left = (
            round(index * max(0, side - box)) for side, box in zip((height, width), self.image_size, strict=True)
        )
        window = min(height, self.image_size[0]), min(width, self.image_size[1])
        steps = (*flip, Resize((height, width), self.resampling), Crop(top, left, window))
        return Plan(Geometry(size_hw, steps, self.image_size, transposed), keep_lost=self.keep_lost)


@dataclass(frozen=True)
class ResizeCropFlip:
    """Resize to a random short edge, random crop, colour jitter, flip, pad (Mask2Former, Sec. 4.1: ADE20K, Cityscapes).

    Args:
        short_edges: pixels, one is drawn.
        long_edge: cap in pixels.
        crop_size: height and width of the window, limited to the image; None: no crop.
        pad_size: height and width of the results; None: no padding. What is larger is cut, as published.
        flip: axes along which an image is flipped, each with a probability of a half; ``turns`` flips along both and,
            with the same probability, exchanges them.
        scale_range: smallest and largest factor; given, images are resized by one in between (its logarithm is uniform)
            and ``short_edges`` and ``long_edge`` are ignored.
        diameter: pixels; given, ``scale_range`` counts from the size at which the image's median object has the area of
            a disc of this diameter, which is at most 8 times the size of the image, and at least an eighth. Images
            without objects are resized by the factors alone.
        resampling: of images.
        max_category_share: a window is drawn again, up to ten times in all, while one class has at least this share of
            its labelled pixels, or all of them. 1 switches the rule off.
        color_jitter: whether colours are changed, see :class:`~mask2former.data.transforms.color_jitter.ColorJitter`.
        exposure: smallest and largest share of 255 to which the brightest values of an image are brought, see
            :func:`~mask2former.data.transforms.exposure.draw_exposure`; None: images stay as bright as they are.
        blur: largest standard deviation in pixels, see :func:`~mask2former.data.transforms.blur.draw_blur`; 0: none.
        keep_lost: see :class:`Plan`.

    Raises:
        UserError: while drawing: ``exposure`` or ``blur`` is out of range.
    """

    short_edges: Sequence[int]
    long_edge: int
    crop_size: Size | None
    pad_size: Size | None
    flip: FlipKind = "horizontal"
    _: KW_ONLY
    scale_range: tuple[float, float] | None = None
    diameter: float | None = None
    resampling: Resampling = "antialiased"
    max_category_share: float = 1.0
    color_jitter: bool = True
    exposure: tuple[float, float] | None = None
    blur: float = 0.0
    keep_lost: bool = True

    def draw(
        self,
        size_hw: Size,
        rng: np.random.Generator,
        classes: Callable[[], ClassMap] | None = None,
        areas: Callable[[], Areas] | None = None,
    ) -> Plan:
        transposed = _transposed(self.flip, rng)
        resize = Resize(self._size(turned_size(size_hw, transposed), rng, areas), self.resampling)
        steps: tuple[Flip | Resize | Crop, ...] = (resize,)
        if self.crop_size is not None:
            steps = (resize, self._crop(Geometry(size_hw, (resize,), None, transposed), rng, classes))
        color = draw_color_jitter(rng) if self.color_jitter else None
        steps = (*steps, *_flip(self.flip, rng))
        exposure = None if self.exposure is None else draw_exposure(rng, *self.exposure)
        blur = draw_blur(rng, self.blur) if self.blur else None
        return Plan(Geometry(size_hw, steps, self.pad_size, transposed), color, self.keep_lost, exposure, blur)

    def _size(self, size_hw: Size, rng: np.random.Generator, areas: Callable[[], Areas] | None) -> Size:
        if self.scale_range is None:
            short_edge = self.short_edges[int(rng.integers(len(self.short_edges)))]
            return shortest_edge_size(size_hw, short_edge, self.long_edge)
        low, high = self.scale_range
        factor = low * (high / low) ** rng.random()
        if self.diameter and areas is not None:
            typical = typical_diameter(areas())
            factor *= min(max(self.diameter / typical, 1 / _MOST_RESIZED), _MOST_RESIZED) if typical else 1.0
        return max(1, round(size_hw[0] * factor)), max(1, round(size_hw[1] * factor))

    def _crop(self, resized: Geometry, rng: np.random.Generator, classes: Callable[[], ClassMap] | None) -> Crop:
        assert self.crop_size is not None
        height, width = resized.stepped_hw
        window = min(height, self.crop_size[0]), min(width, self.crop_size[1])

        def draw() -> Crop:
            return Crop(int(rng.integers(height - window[0] + 1)), int(rng.integers(width - window[1] + 1)), window)

        crop = draw()
        if self.max_category_share >= 1 or classes is None:
            return crop
        labels = classes()
        for _ in range(9):
            inside = replace(resized, steps=(*resized.steps, crop)).ids(labels, "floor")
            counts = np.bincount(inside[inside >= 0])
            if np.count_nonzero(counts) > 1 and counts.max() < self.max_category_share * counts.sum():
                break
            crop = draw()
        return crop
