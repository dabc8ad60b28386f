"""Shared by tests of annotation files: masks, and reading files of any tool beside an image."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mask2former.data.datasets.tool_files import open_tool_files
from mask2former.data.datasets.tool_formats import ToolName

H, W = 40, 60
SQUARE = [[5, 5], [15, 5], [15, 15], [5, 15]]
OTHER = [[30, 20], [50, 20], [50, 30], [30, 30]]


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((H, W), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def png(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, format="PNG")
    return buffer.getvalue()


def read(root: Path, tool: ToolName, content: Any, name: str = "a.json", **options: Any) -> tuple[list[Any], list[str]]:
    """Class and mask of each object in the image ``a.png``, and the notes."""
    (root / "images").mkdir()
    Image.fromarray(np.zeros((H, W, 3), dtype=np.uint8)).save(root / "images" / "a.png")
    file = root / "ann" / name
    file.parent.mkdir()
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    path = file.parent if tool == "supervisely" else file
    samples = open_tool_files(tool, [(path, root / "images")], **options)
    target = samples[0].target
    assert target is not None
    labels = [samples.categories[label].name for label in target.labels.tolist()]
    return list(zip(labels, target.masks[:, 0].numpy(), strict=True)), samples.notes


ALONE = np.zeros((H, W), dtype=bool)
ALONE[3, 7] = ALONE[20, 0:30] = ALONE[-1, -1] = True


def check_disc(mask: np.ndarray) -> None:
    """Check that the mask is the disc of radius 10 in the middle."""
    y, x = np.mgrid[:H, :W] + 0.5
    inside = np.hypot(x - 30, y - 20)
    assert mask[inside < 9.4].all()
    assert not mask[inside > 10.6].any()


def check_turned(mask: np.ndarray) -> None:
    """Check that the mask is an ellipse in the middle, turned clockwise (y grows downwards) as all tools define it."""
    ends = [
        (round(20 + side * 13 * math.sin(math.radians(30))), round(30 + side * 13 * math.cos(math.radians(30))))
        for side in (1, -1)
    ]
    assert all(mask[end] for end in ends)
    assert not any(mask[40 - y, x] for y, x in ends)  # ends of the ellipse turned the other way
