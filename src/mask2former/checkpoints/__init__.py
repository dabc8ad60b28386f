"""Loading a model from a name or file, and saving it.

:func:`from_pretrained` and :func:`save_pretrained` are the entry points of ``Mask2Former``. Knows nothing of tasks,
training or drawing. Where to find what:

- where a file comes from: ``zoo`` (the table of published models), ``download`` (one file from the web), ``hub``
  (Hugging Face), ``card`` (a model's page there);
- what a file contains: ``load`` (the only way from a file of any code base to a ``checkpoint``), in three steps:
  ``raw`` (the file as stored), ``layouts`` (which code base uses these names), ``purpose`` (settings and classes).
  They build on ``unwrap`` (where the weights are in a file), ``safetensors_files`` and ``restricted_pickle`` (reading
  without executing anything), ``formats`` (one module per code base) and ``rules`` (tables of names, read in both
  directions);
- what it is used for: ``instantiate`` (a model, after its claims have been checked), ``initial`` and ``transfer`` (the
  start of a training), ``save`` (our format and the original one), ``targets`` (any layout), ``convert`` (from one to
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
from mask2former.checkpoints.checkpoint import Checkpoint, load_into
from mask2former.checkpoints.download import Progress
from mask2former.checkpoints.hub import HubName, fetch_folder, parse_hub_name, published_recipe, push_folder
from mask2former.checkpoints.instantiate import instantiate
from mask2former.checkpoints.load import Found, checkpoint_of, read
from mask2former.checkpoints.save import check_described, format_version, save, save_folder, write_original
from mask2former.checkpoints.transfer import start_from
from mask2former.checkpoints.zoo import ZooModel, current_zoo, packaged_names
from mask2former.config import Task, TimmConfig
from mask2former.errors import UserError
from mask2former.models.mask2former import Mask2Former

__all__ = [
    "Checkpoint",
    "ZooModel",
    "check_described",
    "current_zoo",
    "did_you_mean",
    "fetch",
    "find",
    "format_version",
    "from_pretrained",
    "instantiate",
    "is_name",
    "load_into",
    "open_checkpoint",
    "packaged_names",
    "push_to_hub",
    "read_fetched",
    "save",
    "save_folder",
    "save_pretrained",
    "start_from",
    "write_original",
]

_logger = logging.getLogger(__name__)


def open_checkpoint(
    source: str | Path,
    recipe: str | None = None,
    tasks: Task | Sequence[Task] = (),
    weights: str | None = None,
) -> Checkpoint:
    """Weights, configuration and categories of a name, file or folder.

    A ``str`` is, in this order: a packaged model (``scenes-tiny``); a published one (``coco-panoptic/r50``,
    ``mmdet/coco-panoptic/r50``), which is downloaded once; ``hf://owner/name`` on the Hugging Face hub; a file or
    folder; and if none of that name exists, ``owner/name`` on the hub. Write ``./NAME`` for a file or folder that has
    the name of a model.

    Files and folders may come from this library (also checkpoints of its trainings), the original code, transformers,
    mmdetection, mmsegmentation or sssegmentation. What was inferred or assumed about them is reported as notes.

    Args:
        source: one of these; a ``Path`` is always a file or folder.
        recipe: the published model that a file without configuration contains or is made like: ``coco-panoptic/r50``.
        tasks: instead of a recipe, what the model was trained for, if it has its own classes.
        weights: which of several sets of weights in a file, by the name of its entry, for instance ``model_ema``; None:
            the trained ones, and for a training of this library those of its result.

    Raises:
        UserError: the name does not exist, it cannot be downloaded, or the file is unsuitable; the message says what
            was expected.
    """
    return checkpoint_of(find(source, recipe, tasks, weights), str(source), is_named=is_name(source))


def is_name(source: object) -> bool:
    """Whether it is the name of a packaged or published model."""
    return isinstance(source, str) and (source in packaged_names() or source in current_zoo())


def find(
    source: str | Path,
    recipe: str | None = None,
    tasks: Task | Sequence[Task] = (),
    weights: str | None = None,
    backbone: TimmConfig | None = None,
) -> Found:
    """Like :func:`open_checkpoint`, but also accepts backbones and emits no notes.

    Args:
        source: as of :func:`open_checkpoint`, like the next three.
        recipe: as there.
        tasks: as there.
        weights: as there.
        backbone: timm backbone, for files and folders that contain its weights without saying so.

    Raises:
        UserError: as for :func:`open_checkpoint`.
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
            return read_fetched(
                _fetched(source, hub_name), hub_name[0], source, recipe, tasks, weights, backbone=backbone
            )
    path = Path(source)
    if not os.path.exists(path):
        raise UserError(_unknown(str(source)))
    return read(path, recipe, tasks, weights, backbone=backbone)


