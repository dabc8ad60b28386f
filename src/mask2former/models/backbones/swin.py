"""Swin Transformer (Liu et al., ICCV 2021) as the published Mask2Former models use it.

Ours and not timm's, because the published models pad to the window first and roll then, shift also where the grid is
a single window, and norm each stage's output; timm's numbers differ wherever the grid is no multiple of the window.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mask2former.config import SwinConfig

__all__ = ["SwinTransformer"]

_DEFAULT = SwinConfig()
_PATCH = 4
_BLOCKED = -100.0  # added to attention logits between regions that the shift brought together


def _pair_index(window: int) -> Int64[Tensor, "N N"]:
    """Row of the bias table for each pair of positions in a window."""
    axis = torch.arange(window)
    y, x = (grid.flatten() for grid in torch.meshgrid(axis, axis, indexing="ij"))
    rows = y[:, None] - y[None, :] + window - 1
    columns = x[:, None] - x[None, :] + window - 1
    return rows * (2 * window - 1) + columns


def _shift_mask(height: int, width: int, window: int, shift: int, device: torch.device) -> Float[Tensor, "n N N"]:
    """0 within a region, -100 between regions, for every window of the rolled and padded grid."""

    def regions(length: int) -> Tensor:
        position = torch.arange(length, device=device)
        return (position >= length - window).long() + (position >= length - shift).long()

    region = 3 * regions(height)[:, None] + regions(width)[None, :]
    tokens = _to_windows(region[None, :, :, None], window).squeeze(2)  # (windows, N)
    return torch.where(tokens[:, :, None] == tokens[:, None, :], 0.0, _BLOCKED)


def _to_windows(grid: Tensor, window: int) -> Tensor:
    """(B, H, W, C) to (B * windows, window * window, C); height and width are multiples of the window."""
    tiles = grid.unflatten(2, (-1, window)).unflatten(1, (-1, window))  # (B, rows, w, columns, w, C)
    return tiles.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def _from_windows(tiles: Tensor, window: int, height: int, width: int) -> Tensor:
    """Inverse of :func:`_to_windows`."""
    rows, columns = height // window, width // window
    grid = tiles.unflatten(1, (window, window)).unflatten(0, (-1, rows, columns))
    return grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class _WindowAttention(nn.Module):
    """Multi-head attention within windows, with a learned bias per relative position."""

    relative_position_index: Tensor

    def __init__(self, dim: int, window: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, num_heads))
        self.register_buffer("relative_position_index", _pair_index(window), persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, tiles: Float[Tensor, "n N C"], mask: Float[Tensor, "w N N"] | None) -> Float[Tensor, "n N C"]:
        """``mask`` is added to the logits; its windows repeat over the batch."""
        q, k, v = self.qkv(tiles).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1).unsqueeze(0)
        if mask is not None:
            bias = (bias + mask.unsqueeze(1).to(bias.dtype)).repeat(tiles.shape[0] // mask.shape[0], 1, 1, 1)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.proj(attended.transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class _DropPath(nn.Module):
    """Leaves a whole branch out of some images of a batch in training (stochastic depth, Huang et al., ECCV 2016).

    Args:
        probability: of leaving it out; what stays is divided by the probability of staying.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return branch
        staying = 1 - self.probability
        drawn = branch.new_empty(branch.shape[0], *(1,) * (branch.ndim - 1)).bernoulli_(staying)
        return branch * (drawn / staying if staying > 0 else drawn)


class _Block(nn.Module):
    """Window attention, shifted or not, then an MLP; norm before each."""

    def __init__(self, dim: int, window: int, shift: int, num_heads: int, drop_path: float) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = _WindowAttention(dim, window, num_heads)
        self.drop_path = _DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _Mlp(dim)

    def forward(self, grid: Float[Tensor, "B H W C"], mask: Tensor) -> Float[Tensor, "B H W C"]:
        grid = grid + self.drop_path(self._attend(self.norm1(grid), mask))
        return grid + self.drop_path(self.mlp(self.norm2(grid)))

    def _attend(self, grid: Tensor, mask: Tensor) -> Tensor:
        height, width = grid.shape[1:3]
        # Parity: the padding enters as zeros after the norm and is attended to in unshifted blocks.
        padded = F.pad(grid, (0, 0, 0, -width % self.window, 0, -height % self.window))
        if self.shift:
            padded = padded.roll((-self.shift, -self.shift), (1, 2))
        tiles = self.attn(_to_windows(padded, self.window), mask if self.shift else None)
        padded = _from_windows(tiles, self.window, padded.shape[1], padded.shape[2])
        if self.shift:
            padded = padded.roll((self.shift, self.shift), (1, 2))
        return padded[:, :height, :width]


