from __future__ import annotations

import pytest
import torch

from mask2former.config import InferenceConfig, MaskedDecoderConfig, ModelConfig, MSDeformAttnConfig, TimmConfig
from mask2former.models.build import build_model
from mask2former.models.mask2former import Mask2Former
from mask2former.structures import Categories

NAMES = ["cat", "dog", "sky", "sea"]


@pytest.fixture(scope="session")
def tiny_model() -> Mask2Former:
    """A model for all tasks with a quarter of a million random parameters; tests must not change it."""
    config = ModelConfig(
        backbone=TimmConfig(model="resnet10t", norm="batch", kwargs={"channels": [16, 24, 32, 40]}),
        pixel_decoder=MSDeformAttnConfig(dim=64, mask_dim=64, num_layers=1, num_heads=4, feedforward_dim=64),
        transformer_decoder=MaskedDecoderConfig(dim=64, num_queries=10, num_layers=1, num_heads=4, feedforward_dim=64),
        inference=InferenceConfig(
            short_edge=64, long_edge=96, score_threshold=0.0, instance_threshold=0.0, overlap_threshold=0.0
        ),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(config, len(NAMES))
    model.categories = Categories.from_names(NAMES, ["cat", "dog"])
    return model.eval()
