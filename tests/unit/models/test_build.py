"""From a configuration to a model: one error for models that cannot be built, or not at a size."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mask2former.config import MaskedDecoderConfig, ModelConfig, MSDeformAttnConfig, SwinConfig, TimmConfig, parse
from mask2former.errors import UserError
from mask2former.models.build import build_model

SMALL: dict[str, Any] = {
    "backbone": {"name": "timm", "model": "test_resnet"},
    "pixel_decoder": {"dim": 32, "mask_dim": 32, "num_layers": 1, "num_heads": 4, "feedforward_dim": 32},
    "transformer_decoder": {"dim": 32, "num_queries": 5, "num_layers": 1, "num_heads": 4, "feedforward_dim": 32},
}
SWIN = {"name": "swin", "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4]}


def config_of(part: str, **changes: Any) -> ModelConfig:
    return parse(ModelConfig, {**SMALL, part: {**SMALL[part], **changes}}, "run.yaml: model")


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (
            "transformer_decoder",
            {"num_queries": 0},
            "num_queries' is 0; expected a whole number from 1",
        ),
        ("transformer_decoder", {"num_heads": 3}, "dim 32 must be a multiple of num_heads 3"),
        ("transformer_decoder", {"dim": 64}, "pixel_decoder.dim 32 and transformer_decoder.dim 64 must be equal"),
        ("pixel_decoder", {"num_heads": 5}, "dim 32 must be a multiple of num_heads 5"),
        ("backbone", {**SWIN, "model": None}, "unknown key 'backbone.model'; 'backbone' of swin has name, embed_dim"),
        ("backbone", {"model": 3}, "'backbone.model' is 3; expected text"),
    ],
    ids=str,
)
def test_settings_that_fit_no_model(part: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config_of(part, **changes)


def test_swin_has_whole_heads() -> None:
    expected = r"stage 2 has 16 channels \(embed_dim 8, .*must be a multiple of its num_heads 3"
    with pytest.raises(UserError, match=expected):
        parse(ModelConfig, {"backbone": {**SWIN, "num_heads": [1, 3, 2, 4]}}, "run.yaml: model")


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(transformer_decoder=MaskedDecoderConfig(num_queries=1 << 30)),
        ModelConfig(backbone=SwinConfig(window_size=1 << 20)),
    ],
    ids=["queries", "window"],
)
def test_models_beyond_any_memory(config: ModelConfig) -> None:
    small = config.model_copy(update={"backbone": TimmConfig(model="test_resnet")})
    chosen = config if isinstance(config.backbone, SwinConfig) else small
    with pytest.raises(UserError, match=r"a model with this configuration has more than .* numbers"):
        build_model(chosen, 3)


@pytest.mark.parametrize("dim", [32, 64])
def test_an_image_that_leaves_one_value_per_group(dim: int) -> None:
    pixel_decoder = MSDeformAttnConfig(dim=dim, mask_dim=32, num_layers=1, num_heads=4, feedforward_dim=32)
    decoder = MaskedDecoderConfig(dim=dim, num_queries=5, num_layers=1, num_heads=4, feedforward_dim=32)
    backbone = TimmConfig(model="test_resnet")
    torch.manual_seed(0)
    model = build_model(
        ModelConfig(backbone=backbone, pixel_decoder=pixel_decoder, transformer_decoder=decoder), 3
    ).eval()
    images = [torch.zeros(3, 5, 7)]
    with torch.inference_mode():
        if dim == 32:
            with pytest.raises(UserError, match=r"at most 32x32 pixels is too small .*, or dim 64"):
                model(images)
            images *= 2
        assert model(images).mask_logits.shape == (len(images), 5, 1, 8, 8)
