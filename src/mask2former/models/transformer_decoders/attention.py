"""Where queries attend in an image: the kinds of cross-attention that the paper compares (Mask2Former, Table 4c).

A kind consists of a module for each layer and a guide: what that module receives about the masks before the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mask2former.models.layers import MultiHeadAttention
from mask2former.ops.mask_logits import MaskLogits
from mask2former.ops.points import pixel_centers

__all__ = [
    "KINDS",
    "AttentionKind",
    "Grid",
    "MaskPooling",
    "SpatiallyModulatedAttention",
    "blocked_attention",
    "token_positions",
]

Grid = tuple[int, int, int]
"""Frames, height and width of tokens."""


class AttentionKind(NamedTuple):
    """A kind of attention to an image.

    Attributes:
        module: created from dim, number of heads and dropout; is called with queries ``(B, Q, C)``, keys and values
            ``(B, S, C)``, and the guide.
        guide: computed from the masks at the tokens of a layer, and from the grids of these tokens, one after the
            other.
        reads_masks: whether the guide depends on the masks.
    """

    module: Callable[[int, int, float], nn.Module]
    guide: Callable[[MaskLogits, Sequence[Grid]], Tensor | None]
    reads_masks: bool


def blocked_attention(masks: MaskLogits) -> Bool[Tensor, "B Q S"]:
    """Where each query must not attend: outside its mask (probability below 0.5), unless that is everywhere (Eq. 3)."""
    blocked = (masks.all().sigmoid() < 0.5).flatten(2)
    return blocked & ~blocked.all(dim=2, keepdim=True)


def token_positions(grids: Sequence[Grid], like: Tensor) -> Float[Tensor, "S 2"]:
    """(x, y) of the centre of each token in its frame, in 0..1; at least float32, on the device of ``like``."""
    frames = [pixel_centers(size_hw, like).expand(count, -1, -1).flatten(0, 1) for count, *size_hw in grids]
    return torch.cat(frames)


class SpatiallyModulatedAttention(MultiHeadAttention):
    """Attention to all pixels, stronger around a centre.

    Each query predicts its centre and, for each head, an offset from it and a width. The weights are multiplied by a
    Gaussian of the distance, whose logarithm is added to the scores. Lengths are in 1/32 of the image, about one token
    at stride 32. All frames of a clip share one centre.

    Reference: SMCA (Gao et al., ICCV 2021), Sec. 3.2.
    """

    _UNITS = 32.0
    _BANDWIDTH = 8.0
    _LEAST = -1e4  # fits into half precision
    _WIDTHS = 5.0  # the largest logarithm of a width, and the negative of the smallest

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__(dim, num_heads, dropout)
        self.center = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 2))
        self.spread = nn.Linear(dim, 4 * num_heads)  # for each head, offset and logarithm of the width, both (x, y)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  (another guide)
        self,
        query: Float[Tensor, "B Q C"],
        key: Float[Tensor, "B S C"],
        value: Float[Tensor, "B S C"],
        positions: Float[Tensor, "S 2"],
    ) -> Float[Tensor, "B Q C"]:
        """``positions``: of the keys."""
        return super().forward(query, key, value, prior=self.prior(query, positions))

    def weights(  # pyright: ignore[reportIncompatibleMethodOverride]  (another guide)
        self,
        query: Float[Tensor, "B Q C"],
        key: Float[Tensor, "B S C"],
        positions: Float[Tensor, "S 2"] | None = None,
    ) -> Float[Tensor, "B heads Q S"]:
        """Arguments as in :class:`MultiHeadAttention`; without ``positions`` the Gaussian is omitted."""
        return super().weights(query, key, prior=None if positions is None else self.prior(query, positions))

    def prior(self, query: Float[Tensor, "B Q C"], positions: Float[Tensor, "S 2"]) -> Float[Tensor, "B heads Q S"]:
        """What is added to the scores: 0 for the pixel nearest to the centre of a head, in widths, less for others."""
        centers, widths = (values.to(positions.dtype).unsqueeze(3).unbind(4) for values in self.centers(query))
        x, y = (  # one axis at a time, since there are many pixels of all queries and heads
            (positions[:, axis] - centers[axis]) * (self._UNITS / widths[axis]) for axis in range(2)
        )
        scores = (x.square() + y.square()) / -self._BANDWIDTH
        # Softmax ignores the difference, and half precision has no room for it.
        return (scores - scores.detach().amax(3, keepdim=True)).clamp(min=self._LEAST)

    def centers(
        self, query: Float[Tensor, "B Q C"]
    ) -> tuple[Float[Tensor, "B heads Q 2"], Float[Tensor, "B heads Q 2"]]:
        """Centre of each head, as (x, y) in 0..1 where it is in the image, and widths."""
        spread = self.spread(query).unflatten(2, (self.num_heads, 4)).transpose(1, 2)
        offsets, widths = spread.chunk(2, dim=3)
        widths = widths.clamp(-self._WIDTHS, self._WIDTHS).exp()
        return self.center(query).sigmoid().unsqueeze(1) + offsets / self._UNITS, widths


class MaskPooling(nn.Module):
    """Replaces attention by the mean inside the mask, projected: every pixel of it counts equally, whatever it shows.

    Reference: K-Net (Zhang et al., NeurIPS 2021), Sec. 3.2; in the decoder: Mask2Former, Table 4c.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        del num_heads, dropout  # there are no attention weights
        self.out_proj = nn.Linear(dim, dim)

    def forward(
        self,
        query: Float[Tensor, "B Q C"],
        key: Float[Tensor, "B S C"],
        value: Float[Tensor, "B S C"],
        blocked: Bool[Tensor, "B Q S"],
    ) -> Float[Tensor, "B Q C"]:
        """``blocked``: True outside the mask of a query, which contains at least one pixel."""
        shares = self.weights(query, key, blocked).squeeze(1).to(value.dtype)  # (B, Q, S)
        return self.out_proj(shares @ value)

    def weights(
        self,
        query: Float[Tensor, "B Q C"],
        key: Float[Tensor, "B S C"],
        blocked: Bool[Tensor, "B Q S"] | None = None,
    ) -> Float[Tensor, "B 1 Q S"]:
        """The weight of each key, in at least float32; without ``blocked`` all weights are equal."""
        if blocked is None:
            blocked = torch.zeros((*query.shape[:2], key.shape[1]), dtype=torch.bool, device=key.device)
        inside = (~blocked).to(torch.promote_types(key.dtype, torch.float32))
        return (inside / inside.sum(2, keepdim=True)).unsqueeze(1)


def _mask(masks: MaskLogits, grids: Sequence[Grid]) -> Tensor:
    return blocked_attention(masks)


def _nothing(masks: MaskLogits, grids: Sequence[Grid]) -> None:
    return None


def _positions(masks: MaskLogits, grids: Sequence[Grid]) -> Tensor:
    return token_positions(grids, masks.factors[0])


KINDS: Mapping[str, AttentionKind] = {
    "masked": AttentionKind(MultiHeadAttention, _mask, reads_masks=True),
    "full": AttentionKind(MultiHeadAttention, _nothing, reads_masks=False),
    "smca": AttentionKind(SpatiallyModulatedAttention, _positions, reads_masks=False),
    "mask_pool": AttentionKind(MaskPooling, _mask, reads_masks=True),
}
"""The kinds by the values of ``transformer_decoder.attention``."""
