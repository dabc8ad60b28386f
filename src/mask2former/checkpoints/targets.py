"""Writes a model in the layout of another code base: completely or not at all, and read back before it appears."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mask2former.checkpoints.formats import huggingface, original
from mask2former.checkpoints.formats.huggingface import HUGGINGFACE
from mask2former.checkpoints.formats.openmmlab import MMDET, MMSEG, configuration_of
from mask2former.checkpoints.formats.sssegmentation import SSSEG
from mask2former.checkpoints.load import published_state
from mask2former.checkpoints.normalisation import Normalisation
from mask2former.checkpoints.rules import Layout, from_original
from mask2former.checkpoints.safetensors_files import write_safetensors
from mask2former.checkpoints.save import dump_original, save, save_folder, save_torch
from mask2former.config import ArchitectureConfig, MaskedDecoderConfig, MSDeformAttnConfig
from mask2former.errors import UserError
from mask2former.files import whole_folder, write_whole
from mask2former.models.mask2former import Mask2Former
from mask2former.structures import ModelInfo

__all__ = ["TARGETS", "Target", "check_place", "unsaid", "write"]

Target = Literal["ours", "original", "huggingface", "mmdet", "mmseg", "ssseg"]
TARGETS: tuple[Target, ...] = get_args(Target)
_SUFFIXES: dict[Target, tuple[str, ...]] = {
    "ours": (".safetensors", ""),
    "original": (".pkl", ".pth"),
    "huggingface": ("",),
    "mmdet": (".pth",),
    "mmseg": (".pth",),
    "ssseg": (".pth",),
}


def check_place(path: Path, target: Target) -> None:
    """Refuse a path that cannot be written in this layout, before anything is read.

    Raises:
        UserError: the suffix is not one of the layout, or the path already exists.
    """
    suffixes = _SUFFIXES[target]
    is_folder = path.is_dir() or not path.suffix[1:].isalpha()
    if ("" if is_folder else path.suffix) not in suffixes:
        expected = " or ".join(suffix or "a folder" for suffix in suffixes)
        raise UserError(f"'{path}' cannot be written as {target}; expected {expected}")
    if path.is_dir() and any(path.iterdir()):
        raise UserError(f"the folder '{path}' is not empty; name a new one")
    if path.is_file():
        raise UserError(f"'{path}' already exists; name another file, or delete it first")


def unsaid(info: ModelInfo, target: Target) -> list[str]:
    """What affects the results of a model but a layout does not store, one phrase each; for notes."""
    if info.architecture is None or target in ("ours", "huggingface"):
        return []
    return original.unsaid(info.architecture)


def write(model: Mask2Former, path: Path, target: Target, check: Callable[[Path], object] | None = None) -> None:
    """Write ``model``, which has its classes.

    Args:
        model: on the CPU.
        path: a file or folder, depending on ``target``.
        target: the layout.
        check: called with what was written under a temporary name; if it raises, nothing is left behind.

    Raises:
        UserError: the layout cannot store the model, or it cannot be written.
    """
    check_place(path, target)
    if target != "ours":
        _check_parts(model.info.known_architecture, target)
    inference = model.info.inference
    if target == "huggingface" and (inference.tile or inference.non_overlapping):
        raise UserError(
            "transformers can neither process images in tiles nor remove overlaps (inference.tile, "
            "inference.non_overlapping), as this model does; choose ours, or a layout without such settings"
        )
    is_folder = target == "huggingface" or (target == "ours" and path.suffix != ".safetensors")

    def into(temporary: Path) -> None:
        if target == "ours" and is_folder:
            save_folder(model, temporary, address=str(path))
        elif target == "ours":
            save(model, temporary)
        elif target == "huggingface":
            _write_huggingface(model, temporary)
        elif target == "original":
            dump_original(original.file_entries(model), temporary, path.suffix)
        else:
            save_torch(_payload(model, target), temporary)
        if target != "ours":
            _read_back(model, temporary)
        if check is not None:
            check(temporary)

    if is_folder:
        with whole_folder(path) as temporary:
            into(temporary)
    else:
        write_whole(path, into)


def _check_parts(architecture: ArchitectureConfig, target: Target) -> None:
    """Refuse what a layout cannot store, or would omit.

    Raises:
        UserError: the message names it.
    """
    original.check_switches(architecture)
    pixels, decoder = architecture.pixel_decoder, architecture.transformer_decoder
    usual = isinstance(decoder, MaskedDecoderConfig) and not decoder.project_inputs
    if target != "original" and not (usual and isinstance(pixels, MSDeformAttnConfig)):
        raise UserError(
            f"{target} cannot store a model with the pixel decoder {pixels.name} and the transformer decoder "
            f"{decoder.name}; choose ours or original"
        )


def _payload(model: Mask2Former, target: Target) -> dict[str, Any]:
    architecture, categories = model.info.known_architecture, model.info.known_categories
    if target == "ssseg":
        if architecture.own_normalisation:
            raise UserError(
                "files of sssegmentation do not store how images are normalised, but this model has "
                f"{Normalisation.of(architecture)}; choose ours, or another layout"
            )
        return {"model": _renamed(model, SSSEG)}
    layout = MMDET if target == "mmdet" else MMSEG
    meta: dict[str, Any] = {
        "dataset_meta": {"classes": categories.names, "palette": [item.color for item in categories]}
    }
    if architecture.own_normalisation:
        meta["cfg"] = configuration_of(layout, Normalisation.of(architecture))
    return {"meta": meta, "state_dict": _renamed(model, layout)}


def _renamed(model: Mask2Former, layout: Layout) -> OrderedDict[str, Tensor]:
    return from_original(layout, original.to_original(model))


def _write_huggingface(model: Mask2Former, folder: Path) -> None:
    categories = model.info.known_categories
    tables = {
        "config.json": huggingface.config_of(model.info),
        "preprocessor_config.json": huggingface.preprocessor_of(
            model.info.inference, categories.ignore_label, Normalisation.of(model.info.known_architecture)
        ),
    }
    for name, values in tables.items():
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    weights = folder / "model.safetensors"
    state = _renamed(model, HUGGINGFACE)
    write_whole(weights, lambda temporary: write_safetensors(state, temporary, {"format": "pt"}))


def _read_back(model: Mask2Former, path: Path) -> None:
    """Check that what was written is the same: names, types and values."""
    stored = published_state(path)
    for name, value in original.to_original(model).items():
        if name in stored:
            assert stored[name].dtype == value.dtype, name
            assert torch.equal(stored[name], value), name
        else:
            assert name.endswith(("relative_position_index", "criterion.empty_weight")), name
