"""Published names of MaskFormer and the per-pixel baselines: the seven published tables, both ways."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mask2former.checkpoints.formats.huggingface import Preparation
from mask2former.checkpoints.formats.original import (
    ORIGINAL,
    Architecture,
    from_original,
    infer_architecture,
    is_original,
    original_names,
    recipe_architecture,
    to_original,
)
from mask2former.checkpoints.purpose import settled
from mask2former.checkpoints.raw import Request
from mask2former.config import (
    ArchitectureConfig,
    FPNConfig,
    MaskedDecoderConfig,
    PerPixelConfig,
    PerPixelPlusConfig,
    StandardDecoderConfig,
    Task,
    TransformerFPNConfig,
)
from mask2former.errors import UserError
from mask2former.models.build import build_skeleton

TABLES: dict[str, Any] = json.loads(
    gzip.decompress((Path(__file__).parents[3] / "data" / "state_dicts.json.gz").read_bytes())
)
FPN, ENCODER = FPNConfig(), TransformerFPNConfig(num_layers=2)
EARLY = StandardDecoderConfig(num_layers=2, num_encoder_layers=1, pre_norm=True, source="res4")
CONFIGS = {
    "masked_decoder_fpn": (FPN, MaskedDecoderConfig()),
    "masked_decoder_transformer_encoder_prenorm": (
        TransformerFPNConfig(num_layers=2, pre_norm=True),
        MaskedDecoderConfig(num_layers=3, project_inputs=True),  # entries do not show pre_norm
    ),
    "standard_decoder_fpn": (FPN, StandardDecoderConfig()),
    "standard_decoder_transformer_encoder": (ENCODER, StandardDecoderConfig(source="encoder")),
    "standard_decoder_prenorm_encoder_pixel_embedding": (FPN, EARLY),
    "per_pixel_baseline": (FPN, PerPixelConfig()),
    "per_pixel_baseline_plus": (ENCODER, PerPixelPlusConfig(num_layers=3)),
}


def config_of(case: str) -> ArchitectureConfig:
    pixels, decoder = CONFIGS[case]
    return ArchitectureConfig(pixel_decoder=pixels, transformer_decoder=decoder)


def state_of(case: str) -> dict[str, Tensor]:
    table = TABLES["extra"][case]["table"]
    rows = TABLES["tables"][table] if isinstance(table, str) else table
    return {name: torch.empty(row["shape"], device="meta") for name, row in rows.items()}


@pytest.mark.parametrize("case", CONFIGS)
def test_names_and_shapes_are_the_published_ones_in_their_order(case: str) -> None:
    model = build_skeleton(config_of(case), 150)
    assert model is not None
    written, published = to_original(model), state_of(case)
    assert [(name, value.shape) for name, value in written.items()] == [
        (name, value.shape) for name, value in published.items()
    ]
    assert from_original(published).keys() == model.state_dict().keys()


@pytest.mark.parametrize("case", CONFIGS)
def test_the_architecture_is_read_from_names_and_shapes(case: str) -> None:
    state = state_of(case)
    assert is_original(state)
    found = infer_architecture(state)
    assert found == Architecture(config_of(case), 150)
    others = [other for other in CONFIGS if found.fits(Architecture(config_of(other), 150))]
    assert others == [case]


def test_older_files_have_the_pixel_decoder_below_the_head() -> None:
    state = {name.replace(".pixel_decoder.", "."): value for name, value in state_of("standard_decoder_fpn").items()}
    found = infer_architecture(state)
    assert found == Architecture(config_of("standard_decoder_fpn"), 150)
    names = {ours for _, ours in original_names(found.model) if ours is not None}
    assert from_original(state).keys() == names
    assert str(found) == "resnet50 with frozen norms, fpn, standard, 100 queries, 150 classes"


@pytest.mark.parametrize("tasks", [["semantic"], ["panoptic"]])
def test_published_files_are_of_their_recipes_or_of_the_tasks_that_are_given(tasks: list[Task]) -> None:
    slug = "maskformer/ade20k-semantic/r50"
    found = infer_architecture(state_of("standard_decoder_fpn"))
    assert recipe_architecture(slug).fits(found)
    assert not recipe_architecture("maskformer/ade20k-panoptic/r50").fits(found)
    config, categories, _ = settled(found, ORIGINAL, None, Preparation(), None, Request("x", slug))
    assert (config.transformer_decoder, len(categories)) == (StandardDecoderConfig(), 150)
    with pytest.raises(UserError, match="no published model fits; give tasks"):
        settled(found, ORIGINAL, None, Preparation(), None, Request("x"))
    pixels = infer_architecture(state_of("per_pixel_baseline"))
    if tasks == ["semantic"]:
        config, _, _ = settled(pixels, ORIGINAL, None, Preparation(), None, Request("x", None, tasks))
        assert (config.transformer_decoder, config.inference.tasks) == (PerPixelConfig(), ("semantic",))
    else:
        with pytest.raises(UserError, match="classifies pixels; give the task semantic, not panoptic"):
            settled(pixels, ORIGINAL, None, Preparation(), None, Request("x", None, tasks))


def test_what_classifies_pixels_has_no_weights_of_classes_and_no_queries() -> None:
    found = infer_architecture(state_of("per_pixel_baseline_plus"))
    assert str(found) == "resnet50 with frozen norms, transformer-fpn, per-pixel-plus, 150 classes"
    assert "criterion.empty_weight" not in dict(original_names(found.model))
