"""Damaged and hostile files of every format: each loads or gives one clear error, in little time and memory.

By default every kind of file is damaged a few dozen times; with ``pytest -m slow``, 500 times each.
"""

from __future__ import annotations

import copy
import json
import pickle
import random
import resource
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mask2former import checkpoints
from mask2former.checkpoints.checkpoint import Checkpoint
from mask2former.checkpoints.convert import Target, convert
from mask2former.checkpoints.formats import original
from mask2former.checkpoints.load import read
from mask2former.checkpoints.purpose import UndecidedError
from mask2former.config import (
    InferenceConfig,
    MaskedDecoderConfig,
    ModelConfig,
    MSDeformAttnConfig,
    SwinConfig,
    Task,
    TimmConfig,
)
from mask2former.errors import UserError
from mask2former.models.build import build_model
from mask2former.structures import Categories

FEW, MANY = 20, 500
MOST_SECONDS = 20.0  # for one file; usually some hundredths of a second, but the machine may be busy
MOST_MEMORY = 400 << 20  # bytes by which damaged files may raise the peak
# Lengths, counts and indices that a damaged header may claim.
CLAIMS = [b"\xff" * 8, b"\xff\xff\xff\x7f", b"\x00" * 8, struct.pack("<Q", 1 << 40), struct.pack("<I", 1 << 31)]
ODD = [
    None,
    -1,
    0,
    1e308,
    float("inf"),
    10**30,
    "9" * 5000,
    True,
    "",
    "x" * 5000,
    [],
    {},
    [[[[]]]],
    float("nan"),
    {"a": {"b": 1}},
    "../../etc",
]


def bytes_damaged(data: bytes, draw: random.Random) -> bytes:
    """Make one to three changes, half of them near the beginning, where the structure is."""
    for _ in range(draw.randint(1, 3)):
        index = draw.randrange(min(len(data), 3000) if draw.random() < 0.5 else len(data))
        length = draw.choice((1, 1, 2, 4, 8, 64, 1000))
        kind = draw.randrange(6)
        if kind == 0:
            data = data[:index] + bytes([data[index] ^ 1 << draw.randrange(8)]) + data[index + 1 :]
        elif kind == 1:
            data = data[:index] + draw.randbytes(length) + data[index + length :]
        elif kind == 2:
            data = data[:index] + data[index + length :]
        elif kind == 3:
            data = data[:index] + data[max(0, index - length) : index] + data[index:]
        elif kind == 4:
            claim = draw.choice(CLAIMS)
            data = data[:index] + claim + data[index + len(claim) :]
        else:
            data = data[: max(index, 1)]
        data = data or b"\x00"
    return data


def values_damaged(values: Any, draw: random.Random) -> None:
    """Replace an entry somewhere in a JSON tree by an odd value, or delete it."""
    while True:
        inner = [value for value in (values.values() if isinstance(values, dict) else values)
                 if isinstance(value, dict | list) and value]  # fmt: skip
        if not inner or draw.random() < 0.4:
            break
        values = draw.choice(inner)
    if not values:
        return
    key = draw.choice(list(values) if isinstance(values, dict) else range(len(values)))
    if isinstance(values, dict) and draw.random() < 0.2:
        del values[key]
    else:
        values[key] = copy.deepcopy(draw.choice(ODD))


def json_damaged(data: bytes, draw: random.Random) -> bytes:
    if draw.random() < 0.3:
        return bytes_damaged(data, draw)
    values = json.loads(data)
    for _ in range(draw.randint(1, 2)):
        values_damaged(values, draw)
    return json.dumps(values).encode()


def header_damaged(data: bytes, draw: random.Random) -> bytes:
    """Damage bytes of a safetensors file, or an entry of its JSON header or of the configuration in it."""
    if draw.random() < 0.4:
        return bytes_damaged(data, draw)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    facts = header.get("__metadata__", {})
    inside = [key for key in ("config", "categories", "backbone") if key in facts]
    if inside and draw.random() < 0.6:
        key = draw.choice(inside)
        values = json.loads(facts[key])
        values_damaged(values, draw)
        facts[key] = json.dumps(values)
    else:
        values_damaged(header, draw)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


Damage = Callable[[bytes, random.Random], bytes]


def smallest() -> Any:
    """A model of some ten thousand parameters, whose files are read quickly."""
    config = ModelConfig(
        backbone=SwinConfig(embed_dim=2, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), window_size=2),
        pixel_decoder=MSDeformAttnConfig(dim=32, mask_dim=4, num_layers=1, feedforward_dim=4),
        transformer_decoder=MaskedDecoderConfig(dim=32, num_queries=2, num_layers=1, feedforward_dim=4),
        inference=InferenceConfig(tasks=("panoptic",)),
    )
    model = build_model(config, 2)
    model.categories = Categories.from_names(["sky", "cat"], things=["cat"])
    return model


