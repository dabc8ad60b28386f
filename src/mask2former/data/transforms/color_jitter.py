"""The colour jitter of SSD (Liu et al., ECCV 2016): brightness, contrast, saturation and hue, each half of the time.

Knows arrays only. Hue counts in half degrees and every stage rounds to bytes, as the published training does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

__all__ = ["ColorJitter", "draw_color_jitter"]


@dataclass(frozen=True, slots=True)
class ColorJitter:
    """The changes of one draw; ``None`` leaves a property alone.

    Images with other than three channels have no saturation and hue: only brightness and contrast change, equally for
    all channels.

    Attributes:
        brightness: added, in -32..32.
        contrast: factor in 0.5..1.5.
        contrast_first: whether contrast comes before saturation and hue, or after them.
        saturation: factor in 0.5..1.5.
        hue: added in half degrees, in -18..18.
    """

    brightness: float | None = None
    contrast: float | None = None
    contrast_first: bool = True
    saturation: float | None = None
    hue: int | None = None

    def __call__(self, image: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W C"]:
        """The changed image; the input stays unchanged."""
        if self.brightness is not None:
            image = _affine(image, 1.0, self.brightness)
        if self.contrast is not None and self.contrast_first:
            image = _affine(image, self.contrast, 0.0)
        is_color = image.shape[2] == 3
        if self.saturation is not None and is_color:
            hue, saturation, value = _to_hsv(image)
            image = _to_rgb(hue, np.trunc(np.clip(saturation * np.float32(self.saturation), 0, 255)), value)
        if self.hue is not None and is_color:
            hue, saturation, value = _to_hsv(image)
            image = _to_rgb(_around(hue + np.float32(self.hue)), saturation, value)
        if self.contrast is not None and not self.contrast_first:
            image = _affine(image, self.contrast, 0.0)
        return image


def draw_color_jitter(rng: np.random.Generator) -> ColorJitter:
    """Each property with probability 0.5, contrast first or last with probability 0.5."""

    def half() -> bool:
        return bool(rng.random() < 0.5)

    return ColorJitter(
        brightness=float(rng.uniform(-32, 32)) if half() else None,
        contrast=float(rng.uniform(0.5, 1.5)) if half() else None,
        contrast_first=half(),
        saturation=float(rng.uniform(0.5, 1.5)) if half() else None,
        hue=int(rng.integers(-18, 19)) if half() else None,
    )


def _affine(image: UInt8[np.ndarray, "H W C"], factor: float, offset: float) -> UInt8[np.ndarray, "H W C"]:
    table = np.clip(np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(offset), 0, 255)
    return table.astype(np.uint8)[image]  # Parity: truncated, not rounded


_Plane = Float32[np.ndarray, "H W"]


def _to_hsv(image: UInt8[np.ndarray, "H W 3"]) -> tuple[_Plane, _Plane, _Plane]:
    """Hue in 0..179 (half degrees), saturation and value in 0..255, all whole numbers."""
    red, green, blue = (image[..., channel].astype(np.float32) for channel in range(3))
    value = np.maximum(np.maximum(red, green), blue)
    spread = value - np.minimum(np.minimum(red, green), blue)
    divisor = np.maximum(spread, 1)
    hue = np.where(
        value == red,
        (green - blue) / divisor,
        np.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    hue = np.floor(hue * 30 + np.float32(0.5))
    saturation = np.floor(255 * spread / np.maximum(value, 1) + np.float32(0.5))
    return _around(hue), saturation, value


def _around(hue: _Plane) -> _Plane:
    """Hue back in 0..179, from at most one turn away."""
    hue += 180 * (hue < 0).astype(np.float32)
    hue -= 180 * (hue >= 180).astype(np.float32)
    return hue


def _to_rgb(hue: _Plane, saturation: _Plane, value: _Plane) -> UInt8[np.ndarray, "H W 3"]:
    sector = hue / np.float32(30)
    chroma = value * saturation / np.float32(255)
    result = np.empty((*hue.shape, 3), dtype=np.uint8)
    for channel, turn in enumerate((5, 3, 1)):  # red, green, blue
        index = sector + np.float32(turn)
        index -= 6 * (index >= 6).astype(np.float32)  # several times faster than a remainder
        result[..., channel] = np.rint(value - chroma * np.clip(np.minimum(index, 4 - index), 0, 1))
    return result
