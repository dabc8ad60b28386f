"""Any checkpoint of a known code base to ours: what it is, told by its names, and what its model is, told by all of it.

Nothing is guessed: names that are unknown or missing, and settings that a file does not carry and no recipe gives, end
in a message that says so. Must not know how checkpoints are written.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mask2former import limits, recipes
from mask2former.checkpoints import io, original, pickles
from mask2former.checkpoints.convert import huggingface
from mask2former.checkpoints.convert.backbones import BACKBONES, Backbone, read_backbone, without_wrapping
from mask2former.checkpoints.convert.huggingface import HUGGINGFACE, Preparation
from mask2former.checkpoints.convert.openmmlab import MMDET, MMDET_2, MMSEG, MMSEG_2, edges_of
from mask2former.checkpoints.convert.rules import Layout, their_name, to_original
from mask2former.checkpoints.convert.sssegmentation import SSSEG
from mask2former.checkpoints.io import Checkpoint
from mask2former.checkpoints.original import Architecture
from mask2former.checkpoints.safetensors_files import entries_of, open_safetensors
from mask2former.config import InferenceConfig, ModelConfig, Task, TimmConfig, parse
from mask2former.documents import parse_json, read_bytes
from mask2former.errors import UserError
from mask2former.structures import Categories, ModelInfo
from mask2former.text import listed, printable, quoted

__all__ = ["MODELS", "Found", "architecture_of", "folder_of_transformers", "published_state", "read"]

MODELS = (HUGGINGFACE, MMDET, MMDET_2, MMSEG, MMSEG_2, SSSEG)
_COUNTER = ".num_batches_tracked"
_POINTS = 4  # of deformable attention, everywhere
_TABLES = ("coco_panoptic", "coco_instance", "ade20k_150", "ade20k_instance_100", "cityscapes", "mapillary_vistas_v1.2",
           "coco_stuff_10k_171", "ade20k_full_847", "ytvis_2019", "ytvis_2021")  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What a file or folder turned out to be.

    Attributes:
        title: code base and architecture, in words.
        content: a whole model, or a backbone alone.
        layout: key of the layout: ``ours``, ``original``, or that of a :class:`Layout`.
        notes: what a user should know, one phrase each.
    """

    title: str
    content: Checkpoint | Backbone
    layout: str
    notes: tuple[str, ...] = ()


@dataclass
class _Raw:
    """Names and tensors as stored, and what lies beside them."""

    state: dict[str, Tensor]
    class_names: tuple[str, ...] | None = None
    text: str | None = None  # configuration as text, as OpenMMLab stores it
    config: dict[str, Any] | None = None  # config.json of a folder
    preprocessor: dict[str, Any] = field(default_factory=dict)


def read(path: Path, recipe: str | None = None, tasks: Sequence[Task] = ()) -> Found:
    """Read a file or folder of any code base that we know.

    Args:
        path: of ours, original, of transformers, mmdetection, mmsegmentation or sssegmentation; or a backbone.
        recipe: the published model that it is, or is made like: gives settings and classes.
        tasks: what the model was trained for, where neither the file nor a recipe says it.

    Raises:
        UserError: it cannot be read, is none of these, is incomplete, or does not say enough; the message tells.
    """
    if recipe is not None:
        recipes.recipe(recipe)  # a misspelt name before reading gigabytes
        if tasks:
            raise UserError(f"recipe '{recipe}' says what the model is for; leave out either it or the tasks")
    try:
        raw = _read_folder(path) if os.path.isdir(path) else _read_file(path)
        if raw is None:
            if tasks:
                raise UserError("carries its own configuration; leave out the tasks")
            checkpoint = io.load(path, recipe)
            return Found(f"mask2former, {architecture_of(checkpoint)}", checkpoint, "ours")
        return _inferred(raw, str(path), recipe, tasks)
    except UserError as error:
        text = str(error)
        raise UserError(text if text.startswith(str(path)) else f"{path}: {text}") from error


def architecture_of(checkpoint: Checkpoint) -> Architecture:
    """What a checkpoint is, for its one-line title."""
    return Architecture(checkpoint.info.known_architecture, len(checkpoint.categories))


def published_state(path: Path) -> dict[str, Tensor]:
    """The entries of a whole model of another code base under their original names, as stored.

    Raises:
        UserError: it cannot be read, or is nothing of that kind.
    """
    raw = _read_folder(path) if os.path.isdir(path) else _read_file(path)
    assert raw is not None
    if original.is_original(raw.state):
        return original.current_spelling(raw.state)
    layout = next((layout for layout in MODELS if layout.fits(raw.state)), None)
    if layout is None:
        raise UserError(f"{path}: no model of another code base that we know")
    return to_original(layout, raw.state)


