"""How training images and clips are augmented."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mask2former.config.fields import PositiveFloat, PositiveInt, Resampling, Strict
from mask2former.errors import UserError

__all__ = [
    "AugmentationConfig",
    "Flip",
    "LargeScaleJitterConfig",
    "NoAugmentationConfig",
    "ResizeCropFlipConfig",
    "check_exposure",
]

# both: drawn independently; turns: also transposed, which adds quarter turns. Both are for views from above.
Flip = Literal["horizontal", "vertical", "both", "turns", "none"]


def check_exposure(low: float, high: float) -> None:
    """Check the limits of ``exposure``, from a run file or in Python.

    Raises:
        UserError: these are not two ascending shares of 255, from 0.01 to 1.
    """
    if not 0.01 <= low <= high <= 1:
        raise UserError(f"exposure must be two ascending shares of 255, from 0.01 to 1, got {low:g} and {high:g}")


class NoAugmentationConfig(Strict):
    """Images without changes."""

    name: Literal["none"] = "none"


class LargeScaleJitterConfig(Strict):
    """Flip, resize by a random factor, crop or pad to a fixed size (Mask2Former, Sec. 4.1: COCO)."""

    name: Literal["large-scale-jitter"] = "large-scale-jitter"
    image_size: tuple[PositiveInt, PositiveInt] = (1024, 1024)  # height, width of every output
    min_scale: PositiveFloat = 0.1  # of the box into which the image is fitted
    max_scale: PositiveFloat = 2.0
    resampling: Resampling = "antialiased"
    flip: Flip = "horizontal"  # with probability 0.5
    keep_lost: bool = False  # objects that are cropped away remain as empty masks (published for panoptic)

    @model_validator(mode="after")
    def _rising(self) -> LargeScaleJitterConfig:
        if self.min_scale > self.max_scale:
            raise ValueError(f"min_scale {self.min_scale} must not be above max_scale {self.max_scale}")
        return self


class ResizeCropFlipConfig(Strict):
    """Resize to a random short edge, random crop, colour jitter, flip, pad; defaults are those of ADE20K instance."""

    name: Literal["resize-crop-flip"] = "resize-crop-flip"
    short_edges: tuple[PositiveInt, ...] = Field(default=tuple(range(320, 1281, 64)), min_length=1)  # pixels
    long_edge: PositiveInt = 2560  # upper limit, pixels
    # instead of short edges: a factor between these two for images of any size, if all objects are at one scale
    scale_range: tuple[PositiveFloat, PositiveFloat] | None = None
    # pixels: with it, factors are relative to the size at which the median object of the image has this diameter
    diameter: PositiveFloat | None = None
    resampling: Resampling = "antialiased"
    crop_size: tuple[PositiveInt, PositiveInt] | None = (640, 640)  # height, width; smaller images are not cropped
    max_category_share: float = Field(default=1.0, gt=0.0, le=1.0)  # of one class in a crop, or it is redrawn; 1: off
    color_jitter: bool = True
    # shares of 255 between which the brightest values of half of the images are brought; colour jitter then changes
    # brightness in proportion. For images that use different parts of the range, such as fluorescence
    exposure: tuple[float, float] | None = None
    blur: float = Field(default=0.0, ge=0.0, le=100.0)  # largest standard deviation in pixels, for half of the images
    flip: Flip = "horizontal"  # with probability 0.5
    # height, width of every output, by default crop_size; None: only to the largest of a batch, as always
    pad_size: tuple[PositiveInt, PositiveInt] | None = Field(default_factory=lambda given: given.get("crop_size"))
    keep_lost: bool = True  # objects that are cropped away remain as empty masks

    @model_validator(mode="after")
    def _rising(self) -> ResizeCropFlipConfig:
        if self.scale_range is not None and not self.scale_range[0] <= self.scale_range[1] <= 100:
            raise ValueError(f"scale_range must be ascending, up to 100, got {self.scale_range}")
        if self.exposure is not None:
            check_exposure(*self.exposure)
        if self.diameter is not None and self.scale_range is None:
            raise ValueError(
                "diameter is the size that scale_range is relative to; set scale_range too, for instance [0.7, 1.4]"
            )
        return self


AugmentationConfig = Annotated[
    NoAugmentationConfig | LargeScaleJitterConfig | ResizeCropFlipConfig, Field(discriminator="name")
]
