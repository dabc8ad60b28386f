"""The only way from a file of any code base to a checkpoint: what it is, judging by its names, and what its model is.

Nothing is guessed: names that are unknown or missing, and settings that neither the file nor a recipe gives, end in a
message that says so. Must not know how checkpoints are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from mask2former import recipes
from mask2former.checkpoints.checkpoint import OURS, Checkpoint
from mask2former.checkpoints.formats import huggingface, original
from mask2former.checkpoints.formats.backbones import (
    BACKBONE_FORMAT,
    BACKBONES,
    Backbone,
    recognised_backbone,
    stored_backbone,
)
from mask2former.checkpoints.formats.huggingface import HUGGINGFACE, Preparation
from mask2former.checkpoints.formats.openmmlab import edges_of, normalisation_of
from mask2former.checkpoints.formats.original import ORIGINAL, Architecture
from mask2former.checkpoints.layouts import MODELS, has_layout
from mask2former.checkpoints.normalisation import Normalisation
from mask2former.checkpoints.purpose import notes_on_settings, settled
from mask2former.checkpoints.raw import Raw, Request, open_raw, read_json_mapping
from mask2former.checkpoints.rules import Layout, their_name, to_original
from mask2former.checkpoints.safetensors_files import metadata_value
from mask2former.checkpoints.unwrap import unwrapped
from mask2former.config import InferenceConfig, RunConfig, Task, TimmConfig, parse
from mask2former.errors import OptionError, UserError, prefixed
from mask2former.notes import note
from mask2former.structures import ModelInfo
from mask2former.text import listed, printable

__all__ = [
    "Found",
    "checkpoint_of",
    "folder_of_transformers",
    "published_state",
    "read",
    "recognised",
]

_TASKS: tuple[Task, ...] = get_args(Task)
_HALVES = (torch.float16, torch.bfloat16)
_COUNTER = ".num_batches_tracked"
_OUR_ENTRY = "transformer_decoder.class_head.weight"


@dataclass(frozen=True)
class Found:
    """What a file or folder was recognised as.

    Attributes:
        kind: the code base.
        content: a complete model, or only a backbone.
        notes: what a user should know, one phrase each.
    """

    kind: str
    content: Checkpoint | Backbone
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Code base and architecture, in words."""
        if isinstance(self.content, Backbone):
            return f"{self.kind}, {self.content}, a backbone alone"
        return f"{self.kind}, {Architecture(self.content.info.known_architecture, len(self.content.categories))}"


def checkpoint_of(found: Found, source: str, *, is_named: bool = False) -> Checkpoint:
    """The model that was found, with what to know about it reported as notes.

    Args:
        found: in a file or folder.
        source: what that file or folder is called.
        is_named: it is a published model, so what it is need not be reported.

    Raises:
        UserError: it contains only a backbone.
    """
    if isinstance(found.content, Backbone):
        raise UserError(f"{source}: {found.title}; train a model from it: model.init={source}")
    name = printable(source, 300)
    if found.content.layout != OURS and not is_named:
        note(f"read as {found.title}", f"'{name}'")
    for phrase in found.notes:
        note(phrase, f"'{name}'")
    return found.content


def read(
    path: Path,
    recipe: str | None = None,
    tasks: Task | Sequence[Task] = (),
    weights: str | None = None,
    source: str | None = None,
    backbone: TimmConfig | None = None,
) -> Found:
    """Read a file or folder of any known code base: open it, recognise it, rename entries, determine its purpose.

    Args:
        path: in our format, original, of transformers, mmdetection, mmsegmentation or sssegmentation; or a backbone.
        recipe: the published model that it contains or is made like: supplies settings and classes.
        tasks: what the model was trained for, if neither the file nor a recipe says so.
        weights: which of several sets of weights in the file, by the name of its entry; None: the trained ones, or the
            average that a training of ours returns.
        source: what it is called in messages; None: the path.
        backbone: timm backbone, for files that contain its weights without saying so.

    Raises:
        UserError: it cannot be read, is none of these, is incomplete, or does not contain enough information; the
            message says so.
    """
    wanted_tasks = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    if recipe is not None:
        recipes.recipe(recipe)  # report a misspelt name before reading gigabytes
        if wanted_tasks:
            raise UserError(f"recipe '{recipe}' already determines the tasks; leave out either it or the tasks")
    if unknown := [task for task in wanted_tasks if task not in _TASKS]:
        raise OptionError(lambda name: f"{name('tasks')} {unknown[0]}: no such task; expected {', '.join(_TASKS)}")
    ordered: list[Task] = [task for task in _TASKS if task in wanted_tasks]
    request = Request(source or str(path), recipe, ordered, weights, backbone)
    try:
        return recognised(open_raw(path, request), request)
    except UserError as error:
        if str(error).startswith((str(path), request.source)):
            raise
        raise prefixed(path, error) from error


