"""From a name or file to a model, and back.

:func:`from_pretrained` and :func:`save_pretrained` are the doors of ``Mask2Former``. Knows nothing of tasks, training
or drawing. What lies where:

- where a file comes from: ``zoo`` (the table of published models), ``download`` (one file from the web), ``hub``
  (Hugging Face), ``card`` (a model's page there);
- what is in it: ``load`` (the one way from a file of any code base to a ``checkpoint``), in three steps: ``raw`` (the
  file as stored), ``layouts`` (whose names these are), ``purpose`` (settings and classes). They stand on ``unwrap``
  (where the weights are in a file), ``safetensors_files`` and ``restricted_pickle`` (reading without running anything),
  ``formats`` (one module for each code base) and ``rules`` (tables of names, read both ways);
- what becomes of it: ``instantiate`` (a model, after its claims were checked), ``initial`` and ``transfer`` (the start
  of a training), ``save`` (our format and the original one), ``targets`` (any layout), ``convert`` (from one to
  another), ``compare_transformers`` (whether a conversion computes the same).
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

from mask2former import recipes, text
from mask2former.checkpoints.checkpoint import FORMAT_VERSION, Checkpoint, load_into
from mask2former.checkpoints.download import Progress
from mask2former.checkpoints.hub import HubName, fetch_folder, parse_hub_name, published_recipe, push_folder
from mask2former.checkpoints.instantiate import instantiate
from mask2former.checkpoints.load import Found, checkpoint_of, load, read
from mask2former.checkpoints.save import format_version, save, save_folder, write_original
from mask2former.checkpoints.transfer import start_from
from mask2former.checkpoints.zoo import Zoo, ZooModel, current_zoo, packaged_names
from mask2former.config import Task
from mask2former.errors import UserError
from mask2former.models.mask2former import Mask2Former

__all__ = [
    "FORMAT_VERSION",
    "Checkpoint",
    "Zoo",
    "ZooModel",
    "close_names",
    "current_zoo",
    "fetch",
    "find",
    "format_version",
    "from_pretrained",
    "instantiate",
    "load",
    "load_into",
    "open_checkpoint",
    "packaged_names",
    "push_to_hub",
    "save",
    "save_folder",
    "save_pretrained",
    "start_from",
    "write_original",
]

_logger = logging.getLogger(__name__)

_MOST_CLOSE = 5  # names in a hint


def open_checkpoint(
    source: str | Path,
    recipe: str | None = None,
    tasks: Task | Sequence[Task] = (),
    weights: str | None = None,
) -> Checkpoint:
    """Weights, configuration and categories of a name, file or folder.

    A ``str`` is, in this order: a packaged model (``scenes-tiny``); a published one (``coco-panoptic/r50``,
    ``mmdet/coco-panoptic/r50``), which is downloaded once; ``hf://owner/name`` on the Hugging Face hub; a file or
    folder; and if there is none of that name, ``owner/name`` on the hub. Write ``./NAME`` for a file or folder that has
    the name of a model.

    Files and folders are those of this library, a checkpoint of its trainings, or of the original code, transformers,
    mmdetection, mmsegmentation or sssegmentation. What was concluded or assumed of them is told as notes.

    Args:
        source: one of these; a ``Path`` is always a file or folder.
        recipe: the published model that a file without configuration is or is made like: ``coco-panoptic/r50``.
        tasks: in its place, what the model was trained for, where it has classes of its own.
        weights: which of several sets of weights in a file, by the name of its entry, for instance ``model_ema``; None:
            the trained ones, and of a training of this library those of its result.

    Raises:
        UserError: nothing of that name, it cannot be downloaded, or the file does not do; the message says what was
            expected.
    """
    found = find(source, recipe, tasks, weights)
    is_named = isinstance(source, str) and (source in packaged_names() or source in current_zoo())
    return checkpoint_of(found, str(source), is_named=is_named)


def find(
    source: str | Path,
    recipe: str | None = None,
    tasks: Task | Sequence[Task] = (),
    weights: str | None = None,
) -> Found:
    """As :func:`open_checkpoint`, of backbones too, and with nothing told.

    Raises:
        UserError: as :func:`open_checkpoint`.
    """
    if isinstance(source, str):
        if source in packaged_names():
            _check_nothing_given(source, recipe, tasks)
            with resources.as_file(resources.files("mask2former").joinpath("assets", f"{source}.safetensors")) as file:
                return read(file, weights=weights)
        zoo = current_zoo()
        if source in zoo:
            _check_nothing_given(source, recipe, tasks)
            return _find_published(zoo[source], weights)
        hub_name = parse_hub_name(source)
        if hub_name and (source.startswith("hf://") or not (os.path.exists(source) or _is_meant_as_published(source))):
            return _find_on_hub(source, hub_name, recipe, tasks, weights)
    path = Path(source)
    if not os.path.exists(path):
        raise UserError(_unknown(str(source)))
    return read(path, recipe, tasks, weights)


def fetch(source: str | Path, progress: Progress | None = None) -> None:
    """Bring the file of a published model into the cache; does nothing for anything else.

    Args:
        source: as of :func:`open_checkpoint`.
        progress: called with the bytes so far and the bytes in all (None if the server does not say).

    Raises:
        UserError: the file cannot be had; the message says what to do.
    """
    if isinstance(source, str) and source not in packaged_names() and source in (zoo := current_zoo()):
        zoo[source].fetch(progress)


def _check_nothing_given(name: str, recipe: str | None, tasks: Task | Sequence[Task]) -> None:
    if recipe not in (None, name) or tasks:
        given = "the tasks" if tasks else f"recipe '{recipe}'"
        raise UserError(f"'{name}' carries its own configuration; leave out {given}")


def _find_published(model: ZooModel, weights: str | None) -> Found:
    file = model.fetch()
    _logger.warning("%s", _license_notice(model))
    recipe = model.name if model.name in recipes.recipe_names() else None
    try:
        found = read(file, recipe, weights=weights)
    except UserError as error:  # the hash was right when it was downloaded, but files can be put there by hand
        raise UserError(f"{error}; if it is not {model.url}, delete it and it is downloaded again") from error
    if not isinstance(found.content, Checkpoint):
        return found
    info = replace(found.content.info, license=model.license.name)
    return replace(found, content=replace(found.content, info=info))


def _license_notice(model: ZooModel) -> str:
    license = model.license
    if license.commercial is None:
        what = f"the license of the weights of {model.name} is {license.name}: ask their authors before commercial use"
    else:
        terms = "" if license.commercial else ": not for commercial use"
        what = f"weights of {model.name} are licensed {license.name}{terms}"
    return f"{what} ({license.url})"


def _find_on_hub(
    source: str, name: HubName, recipe: str | None, tasks: Task | Sequence[Task], weights: str | None
) -> Found:
    try:
        folder = fetch_folder(*name)
    except UserError as error:
        if source.startswith("hf://"):
            raise
        raise UserError(f"'{source}' is not a file or folder here, and {error}{_hint(source)}") from error
    known = None if recipe is not None or tasks else published_recipe(name[0])
    found = read(folder, recipe or known, tasks, weights, source)
    if known is None:
        return found
    return replace(found, notes=(f"settings and classes are those of {known}, as its name says", *found.notes))


def _is_meant_as_published(name: str) -> bool:
    """Whether a name is one of a recipe, or begins like that of a published model."""
    family = name.partition("/")[0]
    return any(known.partition("/")[0] == family for known in (*current_zoo(), *recipes.recipe_names()))


def _unknown(source: str) -> str:
    some = ", ".join([*packaged_names(), *current_zoo()][:3])
    return (
        f"'{source}' is neither a file, a folder nor a known model{_hint(source) or ';'} 'mask2former models' lists "
        f"the known ones ({some}, ...); those of the Hugging Face hub are hf://owner/name"
    )


def _hint(source: str) -> str:
    return f"; did you mean {' or '.join(close)}?" if (close := close_names(source)) else ""


def close_names(source: str) -> list[str]:
    """Models that somebody may have meant, whoever published them: the provider may be missing or another."""
    named: dict[str, list[str]] = {name: [name] for name in packaged_names()}
    for model in current_zoo().values():
        named.setdefault(model.short_name, []).append(model.name)
    providers = {model.provider.name for model in current_zoo().values()}
    first, _, rest = source.partition("/")
    close = text.close_names(rest if first in providers else source, named)
    return [name for short in close for name in named[short]][:_MOST_CLOSE]


def from_pretrained(
    source: str | Path,
    recipe: str | None = None,
    model: Mask2Former | None = None,
    *,
    tasks: Task | Sequence[Task] = (),
    weights: str | None = None,
) -> Mask2Former:
    """A model in evaluation mode on the CPU, float32, that knows what it is (``model.info``).

    This library is MIT; published weights have licenses of their own (``model.info.license``), those of the official
    zoo CC BY-NC 4.0.

    Args:
        source: as of :func:`open_checkpoint`.
        recipe: as of :func:`open_checkpoint`.
        model: gets the weights, where it is, instead of one that is built; for models with parts of one's own.
        tasks: as of :func:`open_checkpoint`.
        weights: as of :func:`open_checkpoint`.

    Raises:
        UserError: as :func:`open_checkpoint`, or the weights do not fit the configuration or ``model``.
    """
    return instantiate(open_checkpoint(source, recipe, tasks, weights), model)


def save_pretrained(model: Mask2Former, path: str | Path) -> None:
    """Write the model: ``.safetensors`` is one file of ours, ``.pkl`` and ``.pth`` the original layout, else a folder.

    Raises:
        UserError: another suffix, a model without facts, or the place cannot be written.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        save(model, path)
    elif path.suffix in (".pkl", ".pth"):
        write_original(model, path)
    elif path.is_dir() or not path.suffix[1:].isalpha():
        save_folder(model, path)
    else:
        raise UserError(f"{path}: expected a name ending in .safetensors, .pkl or .pth, or a folder")


def push_to_hub(
    model: Mask2Former,
    repo_id: str,
    *,
    private: bool = False,
    metrics: Mapping[str, float] | None = None,
    message: str = "",
) -> str:
    """Upload a model with its card to the Hugging Face hub; see :meth:`Mask2Former.push_to_hub`.

    Raises:
        UserError: the model lacks its facts, or the hub does not take it.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_folder(model, folder, metrics=metrics, address=repo_id)
        return push_folder(Path(folder), repo_id, private=private, message=message)
