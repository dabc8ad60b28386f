"""Creates a model from a checkpoint that was read, without trusting what its configuration claims.

A configuration of a few bytes could request a model that fills the memory, or make timm fetch and read other files; a
skeleton of it is counted and compared with the weights first. Must not know where checkpoints come from.
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
        checkpoint: as read.
        model: an existing model that receives the weights, instead of a newly built one.

    Raises:
        UserError: the weights do not fit the configuration, or it requests what no checkpoint may; or the model has
            custom parts and was not given.
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
    with _naming(source), torch.random.fork_rng(devices=[]):  # initial values are overwritten, the random state is not
        model = build_checked(config, num_classes)
    load_into(model, checkpoint.state, source, spellings=checkpoint.spellings)
    model.info = checkpoint.info
    return model.eval()


def skeleton_of(checkpoint: Checkpoint) -> Mask2Former:
    """The model without memory or, where timm's cannot be created that way, with initial values.

    Raises:
        UserError: the configuration does not yield a model, or an oversized one, or reads a backbone from elsewhere.
    """
    config, num_classes = _architecture(checkpoint), len(checkpoint.categories)
    with _naming(checkpoint.source):
        return build_skeleton(config, num_classes) or build_checked(config, num_classes)


def _check_normalisation(checkpoint: Checkpoint, model: Mask2Former) -> None:
    stored = checkpoint.info.architecture
    if stored is not None and (stored.pixel_mean, stored.pixel_std) != (model.mean, model.std):
        raise UserError(
            f"{checkpoint.source}: its images were normalised with mean {list(stored.pixel_mean)} and deviation "
            f"{list(stored.pixel_std)}, but the given model has {list(model.mean)} and {list(model.std)}; build it "
            "with the mean and std of the file"
        )


def _architecture(checkpoint: Checkpoint) -> ArchitectureConfig:
    if checkpoint.info.architecture is None:
        raise UserError(
            f"{checkpoint.source}: the weights are for a model with custom parts, which the file does not describe; "
            "build the model in Python and pass it: from_pretrained(..., model=model)"
        )
    return checkpoint.info.architecture


@contextlib.contextmanager
def _naming(source: str) -> Iterator[None]:
    """Turn a refusal of a model into a refusal of the file that describes it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{source}: {error}; fetch or save it again") from error
