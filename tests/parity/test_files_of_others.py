"""Files as other code bases write them, with the names, shapes and types of published models and random values.

The names come from the published maps and the permutations from their description, not from the tables under test.
``pytest -m slow tests/parity/test_files_of_others.py`` takes half a minute per row and up to 3 GB of memory.
"""

from __future__ import annotations

import gzip
import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mask2former import recipes
from mask2former.checkpoints.compare_transformers import compare_with_transformers
from mask2former.checkpoints.convert import Target, convert
from mask2former.checkpoints.formats.huggingface import config_of
from mask2former.checkpoints.formats.original import recipe_categories, to_original
from mask2former.models.backbones.swin import relative_position_index
from mask2former.models.mask2former import Mask2Former
from mask2former.notes import collect_notes
from mask2former.structures import ModelInfo

KEYMAPS: dict[str, Any] = json.loads(
    gzip.decompress((Path(__file__).parents[1] / "data" / "keymaps.json.gz").read_bytes())
)


def values(model: str) -> OrderedDict[str, Tensor]:
    """The entries of a published file."""
    generator = torch.Generator().manual_seed(3)
    state: OrderedDict[str, Tensor] = OrderedDict()
    for row in KEYMAPS[model]:
        name, shape = row["official"], row["shape"]
        if name.endswith("relative_position_index"):
            state[name] = relative_position_index(7)
        elif name == "criterion.empty_weight":
            state[name] = torch.cat([torch.ones(shape[0] - 1), torch.full((1,), 0.1)])
        else:
            state[name] = 0.02 * torch.randn(shape, generator=generator)
            if name.endswith(("running_var", "norm.weight")):
                state[name] += 1
    return state


def unfolded(value: Tensor) -> Tensor:
    """A weight for patches that are merged channel by channel, columns of a 2x2 block after rows."""
    rows = value.reshape(-1, 4, value.shape[-1] // 4)[:, [0, 2, 1, 3], :]
    return rows.transpose(1, 2).reshape(value.shape).contiguous()


def theirs(model: str, column: str, spell: Callable[[str], str]) -> OrderedDict[str, Tensor]:
    state: OrderedDict[str, Tensor] = OrderedDict()
    official = values(model)
    for row in KEYMAPS[model]:
        value, names = official[row["official"]], row[column]
        if names is None:
            continue
        if "permutation" in row["note"] and column in ("mmdet3", "ssseg"):
            value = unfolded(value)
        names = [names] if isinstance(names, str) else names
        for name, part in zip(names, value.chunk(len(names)) if len(names) > 1 else [value], strict=True):
            state[spell(name)] = part.clone()
        if row["official"].endswith("running_var") and column != "official":
            state[spell(names[0]).replace("running_var", "num_batches_tracked")] = torch.zeros((), dtype=torch.int64)
    return state


def of_2(name: str) -> str:
    """The name of an entry in mmdetection 2.x."""
    part = "encoder" if ".encoder." in name else "decoder" if ".transformer_decoder." in name else ""
    if part == "encoder":
        name = name.replace(".self_attn.", ".attentions.0.")
    if part == "decoder":
        name = name.replace(".cross_attn.attn.", ".attentions.0.attn.").replace(
            ".self_attn.attn.", ".attentions.1.attn."
        )
    return name.replace(".ffn.", ".ffns.0.") if part else name


def of_mmseg(name: str) -> str:
    return name.replace("panoptic_head.", "decode_head.")


def of_5(name: str) -> str:
    """The name of an entry in memory with transformers 5.x."""
    name = name.replace("pixel_level_module.encoder.e", "pixel_level_module.encoder.swin.e")
    if ".encoder.swin." not in name:
        return name
    for old, new in {
        "attention.self.query": "attention.q_proj",
        "attention.self.key": "attention.k_proj",
        "attention.self.value": "attention.v_proj",
        "attention.self.relative": "attention.relative_position_bias.relative",
        "attention.output.dense": "attention.o_proj",
        "intermediate.dense": "mlp.fc1",
        ".output.dense": ".mlp.fc2",
    }.items():
        name = name.replace(old, new)
    return name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "column", "spell", "target", "recipe"),
    [
        ("swin_tiny", "official", str, "original", "coco-panoptic/swin-t"),
        ("r50", "official", str, "original", "coco-panoptic/r50"),
        ("swin_tiny", "hf", str, "huggingface", "coco-panoptic/swin-t"),
        ("swin_tiny", "hf", of_5, None, "coco-panoptic/swin-t"),
        ("swin_tiny", "mmdet3", str, "mmdet", "mmdet/coco-panoptic/swin-t"),
        ("r50", "mmdet3", str, "mmdet", "mmdet/coco-panoptic/r50"),
        ("swin_tiny", "mmdet3", of_2, None, "mmdet/coco-panoptic/swin-t"),
        ("swin_tiny", "mmdet3", of_mmseg, "mmseg", "coco-panoptic/swin-t"),
        ("r50", "mmdet3", lambda name: of_mmseg(of_2(name)), None, "coco-panoptic/r50"),
        ("swin_tiny", "ssseg", str, "ssseg", "coco-panoptic/swin-t"),
    ],
)
def test_published_files_load_as_they_are_and_come_back(
    tmp_path: Path, model: str, column: str, spell: Callable[[str], str], target: Target | None, recipe: str
) -> None:
    path, state, categories = tmp_path / "theirs.pth", theirs(model, column, spell), recipe_categories(recipe)
    if column == "hf":
        path = tmp_path / "theirs"
        path.mkdir()
        save_file({name: value.contiguous() for name, value in state.items()}, path / "model.safetensors")
        config = config_of(ModelInfo.of(recipes.recipe(recipe).model, categories))
        (path / "config.json").write_text(json.dumps({**config, "mask2former": None}))
    elif column == "mmdet3":
        meta = {"dataset_meta": {"classes": categories.names}, "epoch": 50}
        torch.save({"meta": meta, "state_dict": state, "message_hub": {}}, path)
    else:
        torch.save({"model": state, "cur_epoch": 1}, path)
    with collect_notes() as notes:
        loaded = Mask2Former.from_pretrained(path)
    assert f"settings and classes are those of {recipe}, the published model that fits" in str(notes)

    expected = values(model)
    got = to_original(loaded)
    assert got.keys() == expected.keys()
    assert all(value.dtype == got[name].dtype and torch.equal(value, got[name]) for name, value in expected.items())
    if column == "hf":
        assert compare_with_transformers(loaded, path) is not None
    if target is not None:
        back = convert(path, tmp_path / ("back" if column == "hf" else "back.pth"), target, verify=False).path
        again: dict[str, Any] = load_file(back / "model.safetensors") if column == "hf" else torch.load(back)
        again = again.get("state_dict", again.get("model", again))
        written = {name: value for name, value in state.items() if not name.endswith("relative_position_index")}
        again = {name: value for name, value in again.items() if not name.endswith("relative_position_index")}
        assert again.keys() == written.keys()
        assert all(
            value.dtype == again[name].dtype and torch.equal(value, again[name]) for name, value in written.items()
        )
