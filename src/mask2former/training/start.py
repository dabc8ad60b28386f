"""Where a run starts: its settings, completed with those of the initial model, and the model with its first weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mask2former import checkpoints, recipes
from mask2former.checkpoints.formats.backbones import Backbone, start_from_backbone
from mask2former.checkpoints.initial import (
    Initial,
    completed_model,
    named_backbone,
    open_initial,
    open_replacement,
    with_initial,
)
from mask2former.checkpoints.transfer import (
    check_settings,
    computed_otherwise,
    filled_in,
    takes_class_head,
    with_settings_of,
)
from mask2former.config import InferenceConfig, RunConfig, TimmConfig, TrainerConfig, parse
from mask2former.errors import UserError
from mask2former.models.backbones.timm import TimmBackbone, frozen_norms
from mask2former.models.build import build_model
from mask2former.models.depthwise import set_depthwise_precision
from mask2former.models.mask2former import Mask2Former
from mask2former.models.parts import set_precision
from mask2former.structures import Categories, ModelInfo
from mask2former.structures.result_base import check_class_thresholds
from mask2former.text import printable
from mask2former.training.cluster import say_once
from mask2former.training.resume import LastState

__all__ = ["completed", "initial_model", "prepare_for_training", "with_start"]


def completed(values: dict[str, Any], resume: Path | None = None) -> dict[str, Any]:
    """The settings of a run file, completed with those of its initial model.

    :func:`~mask2former.training.run.train` does this by itself. It is only needed for settings that are inconsistent
    without the others, for instance a diameter where the tiles are those of the initial model.

    Args:
        values: the settings as in the file.
        resume: directory of a run to be resumed, whose settings are used then.

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
    other = model.get("init_backbone")
    if other is not None and not isinstance(other, str):
        return values
    start = _opened(init, other, _named_backbone(model))
    assert start.source is not None, "it was named"
    return {**values, "model": completed_model(model, start.source, init, start.backbone)}


def _named_backbone(model: dict[str, Any]) -> TimmConfig | None:
    """The timm model that the settings name, if any; the settings have not been validated yet."""
    values = model.get("backbone")
    if not isinstance(values, dict) or "model" not in values or values.get("name", "timm") != "timm":
        return None
    return parse(TimmConfig, values, "model.backbone")


def with_start(config: RunConfig, given: Mask2Former | None, past: LastState | None) -> tuple[RunConfig, Initial]:
    """The run, completed with settings of the initial model or backbone, and what training starts from.

    Args:
        config: settings of the complete run.
        given: a model that is trained instead of a newly built one.
        past: the state from which the run is resumed, which includes the settings of the initial model.

    Returns:
        The settings, and what training starts from, which is empty for random weights and for a checkpoint of the run.

    Raises:
        UserError: the initial model cannot be read, or contradicts the run.
    """
    if given is not None:
        config = _with_model(config, given)
    init, start = config.model.init, _start_of(config) if _begins(past) else Initial()
    if init is None:
        return config, start
    model = config.model
    if past is not None:
        model = with_settings_of(model, ModelInfo.of(past.config.model), init)
    elif start.source is not None:
        settings = start if given is None else _of_own_parts(start, given)
        if isinstance(settings.source, checkpoints.Checkpoint):
            others = start.backbone is not None
            check_settings(model, settings.source.info, init, partial=model.init_partial, other_backbone=others)
        if settings.source is not None:
            model = with_initial(model, settings.source, init, settings.backbone)
    return config.model_copy(update={"model": model}), start


def _of_own_parts(start: Initial, given: Mask2Former) -> Initial:
    """What an initial model sets for a model that was built in Python; loading checks whether its weights fit."""
    if given.info.architecture is not None:
        return start
    if not isinstance(start.source, checkpoints.Checkpoint):
        return Initial()
    return Initial(replace(start.source, info=replace(start.source.info, architecture=None)))


def _begins(past: LastState | None) -> bool:
    """Whether the initial model is read; without a record of the run, it is needed for its license."""
    return past is None or past.categories is None


def _start_of(config: RunConfig) -> Initial:
    """What training starts from, apart from the run's own checkpoints."""
    init = config.model.init
    if init is None:
        return Initial()
    maker = Path(init).parent.name
    if Path(init).name == "model.safetensors" and not Path(init).exists() and maker in recipes.run_recipes():
        raise UserError(
            f"model.init: {init} does not exist; it is the result of the recipe '{maker}' (mask2former recipe "
            f"{maker}): train that first, or start from a model that comes with the package, for instance "
            "model.init=nuclei"
        )
    return _opened(init, config.model.init_backbone, named_backbone(config.model))


def _opened(init: str, init_backbone: str | None, backbone: TimmConfig | None) -> Initial:
    source = open_initial(init, backbone)
    if init_backbone is None:
        return Initial(source)
    return Initial(source, open_replacement(init, source, init_backbone, backbone))


