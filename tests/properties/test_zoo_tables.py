"""Every published state dict matches our model: names, order, shapes, dtypes, trained or not, and counts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mask2former import recipes
from mask2former.checkpoints import load_into
from mask2former.checkpoints.formats import original
from mask2former.models.build import build_model
from mask2former.structures import ModelInfo

TABLES: dict[str, Any] = json.loads(
    gzip.decompress((Path(__file__).parents[1] / "data" / "state_dicts.json.gz").read_bytes())
)

# Trainable parameters: ResNets with frozen norms unless the recipe trains them (then the second number is added).
COUNTS = {
    "coco-panoptic": (43_983_878, 62_923_782, 47_435_264, 68_753_168, 106_917_822, 215_535_610),
    "coco-instance": (43_970_257, 62_910_161, 47_421_643, 68_739_547, 106_904_201, 215_521_989),
    "ade20k-semantic": (43_988_247, 62_928_151 + 105_344, 47_439_633, 68_757_537, 106_922_191, 215_488_779),
    "cityscapes-semantic": (
        43_954_580 + 53_120,
        62_894_484 + 105_344,
        47_405_966,
        68_723_870,
        106_888_524,
        215_455_112,
    ),
}
BACKBONES = ("r50", "r101", "swin-t", "swin-s", "swin-b-in21k", "swin-l")


@pytest.mark.parametrize("slug", recipes.recipe_names("official"))
def test_published_table_is_our_model(slug: str) -> None:
    recipe = recipes.recipe(slug)
    table = TABLES["tables"][TABLES["configs"][recipe.reproduces]]
    with torch.device("meta"):
        model = build_model(recipe.model, len(original.recipe_categories(slug)))
    assert model.info == ModelInfo.of(recipe.model)
    assert all(parameter.is_meta for parameter in model.parameters())
    names = original.original_names(recipe.model)
    assert [published for published, _ in names] == list(table)

    ours = model.state_dict()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    stored = {name: published for published, name in names if name is not None}
    assert stored.keys() == ours.keys()
    for name, published in stored.items():
        entry = table[published]
        assert list(ours[name].shape) == entry["shape"], name
        assert str(ours[name].dtype) == f"torch.{entry['dtype']}", name
        assert (name in trained) == (entry.get("kind") != "buffer"), name
    for published, name in names:
        if name is None:
            assert table[published]["kind"] == "buffer"

    family, _, backbone = slug.partition("/")
    if family in COUNTS and backbone in BACKBONES:
        count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        assert count == COUNTS[family][BACKBONES.index(backbone)]

    # The same names and shapes lead back to the recipe, and fill the model without a report.
    state = {
        published: torch.empty(entry["shape"], dtype=getattr(torch, entry["dtype"]), device="meta")
        for published, entry in table.items()
    }
    assert slug in original.matching_recipes(original.infer_architecture(state))
    assert load_into(model, original.from_original(state), slug) == []
