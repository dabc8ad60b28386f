"""From a checkpoint that was read to a model, without trusting what its configuration claims.

A configuration of some bytes could ask for a model that fills the memory, or for timm to fetch and read other files; a
skeleton of it is counted and held to the weights first. Must not know where checkpoints come from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import torch

from mask2former.checkpoints.checkpoint import Checkpoint, load_into
from mask2former.config import ArchitectureConfig
from mask2former.errors import UserError
from mask2former.models.build import build_checked, build_skeleton
from mask2former.models.mask2former import Mask2Former

__all__ = ["instantiate", "skeleton_of"]


def instantiate(checkpoint: Checkpoint, model: Mask2Former | None = None) -> Mask2Former:
    """The model with its weights and its info, in evaluation mode on the CPU.

    Args:
        checkpoint: that was read.
        model: gets the weights where it is, instead of one that is built.

    Raises:
        UserError: the weights do not fit the configuration, or it asks for what no checkpoint may; or the model has
            parts of its own and was not given.
    """
    source = checkpoint.source
    if model is not None:
        _check_normalisation(checkpoint, model)
        load_into(model, checkpoint.state, source, spellings=checkpoint.spellings)
        model.info = replace(checkpoint.info, architecture=model.info.architecture)
        return model.eval()
    config, num_classes = _architecture(checkpoint), len(checkpoint.categories)
    with _naming(source):
        skeleton = build_skeleton(config, num_classes)
    if skeleton is not None:
        load_into(skeleton, checkpoint.state, source, spellings=checkpoint.spellings)
    with _naming(source), torch.random.fork_rng(devices=[]):  # initial values are overwritten, the caller's state not
        model = build_checked(config, num_classes)
    load_into(model, checkpoint.state, source, spellings=checkpoint.spellings)
    model.info = checkpoint.info
    return model.eval()


def skeleton_of(checkpoint: Checkpoint) -> Mask2Former:
    """The model without memory, or, where timm's cannot be made so, with initial values.

    Raises:
        UserError: the configuration makes no model, or one larger than any, or reads a backbone from elsewhere.
    """
    config, num_classes = _architecture(checkpoint), len(checkpoint.categories)
    with _naming(checkpoint.source):
        return build_skeleton(config, num_classes) or build_checked(config, num_classes)


def _check_normalisation(checkpoint: Checkpoint, model: Mask2Former) -> None:
    stored = checkpoint.info.architecture
    if stored is not None and (stored.pixel_mean, stored.pixel_std) != (model.mean, model.std):
        raise UserError(
            f"{checkpoint.source}: its images were normalised with mean {list(stored.pixel_mean)} and deviation "
            f"{list(stored.pixel_std)}, but the model that was given has {list(model.mean)} and {list(model.std)}; "
            "make it with mean and std of the file"
        )


def _architecture(checkpoint: Checkpoint) -> ArchitectureConfig:
    if checkpoint.info.architecture is None:
        raise UserError(
            f"{checkpoint.source}: the weights of a model with parts of its own, which the file does not describe; "
            "make the model in Python and give it: from_pretrained(..., model=model)"
        )
    return checkpoint.info.architecture


@contextlib.contextmanager
def _naming(source: str) -> Iterator[None]:
    """What is refused of a model is refused of the file that describes it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{source}: {error}; fetch or save it again") from error
