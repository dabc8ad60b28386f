"""Pictures of segmentations: overlays with outlines and labels, and contact sheets. numpy, SciPy and Pillow only.

Takes arrays, colours and names; knows nothing of result types, categories or tasks. Every function returns a new
picture and is a pure function of its arguments: the same result always looks the same.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy import ndimage

from mask2former.errors import RequestError
from mask2former.pixels import rgb_of_array, rgb_of_pillow

__all__ = ["Color", "Picture", "Region", "contact_sheet", "overlay_instances", "overlay_panoptic", "overlay_semantic"]

Color = tuple[int, int, int]  # RGB in 0..255
# What was segmented: a Pillow image or an array, shown as it is read (see mask2former.data.images.read_image).
Picture = Image.Image | np.ndarray

THING_ALPHA = 0.50
STUFF_ALPHA = 0.52
LABELS_PER_NAME = 8  # of one class; a crowd reads as a crowd after a few
MANY_REGIONS = 15  # from here on, small regions go without a label
INK = (24, 24, 28)
GREY = (112, 112, 120)


@dataclass(frozen=True, slots=True)
class Region:
    """How one mask is shown.

    ``group`` (the class) keeps colours of a class together: its members vary a little around ``color``. ``score`` in
    0..1 is printed when given. Stuff (``is_thing`` False) is filled flat, without an outline. A thing with an
    ``identity``, the number of a track, has the colour of that number instead, whatever else is in the picture.
    """

    name: str
    color: Color
    score: float | None = None
    group: int = 0
    is_thing: bool = True
    identity: int | None = None


# --- overlays --------------------------------------------------------------------------------------------------------


def overlay_panoptic(
    image: Picture,
    ids: Int[np.ndarray, "H W"],
    numbers: Sequence[int],
    regions: Sequence[Region],
    *,
    scale: int = 1,
    labels: bool = True,
) -> Image.Image:
    """``image`` with every segment of an id map: stuff flat, things tinted and outlined, names where they fit.

    Args:
        image: the picture that was segmented.
        ids: segment id per pixel.
        numbers: the id of each region; pixels with other ids stay as they are.
        regions: how each segment is shown.
        scale: enlarges picture and map first, for small pictures.
        labels: whether names are written.

    Raises:
        RequestError: picture and map differ in size.
    """
    index_map = _index_map(ids, numbers)
    return _overlay_map(image, index_map, regions, _spread_colors(regions), scale, labels)


def overlay_semantic(
    image: Picture,
    class_map: Int[np.ndarray, "H W"],
    regions: Sequence[Region],
    *,
    scale: int = 1,
    labels: bool = True,
) -> Image.Image:
    """``image`` with a class map, all classes flat; ``regions[k]`` shows class k, other values stay as they are.

    Raises:
        RequestError: picture and map differ in size.
    """
    index_map = np.where((class_map >= 0) & (class_map < len(regions)), class_map, -1).astype(np.int32)
    flat = [Region(region.name, region.color, None, region.group, is_thing=False) for region in regions]
    return _overlay_map(image, index_map, flat, [region.color for region in flat], scale, labels)


def overlay_instances(
    image: Picture,
    masks: Bool[np.ndarray, "N H W"],
    regions: Sequence[Region],
    *,
    scale: int = 1,
    labels: bool = True,
) -> Image.Image:
    """``image`` with objects that may overlap: small ones lie on large ones.

    Raises:
        RequestError: picture and masks differ in size.
    """
    assert len(masks) == len(regions), (len(masks), len(regions))
    canvas = _canvas(image, (masks.shape[1], masks.shape[2]), scale)
    crops: list[_Crop] = []
    for index, mask in enumerate(masks):
        crop = _crop(index, mask, scale)
        if crop is not None:
            crops.append(crop)
    crops.sort(key=lambda crop: -crop.area)
    colors = _spread_colors(regions)
    for crop in crops:
        window = canvas[crop.window]
        window[crop.mask] = _mix(window[crop.mask], colors[crop.index], THING_ALPHA)
    for crop in crops:
        _draw_outline(canvas, crop, colors[crop.index], scale)
    if labels:
        anchors = []
        for crop in crops:
            region = regions[crop.index]
            anchors.append(_Anchor(region, colors[crop.index], crop.window, crop.area, crop=crop))
        _draw_labels(canvas, anchors)
    return Image.fromarray(canvas)


def _overlay_map(
    image: Picture,
    index_map: Int[np.ndarray, "H W"],
    regions: Sequence[Region],
    colors: Sequence[Color],
    scale: int,
    labels: bool,
) -> Image.Image:
    """``image`` with an index map (-1: nothing)."""
    canvas = _canvas(image, (index_map.shape[0], index_map.shape[1]), scale)
    if scale > 1:
        index_map = index_map.repeat(scale, axis=0).repeat(scale, axis=1)
    # The last row of the tables is that of index -1: nothing is painted there.
    palette = np.zeros((len(regions) + 1, 3), dtype=np.uint8)
    alpha = np.zeros(len(regions) + 1, dtype=np.uint8)
    for index, (region, color) in enumerate(zip(regions, colors, strict=True)):
        alpha[index] = round(255 * (THING_ALPHA if region.is_thing else STUFF_ALPHA))
        palette[index] = color
    tint, opacity = Image.fromarray(palette[index_map]), Image.fromarray(alpha[index_map])
    canvas = np.array(Image.composite(tint, Image.fromarray(canvas), opacity))
    _draw_seams(canvas, index_map)

    crops = []
    for index, window in enumerate(ndimage.find_objects(index_map + 1)):
        if window is not None and index < len(regions):
            mask = index_map[window] == index
            crops.append(_Crop(index, window, mask, int(np.count_nonzero(mask))))
    for crop in crops:
        if regions[crop.index].is_thing:
            _draw_outline(canvas, crop, colors[crop.index], scale)
    if labels:
        centers = _interior_points(index_map, len(regions))
        anchors = [
            _Anchor(regions[crop.index], colors[crop.index], crop.window, crop.area, centers.get(crop.index), crop)
            for crop in crops
        ]
        _draw_labels(canvas, anchors)
    return Image.fromarray(canvas)


# --- masks -----------------------------------------------------------------------------------------------------------

_Window = tuple[slice, slice]  # rows, columns


@dataclass(frozen=True, slots=True)
class _Crop:
    """A mask cut to its box: ``mask`` lies at ``window`` of the canvas."""

    index: int
    window: _Window
    mask: Bool[np.ndarray, "h w"]
    area: int


def _crop(index: int, mask: Bool[np.ndarray, "H W"], scale: int) -> _Crop | None:
    """The crop of a mask on the enlarged canvas; None when it is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    cut = mask[top:bottom, left:right]
    if scale > 1:
        cut = cut.repeat(scale, axis=0).repeat(scale, axis=1)
    window = (slice(top * scale, bottom * scale), slice(left * scale, right * scale))
    return _Crop(index, window, cut, int(np.count_nonzero(cut)))


