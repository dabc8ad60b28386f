"""Steps that move images, maps of ids, masks and polygons alike: mirror, resize, crop, turn, and a canvas.

Knows arrays only, no data sets and no models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float64, Int64, Shaped, UInt8
from torch import Tensor

from mask2former.config import Resampling
from mask2former.data.annotated import Polygons
from mask2former.data.transforms.sizes import Size, checked_size, resize_image
from mask2former.errors import UserError

__all__ = ["Crop", "Flip", "Geometry", "Nearest", "Resize", "clip_polygon", "turned_size"]

_IMAGE_FILL = 128  # Parity: of every channel, before normalisation

Indices = Int64[np.ndarray, " _"]
Change = Callable[[UInt8[np.ndarray, "H W C"]], UInt8[np.ndarray, "H W C"]]
Nearest = Literal["centre", "floor"]
"""How ids are resized: by pixel centres, as Pillow resizes the bytes of panoptic maps and decoded masks, or by rounding
``index * old / new`` down, as the published semantic training does (a tensor library resizes its label maps).
"""


@dataclass(frozen=True, slots=True)
class Flip:
    """Mirror; horizontally means left and right are exchanged."""

    axis: Literal["horizontal", "vertical"]

    def size(self, size_hw: Size) -> Size:
        return size_hw

    def image(self, image: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W C"]:
        # torch mirrors twenty times faster than a copy of a reversed array.
        return torch.from_numpy(image).flip(1 if self.axis == "horizontal" else 0).numpy()

    def sources(self, rows: Indices, columns: Indices, nearest: Nearest) -> tuple[Indices, Indices]:
        """Rows and columns of the original image that each row and column shows after this step too."""
        return (rows, columns[::-1]) if self.axis == "horizontal" else (rows[::-1], columns)

    def scale_and_offset(self, size_hw: Size) -> tuple[Float64[np.ndarray, " 2"], Float64[np.ndarray, " 2"]]:
        """What corners (x, y) are multiplied by, and what is added afterwards."""
        height, width = size_hw
        if self.axis == "horizontal":
            return np.array([-1.0, 1.0]), np.array([float(width), 0.0])
        return np.array([1.0, -1.0]), np.array([0.0, float(height)])


@dataclass(frozen=True, slots=True)
class Resize:
    """Resize to a height and width: bilinear for images, antialiased or not, the nearest pixel for ids."""

    size_hw: Size
    resampling: Resampling = "antialiased"

    def __post_init__(self) -> None:
        checked_size(self.size_hw)

    def size(self, size_hw: Size) -> Size:
        return self.size_hw

    def image(self, image: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "h w C"]:
        if image.shape[:2] == self.size_hw or self.resampling != "antialiased":
            return resize_image(image, self.size_hw, self.resampling)
        # torch's kernel for bytes is that of Pillow, vectorised: four to eight times faster, and at most one level
        # of 255 away from it. Inference resizes with Pillow itself.
        planes = torch.from_numpy(image)[None].permute(0, 3, 1, 2)  # channels last in memory, which the kernel wants
        resized = F.interpolate(planes, size=self.size_hw, mode="bilinear", antialias=True, align_corners=False)
        return resized.permute(0, 2, 3, 1)[0].contiguous().numpy()

    def sources(self, rows: Indices, columns: Indices, nearest: Nearest) -> tuple[Indices, Indices]:
        """Rows and columns of the original image that each row and column shows after this step too."""
        height, width = self.size_hw
        return rows[_nearest(len(rows), height, nearest)], columns[_nearest(len(columns), width, nearest)]

    def scale_and_offset(self, size_hw: Size) -> tuple[Float64[np.ndarray, " 2"], Float64[np.ndarray, " 2"]]:
        """What corners (x, y) are multiplied by, and what is added afterwards."""
        return np.array([self.size_hw[1] / size_hw[1], self.size_hw[0] / size_hw[0]]), np.zeros(2)


def _nearest(old: int, new: int, rule: Nearest) -> Indices:
    """Which of ``old`` pixels in a row each of the ``new`` pixels shows."""
    if rule == "floor":
        return np.arange(new) * old // new
    steps = np.full(new, old / new)
    steps[0] /= 2
    return np.minimum(np.add.accumulate(steps).astype(np.int64), old - 1)  # Parity: accumulated, as Pillow does


@dataclass(frozen=True, slots=True)
class Crop:
    """Crop a window that lies within the image."""

    top: int
    left: int
    size_hw: Size

    def size(self, size_hw: Size) -> Size:
        assert 0 <= self.top <= size_hw[0] - self.size_hw[0], (self, size_hw)
        assert 0 <= self.left <= size_hw[1] - self.size_hw[1], (self, size_hw)
        return self.size_hw

    def image(self, image: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "h w C"]:
        return image[self.top : self.top + self.size_hw[0], self.left : self.left + self.size_hw[1]]

    def sources(self, rows: Indices, columns: Indices, nearest: Nearest) -> tuple[Indices, Indices]:
        """Rows and columns of the original image that each row and column shows after this step too."""
        height, width = self.size_hw
        return rows[self.top : self.top + height], columns[self.left : self.left + width]

    def scale_and_offset(self, size_hw: Size) -> tuple[Float64[np.ndarray, " 2"], Float64[np.ndarray, " 2"]]:
        """What corners (x, y) are multiplied by, and what is added afterwards."""
        return np.ones(2), np.array([-float(self.left), -float(self.top)])


@dataclass(frozen=True, slots=True)
class Geometry:
    """Steps in order for images of one size, then a canvas onto which the result is placed at the top left.

    What exceeds the canvas is cut off, what the canvas has beyond it is padding: 128 for images, 0 for ids and masks.
    Padding is not ignored: it is known to be empty.

    Attributes:
        size_hw: size of the images that it applies to.
        canvas_hw: size of the results; None: as large as the steps leave them.
        transposed: whether rows and columns are exchanged before the first step, which gives quarter turns with flips.
    """

    size_hw: Size
    steps: tuple[Flip | Resize | Crop, ...] = ()
    canvas_hw: Size | None = None
    transposed: bool = False

    def __post_init__(self) -> None:
        if self.canvas_hw is not None:
            checked_size(self.canvas_hw)

    @property
    def stepped_hw(self) -> Size:
        """Height and width after the steps, before the canvas."""
        size = turned_size(self.size_hw, self.transposed)
        for step in self.steps:
            size = step.size(size)
        return size

    @property
    def output_hw(self) -> Size:
        return self.canvas_hw or self.stepped_hw

    def image(self, image: UInt8[np.ndarray, "H W C"], *changes: Change | None) -> UInt8[Tensor, "C h w"]:
        """The image on its canvas, with changes of its values applied before padding.

        Raises:
            UserError: a change returns another size, number of channels or type.
        """
        if self.transposed:
            image = np.ascontiguousarray(image.swapaxes(0, 1))
        for step in self.steps:
            image = step.image(image)
        for change in changes:
            image = image if change is None else _changed(image, change)
        height, width = self.output_hw
        image = image[:height, :width]
        full = image.shape[:2] == (height, width)
        shape = (image.shape[2], height, width)
        canvas = np.empty(shape, np.uint8) if full else np.full(shape, _IMAGE_FILL, np.uint8)
        canvas[:, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
        return torch.from_numpy(canvas)

    def ids(self, ids: Shaped[np.ndarray, "H W"], nearest: Nearest = "centre") -> Shaped[np.ndarray, "h w"]:
        """Values per pixel after the steps, cut to the canvas but not padded."""
        assert ids.shape == self.size_hw, (ids.shape, self.size_hw)
        if self.transposed:
            ids = ids.T
        rows, columns = np.arange(ids.shape[0]), np.arange(ids.shape[1])
        for step in self.steps:
            rows, columns = step.sources(rows, columns, nearest)
        rows, columns = rows[: self.output_hw[0]], columns[: self.output_hw[1]]
        # Columns of the smaller image: rows are copied as a whole, which costs next to nothing.
        if len(rows) < ids.shape[0]:
            return ids.take(rows, axis=0).take(columns, axis=1)
        return ids.take(columns, axis=1).take(rows, axis=0)

    def polygons(self, polygons: Polygons) -> list[Float64[np.ndarray, "P 2"]]:
        """Corners transformed as coordinates, and the polygons clipped to what the steps and the canvas leave.

        Polygons that are lost are left out. Without steps and canvas nothing is moved or clipped.
        """
        if self.transposed:
            polygons = [polygon[:, ::-1] for polygon in polygons]
        if not self.steps and self.canvas_hw is None:
            return list(polygons)
        scale, offset, size = np.ones(2), np.zeros(2), turned_size(self.size_hw, self.transposed)
        for step in self.steps:
            step_scale, step_offset = step.scale_and_offset(size)
            scale, offset, size = scale * step_scale, offset * step_scale + step_offset, step.size(size)
        window = min(size[0], self.output_hw[0]), min(size[1], self.output_hw[1])
        clipped = (clip_polygon(polygon * scale + offset, window) for polygon in polygons)
        return [polygon for polygon in clipped if polygon is not None]


def turned_size(size_hw: Size, transposed: bool) -> Size:
    """The size after rows and columns were exchanged, if they were."""
    return (size_hw[1], size_hw[0]) if transposed else size_hw


def clip_polygon(polygon: Float64[np.ndarray, "P 2"], size_hw: Size) -> Float64[np.ndarray, "P 2"] | None:
    """The part of a polygon within 0..width and 0..height, or None where no area is left.

    One polygon stays one (Sutherland and Hodgman): parts of a concave one stay joined along the border of the window,
    where they cover no pixel.
    """
    bounds = np.array([size_hw[1], size_hw[0]], dtype=np.float64)
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    if (low >= bounds).any() or (high <= 0).any():
        return None
    for axis in (0, 1):
        for bound, sign in ((0.0, 1.0), (bounds[axis], -1.0)):
            beyond = low[axis] < 0 if sign > 0 else high[axis] > bound
            if beyond and len(polygon):
                polygon = _clip_half(polygon, axis, bound, sign)
    if len(polygon) < 3 or (np.ptp(polygon, axis=0) == 0).any():
        return None
    return polygon


def _clip_half(polygon: Float64[np.ndarray, "P 2"], axis: int, bound: float, sign: float) -> Float64[np.ndarray, "P 2"]:
    distance = sign * (polygon[:, axis] - bound)
    following, next_distance = np.roll(polygon, -1, axis=0), np.roll(distance, -1)
    inside = distance >= 0
    crosses = inside != (next_distance >= 0)
    share = np.divide(distance, distance - next_distance, out=np.zeros_like(distance), where=crosses)
    crossing = polygon + share[:, None] * (following - polygon)
    crossing[:, axis] = bound
    return np.stack([polygon, crossing], axis=1)[np.stack([inside, crosses], axis=1)]


def _changed(image: UInt8[np.ndarray, "H W C"], change: Change) -> UInt8[np.ndarray, "H W C"]:
    changed = change(np.ascontiguousarray(image))
    if not isinstance(changed, np.ndarray) or (changed.shape, changed.dtype) != (image.shape, image.dtype):
        got = f"{changed.dtype} {changed.shape}" if isinstance(changed, np.ndarray) else type(changed).__name__
        raise UserError(
            f"a change of pixel values (color or blur of a Plan) got a uint8 array {image.shape} and returned {got}; "
            "expected the same shape and type"
        )
    return changed
