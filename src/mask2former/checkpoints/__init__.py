"""From a name or file to a model, and back.

:func:`from_pretrained` and :func:`save_pretrained` are the doors of ``Mask2Former``; the formats lie in ``io``
(ours), ``original`` (published names) and ``pickles`` (safe reading). Knows nothing of tasks, training or drawing.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import torch

from mask2former import recipes
from mask2former.checkpoints.io import (
    FORMAT_VERSION,
    Checkpoint,
    load,
    load_into,
    save,
    save_folder,
    write_original,
)
from mask2former.errors import RequestError
from mask2former.models.build import build_model
from mask2former.models.mask2former import Mask2Former

__all__ = [
    "FORMAT_VERSION",
    "Checkpoint",
    "from_pretrained",
    "load",
    "load_into",
    "open_checkpoint",
    "packaged_names",
    "save",
    "save_folder",
    "save_pretrained",
    "write_original",
]


def packaged_names() -> tuple[str, ...]:
    """Models that come with the package."""
    folder = resources.files("mask2former").joinpath("assets")
    if not folder.is_dir():
        return ()
    return tuple(sorted(entry.name[:-12] for entry in folder.iterdir() if entry.name.endswith(".safetensors")))


def open_checkpoint(source: str | Path, recipe: str | None = None) -> Checkpoint:
    """Weights, configuration and categories of a packaged name, file or folder.

    A name of a packaged or published model wins over a file of that name; write ``./NAME`` for the file.

    Args:
        source: ``scenes-tiny``, a path, ...
        recipe: for files without configuration, for instance ``coco-panoptic/r50``.

    Raises:
        RequestError: nothing of that name, or the file does not do; the message says what was expected.
    """
    name = source if isinstance(source, str) else None
    if name in packaged_names():
        if recipe is not None:
            raise RequestError(f"'{name}' carries its own configuration; leave out recipe '{recipe}'")
        with resources.as_file(resources.files("mask2former").joinpath("assets", f"{name}.safetensors")) as file:
            return load(file)
    if name in recipes.recipe_names():
        raise RequestError(
            f"'{name}' is a published model; downloading weights by name is not there yet. Download its file and give "
            f"the path with recipe='{name}'"
        )
    path = Path(source)
    if not path.exists():
        packaged = ", ".join(packaged_names()) or "none"
        raise RequestError(
            f"'{source}' is neither a file, a folder nor a known model. Packaged models: {packaged}. Published models, "
            f"whose downloaded file can be given with recipe='NAME': {recipes.describe_names()}"
        )
    return load(path, recipe)


def from_pretrained(source: str | Path, recipe: str | None = None) -> Mask2Former:
    """A model in evaluation mode on the CPU, float32, with ``config`` and ``categories``.

    Weights of the official zoo are licensed CC BY-NC 4.0; this library is MIT.

    Args:
        source: as of :func:`open_checkpoint`.
        recipe: as of :func:`open_checkpoint`.

    Raises:
        RequestError: as :func:`open_checkpoint`, or the weights do not fit the configuration.
    """
    checkpoint = open_checkpoint(source, recipe)
    with torch.random.fork_rng(devices=[]):  # initial values are overwritten; the caller's random state is not
        model = build_model(checkpoint.config, len(checkpoint.categories))
    load_into(model, checkpoint.state, checkpoint.source)
    model.categories = checkpoint.categories
    return model.eval()


def save_pretrained(model: Mask2Former, path: str | Path) -> None:
    """Write the model: ``.safetensors`` is one file of ours, ``.pkl`` and ``.pth`` the original layout, else a folder.

    Raises:
        RequestError: another suffix, a model without facts, or the place cannot be written.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        save(model, path)
    elif path.suffix in (".pkl", ".pth"):
        write_original(model, path)
    elif path.is_dir() or not path.suffix[1:].isalpha():
        save_folder(model, path)
    else:
        raise RequestError(f"{path}: expected a name ending in .safetensors, .pkl or .pth, or a folder")
