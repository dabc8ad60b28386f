"""The description of a model in files."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mask2former.checkpoints import format_version
from mask2former.config import ArchitectureConfig, InferenceConfig, ModelConfig
from mask2former.errors import UserError
from mask2former.structures import Categories, ModelInfo

INFO = ModelInfo(
    ArchitectureConfig(),
    InferenceConfig(tasks=("instance",), short_edge=256),
    Categories.from_names(["cat", "sky"], things=["cat"]),
    "CC BY 4.0",
    {"instance/AP": 12.5},
)


@pytest.mark.parametrize("info", [INFO, replace(INFO, architecture=None), replace(INFO, license=None, metrics={})])
def test_it_comes_back_from_json(info: ModelInfo) -> None:
    values = json.loads(json.dumps(info.to_dict()))
    assert ModelInfo.from_dict(values, "file") == info
    assert info.tasks == ("instance",)


def test_it_is_the_part_of_a_configuration_that_is_no_training() -> None:
    config = ModelConfig(init="somewhere.pkl", init_partial=True, inference=INFO.inference)
    assert ModelInfo.of(config, INFO.categories) == replace(INFO, license=None, metrics={})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": 3}, "file: config: expected a mapping"),
        ({"config": {"architecture": {}, "inference": {}}}, "file: config: 'architecture'"),
        ({"config": {"architecture": None}}, "file: config: 'inference'"),
        ({"categories": {}}, "file: categories: "),
        ({"metrics": {"PQ": 1e9}}, "file: the 'metrics' of its header are not numbers"),
    ],
)
def test_something_else_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelInfo.from_dict({**INFO.to_dict(), **changes}, "file")


def test_what_is_missing_is_told() -> None:
    with pytest.raises(UserError, match="no class names"):
        _ = ModelInfo().known_categories
    with pytest.raises(UserError, match="custom parts, which no configuration describes"):
        _ = ModelInfo().known_architecture


# The settings of the decoder in 0.1.0, which refuses any others.
KNOWN_TO_0_1 = {"name", "dim", "num_queries", "num_layers", "num_heads", "feedforward_dim", "position_encoding"}


@pytest.mark.parametrize(
    ("changes", "is_known"),
    [
        ({}, True),
        ({"transformer_decoder": {"num_queries": 7}}, True),
        ({"transformer_decoder": {"project_inputs": True}}, False),
        ({"transformer_decoder": {"pre_norm": True}}, False),
        ({"pixel_decoder": {"name": "fpn"}}, False),
        ({"transformer_decoder": {"name": "standard"}}, False),
    ],
)
def test_what_0_1_can_build_is_written_as_it_reads_it(changes: dict[str, Any], is_known: bool) -> None:
    info = replace(INFO, architecture=ArchitectureConfig.model_validate(changes))
    written = info.to_dict()
    assert format_version(info) == (1 if is_known else 2)
    if is_known:
        assert written["config"]["transformer_decoder"].keys() <= KNOWN_TO_0_1
    assert ModelInfo.from_dict(written, "file").architecture == info.architecture