class _PatchMerging(nn.Module):
    """2x2 neighbours to one token of twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, grid: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H2 W2 2*C"]:
        grid = F.pad(grid, (0, 0, 0, grid.shape[2] % 2, 0, grid.shape[1] % 2))
        corners = (grid[:, 0::2, 0::2], grid[:, 1::2, 0::2], grid[:, 0::2, 1::2], grid[:, 1::2, 1::2])
        return self.reduction(self.norm(torch.cat(corners, dim=3)))


class _Stage(nn.Module):
    """Blocks of one resolution; every second one shifted by half a window."""

    def __init__(self, dim: int, window: int, num_heads: int, drop_paths: Sequence[float], *, merge: bool) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(
            _Block(dim, window, (index % 2) * (window // 2), num_heads, rate) for index, rate in enumerate(drop_paths)
        )
        self.downsample = _PatchMerging(dim) if merge else None
        self.checkpointing = False

    def forward(self, grid: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        height, width = (length + -length % self.window for length in grid.shape[1:3])
        mask = _shift_mask(height, width, self.window, self.window // 2, grid.device)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                grid = checkpoint(block, grid, mask, use_reentrant=False)
            else:
                grid = block(grid, mask)
        return grid


class _PatchEmbedding(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, _PATCH, stride=_PATCH)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B h w C"]:
        height, width = images.shape[2:]
        padded = F.pad(images, (0, -width % _PATCH, 0, -height % _PATCH))
        return self.norm(self.proj(padded).permute(0, 2, 3, 1))


class SwinTransformer(nn.Module):
    """Swin T, S, B or L; the defaults are Swin-T.

    Args:
        embed_dim: channels of the first stage; doubled at each of the others.
        depths: blocks per stage.
        num_heads: attention heads per stage.
        window_size: tokens per window side.
        drop_path_rate: stochastic depth of the last block; rises linearly from 0 at the first (training only).
    """

    def __init__(
        self,
        embed_dim: int = _DEFAULT.embed_dim,
        depths: Sequence[int] = _DEFAULT.depths,
        num_heads: Sequence[int] = _DEFAULT.num_heads,
        window_size: int = _DEFAULT.window_size,
        drop_path_rate: float = _DEFAULT.drop_path_rate,
    ) -> None:
        super().__init__()
        self.channels = tuple(embed_dim * 2**stage for stage in range(4))
        self.strides = (4, 8, 16, 32)
        last = max(sum(depths) - 1, 1)
        rates = [drop_path_rate * index / last for index in range(sum(depths))]
        self.patch_embed = _PatchEmbedding(embed_dim)
        self.layers = nn.ModuleList(
            _Stage(
                self.channels[stage],
                window_size,
                num_heads[stage],
                rates[sum(depths[:stage]) : sum(depths[: stage + 1])],
                merge=stage < 3,
            )
            for stage in range(4)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channel) for channel in self.channels)

    def set_gradient_checkpointing(self, enable: bool) -> None:
        """Whether blocks are computed again in the backward pass instead of being remembered."""
        for stage in self.layers:
            assert isinstance(stage, _Stage)
            stage.checkpointing = enable

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> list[Float[Tensor, "N _C_l _H_l _W_l"]]:
        """Maps of ``channels`` at ``strides``, finest first; ``images`` are normalised."""
        grid = self.patch_embed(images)
        maps = []
        for stage, norm in zip(self.layers, self.norms, strict=True):
            assert isinstance(stage, _Stage)
            grid = stage(grid)
            maps.append(norm(grid).permute(0, 3, 1, 2).contiguous())
            if stage.downsample is not None:
                grid = stage.downsample(grid)
        return maps
