"""Descriptions of checkpoints and the list of known models, for ``mask2former inspect`` and ``mask2former models``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from mask2former import checkpoints, recipes
from mask2former.checkpoints.formats import original
from mask2former.checkpoints.instantiate import skeleton_of
from mask2former.checkpoints.purpose import UndecidedError
from mask2former.config import ArchitectureConfig, PixelDecoderConfig, Task, TransformerDecoderConfig
from mask2former.errors import UserError
from mask2former.models.build import build_model, build_skeleton
from mask2former.models.mask2former import Mask2Former
from mask2former.structures import ModelInfo
from mask2former.text import count, listed, printable

__all__ = ["describe_checkpoint", "describe_model", "known_models"]

# The packaged models that were started from drawn scenes.
_LEARNED_FROM = {"nuclei": "nuclei, DSB 2018", "scene-clips": "clips of drawn scenes"}

_OWN = "your own parts, made in Python: from_pretrained(..., model=model)"


def describe_checkpoint(
    source: str | Path,
    recipe: str | None = None,
    tasks: Task | Sequence[Task] = (),
    weights: str | None = None,
) -> dict[str, str]:
    """Format, architecture, settings, classes, parameter counts and matching recipes of a checkpoint.

    If more than one recipe matches a file, the description is partial.

    Args:
        source: a name, a file or a folder.
        recipe: see :meth:`Mask2Former.from_pretrained`.
        tasks: likewise.
        weights: likewise.

    Raises:
        UserError: it cannot be read or is not a checkpoint.
    """
    try:
        opened = checkpoints.open_checkpoint(source, recipe, tasks, weights)
    except UndecidedError as error:
        if not error.recipes:
            raise
        return _undecided_facts(error)
    packaged = str(source) in checkpoints.packaged_names()
    version = checkpoints.format_version(opened.info)
    form = f"mask2former, version {version}{', packaged' if packaged else ''}"
    known = map(recipes.recipe, recipes.recipe_names())
    fitting = [entry.slug for entry in known if _same(entry, opened.info)]
    inference, architecture = opened.info.inference, opened.info.architecture
    edges = f"short edge {inference.short_edge}, long edge at most {inference.long_edge}"
    if inference.resampling != "antialiased":
        edges += ", resized without antialiasing"
    if not inference.short_edge:
        edges = "no resizing"
    if inference.tile:
        edges = f"tiles of {inference.tile} pixels, each resized to {inference.short_edge or inference.tile}"
        if inference.diameter:
            edges += f", then again so that objects have a diameter of {inference.diameter:g}"
    scores = {"panoptic": inference.score_threshold, "instance": inference.instance_threshold}
    shown = [f"score threshold of {task} {scores[task]}" for task in scores if task in inference.tasks]
    if inference.class_thresholds:
        of_classes = [f"{printable(name, 80)} {value:g}" for name, value in inference.class_thresholds.items()]
        shown.append(f"of single classes {listed(of_classes, None)}")
    thresholds = ", ".join([*shown, f"overlap threshold {inference.overlap_threshold}"])
    things, stuff = len(opened.categories.thing_indices), len(opened.categories.stuff_indices)
    classes = f"{things} things, {stuff} stuff"
    summary = {
        "format": form if opened.layout == "ours" else opened.layout,
        **({"architecture": _OWN} if architecture is None else _architecture(architecture)),
        "tasks": ", ".join(inference.tasks),
        "settings": f"{edges}; {thresholds}; at most {inference.max_instances} instances",
        **(_sizes_of(opened.state) if architecture is None else _sizes(skeleton_of(opened))),
        "classes": f"{len(opened.categories)} ({classes}): {listed(opened.categories.names, None)}",
        **(
            {"trained with": f"recipes {', '.join(recipes.packaged_recipes(str(source)))} (see: mask2former recipe)"}
            if packaged
            else {
                "recipes that fit": ", ".join(fitting) or "none; its architecture or class list is not a published one"
            }
        ),
        **_origin(opened),
    }
    return {name: printable(value) for name, value in summary.items()}


def _origin(opened: checkpoints.Checkpoint) -> dict[str, str]:
    """What only some files contain."""
    measured = ", ".join(f"{printable(name, 40)} {value:.1f}" for name, value in opened.info.metrics.items())
    summary = {"measured": measured, "license of the weights": opened.info.license or ""}
    return {name: value for name, value in summary.items() if value}


def _undecided_facts(error: UndecidedError) -> dict[str, str]:
    """What is known about a file that several recipes fit."""
    fitting = error.recipes
    config, num_classes = recipes.recipe(fitting[0]).model, len(original.recipe_categories(fitting[0]))
    return {
        "format": error.layout,
        **_architecture(config),
        **_sizes(build_skeleton(config, num_classes) or build_model(config, num_classes)),
        "classes": f"{num_classes}; names and settings depend on the recipe",
        "recipes that fit": ", ".join(fitting),
    }


def _architecture(config: ArchitectureConfig) -> dict[str, str]:
    backbone, pixels, decoder = config.backbone, config.pixel_decoder, config.transformer_decoder
    if backbone.name == "timm":
        name = f"{backbone.model} (timm), {backbone.norm} norm"
        name += f", simple feature pyramid of {backbone.pyramid} channels" if backbone.pyramid else ""
        name += f", queries in its last {backbone.joint_blocks} blocks" if backbone.joint_blocks else ""
    else:
        name = f"Swin, width {backbone.embed_dim}, blocks {'-'.join(map(str, backbone.depths))}"
        name += f", window {backbone.window_size}"
    switches = "".join(f", {name} {str(value).lower()}" for name, value in getattr(decoder, "switches", {}).items())
    if config.channels != 3:
        name += f", images of {count(config.channels, 'channel')}"
    if config.own_normalisation:
        name += f", images normalised with mean {list(config.pixel_mean)} and deviation {list(config.pixel_std)}"
    of_clips = " of clips" if getattr(decoder, "position_encoding", "2d") == "3d" else ""
    queries = "a class for every pixel" if decoder.queries is None else f"{decoder.queries} queries{of_clips}"
    return {
        "backbone": name,
        "pixel decoder": _in_words(pixels),
        "decoder": f"{_in_words(decoder)}, {queries}{switches}",
    }


def _in_words(part: PixelDecoderConfig | TransformerDecoderConfig) -> str:
    """A decoder: its kind, number of layers, kind of attention and width, as far as it has them."""
    layers, dim = getattr(part, "num_layers", None), getattr(part, "dim", None)
    words = [part.name, "" if layers is None else f"{layers} layers", "" if dim is None else f"width {dim}"]
    stages = getattr(part, "stages", None)
    words.append("" if stages is None else f"in stages of {'-'.join(map(str, stages))}")
    words.append("norms first" if getattr(part, "pre_norm", False) else "")
    return ", ".join(filter(None, words))


def _sizes(model: Mask2Former) -> dict[str, str]:
    return _listed_sizes(
        {name: sum(value.numel() for value in part.parameters()) for name, part in model.named_children()}
    )


def _sizes_of(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Parameter count of a model that cannot be built here; buffers are counted, too."""
    parts: Counter[str] = Counter()
    for name, value in state.items():
        parts[name.partition(".")[0]] += value.numel()
    return _listed_sizes(parts)


