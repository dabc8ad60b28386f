"""The content of a file or folder of weights, as stored: names, tensors, and accompanying files.

The content decides how it is read, never the file name. Must not know what models are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from mask2former import limits
from mask2former.checkpoints import restricted_pickle
from mask2former.checkpoints.checkpoint import FORMAT_VERSION, WEIGHTS
from mask2former.checkpoints.layouts import is_known
from mask2former.checkpoints.safetensors_files import entries_of, is_safetensors, open_safetensors
from mask2former.checkpoints.unwrap import wanted, weights_of
from mask2former.config import Task, TimmConfig
from mask2former.documents import check_regular, parse_json, read_bytes
from mask2former.errors import OptionError, UserError
from mask2former.text import listed, quoted

__all__ = ["Raw", "Request", "open_raw", "read_json_mapping"]


@dataclass
class Raw:
    """Names and tensors as stored, and what accompanies them.

    Attributes:
        path: the file that was read, or the folder.
        state: the entries.
        metadata: of the header, for a file in one of our formats.
        run: for a checkpoint of a training of ours, everything but its weights.
        class_names: as OpenMMLab stores them.
        text: configuration as text, as OpenMMLab stores it.
        config: ``config.json`` of a folder.
        preprocessor: ``preprocessor_config.json`` of a folder.
        notes: what to know about how it was read.
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
    """What the user wants to read.

    Attributes:
        source: the file or folder, for messages.
        recipe: the published model that it contains or is made like.
        tasks: what the model was trained for.
        weights: which of several sets of weights in a file: the entry that contains it, for instance ``model_ema``.
        backbone: timm backbone, for files that contain its weights without saying so.
    """

    source: str
    recipe: str | None = None
    tasks: Sequence[Task] = ()
    weights: str | None = None
    backbone: TimmConfig | None = None


def open_raw(path: Path, request: Request) -> Raw:
    """The content of the file or folder.

    Raises:
        UserError: it does not exist, has no weights, or is damaged, incomplete or too large.
    """
    if os.path.isdir(path):
        if (path / "config.json").is_file() and not _is_ours(path / WEIGHTS):
            _check_one_set(request)
            return _opened_folder(path)
        if not (path / WEIGHTS).is_file():
            found = listed(sorted(os.listdir(path)), 5) or "nothing"
            raise UserError(
                f"{path}: a folder must contain {WEIGHTS}, or config.json beside weights; it contains {found}"
            )
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
    """Whether it is a safetensors file written by this library."""
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
    """The first bytes, after refusing what is certainly not a checkpoint."""
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
            f"{path}: is an exported model (ONNX or OpenVINO), which only predict, track and evaluate can "
            "run; use the model that it was exported from"
        )
    if head.lstrip()[:1] == b"<":
        raise UserError(f"{path}: is a web page, not weights; the download went wrong, fetch it again")
    if head.lstrip()[:1] in (b"{", b"[") or path.suffix.lower() in (".json", ".yaml", ".yml"):
        raise UserError(
            f"{path}: is JSON or YAML, not weights; expected .safetensors, .pth or .pkl, for instance the "
            "model.safetensors of a run"
        )
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: is a Git LFS pointer, not weights; fetch the file itself with 'git lfs pull'")
    return head


def _is_exported(head: bytes) -> bool:
    """Whether a file begins like those of OpenVINO or ONNX, as no pickle does."""
    return re.match(rb"\s*<\?xml[^>]*>\s*<net\s|\x08[\x01-\x20][\x12\x1a\x22\x28\x32\x3a\x42]", head) is not None


def _check_format(path: Path, metadata: Mapping[str, str]) -> None:
    version = metadata.get("format_version", "")
    if not version.isdecimal() or len(version) > 9 or int(version) > FORMAT_VERSION:
        raise UserError(
            f"{path}: format version is {quoted(version, 20)}; this library reads up to {FORMAT_VERSION}, so install "
            "a newer one"
        )


def _check_nothing_given(request: Request) -> None:
    given = "the tasks" if request.tasks else None if request.recipe is None else f"recipe '{request.recipe}'"
    if given is not None:
        raise UserError(f"includes its own configuration; leave out {given}")


def _check_one_set(request: Request) -> None:
    if request.weights is not None:
        raise OptionError(lambda name: f"contains one set of weights; leave out {name('weights')}")


