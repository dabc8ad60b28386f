"""Masked-attention transformer decoder (Mask2Former, Sec. 3.2), for clips; an image is a clip of one frame.

Queries attend to one resolution per layer (strides 32, 16, 8, round robin), each only where the previous prediction
put its mask. The same head reads classes and masks before the first and after every layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mask2former.config import MaskedDecoderConfig, MSDeformAttnConfig
from mask2former.models.layers import MultiHeadAttention, conv_kaiming, xavier_matrices
from mask2former.models.pixel_decoders.features import PixelFeatures
from mask2former.models.position_encoding import sine_encoding
from mask2former.ops.mask_logits import MaskLogits, MaskProduct
from mask2former.structures.outputs import MaskOutput

__all__ = ["DecoderLayer", "MaskedTransformerDecoder", "blocked_attention"]

_DEFAULT, _PIXELS = MaskedDecoderConfig(), MSDeformAttnConfig()
_NUM_LEVELS = 3


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward; residual and norm after each (Sec. 3.2.1, Fig. 2).

    With ``pre_norm`` the norms come before them.
    """

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, *, pre_norm: bool = False) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.cross_attention = MultiHeadAttention(dim, num_heads)
        self.cross_norm = nn.LayerNorm(dim)
        self.self_attention = MultiHeadAttention(dim, num_heads)
        self.self_norm = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.feedforward_norm = nn.LayerNorm(dim)

    def forward(
        self, queries: Tensor, query_positions: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None
    ) -> Tensor:
        if self.pre_norm:
            queries = queries + self.cross_attention(self.cross_norm(queries) + query_positions, key, value, blocked)
            normed = self.self_norm(queries)
            queries = queries + self.self_attention(normed + query_positions, normed + query_positions, normed)
            return queries + self.linear2(F.relu(self.linear1(self.feedforward_norm(queries))))
        attended = self.cross_attention(queries + query_positions, key, value, blocked)
        queries = self.cross_norm(queries + attended)
        placed = queries + query_positions
        queries = self.self_norm(queries + self.self_attention(placed, placed, queries))
        return self.feedforward_norm(queries + self.linear2(F.relu(self.linear1(queries))))


