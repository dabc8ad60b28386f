"""Names and counts on overlays: tags on objects, or a small plate in a corner that counts them.

If everything drawn is of one class, a name on each object would add no information and hide the object, so the plate
names the class once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image, ImageDraw

from mask2former.text import shortened
from mask2former.visualization.colors import line_color
from mask2former.visualization.fonts import Lettering, readable
from mask2former.visualization.regions import Color, Crop, Region

__all__ = ["INK", "Anchor", "Plate", "counts", "distance", "draw_labels", "rounded"]

LABELS_PER_NAME = 8  # per class; more do not help to read a crowd
MANY_REGIONS = 15  # from this number on, small regions have no label
INK = (24, 24, 28)
_PLATE_ROWS = 8
_NAME = 28  # characters
_GAP = 3  # pixels between labels
_LEGEND_SHARE = 1 / 12  # of the image; a legend may not hide more

_Box = tuple[int, int, int, int]  # left, top, right, bottom
_Row = tuple[str, tuple[Region, int]]  # name, one of the regions, and their number


@dataclass(frozen=True, slots=True)
class Anchor:
    """The region of a label, and where its mask is deepest (row, column); None: not known yet."""

    region: Region
    color: Color
    crop: Crop
    center: tuple[int, int] | None = None


def distance(inside: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """How far each pixel of a mask is from its edge."""
    from scipy import ndimage  # takes half a second, so it is imported only to draw

    distance = ndimage.distance_transform_edt(inside)
    assert isinstance(distance, np.ndarray)
    return distance.astype(np.float32)


def _deepest(crop: Crop) -> tuple[int, int]:
    """Row and column of the canvas where a mask is farthest from its edge."""
    step = max(1, max(crop.mask.shape) // 128)
    depth = distance(np.pad(crop.mask[::step, ::step], 1))[1:-1, 1:-1]
    row, column = divmod(int(depth.argmax()), depth.shape[1])
    return crop.window[0].start + row * step, crop.window[1].start + column * step


def draw_labels(canvas: UInt8[np.ndarray, "H W 3"], anchors: Sequence[Anchor], regions: Sequence[Region]) -> None:
    """Names on the most important regions. They never overlap, and tiny regions in a crowded image have none.

    Things that :func:`counts` counts have no names; a plate, placed where it hides least, shows their number. The
    counts are over ``regions``, including those without a pixel on a reduced image and hence without an anchor; of the
    tracks of a clip, which have a variant, only visible ones count.
    """
    height, width = canvas.shape[:2]
    side = (height * width) ** 0.5
    # Large images are displayed reduced, so text of the usual size would not be legible.
    font = Lettering(round(max(11, min(side / 36, max(30, side / 60)))))
    probe = _Tag("Ag", None, (0, 0, 0), font)
    if not anchors or width < 3 * probe.size[0] or height < 2 * probe.size[1]:
        return
    seen = {anchor.crop.index for anchor in anchors}
    regions = [region for index, region in enumerate(regions) if region.variant is None or index in seen]
    counted = counts(regions)
    if not counted and _is_crowd(anchors, probe.size):
        counted = counts(regions, most=_PLATE_ROWS)
    classes = {_class_of(region) for region, _ in counted}
    named = [anchor for anchor in anchors if not anchor.region.is_thing or _class_of(anchor.region) not in classes]
    names = readable(
        [(region.name, region.group) for region in [*(anchor.region for anchor in named), *(r for r, _ in counted)]]
    )
    taken: list[_Box] = []
    if counted:
        _paste_plate(canvas, list(zip(names[len(named) :], counted, strict=True)), font, anchors, taken)

    room = max(3, height * width // (10 * probe.size[1] ** 2 * 4)) + len(taken)
    # The least area of a labelled region, in areas of its label. In a crowd of one class, labels add no information.
    least = 0.05 if len(named) < MANY_REGIONS else 0.6 if len({a.region.name for a in named}) > 1 else 1.5
    per_name: dict[str, int] = {}
    order = sorted(zip(named, names, strict=False), key=lambda item: -item[0].crop.area * (item[0].region.score or 1.0))
    for anchor, name in order:
        if len(taken) >= room:
            break
        if per_name.get(name, 0) >= LABELS_PER_NAME or not name:
            continue
        tag = _Tag(name, anchor.region.score, anchor.color, font)
        size = tag.size
        if size[0] > width - 4 or anchor.crop.area < 12:
            continue
        if anchor.crop.area < least * size[0] * size[1]:
            continue
        for left, top in _positions(anchor, size, (height, width)):
            box = (left, top, left + size[0], top + size[1])
            if not any(_touch(box, other) for other in taken):
                tag.paste(canvas, left, top)
                taken.append(box)
                per_name[name] = per_name.get(name, 0) + 1
                break
    # A legend of the classes whose names had no room anywhere.
    without = Counter(_class_of(anchor.region) for anchor, name in order if name and name not in per_name)
    first = {_class_of(anchor.region): (name, anchor.region) for anchor, name in reversed(order)}
    legend = [(first[key][0], (first[key][1], number)) for key, number in without.most_common()]
    if legend and not any(anchor.region.identity is not None for anchor in anchors):
        _paste_plate(canvas, legend, font, anchors, taken, is_legend=True)


def _paste_plate(
    canvas: UInt8[np.ndarray, "H W 3"],
    rows: Sequence[_Row],
    font: Lettering,
    anchors: Sequence[Anchor],
    taken: list[_Box],
    *,
    is_legend: bool = False,
) -> None:
    """A plate where it hides the fewest things and no label, with as many rows as there is room for.

    It is drawn only if there is room for one name. A legend hides at most a twelfth of the image.
    """
    height, width = canvas.shape[:2]
    for most in range(min(len(rows), _PLATE_ROWS), min(len(rows), 2) - 1, -1):
        plate = Plate(rows, font, most, dots=is_legend or len(rows) > 1)
        if is_legend and plate.size[0] * plate.size[1] > _LEGEND_SHARE * height * width:
            continue
        position = _emptiest(plate.size, anchors, (height, width), taken)
        if position is not None:
            plate.paste(canvas, *position)
            taken.append((*position, position[0] + plate.size[0], position[1] + plate.size[1]))
            return


# --- counts ----------------------------------------------------------------------------------------------------------


def counts(regions: Sequence[Region], most: int = 1) -> list[tuple[Region, int]]:
    """One thing of each class and the number of them, the most frequent first; empty for more than ``most`` classes.

    Names of single objects, such as tracks, are not counted. A single thing among stuff, whose names are drawn, is
    named, too, instead of counted.
    """
    things = [region for region in regions if region.is_thing]
    numbers = Counter(_class_of(region) for region in things)
    if not things or len(numbers) > most:
        return []
    if len(things) == 1 and (len(regions) > 1 or things[0].identity is not None):
        return []
    first = {_class_of(region): region for region in reversed(things)}
    return [(first[key], number) for key, number in sorted(numbers.items(), key=lambda item: (-item[1], item[0]))]


def _class_of(region: Region) -> tuple[int, str]:
    return region.group, region.name


def _is_crowd(anchors: Sequence[Anchor], tag_size: tuple[int, int]) -> bool:
    """Whether there are so many and such small things of several classes that names would hide most of them."""
    areas = [anchor.crop.area for anchor in anchors if anchor.region.is_thing]
    return len(areas) >= MANY_REGIONS and float(np.median(areas)) < 3 * tag_size[0] * tag_size[1]


def _emptiest(
    size: tuple[int, int], anchors: Sequence[Anchor], limits_hw: tuple[int, int], taken: Sequence[_Box]
) -> tuple[int, int] | None:
    """Position (left, top) along the border where a plate hides the fewest pixels of things, preferably in a corner.

    None if there is no room beside ``taken``.
    """
    width, height = size
    gap = max(2, height // 6)
    right, bottom = limits_hw[1] - width - gap, limits_hw[0] - height - gap
    if right < gap or bottom < gap:
        return None
    step = 1 + max(limits_hw) // 1024
    filled = np.zeros((-(-limits_hw[0] // step) + 1, -(-limits_hw[1] // step) + 1), dtype=np.int32)
    for anchor in anchors:
        if anchor.region.is_thing:
            rows, columns = anchor.crop.window
            part = anchor.crop.mask[-rows.start % step :: step, -columns.start % step :: step]
            top, left = -(-rows.start // step) + 1, -(-columns.start // step) + 1
            filled[top : top + part.shape[0], left : left + part.shape[1]] |= part
    filled = filled.cumsum(axis=0).cumsum(axis=1)
    corners = [(gap, gap), (right, gap), (gap, bottom), (right, bottom)]
    along = [(left, top) for top in (gap, bottom) for left in range(gap, right, max(1, width // 4))]
    along += [(left, top) for left in (gap, right) for top in range(gap, bottom, max(1, height // 2))]

    def hidden(position: tuple[int, int]) -> int:
        top, left, low, far = (
            -(-value // step) for value in (position[1], position[0], position[1] + height, position[0] + width)
        )
        return int(filled[low, far] - filled[top, far] - filled[low, left] + filled[top, left])

    free = [
        (left, top)
        for left, top in [*corners, *along]
        if not any(_touch((left, top, left + width, top + height), other) for other in taken)
    ]
    return min(free, key=hidden, default=None)  # the first of equal positions


class Plate:
    """A line for each class with its number, with ``dots`` in the colours of classes.

    If there are more than ``most`` rows, the last one counts the rest.
    """

    def __init__(self, rows: Sequence[_Row], font: Lettering, most: int = _PLATE_ROWS, *, dots: bool = True) -> None:
        kept = rows if len(rows) <= most else rows[: most - 1]
        self.lines = [
            f"{shortened(name, _NAME)}: {number}" if region.is_thing else shortened(name, _NAME)
            for name, (region, number) in kept
        ]
        self._colors = [region.color for _, (region, _) in kept] if dots else []
        if rest := rows[len(kept) :]:
            self.lines.append(f"others: {sum(number for _, (_, number) in rest)}")
        self._font = font
        self._pad = max(3, round(0.32 * font.size))
        self._dot = max(5, round(0.55 * font.size))
        self._line = font.ascent + font.descent + max(1, self._pad // 2)
        self._indent = self._pad + (self._dot + self._pad if self._colors else 0)
        width = self._indent + max(round(font.length(line)) for line in self.lines) + self._pad + 1
        self.size = (width, self._line * len(self.lines))

    def paste(self, canvas: UInt8[np.ndarray, "H W 3"], left: int, top: int) -> None:
        patch = _dark_box(canvas, (left, top), self.size, round(0.3 * self._line))
        draw = ImageDraw.Draw(patch)
        for row, line in enumerate(self.lines):
            middle = (row + 0.5) * self._line
            if row < len(self._colors):
                position = (self._pad, round(middle - self._dot / 2))
                patch.paste(line_color(self._colors[row]), position, rounded(self._dot, self._dot, self._dot // 2))
            self._font.write(draw, (self._indent, round(middle + 0.36 * self._font.size)), line, (255, 255, 255))
        canvas[top : top + self.size[1], left : left + self.size[0]] = np.asarray(patch)


# --- tags ------------------------------------------------------------------------------------------------------------


def _positions(anchor: Anchor, size: tuple[int, int], limits_hw: tuple[int, int]) -> Iterable[tuple[int, int]]:
    """Positions (left, top) for a label, best first: the deepest point, above and below it; beside small things."""
    label_width, label_height = size
    crop = anchor.crop
    rows, columns = crop.window
    row, column = anchor.center or _deepest(crop)

    def clamped(left: float, top: float) -> tuple[int, int]:
        left = min(max(2, left), limits_hw[1] - label_width - 2)
        top = min(max(2, top), limits_hw[0] - label_height - 2)
        return round(left), round(top)

    middle = column - label_width / 2
    hides_it = rows.stop - rows.start < 2.2 * label_height or crop.area < 1.5 * label_width * label_height
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


def _touch(first: _Box, second: _Box) -> bool:
    return (
        first[0] < second[2] + _GAP
        and second[0] < first[2] + _GAP
        and first[1] < second[3] + _GAP
        and second[1] < first[3] + _GAP
    )


class _Tag:
    """A label: name and score in white on a dark rounded box, with a dot in the colour of the region."""

    def __init__(self, name: str, score: float | None, color: Color, font: Lettering) -> None:
        self._name = shortened(name, _NAME)
        self._score = "" if score is None else f"{int(100 * score + 1e-6)}%"
        self._color = color
        self._font = font
        self._pad = max(3, round(0.32 * font.size))
        self._dot = max(5, round(0.55 * font.size))
        self._name_width = round(font.length(self._name))
        score_width = round(font.length(self._score)) + self._pad if self._score else 0
        inner = self._dot + self._pad + self._name_width + score_width
        self.size = (inner + 2 * self._pad + 1, font.ascent + font.descent + max(1, self._pad // 2))

    def paste(self, canvas: UInt8[np.ndarray, "H W 3"], left: int, top: int) -> None:
        width, height = self.size
        patch = _dark_box(canvas, (left, top), self.size, round(0.3 * height))
        draw = ImageDraw.Draw(patch)
        dot = rounded(self._dot, self._dot, self._dot // 2)
        patch.paste(line_color(self._color), (self._pad, (height - self._dot) // 2), dot)
        baseline = round(height / 2 + 0.36 * self._font.size)
        start = 2 * self._pad + self._dot
        self._font.write(draw, (start, baseline), self._name, (255, 255, 255))
        if self._score:
            self._font.write(draw, (start + self._name_width + self._pad, baseline), self._score, (190, 190, 198))
        canvas[top : top + height, left : left + width] = np.asarray(patch)


def _dark_box(
    canvas: UInt8[np.ndarray, "H W 3"], corner: tuple[int, int], size: tuple[int, int], radius: int
) -> Image.Image:
    """A part of the canvas below a dark rounded box, as an image to draw on."""
    window = canvas[corner[1] : corner[1] + size[1], corner[0] : corner[0] + size[0]]
    box = np.asarray(rounded(*size, radius), dtype=np.float32)[..., None] / 255 * 0.80
    return Image.fromarray((window * (1 - box) + np.asarray(INK, dtype=np.float32) * box + 0.5).astype(np.uint8))


@lru_cache(maxsize=128)
def rounded(width: int, height: int, radius: int) -> Image.Image:
    """Coverage (0..255) of a box with smooth round corners: drawn four times as large, then averaged."""
    large = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(large).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), 4 * radius, fill=255)
    return large.resize((width, height), Image.Resampling.BOX)