def _select(payload: Any, raw: Raw, request: Request) -> dict[Any, Any]:
    """The mapping of names to arrays, wherever a code base puts it; what accompanies it is stored in ``raw``."""
    if not isinstance(payload, dict):
        raise UserError(f"contains a {type(payload).__name__}; expected a mapping of names to arrays")
    run = payload.get("run")
    if isinstance(run, dict) and isinstance(payload.get("state_dict"), dict):
        _check_nothing_given(request)
        raw.run = {name: payload.get(name) for name in ("instance_threshold", "class_thresholds")} | run
        return _select_of_run(payload, raw, request)
    meta = payload.get("meta")
    if isinstance(meta, dict):
        raw.text = next((meta[key] for key in ("cfg", "config") if isinstance(meta.get(key), str)), None)
    for facts in (meta.get("dataset_meta"), meta) if isinstance(meta, dict) else ():
        found = next((facts[key] for key in ("classes", "CLASSES") if key in facts), None) \
            if isinstance(facts, dict) else None  # fmt: skip
        if isinstance(found, list | tuple) and found and all(isinstance(name, str) for name in found):
            raw.class_names = raw.class_names or tuple(found)
    mapping, told = weights_of(payload, is_known, request.weights)
    raw.notes += [told] if told else []
    return mapping


def _select_of_run(payload: dict[Any, Any], raw: Raw, request: Request) -> dict[Any, Any]:
    """The weights in a checkpoint of a training of ours: averaged ones if there are any, like those of its result."""
    # Other entries belong to a criterion of one's own, which may have buffers.
    entries = {str(name): value for name, value in payload["state_dict"].items()}
    plain = {name.removeprefix("model."): value for name, value in entries.items() if name.startswith("model.")}
    average = payload.get("average")
    values = average.get("values") if isinstance(average, dict) else None
    sets = {"average": {**plain, **values}, "state_dict": plain} if isinstance(values, dict) else {"state_dict": plain}
    if request.weights is not None:
        return wanted(sets, request.weights)
    if len(sets) > 1:
        raw.notes.append("the averaged weights of the training are used; the others are its set 'state_dict'")
    return next(iter(sets.values()))


def _opened_folder(path: Path) -> Raw:
    """A folder of transformers."""
    config = read_json_mapping(path / "config.json")
    preprocessor = path / "preprocessor_config.json"
    state: dict[str, Tensor] = {}
    for part in _weight_files(path):
        if not part.is_file():
            raise UserError(f"{part}: no such file; the folder is incomplete, fetch it again")
        found = _entries(part) if part.suffix == ".safetensors" else restricted_pickle.read_state(part)
        if twice := state.keys() & found.keys():
            raise UserError(f"{part}: {quoted(min(twice))} is also in another file of the folder")
        state.update(found)
    return Raw(
        path, state, config=config, preprocessor=read_json_mapping(preprocessor) if preprocessor.is_file() else {}
    )


def _entries(path: Path) -> dict[str, Tensor]:
    with open_safetensors(path) as file:
        return entries_of(file, path)


def _weight_files(path: Path) -> list[Path]:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return [path / name]
        index = path / f"{name}.index.json"
        if index.is_file():
            parts = read_json_mapping(index).get("weight_map")
            if not isinstance(parts, dict) or not parts:
                raise UserError(f"{index}: expected a 'weight_map' of names to files")
            for part in parts.values():
                if not isinstance(part, str) or Path(part).name != part or Path(part).suffix not in (
                    ".safetensors", ".bin"
                ):  # fmt: skip
                    raise UserError(f"{index}: {quoted(part)} is not a file of weights in this folder")
            return [path / part for part in sorted(set(parts.values()))]
    raise UserError(f"{path}: expected model.safetensors or pytorch_model.bin beside config.json")


def read_json_mapping(path: Path) -> dict[str, Any]:
    """A JSON file in a folder of weights.

    Raises:
        UserError: it cannot be read, or contains something other than a mapping.
    """
    values = parse_json(
        read_bytes(path, "configuration", limits.CONFIG_BYTES, hint="fetch the folder again"), str(path)
    )
    if not isinstance(values, dict):
        raise UserError(f"{path}: contains a {type(values).__name__}; expected a mapping")
    return values
