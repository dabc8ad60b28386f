"""From a checkpoint that was read to a model, without trusting what its configuration claims.

A configuration of some bytes could ask for a model that fills the memory, or for timm to fetch and read other files;
it is held to the weights that came with it first. Must not know where checkpoints come from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from mask2former.checkpoints.io import Checkpoint, load_into
from mask2former.config import ModelConfig, SwinConfig, TimmConfig
from mask2former.errors import RequestError
from mask2former.models.backbones.timm import check_arguments
from mask2former.models.build import build_checked, build_skeleton
from mask2former.models.mask2former import Mask2Former

__all__ = ["check_claims", "instantiate"]


def instantiate(checkpoint: Checkpoint) -> Mask2Former:
    """The model with its weights, categories and licence, in evaluation mode on the CPU.

    Raises:
        RequestError: the weights do not fit the configuration, or it asks for what no checkpoint may.
    """
    config, num_classes = checkpoint.config, len(checkpoint.categories)
    check_claims(checkpoint)
    _check_shapes(checkpoint)
    with torch.random.fork_rng(devices=[]):  # initial values are overwritten; the caller's random state is not
        model = build_checked(config, num_classes)
    load_into(model, checkpoint.state, checkpoint.source)
    model.categories = checkpoint.categories
    model.licence = checkpoint.licence
    return model.eval()


def check_claims(checkpoint: Checkpoint) -> None:
    """Refuse layers without entries, sizes beyond any that is there, and a backbone that is read from elsewhere.

    Raises:
        RequestError: the configuration claims what the weights do not hold; the message names it.
    """
    config, state = checkpoint.config, checkpoint.state
    largest = max((size for value in state.values() for size in value.shape), default=0)
    if _num_layers(config) > len(state):
        raise RequestError(
            f"{checkpoint.source}: its configuration has {_num_layers(config)} layers, but there are only {len(state)} "
            "entries; fetch or save it again"
        )
    if isinstance(config.backbone, TimmConfig):
        backbone = config.backbone
        try:
            check_arguments(backbone.model, backbone.arguments)
        except RequestError as error:
            raise RequestError(f"{checkpoint.source}: {error}") from error
        excess = [number for number in _numbers(backbone.arguments) if abs(number) > max(largest, 1 << 12)]
        if excess:
            raise RequestError(
                f"{checkpoint.source}: its backbone has an argument of {excess[0]}, but no weights of that size; fetch "
                "or save it again"
            )


def _num_layers(config: ModelConfig) -> int:
    blocks = sum(config.backbone.depths) if isinstance(config.backbone, SwinConfig) else 0
    if isinstance(config.backbone, TimmConfig):
        blocks = sum(
            sum(number for number in _numbers(value))
            for name, value in config.backbone.arguments.items()
            if name in ("layers", "depths")
        )
    decoders = (config.pixel_decoder, config.transformer_decoder)
    return int(blocks) + sum(int(getattr(decoder, "num_layers", 0)) for decoder in decoders)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _check_shapes(checkpoint: Checkpoint) -> None:
    """Compare with a model that takes no memory, before one is made that does."""
    config, num_classes = checkpoint.config, len(checkpoint.categories)
    try:
        skeleton = build_skeleton(config, num_classes)
    except RequestError as error:
        raise RequestError(f"{checkpoint.source}: {error}; fetch or save it again") from error
    load_into(skeleton, checkpoint.state, checkpoint.source)