def _index_map(ids: Int[np.ndarray, "H W"], numbers: Sequence[int]) -> Int[np.ndarray, "H W"]:
    """Position in ``numbers`` of each pixel's id, -1 for other ids."""
    if not len(numbers):
        return np.full(ids.shape, -1, dtype=np.int32)
    order = np.argsort(np.asarray(numbers))
    ascending = np.asarray(numbers)[order]
    found = np.searchsorted(ascending, ids).clip(max=len(ascending) - 1)
    return np.where(ascending[found] == ids, order[found], -1).astype(np.int32)


def _canvas(image: Picture, size_hw: tuple[int, int], scale: int) -> UInt8[np.ndarray, "H W 3"]:
    """A fresh RGB array of the picture, enlarged ``scale`` times."""
    assert scale >= 1, scale
    if isinstance(image, Image.Image):
        upright = Image.fromarray(rgb_of_pillow(image, getattr(image, "filename", "") or "image"))
    elif isinstance(image, np.ndarray):
        upright = Image.fromarray(rgb_of_array(image))
    else:
        raise RequestError(f"cannot draw on {type(image).__name__}: expected a Pillow image or an array of pixels")
    if (upright.height, upright.width) != size_hw:
        raise RequestError(
            f"the picture has {upright.height}x{upright.width} pixels but the result {size_hw[0]}x{size_hw[1]} "
            "(height x width); draw on the picture that was segmented"
        )
    if scale > 1:
        upright = upright.resize((upright.width * scale, upright.height * scale), Image.Resampling.BICUBIC)
    return np.array(upright)


