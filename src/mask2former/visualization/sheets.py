"""Contact sheets: images in rows and columns with titles and a legend."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from mask2former.visualization.fonts import Lettering, readable
from mask2former.visualization.labels import INK, rounded
from mask2former.visualization.regions import Color

__all__ = ["contact_sheet"]

GREY = (112, 112, 120)


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
    """Images in rows and columns on white, with titles and an optional legend of named colours.

    All cells have the same width (``cell_width``, by default that of the widest image, within 160 to 480). A row is as
    high as its highest image. Rows may have different lengths.
    """
    assert any(rows), "a contact sheet needs at least one image"
    columns = max(len(row) for row in rows)
    assert len(column_titles) in (0, columns), (column_titles, columns)
    assert len(row_titles) in (0, len(rows)), (row_titles, len(rows))
    cell = cell_width or min(480, max(160, max(image.width for row in rows for image in row)))
    gap, margin = max(6, cell // 32), max(20, cell // 10)
    small = Lettering(max(13, cell // 19))
    plain = Lettering(max(12, cell // 22))
    large = Lettering(max(20, cell // 10))

    fitted = [[_fit(image, cell) for image in row] for row in rows]
    heights = [max((image.height for image in row), default=0) for row in fitted]
    side = max((round(plain.length(text)) for text in row_titles), default=0)
    side = side + 2 * gap if side else 0
    width = 2 * margin + side + columns * cell + (columns - 1) * gap
    inner = width - 2 * margin
    names = readable([(name, number) for number, (name, _) in enumerate(legend)])
    entries = [(name, color) for name, (_, color) in zip(names, legend, strict=True)]
    chips = _legend_rows(entries, plain, inner, gap)
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
        large.write(draw, (margin, title_at), title, INK, "a")
    if subtitle:
        plain.write(draw, (margin, subtitle_at), subtitle, GREY, "a")
    for index, text in enumerate(column_titles):
        left = margin + side + index * (cell + gap)
        small.write(draw, (left, columns_at), text, INK, "a")
    for index, (top, row) in enumerate(zip(tops, fitted, strict=True)):
        if row_titles:
            plain.write(draw, (margin, top + heights[index] // 2), row_titles[index], GREY, "m")
        for column, image in enumerate(row):
            sheet.paste(image, (margin + side + column * (cell + gap), top))
    for index, row in enumerate(chips):
        middle = legend_at + index * line + line // 2
        for left, name, color in row:
            swatch = round(1.05 * plain.size)
            coverage = rounded(swatch, swatch, swatch // 4)
            sheet.paste(color, (margin + left, middle - swatch // 2), coverage)
            plain.write(draw, (margin + left + round(1.5 * swatch), middle), name, INK, "m")
    return sheet


def _fit(image: Image.Image, width: int) -> Image.Image:
    image = image.convert("RGB")
    if image.width == width:
        return image
    height = max(1, round(image.height * width / image.width))
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _legend_rows(
    legend: Sequence[tuple[str, Color]], font: Lettering, width: int, gap: int
) -> list[list[tuple[int, str, Color]]]:
    """Entries with their left edge, wrapped at ``width``."""
    rows: list[list[tuple[int, str, Color]]] = []
    left = width + 1
    for name, color in legend:
        needed = round(1.6 * font.size + font.length(name))
        if left + needed > width:
            rows.append([])
            left = 0
        rows[-1].append((left, name, color))
        left += needed + 3 * gap
    return rows
