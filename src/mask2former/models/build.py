"""Configuration to modules: the only place that knows kinds by their names."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from mask2former import limits
from mask2former.config import (
    ArchitectureConfig,
    MaskedDecoderConfig,
    ModelConfig,
    MSDeformAttnConfig,
    SwinConfig,
    TimmConfig,
)
from mask2former.errors import UserError
from mask2former.memory import available_memory, is_lack_of_memory
from mask2former.models.backbones import SwinTransformer, TimmBackbone
from mask2former.models.mask2former import Mask2Former
from mask2former.models.pixel_decoders import MSDeformAttnPixelDecoder
from mask2former.models.transformer_decoders import MaskedTransformerDecoder
from mask2former.structures.model_info import ModelInfo
from mask2former.text import printable, quoted

__all__ = ["build_checked", "build_model", "build_skeleton"]


def _settings(config: TimmConfig | SwinConfig | MSDeformAttnConfig | MaskedDecoderConfig) -> dict:
    """Constructor arguments: the fields of a configuration without its kind."""
    return {name: getattr(config, name) for name in type(config).model_fields if name != "name"}


_BACKBONES: dict[str, type[nn.Module]] = {"timm": TimmBackbone, "swin": SwinTransformer}
_PIXEL_DECODERS: dict[str, type[nn.Module]] = {"msdeformattn": MSDeformAttnPixelDecoder}
_TRANSFORMER_DECODERS: dict[str, type[nn.Module]] = {"masked": MaskedTransformerDecoder}


def build_model(config: ArchitectureConfig, num_classes: int) -> Mask2Former:
    """A freshly initialised model; ``num_classes`` is the length of the class list.

    A :class:`~mask2former.config.ModelConfig` also says how it is used (``model.info.inference``).

    Sizes are checked in a skeleton first, so that a configuration of some bytes cannot fill the memory.

    Raises:
        UserError: the backbone does not exist or cannot serve, or the model is larger than ``limits.PARAMETERS``,
            than the memory, or than torch can number.
    """
    if torch.get_default_device().type == "meta":
        with _counted(limits.PARAMETERS):
            return _build(config, num_classes)
    build_skeleton(config, num_classes, _memory())
    return build_checked(config, num_classes)


def build_skeleton(config: ArchitectureConfig, num_classes: int, most: int = limits.PARAMETERS) -> Mask2Former | None:
    """The model without memory, on the ``meta`` device: names and shapes.

    Returns:
        None where timm's model cannot be made without memory, or not at all; it is counted while it is made.

    Raises:
        UserError: it has more than ``most`` numbers or too many layers, or its configuration makes no model.
    """
    try:
        with torch.device("meta"), _counted(most):
            return _build(config, num_classes)
    except _TooLargeError:
        raise
    except Exception as error:  # what arises from odd sizes is as varied as they are
        if isinstance(config.backbone, TimmConfig):
            return None
        if isinstance(error, UserError):
            raise
        raise UserError(f"the configuration makes no model ({printable(str(error), 150)})") from error


def build_checked(config: ArchitectureConfig, num_classes: int) -> Mask2Former:
    """As :func:`build_model`, of a configuration of which :func:`build_skeleton` was made.

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


class _TooLargeError(UserError):
    """Whatever else may be wrong with it."""


def _memory() -> int:
    """How many float32 numbers a model may have where memory is what it is now."""
    available = available_memory()
    return limits.PARAMETERS if available is None else min(limits.PARAMETERS, available // 4)


@contextlib.contextmanager
def _counted(most: int) -> Iterator[None]:
    """Refuse a model as soon as its parameters and buffers are too many, in the middle of making it."""
    thread, entries, numbers = threading.get_ident(), 0, 0

    def count(module: nn.Module, name: str, value: torch.Tensor | None) -> None:
        nonlocal entries, numbers
        if value is None or threading.get_ident() != thread:
            return
        entries += 1
        numbers += value.numel()
        if numbers > most:
            raise _TooLargeError(
                f"a model of this configuration has more than {most:,} numbers, which is more than "
                f"{'any known' if most == limits.PARAMETERS else 'fits the memory'}; reduce its sizes (backbone, dim, "
                "num_queries, feedforward_dim, window_size)"
            )
        if entries > limits.PARAMETER_ENTRIES:
            raise _TooLargeError(
                f"a model of this configuration has more than {limits.PARAMETER_ENTRIES:,} parameters and buffers, "
                "which is more than any known; reduce its numbers of layers"
            )

    hooks = (register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _check_layers(config: ArchitectureConfig) -> None:
    counts = {
        "pixel_decoder.num_layers": config.pixel_decoder.num_layers,
        "transformer_decoder.num_layers": config.transformer_decoder.num_layers,
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
    backbone = _BACKBONES[config.backbone.name](**_settings(config.backbone))
    pixel_decoder = _PIXEL_DECODERS[config.pixel_decoder.name](backbone.channels, **_settings(config.pixel_decoder))
    decoder = _settings(config.transformer_decoder)
    temporal = decoder.pop("position_encoding") == "3d"
    transformer_decoder = _TRANSFORMER_DECODERS[config.transformer_decoder.name](
        channels=config.pixel_decoder.dim,
        mask_dim=config.pixel_decoder.mask_dim,
        num_classes=num_classes,
        temporal=temporal,
        **decoder,
    )
    info = ModelInfo.of(config) if isinstance(config, ModelConfig) else ModelInfo(config)
    mean, std = config.pixel_mean, config.pixel_std
    return Mask2Former(backbone, pixel_decoder, transformer_decoder, mean=mean, std=std, info=info)
