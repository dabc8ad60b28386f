"""The transformer decoder of MaskFormer (Sec. 3.3 and 4.2), which attends to all pixels of one map.

Queries start from zero and differ only in their positions. A layer is self-attention, cross-attention and feed-forward,
as in DETR; the same head predicts classes and masks after every layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mask2former.config import MSDeformAttnConfig, StandardDecoderConfig, parse_arguments
from mask2former.errors import UserError
from mask2former.models.layers import MultiHeadAttention, conv_kaiming, xavier_matrices
from mask2former.models.pixel_decoders.features import PixelFeatures
from mask2former.models.position_encoding import token_encoding
from mask2former.models.transformer_layers import TransformerEncoder
from mask2former.ops.mask_logits import MaskProduct
from mask2former.structures.outputs import MaskOutput

__all__ = ["OneMapTransformer", "StandardTransformerDecoder", "mask_embeddings"]

_DEFAULT, _PIXELS = StandardDecoderConfig(), MSDeformAttnConfig()
_MAPS = ("res2", "res3", "res4", "res5")


class _DecoderLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward; each with a residual and a norm after or before it."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float, *, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attention = MultiHeadAttention(dim, num_heads, dropout)
        self.cross_attention = MultiHeadAttention(dim, num_heads, dropout)
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.self_norm = nn.LayerNorm(dim)
        self.cross_norm = nn.LayerNorm(dim)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, query_positions: Tensor, key: Tensor, value: Tensor) -> Tensor:
        def attend(queries: Tensor) -> Tensor:
            placed = queries + query_positions
            return self.dropout(self.self_attention(placed, placed, queries))

        def read(queries: Tensor) -> Tensor:
            return self.dropout(self.cross_attention(queries + query_positions, key, value))

        def transform(queries: Tensor) -> Tensor:
            return self.dropout(self.linear2(self.dropout(F.relu(self.linear1(queries)))))

        for step, norm in ((attend, self.self_norm), (read, self.cross_norm), (transform, self.feedforward_norm)):
            queries = queries + step(norm(queries)) if self.pre_norm else norm(queries + step(queries))
        return queries


class OneMapTransformer(nn.Module):
    """From a map and learned query positions to the states of the queries after every layer.

    Args:
        channels: of the map.
        num_queries: number of queries.
        dim: channels of the queries.
        num_layers: of the decoder.
        num_encoder_layers: over the map, before it.
        num_heads: of every attention.
        feedforward_dim: hidden channels of the feed-forward networks.
        dropout: in all layers, also of their attention.
        pre_norm: a norm before each step of a layer instead of after it.
        source: which map; see :class:`~mask2former.config.StandardDecoderConfig`.
        project_source: add a convolution even where ``channels`` is ``dim``; otherwise one is added only where they
            differ.

    Raises:
        UserError: ``dim`` or ``source`` is not what :class:`~mask2former.config.StandardDecoderConfig` accepts.
    """

    def __init__(
        self,
        channels: int,
        num_queries: int,
        dim: int,
        num_layers: int,
        num_encoder_layers: int,
        num_heads: int,
        feedforward_dim: int,
        dropout: float,
        *,
        pre_norm: bool,
        source: str,
        project_source: bool,
    ) -> None:
        super().__init__()
        parse_arguments(StandardDecoderConfig, {"dim": dim, "num_heads": num_heads, "source": source})
        self.dim = dim
        self.source = source
        project = project_source or channels != dim
        self.input_projection = conv_kaiming(nn.Conv2d(channels, dim, 1)) if project else nn.Identity()
        self.encoder = (
            TransformerEncoder(dim, num_encoder_layers, num_heads, feedforward_dim, dropout, pre_norm=pre_norm)
            if num_encoder_layers
            else None
        )
        self.layers = nn.ModuleList(
            _DecoderLayer(dim, num_heads, feedforward_dim, dropout, pre_norm=pre_norm) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.query_positions = nn.Embedding(num_queries, dim)
        xavier_matrices(self.layers)

    def forward(self, features: PixelFeatures, num_frames: int) -> list[Float[Tensor, "B Q C"]]:
        """The states after every layer, normed; keys of a clip are the pixels of all its frames.

        Raises:
            UserError: the pixel decoder does not provide the map.
        """
        feature = self.input_projection(self._map(features))
        tokens = feature.flatten(2).transpose(1, 2).unflatten(0, (-1, num_frames)).flatten(1, 2)  # (B, T*H*W, C)
        position = token_encoding(feature.shape[2:], self.dim, feature, num_frames)
        if self.encoder is not None:
            tokens = self.encoder(tokens, position)
        placed = tokens + position
        query_positions = self.query_positions.weight.expand(tokens.shape[0], -1, -1)  # len() would be fixed in exports
        queries = torch.zeros_like(query_positions)
        states = []
        for layer in self.layers:
            queries = layer(queries, query_positions, placed, tokens)
            states.append(self.norm(queries))
        return states

    def _map(self, features: PixelFeatures) -> Tensor:
        if self.source == "mask_features":
            return features.mask_features
        found = features.encoded
        if self.source in _MAPS:
            found = None if features.backbone is None else features.backbone[_MAPS.index(self.source)]
        if found is None:
            raise UserError(
                f"the pixel decoder does not provide the map that the transformer decoder attends to ({self.source}); "
                "expected PixelFeatures with encoded, for encoder, or with backbone, for res2 to res5"
            )
        return found


def mask_embeddings(dim: int, mask_dim: int) -> nn.Sequential:
    """Three layers that turn a query into the embedding to multiply with those of pixels."""
    linear = (nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, mask_dim))
    return nn.Sequential(linear[0], nn.ReLU(), linear[1], nn.ReLU(), linear[2])


class StandardTransformerDecoder(nn.Module):
    """:class:`PixelFeatures` to :class:`MaskOutput`.

    Args:
        num_classes: K; the head has one more row for "no object".
        channels: of the map that it attends to.
        mask_dim: channels of the per-pixel embeddings.
        dim: channels of the queries.
        num_queries: Q.
        num_layers: of the decoder; predictions are made after each of them.
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
        channels: int = 2048,
        mask_dim: int = _PIXELS.mask_dim,
        dim: int = _DEFAULT.dim,
        num_queries: int = _DEFAULT.num_queries,
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
        self.num_queries = num_queries
        self.transformer = OneMapTransformer(
            channels,
            num_queries,
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
        self.class_head = nn.Linear(dim, num_classes + 1)
        self.mask_head = mask_embeddings(dim, mask_dim)

    def forward(self, features: PixelFeatures, num_frames: int = 1, *, aux_outputs: bool = True) -> MaskOutput:
        """Predictions for clips of ``num_frames`` frames, folded clip-major into the first axis of ``features``.

        With ``aux_outputs=False`` only the last prediction is kept.
        """
        *earlier, last = self.transformer(features, num_frames)
        pixels = features.embeddings(num_frames)

        def read(state: Tensor, aux: list[MaskOutput] | None = None) -> MaskOutput:
            return MaskOutput(self.class_head(state), MaskProduct(self.mask_head(state), pixels), state, aux)

        return read(last, [read(state) for state in earlier] if aux_outputs else None)
