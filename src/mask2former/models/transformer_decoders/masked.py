"""Masked-attention transformer decoder (Mask2Former, Sec. 3.2), for clips; an image is a clip of one frame.

Queries attend to one resolution per layer (strides 32, 16, 8, round robin), each only within the mask of the previous
prediction. The same head predicts classes and masks before the first and after every layer. Each alternative in the
paper's comparisons is a switch; kinds of attention are in ``attention.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mask2former.config import MaskedDecoderConfig, MSDeformAttnConfig, parse_arguments
from mask2former.errors import UserError
from mask2former.models.layers import conv_kaiming, xavier_matrices
from mask2former.models.pixel_decoders.features import PixelFeatures
from mask2former.models.position_encoding import token_encoding
from mask2former.models.transformer_decoders.attention import KINDS, Grid
from mask2former.models.transformer_decoders.layer import DecoderLayer
from mask2former.models.transformer_decoders.pilots import Pilots, make_pilots
from mask2former.ops.mask_logits import MaskProduct
from mask2former.structures.outputs import MaskOutput, PilotOutput
from mask2former.structures.samples import Target

__all__ = ["MaskedTransformerDecoder", "Scale"]

_DEFAULT, _PIXELS = MaskedDecoderConfig(), MSDeformAttnConfig()
_NUM_LEVELS = 3
# Levels that a layer attends to, by layer in turn (Table 4d); the coarsest is 0.
_SCALES = {"efficient": ((0,), (1,), (2,)), "naive": ((0, 1, 2),), "s32": ((0,),), "s16": ((1,),), "s8": ((2,),)}


class Scale(NamedTuple):
    """What a layer attends to: the tokens of a level, or of several levels one after the other, S in all."""

    keys: Float[Tensor, "B S C"]
    values: Float[Tensor, "B S C"]
    pixels: Float[Tensor, "B T C_mask h w"]  # pixel embeddings of the S pixels, for masks
    grids: list[Grid]


class MaskedTransformerDecoder(nn.Module):
    """:class:`PixelFeatures` to :class:`MaskOutput`.

    Args:
        num_classes: K; the head has one more row for "no object".
        channels: of the multi-scale features; a projection is added only where they differ from ``dim``.
        mask_dim: channels of the per-pixel embeddings.
        dim: channels of the queries.
        num_queries: Q.
        num_layers: decoder layers; the published ``DEC_LAYERS`` is one larger.
        num_heads: of every attention.
        feedforward_dim: hidden channels of the feed-forward networks.
        temporal: whether positions include the frame index (3-D code of the video model).
        attention: kind of cross-attention; see :class:`~mask2former.config.MaskedDecoderConfig`.
        scales: which strides each layer attends to; see there.
        order: whether cross-attention or self-attention comes first; see there.
        query_init: what queries start from; see there.
        dropout: see :class:`DecoderLayer`.
        pre_norm: a norm before each step of a layer instead of after it.
        project_inputs: add a projection even where ``channels`` is ``dim``.
        pilots: maximum number of pilots per clip in mask-piloted training, 0: none; see ``pilots.py``.
        pilot_noise: the share of their masks and classes that is wrong.

    Attributes:
        takes_targets: whether a call in training receives the ground truth.

    Raises:
        UserError: a choice or ``dim`` is not what :class:`~mask2former.config.MaskedDecoderConfig` accepts.
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
        attention: str = _DEFAULT.attention,
        scales: str = _DEFAULT.scales,
        order: str = _DEFAULT.order,
        query_init: str = _DEFAULT.query_init,
        dropout: float = _DEFAULT.dropout,
        pre_norm: bool = _DEFAULT.pre_norm,
        project_inputs: bool = _DEFAULT.project_inputs,
        pilots: int = _DEFAULT.pilots,
        pilot_noise: float = _DEFAULT.pilot_noise,
    ) -> None:
        super().__init__()
        settings = {
            "dim": dim,
            "num_heads": num_heads,
            "attention": attention,
            "scales": scales,
            "order": order,
            "query_init": query_init,
            "pre_norm": pre_norm,
            "pilots": pilots,
        }
        parse_arguments(MaskedDecoderConfig, settings)
        self.channels = channels
        self.mask_dim = mask_dim
        self.dim = dim
        self.num_queries = num_queries
        self.temporal = temporal
        self.scales = _SCALES[scales]
        self.supervise_queries = query_init == "learned_supervised"
        self.takes_targets = pilots > 0
        self.num_pilots, self.pilot_noise = pilots, pilot_noise
        kind = KINDS[attention]
        self.guide = kind.guide
        used = {level for levels in self.scales for level in levels}
        project = project_inputs or channels != dim
        self.input_projections = nn.ModuleList(
            conv_kaiming(nn.Conv2d(channels, dim, 1)) if project and level in used else nn.Identity()
            for level in range(_NUM_LEVELS)
        )
        switches = {"self_first": order == "self_first", "pre_norm": pre_norm}
        self.layers = nn.ModuleList(
            DecoderLayer(dim, num_heads, feedforward_dim, dropout, kind.module, **switches) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.query_features = None if query_init == "zero" else nn.Embedding(num_queries, dim)
        self.query_positions = nn.Embedding(num_queries, dim)
        self.level_embedding = nn.Embedding(_NUM_LEVELS, dim)
        self.class_head = nn.Linear(dim, num_classes + 1)
        self.mask_head = nn.ModuleList((nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, mask_dim)))
        self.pilot_classes = nn.Embedding(num_classes, dim) if pilots else None
        xavier_matrices(self.layers)

    def forward(
        self,
        features: PixelFeatures,
        num_frames: int = 1,
        *,
        aux_outputs: bool = True,
        targets: Sequence[Target] | None = None,
    ) -> MaskOutput:
        """Predictions for clips of ``num_frames`` frames, folded clip-major into the first axis of ``features``.

        With ``aux_outputs=False`` only the last prediction is kept. ``targets`` are for training with pilots, one per
        clip; predictions of queries do not depend on them.

        Raises:
            UserError: the features have other channels than this decoder, or are not three maps, the coarsest first.
        """
        self._check(features)
        mask_features = features.embeddings(num_frames)
        kind = mask_features.device.type
        batch = mask_features.shape[0]
        query_positions = self.query_positions.weight.expand(batch, -1, -1)
        start = self.query_features
        queries = torch.zeros_like(query_positions) if start is None else start.weight.expand(batch, -1, -1)
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):  # once, not for every product
            mask_features = mask_features.to(torch.get_autocast_dtype(kind))
        scales = self._scales(features, mask_features.detach(), num_frames)
        pilots = apart = None
        if self.pilot_classes is not None and targets is not None:
            pilots = make_pilots(targets, self.num_pilots, self.pilot_classes.num_embeddings, self.pilot_noise)
            if pilots is None:
                queries = queries + 0 * self.pilot_classes.weight.sum()  # ranks exchange gradients of all parameters
            else:
                apart = pilots.apart(self.num_queries)
                queries = torch.cat((queries, self.pilot_classes(pilots.labels)), dim=1)
                query_positions = F.pad(query_positions, (0, 0, 0, pilots.labels.shape[1]))

        outputs = []
        for index, layer in enumerate(self.layers):
            scale = scales[index % len(scales)]
            normed, embeddings = self._read(queries)
            if aux_outputs and (index or self.supervise_queries):
                outputs.append(self._output(normed, embeddings, mask_features, pilots, is_start=not index))
            guide = self.guide(MaskProduct(embeddings.detach(), scale.pixels), scale.grids)
            if pilots is not None and guide is not None:
                guide = torch.cat((guide[:, : self.num_queries], pilots.blocked(scale.grids)), dim=1)
            queries = layer(queries, query_positions, scale.keys, scale.values, guide, apart)
        normed, embeddings = self._read(queries)
        return self._output(normed, embeddings, mask_features, pilots, outputs)

    def _check(self, features: PixelFeatures) -> None:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # sizes may be symbols
            return
        maps = features.multi_scale
        got = features.mask_features.shape[1], tuple(feature.shape[1] for feature in maps)
        if got != (self.mask_dim, (self.channels,) * _NUM_LEVELS):
            raise UserError(
                f"the pixel decoder returned embeddings of {got[0]} channels and maps of {list(got[1])} channels; the "
                f"transformer decoder expects embeddings of {self.mask_dim} (mask_dim) and {_NUM_LEVELS} maps of "
                f"{self.channels} (channels)"
            )
        sizes = [tuple(feature.shape[2:]) for feature in maps]
        if sizes != sorted(sizes):
            raise UserError(
                f"the pixel decoder returned maps of the sizes {', '.join(f'{h}x{w}' for h, w in sizes)}; expected the "
                "coarsest map first (strides 32, 16, 8)"
            )

    def _output(
        self,
        normed: Float[Tensor, "B N C"],
        embeddings: Float[Tensor, "B N C_mask"],
        mask_features: Float[Tensor, "B T C_mask h w"],
        pilots: Pilots | None,
        outputs: list[MaskOutput] | None = None,
        *,
        is_start: bool = False,
    ) -> MaskOutput:
        """What the queries predict and, after the first layer, also their pilots."""
        scores = self.class_head(normed)
        if pilots is None:
            return MaskOutput(scores, MaskProduct(embeddings, mask_features), normed, outputs)
        mine, theirs = (
            MaskOutput(scores[:, part], MaskProduct(embeddings[:, part], mask_features), normed[:, part])
            for part in (slice(self.num_queries), slice(self.num_queries, None))
        )
        matches = [(pilots.indices(clip), chosen) for clip, chosen in enumerate(pilots.chosen)]
        known = None if is_start else PilotOutput(theirs, matches, pilots.groups)
        return MaskOutput(mine.class_logits, mine.masks, mine.query_features, outputs, known)

    def _scales(self, features: PixelFeatures, mask_features: Tensor, num_frames: int) -> list[Scale]:
        """What the layers attend to in turn."""
        levels = {}
        for level in sorted({level for levels in self.scales for level in levels}):
            levels[level] = self._level(level, features.multi_scale[level], mask_features, num_frames)
        return [_joined([levels[level] for level in chosen]) for chosen in self.scales]

    def _level(self, level: int, feature: Tensor, mask_features: Tensor, num_frames: int) -> Scale:
        """The tokens of one level; the level embedding is in keys and values, the position in keys."""
        height, width = feature.shape[2:]
        projected = self.input_projections[level](feature).flatten(2).transpose(1, 2)  # (B*T, H*W, C)
        value = projected.unflatten(0, (-1, num_frames)).flatten(1, 2) + self.level_embedding.weight[level]
        key = value + token_encoding((height, width), self.dim, value, num_frames, temporal=self.temporal)
        # Attention needs masks at the size of the level. Resizing is linear, so the pixel embeddings are resized
        # instead, once for all queries and layers.
        frames = F.interpolate(mask_features.flatten(0, 1), size=(height, width), mode="bilinear", align_corners=False)
        return Scale(key, value, frames.unflatten(0, (-1, num_frames)), [(num_frames, height, width)])

    def _read(self, queries: Tensor) -> tuple[Float[Tensor, "B Q C"], Float[Tensor, "B Q C_mask"]]:
        """Queries after the shared norm, and the mask embeddings that the shared head computes from them."""
        normed = self.norm(queries)
        embeddings = normed
        for layer in self.mask_head[:-1]:
            embeddings = F.relu(layer(embeddings))
        return normed, self.mask_head[-1](embeddings)


def _joined(levels: list[Scale]) -> Scale:
    """The tokens of several levels one after the other, with their pixels as one row."""
    if len(levels) == 1:
        return levels[0]
    keys, values, pixels, grids = zip(*levels, strict=True)
    rows = [level.transpose(1, 2).flatten(2) for level in pixels]  # (B, C_mask, T*H_l*W_l)
    pixels = torch.cat(rows, 2)[:, None, :, None]
    return Scale(torch.cat(keys, 1), torch.cat(values, 1), pixels, [grid for level in grids for grid in level])