def _line_width(size_hw: tuple[int, ...]) -> float:
    """Standard deviation in pixels of the blur that makes outlines; about half their width."""
    return min(3.0, max(0.85, max(size_hw[:2]) / 800))


def _draw_outline(canvas: UInt8[np.ndarray, "H W 3"], crop: _Crop, color: Color, scale: int) -> None:
    """A smooth line along the edge of a mask; none where the border of the picture cuts it.

    The blurred mask passes through one half at the edge, so its distance from there gives an antialiased line.
    """
    sigma = max(_line_width(canvas.shape), 0.55 * scale)  # enlarged pixels leave steps to smooth
    if min(crop.mask.shape) < 4:  # so small that the line would be all there is
        sigma = 0.5
    margin = int(3 * sigma + 2)
    rows, columns = crop.window
    top, left = max(0, rows.start - margin), max(0, columns.start - margin)
    bottom, right = min(canvas.shape[0], rows.stop + margin), min(canvas.shape[1], columns.stop + margin)
    padded = np.zeros((bottom - top, right - left), dtype=np.uint8)
    padded[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left][crop.mask] = 255
    blurred = np.asarray(Image.fromarray(padded).filter(ImageFilter.GaussianBlur(sigma)))
    strength = _EDGE_STRENGTH[blurred]
    where = strength > 0
    window = canvas[top:bottom, left:right]
    weight = strength[where][:, None]
    line = np.asarray(_lifted(color), dtype=np.float32)
    window[where] = (window[where] * (1 - weight) + line * weight + 0.5).astype(np.uint8)


# From the blurred mask (0..255) to the opacity of the line: full at one half, nothing from about 1.6 deviations on.
_EDGE_STRENGTH: Float32[np.ndarray, 256] = np.clip(
    2.2 * (1 - np.abs(np.arange(256, dtype=np.float32) / 127.5 - 1)) - 0.25, 0, 1
)


def _draw_seams(canvas: UInt8[np.ndarray, "H W 3"], index_map: Int[np.ndarray, "H W"]) -> None:
    """A faint light line where the index changes, so that flat neighbours of like colour stay apart."""
    seam = np.zeros(index_map.shape, dtype=bool)
    seam[:, 1:] |= index_map[:, 1:] != index_map[:, :-1]
    seam[1:] |= index_map[1:] != index_map[:-1]
    canvas[seam] = _mix(canvas[seam], (255, 255, 255), 0.35)


def _mix(pixels: UInt8[np.ndarray, "P 3"], color: Color, alpha: float) -> UInt8[np.ndarray, "P 3"]:
    tint = np.asarray(color, dtype=np.float32) * alpha + 0.5
    return (pixels * np.float32(1 - alpha) + tint.astype(np.float32)).astype(np.uint8)


# --- colours ---------------------------------------------------------------------------------------------------------


def _spread_colors(regions: Sequence[Region]) -> list[Color]:
    """Colour of each region: that of its class, for the second, third, ... thing of a class moved a little."""
    things = [region for region in regions if region.is_thing and region.identity is None]
    # Where only one class is in the picture, its colour says nothing and neighbours need telling apart.
    one_class = len(things) == len(regions) > LABELS_PER_NAME and len({region.group for region in things}) == 1
    seen: dict[int, int] = {}
    colors = []
    for region in regions:
        if not region.is_thing:
            colors.append(region.color)
            continue
        if region.identity is not None:
            colors.append(_identity_color(region.identity))
            continue
        rank = seen.get(region.group, 0)
        seen[region.group] = rank + 1
        colors.append(_varied(region.color, rank, hue_range=1.0 if one_class else 0.1))
    return colors


def _identity_color(number: int) -> Color:
    """A strong colour for the number of a track; neighbouring numbers are far apart in hue."""
    hue, step = (number * 0.618034) % 1, (number * 0.754878) % 1
    return _to_bytes(colorsys.hsv_to_rgb(hue, 0.7 + 0.25 * step, 0.95 - 0.2 * step))


