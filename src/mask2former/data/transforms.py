"""Geometry of images before the network, and the random augmentations of training.

An augmentation draws a :class:`Plan` from a size and a generator; a plan turns annotated images into samples, so that
all frames of a clip can share one draw. Knows arrays only, no data sets and no models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float64, Int64, Shaped, UInt8
from PIL import Image
from torch import Tensor

from mask2former import limits
from mask2former.config import Resampling
from mask2former.data.annotated import Annotated, Polygons
from mask2former.data.blur import Blur, draw_blur
from mask2former.data.color_jitter import ColorJitter, draw_color_jitter
from mask2former.data.exposure import Change, Exposure, draw_exposure
from mask2former.data.loading.packed import PackedSample, PackedTarget, paint, paint_ignored, plane_type
from mask2former.errors import UserError
from mask2former.limits import check_limit
from mask2former.ops.masks import Patch, polygons_to_patch, typical_diameter
from mask2former.structures.samples import Sample

__all__ = [
    "Augmentation",
    "Crop",
    "Flip",
    "Geometry",
    "LargeScaleJitter",
    "Nearest",
    "Plan",
    "Resize",
    "ResizeCropFlip",
    "class_map",
    "clip_polygon",
    "frame_size",
    "object_areas",
    "resize_clip",
    "resize_image",
    "resize_shortest_edge",
    "shortest_edge_size",
]

IMAGE_FILL = 128  # Parity: of every channel, before normalisation
_NO_SIDE = 1e-5  # pixels; an object whose box is not longer is lost
_MOST_RESIZED = 8.0  # times, up or down, to bring objects to one diameter

Size = tuple[int, int]
ClassMap = Int64[np.ndarray, "H W"]
Areas = Int64[np.ndarray, " N"]
Indices = Int64[np.ndarray, " _"]
Nearest = Literal["centre", "floor"]
"""How ids are resized: by pixel centres, as Pillow resizes the bytes of panoptic maps and decoded masks, or by rounding
``index * old / new`` down, as the published semantic training does (a tensor library resizes its label maps).
"""


def shortest_edge_size(size_hw: tuple[int, int], short_edge: int, long_edge: int) -> tuple[int, int]:
    """(height, width) with the shorter side at ``short_edge`` and the longer at most ``long_edge`` pixels.

    ``short_edge`` 0 keeps the size. Sides round half up; both are at least one pixel.

    Raises:
        UserError: more pixels than ``limits.INPUT_PIXELS``.
    """
    height, width = size_hw
    if not short_edge:
        return height, width
    scale = short_edge / min(height, width)
    if height < width:
        new_height, new_width = float(short_edge), scale * width
    else:
        new_height, new_width = scale * height, float(short_edge)
    longest = max(new_height, new_width)
    if longest > long_edge:
        new_height, new_width = new_height * (long_edge / longest), new_width * (long_edge / longest)
    return _checked((max(1, int(new_height + 0.5)), max(1, int(new_width + 0.5))))


def _checked(size_hw: Size) -> Size:
    """Check a size of images to be made.

    Raises:
        UserError: so many pixels serve no purpose and would fill the memory.
    """
    height, width = size_hw
    what = f"images would be resized or padded to {height}x{width} (height x width); their pixels are:"
    check_limit(what, height * width, limits.INPUT_PIXELS, "choose smaller sizes")
    return size_hw


def resize_image(
    image: UInt8[np.ndarray, "H W C"], size_hw: Size, resampling: Resampling = "antialiased"
) -> UInt8[np.ndarray, "h w C"]:
    """The image at another size, resized as the published models expect it."""
    if image.shape[:2] == tuple(size_hw):
        return image
    if resampling == "bilinear":
        planes = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
        resized = F.interpolate(planes, size=tuple(size_hw), mode="bilinear", align_corners=False)
        # Halves are rounded up as in OpenCV, which is less exact (5.0: an eighth of the values are one level lower).
        return resized.add_(0.5).to(torch.uint8).permute(0, 2, 3, 1)[0].contiguous().numpy()
    # Parity: Pillow's bilinear filter (antialiased when shrinking) on uint8, rounding to uint8 again.
    height, width = size_hw
    if image.shape[2] != 3:  # band by band: with four, Pillow would treat the last as alpha
        bands = [Image.fromarray(np.ascontiguousarray(image[..., band])) for band in range(image.shape[2])]
        return np.dstack([np.asarray(band.resize((width, height), Image.Resampling.BILINEAR)) for band in bands])
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def resize_shortest_edge(
    image: UInt8[np.ndarray, "H W C"], short_edge: int, long_edge: int, resampling: Resampling = "antialiased"
) -> UInt8[np.ndarray, "h w C"]:
    """The image at :func:`shortest_edge_size`."""
    size = shortest_edge_size((image.shape[0], image.shape[1]), short_edge, long_edge)
    return resize_image(image, size, resampling)


def frame_size(frames: Sequence[UInt8[np.ndarray, "H W C"]]) -> Size:
    """The one size of all frames of a clip.

    Raises:
        UserError: there are no frames, or they differ in size.
    """
    sizes = sorted({frame.shape[:2] for frame in frames})
    if len(sizes) != 1:
        found = f"{sizes[0]} and {sizes[-1]} (height, width)" if sizes else "none"
        raise UserError(f"a clip must have at least one frame, and all its frames must have the same size; got {found}")
    return sizes[0]


def resize_clip(
    frames: Sequence[UInt8[np.ndarray, "H W C"]], size_hw: Size, resampling: Resampling = "antialiased"
) -> UInt8[Tensor, "T C h w"]:
    """Frames as the model expects them, each resized like an image."""
    resized = [resize_image(frame, size_hw, resampling) for frame in frames]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)


# --- steps -----------------------------------------------------------------------------------------------------------


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
        _checked(self.size_hw)

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
            _checked(self.canvas_hw)

    @property
    def stepped_hw(self) -> Size:
        """Height and width after the steps, before the canvas."""
        size = _turned(self.size_hw, self.transposed)
        for step in self.steps:
            size = step.size(size)
        return size

    @property
    def output_hw(self) -> Size:
        return self.canvas_hw or self.stepped_hw

    def image(self, image: UInt8[np.ndarray, "H W C"], *changes: Change | None) -> UInt8[Tensor, "C h w"]:
        """The image on its canvas, with changes of its values applied before padding."""
        if self.transposed:
            image = np.ascontiguousarray(image.swapaxes(0, 1))
        for step in self.steps:
            image = step.image(image)
        for change in changes:
            image = image if change is None else change(np.ascontiguousarray(image))
        height, width = self.output_hw
        image = image[:height, :width]
        full = image.shape[:2] == (height, width)
        shape = (image.shape[2], height, width)
        canvas = np.empty(shape, np.uint8) if full else np.full(shape, IMAGE_FILL, np.uint8)
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
        scale, offset, size = np.ones(2), np.zeros(2), _turned(self.size_hw, self.transposed)
        for step in self.steps:
            step_scale, step_offset = step.scale_and_offset(size)
            scale, offset, size = scale * step_scale, offset * step_scale + step_offset, step.size(size)
        window = min(size[0], self.output_hw[0]), min(size[1], self.output_hw[1])
        clipped = (clip_polygon(polygon * scale + offset, window) for polygon in polygons)
        return [polygon for polygon in clipped if polygon is not None]


def _turned(size_hw: Size, transposed: bool) -> Size:
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


# --- plans and recipes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """One draw of a recipe. It can be applied to any number of images of its size, such as the frames of a clip.

    Attributes:
        color: changes of colour, after the steps and before padding.
        exposure: how bright each image becomes, relative to its own brightest values; colours are changed before.
        blur: after that.
        keep_lost: whether objects that were cut off stay as empty masks. Otherwise objects without a polygon (or, given
            as pixels, without a pixel) are left out. A polygon too small for any pixel is not lost.
    """

    geometry: Geometry
    color: ColorJitter | None = None
    keep_lost: bool = True
    exposure: Exposure | None = None
    blur: Blur | None = None

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
    planes = Plan(Geometry(annotated.size_hw)).target(replace(annotated, ignored=None)).planes
    areas = np.zeros(count + 1, dtype=np.int64)
    for plane in planes:
        areas += np.bincount(plane.ravel(), minlength=count + 1)
    return areas[1:]


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
        :func:`object_areas`, for recipes that choose the size by them.
        """
        ...