class MaskedTransformerDecoder(nn.Module):
    """:class:`PixelFeatures` to :class:`MaskOutput`.

    Args:
        num_classes: K; the head has one more row for "no object".
        channels: of the multi-scale features; a projection is added only where they differ from ``dim``.
        mask_dim: channels of the per-pixel embeddings.
        num_layers: decoder layers; the published ``DEC_LAYERS`` is one larger.
        temporal: whether positions include the frame index (3-D code of the video model).
        masked_attention: False lets queries attend everywhere, which is what the method is compared with.
        pre_norm: norms come before attention and feed-forward instead of after them.
        project_inputs: a projection also where ``channels`` is ``dim``.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = _PIXELS.dim,
        mask_dim: int = _PIXELS.mask_dim,
        dim: int = _DEFAULT.dim,
        num_queries: int = _DEFAULT.num_queries,
        num_layers: int = _DEFAULT.num_layers,
        num_heads: int = _DEFAULT.num_heads,
        feedforward_dim: int = _DEFAULT.feedforward_dim,
        *,
        temporal: bool = _DEFAULT.position_encoding == "3d",
        masked_attention: bool = _DEFAULT.masked_attention,
        pre_norm: bool = _DEFAULT.pre_norm,
        project_inputs: bool = _DEFAULT.project_inputs,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_queries = num_queries
        self.masked_attention = masked_attention
        self.temporal = temporal
        self.input_projections = nn.ModuleList(
            conv_kaiming(nn.Conv2d(channels, dim, 1)) if project_inputs or channels != dim else nn.Identity()
            for _ in range(_NUM_LEVELS)
        )
        self.layers = nn.ModuleList(
            DecoderLayer(dim, num_heads, feedforward_dim, pre_norm=pre_norm) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.query_features = nn.Embedding(num_queries, dim)
        self.query_positions = nn.Embedding(num_queries, dim)
        self.level_embedding = nn.Embedding(_NUM_LEVELS, dim)
        self.class_head = nn.Linear(dim, num_classes + 1)
        self.mask_head = nn.ModuleList((nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, mask_dim)))
        xavier_matrices(self.layers)

    def forward(self, features: PixelFeatures, num_frames: int = 1, *, aux_outputs: bool = True) -> MaskOutput:
        """Predictions for clips of ``num_frames`` frames, folded clip-major into the first axis of ``features``.

        With ``aux_outputs=False`` only the last prediction is kept.
        """
        # Pixels are read one by one, so the channels of each lie together.
        mask_features = features.mask_features.contiguous(memory_format=torch.channels_last)
        mask_features = mask_features.unflatten(0, (-1, num_frames))  # (B, T, C_mask, h, w)
        sizes = [(level.shape[2], level.shape[3]) for level in features.multi_scale]
        keys, values = self._tokens(features, num_frames)

        batch = mask_features.shape[0]
        queries = self.query_features.weight.expand(batch, -1, -1)
        query_positions = self.query_positions.weight.expand(batch, -1, -1)
        kind = mask_features.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):  # once, not for every product
            mask_features = mask_features.to(torch.get_autocast_dtype(kind))
        # Attention reads masks at the sizes of the levels. Resizing is linear, so the pixel embeddings are resized
        # instead, once for all queries and layers.
        frames = mask_features.detach().flatten(0, 1)
        attended = [
            F.interpolate(frames, size=size, mode="bilinear", align_corners=False).unflatten(0, (-1, num_frames))
            for size in sizes
        ]

        outputs = []
        for index, layer in enumerate(self.layers):
            level = index % _NUM_LEVELS
            normed, embeddings = self._read(queries)
            if aux_outputs:
                outputs.append(MaskOutput(self.class_head(normed), MaskProduct(embeddings, mask_features), normed))
            blocked = None
            if self.masked_attention:
                blocked = blocked_attention(MaskProduct(embeddings.detach(), attended[level]))
            queries = layer(queries, query_positions, keys[level], values[level], blocked)
        normed, embeddings = self._read(queries)
        return MaskOutput(self.class_head(normed), MaskProduct(embeddings, mask_features), normed, outputs)

    def _tokens(self, features: PixelFeatures, num_frames: int) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values (B, T*H_l*W_l, C) of each level; the level embedding is in both, the position in keys."""
        keys, values = [], []
        for level, feature in enumerate(features.multi_scale):
            height, width = feature.shape[2:]
            projected = self.input_projections[level](feature).flatten(2).transpose(1, 2)  # (B*T, H*W, C)
            value = projected.unflatten(0, (-1, num_frames)).flatten(1, 2) + self.level_embedding.weight[level]
            position = sine_encoding(
                num_frames,
                height,
                width,
                self.dim,
                temporal=self.temporal,
                dtype=feature.dtype,
                device=feature.device,
            )
            keys.append(value + position.flatten(0, 2).to(value.dtype))
            values.append(value)
        return keys, values

    def _read(self, queries: Tensor) -> tuple[Float[Tensor, "B Q C"], Float[Tensor, "B Q C_mask"]]:
        """Queries after the shared norm, and what the shared head makes of them to multiply with pixel embeddings."""
        normed = self.norm(queries)
        embeddings = normed
        for layer in self.mask_head[:-1]:
            embeddings = F.relu(layer(embeddings))
        return normed, self.mask_head[-1](embeddings)


def blocked_attention(masks: MaskLogits) -> Bool[Tensor, "B Q S"]:
    """Where each query must not attend: outside its mask (probability below 0.5), unless that is all (Eq. 3)."""
    blocked = (masks.all().sigmoid() < 0.5).flatten(2)
    return blocked & ~blocked.all(dim=2, keepdim=True)
