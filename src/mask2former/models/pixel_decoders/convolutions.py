"""What convolutional pixel decoders share: a convolution with its group norm, and the precision of computation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mask2former.errors import UserError
from mask2former.models.layers import conv_kaiming
from mask2former.models.pixel_decoders.features import PixelFeatures

__all__ = ["NORM_GROUPS", "PrecisionDecoder", "conv_norm"]

NORM_GROUPS = 32


def conv_norm(in_channels: int, out_channels: int, kernel: int, *, activate: bool = False) -> nn.Sequential:
    """A convolution without bias that preserves the size, with group norm and, optionally, ReLU."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    parts = [conv_kaiming(convolution), nn.GroupNorm(NORM_GROUPS, out_channels)]
    return nn.Sequential(*parts, nn.ReLU()) if activate else nn.Sequential(*parts)


class PrecisionDecoder(nn.Module):
    """A pixel decoder that computes in at least float32, also under autocast, as published.

    A subclass implements ``_decode``, from the four maps to the result, and has the convolution ``mask_projection``.

    Args:
        dim: channels of the group norms.
        mask_dim: channels of the per-pixel embeddings.

    Attributes:
        full_precision: if False, it computes in the precision of the run.
    """

    mask_projection: nn.Conv2d

    def __init__(self, dim: int, mask_dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.mask_dim = mask_dim
        self.full_precision = True

    def forward(self, features: Sequence[Float[Tensor, "N _C_l _H_l _W_l"]]) -> PixelFeatures:
        """``features``: four maps, finest first.

        Raises:
            UserError: there are not four maps, or the norm of the coarsest has only one value to take statistics of.
        """
        return self.in_its_precision(self._decode, features)

    def _decode(self, features: Sequence[Tensor]) -> PixelFeatures:
        raise NotImplementedError

    def in_its_precision(
        self, decode: Callable[[Sequence[Tensor]], PixelFeatures], features: Sequence[Tensor]
    ) -> PixelFeatures:
        """``decode(features)``; with ``full_precision``, without autocast and in the type of the parameters.

        Raises:
            UserError: as for :meth:`forward`.
        """
        if len(features) != 4:
            raise UserError(
                f"the backbone returned {len(features)} maps; expected four, of strides 4, 8, 16 and 32, finest first"
            )
        count, _, height, width = features[3].shape
        if self.dim // NORM_GROUPS * count * height * width == 1:
            raise UserError(
                f"one image of at most 32x32 pixels is too small for a pixel decoder of dim {self.dim}, whose group "
                f"norms have one value each there; use larger images, or dim {2 * self.dim}"
            )
        if not self.full_precision:
            return decode(features)
        dtype = self.mask_projection.weight.dtype  # float32 under autocast, bfloat16 if the whole model was cast
        with torch.autocast(features[0].device.type, enabled=False):
            return decode([feature.to(dtype) for feature in features])