def _with_model(config: RunConfig, given: Mask2Former) -> RunConfig:
    """The run of a model that was passed: its architecture, and its inference settings unless the run sets them."""
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
    start: Initial,
    past: LastState | None,
) -> tuple[Mask2Former, bool]:
    """The model of a run, and whether it is complete, so that validation before the first step makes sense.

    Args:
        config: the complete run, with the settings of the initial model.
        given: a model that is used instead of a newly built one.
        categories: of the training data.
        start: what it starts from.
        past: the state that has its weights, if the run is resumed.

    Raises:
        UserError: the classes, or the initial weights, do not fit, or the given model is not what its architecture
            says.
    """
    model, is_whole = _with_weights(config, given, categories, start, begins=_begins(past))
    if given is None and past is None and config.model.init is None:
        _say_random(model)
    prepare_for_training(model, config.trainer)
    if past is not None and past.license is not None:
        model.info = replace(model.info, license=past.license)
    return model, is_whole


def prepare_for_training(model: Mask2Former, trainer: TrainerConfig) -> None:
    """Set the precision, the memory format and the gradient checkpointing of a model as a run trains it.

    Raises:
        UserError: a part does not support what ``trainer`` requests.
    """
    set_precision(model.pixel_decoder, full=not trainer.half_pixel_decoder)
    set_depthwise_precision(model)
    model.set_gradient_checkpointing(trainer.gradient_checkpointing)
    if trainer.channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  (missing overload)


def _with_weights(
    config: RunConfig,
    given: Mask2Former | None,
    categories: Categories,
    start: Initial,
    *,
    begins: bool,
) -> tuple[Mask2Former, bool]:
    check_class_thresholds(config.model.inference.class_thresholds, categories)
    model, is_whole = given or _new_model(config, len(categories), start), False
    if given is not None:
        is_whole = begins and given.categories is not None
        if given.categories is not None and given.categories.names != categories.names:
            raise UserError(
                f"the classes of the model ({_some(given.categories)}) differ from those of the training data "
                f"({_some(categories)}); start from its weights file instead (model.init, model.init_partial)"
            )
        checkpoints.check_described(given, len(categories))  # now, not when the trained model is saved
        given.train()
    model.info = replace(model.info, inference=config.model.inference, categories=categories, metrics={})
    init = config.model.init
    if init is None or not begins:  # the weights come from a checkpoint
        return model, is_whole
    source, repeat = start.source, config.model.init_channels == "repeat"
    assert source is not None, "a run that begins has read what it begins with"
    if isinstance(source, Backbone):
        said = start_from_backbone(model, source, init, repeat_channels=repeat)
        say_once(f"Starting from {init}: {'; '.join(['everything except the backbone is newly initialised', *said])}")
        return model, False
    if start.backbone is not None:
        name = str(config.model.init_backbone)
        said = start_from_backbone(model, start.backbone, name, repeat_channels=repeat)
        say_once(f"Taking the backbone of {name}{': ' * bool(said)}{'; '.join(said)}")
    partial, by_name = config.model.init_partial, config.model.init_classes == "by-name"
    notes = checkpoints.start_from(
        model,
        source,
        init,
        partial=partial,
        by_name=by_name,
        repeat_channels=repeat,
        other_backbone=start.backbone is not None,
    )
    other = "" if start.backbone is None else " except the backbone"
    what = f"all weights that fit: {'; '.join(notes)}" if notes else "all of its weights" + other
    say_once(f"Starting from {init} with {what}")
    if others := computed_otherwise(config.model, source.info):
        say_once(f"note: the weights of {init} were trained with other settings: {'; '.join(others)}")
    is_whole = takes_class_head(categories, source.categories, partial=partial, by_name=by_name)
    reason = f"{'some classes are' if by_name else 'the class head is'} newly initialised"
    if start.backbone is not None:
        is_whole, reason = False, "the layers behind the other backbone have not been trained with it"
    if not is_whole:
        say_once(f"Skipping the validation before the first step because {reason}")
    return model, is_whole


def _say_random(model: Mask2Former) -> None:
    say_once("Starting from random weights")
    if isinstance(model.backbone, TimmBackbone) and frozen_norms(model.backbone):
        say_once(
            "note: the batch norms of the backbone are frozen (model.backbone.norm=frozen), which is meant for "
            "trained weights: with random ones, they have no effect, now or later; set model.init to trained weights, "
            "for instance of the backbone, or model.backbone.norm=batch"
        )


def _new_model(config: RunConfig, num_classes: int, start: Initial) -> Mask2Former:
    """The model with random weights, which differ from those that its initial model was once trained from.

    With the same seed they would be equal, and a newly initialised class head would begin close to the trained one.
    """
    if not isinstance(start.source, checkpoints.Checkpoint):
        return build_model(config.model, num_classes)
    with torch.random.fork_rng(devices=[]):
        numbers = np.random.SeedSequence([config.seed, 3]).generate_state(1, np.uint64)
        torch.manual_seed(int(numbers[0] >> 1))
        return build_model(config.model, num_classes)


def _some(categories: Categories) -> str:
    return f"{len(categories)}: {', '.join(printable(name, 80) for name in categories.names[:4])}"
