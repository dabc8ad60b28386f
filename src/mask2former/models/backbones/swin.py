"""Swin Transformer (Liu et al., ICCV 2021) as the published Mask2Former models use it.

Our own rather than timm's, because the published models pad to the window before rolling, also shift where the grid is
a single window, and norm each stage's output; timm's numbers differ wherever the grid is not a multiple of the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mask2former.config import SwinConfig
from mask2former.ops import onednn

__all__ = [
    "PatchMerging",
    "SwinBlock",
    "SwinTransformer",
    "WindowAttention",
    "from_windows",
    "relative_position_index",
    "shift_mask",
    "to_windows",
]

_DEFAULT = SwinConfig()
_PATCH = 4
_BLOCKED = -100.0  # added to attention logits between regions that only the shift made adjacent


def relative_position_index(window: int) -> Int64[Tensor, "N N"]:
    """Row of the bias table for each pair of positions in a window."""
    if torch.get_default_device().type == "meta":  # arithmetic in plain Python, and imports torch._dynamo, 2 s
        return torch.empty(window**2, window**2, dtype=torch.int64)
    axis = torch.arange(window)
    y, x = (grid.flatten() for grid in torch.meshgrid(axis, axis, indexing="ij"))
    rows = y[:, None] - y[None, :] + window - 1
    columns = x[:, None] - x[None, :] + window - 1
    return rows * (2 * window - 1) + columns


def shift_mask(height: int, width: int, window: int, shift: int, device: torch.device) -> Float[Tensor, "n N N"]:
    """0 within a region, -100 between regions, for every window of the rolled and padded grid."""

    def regions(length: int) -> Tensor:
        position = torch.arange(length, device=device)
        return (position >= length - window).long() + (position >= length - shift).long()

    region = 3 * regions(height)[:, None] + regions(width)[None, :]
    tokens = to_windows(region[None, :, :, None], window).squeeze(2)  # (windows, N)
    return torch.where(tokens[:, :, None] == tokens[:, None, :], 0.0, _BLOCKED)


def to_windows(grid: Tensor, window: int) -> Tensor:
    """(B, H, W, C) to (B * windows, window * window, C); height and width are multiples of the window."""
    tiles = grid.unflatten(2, (-1, window)).unflatten(1, (-1, window))  # (B, rows, w, columns, w, C)
    return tiles.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def from_windows(tiles: Tensor, window: int, height: int, width: int) -> Tensor:
    """Inverse of :func:`to_windows`."""
    rows, columns = height // window, width // window
    grid = tiles.unflatten(1, (window, window)).unflatten(0, (-1, rows, columns))
    return grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with a learned bias per relative position."""

    relative_position_index: Tensor

    def __init__(self, dim: int, window: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, num_heads))
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)
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
    """Drops a complete branch for some images of a batch in training (stochastic depth, Huang et al., ECCV 2016).

    Args:
        probability: of dropping it; what is kept is divided by the probability of keeping it.
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


class SwinBlock(nn.Module):
    """Window attention, shifted or not, then an MLP; norm before each."""

    def __init__(self, dim: int, window: int, shift: int, num_heads: int, drop_path: float) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, num_heads)
        self.drop_path = _DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _Mlp(dim)

    def forward(self, grid: Float[Tensor, "B H W C"], mask: Tensor) -> Float[Tensor, "B H W C"]:
        grid = grid + self.drop_path(self.attend(self.norm1(grid), mask))
        return grid + self.drop_path(self.mlp(self.norm2(grid)))

    def attend(self, grid: Tensor, mask: Tensor) -> Tensor:
        height, width = grid.shape[1:3]
        # Parity: the padding enters as zeros after the norm and is attended to in unshifted blocks.
        padded = F.pad(grid, (0, 0, 0, -width % self.window, 0, -height % self.window))
        if self.shift:
            padded = padded.roll((-self.shift, -self.shift), (1, 2))
        tiles = self.attn(to_windows(padded, self.window), mask if self.shift else None)
        padded = from_windows(tiles, self.window, padded.shape[1], padded.shape[2])
        if self.shift:
            padded = padded.roll((self.shift, self.shift), (1, 2))
        return padded[:, :height, :width]


class PatchMerging(nn.Module):
    """Merges 2x2 neighbours into one token with twice the channels."""

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
            SwinBlock(dim, window, (index % 2) * (window // 2), num_heads, rate)
            for index, rate in enumerate(drop_paths)
        )
        self.downsample = PatchMerging(dim) if merge else None
        self.checkpointing = False

    def forward(self, grid: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        height, width = (length + -length % self.window for length in grid.shape[1:3])
        mask = shift_mask(height, width, self.window, self.window // 2, grid.device)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                grid = checkpoint(block, grid, mask, use_reentrant=False)
            else:
                grid = block(grid, mask)
        return grid


class _PatchEmbedding(nn.Module):
    def __init__(self, dim: int, in_channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, _PATCH, stride=_PATCH)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Float[Tensor, "B in_C H W"]) -> Float[Tensor, "B h w C"]:
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
        in_channels: of the images.
    """

    def __init__(
        self,
        embed_dim: int = _DEFAULT.embed_dim,
        depths: Sequence[int] = _DEFAULT.depths,
        num_heads: Sequence[int] = _DEFAULT.num_heads,
        window_size: int = _DEFAULT.window_size,
        drop_path_rate: float = _DEFAULT.drop_path_rate,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.channels = tuple(embed_dim * 2**stage for stage in range(4))
        self.strides = (4, 8, 16, 32)
        last = max(sum(depths) - 1, 1)
        rates = [drop_path_rate * index / last for index in range(sum(depths))]
        self.patch_embed = _PatchEmbedding(embed_dim, in_channels)
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
        """Whether blocks are recomputed in the backward pass instead of being stored."""
        for stage in self.layers:
            assert isinstance(stage, _Stage)
            stage.checkpointing = enable

    def for_inference(self) -> nn.Module:
        """On a CPU, a form that gathers windows by an index; elsewhere, or with your own modules, the module itself."""
        known = type(self) is SwinTransformer and all(map(_is_known, self.layers))
        on_cpu = next(self.parameters()).device.type == "cpu"
        return _GatheredSwin(self) if known and on_cpu else self

    def forward(self, images: Float[Tensor, "N in_C H W"]) -> list[Float[Tensor, "N _C_l _H_l _W_l"]]:
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


def _is_known(stage: nn.Module) -> bool:
    """Whether it consists of the modules that :class:`_GatheredSwin` can replace."""
    return type(stage) is _Stage and all(
        type(block) is SwinBlock
        and type(block.attn) is WindowAttention
        and type(block.drop_path) is _DropPath
        and type(block.mlp) is _Mlp
        and {type(layer) for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2)} == {nn.Linear}
        for block in stage.blocks
    )


