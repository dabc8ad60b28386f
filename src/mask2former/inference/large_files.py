"""Image files read completely or, if they are large and cut into tiles, in parts; and the files of their results.

Folders of images and shards of bulk runs use the same functions.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mask2former.config import InferenceConfig
from mask2former.errors import UserError
from mask2former.inference.predicted_image import LargeImage
from mask2former.media.image_files import ImageFile, ImagePage, NamedBytes, path_of
from mask2former.media.images import read_image
from mask2former.media.regions import LARGE_PIXELS, is_large, open_large, reduced
from mask2former.notes import note
from mask2former.pixels import displayed
from mask2former.results_io.packed import packed_files
from mask2former.structures import PanopticSegmentation, Segmentation, SemanticSegmentation
from mask2former.structures.packed_results import PackedPanoptic, PackedSegmentation, PackedSemantic

__all__ = ["OVERVIEW", "check_unchanged", "encode_result", "file_state", "is_read_by_parts", "read_whole_or_parts"]

OVERVIEW = 4096  # pixels: longer side of the copy of a large image on which its overlay is drawn


def is_read_by_parts(file: ImageFile, settings: InferenceConfig) -> bool:
    """Whether :func:`read_whole_or_parts` reads a file tile by tile, judging by its name and header.

    Raises:
        UserError: the file cannot be read.
    """
    return settings.tile > 0 and isinstance(file, Path | NamedBytes | ImagePage) and is_large(file)


def read_whole_or_parts(
    file: ImageFile, settings: InferenceConfig, *, overlay: bool
) -> UInt8[np.ndarray, "H W C"] | LargeImage:
    """An image file as input of a predictor; a note reports files that are read in parts.

    Args:
        file: the image.
        settings: if ``tile`` is set, large images are read in parts.
        overlay: whether an overlay will be drawn, which the note mentions.

    Raises:
        UserError: the file cannot be read.
        MissingExtraError: the package that reads it is not installed.
    """
    if not is_read_by_parts(file, settings):
        return read_image(file, **settings.reading)
    assert isinstance(file, Path | NamedBytes | ImagePage)
    state = file_state(file)
    regions = open_large(file, **settings.reading)
    note(
        f"slides, and images of more than {LARGE_PIXELS / 1e6:.0f} megapixels, read in parts"
        + (": overlays of large ones are drawn on reduced copies" if overlay else ""),
        f"'{file}' ({regions.size_hw[0]}x{regions.size_hw[1]} pixels, height x width)",
    )
    return LargeImage(regions, -(-max(regions.size_hw) // OVERVIEW), file, state)


def file_state(file: ImageFile) -> tuple[int, ...]:
    """A state that changes when a file is written or replaced; empty if there is no file."""
    try:
        status = os.stat(path_of(file) or "")
    except (OSError, ValueError):
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def check_unchanged(file: ImageFile, state: tuple[int, ...]) -> None:
    """Check that a file has not changed since its state was taken: otherwise its parts may be from different versions.

    Raises:
        UserError: the file was written or replaced.
    """
    if file_state(file) != state:
        raise UserError(f"'{file}' changed while it was being read; run the same command again")


def encode_result(
    result: Segmentation | PackedSegmentation,
    image: UInt8[np.ndarray, "H W C"] | LargeImage,
    *,
    overlay: bool,
    **head: Any,
) -> dict[str, bytes]:
    """The files of a result, by the ends of their names; the JSON file is the last.

    Args:
        result: the result for the image.
        image: as it was read.
        overlay: whether to draw the result on it.
        head: ``model``, ``settings``, ``extra`` and ``palette``, see :meth:`PanopticSegmentation.encoded`.

    Raises:
        UserError: a file that was read in parts has changed meanwhile.
    """
    if isinstance(image, LargeImage):
        assert not isinstance(result, PanopticSegmentation | SemanticSegmentation)
        overview = displayed(reduced(image.regions, image.step)) if overlay else None
        check_unchanged(image.file, image.state)
        return packed_files(result, overview, image.step, **head)
    assert not isinstance(result, PackedPanoptic | PackedSemantic)
    return result.encoded(displayed(image) if overlay else None, **head)
