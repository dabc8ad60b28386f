"""The one way from a file of any code base to a checkpoint: what it is, told by its names, and what its model is.

Nothing is guessed: names that are unknown or missing, and settings that a file does not carry and no recipe gives, end
in a message that says so. Must not know how checkpoints are written.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from mask2former import limits, recipes
from mask2former.checkpoints import restricted_pickle
from mask2former.checkpoints.checkpoint import FORMAT_VERSION, OURS, WEIGHTS, Checkpoint
from mask2former.checkpoints.formats import huggingface, original
from mask2former.checkpoints.formats.backbones import BACKBONES, Backbone, recognised_backbone, without_wrapping
from mask2former.checkpoints.formats.huggingface import HUGGINGFACE, Preparation
from mask2former.checkpoints.formats.openmmlab import MMDET, MMDET_2, MMSEG, MMSEG_2, edges_of, normalisation_of
from mask2former.checkpoints.formats.original import Architecture
from mask2former.checkpoints.formats.sssegmentation import SSSEG
from mask2former.checkpoints.normalisation import Normalisation
from mask2former.checkpoints.rules import Layout, their_name, to_original
from mask2former.checkpoints.safetensors_files import entries_of, is_safetensors, metadata_value, open_safetensors
from mask2former.checkpoints.unwrap import unwrapped, wanted, weights_of
from mask2former.config import InferenceConfig, ModelConfig, RunConfig, Task, TimmConfig, parse
from mask2former.documents import check_regular, parse_json, read_bytes
from mask2former.errors import OptionError, UserError, prefixed
from mask2former.notes import note
from mask2former.recipes import Provider
from mask2former.structures import Categories, ModelInfo
from mask2former.text import listed, printable, quoted

__all__ = [
    "MODELS",
    "Found",
    "Raw",
    "Request",
    "UndecidedError",
    "checkpoint_of",
    "folder_of_transformers",
    "load",
    "published_state",
    "read",
    "read_backbone_alone",
    "recognised",
]

MODELS = (HUGGINGFACE, MMDET, MMDET_2, MMSEG, MMSEG_2, SSSEG)
_TASKS: tuple[Task, ...] = get_args(Task)
_HALVES = (torch.float16, torch.bfloat16)
_COUNTER = ".num_batches_tracked"
_OUR_ENTRY = "transformer_decoder.class_head.weight"
_POINTS = 4  # of deformable attention, everywhere
_TABLES = ("coco_panoptic", "coco_instance", "ade20k_150", "ade20k_instance_100", "cityscapes", "mapillary_vistas_v1.2",
           "coco_stuff_10k_171", "ade20k_full_847", "ytvis_2019", "ytvis_2021")  # fmt: skip


class UndecidedError(OptionError):
    """A file holds a model, but does not say which of several it is.

    Attributes:
        recipes: the published models that fit; none of them if empty.
        layout: the key of the code base.
    """

    def __init__(self, sentence: Callable[[Callable[[str], str]], str], fitting: Sequence[str], layout: str) -> None:
        super().__init__(sentence)
        self.recipes = tuple(fitting)
        self.layout = layout


@dataclass(frozen=True)
class Found:
    """What a file or folder turned out to be.

    Attributes:
        kind: the code base.
        content: a whole model, or a backbone alone.
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


@dataclass
class Raw:
    """Names and tensors as stored, and what lies beside them.

    Attributes:
        path: the file that was read, or the folder.
        state: the entries.
        metadata: of the header, where it is a file of ours.
        run: of a checkpoint of a training of ours, all but its weights.
        class_names: as OpenMMLab stores them.
        text: configuration as text, as OpenMMLab stores it.
        config: ``config.json`` of a folder.
        preprocessor: ``preprocessor_config.json`` of a folder.
        notes: what should be known of how it was read.
    """

    path: Path
    state: dict[str, Tensor]
    metadata: dict[str, str] | None = None
    run: dict[Any, Any] | None = None
    class_names: tuple[str, ...] | None = None
    text: str | None = None
    config: dict[str, Any] | None = None
    preprocessor: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Request:
    """What somebody wants to read.

    Attributes:
        source: the file or folder, for messages.
        recipe: the published model that it is, or is made like.
        tasks: what the model was trained for.
        weights: which of several sets of weights in a file: the entry that holds it, for instance ``model_ema``.
        backbone: of timm, for files that hold its weights without saying so.
    """

    source: str
    recipe: str | None = None
    tasks: Sequence[Task] = ()
    weights: str | None = None
    backbone: TimmConfig | None = None


