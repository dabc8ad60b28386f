"""Modules from their configuration: the only place that knows the kinds by name."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

from mask2former import limits
from mask2former.config import (
    ArchitectureConfig,
    EncoderOnlyConfig,
    MaskedDecoderConfig,
    ModelConfig,
    NoPixelDecoderConfig,
    PerPixelConfig,
    PerPixelPlusConfig,
    PixelDecoderConfig,
    SwinConfig,
    TimmConfig,
    TransformerDecoderConfig,
)
from mask2former.errors import UserError
from mask2former.memory import available_memory, is_lack_of_memory
from mask2former.models.backbones import SwinTransformer, TimmBackbone
from mask2former.models.mask2former import Mask2Former
from mask2former.models.pixel_decoders import (
    BiFPNPixelDecoder,
    FaPNPixelDecoder,
    FPNPixelDecoder,
    MSDeformAttnPixelDecoder,
    NoPixelDecoder,
    SemanticFPNPixelDecoder,
    TransformerFPNPixelDecoder,
)
from mask2former.models.transformer_decoders import (
    EncoderOnlyDecoder,
    MaskedTransformerDecoder,
    PerPixelHead,
    PerPixelPlusHead,
    StandardTransformerDecoder,
)
from mask2former.structures.model_info import ModelInfo
from mask2former.text import printable, quoted

__all__ = ["build_checked", "build_model", "build_skeleton", "size_divisibility"]


def _settings(config: TimmConfig | SwinConfig | PixelDecoderConfig | TransformerDecoderConfig) -> dict:
    """Constructor arguments: the fields of a configuration except its kind."""
    return {name: getattr(config, name) for name in type(config).model_fields if name != "name"}


_BACKBONES: dict[str, type[nn.Module]] = {"timm": TimmBackbone, "swin": SwinTransformer}
_PIXEL_DECODERS: dict[str, type[nn.Module]] = {
    "msdeformattn": MSDeformAttnPixelDecoder,
    "fpn": FPNPixelDecoder,
    "transformer-fpn": TransformerFPNPixelDecoder,
    "semantic-fpn": SemanticFPNPixelDecoder,
    "bifpn": BiFPNPixelDecoder,
    "fapn": FaPNPixelDecoder,
}
_TRANSFORMER_DECODERS: dict[str, type[nn.Module]] = {
    "masked": MaskedTransformerDecoder,
    "standard": StandardTransformerDecoder,
    "per-pixel": PerPixelHead,
    "per-pixel-plus": PerPixelPlusHead,
    "encoder-only": EncoderOnlyDecoder,
}


def build_model(config: ArchitectureConfig, num_classes: int) -> Mask2Former:
    """A freshly initialised model; ``num_classes`` is the length of the class list.

    A :class:`~mask2former.config.ModelConfig` also determines how the model is used (``model.info.inference``).

    Sizes are checked on a skeleton first, so that a configuration of a few bytes cannot fill the memory.

    Raises:
        UserError: the backbone does not exist or is not suitable, or the model exceeds ``limits.PARAMETERS``, the
            memory, or what torch can index.
    """
    if torch.get_default_device().type == "meta":
        with _Unfilled(), _counted(limits.PARAMETERS):
            return _build(config, num_classes)
    _check_size(config, num_classes)
    return build_checked(config, num_classes)


def _check_size(config: ArchitectureConfig, num_classes: int) -> None:
    build_skeleton(config, num_classes, _memory())


def build_skeleton(config: ArchitectureConfig, num_classes: int, most: int = limits.PARAMETERS) -> Mask2Former | None:
    """The model without memory, on the ``meta`` device: only names and shapes.

    Returns:
        None where timm's model cannot be created without memory, or not at all; it is then counted while it is created.

    Raises:
        UserError: it has more than ``most`` numbers or too many layers, or its configuration does not yield a model.
    """
    try:
        with torch.device("meta"), _Unfilled(), _counted(most):
            return _build(config, num_classes)
    except _TooLargeError:
        raise
    except Exception as error:  # impossible sizes raise many different errors
        if isinstance(config.backbone, TimmConfig):
            return None
        if isinstance(error, UserError):
            raise
        raise UserError(f"the configuration does not yield a model ({printable(str(error), 150)})") from error


def build_checked(config: ArchitectureConfig, num_classes: int) -> Mask2Former:
    """Like :func:`build_model`, for a configuration whose :func:`build_skeleton` was already made.

    Raises:
        UserError: as :func:`build_model`.
    """
    try:
        with _counted(_memory()):
            return _build(config, num_classes)
    except (MemoryError, RuntimeError) as error:
        if is_lack_of_memory(error):
            raise UserError(
                "there is not enough memory for the parameters of this model alone; reduce the sizes in its "
                f"configuration (num_queries, dim, feedforward_dim, window_size): {printable(str(error), 120)}"
            ) from error
        raise


class _Unfilled(TorchFunctionMode):
    """Skip initial values: a skeleton has none, and torch would compute their shapes in Python.

    That would import ``torch._dynamo``, which takes two of the four seconds from a command to a loaded model.
    """

    _FILLING = frozenset(
        (
            "normal_",
            "trunc_normal_",
            "uniform_",
            "kaiming_normal_",
            "kaiming_uniform_",
            "constant_",
            "fill_",
            "zero_",
            "copy_",
            "erfinv_",
            "mul_",
            "add_",
            "clamp_",
        )
    )

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self._FILLING:
            filled = args[0] if args else kwargs.get("tensor")
            if isinstance(filled, torch.Tensor) and filled.is_meta:
                return filled
        return func(*args, **kwargs)


class _TooLargeError(UserError):
    """Too many numbers or layers; raised whatever else may be wrong with the model."""


def _memory() -> int:
    """How many float32 numbers a model may have given the current memory."""
    available = available_memory()
    return limits.PARAMETERS if available is None else min(limits.PARAMETERS, available // 4)


@contextlib.contextmanager
def _counted(most: int) -> Iterator[None]:
    """Refuse a model as soon as it has too many parameters and buffers, while it is being created."""
    thread, entries, numbers = threading.get_ident(), 0, 0

    def count(module: nn.Module, name: str, value: torch.Tensor | None) -> None:
        nonlocal entries, numbers
        if value is None or threading.get_ident() != thread:
            return
        entries += 1
        numbers += value.numel()
        if numbers > most:
            raise _TooLargeError(
                f"a model with this configuration has more than {most:,} numbers, which is more than "
                f"{'any known' if most == limits.PARAMETERS else 'fits into the memory'}; reduce its sizes (backbone, "
                "dim, num_queries, feedforward_dim, window_size)"
            )
        if entries > limits.PARAMETER_ENTRIES:
            raise _TooLargeError(
                f"a model with this configuration has more than {limits.PARAMETER_ENTRIES:,} parameters and buffers, "
                "which is more than any known; reduce its numbers of layers"
            )

    hooks = (register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _check_layers(config: ArchitectureConfig) -> None:
    parts = {"pixel_decoder": config.pixel_decoder, "transformer_decoder": config.transformer_decoder}
    counts = {
        f"{part}.{name}": getattr(settings, name, 0)
        for part, settings in parts.items()
        for name in ("num_layers", "num_encoder_layers")
    }
    if isinstance(config.backbone, SwinConfig):
        counts["backbone.depths"] = sum(config.backbone.depths)
    for name, count in counts.items():
        if count > limits.LAYERS:
            raise _TooLargeError(
                f"{name} of the model is {quoted(count)}; at most {limits.LAYERS} are supported: set fewer layers"
            )


def _build(config: ArchitectureConfig, num_classes: int) -> Mask2Former:
    _check_layers(config)
    backbone = _BACKBONES[config.backbone.name](**_settings(config.backbone), in_channels=config.channels)
    pixel_decoder = _pixel_decoder(config.pixel_decoder, backbone)
    make = _TRANSFORMER_DECODERS[config.transformer_decoder.name]
    channels = backbone.channels
    assert not isinstance(channels, torch.Tensor | nn.Module)
    transformer_decoder = make(num_classes, **_decoder_settings(config, channels))
    info = ModelInfo.of(config) if isinstance(config, ModelConfig) else ModelInfo(config)
    mean, std = config.pixel_mean, config.pixel_std
    step = size_divisibility(config)
    return Mask2Former(backbone, pixel_decoder, transformer_decoder, step, mean=mean, std=std, info=info)


def _pixel_decoder(config: PixelDecoderConfig, backbone: nn.Module) -> nn.Module:
    if isinstance(config, NoPixelDecoderConfig):
        return NoPixelDecoder()
    return _PIXEL_DECODERS[config.name](backbone.channels, **_settings(config))


def size_divisibility(config: ArchitectureConfig) -> int:
    """The multiples that image sides are padded to.

    Parity: the published per-pixel baselines with ResNets do not pad; sides of their maps are rounded up.
    """
    is_per_pixel = isinstance(config.transformer_decoder, PerPixelConfig | PerPixelPlusConfig)
    is_resnet = isinstance(config.backbone, TimmConfig) and config.backbone.model.startswith("resnet")
    return 1 if is_per_pixel and is_resnet else 32


def _decoder_settings(config: ArchitectureConfig, channels: Sequence[int]) -> dict:
    """Constructor arguments of the transformer decoder; ``channels`` are those of the backbone."""
    decoder, pixels = config.transformer_decoder, config.pixel_decoder
    if isinstance(decoder, EncoderOnlyConfig) or isinstance(pixels, NoPixelDecoderConfig):  # the two are set together
        blocks = getattr(config.backbone, "joint_blocks", 0)
        return {**_settings(decoder), "dim": channels[0], "num_blocks": blocks}
    settings = {**_settings(decoder), "mask_dim": pixels.mask_dim}
    if isinstance(decoder, MaskedDecoderConfig):
        temporal = settings.pop("position_encoding") == "3d"
        return {**settings, "temporal": temporal, "channels": pixels.dim}
    if isinstance(decoder, PerPixelConfig):
        return settings
    widths = {f"res{level}": width for level, width in enumerate(channels, start=2)}
    widths |= {"encoder": pixels.dim, "mask_features": pixels.mask_dim}
    return {**settings, "channels": widths[decoder.source]}
