"""One layer of the masked decoder: attention to the pixels, to the other queries, feed-forward."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from mask2former.models.layers import MultiHeadAttention

__all__ = ["DecoderLayer"]


class DecoderLayer(nn.Module):
    """Cross-attention, self-attention, feed-forward; residual and norm after each (Sec. 3.2.1, Fig. 2).

    Args:
        dim: channels of queries, keys and values.
        num_heads: of both attentions.
        feedforward_dim: hidden channels of the feed-forward network.
        dropout: of attention weights, hidden units, and the output of each step.
        cross_attention: creates the cross-attention module, see ``attention.py``.
        self_first: self-attention before cross-attention.
        pre_norm: a norm before each step instead of after it.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        dropout: float = 0.0,
        cross_attention: Callable[[int, int, float], nn.Module] = MultiHeadAttention,
        *,
        self_first: bool = False,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        self.self_first = self_first
        self.pre_norm = pre_norm
        self.cross_attention = cross_attention(dim, num_heads, dropout)
        self.cross_norm = nn.LayerNorm(dim)
        self.self_attention = MultiHeadAttention(dim, num_heads, dropout)
        self.self_norm = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        queries: Tensor,
        query_positions: Tensor,
        key: Tensor,
        value: Tensor,
        guide: Tensor | None,
        apart: Tensor | None = None,
    ) -> Tensor:
        """``guide``: input of the cross-attention, for instance where a query must not attend.

        ``apart``: True where queries must not attend to each other.
        """

        def to_pixels(queries: Tensor) -> Tensor:
            return self.cross_attention(queries + query_positions, key, value, guide)

        def to_queries(queries: Tensor) -> Tensor:
            placed = queries + query_positions
            return self.self_attention(placed, placed, queries, apart)

        attentions = [(to_pixels, self.cross_norm), (to_queries, self.self_norm)]
        for attend, norm in attentions[::-1] if self.self_first else attentions:
            queries = self._step(queries, attend, norm)
        return self._step(queries, self._feed_forward, self.feedforward_norm)

    def _feed_forward(self, queries: Tensor) -> Tensor:
        return self.linear2(self.dropout(F.relu(self.linear1(queries))))

    def _step(self, queries: Tensor, change: Callable[[Tensor], Tensor], norm: nn.Module) -> Tensor:
        if self.pre_norm:
            return queries + self.dropout(change(norm(queries)))
        return norm(queries + self.dropout(change(queries)))