def written(folder: Path) -> dict[str, tuple[Path, str, Damage]]:
    """For each format: the path to read, the file in it to damage, and the function that damages it."""
    model = smallest()
    ours = folder / "ours.safetensors"
    checkpoints.save_pretrained(model, ours)
    formats: dict[str, tuple[Path, str, Damage]] = {"ours": (ours, "", header_damaged)}
    targets: dict[str, Target] = {"original.pkl": "original", "original.pth": "original", "mmdet.pth": "mmdet",
                                  "ssseg.pth": "ssseg", "transformers": "huggingface"}  # fmt: skip
    for name, target in targets.items():
        convert(ours, folder / name, target, verify=False)
        if target != "huggingface":
            formats[name] = (folder / name, "", bytes_damaged)
    transformers = folder / "transformers"
    formats["transformers, weights"] = (transformers, "model.safetensors", header_damaged)
    formats["transformers, config"] = (transformers, "config.json", json_damaged)
    formats["transformers, preprocessor"] = (transformers, "preprocessor_config.json", json_damaged)
    published = original.to_original(model)
    torch.save({"model": published}, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    formats["legacy.pth"] = (folder / "legacy.pth", "", bytes_damaged)
    swin = {name.removeprefix("backbone."): value for name, value in published.items()
            if name.startswith("backbone.") and not name.startswith("backbone.norm")}  # fmt: skip
    torch.save({"model": swin}, folder / "swin.pth")
    formats["swin.pth"] = (folder / "swin.pth", "", bytes_damaged)
    convert(folder / "swin.pth", folder / "backbone.safetensors")
    formats["backbone"] = (folder / "backbone.safetensors", "", header_damaged)
    save_file(swin, folder / "swin.safetensors")
    formats["swin.safetensors"] = (folder / "swin.safetensors", "", header_damaged)
    names = [name.removeprefix("backbone.") for name, _ in original.backbone_names(TimmConfig())]
    arrays = {name: np.ones((2, 3, 1, 1), np.float32) for name in names}
    (folder / "R-50.pkl").write_bytes(pickle.dumps({"model": arrays}, protocol=2))
    formats["R-50.pkl"] = (folder / "R-50.pkl", "", bytes_damaged)
    binary = folder / "binary"
    shutil.copytree(transformers, binary)
    (binary / "model.safetensors").unlink()
    state = load_file(transformers / "model.safetensors")
    torch.save(state, binary / "pytorch_model-1-of-1.bin")
    parts = {"weight_map": dict.fromkeys(state, "pytorch_model-1-of-1.bin")}
    (binary / "pytorch_model.bin.index.json").write_text(json.dumps(parts))
    formats["transformers, bin"] = (binary, "pytorch_model-1-of-1.bin", bytes_damaged)
    formats["transformers, index"] = (binary, "pytorch_model.bin.index.json", json_damaged)
    return formats


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str, Damage]]:
    return written(tmp_path_factory.mktemp("formats"))


FORMATS = ["ours", "original.pkl", "original.pth", "legacy.pth", "mmdet.pth", "ssseg.pth", "transformers, weights",
           "transformers, config", "transformers, preprocessor", "transformers, bin", "transformers, index",
           "swin.pth", "swin.safetensors", "backbone", "R-50.pkl"]  # fmt: skip


def load_all_of_it(path: Path) -> None:
    if path.name == "backbone.safetensors":
        read(path)
        return
    found = None
    attempts: tuple[tuple[Task, ...], ...] = ((), ("panoptic",))
    for tasks in attempts:  # what a user tries next when told to name the task
        try:
            found = read(path, tasks=tasks)
            break
        except UserError as error:
            if not isinstance(error, UndecidedError):
                raise
    assert found is not None
    if isinstance(found.content, Checkpoint):
        checkpoints.instantiate(found.content)


def outcomes(formats: dict[str, tuple[Path, str, Damage]], name: str, count: int, folder: Path) -> dict[str, int]:
    source, part, damage = formats[name]
    pristine = (source / part if part else source).read_bytes()
    copy = folder / source.name
    if part:
        shutil.copytree(source, copy)
    target = copy / part if part else copy
    draw = random.Random(name)
    ends = {"loaded": 0, "refused": 0}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index in range(count):
        target.write_bytes(damage(pristine, draw))
        began = time.monotonic()
        message = None
        try:
            load_all_of_it(copy)
        except UserError as error:
            message = str(error)
        ends["loaded" if message is None else "refused"] += 1
        assert message is None or (str(copy) in message and len(message) < 3000), f"{name}, {index}: {message!s:.500}"
        assert time.monotonic() - began < MOST_SECONDS, f"{name}, change {index}"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) << 10
    assert grown < MOST_MEMORY, f"{name}: {grown >> 20} MiB"
    return ends


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(formats: dict[str, tuple[Path, str, Damage]], name: str, tmp_path: Path) -> None:
    ends = outcomes(formats, name, FEW, tmp_path)
    assert ends["refused"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_many_damaged_files(formats: dict[str, tuple[Path, str, Damage]], name: str, tmp_path: Path) -> None:
    ends = outcomes(formats, name, MANY, tmp_path)
    assert ends["refused"] > 0


def test_the_files_are_good_before(formats: dict[str, tuple[Path, str, Damage]]) -> None:
    """Without damage, files of all formats can be loaded; otherwise errors of damaged ones would prove nothing."""
    assert sorted(formats) == sorted(FORMATS)
    for source, _, _ in formats.values():
        load_all_of_it(source)