def _varied(color: Color, rank: int, hue_range: float) -> Color:
    """``color`` made strong enough for a tint, with hue and brightness moved by ``rank``."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in color))
    first = (0.5 + rank * 0.618034) % 1 - 0.5  # 0 for rank 0, then spread evenly over -0.5..0.5
    second = (0.5 + rank * 0.754878) % 1 - 0.5
    hue = (hue + hue_range * first) % 1
    saturation = min(1.0, max(saturation, 0.5) * (1 + 0.3 * second)) if saturation > 0.08 else saturation
    value = min(1.0, max(value, 0.72) * (1 - 0.3 * abs(second)))
    return _to_bytes(colorsys.hsv_to_rgb(hue, saturation, value))


def _lifted(color: Color) -> Color:
    """A light, saturated relative of ``color`` for lines on its own tint."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in color))
    return _to_bytes(colorsys.hsv_to_rgb(hue, saturation * 0.75, min(1.0, 0.35 + 0.75 * value)))


def _to_bytes(rgb: tuple[float, float, float]) -> Color:
    red, green, blue = (round(255 * channel) for channel in rgb)
    return red, green, blue


# --- labels ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Anchor:
    """What a label belongs to, and where its mask is deepest (row, column); None: not known yet."""

    region: Region
    color: Color
    window: _Window
    area: int
    center: tuple[int, int] | None = None
    crop: _Crop | None = None


