"""Multi-scale deformable attention pixel decoder (Mask2Former, Sec. 3.2.2 and 4.1; Deformable DETR, Sec. 4.1).

Six encoder layers over the tokens of strides 32, 16 and 8, then one top-down step to stride 4. Frames of clips are
independent here. With ``stages`` the number of tokens grows with the layers (PRO-SCALE, Aich et al., ICLR 2025).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mask2former.config import MSDeformAttnConfig, parse_arguments
from mask2former.models.layers import conv_kaiming, xavier_matrices
from mask2former.models.pixel_decoders.convolutions import NORM_GROUPS, PrecisionDecoder, conv_norm
from mask2former.models.pixel_decoders.features import PixelFeatures
from mask2former.models.position_encoding import token_encoding
from mask2former.ops.deform_attn import deformable_self_attention
from mask2former.ops.onednn import linear

__all__ = ["DeformableAttention", "MSDeformAttnPixelDecoder"]

_DEFAULT = MSDeformAttnConfig()
_NUM_LEVELS = 3


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
        """Head h points in direction h (heads are spread over a circle), point p lies at p + 1 pixels."""
        heads, levels, points = self.shape
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_projection, self.output_projection):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        bias = self.sampling_offsets.bias
        if bias.is_meta:  # arithmetic in plain Python, and imports torch._dynamo, 2 s
            return
        angle = torch.arange(heads, dtype=torch.float32) * (2.0 * math.pi / heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=1)
        direction = direction / direction.abs().amax(dim=1, keepdim=True)
        distance = torch.arange(1, points + 1, dtype=torch.float32)
        offsets = direction[:, None, None, :] * distance[None, None, :, None]
        with torch.no_grad():
            bias.copy_(offsets.expand(-1, levels, -1, -1).flatten())

    def forward(
        self, query: Float[Tensor, "N S C"], value: Float[Tensor, "N S C"], shapes: Sequence[tuple[int, int]]
    ) -> Float[Tensor, "N S C"]:
        """Queries and values belong to the same pixels; ``shapes`` are the (height, width) of each level."""
        values = self.value_projection(value).unflatten(2, (self.shape[0], -1))
        projected = torch.cat((self.sampling_offsets(query), self.attention_weights(query)), dim=2)
        return self.output_projection(deformable_self_attention(values, shapes, projected))


class _EncoderLayer(nn.Module):
    """Deformable self-attention and feed-forward, each followed by a norm."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_points: int,
        feedforward_dim: int,
        dropout: float,
        num_levels: int = _NUM_LEVELS,
    ) -> None:
        super().__init__()
        self.attention = DeformableAttention(dim, num_levels, num_heads, num_points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, source: Tensor, position: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        attended = self.attention(source + position, source, shapes)
        source = self.norm1(source + self.dropout(attended))
        hidden = self.dropout(F.relu(self.linear1(source)))
        return self.norm2(source + self.dropout(self.linear2(hidden)))


class MSDeformAttnPixelDecoder(PrecisionDecoder):
    """Backbone maps of strides 4, 8, 16, 32 to :class:`PixelFeatures`.

    Args:
        channels: of the four backbone maps, finest first.
        dim: channels of the multi-scale features.
        mask_dim: channels of the per-pixel embeddings.
        num_layers: of the encoder.
        num_heads: of its attention.
        num_points: sampled points per head and level.
        feedforward_dim: hidden channels of its feed-forward networks.
        dropout: of the output of attention, of the hidden units, and of the output of feed-forward networks.
        stages: how many layers process the tokens of stride 32 alone, then those of 32 and 16, then all; the tokens of
            a later stage stay unchanged until then. None: all layers process all tokens.

    Raises:
        UserError: ``dim`` or ``stages`` is not what :class:`~mask2former.config.MSDeformAttnConfig` accepts.
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
        stages: Sequence[int] | None = _DEFAULT.stages,
    ) -> None:
        parse_arguments(MSDeformAttnConfig, {"dim": dim, "num_heads": num_heads})
        if stages is not None:
            parse_arguments(MSDeformAttnConfig, {"num_layers": sum(stages), "stages": stages})
        super().__init__(dim, mask_dim)
        self.checkpointing = False
        levels = [level for level, count in enumerate(stages or (0, 0, num_layers), start=1) for _ in range(count)]
        self.levels = tuple(levels)  # that each layer processes, from the coarsest
        coarse_first = [channels[3], channels[2], channels[1]]
        self.input_projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channel, dim, 1), nn.GroupNorm(NORM_GROUPS, dim)) for channel in coarse_first
        )
        self.level_embedding = nn.Parameter(torch.empty(_NUM_LEVELS, dim))
        self.layers = nn.ModuleList(
            _EncoderLayer(dim, num_heads, num_points, feedforward_dim, dropout, level) for level in self.levels
        )
        self.mask_projection = conv_kaiming(nn.Conv2d(dim, mask_dim, 1))
        self.lateral = conv_norm(channels[0], dim, 1)
        self.output = conv_norm(dim, dim, 3, activate=True)
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
        """Whether encoder layers are recomputed in the backward pass instead of being stored."""
        self.checkpointing = enable

    def for_inference(self) -> nn.Module:
        """On a CPU, see :class:`_PreparedDecoder`; elsewhere, or with your own modules inside, this decoder."""
        known = type(self) is MSDeformAttnPixelDecoder and set(self.levels) == {_NUM_LEVELS}
        known = known and all(type(module) in _KNOWN for module in self.modules())
        known = (
            known and type(self.output[-1]) is nn.ReLU and all(type(layer) is _EncoderLayer for layer in self.layers)
        )
        return _PreparedDecoder(self) if known and self.level_embedding.device.type == "cpu" else self

    def _decode(self, features: Sequence[Tensor]) -> PixelFeatures:
        source, position, shapes = self._tokens(features)
        for layer, levels in zip(self.layers, self.levels, strict=True):
            later = None
            if levels < _NUM_LEVELS:  # coarse tokens come first
                seen = sum(height * width for height, width in shapes[:levels])
                source, later = source[:, :seen], source[:, seen:]
            inputs = source, position[: source.shape[1]], shapes[:levels]
            if self.checkpointing and torch.is_grad_enabled():
                source = checkpoint(layer, *inputs, use_reentrant=False)
            else:
                source = layer(*inputs)
            source = source if later is None else torch.cat((source, later), dim=1)
        maps = [
            tokens.transpose(1, 2).unflatten(2, shape)
            for tokens, shape in zip(source.split([h * w for h, w in shapes], dim=1), shapes, strict=True)
        ]
        lateral = self.lateral(features[0])
        finest = lateral + F.interpolate(maps[2], size=lateral.shape[2:], mode="bilinear", align_corners=False)
        return PixelFeatures(self.mask_projection(self.output(finest)), maps, backbone=features)

    def _tokens(
        self, features: Sequence[Tensor]
    ) -> tuple[Float[Tensor, "N S C"], Float[Tensor, "S C"], list[tuple[int, int]]]:
        """The projected pixels of the three coarse maps, their position codes, and the sizes of the maps."""
        coarse_first = (features[3], features[2], features[1])
        shapes = [(feature.shape[2], feature.shape[3]) for feature in coarse_first]
        projected, positions = [], []
        for level, (feature, projection) in enumerate(zip(coarse_first, self.input_projections, strict=True)):
            projected.append(projection(feature).flatten(2).transpose(1, 2))  # (N, H_l*W_l, C)
            positions.append(token_encoding(shapes[level], self.dim, feature) + self.level_embedding[level])
        return torch.cat(projected, dim=1), torch.cat(positions), shapes


# Others, including subclasses and wrappers, have their own forward, which the form below would not call.
_KNOWN = frozenset((MSDeformAttnPixelDecoder, _EncoderLayer, DeformableAttention, nn.ModuleList, nn.Sequential)) | {
    nn.Linear,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.Conv2d,
    nn.Dropout,
    nn.ReLU,
}


class _PreparedLayer(nn.Module):
    """An encoder layer with a single product for offsets and logits, fused activations, and in-place sums."""

    projection: Tensor
    projection_bias: Tensor

    def __init__(self, plain: _EncoderLayer) -> None:
        super().__init__()
        self.plain = plain
        parts = (plain.attention.sampling_offsets, plain.attention.attention_weights)
        self.register_buffer("projection", torch.cat([part.weight.detach() for part in parts]), persistent=False)
        self.register_buffer("projection_bias", torch.cat([part.bias.detach() for part in parts]), persistent=False)

    def forward(self, source: Tensor, position: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        plain, attention = self.plain, self.plain.attention
        values = _linear(source, attention.value_projection).unflatten(2, (attention.shape[0], -1))
        projected = linear(source + position, self.projection, self.projection_bias)
        attended = _linear(deformable_self_attention(values, shapes, projected), attention.output_projection)
        source = plain.norm1(attended.add_(source))
        hidden = linear(source, plain.linear1.weight, plain.linear1.bias, "relu")
        return plain.norm2(_linear(hidden, plain.linear2).add_(source))


class _PreparedDecoder(nn.Module):
    """A decoder for inference on a CPU: :class:`_PreparedLayer`, and channels-last maps throughout.

    Tokens (N, H*W, C) are such maps without a copy. Inputs with gradients, or in half precision under autocast, go to
    the plain decoder.
    """

    def __init__(self, plain: MSDeformAttnPixelDecoder) -> None:
        super().__init__()
        self.plain = plain
        self.layers = nn.ModuleList(_PreparedLayer(layer) for layer in plain.layers if isinstance(layer, _EncoderLayer))

    def forward(self, features: Sequence[Float[Tensor, "N _C_l _H_l _W_l"]]) -> PixelFeatures:
        """Like the plain decoder."""
        half = not self.plain.full_precision and torch.is_autocast_enabled(features[0].device.type)
        if torch.is_grad_enabled() or half:
            return self.plain(features)
        return self.plain.in_its_precision(self._decode, features)

    def _decode(self, features: Sequence[Tensor]) -> PixelFeatures:
        plain = self.plain
        features = [feature.contiguous(memory_format=torch.channels_last) for feature in features]
        source, position, shapes = plain._tokens(features)
        for layer in self.layers:
            source = layer(source, position, shapes)
        # Not transpose(1, 2).unflatten(2, shape), which for one image gives the first axis the stride of a pixel:
        # interpolate relies on strides, and would copy and return the other layout, five times as slowly.
        maps = [
            tokens.unflatten(1, shape).permute(0, 3, 1, 2)
            for tokens, shape in zip(source.split([h * w for h, w in shapes], dim=1), shapes, strict=True)
        ]
        finest = plain.lateral(features[0])
        finest += F.interpolate(maps[2], size=finest.shape[2:], mode="bilinear", align_corners=False)
        convolution, norm, _ = plain.output
        return PixelFeatures(plain.mask_projection(F.relu_(norm(convolution(finest)))), maps, backbone=features)


def _linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return linear(x, layer.weight, layer.bias)
