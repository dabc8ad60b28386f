"""Grey, alpha and bands as red, green and blue."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mask2former.notes import note
from mask2former.text import percent

__all__ = ["displayed", "grey_to_rgb", "on_white"]


def on_white(layers: Image.Image, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """An RGBA image blended onto white; unchanged where it is opaque."""
    alpha = np.asarray(layers.getchannel("A"))
    share = np.count_nonzero(alpha < 255) / alpha.size
    if not share:
        return np.array(layers.convert("RGB"))
    hidden = np.asarray(layers)[..., :3][alpha == 0]
    covers = len(hidden) and (hidden != hidden[0]).any()
    faint = "" if (most := int(alpha.max())) == 255 else f", alpha is {percent(most / 255)} at most"
    note(
        "images with an alpha channel, blended onto white (if the fourth band is something else, such as infrared, "
        "remove it)",
        f"'{name}' ({percent(share)} of the pixels{faint}{', which hide other values' if covers else ''})",
    )
    backdrop = Image.new("RGBA", layers.size, (255, 255, 255, 255))
    return np.array(Image.alpha_composite(backdrop, layers).convert("RGB"))


def grey_to_rgb(grey: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """One value in all three colours; contiguous."""
    return np.ascontiguousarray(np.broadcast_to(grey[..., None], (*grey.shape, 3)))


def displayed(image: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W 3"]:
    """What a model was given, for drawing: the first three bands as RGB; of one or two bands, the first as grey."""
    if image.shape[2] == 3:
        return image
    return grey_to_rgb(image[..., 0]) if image.shape[2] < 3 else np.ascontiguousarray(image[..., :3])
