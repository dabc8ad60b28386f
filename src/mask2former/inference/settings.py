"""Inference settings of one call: the stored settings of a model, with replacements by the caller."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from mask2former.config import InferenceConfig, Task, parse_arguments
from mask2former.errors import OptionError, UserError
from mask2former.pixels import checked_range
from mask2former.structures import Categories
from mask2former.text import count
from mask2former.value_range import ranges_of_bands

__all__ = ["changed_pass", "check_overrides", "choose_tasks", "for_whole_frames", "override"]

# Settings that only affect post-processing; all others concern the pass through the network.
_OF_RESULTS = {
    "class_thresholds",
    "classes",
    "instance_threshold",
    "max_instances",
    "min_area",
    "non_overlapping",
    "overlap_threshold",
    "score_threshold",
    "things_first",
    "things_only",
}
_OF_TILED_RESULTS = {"class_thresholds", "classes", "instance_threshold", "min_area"}  # others: used to join tiles


def override(
    settings: InferenceConfig, overrides: Mapping[str, Any], categories: Categories | None = None
) -> InferenceConfig:
    """The settings, with those of a call replaced.

    Args:
        settings: settings of a model or predictor.
        overrides: by name. ``official_settings`` sets several; ``score_threshold`` sets the threshold of every
            task; a threshold for all classes replaces those of single classes; ``tile`` sets ``diameter`` to 0 and
            ``tile_overlap`` to a quarter of it; ``max_instances`` only counts things; ``classes`` may be a single one.
        categories: classes of the model, if known, with which ``classes`` is checked.

    Raises:
        UserError: a setting is unknown or out of range, or states what the model was trained for.
    """
    overrides = dict(overrides)
    if overrides.pop("official_settings", False):  # sets several, which other overrides may then replace
        settings = settings.official()
    if not overrides:
        return settings
    if "tasks" in overrides:
        raise UserError("'tasks' lists what a model was trained for and cannot be set here; pass task=...")
    if "tile" in overrides:  # an explicit choice of tiles is not changed
        overlap = overrides["tile"] // 4 if isinstance(overrides["tile"], int) else 0  # other types are rejected later
        overrides = {"diameter": 0.0, "tile_overlap": overlap} | overrides
    if "max_instances" in overrides:  # gives that number of things; in the published selection, stuff counts, too
        overrides = {"things_first": True} | overrides
    if "score_threshold" in overrides:  # sets the threshold of every task
        threshold = overrides["score_threshold"]
        parse_arguments(InferenceConfig, {"score_threshold": threshold})  # refused by the name it was given
        if "panoptic" not in settings.tasks:
            overrides = {name: value for name, value in overrides.items() if name != "score_threshold"}
        overrides = {"instance_threshold": threshold} | overrides
    if "instance_threshold" in overrides:  # then applies to all classes
        overrides = {"class_thresholds": {}} | overrides
    if isinstance(overrides.get("classes"), str):
        overrides["classes"] = (overrides["classes"],)
    chosen = parse_arguments(InferenceConfig, settings.model_dump() | overrides)
    if chosen.channels != settings.channels:
        raise OptionError(lambda name: _other_number_of_bands(chosen, settings, name))
    if overrides.get("tile_overlap") and not chosen.tile:
        raise UserError("tile_overlap is the overlap of tiles, but there are no tiles; set tile, too")
    if categories is not None and chosen.classes is not None:
        categories.indices(chosen.classes)
    return chosen


def _other_number_of_bands(chosen: InferenceConfig, settings: InferenceConfig, name: Callable[[str], str]) -> str:
    bands = chosen.bands if isinstance(chosen.bands, tuple) else ()
    number, expected = chosen.channels, settings.channels
    if number == 1:  # repeated, as grey images are in models of three channels
        band, flag = (bands or (1,))[0], name("bands")
        repeated = (band,) * expected
        words = f"{repeated}" if flag == "bands" else ",".join(map(str, repeated))
        hint = f"; to use it for all of them, set {flag} to {words}"
    else:
        hint = "; choose that many bands"
    return (
        f"{'there is' if number == 1 else 'there are'} {count(number, 'band')}, but the model expects images "
        f"of {count(expected, 'channel')}{hint}"
    )


def check_overrides(overrides: Mapping[str, Any]) -> None:
    """Reject settings that no model can have, before spending minutes on loading one.

    Raises:
        UserError: see :func:`override`.
    """
    # The settings of the model are not known yet.
    by_size = bool(overrides.get("diameter"))
    known = InferenceConfig(tasks=("instance",), tile=64) if by_size else InferenceConfig(tasks=("panoptic",))
    # Neither are its channels, nor whether it has tiles, which would allow larger overlaps.
    of_model = {"bands"} if "tile" in overrides else {"bands", "tile_overlap"}
    of_model |= {"value_range"} if ranges_of_bands(checked_range(overrides.get("value_range"))) else set()
    override(known, {name: value for name, value in overrides.items() if name not in of_model})


def changed_pass(before: InferenceConfig, after: InferenceConfig) -> list[str]:
    """Names of changed settings that cannot be applied to results after the pass through the network."""
    free = _OF_TILED_RESULTS if before.tile else _OF_RESULTS
    return [
        name
        for name in InferenceConfig.model_fields
        if name not in free and getattr(before, name) != getattr(after, name)
    ]


def choose_tasks(task: Task | Sequence[Task] | None, settings: InferenceConfig) -> tuple[Task, ...]:
    """The requested tasks; by default the first one for which the model was trained.

    Raises:
        UserError: a task does not exist, or the model was not trained for it.
    """
    tasks: tuple[Any, ...] = (task,) if isinstance(task, str) else tuple(task or (settings.default_task,))
    for name in tasks:
        if name not in get_args(Task):
            raise UserError(f"unknown task {name!r}; expected one of {', '.join(get_args(Task))}")
        if name not in settings.tasks:
            known = ", ".join(settings.tasks)
            raise UserError(f"this model does not support the task '{name}'; it was trained for: {known}")
    return tasks


def for_whole_frames(settings: InferenceConfig, overrides: Mapping[str, Any]) -> InferenceConfig:
    """Settings for clips and tracks, which support neither tiles nor the removal of overlaps.

    Raises:
        UserError: one of the two is set, or a setting that filters results of images.
    """
    if settings.tile:
        also = ", min_area=0" if settings.min_area else ""
        raise UserError(
            f"this model processes images in tiles of {settings.tile} pixels, which clips and tracks do "
            f"not support; in Python, set tile=0{also} and a short_edge that suits whole frames"
        )
    if overrides.get("non_overlapping"):
        raise UserError("non_overlapping applies to images; for tracks that cannot overlap use the task panoptic")
    if settings.min_area and not overrides.get("min_area"):
        raise UserError(
            f"this model leaves out instances below {settings.min_area} pixels, which clips and tracks do not support; "
            "in Python, set min_area=0"
        )
    if settings.classes is not None or settings.min_area:
        raise UserError(
            "classes and min_area apply to images; for clips and tracks, leave out unwanted objects from the results"
        )
    return settings.model_copy(update={"non_overlapping": False})
