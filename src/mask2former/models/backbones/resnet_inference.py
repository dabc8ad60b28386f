"""ResNets of timm for inference on a CPU: norms folded into convolutions, activations and sums fused into them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mask2former.ops import onednn

__all__ = ["FoldedResNet"]


class _UnknownError(Exception):
    """A module that is unknown here, or cannot be folded."""


class FoldedResNet(nn.Module):
    """The computation of a backbone whose body :meth:`of` recognised.

    Attributes:
        plain: the backbone itself; used where gradients are needed, under compilation, or for values that are not
            finite.
    """

    def __init__(self, plain: nn.Module, body: Any, chosen: Sequence[int]) -> None:
        super().__init__()
        self.plain = plain
        last = sorted(body.return_layers, key=list(body).index)
        self._chosen = tuple(last[index] for index in chosen)
        stem = [name for name in body if not name.startswith("layer")]
        if not stem or not last or set(self._chosen) & set(stem):
            raise _UnknownError
        self.stem = _fold(body[name] for name in stem)
        self.stages = nn.ModuleDict(
            {name: nn.ModuleList(_Block(block) for block in body[name]) for name in body if name not in stem}
        )

    @classmethod
    def of(cls, plain: nn.Module, body: nn.Module, chosen: Sequence[int]) -> FoldedResNet | None:
        """The prepared form of a backbone, if its body is a ResNet with only basic or bottleneck blocks.

        Its norms have fixed statistics, and its weights are finite.

        Args:
            plain: the complete backbone.
            body: of timm, returning the list of maps.
            chosen: which of these maps are needed, finest first.
        """
        from timm.models._features import FeatureListNet

        if type(body) is not FeatureListNet or body.concat:
            return None
        try:
            form = cls(plain, body, chosen)
        except _UnknownError:
            return None
        own = [buffer.sum() for name, buffer in form.named_buffers() if not name.startswith("plain.")]
        return form if torch.stack(own).isfinite().all() else None

    def forward(self, images: Float[Tensor, "N C H W"]) -> list[Float[Tensor, "N _C_l _H_l _W_l"]]:
        """See the plain backbone."""
        if not onednn.is_plain_inference():
            return self.plain(images)
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        maps: dict[str, Tensor] = {}
        sums: list[Tensor] = []
        for name, blocks in self.stages.items():
            assert isinstance(blocks, nn.ModuleList)
            for index, block in enumerate(blocks):
                # The first block of a stage must not overwrite a map that may be returned.
                x = block(x, sums, overwrite=index > 0)
            maps[name] = x
        if not torch.stack(sums).isfinite().all():  # what follows turns NaN into 0
            return self.plain(images)
        return [maps[name] for name in self._chosen]


class _Convolution(nn.Module):
    """A convolution with the following norm folded in, and the activation after it."""

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise _UnknownError
        weight = conv.weight.detach()
        self.register_buffer("weight", weight, persistent=False)
        bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach()
        self.register_buffer("bias", bias, persistent=False)
        self.steps = (conv.stride, conv.padding, conv.dilation)
        self.groups = conv.groups
        self.activation: Literal["none", "relu"] = "none"

    def fold(self, norm: Any) -> None:
        """Fold a norm in; computed in float64 and rounded once."""
        count = len(self.bias)
        one = torch.ones(count, dtype=torch.float64, device="cpu")
        zero = torch.zeros_like(one)
        gain = one if norm.weight is None else norm.weight.detach().double()
        offset = zero if norm.bias is None else norm.bias.detach().double()
        scale = gain * (norm.running_var.double() + norm.eps).rsqrt()
        dtype = self.weight.dtype
        self.bias = (offset + (self.bias.double() - norm.running_mean.double()) * scale).to(dtype)
        weight = (self.weight.double() * scale.view(-1, 1, 1, 1)).to(dtype)
        self.weight = weight.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return onednn.convolution(x, self.weight, self.bias, *self.steps, self.groups, self.activation)

    def add_relu(self, x: Tensor, other: Tensor, *, overwrite: bool) -> Tensor:
        return onednn.convolution_add_relu(x, self.weight, self.bias, other, *self.steps, overwrite=overwrite)


class _Block(nn.Module):
    """A residual block, basic or bottleneck."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        from timm.layers.drop import DropPath
        from timm.models.resnet import BasicBlock, Bottleneck

        if type(block) not in (BasicBlock, Bottleneck) or block.se is not None:
            raise _UnknownError
        if block.drop_path is not None and type(block.drop_path) is not DropPath:  # which does nothing in evaluation
            raise _UnknownError
        names = (
            ("conv1", "bn1", "drop_block", "act1", "aa", "conv2", "bn2")
            if type(block) is BasicBlock
            else ("conv1", "bn1", "act1", "conv2", "bn2", "drop_block", "act2", "aa", "conv3", "bn3")
        )
        branch = _fold(getattr(block, name) for name in names)
        last = branch[-1]
        final = block.act2 if type(block) is BasicBlock else block.act3
        if type(final) is not nn.ReLU or not isinstance(last, _Convolution) or last.activation != "none":
            raise _UnknownError
        if last.groups != 1:
            raise _UnknownError
        self.branch = branch[:-1]
        self.last = last
        self.downsample = _fold([] if block.downsample is None else [block.downsample])

    def forward(self, x: Tensor, sums: list[Tensor], *, overwrite: bool) -> Tensor:
        """``sums`` receives a sum that is finite if everything before the last convolution is."""
        inner = self.branch(x)
        sums.append(inner.sum())
        shortcut = self.downsample(x)
        return self.last.add_relu(inner, shortcut, overwrite=overwrite or shortcut is not x)


def _fold(modules: Iterable[nn.Module]) -> nn.Sequential:
    """Modules that are run one after the other, as few as possible.

    Raises:
        _UnknownError: one is unknown here.
    """
    steps: list[nn.Module] = []
    for module in _flat(modules):
        kind, before = type(module), steps[-1] if steps else None
        if kind is nn.Identity:
            continue
        if kind is nn.Conv2d:
            assert isinstance(module, nn.Conv2d)
            steps.append(_Convolution(module))
        elif kind is nn.MaxPool2d or kind is nn.AvgPool2d:
            steps.append(module)
        elif not isinstance(before, _Convolution) or before.activation != "none":
            raise _UnknownError
        elif kind is nn.ReLU:
            before.activation = "relu"
        elif _has_fixed_statistics(module):
            before.fold(module)
        else:
            raise _UnknownError
    return nn.Sequential(*steps)


def _flat(modules: Iterable[nn.Module]) -> Iterable[nn.Module]:
    for module in modules:
        if type(module) is nn.Sequential:
            yield from _flat(module)
        else:
            yield module


def _has_fixed_statistics(norm: Any) -> bool:
    from torchvision.ops import FrozenBatchNorm2d

    if type(norm) is FrozenBatchNorm2d:
        return True
    known = type(norm) is nn.BatchNorm2d or type(norm) is nn.SyncBatchNorm
    return known and not norm.training and norm.running_mean is not None and norm.running_var is not None
