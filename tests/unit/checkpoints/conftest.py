"""Small models and filled checkpoints in the published layout."""

from __future__ import annotations

import copy
import gzip
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mask2former import recipes
from mask2former.config import (
    InferenceConfig,
    MaskedDecoderConfig,
    ModelConfig,
    MSDeformAttnConfig,
    SwinConfig,
)
from mask2former.models.backbones.swin import relative_position_index
from mask2former.models.build import build_model
from mask2former.models.mask2former import Mask2Former
from mask2former.structures import Categories

TESTS = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def fill() -> ModuleType:
    """The module that makes deterministic parameter values, shared with the parity tests."""
    spec = importlib.util.spec_from_file_location("fill", TESTS / "parity" / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Published:
    """Writes files in the published layout for a recipe."""

    def __init__(self, fill: ModuleType, tables: dict[str, Any]) -> None:
        self._fill, self._tables = fill, tables

    def table(self, slug: str) -> dict[str, Any]:
        return self._tables["tables"][self._tables["configs"][recipes.recipe(slug).reproduces]]

    def write(self, slug: str, path: Path, *, legacy_names: bool = False) -> Path:
        table = self.table(slug)
        window = getattr(recipes.recipe(slug).model.backbone, "window_size", 1)
        index = relative_position_index(window).numpy()
        indices = {name: index for name in table if name.endswith("relative_position_index")}
        self._fill.write_checkpoint(table, path, integer_entries=indices, legacy_names=legacy_names)
        return path


@pytest.fixture(scope="session")
def published(fill: ModuleType) -> Published:
    return Published(fill, json.loads(gzip.decompress((TESTS / "data" / "state_dicts.json.gz").read_bytes())))


@pytest.fixture(scope="session")
def r50_file(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = published.write("coco-panoptic/r50", tmp_path_factory.mktemp("r50") / "r50.pkl")
    yield path
    path.unlink()


@pytest.fixture
def tiny_model(built_model: Mask2Former) -> Mask2Former:
    """A tiny model with a Swin backbone and three classes."""
    return copy.deepcopy(built_model)


@pytest.fixture(scope="session")
def built_model() -> Mask2Former:
    """The model that every test gets a copy of, since copying takes a sixth of the time of building."""
    torch.manual_seed(0)
    config = ModelConfig(
        backbone=SwinConfig(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=3),
        pixel_decoder=MSDeformAttnConfig(dim=32, mask_dim=32, num_layers=1, num_heads=4, feedforward_dim=32),
        transformer_decoder=MaskedDecoderConfig(dim=32, num_queries=5, num_layers=2, num_heads=4, feedforward_dim=32),
        inference=InferenceConfig(tasks=("panoptic",), short_edge=64, long_edge=96, score_threshold=0.25),
        init="somewhere.pkl",
    )
    model = build_model(config, 3)
    model.categories = Categories.from_names(["sky", "cat", "dog"], things=["cat", "dog"])
    return model
