"""Queries among the tokens of a plain vision transformer: a mask transformer without a decoder (EoMT).

The last blocks of the backbone process the queries together with its own tokens. Before each of them, in training, and
after the last, the same head predicts classes and masks. In training, a share of the queries attends only to patches
inside the masks predicted before a block; the share falls from all to none, block after block. So inference needs no
masks for attention, and only the last prediction is computed.

Reference: EoMT (Kerssies et al., Your ViT is Secretly an Image Segmentation Model, CVPR 2025), Sec. 3. Our additions:
shares are drawn for each query, a query whose mask is empty attends everywhere, and clips; ``docs/variants.md`` has the
list.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mask2former.config import EncoderOnlyConfig
from mask2former.models.backbones.pyramid import ChannelNorm
from mask2former.models.pixel_decoders.features import TokenFeatures
from mask2former.models.transformer_decoders.attention import blocked_attention
from mask2former.ops.mask_logits import MaskProduct
from mask2former.structures.outputs import MaskOutput

__all__ = ["EncoderOnlyDecoder", "masked_shares"]

_DEFAULT = EncoderOnlyConfig()
_POWER = 0.9
_HALVINGS = 2  # of the stride, from 16 to 4


def masked_shares(progress: float, num_blocks: int) -> list[float]:
    """The share of queries whose attention each block masks.

    Training has a period before the first share falls, one for each block, and one after the last has fallen. During
    its own period a share is ``(1 - passed) ** 0.9``.

    Args:
        progress: completed share of the training, 0..1.
        num_blocks: number of blocks that process queries.
    """
    passed = [progress * (num_blocks + 2) - 1 - block for block in range(num_blocks)]
    return [(1 - min(1.0, max(0.0, share))) ** _POWER for share in passed]


class EncoderOnlyDecoder(nn.Module):
    """:class:`TokenFeatures` to :class:`MaskOutput`.

    Frames of a clip form one sequence, without a temporal code; a token of a frame counts 1/T in attention, so a static
    clip is equivalent to its frame.

    Args:
        num_classes: K; the head has one more row for "no object".
        dim: of the tokens.
        num_queries: Q.
        num_blocks: blocks of the backbone that process queries.
        mask_annealing: whether attention is masked in training; see :meth:`set_progress`.
    """

    masked: Tensor

    def __init__(
        self,
        num_classes: int,
        dim: int,
        num_queries: int = _DEFAULT.num_queries,
        num_blocks: int = 4,
        *,
        mask_annealing: bool = _DEFAULT.mask_annealing,
    ) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.mask_annealing = mask_annealing
        self.queries = nn.Embedding(num_queries, dim)
        self.upscaling = nn.Sequential(*(_Upscaling(dim) for _ in range(_HALVINGS)))
        self.class_head = nn.Linear(dim, num_classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim)
        )
        # A tensor, so that a compiled model stays compiled; not stored, since it follows from the step.
        self.register_buffer("masked", torch.zeros(num_blocks), persistent=False)

    def set_progress(self, share: float) -> None:
        """Completed share of the training, 0..1, which determines :func:`masked_shares`.

        A model for which this was never called masks nothing, neither in training nor in inference.
        """
        self.masked.copy_(torch.tensor(masked_shares(share, len(self.masked))))

    def forward(self, features: TokenFeatures, num_frames: int = 1, *, aux_outputs: bool = True) -> MaskOutput:
        """Predictions for clips of ``num_frames`` frames, folded clip-major into the first axis of ``features``.

        With ``aux_outputs=False`` only the last prediction is kept.
        """
        prefix, patches = (
            tokens.unflatten(0, (-1, num_frames)).flatten(1, 2) for tokens in (features.prefix, features.patches)
        )
        count = prefix.shape[1]
        queries = self.queries.weight.to(patches.dtype).expand(patches.shape[0], -1, -1)
        tokens = torch.cat((prefix, queries, patches), dim=1)
        start = count + self.num_queries  # of the patches
        bias = self._bias(tokens, count, num_frames)

        outputs = []
        for index, block in enumerate(features.blocks):
            masks = self.training and self.mask_annealing
            scores = bias
            if aux_outputs or masks:
                output = self._read(features, tokens, count, num_frames)
                if aux_outputs:
                    outputs.append(output)
                if masks:
                    scores = self._masked(output, features.grid, tokens, bias, count, self.masked[index])
            given: dict[str, Any] = {"attn_mask": scores}
            if features.ropes is not None:
                unturned = start - features.prefix.shape[1]  # which the block rotates with the patches
                given["rope"] = _with_unturned(features.ropes[index], unturned, num_frames)
            if features.checkpointing and self.training:
                tokens = checkpoint(block, tokens, use_reentrant=False, **given)
                assert isinstance(tokens, Tensor)
            else:
                tokens = block(tokens, **given)
        last = self._read(features, tokens, count, num_frames)
        return MaskOutput(last.class_logits, last.masks, last.query_features, outputs)

    def _read(self, features: TokenFeatures, tokens: Float[Tensor, "B N C"], count: int, num_frames: int) -> MaskOutput:
        """What queries predict at one depth."""
        start = count + self.num_queries
        normed = features.norm(tokens)
        queries, patches = normed[:, count:start], normed[:, start:]
        grids = patches.unflatten(1, (num_frames, *features.grid)).flatten(0, 1).movedim(3, 1)
        pixels = self.upscaling(grids).contiguous(memory_format=torch.channels_last).unflatten(0, (-1, num_frames))
        return MaskOutput(self.class_head(queries), MaskProduct(self.mask_head(queries), pixels), queries)

    def _bias(self, tokens: Float[Tensor, "B N C"], count: int, num_frames: int) -> Float[Tensor, "1 1 1 N"] | None:
        """The term added to attention scores so that T frames count as one."""
        if num_frames == 1:
            return None
        bias = tokens.new_full((1, 1, 1, tokens.shape[1]), -math.log(num_frames))
        bias[..., count : count + self.num_queries] = 0
        return bias

    def _masked(
        self,
        output: MaskOutput,
        grid: tuple[int, int],
        tokens: Float[Tensor, "B N C"],
        bias: Float[Tensor, "1 1 1 N"] | None,
        count: int,
        share: Float[Tensor, ""],
    ) -> Float[Tensor, "B 1 N N"]:
        """Like the above, with masked attention of queries to patches for a share of the queries."""
        masks = output.masks
        assert isinstance(masks, MaskProduct)
        embeddings, pixels = (factor.detach() for factor in masks.factors)
        # Resizing is linear, so the pixel embeddings are resized instead of the masks.
        frames = F.interpolate(pixels.flatten(0, 1), size=grid, mode="bilinear", align_corners=False)
        blocked = blocked_attention(MaskProduct(embeddings, frames.unflatten(0, pixels.shape[:2])))
        drawn = torch.rand(blocked.shape[:2], device=blocked.device) < share
        batch, total, _ = tokens.shape
        start = count + self.num_queries
        scores = tokens.new_zeros(batch, 1, total, total) if bias is None else bias.repeat(batch, 1, total, 1)
        scores[:, 0, count:start, start:].masked_fill_(blocked & drawn.unsqueeze(2), -torch.inf)
        return scores


class _Upscaling(nn.Sequential):
    """Doubles height and width."""

    def __init__(self, dim: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(dim, dim, 2, 2),
            nn.GELU(),
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False),
            ChannelNorm(dim),
        )


def _with_unturned(rope: Float[Tensor, "*heads S D"], count: int, num_frames: int) -> Float[Tensor, "*heads _N D"]:
    """Rotary positions of the patches of all frames, after those of ``count`` tokens that are not rotated.

    timm's are the sines of all channels, then the cosines.
    """
    half = rope.shape[-1] // 2
    still = torch.cat((rope.new_zeros(half), rope.new_ones(half))).expand(*rope.shape[:-2], count, -1)
    return torch.cat((still, *[rope] * num_frames), dim=-2)
