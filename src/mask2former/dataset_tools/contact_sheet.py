"""A preview of a data set: some of its images with their annotations on one sheet. Checks nothing."""

from __future__ import annotations

import contextlib
import math
from typing import Unpack

import numpy as np
from PIL import Image

from mask2former import visualization
from mask2former.config import DatasetConfig, Reading
from mask2former.data.annotated import Annotated
from mask2former.data.checks import Split
from mask2former.data.clips import ClipSet
from mask2former.data.sequence import spread_indices
from mask2former.data.transforms import Geometry, Plan, Resize
from mask2former.dataset_tools.check import open_split
from mask2former.errors import UserError
from mask2former.evaluation.comparison import annotation_overlay
from mask2former.pixels import displayed
from mask2former.structures.categories import Categories
from mask2former.text import count

__all__ = ["sheet"]


_COLUMNS, _ROWS = 4, 3
_SIDE = 480  # width of an image in pixels


def sheet(config: DatasetConfig, title: str, **reading: Unpack[Reading]) -> Image.Image | None:
    """Annotated images at even distances, in the colours of their classes; one frame per clip.

    Training images, or validation images where the former cannot be read at all. Broken ones are skipped; None if there
    is nothing to show.
    """
    split: Split = "train"
    samples, _ = open_split(config, split, **reading)
    if samples is None:
        split = "validation"
        samples, _ = open_split(config, split, **reading)
    if samples is None:
        return None
    shown = []
    for index in spread_indices(len(samples), _COLUMNS * _ROWS):
        with contextlib.suppress(UserError):
            if isinstance(samples, ClipSet):  # the middle frame of a clip
                shown += samples.annotated(index, [samples.clip_length(index) // 2]).frames
            else:
                shown.append(samples.annotated(index))
    if not shown:
        return None
    shape = float(np.median([height / width for height, width in (annotated.size_hw for annotated in shown)]))
    box = _SIDE, round(_SIDE * min(1.0, max(0.5, shape)))
    cells = [_cell(annotated, samples.categories, box) for annotated in shown]
    classes = sorted({label for annotated in shown for label in annotated.labels.tolist()})
    legend = [(samples.categories[label].name, samples.categories[label].color) for label in classes]
    grid = [cells[start : start + _COLUMNS] for start in range(0, len(cells), _COLUMNS)]
    what = "clip" if isinstance(samples, ClipSet) else "image"
    total = f"{count(len(samples), what)} ({split}), {count(len(samples.categories), 'class')}"
    subtitle = f"{total}; {count(len(cells), what)} and {count(len(classes), 'class')} shown"
    return visualization.contact_sheet(grid, title=title, subtitle=subtitle, legend=legend, cell_width=_SIDE)


def _cell(annotated: Annotated, categories: Categories, box: tuple[int, int]) -> Image.Image:
    """An annotated image centred on a white one of the given width and height, drawn at its final size."""
    height, width = annotated.size_hw
    ratio = min(box[0] / width, box[1] / height)
    steps = (Resize((max(1, round(height * ratio)), max(1, round(width * ratio)))),) if ratio < 1 else ()
    sample = Plan(Geometry(annotated.size_hw, steps))(annotated)
    scale = max(1, math.ceil(ratio))
    if annotated.polygons or annotated.masks:  # small objects on top of large ones stay visible
        assert sample.target is not None
        items = [(label, categories[label]) for label in sample.target.labels.tolist()]
        regions = [visualization.Region(item.name, item.color, None, label, item.is_thing) for label, item in items]
        image = displayed(np.ascontiguousarray(sample.image[0].permute(1, 2, 0).numpy()))
        drawn = visualization.overlay_instances(image, sample.target.masks[:, 0].numpy(), regions, scale=scale)
    else:
        drawn = annotation_overlay(sample, categories, scale)
    drawn.thumbnail(box, Image.Resampling.LANCZOS)
    cell = Image.new("RGB", box, (255, 255, 255))
    cell.paste(drawn, ((box[0] - drawn.width) // 2, (box[1] - drawn.height) // 2))
    return cell