def load(
    path: str | Path, recipe: str | None = None, tasks: Task | Sequence[Task] = (), weights: str | None = None
) -> Checkpoint:
    """The model in a file or folder of any code base that we know; what should be known of it is told as notes.

    Weights of the official zoo are licensed CC BY-NC 4.0; this library is MIT.

    Args:
        path: as of :func:`read`.
        recipe: as of :func:`read`.
        tasks: as of :func:`read`.
        weights: as of :func:`read`.

    Raises:
        UserError: as :func:`read`, or it is a backbone alone.
    """
    return checkpoint_of(read(Path(path), recipe, tasks, weights), str(path))


def checkpoint_of(found: Found, source: str, *, is_named: bool = False) -> Checkpoint:
    """The model that was found, with what should be known of it told as notes.

    Args:
        found: in a file or folder.
        source: what that is called.
        is_named: it is a published model, and what it is goes without saying.

    Raises:
        UserError: it is a backbone alone.
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
) -> Found:
    """Read a file or folder of any code base that we know: open it, recognise it, rename, settle what it is for.

    Args:
        path: of ours, original, of transformers, mmdetection, mmsegmentation or sssegmentation; or a backbone.
        recipe: the published model that it is, or is made like: gives settings and classes.
        tasks: what the model was trained for, where neither the file nor a recipe says it.
        weights: which of several sets of weights in the file, by the name of its entry; None: the trained ones, or
            the average that a training of ours would give out.
        source: what it is called in messages; None: the path.

    Raises:
        UserError: it cannot be read, is none of these, is incomplete, or does not say enough; the message tells.
    """
    wanted_tasks = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    if recipe is not None:
        recipes.recipe(recipe)  # a misspelt name before reading gigabytes
        if wanted_tasks:
            raise UserError(f"recipe '{recipe}' says what the model is for; leave out either it or the tasks")
    if unknown := [task for task in wanted_tasks if task not in _TASKS]:
        raise OptionError(lambda name: f"{name('tasks')} {unknown[0]}: no such task; expected {', '.join(_TASKS)}")
    request = Request(source or str(path), recipe, [task for task in _TASKS if task in wanted_tasks], weights)
    try:
        return recognised(_opened(path, request), request)
    except UserError as error:
        if str(error).startswith((str(path), request.source)):
            raise
        raise prefixed(path, error) from error


def read_backbone_alone(path: Path, backbone: TimmConfig | None = None) -> Backbone | None:
    """The backbone of a file or folder that holds nothing else; None if it holds a whole model.

    Args:
        path: of any layout that is known.
        backbone: of timm, for files that hold its weights without saying so.

    Raises:
        UserError: it cannot be read, is nothing that we know, or is incomplete.
    """
    request = Request(str(path), backbone=backbone)
    raw = _opened(path, request)
    beside = path.parent / "config.json"
    if raw.metadata is None and raw.config is None and beside.is_file():
        raw.config = _json(beside)
    state, _ = _unwrapped(raw)
    is_ours = raw.metadata is not None or raw.run is not None
    if is_ours or original.is_original(state) or any(layout.fits(state) for layout in MODELS):
        return None
    try:
        content = recognised(raw, request).content
    except UserError as error:
        raise prefixed(path, error) from error
    return content if isinstance(content, Backbone) else None


def published_state(path: Path) -> dict[str, Tensor]:
    """The entries of a whole model of another code base under their original names, as stored.

    Raises:
        UserError: it cannot be read, or is nothing of that kind.
    """
    state = _unwrapped(_opened(path, Request(str(path))))[0]
    if original.is_original(state):
        return original.current_spelling(state)
    layout = next((layout for layout in MODELS if layout.fits(state)), None)
    if layout is None:
        raise UserError(f"{path}: no model of another code base that we know")
    return to_original(layout, state)


def folder_of_transformers(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """``config.json``, and the entries as stored.

    Raises:
        UserError: files are missing or broken.
    """
    raw = _opened(path, Request(str(path)))
    if raw.config is None:
        raise UserError(f"{path}: expected config.json beside weights")
    return raw.config, raw.state


# --- files and folders -----------------------------------------------------------------------------------------------


def _opened(path: Path, request: Request) -> Raw:
    """What lies there; the content decides what a file is, never its name."""
    if os.path.isdir(path):
        if (path / "config.json").is_file() and not _is_ours(path / WEIGHTS):
            _check_one_set(request)
            return _opened_folder(path)
        if not (path / WEIGHTS).is_file():
            found = listed(sorted(os.listdir(path)), 5) or "nothing"
            raise UserError(f"{path}: a folder must hold {WEIGHTS}, or config.json beside weights; it holds {found}")
        path = path / WEIGHTS
    head = _head_of(path)
    if not is_safetensors(head, path.stat().st_size):
        raw = Raw(path, {})
        raw.state = restricted_pickle.read_state(path, lambda payload: _select(payload, raw, request))
        return raw
    _check_one_set(request)
    with open_safetensors(path) as file:
        metadata: dict[str, str] = file.metadata() or {}
        if not _is_our_format(metadata):
            return Raw(path, entries_of(file, path))
        _check_format(path, metadata)
        _check_nothing_given(request)
        return Raw(path, entries_of(file, path), metadata)


def _is_ours(path: Path) -> bool:
    """Whether it is a safetensors file that we wrote."""
    if not path.is_file():
        return False
    head = _head_of(path)
    if not is_safetensors(head, path.stat().st_size):
        return False
    with open_safetensors(path) as file:
        return _is_our_format(file.metadata() or {})


def _is_our_format(metadata: Mapping[str, str]) -> bool:
    return metadata.get("format", "").startswith("mask2former")


def _head_of(path: Path) -> bytes:
    """The first bytes, after refusing what certainly is no checkpoint."""
    check_regular(path, "checkpoint")
    try:
        with path.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not head:
        raise UserError(f"{path}: is empty; expected weights. If it was downloaded, fetch it again")
    if _is_exported(head):
        raise UserError(
            f"{path}: is an exported model (ONNX or OpenVINO), which predict, track and evaluate alone can run; give "
            "the model that it was exported from"
        )
    if head.lstrip()[:1] == b"<":
        raise UserError(f"{path}: is a web page, not weights; the download went wrong, fetch it again")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: is a Git LFS pointer, not weights; fetch the file itself with 'git lfs pull'")
    return head


def _is_exported(head: bytes) -> bool:
    """Whether a file begins as those of OpenVINO or of ONNX, which no pickle does."""
    return re.match(rb"\s*<\?xml[^>]*>\s*<net\s|\x08[\x01-\x20][\x12\x1a\x22\x28\x32\x3a\x42]", head) is not None


def _check_format(path: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") == "mask2former-backbone":
        raise UserError(f"{path}: holds a backbone alone; train a model from it with model.init={path}")
    version = metadata.get("format_version", "")
    if not version.isdecimal() or len(version) > 9 or int(version) > FORMAT_VERSION:
        raise UserError(
            f"{path}: format version {quoted(version, 20)}; this library reads up to {FORMAT_VERSION}, so install a "
            "newer one"
        )


def _check_nothing_given(request: Request) -> None:
    given = "the tasks" if request.tasks else None if request.recipe is None else f"recipe '{request.recipe}'"
    if given is not None:
        raise UserError(f"carries its own configuration; leave out {given}")


def _check_one_set(request: Request) -> None:
    if request.weights is not None:
        raise OptionError(lambda name: f"holds one set of weights; leave out {name('weights')}")


def _select(payload: Any, raw: Raw, request: Request) -> dict[Any, Any]:
    """The mapping of names to arrays, wherever a code base puts it; what lies beside it is left in ``raw``."""
    if not isinstance(payload, dict):
        raise UserError(f"holds a {type(payload).__name__}; expected a mapping of names to arrays")
    run = payload.get("run")
    if isinstance(run, dict) and isinstance(payload.get("state_dict"), dict):
        _check_nothing_given(request)
        raw.run = {"instance_threshold": payload.get("instance_threshold"), **run}
        return _select_of_run(payload, raw, request)
    meta = payload.get("meta")
    if isinstance(meta, dict):
        raw.text = next((meta[key] for key in ("cfg", "config") if isinstance(meta.get(key), str)), None)
    for facts in (meta.get("dataset_meta"), meta) if isinstance(meta, dict) else ():
        found = next((facts[key] for key in ("classes", "CLASSES") if key in facts), None) \
            if isinstance(facts, dict) else None  # fmt: skip
        if isinstance(found, list | tuple) and found and all(isinstance(name, str) for name in found):
            raw.class_names = raw.class_names or tuple(found)
    mapping, told = weights_of(payload, _is_known, request.weights)
    raw.notes += [told] if told else []
    return mapping


def _select_of_run(payload: dict[Any, Any], raw: Raw, request: Request) -> dict[Any, Any]:
    """The weights in a checkpoint of a training of ours: averaged ones where there are some, as its result holds."""
    plain = {str(name).removeprefix("model."): value for name, value in payload["state_dict"].items()}
    average = payload.get("average")
    values = average.get("values") if isinstance(average, dict) else None
    sets = {"average": {**plain, **values}, "state_dict": plain} if isinstance(values, dict) else {"state_dict": plain}
    if request.weights is not None:
        return wanted(sets, request.weights)
    if len(sets) > 1:
        raw.notes.append("the averaged weights of the training are taken (the others: weights=state_dict)")
    return next(iter(sets.values()))


def _opened_folder(path: Path) -> Raw:
    """A folder of transformers."""
    config = _json(path / "config.json")
    preprocessor = path / "preprocessor_config.json"
    state: dict[str, Tensor] = {}
    for part in _weight_files(path):
        if not part.is_file():
            raise UserError(f"{part}: no such file; the folder is incomplete, fetch it again")
        found = _entries(part) if part.suffix == ".safetensors" else restricted_pickle.read_state(part)
        if twice := state.keys() & found.keys():
            raise UserError(f"{part}: {quoted(min(twice))} is in another file of the folder too")
        state.update(found)
    return Raw(path, state, config=config, preprocessor=_json(preprocessor) if preprocessor.is_file() else {})


def _entries(path: Path) -> dict[str, Tensor]:
    with open_safetensors(path) as file:
        return entries_of(file, path)


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


def recognised(raw: Raw, request: Request) -> Found:
    """What was opened, told by its names.

    Raises:
        UserError: as of :func:`read`.
    """
    if raw.metadata is not None:
        return Found("mask2former", _ours(raw, raw.metadata))
    if raw.run is not None:
        return Found("mask2former, a checkpoint of a training", _of_run(raw, raw.run), tuple(raw.notes))
    state, prefix = _unwrapped(raw)
    raw.state = state
    if original.is_original(state):
        return _whole(raw, None, original.current_spelling(state), prefix, request)
    layout = next((layout for layout in MODELS if layout.fits(state)), None)
    if layout is HUGGINGFACE:
        _check_alone(raw)
    if layout is not None:
        return _whole(raw, layout, to_original(layout, state, known_only=False), prefix, request)
    if _is_of_ours(state):  # a whole model, also where a backbone would do
        raise UserError(_unknown(state))
    backbone = recognised_backbone(state, raw.config, request.backbone)
    if backbone is None:
        raise UserError(_unknown(state))
    if request.recipe is not None or request.tasks:
        raise UserError(f"a backbone alone ({backbone[0]}); leave out the recipe and the tasks")
    return Found(*backbone, (*raw.notes, *backbone[1].notes))


def _check_alone(raw: Raw) -> None:
    """Refuse a file of weights beside its configuration, without which heads and classes would be guessed."""
    folder = raw.path.parent
    if raw.config is None and raw.path.is_file() and (folder / "config.json").is_file():
        raise UserError(
            f"is part of a folder of transformers; give the folder, {folder}, whose config.json says more about it"
        )


def _unwrapped(raw: Raw) -> tuple[dict[str, Tensor], str]:
    return unwrapped(raw.state, _has_layout)


def _has_layout(names: Mapping[str, object]) -> bool:
    return original.is_original(names) or any(layout.fits(names) for layout in (*MODELS, *BACKBONES))


def _is_known(names: Mapping[str, Any]) -> bool:
    """Whether these are the names of a model or a backbone, in any wrapping."""
    inner, _ = unwrapped(names, _has_layout)
    return _has_layout(inner) or bool(without_wrapping(inner)[1])


def _is_of_ours(state: Mapping[str, Tensor]) -> bool:
    return any(name.endswith(_OUR_ENTRY) for name in state)


def _unknown(state: Mapping[str, Tensor]) -> str:
    if _is_of_ours(state):
        return (
            "weights of a model of this library without its settings and classes; expected a file of save_pretrained, "
            "or the model.safetensors of a training (also if it is a checkpoint of version 0.1.0)"
        )
    known = ", ".join(["ours", "original", *(layout.title for layout in (*MODELS, *BACKBONES))])
    return (
        f"none of the layouts that we know ({known}); it has {len(state)} entries such as {listed(state, 3)}. "
        "Weights of a timm model are read from a folder with its config.json, or by a training that names the model: "
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
        settings = {**info.inference.model_dump(), "instance_threshold": threshold}
        info = replace(info, inference=parse(InferenceConfig, settings, f"{raw.path}: its threshold"))
    if "model" in (record.get("objects") or ()):
        info = replace(info, architecture=None)
    return Checkpoint(info, _promoted(raw.state), str(raw.path), run)


def _promoted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Half precision as float32; everything else as it is."""
    return {name: value.float() if value.dtype in _HALVES else value for name, value in state.items()}


