"""Opens what ``model.init`` and ``model.init_backbone`` name, and completes a run's settings from it.

Its weights are transferred to the model of the run by ``transfer`` (complete models) and ``formats.backbones``
(backbones).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mask2former import checkpoints
from mask2former.checkpoints.checkpoint import Checkpoint
from mask2former.checkpoints.formats import timm as timm_models
from mask2former.checkpoints.formats.backbones import Backbone
from mask2former.checkpoints.hub import fetch_folder, parse_hub_name
from mask2former.checkpoints.load import checkpoint_of
from mask2former.checkpoints.normalisation import IMAGENET, Normalisation
from mask2former.checkpoints.transfer import (
    explicit_settings,
    filled_in,
    other_channels,
    with_backbone,
    with_settings_of,
)
from mask2former.config import ModelConfig, TimmConfig, parse
from mask2former.errors import OptionError, UserError
from mask2former.text import count, listed

__all__ = ["Initial", "completed_model", "named_backbone", "open_initial", "open_replacement", "with_initial"]

_HUB, _TIMM = "hf://", "timm/"
_FILES = "config.json and model.safetensors"


class Initial(NamedTuple):
    """What training starts from.

    Attributes:
        source: a model, or a backbone alone; None for random weights.
        backbone: replaces the backbone of that model.
    """

    source: Checkpoint | Backbone | None = None
    backbone: Backbone | None = None


def named_backbone(model: ModelConfig) -> TimmConfig | None:
    """The timm model that a run sets as its backbone, if it does."""
    backbone, is_set = model.backbone, "backbone" in model.model_fields_set
    if is_set and isinstance(backbone, TimmConfig) and "model" in backbone.model_fields_set:
        return backbone
    return None


def open_initial(source: str, backbone: TimmConfig | None = None) -> Checkpoint | Backbone:
    """A model, as from ``open_checkpoint``, or a backbone alone.

    Args:
        source: as for ``open_checkpoint``; ``timm/convnext_tiny.fb_in22k``, that timm model from the hub; or a file or
            folder with a backbone in any layout that ``convert`` reads.
        backbone: that of the run, if it is set: files with only timm weights do not say which model they are for.

    Raises:
        UserError: the name does not exist, it cannot be fetched, or the file is unsuitable; the message says what was
            expected. If only options could resolve it, the message names the command that has them.
    """
    try:
        return _opened(source, backbone)
    except OptionError as error:
        flags = {"recipe": "--recipe", "tasks": "--task", "weights": "--weights"}
        raise UserError(
            f"model.init: {error.sentence(lambda name: flags.get(name, name))} to: mask2former convert {source} "
            "NEW.safetensors; then start from that file"
        ) from error


def open_replacement(init: str, source: Checkpoint | Backbone, name: str, backbone: TimmConfig | None) -> Backbone:
    """The backbone that replaces that of the initial model.

    Args:
        init: what ``model.init`` names.
        source: the same, opened.
        name: what ``model.init_backbone`` names, as ``source`` of :func:`open_initial`.
        backbone: as of :func:`open_initial`.

    Raises:
        UserError: ``init`` is a backbone itself, or ``name`` is none.
    """
    if isinstance(source, Backbone):
        raise UserError(
            f"model.init_backbone replaces the backbone of a complete model, but model.init, {init}, is only a "
            "backbone; leave one of the two out"
        )
    found = open_initial(name, backbone)
    if isinstance(found, Checkpoint):
        raise UserError(
            f"model.init_backbone: {name} is a complete model; expected weights of only a backbone, for example "
            'timm/NAME.TAG (for the others, see "Starting from a backbone" in docs/training.md)'
        )
    return found


def _opened(source: str, backbone: TimmConfig | None) -> Checkpoint | Backbone:
    is_named = checkpoints.is_name(source)
    if source.startswith((_TIMM, _HUB)) and not is_named and not os.path.exists(source):
        folder, repository = _fetched(source)
        found = checkpoints.read_fetched(folder, repository, source, backbone=backbone)
    else:
        found = checkpoints.find(source, backbone=backbone)
    return found.content if isinstance(found.content, Backbone) else checkpoint_of(found, source, is_named=is_named)


def _fetched(source: str) -> tuple[Path, str]:
    """The folder of a repository of the hub, and its name."""
    name = parse_hub_name(source if source.startswith(_HUB) else _HUB + source)
    assert name is not None, "the prefix allows no other source"
    repository, revision = name
    model, _, tag = repository.removeprefix(_TIMM).partition(".")
    if repository.startswith(_TIMM) and not tag and (known := timm_models.published_names(model)):
        raise UserError(
            f"'{source}' does not say which weights are meant; timm has for it: "
            f"{listed([_TIMM + one for one in known])}"
        )
    try:
        return fetch_folder(repository, revision), repository
    except UserError as error:
        raise UserError(f"{error} ({_FILES} of https://huggingface.co/{repository}; then model.init=FOLDER)") from error


def completed_model(
    values: Mapping[str, Any], source: Checkpoint | Backbone, name: str, backbone: Backbone | None = None
) -> dict[str, Any]:
    """Model settings as in a run file, completed with those of the model or backbone that it starts from.

    Args:
        values: as in the file.
        source: the model or backbone that it starts from.
        name: what ``source`` is called in messages.
        backbone: replaces the backbone of ``source``; ``values`` name it as ``init_backbone``.

    Raises:
        UserError: it is not known how images are normalised, or ``source`` and ``backbone`` are for images with
            different numbers of channels, and the settings do not choose.
    """
    if backbone is not None:
        _check_channels(values, source, name, backbone)
        values = completed_model(values, backbone, str(values["init_backbone"]))
    if isinstance(source, Checkpoint):
        return filled_in(values, source.info)
    result = with_backbone(values, source.config)
    if source.says_normalisation or len(source.normalisations) == 1:
        return {**source.normalisations[0].settings, **result}
    if not IMAGENET.settings.keys() <= values.keys():
        raise UserError(
            f"{name}: it is not known how images were normalised for these weights of {source} (timm has some with "
            f"{' and some with '.join(map(str, source.normalisations))}); set model.pixel_mean and model.pixel_std, "
            "or put the config.json of timm beside them"
        )
    return result


def _check_channels(values: Mapping[str, Any], source: Checkpoint | Backbone, name: str, backbone: Backbone) -> None:
    """Refuse a backbone for another number of channels than the model has, unless the settings choose one."""
    inference, here = values.get("inference"), len(backbone.normalisations[0].pixel_mean)
    is_set = "pixel_mean" in values or (isinstance(inference, Mapping) and inference.get("bands") is not None)
    there = source.info.inference.channels if isinstance(source, Checkpoint) else here
    if there == here or is_set:
        return
    raise UserError(
        f"{name} expects images of {count(there, 'channel')}, but the backbone of {values['init_backbone']} "
        f"expects {here}; set model.pixel_mean and model.pixel_std to one number for each channel of the images, and "
        f"unless these have {here}, also model.init_channels=repeat"
    )


def with_initial(
    model: ModelConfig, source: Checkpoint | Backbone, name: str, backbone: Backbone | None = None
) -> ModelConfig:
    """The settings of a model that starts from another, or from a backbone: its own where set, else the source's.

    Args:
        model: what was set; settings that were left out are not in ``model_fields_set``.
        source: the model or backbone that it starts from.
        name: what ``source`` is called in messages.
        backbone: replaces the backbone of ``source``.

    Raises:
        UserError: the two contradict each other.
    """
    if isinstance(source, Checkpoint) and backbone is None:
        return with_settings_of(model, source.info, name)
    values = completed_model(explicit_settings(model), source, name, backbone)
    result = parse(ModelConfig, values, f"the run with the settings of {name}, model")
    if backbone is not None:
        source, name = backbone, str(model.init_backbone)
    assert isinstance(source, Backbone), "models without another backbone have returned"
    there = len(source.normalisations[0].pixel_mean)
    if result.channels != there:
        if result.init_channels != "repeat":
            raise UserError(other_channels(name, there, result.channels))
        return result
    if source.says_normalisation and (own := Normalisation.of(result)) != source.normalisations[0]:
        raise UserError(
            f"{name} does not fit: images are normalised with {own} in the run, but with {source.normalisations[0]} "
            f"for the weights; leave model.pixel_mean and model.pixel_std out, and they are taken from {name}"
        )
    return result
