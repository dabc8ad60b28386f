"""No pixel decoder: for a transformer decoder that reads the tokens of the backbone."""

from __future__ import annotations

from torch import nn

from mask2former.models.pixel_decoders.features import TokenFeatures

__all__ = ["NoPixelDecoder"]


class NoPixelDecoder(nn.Module):
    """Passes on the output of the backbone.

    Attributes:
        full_precision: without effect, since nothing is computed.
    """

    full_precision = True

    def set_gradient_checkpointing(self, enable: bool) -> None:
        """There is nothing to recompute."""

    def forward(self, features: TokenFeatures) -> TokenFeatures:
        """The features, unchanged."""
        return features