def _listed_sizes(parts: Mapping[str, int]) -> dict[str, str]:
    listed = ", ".join(f"{name} {number:,}" for name, number in parts.items())
    return {"parameters": f"{sum(parts.values()):,} ({listed})"}


def _same(recipe: recipes.Recipe, info: ModelInfo) -> bool:
    return (
        recipe.model.architecture == info.architecture
        and recipe.model.inference.tasks == info.tasks
        and recipe.model.inference.resampling == info.inference.resampling
        and original.recipe_categories(recipe.slug).names == info.known_categories.names
    )


# --- all models ------------------------------------------------------------------------------------------------------


def known_models(
    task: str | None = None,
    dataset: str | None = None,
    *,
    provider: str | None = None,
    commercial: bool = False,
    cached: bool = False,
    data: str | None = None,
) -> list[dict[str, Any]]:
    """Descriptions of the models that can be loaded by name: packaged ones first, then published ones; ready for JSON.

    Args:
        task: only models trained for it; ``video`` counts as one.
        dataset: only models trained on it, for instance ``coco``.
        provider: only models published by it: ``official``, ``mmdet``, ``mmseg``, ``ssseg``, or ``packaged``.
        commercial: only models whose license permits commercial use.
        cached: only models that need no download.
        data: the former name of ``dataset``.

    Returns:
        For each model ``name``, ``provider``, ``task``, ``dataset``, ``backbone``, ``pretraining``, ``queries``,
        ``metrics`` (percent, as stated by ``source``; others are missing), ``source`` (page of the metrics),
        ``license`` (``name``, ``url``, ``commercial``: None if not stated), ``num_bytes`` (of the file if it is on this
        machine, else of its arrays), ``path`` (None if it is not), ``url`` and ``checksum``.

    Raises:
        UserError: no model was trained on such data, or comes from this provider.
    """
    if dataset is not None and data is not None:
        raise UserError("'data' is the former name of 'dataset'; give only one of them")
    dataset = dataset if dataset is not None else data
    known = _packaged() + _published()
    dataset = _one_of(sorted({_family(entry) for entry in known}), dataset, "data set")
    provider = _one_of(list(dict.fromkeys(entry["provider"] for entry in known)), provider, "provider")
    return [
        entry
        for entry in known
        if (task is None or entry["task"].startswith(task))
        and dataset in (None, _family(entry))
        and provider in (None, entry["provider"])
        and (entry["license"]["commercial"] or not commercial)
        and (entry["path"] is not None or not cached)
    ]


