"""Geometry of pictures before the network. Knows arrays only, no data sets and no models."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from PIL import Image

__all__ = ["resize_shortest_edge", "shortest_edge_size"]


def shortest_edge_size(size_hw: tuple[int, int], short_edge: int, long_edge: int) -> tuple[int, int]:
    """(height, width) with the shorter side at ``short_edge`` and the longer at most ``long_edge`` pixels.

    ``short_edge`` 0 keeps the size. Sides round half up; both are at least one pixel.
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
    return max(1, int(new_height + 0.5)), max(1, int(new_width + 0.5))


def resize_shortest_edge(
    image: UInt8[np.ndarray, "H W 3"], short_edge: int, long_edge: int
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture at :func:`shortest_edge_size`, resized as the published models expect it."""
    height, width = shortest_edge_size((image.shape[0], image.shape[1]), short_edge, long_edge)
    if (height, width) == image.shape[:2]:
        return image
    # Parity: Pillow's bilinear filter (antialiased when shrinking) on uint8, rounding to uint8 again.
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(resized)