def _interior_points(index_map: Int[np.ndarray, "H W"], count: int) -> dict[int, tuple[int, int]]:
    """Row and column of the deepest pixel of each index, by one distance transform of the whole map."""
    step = 1 + max(index_map.shape) // 400
    coarse = index_map[step // 2 :: step, step // 2 :: step]
    inside = np.zeros((coarse.shape[0] + 2, coarse.shape[1] + 2), dtype=bool)  # the border counts as an edge
    same = np.ones(coarse.shape, dtype=bool)
    same[:, 1:] &= coarse[:, 1:] == coarse[:, :-1]
    same[1:] &= coarse[1:] == coarse[:-1]
    inside[1:-1, 1:-1] = same
    depth = _distance(inside)[1:-1, 1:-1]
    present = [int(index) for index in np.unique(coarse) if 0 <= index < count]
    if not present:
        return {}
    deepest = ndimage.maximum_position(depth, coarse, present)
    return {
        index: (int(row) * step + step // 2, int(column) * step + step // 2)
        for index, (row, column) in zip(present, deepest, strict=True)
    }


def _distance(inside: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    distance = ndimage.distance_transform_edt(inside)
    assert isinstance(distance, np.ndarray)
    return distance.astype(np.float32)


def _deepest(crop: _Crop) -> tuple[int, int]:
    """Row and column of the canvas where a mask is farthest from its edge."""
    step = max(1, max(crop.mask.shape) // 128)
    depth = _distance(np.pad(crop.mask[::step, ::step], 1))[1:-1, 1:-1]
    row, column = divmod(int(depth.argmax()), depth.shape[1])
    return crop.window[0].start + row * step, crop.window[1].start + column * step


def _draw_labels(canvas: UInt8[np.ndarray, "H W 3"], anchors: Sequence[_Anchor]) -> None:
    """Names on the most important regions: never two over one another, none on crumbs in a crowded picture."""
    height, width = canvas.shape[:2]
    font = _font(int(min(30, max(11, round((height * width) ** 0.5 / 36)))))
    probe = _Tag("Ag", None, (0, 0, 0), font)
    if width < 3 * probe.size[0] or height < 2 * probe.size[1]:
        return
    room = max(3, height * width // (10 * probe.size[1] ** 2 * 4))
    # The least area of a labelled region, in areas of its label. In a crowd of one class labels say nothing new.
    least = 0.05 if len(anchors) < MANY_REGIONS else 0.6 if len({a.region.name for a in anchors}) > 1 else 1.5
    per_name: dict[str, int] = {}
    taken: list[tuple[int, int, int, int]] = []
    for anchor in sorted(anchors, key=lambda anchor: -anchor.area * (anchor.region.score or 1.0)):
        if len(taken) >= room:
            break
        if per_name.get(anchor.region.name, 0) >= LABELS_PER_NAME or not anchor.region.name:
            continue
        tag = _Tag(anchor.region.name, anchor.region.score, anchor.color, font)
        size = tag.size
        if size[0] > width - 4 or anchor.area < 12:
            continue
        if anchor.area < least * size[0] * size[1]:
            continue
        for left, top in _places(anchor, size, (height, width)):
            box = (left, top, left + size[0], top + size[1])
            if not any(_touch(box, other) for other in taken):
                tag.paste(canvas, left, top)
                taken.append(box)
                per_name[anchor.region.name] = per_name.get(anchor.region.name, 0) + 1
                break


def _places(anchor: _Anchor, size: tuple[int, int], limits_hw: tuple[int, int]) -> Iterable[tuple[int, int]]:
    """Places (left, top) for a label, best first: the deepest point and above and below it; beside small things."""
    label_width, label_height = size
    rows, columns = anchor.window
    crop = anchor.crop
    assert crop is not None
    row, column = anchor.center or _deepest(crop)

    def clamped(left: float, top: float) -> tuple[int, int]:
        left = min(max(2, left), limits_hw[1] - label_width - 2)
        top = min(max(2, top), limits_hw[0] - label_height - 2)
        return round(left), round(top)

    middle = column - label_width / 2
    hides_it = rows.stop - rows.start < 2.2 * label_height or anchor.area < 1.5 * label_width * label_height
    if anchor.region.is_thing and hides_it:
        if rows.start >= label_height + 4:
            yield clamped((columns.start + columns.stop - label_width) / 2, rows.start - label_height - 2)
        if rows.stop + label_height + 4 <= limits_hw[0]:
            yield clamped((columns.start + columns.stop - label_width) / 2, rows.stop + 2)
        return
    yield clamped(middle, row - label_height / 2)
    for offset in (-1.2, 1.2, -2.4, 2.4):
        shifted = round(row + offset * label_height)
        if rows.start <= shifted < rows.stop and crop.mask[shifted - rows.start, column - columns.start]:
            yield clamped(middle, shifted - label_height / 2)


def _touch(first: tuple[int, int, int, int], second: tuple[int, int, int, int], gap: int = 3) -> bool:
    return (
        first[0] < second[2] + gap
        and second[0] < first[2] + gap
        and first[1] < second[3] + gap
        and second[1] < first[3] + gap
    )


class _Tag:
    """A label: name and score in white on a dark rounded box, with a dot in the colour of the region."""

    def __init__(self, name: str, score: float | None, color: Color, font: ImageFont.FreeTypeFont) -> None:
        self._name = name if len(name) <= 28 else name[:27] + "…"
        self._score = "" if score is None else f"{min(99, int(100 * score))}%" if score < 0.995 else "100%"
        self._color = color
        self._font = font
        ascent, descent = font.getmetrics()
        self._pad = max(3, round(0.32 * font.size))
        self._dot = max(5, round(0.55 * font.size))
        self._name_width = round(font.getlength(self._name))
        score_width = round(font.getlength(self._score)) + self._pad if self._score else 0
        inner = self._dot + self._pad + self._name_width + score_width
        self.size = (inner + 2 * self._pad + 1, ascent + descent + max(1, self._pad // 2))

    def paste(self, canvas: UInt8[np.ndarray, "H W 3"], left: int, top: int) -> None:
        width, height = self.size
        window = canvas[top : top + height, left : left + width]
        box = np.asarray(_rounded(width, height, round(0.3 * height)), dtype=np.float32)[..., None] / 255 * 0.80
        patch = Image.fromarray((window * (1 - box) + np.asarray(INK, dtype=np.float32) * box + 0.5).astype(np.uint8))
        draw = ImageDraw.Draw(patch)
        dot = _rounded(self._dot, self._dot, self._dot // 2)
        patch.paste(_lifted(self._color), (self._pad, (height - self._dot) // 2), dot)
        baseline = round(height / 2 + 0.36 * self._font.size)
        start = 2 * self._pad + self._dot
        draw.text((start, baseline), self._name, fill=(255, 255, 255), font=self._font, anchor="ls")
        if self._score:
            place = (start + self._name_width + self._pad, baseline)
            draw.text(place, self._score, fill=(190, 190, 198), font=self._font, anchor="ls")
        window[...] = np.asarray(patch)


@lru_cache(maxsize=128)
def _rounded(width: int, height: int, radius: int) -> Image.Image:
    """Coverage (0..255) of a box with smooth round corners: drawn four times as large, then averaged."""
    large = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(large).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), 4 * radius, fill=255)
    return large.resize((width, height), Image.Resampling.BOX)


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own scalable font."""
    font = ImageFont.load_default(size=size)
    if not isinstance(font, ImageFont.FreeTypeFont):  # a Pillow built without FreeType answers a bitmap font
        raise RequestError("this Pillow was built without FreeType, which labels need; install the wheel from PyPI")
    return font


# --- contact sheets --------------------------------------------------------------------------------------------------


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
    *,
    title: str = "",
    subtitle: str = "",
    legend: Sequence[tuple[str, Color]] = (),
    cell_width: int | None = None,
) -> Image.Image:
    """Pictures in rows and columns on white, with titles and an optional legend of named colours.

    Cells have one width (``cell_width``, by default that of the widest picture, 160 to 480); a row is as high as its
    highest picture. Rows may be shorter than others.
    """
    assert any(rows), "a contact sheet needs at least one picture"
    columns = max(len(row) for row in rows)
    assert len(column_titles) in (0, columns), (column_titles, columns)
    assert len(row_titles) in (0, len(rows)), (row_titles, len(rows))
    cell = cell_width or min(480, max(160, max(picture.width for row in rows for picture in row)))
    gap, margin = max(6, cell // 32), max(20, cell // 10)
    small = _font(max(13, cell // 19))
    plain = _font(max(12, cell // 22))
    large = _font(max(20, cell // 10))

    fitted = [[_fit(picture, cell) for picture in row] for row in rows]
    heights = [max((picture.height for picture in row), default=0) for row in fitted]
    side = max((round(plain.getlength(text)) for text in row_titles), default=0)
    side = side + 2 * gap if side else 0
    width = 2 * margin + side + columns * cell + (columns - 1) * gap
    inner = width - 2 * margin
    chips = _legend_rows(legend, plain, inner, gap)
    line = round(1.9 * plain.size)

    height = margin
    title_at = height
    height += round(1.3 * large.size) if title else 0
    subtitle_at = height
    height += round(1.5 * plain.size) if subtitle else 0
    height += gap if title or subtitle else 0
    columns_at = height
    height += round(1.3 * small.size) + gap // 2 if column_titles else 0
    tops = []
    for row_height in heights:
        tops.append(height)
        height += row_height + gap
    height -= gap
    legend_at = height + 2 * gap
    height = legend_at + len(chips) * line if chips else height
    height += margin

    sheet = Image.new("RGB", (width, height), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((margin, title_at), title, fill=INK, font=large, anchor="la")
    if subtitle:
        draw.text((margin, subtitle_at), subtitle, fill=GREY, font=plain, anchor="la")
    for index, text in enumerate(column_titles):
        left = margin + side + index * (cell + gap)
        draw.text((left, columns_at), text, fill=INK, font=small, anchor="la")
    for index, (top, row) in enumerate(zip(tops, fitted, strict=True)):
        if row_titles:
            draw.text((margin, top + heights[index] // 2), row_titles[index], fill=GREY, font=plain, anchor="lm")
        for column, picture in enumerate(row):
            sheet.paste(picture, (margin + side + column * (cell + gap), top))
    for index, row in enumerate(chips):
        middle = legend_at + index * line + line // 2
        for left, name, color in row:
            swatch = round(1.05 * plain.size)
            coverage = _rounded(swatch, swatch, swatch // 4)
            sheet.paste(color, (margin + left, middle - swatch // 2), coverage)
            draw.text((margin + left + round(1.5 * swatch), middle), name, fill=INK, font=plain, anchor="lm")
    return sheet


def _fit(picture: Image.Image, width: int) -> Image.Image:
    picture = picture.convert("RGB")
    if picture.width == width:
        return picture
    height = max(1, round(picture.height * width / picture.width))
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _legend_rows(
    legend: Sequence[tuple[str, Color]], font: ImageFont.FreeTypeFont, width: int, gap: int
) -> list[list[tuple[int, str, Color]]]:
    """Entries with their left edge, wrapped at ``width``."""
    rows: list[list[tuple[int, str, Color]]] = []
    left = width + 1
    for name, color in legend:
        needed = round(1.6 * font.size + font.getlength(name))
        if left + needed > width:
            rows.append([])
            left = 0
        rows[-1].append((left, name, color))
        left += needed + 3 * gap
    return rows
