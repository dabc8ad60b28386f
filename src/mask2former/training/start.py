"""What a run starts from: its settings, completed with those of the initial model, and its initial weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mask2former import checkpoints, recipes
from mask2former.checkpoints.formats.backbones import Backbone, start_from_backbone
from mask2former.checkpoints.initial import completed_model, named_backbone, open_initial, with_initial
from mask2former.checkpoints.transfer import check_settings, filled_in, takes_class_head, with_settings_of
from mask2former.config import InferenceConfig, RunConfig, TimmConfig, parse
from mask2former.errors import UserError
from mask2former.models.build import build_model
from mask2former.models.mask2former import Mask2Former
from mask2former.models.parts import set_precision
from mask2former.structures import Categories, ModelInfo
from mask2former.text import printable
from mask2former.training.cluster import say_once
from mask2former.training.resume import LastState

__all__ = ["completed", "initial_model", "with_start"]


def completed(values: dict[str, Any], resume: Path | None = None) -> dict[str, Any]:
    """The settings of a run file, completed with those of the model that it starts from.

    :func:`~mask2former.training.run.train` does this by itself; this function is for settings that are contradictory
    without the others, for instance a diameter where the tiles are those of the initial model.

    Args:
        values: as in the file.
        resume: the directory of a run to continue, whose settings are used then.

    Raises:
        UserError: the initial model, or the last checkpoint, cannot be read.
    """
    model = values.get("model")
    init = model.get("init") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(init, str):
        return values
    last = None if resume is None else resume / "checkpoints" / "last.ckpt"
    if last is not None and last.is_file():
        return {**values, "model": filled_in(model, ModelInfo.of(LastState.read(last).config.model))}
    return {**values, "model": completed_model(model, open_initial(init, _named_backbone(model)), init)}


def _named_backbone(model: dict[str, Any]) -> TimmConfig | None:
    """The timm model named in the settings, if any; the settings have not been validated yet."""
    values = model.get("backbone")
    if not isinstance(values, dict) or "model" not in values or values.get("name", "timm") != "timm":
        return None
    return parse(TimmConfig, values, "model.backbone")


def with_start(
    config: RunConfig, given: Mask2Former | None, past: LastState | None
) -> tuple[RunConfig, checkpoints.Checkpoint | Backbone | None]:
    """The run, completed with the settings of its initial model or backbone, and that model or backbone.

    Args:
        config: of the complete run.
        given: a model to be trained instead of a newly built one.
        past: the state that the run continues from, which includes the settings of the initial model.

    Returns:
        The settings, and the model or backbone that training starts from; None if it starts from random weights or from
        a checkpoint of the run.

    Raises:
        UserError: the initial model cannot be read, or the run contradicts it.
    """
    if given is not None:
        config = _with_model(config, given)
    start = _start_of(config) if _begins(past) else None
    init, known = config.model.init, start.info if isinstance(start, checkpoints.Checkpoint) else None
    if known is not None and given is not None and given.info.architecture is None:
        known = replace(known, architecture=None)  # for custom parts, loading shows whether the weights fit
    if known is not None and init is not None and past is None:
        check_settings(config.model, known, init, partial=config.model.init_partial)
    if isinstance(start, Backbone) and past is None and init is not None and (given is None or given.info.architecture):
        config = config.model_copy(update={"model": with_initial(config.model, start, init)})
    if past is not None:
        known = ModelInfo.of(past.config.model)
    if init is not None and known is not None:
        config = config.model_copy(update={"model": with_settings_of(config.model, known, init)})
    return config, start


def _begins(past: LastState | None) -> bool:
    """Whether the initial model must be read: if the run has no record, it supplies the license."""
    return past is None or past.categories is None


def _start_of(config: RunConfig) -> checkpoints.Checkpoint | Backbone | None:
    """The model or backbone that training starts from; None if it starts from random weights."""
    init = config.model.init
    if init is None:
        return None
    maker = Path(init).parent.name
    if Path(init).name == "model.safetensors" and not Path(init).exists() and maker in recipes.run_recipes():
        raise UserError(
            f"model.init: {init} does not exist; it is the result of the recipe '{maker}' (mask2former recipe "
            f"{maker}): train that first, or start from a model that comes with the package, for instance "
            "model.init=nuclei"
        )
    return open_initial(init, named_backbone(config.model))


def _with_model(config: RunConfig, given: Mask2Former) -> RunConfig:
    """The run of a given model: its architecture, and its inference settings where the run sets none."""
    model, info = config.model, given.info
    settings = filled_in(
        {"inference": model.inference.model_dump(exclude_unset=True)}, replace(info, architecture=None)
    )
    inference = parse(InferenceConfig, settings["inference"], "model.inference, with the settings of the model")
    own = {"pixel_mean": given.mean, "pixel_std": given.std}
    parts = own if info.architecture is None else dict(info.architecture)
    return config.model_copy(update={"model": model.model_copy(update={**parts, "inference": inference})})


def initial_model(
    config: RunConfig,
    given: Mask2Former | None,
    categories: Categories,
    start: checkpoints.Checkpoint | Backbone | None,
    past: LastState | None,
) -> tuple[Mask2Former, bool]:
    """The model of a run, and whether its weights are complete, so that validation before the first step is meaningful.

    Args:
        config: of the complete run, with the settings of the initial model.
        given: used instead of a newly built one.
        categories: of the training data.
        start: the model or backbone that it starts from.
        past: the state with its weights, if the run continues.

    Raises:
        UserError: the classes, or the initial weights, do not fit.
    """
    model, is_whole = _with_weights(config, given, categories, start, begins=_begins(past))
    set_precision(model.pixel_decoder, full=not config.trainer.half_pixel_decoder)
    model.set_gradient_checkpointing(config.trainer.gradient_checkpointing)
    if config.trainer.channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  (no overload has it)
    if past is not None and past.license is not None:
        model.info = replace(model.info, license=past.license)
    return model, is_whole


def _with_weights(
    config: RunConfig,
    given: Mask2Former | None,
    categories: Categories,
    start: checkpoints.Checkpoint | Backbone | None,
    *,
    begins: bool,
) -> tuple[Mask2Former, bool]:
    model, is_whole = given or build_model(config.model, len(categories)), False
    if given is not None:
        is_whole = begins and given.categories is not None
        if given.categories is not None and given.categories.names != categories.names:
            raise UserError(
                f"the classes of the model ({_some(given.categories)}) differ from those of the training data "
                f"({_some(categories)}); start from its weights file instead (model.init, model.init_partial)"
            )
        given.train()
    model.info = replace(model.info, inference=config.model.inference, categories=categories, metrics={})
    init = config.model.init
    if init is None or not begins:  # the weights come from a checkpoint
        return model, is_whole
    if isinstance(start, Backbone):
        said = start_from_backbone(model, start, init, repeat_channels=config.model.init_channels == "repeat")
        say_once(f"Starting from {init}: {'; '.join(said)}")
        return model, False
    assert start is not None, "a run that begins has read what it begins with"
    partial, by_name = config.model.init_partial, config.model.init_classes == "by-name"
    repeat = config.model.init_channels == "repeat"
    notes = checkpoints.start_from(model, start, init, partial=partial, by_name=by_name, repeat_channels=repeat)
    what = f"all weights that fit: {'; '.join(notes)}" if notes else "all of its weights"
    say_once(f"Starting from {init} with {what}")
    is_whole = takes_class_head(categories, start.categories, partial=partial, by_name=by_name)
    if not is_whole:
        new = "some classes are" if by_name else "the class head is"
        say_once(f"Skipping the validation before the first step because {new} newly initialised")
    return model, is_whole


def _some(categories: Categories) -> str:
    return f"{len(categories)}: {', '.join(printable(name, 80) for name in categories.names[:4])}"