class _GatheredSwin(nn.Module):
    """A Swin for inference on a CPU. All parameters belong to ``plain``, which is called for anything but inference.

    An index moves tokens into windows and back, instead of padding, rolling and two permutations. It places windows
    with the same mask side by side, so that the masks and biases of one window serve all, whatever the size of the
    image and the batch.
    """

    def __init__(self, plain: SwinTransformer) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, images: Float[Tensor, "N in_C H W"]) -> list[Float[Tensor, "N _C_l _H_l _W_l"]]:
        """See the plain backbone; maps are views with channels last."""
        if not onednn.is_plain_inference() or images.numel() == 0:
            return self.plain(images)
        grid = self.plain.patch_embed(images.contiguous(memory_format=torch.channels_last)).contiguous()
        maps = []
        for stage, norm in zip(self.plain.layers, self.plain.norms, strict=True):
            assert isinstance(stage, _Stage)
            windows: dict[int, _Windows] = {}
            for block in stage.blocks:
                assert isinstance(block, SwinBlock)
                if block.shift not in windows:
                    windows[block.shift] = _Windows.of(grid, block.window, block.shift)
                grid = _compute(block, grid, windows[block.shift])
            maps.append(norm(grid).permute(0, 3, 1, 2))
            if stage.downsample is not None:
                grid = stage.downsample(grid)
        return maps


