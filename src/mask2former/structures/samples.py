"""What data sets pass to models and losses: one image or clip with its objects, and padded batches of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Bool, Int64, Num
from torch import Tensor

__all__ = ["Batch", "ImageBatch", "Sample", "Target"]


@dataclass(frozen=True, slots=True)
class Target:
    """The objects and stuff regions of one clip; an image is a clip of one frame.

    ``labels`` are class indices; ``masks`` are binary, at the size of the image, and may be empty where a segment has
    no pixels in a frame. ``ignored`` is where the ground truth is unknown (void, ignored labels, crowd regions), never
    on a mask; None: everything outside masks is background.
    """

    labels: Int64[Tensor, " N"]
    masks: Bool[Tensor, "N T H W"]
    ignored: Bool[Tensor, "T H W"] | None = None

    def to(self, device: Any) -> Target:
        ignored = None if self.ignored is None else self.ignored.to(device)
        return Target(self.labels.to(device), self.masks.to(device), ignored)


@dataclass(frozen=True, slots=True)
class Sample:
    """One image or clip. ``image`` is RGB in 0..255 (uint8 or float), ``target`` is absent at inference."""

    image: Num[Tensor, "T C H W"]
    target: Target | None = None
    name: str = ""
    info: dict[str, Any] = field(default_factory=dict)  # image id, original size, annotation extras


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Clips padded bottom and right to one size. ``sizes`` are the (height, width) before padding.

    The values in the padding do not matter: the model normalises first and sets them to zero.
    """

    pixels: Num[Tensor, "B T C H W"]
    sizes: tuple[tuple[int, int], ...]

    def to(self, device: Any) -> ImageBatch:
        return ImageBatch(self.pixels.to(device, non_blocking=True), self.sizes)


@dataclass(frozen=True, slots=True)
class Batch:
    """A padded batch with its targets, whose masks and ignored pixels are padded with False to the same size."""

    images: ImageBatch
    targets: tuple[Target, ...]
    names: tuple[str, ...] = ()

    def to(self, device: Any) -> Batch:
        return Batch(self.images.to(device), tuple(target.to(device) for target in self.targets), self.names)
