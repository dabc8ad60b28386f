"""The transformer encoder of DETR over the pixels of one map, for the decoders that use one.

MaskFormer (Sec. 4.2) uses it in its pixel decoder, or before its transformer decoder.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mask2former.models.layers import MultiHeadAttention, xavier_matrices

__all__ = ["TransformerEncoder"]


class _EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each with a residual and a norm: after it, or with ``pre_norm`` before it."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float, *, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = MultiHeadAttention(dim, num_heads, dropout)
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def _attend(self, tokens: Tensor, position: Tensor) -> Tensor:
        placed = tokens + position
        return self.dropout(self.attention(placed, placed, tokens))

    def _feed_forward(self, tokens: Tensor) -> Tensor:
        return self.dropout(self.linear2(self.dropout(F.relu(self.linear1(tokens)))))

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        if self.pre_norm:
            tokens = tokens + self._attend(self.norm1(tokens), position)
            return tokens + self._feed_forward(self.norm2(tokens))
        tokens = self.norm1(tokens + self._attend(tokens, position))
        return self.norm2(tokens + self._feed_forward(tokens))


class TransformerEncoder(nn.Module):
    """Layers over the tokens of a map; with ``pre_norm``, whose layers end without a norm, a final one follows."""

    def __init__(
        self, dim: int, num_layers: int, num_heads: int, feedforward_dim: int, dropout: float, *, pre_norm: bool
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _EncoderLayer(dim, num_heads, feedforward_dim, dropout, pre_norm=pre_norm) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim) if pre_norm else nn.Identity()
        xavier_matrices(self)

    def forward(self, tokens: Float[Tensor, "N S C"], position: Float[Tensor, "S C"]) -> Float[Tensor, "N S C"]:
        for layer in self.layers:
            tokens = layer(tokens, position)
        return self.norm(tokens)
