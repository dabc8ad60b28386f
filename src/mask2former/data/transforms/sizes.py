"""Sizes of images before the network, and images resized to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from mask2former import limits
from mask2former.config import Resampling
from mask2former.errors import UserError
from mask2former.limits import check_limit

__all__ = [
    "Size",
    "by_pillow",
    "checked_size",
    "frame_size",
    "resize_clip",
    "resize_image",
    "shortest_edge_size",
]

Size = tuple[int, int]
"""Height and width in pixels."""


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
    return checked_size((max(1, int(new_height + 0.5)), max(1, int(new_width + 0.5))))


def checked_size(size_hw: Size) -> Size:
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
    return by_pillow(image, lambda part: part.resize((width, height), Image.Resampling.BILINEAR))


def by_pillow(
    image: UInt8[np.ndarray, "H W C"], change: Callable[[Image.Image], Image.Image]
) -> UInt8[np.ndarray, "h w C"]:
    """The image changed by Pillow: as a whole, or band by band, since of four bands Pillow treats the last as alpha."""
    if image.shape[2] == 3:
        return np.array(change(Image.fromarray(np.ascontiguousarray(image))))
    bands = [Image.fromarray(np.ascontiguousarray(image[..., band])) for band in range(image.shape[2])]
    return np.dstack([np.asarray(change(band)) for band in bands])


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
