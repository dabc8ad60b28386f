"""Writing checkpoint files: ours, and those of the original layout.

Our format is one safetensors file with weights, configuration and categories. Must not know how files are read, nor
where they come from (names, downloads).
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mask2former.checkpoints.card import model_card
from mask2former.checkpoints.checkpoint import FORMAT_VERSION, WEIGHTS, check_finite, misfits
from mask2former.checkpoints.entries import check_entry
from mask2former.checkpoints.formats import original
from mask2former.checkpoints.safetensors_files import write_safetensors
from mask2former.config import RunConfig
from mask2former.errors import UserError
from mask2former.files import write_whole
from mask2former.models.build import build_checked, build_skeleton, size_divisibility
from mask2former.models.mask2former import Mask2Former
from mask2former.notes import note
from mask2former.structures import ModelInfo

__all__ = ["check_described", "dump_original", "format_version", "save", "save_folder", "save_torch", "write_original"]


def format_version(info: ModelInfo) -> int:
    """The format version for such a model: 0.1.0 reads the first, and knows neither other parts nor normalisations."""
    return 1 if info.architecture is not None and info.architecture.is_of_0_1 else FORMAT_VERSION


def _metadata_of(info: ModelInfo) -> dict[str, str]:
    values = info.to_dict()
    metadata = {key: json.dumps(values[key]) for key in ("config", "categories")}
    if info.license is not None:
        metadata["license"] = info.license
    if info.metrics:
        metadata["metrics"] = json.dumps(values["metrics"])
    return metadata


def check_described(model: Mask2Former, num_classes: int) -> None:
    """Refuse a model that is not what its architecture says, since its file could not be loaded.

    A model without an architecture passes: whoever loads its file builds it.

    Args:
        model: any.
        num_classes: the length of its class list.

    Raises:
        UserError: it has other parameters and buffers, or a mean, deviation or divisibility that no file stores.
    """
    architecture = model.info.architecture
    if architecture is None:
        return
    _check_preparation(model)
    with torch.random.fork_rng(devices=[]):  # some models of timm cannot be created without initial values
        described = build_skeleton(architecture, num_classes) or build_checked(architecture, num_classes)
    if faults := misfits(described.state_dict(), model.state_dict()):
        raise UserError(
            f"the model is not what its architecture describes, so its file could not be loaded ({faults}); set "
            "model.info = dataclasses.replace(model.info, architecture=None), and to load the file, build the model "
            "and pass it: from_pretrained(..., model=model)"
        )


def _check_preparation(model: Mask2Former) -> None:
    """Refuse what no checkpoint stores, and a loaded model would not have."""
    architecture = model.info.known_architecture
    stored = {
        "mean": architecture.pixel_mean,
        "std": architecture.pixel_std,
        "size_divisibility": size_divisibility(architecture),
    }
    for name, expected in stored.items():
        value = getattr(model, name)
        if value != expected:
            raise UserError(
                f"the model has {name} {value}, which a checkpoint does not store (loaded models have {expected}); "
                "build it with pixel_mean and pixel_std of a ModelConfig, or keep the state_dict yourself"
            )


def save(
    model: Mask2Former,
    path: str | Path,
    dtype: torch.dtype | None = None,
    run: RunConfig | None = None,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Write one safetensors file in our format.

    Args:
        model: with its classes.
        path: the file.
        dtype: storage type of floating-point entries, for instance ``torch.float16``; None keeps theirs.
        run: settings of the training run, stored as well.
        metrics: measured values of these weights in percent, stored as well; None: those of ``model.info``.

    Raises:
        UserError: the model has no classes, or is not what its architecture says (see :func:`check_described`); a
            value is not finite or does not fit ``dtype``; or the file cannot be written.
    """
    path = Path(path)
    check_described(model, len(model.info.known_categories))
    state = model.state_dict()
    for name, value in state.items():
        check_entry(name, value)
    check_finite(state, "the model")
    info = model.info if metrics is None else replace(model.info, metrics=metrics)
    metadata = {"format": "mask2former", "format_version": str(format_version(info)), **_metadata_of(info)}
    if run is not None:
        metadata["run"] = run.model_dump_json()
    tensors: dict[str, Tensor] = {}
    owned: set[int] = set()
    for name, value in state.items():
        stored = value.detach().cpu()
        if dtype is not None and stored.is_floating_point():
            stored = stored.to(dtype)
            if not torch.equal(stored.isfinite(), value.detach().cpu().isfinite()):
                raise UserError(f"entry '{name}' has values beyond {dtype}; save it without dtype")
        stored = stored.contiguous()
        memory = stored.untyped_storage().data_ptr()
        tensors[name] = stored.clone() if memory in owned else stored  # the format has no shared (tied) entries
        owned.add(memory)
    write_whole(path, lambda temporary: write_safetensors(tensors, temporary, metadata), durable=True)


def save_folder(
    model: Mask2Former,
    path: str | Path,
    metrics: Mapping[str, float] | None = None,
    address: str | None = None,
) -> None:
    """Write the layout of model hubs: ``model.safetensors`` and a ``README.md``.

    Args:
        model: with its classes.
        path: the folder.
        metrics: as of :func:`save`; also listed in the model card.
        address: the name or path to load the model by, for the card; by default the folder.

    Raises:
        UserError: as :func:`save`.
    """
    path = Path(path)
    save(model, path / WEIGHTS, metrics=metrics)
    info = model.info if metrics is None else replace(model.info, metrics=metrics)
    card = model_card(info, sum(value.numel() for value in model.parameters()), address or str(path))
    write_whole(path / "README.md", lambda temporary: temporary.write_text(card, encoding="utf-8"))


def write_original(model: Mask2Former, path: str | Path) -> None:
    """Write the layout of the published files: ``.pkl`` (arrays) or ``.pth`` (tensors); what it lacks is noted.

    Raises:
        UserError: another suffix, that layout has no place for the model, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".pkl", ".pth"):
        raise UserError(f"{path}: the original layout is written as .pkl or .pth")
    architecture = model.info.known_architecture
    _check_preparation(model)
    state = original.file_entries(model)  # refuses other entries
    check_finite(state, "the model")
    write_whole(path, lambda temporary: dump_original(state, temporary, path.suffix))
    for phrase in original.unsaid(architecture):
        note(phrase, f"'{path}'")


def dump_original(state: Mapping[str, Tensor], path: Path, suffix: str) -> None:
    """Write entries under original names to ``path``, as for a file that ends in ``suffix``."""
    values = {name: value.cpu() for name, value in state.items()}
    if suffix == ".pth":
        save_torch({"model": values}, path)
        return
    payload = {"model": {name: value.numpy() for name, value in values.items()}, "__author__": "mask2former"}
    with path.open("wb") as stream:
        pickle.dump(payload, stream, protocol=4)


def save_torch(payload: object, path: Path) -> None:
    """``torch.save`` without the file name in the file, so that equal content gives equal bytes."""
    with path.open("wb") as stream:
        torch.save(payload, stream)
