"""Small models in the layout of every code base, for the tests of converters."""

from __future__ import annotations

import torch

from mask2former.config import (
    BackboneConfig,
    InferenceConfig,
    MaskedDecoderConfig,
    ModelConfig,
    MSDeformAttnConfig,
    SwinConfig,
    TimmConfig,
)
from mask2former.models.build import build_model
from mask2former.models.mask2former import Mask2Former
from mask2former.structures import Categories

__all__ = ["RESNET", "SWIN", "small_model"]

SWIN = SwinConfig(embed_dim=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 4), window_size=3)
RESNET = TimmConfig(model="resnet18")


def small_model(backbone: BackboneConfig = SWIN, inference: InferenceConfig | None = None) -> Mask2Former:
    """A small model with eight heads and four points, as published ones; every value is moved from its initial one."""
    config = ModelConfig(
        backbone=backbone,
        pixel_decoder=MSDeformAttnConfig(dim=32, mask_dim=24, num_layers=2, feedforward_dim=40),
        transformer_decoder=MaskedDecoderConfig(dim=32, num_queries=6, num_layers=4, feedforward_dim=48),
        inference=inference or InferenceConfig(tasks=("panoptic",), short_edge=96, long_edge=160, score_threshold=0.25),
    )
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(config, 3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.04 * torch.randn(parameter.shape, generator=generator)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
            elif name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
    model.categories = Categories.from_names(["sky", "cat", "dog"], things=["cat", "dog"])
    return model
