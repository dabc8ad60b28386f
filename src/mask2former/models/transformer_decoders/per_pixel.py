"""The baselines of MaskFormer (Table 3 there): classifying pixels instead of masks.

``PerPixelHead`` is a convolution. ``PerPixelPlusHead`` has the transformer and the mask embeddings of MaskFormer, with
one query per class, whose mask logits are the scores of the class.
"""

from __future__ import annotations

from torch import nn

from mask2former.config import MSDeformAttnConfig, PerPixelPlusConfig
from mask2former.models.pixel_decoders.features import PixelFeatures
from mask2former.models.transformer_decoders.standard import OneMapTransformer, mask_embeddings
from mask2former.ops.mask_logits import MaskProduct
from mask2former.structures.pixel_predictions import PixelOutput

__all__ = ["PerPixelHead", "PerPixelPlusHead"]

_DEFAULT, _PIXELS = PerPixelPlusConfig(), MSDeformAttnConfig()


class PerPixelHead(nn.Module):
    """:class:`PixelFeatures` to :class:`PixelOutput` by a 1x1 convolution.

    Args:
        num_classes: K.
        mask_dim: channels of the per-pixel embeddings.
    """

    def __init__(self, num_classes: int, mask_dim: int = _PIXELS.mask_dim) -> None:
        super().__init__()
        self.class_head = nn.Conv2d(mask_dim, num_classes, 1)
        nn.init.kaiming_normal_(self.class_head.weight, mode="fan_out", nonlinearity="relu")
        bias = self.class_head.bias
        assert bias is not None
        nn.init.zeros_(bias)

    def forward(self, features: PixelFeatures, num_frames: int = 1, *, aux_outputs: bool = True) -> PixelOutput:
        """Scores for clips of ``num_frames`` frames; there are no earlier layers."""
        scores = self.class_head(features.mask_features).unflatten(0, (-1, num_frames))
        return PixelOutput(scores.transpose(1, 2))


class PerPixelPlusHead(nn.Module):
    """:class:`PixelFeatures` to :class:`PixelOutput` by one query per class.

    Args:
        num_classes: K, also the number of queries.
        channels: of the map that it attends to.
        mask_dim: channels of the per-pixel embeddings.
        dim: channels of the queries.
        num_layers: of the decoder; scores are predicted after each of them.
        num_encoder_layers: see :class:`OneMapTransformer`, also for the others.
        num_heads: of every attention.
        feedforward_dim: hidden channels of the feed-forward networks.
        dropout: in all layers.
        pre_norm: a norm before each step of a layer instead of after it.
        source: which map.
        project_source: add a convolution even where ``channels`` is ``dim``.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = _PIXELS.dim,
        mask_dim: int = _PIXELS.mask_dim,
        dim: int = _DEFAULT.dim,
        num_layers: int = _DEFAULT.num_layers,
        num_encoder_layers: int = _DEFAULT.num_encoder_layers,
        num_heads: int = _DEFAULT.num_heads,
        feedforward_dim: int = _DEFAULT.feedforward_dim,
        dropout: float = _DEFAULT.dropout,
        *,
        pre_norm: bool = _DEFAULT.pre_norm,
        source: str = _DEFAULT.source,
        project_source: bool = _DEFAULT.project_source,
    ) -> None:
        super().__init__()
        self.transformer = OneMapTransformer(
            channels,
            num_classes,
            dim,
            num_layers,
            num_encoder_layers,
            num_heads,
            feedforward_dim,
            dropout,
            pre_norm=pre_norm,
            source=source,
            project_source=project_source,
        )
        self.mask_head = mask_embeddings(dim, mask_dim)

    def forward(self, features: PixelFeatures, num_frames: int = 1, *, aux_outputs: bool = True) -> PixelOutput:
        """Scores for clips of ``num_frames`` frames, with ``aux_outputs`` also those after earlier layers."""
        states = self.transformer(features, num_frames)
        pixels = features.embeddings(num_frames)
        scores = [
            MaskProduct(self.mask_head(state), pixels).all() for state in (states if aux_outputs else states[-1:])
        ]
        return PixelOutput(scores[-1], [PixelOutput(one) for one in scores[:-1]])