def _whole(raw: Raw, layout: Layout | None, published: dict[str, Tensor], prefix: str, request: Request) -> Found:
    title = "original" if layout is None else layout.title
    counters: dict[str, Tensor] = {}
    if layout is not None and layout.has_counters:
        counters = {name: value for name, value in published.items() if name.endswith(_COUNTER)}
        published = {name: value for name, value in published.items() if name not in counters}

    def spelled(name: str) -> str:
        return prefix + (name if layout is None else their_name(layout, name))

    found = original.infer_architecture(
        published,
        num_heads=8 if raw.config is None else huggingface.num_heads_of(raw.config),
        spelled=spelled,
        layout="the original layout" if layout is None else title,
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
        notes.append(f"the file names {len(names)} classes for {found.num_classes} rows of the class head; not used")
        names = None
    own = None if raw.config is None else huggingface.own_facts(raw.config)
    key = "original" if layout is None else layout.key
    config, categories, assumed = _settled(found, layout, names, preparation, own, request)
    notes += [assumed] if assumed else []
    if preparation.normalisation is not None:
        config = config.model_copy(update=preparation.normalisation.settings)
    if config.own_normalisation:
        notes.append(f"images are normalised with {Normalisation.of(config)}, as the file says")
    notes += _notes(config, categories, preparation, names, own is not None, request)
    pairs = original.original_names(config)
    for name, ours in pairs:
        if ours is not None and name.endswith(_COUNTER) and name not in published and layout is not None:
            published[name] = counters.get(name, torch.zeros((), dtype=torch.int64))
    state = _promoted(original.from_original(published, config))
    spellings = {name: spelled(name) for name in state} | {ours: spelled(name) for name, ours in pairs if ours}
    content = Checkpoint(ModelInfo.of(config, categories), state, str(raw.path), layout=key, spellings=spellings)
    return Found(title, content, tuple(notes))


# --- what it is for --------------------------------------------------------------------------------------------------


def _settled(
    found: Architecture,
    layout: Layout | None,
    names: tuple[str, ...] | None,
    preparation: Preparation,
    own: tuple[Any, Any] | None,
    request: Request,
) -> tuple[ModelConfig, Categories, str]:
    """Configuration and classes: from the recipe, from what we wrote there, from the tasks, or by exclusion.

    The third is a phrase about what was concluded; empty where it was said.
    """
    norms_are_open = layout is not None
    providers: list[Provider] = ["official"] if layout is None else list(dict.fromkeys([layout.provider, "official"]))
    fitting = [
        slug for one in providers for slug in original.matching_recipes(found, one, norms_are_open=norms_are_open)
    ]
    recipe, tasks = request.recipe, request.tasks
    if recipe is not None:
        expected = original.recipe_architecture(recipe)
        if not expected.fits(found, norms_are_open):
            hint = f"; recipes that fit: {', '.join(fitting)}" if fitting else "; no recipe fits"
            raise UserError(f"recipe '{recipe}' is {expected}, but the file holds {found}{hint}")
        return recipes.recipe(recipe).model, original.recipe_categories(recipe), ""
    if own is not None:
        config = parse(ModelConfig, own[0], "config.json: mask2former.config")
        categories = Categories.from_dict(own[1])
        if not Architecture(config, len(categories)).fits(found, norms_are_open):
            raise UserError(f"config.json: 'mask2former' is of another model than the weights ({found})")
        return config, categories, ""
    if tasks:
        if found.model.pixel_decoder.num_points != _POINTS:
            raise UserError(
                f"holds {found} but does not say how many attention heads its decoders have, and its weights do not "
                f"fit the usual {found.model.pixel_decoder.num_heads}; only models with that many can be read"
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
                "resampling": "antialiased" if providers == ["official"] else "bilinear",
                "resize_masks_first": tuple(tasks) != ("semantic",),
                "things_only": bool(categories.thing_indices),
            },
            "tasks",
        )
        own_way = "" if layout is None or inference.resampling == "antialiased" else layout.title
        said = f"images are resized without antialiasing, as in {own_way}" if own_way else ""
        return ModelConfig(**dict(found.model), inference=inference), categories, said
    if names is not None:
        fitting = [slug for slug in fitting if _same_names(original.recipe_categories(slug).names, names)]
    # Those of the toolbox, before those of the authors.
    first = [slug for slug in fitting if recipes.recipe(slug).provider == recipes.recipe(fitting[0]).provider]
    choices = [(recipes.recipe(slug).model, original.recipe_categories(slug)) for slug in first]
    if choices and all(choice == choices[0] for choice in choices):
        return *choices[0], f"settings and classes are those of {first[0]}, the published model that fits"
    raise _undecided(found, fitting, "original" if layout is None else layout.key, request)


