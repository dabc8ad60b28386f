from __future__ import annotations

import torch

from mask2former.checkpoints.initial import Initial
from mask2former.config import MaskedDecoderConfig, ModelConfig, MSDeformAttnConfig, RunConfig, TimmConfig
from mask2former.structures import Categories
from mask2former.training.start import completed, initial_model


def test_depthwise_convolutions_train_in_float32_in_bfloat16_too() -> None:
    config = ModelConfig(
        backbone=TimmConfig(model="convnext_atto", kwargs={"depths": [1, 1, 1, 1], "dims": [8, 16, 16, 32]}),
        pixel_decoder=MSDeformAttnConfig(dim=32, mask_dim=32, num_layers=1, num_heads=2, feedforward_dim=32),
        transformer_decoder=MaskedDecoderConfig(dim=32, num_queries=5, num_layers=1, num_heads=2, feedforward_dim=32),
    )
    model, _ = initial_model(RunConfig(model=config), None, Categories.from_names(["cell"]), Initial(), None)
    dtypes = list[torch.dtype]()
    for part in model.modules():
        if isinstance(part, torch.nn.Conv2d) and part.groups > 1:
            part.register_forward_hook(lambda _, __, output: dtypes.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model.train()(torch.rand(1, 1, 3, 64, 64))
    assert dtypes == [torch.float32] * 4


def test_settings_of_another_type_are_left_to_the_checks_of_settings() -> None:
    values = {"model": {"init": "scenes-tiny", "init_partial": True, "init_backbone": 3}}
    assert completed(values) == values
