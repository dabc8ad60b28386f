"""A model of each provider and task by name: downloaded from a server, with its logits and its recipe's settings.

The files are small, but have the layout, names, classes and settings of the published ones, whose rows in the zoo they
replace.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import torch
from conversions import RESNET, SWIN
from web import Server, serve

from mask2former import checkpoints, recipes
from mask2former.checkpoints.formats.original import recipe_categories
from mask2former.checkpoints.targets import Target, write
from mask2former.config import ModelConfig
from mask2former.models.build import build_model
from mask2former.models.mask2former import Mask2Former
from mask2former.recipes import Recipe

NAMES: dict[str, Target] = {
    "coco-panoptic/swin-t": "original",
    "coco-instance/swin-t": "original",
    "ade20k-semantic/swin-t": "original",
    "ytvis2019-instance/swin-t": "original",
    "mmdet/coco-panoptic/swin-t": "mmdet",
    "mmdet/coco-instance/r50": "mmdet",
    "mmseg/cityscapes-semantic/r50": "mmseg",
    "mmseg/ade20k-semantic/swin-t": "mmseg",
    "ssseg/ade20k-semantic/swin-t": "ssseg",
}
LICENSES = {"official": "CC BY-NC 4.0", "mmdet": "Apache-2.0", "mmseg": "Apache-2.0", "ssseg": "not stated"}


def small(recipe: Recipe) -> Recipe:
    """The recipe with a model of a thousandth of its size."""
    config = recipe.model
    sizes = {"dim": 32, "feedforward_dim": 32, "num_layers": 1}
    model = ModelConfig(
        backbone=RESNET.model_copy(update={"norm": getattr(config.backbone, "norm", "")})
        if config.backbone.name == "timm"
        else SWIN,
        pixel_decoder=config.pixel_decoder.model_copy(update={**sizes, "mask_dim": 32}),
        transformer_decoder=config.transformer_decoder.model_copy(update={**sizes, "num_queries": 10}),
        inference=config.inference,
    )
    return replace(recipe, model=model)


def logits_of(model: Mask2Former, *, is_clip: bool) -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.rand((2, 3, 64, 64) if is_clip else (3, 64, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = model.eval()([255 * image], aux_outputs=False)
    return output.class_logits, output.mask_logits


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MASK2FORMER_ZOO", str(tmp_path / "zoo.json"))
    monkeypatch.setenv("MASK2FORMER_CACHE", str(tmp_path / "cache"))
    for name in ("MASK2FORMER_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    known = recipes.recipe
    monkeypatch.setattr(recipes, "recipe", lambda slug: small(known(slug)))
    (tmp_path / "web").mkdir()
    with serve(tmp_path / "web") as server:
        yield server


# A ResNet of the published widths is a file of 50 MB that is written, served and compared; all have others.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name.endswith("r50") else []) for name in NAMES]
)
def test_a_model_of_every_provider_loads_by_name(
    name: str, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = json.loads(resources.files("mask2former").joinpath("assets", "zoo.json").read_text())
    (row,) = (row for row in table["models"] if row["name"] == name)
    recipe = recipes.recipe(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(recipe.model, len(recipe_categories(name)))
    model.categories = recipe_categories(name)
    written = tmp_path / "web" / f"written{Path(row['file']).suffix}"
    write(model, written, NAMES[name])
    content = written.read_bytes()
    if row["checksum"] is not None:
        kind, _, digits = row["checksum"].partition(":")
        found = hashlib.new(kind, content).hexdigest()[: len(digits)]
        row |= {"file": row["file"].replace(digits, found), "checksum": f"{kind}:{found}"}
    written.rename(written.with_name(row["file"]))
    row |= {"url": f"{server.url}/{row['file']}", "num_bytes": len(content)}
    (tmp_path / "zoo.json").write_text(json.dumps({**table, "models": [row]}))

    with caplog.at_level(logging.WARNING):
        loaded = Mask2Former.from_pretrained(name)
    expected, actual = (logits_of(one, is_clip=recipe.is_video) for one in (model, loaded))
    assert all(map(torch.equal, expected, actual))
    assert loaded.info.inference == recipe.model.inference
    assert loaded.categories == recipe_categories(name)
    license = loaded.info.license
    assert license is not None
    assert license == LICENSES[row["provider"]]
    (told,) = (message for message in caplog.messages if "weights of" in message)
    assert ("not for commercial use" in told) == (row["provider"] == "official")
    assert license in told
    unverified = [message for message in caplog.messages if "nothing published verifies" in message]
    assert len(unverified) == (row["provider"] == "ssseg")

    checkpoints.open_checkpoint(name)
    assert len(server.requests) == 1
    loaded.save_pretrained(tmp_path / "mine.safetensors")
    assert checkpoints.open_checkpoint(tmp_path / "mine.safetensors").info.license == license