FlipKind = Literal["horizontal", "vertical", "both", "turns", "none"]


def _transposed(kind: FlipKind, rng: np.random.Generator) -> bool:
    """Whether the image is transposed before all else; only ``turns`` draws a number for it."""
    return kind == "turns" and rng.random() < 0.5


def _flip(kind: FlipKind, rng: np.random.Generator) -> tuple[Flip, ...]:
    if kind in ("both", "turns"):
        return (*_flip("horizontal", rng), *_flip("vertical", rng))
    if kind == "none" or rng.random() >= 0.5:
        return ()
    return (Flip(kind),)


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

    def __init__(
        self,
        image_size: Size = (1024, 1024),
        min_scale: float = 0.1,
        max_scale: float = 2.0,
        flip: FlipKind = "horizontal",
        *,
        resampling: Resampling = "antialiased",
        keep_lost: bool = False,
    ) -> None:
        self.image_size = image_size
        self.min_scale = min_scale
        self.max_scale = max_scale
        self.flip: FlipKind = flip
        self.resampling: Resampling = resampling
        self.keep_lost = keep_lost

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
        turned = _turned(size_hw, transposed)
        ratio = min(scale * box / side for box, side in zip(self.image_size, turned, strict=True))
        height, width = (max(1, round(side * ratio)) for side in turned)  # round() is half to even, as published
        # Parity: the same number places the window on both axes.
        top, left = (
            round(index * max(0, side - box)) for side, box in zip((height, width), self.image_size, strict=True)
        )
        window = min(height, self.image_size[0]), min(width, self.image_size[1])
        steps = (*flip, Resize((height, width), self.resampling), Crop(top, left, window))
        return Plan(Geometry(size_hw, steps, self.image_size, transposed), keep_lost=self.keep_lost)


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
        color_jitter: whether colours are changed, see :class:`~mask2former.data.color_jitter.ColorJitter`.
        exposure: smallest and largest share of 255 to which the brightest values of an image are brought, see
            :func:`~mask2former.data.exposure.draw_exposure`; None: images stay as bright as they are.
        blur: largest standard deviation in pixels, see :func:`~mask2former.data.blur.draw_blur`; 0: none.
        keep_lost: see :class:`Plan`.
    """

    def __init__(
        self,
        short_edges: Sequence[int],
        long_edge: int,
        crop_size: Size | None,
        pad_size: Size | None,
        flip: FlipKind = "horizontal",
        *,
        scale_range: tuple[float, float] | None = None,
        diameter: float | None = None,
        resampling: Resampling = "antialiased",
        max_category_share: float = 1.0,
        color_jitter: bool = True,
        exposure: tuple[float, float] | None = None,
        blur: float = 0.0,
        keep_lost: bool = True,
    ) -> None:
        self.short_edges = tuple(short_edges)
        self.long_edge = long_edge
        self.crop_size = crop_size
        self.pad_size = pad_size
        self.flip: FlipKind = flip
        self.scale_range = scale_range
        self.diameter = diameter
        self.resampling: Resampling = resampling
        self.max_category_share = max_category_share
        self.color_jitter = color_jitter
        self.exposure = exposure
        self.blur = blur
        self.keep_lost = keep_lost

    def draw(
        self,
        size_hw: Size,
        rng: np.random.Generator,
        classes: Callable[[], ClassMap] | None = None,
        areas: Callable[[], Areas] | None = None,
    ) -> Plan:
        transposed = _transposed(self.flip, rng)
        resize = Resize(self._size(_turned(size_hw, transposed), rng, areas), self.resampling)
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
