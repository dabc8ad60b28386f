"""Multi-scale deformable attention pixel decoder (Mask2Former, Sec. 3.2.2 and 4.1; Deformable DETR, Sec. 4.1).

Six encoder layers over the tokens of strides 32, 16 and 8, then one top-down step to stride 4. Frames of clips are
independent here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mask2former.config import MSDeformAttnConfig
from mask2former.errors import UserError
from mask2former.models.layers import conv_kaiming, xavier_matrices
from mask2former.models.pixel_decoders.features import PixelFeatures
from mask2former.models.position_encoding import sine_encoding
from mask2former.ops.deform_attn import deformable_sampling
from mask2former.ops.filled import filled

__all__ = ["DeformableAttention", "MSDeformAttnPixelDecoder"]

_DEFAULT = MSDeformAttnConfig()
_NUM_LEVELS = 3
_NORM_GROUPS = 32


class DeformableAttention(nn.Module):
    """Each query samples ``num_points`` learned points per level and head (Deformable DETR, Eq. 3)."""

    def __init__(self, dim: int, num_levels: int, num_heads: int, num_points: int) -> None:
        super().__init__()
        self.shape = (num_heads, num_levels, num_points)
        self.sampling_offsets = nn.Linear(dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(dim, num_heads * num_levels * num_points)
        self.value_projection = nn.Linear(dim, dim)
        self.output_projection = nn.Linear(dim, dim)

    def reset_parameters(self) -> None:
        """Head h points in direction h (of the heads spread over a circle), point p at p + 1 pixels."""
        heads, levels, points = self.shape
        angle = torch.arange(heads, dtype=torch.float32) * (2.0 * math.pi / heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=1)
        direction = direction / direction.abs().amax(dim=1, keepdim=True)
        distance = torch.arange(1, points + 1, dtype=torch.float32)
        offsets = direction[:, None, None, :] * distance[None, None, :, None]
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_projection, self.output_projection):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Float[Tensor, "N S C"],
        value: Float[Tensor, "N S C"],
        reference: Float[Tensor, "S 2"],
        shapes: Sequence[tuple[int, int]],
    ) -> Float[Tensor, "N S C"]:
        """``reference`` are the normalised (x, y) of the queries; ``shapes`` the (height, width) of each level."""
        heads, levels, points = self.shape
        values = self.value_projection(value).unflatten(2, (heads, -1))
        offsets = self.sampling_offsets(query).unflatten(2, (heads, levels, points, 2))
        weights = self.attention_weights(query).unflatten(2, (heads, levels * points)).softmax(3)
        weights = weights.unflatten(3, (levels, points))
        size_xy = filled([side for h, w in shapes for side in (w, h)], reference.dtype, reference.device).view(-1, 2)
        locations = reference[None, :, None, None, None, :] + offsets / size_xy[None, None, None, :, None, :]
        return self.output_projection(deformable_sampling(values, shapes, locations, weights))


class _EncoderLayer(nn.Module):
    """Deformable self-attention and feed-forward, norm after each."""

    def __init__(self, dim: int, num_heads: int, num_points: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = DeformableAttention(dim, _NUM_LEVELS, num_heads, num_points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, source: Tensor, position: Tensor, reference: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        attended = self.attention(source + position, source, reference, shapes)
        source = self.norm1(source + self.dropout(attended))
        hidden = self.dropout(F.relu(self.linear1(source)))
        return self.norm2(source + self.dropout(self.linear2(hidden)))


class MSDeformAttnPixelDecoder(nn.Module):
    """Backbone maps of strides 4, 8, 16, 32 to :class:`PixelFeatures`.

    Args:
        channels: of the four backbone maps, finest first.
        dim: channels of the multi-scale features.
        mask_dim: channels of the per-pixel embeddings.
    """

    def __init__(
        self,
        channels: Sequence[int],
        dim: int = _DEFAULT.dim,
        mask_dim: int = _DEFAULT.mask_dim,
        num_layers: int = _DEFAULT.num_layers,
        num_heads: int = _DEFAULT.num_heads,
        num_points: int = _DEFAULT.num_points,
        feedforward_dim: int = _DEFAULT.feedforward_dim,
        dropout: float = _DEFAULT.dropout,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.mask_dim = mask_dim
        self.checkpointing = False
        self.full_precision = True
        coarse_first = [channels[3], channels[2], channels[1]]
        self.input_projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channel, dim, 1), nn.GroupNorm(_NORM_GROUPS, dim)) for channel in coarse_first
        )
        self.level_embedding = nn.Parameter(torch.empty(_NUM_LEVELS, dim))
        self.layers = nn.ModuleList(
            _EncoderLayer(dim, num_heads, num_points, feedforward_dim, dropout) for _ in range(num_layers)
        )
        self.mask_projection = conv_kaiming(nn.Conv2d(dim, mask_dim, 1))
        self.lateral = nn.Sequential(
            conv_kaiming(nn.Conv2d(channels[0], dim, 1, bias=False)), nn.GroupNorm(_NORM_GROUPS, dim)
        )
        self.output = nn.Sequential(
            conv_kaiming(nn.Conv2d(dim, dim, 3, padding=1, bias=False)), nn.GroupNorm(_NORM_GROUPS, dim), nn.ReLU()
        )
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for projection in self.input_projections:
            assert isinstance(projection, nn.Sequential)
            conv = projection[0]
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)
        xavier_matrices(self.layers)
        for layer in self.layers:
            assert isinstance(layer, _EncoderLayer)
            layer.attention.reset_parameters()
        nn.init.normal_(self.level_embedding)

    def set_gradient_checkpointing(self, enable: bool) -> None:
        """Whether encoder layers are computed again in the backward pass instead of being remembered."""
        self.checkpointing = enable

    def forward(self, features: Sequence[Float[Tensor, "N _C_l _H_l _W_l"]]) -> PixelFeatures:
        """``features``: four maps, finest first.

        Runs in at least float32, also under autocast, as published, unless ``full_precision`` was set to False.

        Raises:
            UserError: the norm of the coarsest map has a single value to take statistics of.
        """
        device_type = features[0].device.type
        count, _, height, width = features[3].shape
        if self.dim // _NORM_GROUPS * count * height * width == 1:
            raise UserError(
                f"one image of at most 32x32 pixels is too little for a pixel decoder of dim {self.dim}, whose group "
                f"norms have one value each there; use larger images, or dim {2 * self.dim}"
            )
        if not self.full_precision:
            return self._decode(features)
        with torch.autocast(device_type, enabled=False):
            dtype = self.level_embedding.dtype  # float32 under autocast; bfloat16 if the whole model was cast
            return self._decode([feature.to(dtype) for feature in features])

    def _decode(self, features: Sequence[Tensor]) -> PixelFeatures:
        coarse_first = (features[3], features[2], features[1])
        shapes = [(feature.shape[2], feature.shape[3]) for feature in coarse_first]
        projected, positions, references = [], [], []
        for level, (feature, projection) in enumerate(zip(coarse_first, self.input_projections, strict=True)):
            height, width = shapes[level]
            dtype, device = feature.dtype, feature.device
            projected.append(projection(feature).flatten(2).transpose(1, 2))  # (N, H_l*W_l, C)
            code = sine_encoding(1, height, width, self.dim, temporal=False, dtype=dtype, device=device)
            positions.append(code.flatten(0, 2).to(dtype) + self.level_embedding[level])
            references.append(_pixel_centres(height, width, torch.promote_types(dtype, torch.float32), device))
        source = torch.cat(projected, dim=1)
        position, reference = torch.cat(positions), torch.cat(references)
        for layer in self.layers:
            if self.checkpointing and torch.is_grad_enabled():
                source = checkpoint(layer, source, position, reference, shapes, use_reentrant=False)
            else:
                source = layer(source, position, reference, shapes)
        maps = [
            tokens.transpose(1, 2).unflatten(2, shape)
            for tokens, shape in zip(source.split([h * w for h, w in shapes], dim=1), shapes, strict=True)
        ]
        lateral = self.lateral(features[0])
        finest = lateral + F.interpolate(maps[2], size=lateral.shape[2:], mode="bilinear", align_corners=False)
        return PixelFeatures(self.mask_projection(self.output(finest)), maps)


def _pixel_centres(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "S 2"]:
    """Normalised (x, y) of pixel centres, row-major."""
    y = (torch.arange(height, dtype=dtype, device=device) + 0.5) / height
    x = (torch.arange(width, dtype=dtype, device=device) + 0.5) / width
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((grid_x, grid_y), dim=2).flatten(0, 1)