@dataclass(frozen=True)
class _Windows:
    """Where the tokens of windows are in a grid.

    Attributes:
        gather: the token of each position of each window.
        holes: positions without a token, since they are padding.
        scatter: the position of each token.
        counts: how many windows have each mask.
        masks: added to attention logits; None: none.
    """

    gather: Int64[Tensor, " positions"]
    holes: Int64[Tensor, " holes"]
    scatter: Int64[Tensor, " tokens"]
    counts: Sequence[int]
    masks: Sequence[Float[Tensor, "N N"] | None]

    @classmethod
    def of(cls, grid: Float[Tensor, "B H W C"], window: int, shift: int) -> _Windows:
        """The windows of the padded grid after it has been rolled by ``-shift`` along both axes."""
        batch, height, width = grid.shape[:3]
        tokens = torch.arange(1, batch * height * width + 1, device=grid.device).view(batch, height, width, 1)
        padded = F.pad(tokens, (0, 0, 0, -width % window, 0, -height % window))  # 0: no token
        if shift:
            padded = padded.roll((-shift, -shift), (1, 2))
        rows, columns = padded.shape[1] // window, padded.shape[2] // window
        tiles = to_windows(padded, window).view(batch, rows, columns, window**2)
        if shift:  # only the last row and column of windows contain more than one region
            kinds = [tiles[:, :-1, :-1], tiles[:, -1:, :-1], tiles[:, :-1, -1:], tiles[:, -1:, -1:]]
            of_one = shift_mask(2 * window, 2 * window, window, shift, tokens.device)  # for windows of each kind
            masks = [None, of_one[2], of_one[1], of_one[3]]
        else:
            kinds, masks = [tiles], [None]
        positions = torch.cat([kind.flatten() for kind in kinds])
        real = positions > 0
        scatter = torch.empty(batch * height * width, dtype=torch.int64, device=grid.device)
        scatter[positions[real] - 1] = real.nonzero().squeeze(1)
        counts = [kind.numel() // window**2 for kind in kinds]
        return cls((positions - 1).clamp_(min=0), (~real).nonzero().squeeze(1), scatter, counts, masks)


def _compute(block: SwinBlock, grid: Float[Tensor, "B H W C"], windows: _Windows) -> Float[Tensor, "B H W C"]:
    """The computation of the block in evaluation mode."""
    attention, mlp = block.attn, block.mlp
    channels, positions = grid.shape[3], block.window**2
    tiles = block.norm1(grid).view(-1, channels).index_select(0, windows.gather)
    tiles.index_fill_(0, windows.holes, 0.0)
    projected = onednn.linear(tiles, attention.qkv.weight, attention.qkv.bias)
    q, k, v = projected.view(-1, positions, 3, attention.num_heads, channels // attention.num_heads).permute(
        2, 0, 3, 1, 4
    )
    bias = attention.relative_position_bias_table[attention.relative_position_index].permute(2, 0, 1).contiguous()
    attended, start = [], 0
    for count, mask in zip(windows.counts, windows.masks, strict=True):
        if count:
            of_kind = slice(start, start + count)
            added = bias if mask is None else bias + mask.to(bias.dtype)
            found = F.scaled_dot_product_attention(q[of_kind], k[of_kind], v[of_kind], attn_mask=added.unsqueeze(0))
            attended.append(found.transpose(1, 2).reshape(-1, channels))
            start += count
    joined = attended[0] if len(attended) == 1 else torch.cat(attended)
    projected = onednn.linear(joined, attention.proj.weight, attention.proj.bias)
    grid = projected.index_select(0, windows.scatter).view(grid.shape).add_(grid)
    hidden = onednn.linear(block.norm2(grid), mlp.fc1.weight, mlp.fc1.bias, "gelu")
    return onednn.linear(hidden, mlp.fc2.weight, mlp.fc2.bias).add_(grid)