def fetch(source: str | Path, progress: Progress | None = None) -> None:
    """Download the file of a published model into the cache; does nothing for anything else.

    Args:
        source: as of :func:`open_checkpoint`.
        progress: called with the bytes so far and the total (None if the server does not say).

    Raises:
        UserError: the file cannot be obtained; the message says what to do.
    """
    if isinstance(source, str) and source not in packaged_names() and source in (zoo := current_zoo()):
        zoo[source].fetch(progress)


def _check_nothing_given(name: str, recipe: str | None, tasks: Task | Sequence[Task]) -> None:
    if recipe not in (None, name) or tasks:
        given = "the tasks" if tasks else f"recipe '{recipe}'"
        raise UserError(f"'{name}' includes its own configuration; leave out {given}")


def _find_published(model: ZooModel, weights: str | None) -> Found:
    file = model.fetch()
    _logger.warning("%s", _license_notice(model))
    recipe = model.name if model.name in recipes.recipe_names() else None
    try:
        found = read(file, recipe, weights=weights)
    except UserError as error:  # the hash was right when it was downloaded, but files may be put there by hand
        raise UserError(
            f"{error}; if it is not the file from {model.url}, delete it and it is downloaded again"
        ) from error
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


def _fetched(source: str, name: HubName) -> Path:
    try:
        return fetch_folder(*name)
    except UserError as error:
        if source.startswith("hf://"):
            raise
        raise UserError(f"'{source}' is not an existing file or folder, and {error}{_hint(source)}") from error


def read_fetched(
    folder: Path,
    repository: str,
    source: str,
    recipe: str | None = None,
    tasks: Task | Sequence[Task] = (),
    weights: str | None = None,
    backbone: TimmConfig | None = None,
) -> Found:
    """The content of a folder that was fetched from the hub.

    Args:
        folder: with the files.
        repository: its name on the hub, which determines the settings of the models that were published there.
        source: what it is called in messages.
        recipe: as of :func:`open_checkpoint`.
        tasks: as of :func:`open_checkpoint`.
        weights: as of :func:`open_checkpoint`.
        backbone: as of :func:`find`.

    Raises:
        UserError: as for :func:`open_checkpoint`.
    """
    known = None if recipe is not None or tasks else published_recipe(repository)
    found = read(folder, recipe or known, tasks, weights, source, backbone)
    if known is None:
        return found
    return replace(found, notes=(f"settings and classes are those of {known}, to judge by its name", *found.notes))


def _is_meant_as_published(name: str) -> bool:
    """Whether a name is that of a recipe, or begins like that of a published model."""
    family = name.partition("/")[0]
    return any(known.partition("/")[0] == family for known in (*current_zoo(), *recipes.recipe_names()))


def _unknown(source: str) -> str:
    some = ", ".join([*packaged_names(), *current_zoo()][:3])
    return (
        f"'{source}' is neither a file, a folder nor a known model{_hint(source) or ';'} 'mask2former models' lists "
        f"the known ones ({some}, ...); models on the Hugging Face hub are hf://owner/name"
    )


def _hint(source: str) -> str:
    return f"; {meant}" if (meant := did_you_mean(source)) else ""


def did_you_mean(source: str) -> str:
    """A question with the closest names of models, each as it is loaded: with its provider, except for official ones.

    Empty if no name is close.
    """
    return text.did_you_mean(source, (*packaged_names(), *current_zoo()))


def from_pretrained(
    source: str | Path,
    recipe: str | None = None,
    model: Mask2Former | None = None,
    *,
    tasks: Task | Sequence[Task] = (),
    weights: str | None = None,
) -> Mask2Former:
    """A model in evaluation mode on the CPU, float32, with its description (``model.info``).

    This library is MIT-licensed; published weights have their own licenses (``model.info.license``), those of the
    official zoo CC BY-NC 4.0.

    Args:
        source: as of :func:`open_checkpoint`.
        recipe: as of :func:`open_checkpoint`.
        model: an existing model that receives the weights instead of a newly built one; for models with your own parts.
        tasks: as of :func:`open_checkpoint`.
        weights: as of :func:`open_checkpoint`.

    Raises:
        UserError: as for :func:`open_checkpoint`, or the weights do not fit the configuration or ``model``.
    """
    return instantiate(open_checkpoint(source, recipe, tasks, weights), model)


def save_pretrained(model: Mask2Former, path: str | Path) -> None:
    """Write the model: ``.safetensors`` is one file in our format, ``.pkl`` and ``.pth`` are original, else a folder.

    Raises:
        UserError: another suffix, a model without classes or other than its architecture says, or a location that
            cannot be written.
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
        UserError: the model lacks its description, or the hub refuses it.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_folder(model, folder, metrics=metrics, address=repo_id)
        return push_folder(Path(folder), repo_id, private=private, message=message)
