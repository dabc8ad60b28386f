"""Small parts shared by decoders: packed multi-head attention, and the initialisers the paper's code uses.

Knows nothing of queries, levels or masks.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["MultiHeadAttention", "conv_kaiming", "xavier_matrices"]


class MultiHeadAttention(nn.Module):
    """Multi-head attention with one packed input projection (rows: query, key, value).

    Runs on ``scaled_dot_product_attention``; parameters are named as in ``torch.nn.MultiheadAttention``. ``dropout`` is
    that of attention weights, in training.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Float[Tensor, "B Q C"],
        key: Float[Tensor, "B S C"],
        value: Float[Tensor, "B S C"],
        blocked: Bool[Tensor, "B Q S"] | None = None,
        prior: Float[Tensor, "B heads Q S"] | None = None,
    ) -> Float[Tensor, "B Q C"]:
        """``blocked``: True where a query must not attend, for all heads. ``prior``: added to the scores."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, tokens, C/heads)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        mask = None if blocked is None else ~blocked.unsqueeze(1)
        if prior is not None:
            mask = prior.to(q.dtype) if mask is None else prior.to(q.dtype).masked_fill(~mask, -math.inf)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def weights(
        self,
        query: Float[Tensor, "B Q C"],
        key: Float[Tensor, "B S C"],
        blocked: Bool[Tensor, "B Q S"] | None = None,
        prior: Float[Tensor, "B heads Q S"] | None = None,
    ) -> Float[Tensor, "B heads Q S"]:
        """The weight of each key, which a call never materialises; weights sum to 1 over S. Arguments as in a call."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k = (
            F.linear(x, weight, bias).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key), weights[:2], biases[:2], strict=True)
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
        scores = scores if prior is None else scores + prior.to(scores.dtype)
        scores = scores if blocked is None else scores.masked_fill(blocked.unsqueeze(1), -math.inf)
        return scores.softmax(3)


def xavier_matrices(module: nn.Module) -> None:
    """Xavier-uniform for every parameter with at least two axes; the others are unchanged."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


def conv_kaiming(conv: nn.Conv2d) -> nn.Conv2d:
    """``conv`` with Kaiming-uniform weights (a = 1, fan in) and zero bias."""
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