def _one_of(known: Sequence[str], name: str | None, what: str) -> str | None:
    """The known name that it is, in upper or lower case."""
    found = None if name is None else next((one for one in known if one.lower() == name.lower()), None)
    if name is not None and found is None:
        raise UserError(f"no models of {what} '{name}'; there are: {', '.join(known)}")
    return found


def describe_model(name: str) -> dict[str, Any]:
    """Everything that is known about one model that can be loaded by name, without downloading it; ready for JSON.

    Returns:
        The entry of :func:`known_models` for it, and ``published_by``, ``note`` (on the metrics), ``settings``
        (inference settings in which it differs from the official model of the same data set, task and backbone, each as
        ``[its own, official]``; None where there is no such model) and ``deviations`` (what its provider does
        differently that no setting expresses, a sentence each).

    Raises:
        UserError: no model has that name.
    """
    row = next((entry for entry in known_models() if entry["name"] == name), None)
    if row is None:
        hints = (
            checkpoints.did_you_mean(name),
            "'mask2former models' lists all, and 'mask2former inspect' describes files",
        )
        raise UserError(f"no model has the name '{name}'; {' '.join(filter(None, hints))}")
    if (model := checkpoints.current_zoo().get(name)) is None:
        return {**row, "published_by": "this package", "note": "", "settings": None, "deviations": []}
    return {
        **row,
        "published_by": model.provider.title,
        "note": model.provider.note,
        "settings": _unlike_official(model),
        "deviations": list(recipes.recipe(name).deviations) if name in recipes.recipe_names() else [],
    }


def _unlike_official(model: checkpoints.ZooModel) -> dict[str, list[Any]] | None:
    known = recipes.recipe_names()
    if model.name == model.short_name or model.name not in known or model.short_name not in known:
        return None
    own, official = (
        recipes.recipe(name).model.inference.model_dump(mode="json") for name in (model.name, model.short_name)
    )
    return {key: [own[key], official[key]] for key in own if own[key] != official[key]}


def _family(entry: dict[str, Any]) -> str:
    """``coco`` of ``coco-panoptic/r50`` and of ``mmdet/coco-panoptic/r50``."""
    return re.split("[-/]", entry["name"].removeprefix(f"{entry['provider']}/"))[0]


def _packaged() -> list[dict[str, Any]]:
    """Descriptions of the models that come with the package, under its own license."""
    rows = []
    for name in checkpoints.packaged_names():
        opened = checkpoints.open_checkpoint(name)
        architecture = opened.info.known_architecture
        backbone = architecture.backbone
        rows.append(
            {
                "name": name,
                "provider": "packaged",
                "task": opened.info.inference.default_task,
                "dataset": _LEARNED_FROM.get(name, "drawn scenes"),
                "backbone": backbone.model if backbone.name == "timm" else "Swin",
                "pretraining": "drawn scenes" if name in _LEARNED_FROM else "none",
                "queries": architecture.transformer_decoder.queries,
                "metrics": dict(opened.info.metrics),
                "source": None,
                "license": {"name": "MIT", "url": "https://opensource.org/license/mit", "commercial": True},
                "num_bytes": Path(opened.source).stat().st_size,
                "path": opened.source,
                "url": None,
                "checksum": None,
            }
        )
    return rows


def _published() -> list[dict[str, Any]]:
    rows = []
    for model in checkpoints.current_zoo().values():
        row = {key: value for key, value in asdict(model).items() if key != "file"}
        is_here = model.path.is_file()
        rows.append(
            {
                **row,
                "provider": model.provider.name,
                "source": model.provider.source,
                "num_bytes": model.path.stat().st_size if is_here else model.num_bytes,
                "path": str(model.path) if is_here else None,
            }
        )
    return rows