def folder_of_transformers(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """``config.json``, and the entries as stored.

    Raises:
        UserError: files are missing or broken.
    """
    raw = _read_folder(path)
    if raw is None or raw.config is None:
        raise UserError(f"{path}: expected config.json beside weights")
    return raw.config, raw.state


# --- files and folders -----------------------------------------------------------------------------------------------


def _read_file(path: Path) -> _Raw | None:
    """None for a file of ours."""
    head = io.head_of(path)
    if io.is_safetensors(head, path.stat().st_size):
        state, metadata = _safetensors(path)
        return None if metadata.get("format", "").startswith("mask2former") else _Raw(state)
    raw = _Raw({})
    raw.state = pickles.read_state(path, lambda payload: _select(payload, raw))
    return raw


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with open_safetensors(path) as file:
        metadata: dict[str, str] = file.metadata() or {}
        if metadata.get("format", "").startswith("mask2former"):
            return {}, metadata
        return entries_of(file, path), metadata


def _select(payload: Any, raw: _Raw) -> dict[Any, Any]:
    """The mapping of names to arrays, wherever a code base puts it; what lies beside it is left in ``raw``."""
    if isinstance(payload, dict):
        meta = payload.get("meta")
        if isinstance(meta, dict):
            raw.text = next((meta[key] for key in ("cfg", "config") if isinstance(meta.get(key), str)), None)
        for facts in (meta.get("dataset_meta"), meta) if isinstance(meta, dict) else ():
            found = next((facts[key] for key in ("classes", "CLASSES") if key in facts), None) \
                if isinstance(facts, dict) else None  # fmt: skip
            if isinstance(found, list | tuple) and found and all(isinstance(name, str) for name in found):
                raw.class_names = raw.class_names or tuple(found)
        for key in ("model", "state_dict", "teacher", "blobs"):
            if isinstance(payload.get(key), dict):
                return payload[key]
        return payload
    raise UserError(f"holds a {type(payload).__name__}; expected a mapping of names to arrays")


def _read_folder(path: Path) -> _Raw | None:
    """None for a folder of ours."""
    if not (path / "config.json").is_file():
        if (path / "model.safetensors").is_file():
            return _read_file(path / "model.safetensors")
        raise UserError(f"{path}: expected model.safetensors in the folder, of ours, or config.json beside weights")
    config = _json(path / "config.json")
    preprocessor = path / "preprocessor_config.json"
    state: dict[str, Tensor] = {}
    for part in _weight_files(path):
        if not part.is_file():
            raise UserError(f"{part}: no such file; the folder is incomplete, fetch it again")
        found = _safetensors(part)[0] if part.suffix == ".safetensors" else pickles.read_state(part)
        if twice := state.keys() & found.keys():
            raise UserError(f"{part}: {quoted(min(twice))} is in another file of the folder too")
        state.update(found)
    return _Raw(state, config=config, preprocessor=_json(preprocessor) if preprocessor.is_file() else {})


def _weight_files(path: Path) -> list[Path]:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return [path / name]
        index = path / f"{name}.index.json"
        if index.is_file():
            parts = _json(index).get("weight_map")
            if not isinstance(parts, dict) or not parts:
                raise UserError(f"{index}: expected a 'weight_map' of names to files")
            for part in parts.values():
                if not isinstance(part, str) or Path(part).name != part or Path(part).suffix not in (
                    ".safetensors", ".bin"
                ):  # fmt: skip
                    raise UserError(f"{index}: {quoted(part)} is no file of weights in this folder")
            return [path / part for part in sorted(set(parts.values()))]
    raise UserError(f"{path}: expected model.safetensors or pytorch_model.bin beside config.json")


def _json(path: Path) -> dict[str, Any]:
    values = parse_json(
        read_bytes(path, "configuration", limits.CONFIG_BYTES, hint="fetch the folder again"), str(path)
    )
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds a {type(values).__name__}; expected a mapping")
    return values


# --- what it is ------------------------------------------------------------------------------------------------------


def _inferred(raw: _Raw, source: str, recipe: str | None, tasks: Sequence[Task]) -> Found:
    if raw.state and all(name.startswith("module.") for name in raw.state):
        inner = {name.removeprefix("module."): value for name, value in raw.state.items()}
        if original.is_original(inner) or any(layout.fits(inner) for layout in (*MODELS, *BACKBONES)):
            raw.state = inner
    if original.is_original(raw.state):
        published = original.current_spelling(raw.state)
        return _whole(raw, None, published, source, recipe, tasks)
    layout = next((layout for layout in MODELS if layout.fits(raw.state)), None)
    if layout is not None:
        return _whole(raw, layout, to_original(layout, raw.state), source, recipe, tasks)
    state, wrapping = without_wrapping(raw.state)
    layout = next((layout for layout in BACKBONES if layout.fits(state)), None)
    if layout is None:
        known = ", ".join(["ours", "original", *(layout.title for layout in (*MODELS, *BACKBONES))])
        raise UserError(
            f"none of the layouts that we know ({known}); it has {len(raw.state)} entries such as "
            f"{listed(raw.state, 3)}"
        )
    if recipe is not None or tasks:
        raise UserError(f"a backbone alone ({layout.title}); leave out the recipe and the tasks")
    backbone = read_backbone(layout, state)
    title = f"{wrapping or layout.title}, {backbone}, a backbone alone"
    return Found(title, backbone, layout.key, backbone.notes)


def _whole(
    raw: _Raw,
    layout: Layout | None,
    published: dict[str, Tensor],
    source: str,
    recipe: str | None,
    tasks: Sequence[Task],
) -> Found:
    title = "original" if layout is None else layout.title
    counters: dict[str, Tensor] = {}
    if layout is not None and layout.has_counters:
        counters = {name: value for name, value in published.items() if name.endswith(_COUNTER)}
        published = {name: value for name, value in published.items() if name not in counters}

    def spelled(name: str) -> str:
        return name if layout is None else their_name(layout, name)

    found = original.infer_architecture(
        published,
        num_heads=8 if raw.config is None else huggingface.num_heads_of(raw.config),
        spelled=spelled,
        layout="the original layout" if layout is None else title,
    )
    names, notes, preparation = raw.class_names, [], Preparation()
    if raw.text is not None:
        preparation = Preparation(edges_of(raw.text))
    if raw.config is not None:
        huggingface.check_config(raw.config, found)
        names = huggingface.label_names(raw.config, found.num_classes)
        preparation = huggingface.preparation_of(raw.preprocessor, found.num_classes)
    if names is not None and len(names) != found.num_classes:
        notes.append(f"the file names {len(names)} classes for {found.num_classes} rows of the class head; not used")
        names = None
    own = None if raw.config is None else huggingface.own_facts(raw.config)
    config, categories = _settled(found, bool(counters) or layout is not None, names, preparation, own, recipe, tasks)
    notes += _notes(config, categories, preparation, names, own is not None and recipe is None, bool(tasks))
    expected = [name for name, ours in original.original_names(config) if ours is not None]
    for name in expected:
        if name.endswith(_COUNTER) and name not in published and layout is not None:
            published[name] = counters.get(name, torch.zeros((), dtype=torch.int64))
    missing = [spelled(name) for name in expected if name not in published]
    unexpected = sorted(spelled(name) for name in published.keys() - dict(original.original_names(config)).keys())
    for faults, what in ((missing, "missing"), (unexpected, "unexpected")):
        if faults:
            raise UserError(f"{title}, {found}: {len(faults)} entries are {what}: {listed(faults)}")
    state = {name: io.promoted(value) for name, value in original.from_original(published, config).items()}
    checkpoint = Checkpoint(ModelInfo.of(config, categories), state, source)
    key = "original" if layout is None else layout.key
    return Found(f"{title}, {Architecture(config, found.num_classes)}", checkpoint, key, tuple(notes))


# --- what it is for --------------------------------------------------------------------------------------------------


def _settled(
    found: Architecture,
    norms_are_open: bool,
    names: tuple[str, ...] | None,
    preparation: Preparation,
    own: tuple[Any, Any] | None,
    recipe: str | None,
    tasks: Sequence[Task],
) -> tuple[ModelConfig, Categories]:
    """Configuration and classes: from the recipe, from what we wrote there, from the tasks, or by exclusion."""
    fitting = [slug for slug in recipes.recipe_names() if _fits(slug, found, norms_are_open)]
    if recipe is not None:
        if recipe not in fitting:
            hint = f"; recipes that fit: {', '.join(fitting)}" if fitting else "; no recipe fits"
            expected = original.recipe_architecture(recipe)
            raise UserError(f"recipe '{recipe}' is {expected}, but the file holds {found}{hint}")
        return recipes.recipe(recipe).model, original.recipe_categories(recipe)
    if own is not None:
        config = parse(ModelConfig, own[0], "config.json: mask2former.config")
        categories = Categories.from_dict(own[1])
        if not _same_shape(Architecture(config, len(categories)), found, norms_are_open):
            raise UserError(f"config.json: 'mask2former' is of another model than the weights ({found})")
        return config, categories
    if tasks:
        if found.model.pixel_decoder.num_points != _POINTS:
            raise UserError(
                f"holds {found} but does not say how many attention heads it has, and its weights do not fit the usual "
                f"{found.model.pixel_decoder.num_heads}; only models with that many can be converted"
            )
        categories = _categories(names, found.num_classes)
        if preparation.ignore_label is not None and preparation.ignore_label >= len(categories):
            categories = replace(categories, ignore_label=preparation.ignore_label)
        short_edge, long_edge = preparation.edges or (InferenceConfig().short_edge, InferenceConfig().long_edge)
        inference = parse(
            InferenceConfig,
            {
                "tasks": tuple(tasks),
                "short_edge": short_edge,
                "long_edge": long_edge,
                "resize_masks_first": tuple(tasks) != ("semantic",),
                "things_only": bool(categories.thing_indices),
            },
            "tasks",
        )
        return ModelConfig(**dict(found.model), inference=inference), categories
    if names is not None:
        fitting = [slug for slug in fitting if _same_names(original.recipe_categories(slug).names, names)]
    choices = [(recipes.recipe(slug).model, original.recipe_categories(slug)) for slug in fitting]
    if choices and all(choice == choices[0] for choice in choices):
        return choices[0]
    which = f"more than one recipe fits: {', '.join(fitting)}" if choices else "no published model fits"
    raise UserError(
        f"holds {found} but does not say what it was trained for, and {which}; give "
        f"{'--recipe with one of them, or ' if choices else ''}--task (panoptic, instance or semantic)"
    )


def _notes(
    config: ModelConfig,
    categories: Categories,
    preparation: Preparation,
    names: tuple[str, ...] | None,
    is_own: bool,
    from_tasks: bool,
) -> list[str]:
    """Where the settings are others than those that the source was used with, or nothing said them.

    Raises:
        UserError: a folder that we wrote has other class names now.
    """
    notes: list[str] = []
    ours = f"a short edge of {config.inference.short_edge}, at most {config.inference.long_edge}"
    if not config.inference.short_edge:
        ours = "no other size"
    edges = preparation.edges
    if from_tasks and edges is None:
        notes.append(f"nothing says to what size images were resized: {ours} is assumed")
    elif preparation.stretched_to is not None:
        size = "x".join(map(str, preparation.stretched_to))
        notes.append(f"images were stretched to {size} there; here they keep their proportions and get {ours}")
    elif edges is not None and edges != (config.inference.short_edge, config.inference.long_edge):
        if edges[0]:
            notes.append(f"images got a short edge of {edges[0]}, at most {edges[1]}, there; here they get {ours}")
        elif config.inference.short_edge:
            notes.append(f"images were not resized there; here they get {ours}")
    if from_tasks:
        notes += preparation.notes
    if names is not None and is_own and names != categories.names:
        raise UserError(
            f"config.json: 'id2label' names other classes ({listed(names, 3)}) than 'mask2former' "
            f"({listed(categories.names, 3)}), so the model was trained further; take 'mask2former' out of "
            "config.json and give --task"
        )
    if preparation.ignore_label not in (None, categories.ignore_label):
        notes.append(f"label maps had {preparation.ignore_label} for no class; here it is {categories.ignore_label}")
    twice = sorted(name for name, count in Counter(categories.names).items() if count > 1)
    if twice:
        notes.append(f"several classes are called '{printable(twice[0], 80)}'; evaluate needs names of their own")
    return notes


def _fits(slug: str, found: Architecture, norms_are_open: bool) -> bool:
    return _same_shape(original.recipe_architecture(slug), found, norms_are_open)


def _same_shape(one: Architecture, other: Architecture, norms_are_open: bool) -> bool:
    """Whether names and shapes agree; with open norms, whether they were trained does not count."""
    if norms_are_open:
        one, other = (_with_frozen_norms(architecture) for architecture in (one, other))
    return one.shape_summary() == other.shape_summary()


def _with_frozen_norms(architecture: Architecture) -> Architecture:
    backbone = architecture.model.backbone
    if not isinstance(backbone, TimmConfig):
        return architecture
    frozen = backbone.model_copy(update={"norm": "frozen"})
    return replace(architecture, model=architecture.model.model_copy(update={"backbone": frozen}))


def _same_names(ours: Iterable[str], theirs: Iterable[str]) -> bool:
    return [_plain(name) for name in ours] == [_plain(name) for name in theirs]


def _plain(name: str) -> str:
    """The first synonym, in one spelling."""
    return name.split(",")[0].strip().lower().replace("_", " ")


def _categories(names: tuple[str, ...] | None, num_classes: int) -> Categories:
    """A packaged table if it has these names, else the names, all of them things."""
    if names is None:
        return Categories.from_names([f"class {index}" for index in range(num_classes)])
    for table in map(Categories.load, _TABLES):
        for candidate in (table, table.things()) if table.thing_indices else (table,):
            if _same_names(candidate.names, names):
                return candidate
    return Categories.from_names(names)