def published_state(path: Path) -> dict[str, Tensor]:
    """The entries of a complete model of another code base under their original names, as stored.

    Raises:
        UserError: it cannot be read, or is not of this kind.
    """
    state, _ = unwrapped(open_raw(path, Request(str(path))).state, has_layout)
    if original.is_original(state):
        return original.current_spelling(state)
    layout = next((layout for layout in MODELS if layout.fits(state)), None)
    if layout is None:
        raise UserError(f"{path}: not a complete model of another code base that is known here")
    return to_original(layout, state)


def folder_of_transformers(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """``config.json``, and the entries as stored.

    Raises:
        UserError: files are missing or broken.
    """
    raw = open_raw(path, Request(str(path)))
    if raw.config is None:
        raise UserError(f"{path}: expected config.json beside weights")
    return raw.config, raw.state


# --- what it is ------------------------------------------------------------------------------------------------------


def recognised(raw: Raw, request: Request) -> Found:
    """What was opened, recognised by its names.

    Raises:
        UserError: as for :func:`read`.
    """
    if raw.metadata is not None and raw.metadata["format"] == BACKBONE_FORMAT:
        stored = stored_backbone(raw.metadata, raw.state, raw.path)
        return Found("mask2former", stored, stored.notes)
    if raw.metadata is not None:
        return Found("mask2former", _ours(raw, raw.metadata))
    if raw.run is not None:
        return Found("mask2former, a checkpoint of a training", _of_run(raw, raw.run), tuple(raw.notes))
    state, prefix = unwrapped(raw.state, has_layout)
    raw.state = state
    if original.is_original(state):
        return _whole(raw, ORIGINAL, original.current_spelling(state), prefix, request)
    layout = next((layout for layout in MODELS if layout.fits(state)), None)
    if layout is HUGGINGFACE:
        _check_alone(raw)
    if layout is not None:
        return _whole(raw, layout, to_original(layout, state, known_only=False), prefix, request)
    if _is_of_ours(state):  # a complete model, even where a backbone would suffice
        raise UserError(_unknown(state))
    backbone = _recognised_backbone(raw, state, request)
    if backbone is None:
        raise UserError(_unknown(state))
    if request.recipe is not None or request.tasks:
        raise UserError(f"a backbone alone ({backbone[0]}); leave out the recipe and the tasks")
    kind, content = backbone
    content = replace(content, notes=(*raw.notes, *content.notes))  # a training reports those of the content
    return Found(kind, content, content.notes)


def _recognised_backbone(raw: Raw, state: Mapping[str, Tensor], request: Request) -> tuple[str, Backbone] | None:
    """As :func:`recognised_backbone`; a configuration beside a file counts like that of a folder."""
    beside = raw.path.parent / "config.json"
    if raw.config is not None or not beside.is_file():
        return recognised_backbone(state, raw.config, request.backbone)
    try:
        return recognised_backbone(state, read_json_mapping(beside), request.backbone)
    except UserError as error:
        if str(beside) in str(error):
            raise
        raise UserError(f"{error} ({beside} counts; move it away if it belongs to other weights)") from error


def _check_alone(raw: Raw) -> None:
    """Refuse a file of weights whose configuration is beside it: without it, heads and classes would be guessed."""
    folder = raw.path.parent
    if raw.config is None and raw.path.is_file() and (folder / "config.json").is_file():
        raise UserError(
            f"is part of a folder of transformers; give the folder, {folder}, whose config.json describes the model"
        )


def _is_of_ours(state: Mapping[str, Tensor]) -> bool:
    return any(name.endswith(_OUR_ENTRY) for name in state)


def _unknown(state: Mapping[str, Tensor]) -> str:
    if _is_of_ours(state):
        return (
            "weights of a model of this library without its settings and classes; expected a file from "
            "save_pretrained, or the model.safetensors of a training (also if it is a checkpoint of version 0.1.0)"
        )
    known = ", ".join(["ours", *(layout.title for layout in (ORIGINAL, *MODELS, *BACKBONES))])
    return (
        f"none of the known layouts ({known}); it has {len(state)} entries such as {listed(state, 3)}. Weights of a "
        "timm model are read from a folder with its config.json, or by a training that names the model: "
        "model.init=FILE model.backbone={name: timm, model: NAME}"
    )


def _ours(raw: Raw, metadata: Mapping[str, str]) -> Checkpoint:
    path = raw.path
    keys = [key for key in ("config", "categories", "metrics") if key in metadata or key != "metrics"]
    values = {key: metadata_value(metadata, key, path) for key in keys}
    license = metadata.get("license", metadata.get("licence"))  # as 0.1.0 wrote it
    info = ModelInfo.from_dict({**values, "license": license}, str(path))
    run = parse(RunConfig, metadata_value(metadata, "run", path), f"{path}: run") if "run" in metadata else None
    return Checkpoint(info, _promoted(raw.state), str(path), run)


def _of_run(raw: Raw, record: Mapping[Any, Any]) -> Checkpoint:
    """The model of a training of ours, as its result has it."""
    run = parse(RunConfig, record.get("config"), f"{raw.path}: settings of the run")
    values = {"config": run.model.model_dump(mode="json"), "categories": record.get("categories")}
    license, threshold = record.get("license", record.get("licence")), record["instance_threshold"]
    info = ModelInfo.from_dict({**values, "license": license if isinstance(license, str) else None}, str(raw.path))
    if run.evaluation.choose_threshold and threshold is not None:
        chosen = {"instance_threshold": threshold, "class_thresholds": record.get("class_thresholds") or {}}
        settings = {**info.inference.model_dump(), **chosen}
        info = replace(info, inference=parse(InferenceConfig, settings, f"{raw.path}: its threshold"))
    if "model" in (record.get("objects") or ()):
        info = replace(info, architecture=None)
    return Checkpoint(info, _promoted(raw.state), str(raw.path), run)


def _promoted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Half precision as float32; everything else as it is."""
    return {name: value.float() if value.dtype in _HALVES else value for name, value in state.items()}


def _whole(raw: Raw, layout: Layout, published: dict[str, Tensor], prefix: str, request: Request) -> Found:
    counters: dict[str, Tensor] = {}
    if layout.has_counters:
        counters = {name: value for name, value in published.items() if name.endswith(_COUNTER)}
        published = {name: value for name, value in published.items() if name not in counters}

    def spelled(name: str) -> str:
        return prefix + their_name(layout, name)

    found = original.infer_architecture(
        published,
        num_heads=8 if raw.config is None else huggingface.num_heads_of(raw.config),
        spelled=spelled,
        layout="the original layout" if layout is ORIGINAL else layout.title,
    )
    names, notes = raw.class_names, raw.notes
    preparation = Preparation(normalisation=original.normalisation_of(raw.state))
    if raw.text is not None:
        normalisation = normalisation_of(raw.text) or preparation.normalisation
        preparation = Preparation(edges_of(raw.text), normalisation=normalisation)
    if raw.config is not None:
        huggingface.check_config(raw.config, found)
        names = huggingface.label_names(raw.config, found.num_classes)
        preparation = huggingface.preparation_of(raw.preprocessor, found.num_classes)
    if names is not None and len(names) != found.num_classes:
        notes.append(
            f"the file has {len(names)} class names for {found.num_classes} rows of the class head; they are not used"
        )
        names = None
    own = None if raw.config is None else huggingface.own_facts(raw.config)
    config, categories, assumed = settled(found, layout, names, preparation, own, request)
    notes += [assumed] if assumed else []
    if preparation.normalisation is not None:
        config = config.model_copy(update=preparation.normalisation.settings)
    if config.own_normalisation:
        notes.append(f"images are normalised with {Normalisation.of(config)}, as specified in the file")
    notes += notes_on_settings(config, categories, preparation, names, own is not None, request)
    pairs = original.original_names(config)
    for name, ours in pairs:
        if ours is not None and name.endswith(_COUNTER) and name not in published and layout is not ORIGINAL:
            published[name] = counters.get(name, torch.zeros((), dtype=torch.int64))
    state = _promoted(original.from_original(published, config))
    spellings = {name: spelled(name) for name in state} | {ours: spelled(name) for name, ours in pairs if ours}
    content = Checkpoint(ModelInfo.of(config, categories), state, str(raw.path), layout=layout.key, spellings=spellings)
    return Found(layout.title, content, tuple(notes))