def _undecided(found: Architecture, fitting: Sequence[str], layout: str, request: Request) -> UndecidedError:
    which = f"more than one recipe fits: {', '.join(fitting)}" if fitting else "no published model fits"
    known = "panoptic, instance or semantic"

    def sentence(name: Callable[[str], str]) -> str:
        ways = [f"give {name('recipe')} with one of them"] if fitting else []
        ways.append(f"{'' if fitting else 'give '}{name('tasks')} ({known})")
        what = f"holds {found} but does not say what it was trained for, and {which}"
        return f"{request.source}: {what}; {', or '.join(ways)}"

    return UndecidedError(sentence, fitting, layout)


def _notes(
    config: ModelConfig,
    categories: Categories,
    preparation: Preparation,
    names: tuple[str, ...] | None,
    is_own: bool,
    request: Request,
) -> list[str]:
    """Where the settings are others than those that the source was used with, or nothing said them.

    Raises:
        UserError: a folder that we wrote has other class names now.
    """
    notes: list[str] = []
    from_tasks = bool(request.tasks)
    ours = f"a short edge of {config.inference.short_edge}, at most {config.inference.long_edge}"
    if not config.inference.short_edge:
        ours = "no other size"
    edges = preparation.edges
    if from_tasks and names is None:
        notes.append(
            f"nothing says what the classes are called: they are {listed(categories.names, 2)}, all of them things"
        )
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
    if names is not None and request.recipe is not None and not _same_names(categories.names, names):
        notes.append(f"the file has other names of classes ({listed(names, 3)}) than the recipe")
    if names is not None and is_own and request.recipe is None and names != categories.names:
        raise OptionError(
            lambda name: (
                f"{request.source}: config.json: 'id2label' names other classes ({listed(names, 3)}) than "
                f"'mask2former' ({listed(categories.names, 3)}), so the model was trained further; take "
                f"'mask2former' out of config.json and give {name('tasks')}"
            )
        )
    if preparation.ignore_label not in (None, categories.ignore_label):
        notes.append(f"label maps had {preparation.ignore_label} for no class; here it is {categories.ignore_label}")
    twice = sorted(name for name, count in Counter(categories.names).items() if count > 1)
    if twice:
        notes.append(f"several classes are called '{printable(twice[0], 80)}'; evaluate needs names of their own")
    return notes


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
