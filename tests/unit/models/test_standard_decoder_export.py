"""MaskFormer's transformer decoder in an exported graph."""

from __future__ import annotations

import pytest
import torch

from mask2former.models.pixel_decoders.features import PixelFeatures
from mask2former.models.transformer_decoders.standard import OneMapTransformer


class _Last(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer = OneMapTransformer(
            8, 3, 8, 1, 1, 2, 8, 0.0, pre_norm=False, source="mask_features", project_source=True
        )

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return self.transformer(PixelFeatures(feature, []), 1)[-1]


@pytest.mark.long
def test_the_batch_stays_open() -> None:
    model, feature = _Last().eval(), torch.rand(2, 8, 4, 4)
    graph = torch.export.export(
        model, (feature,), dynamic_shapes={"feature": {0: torch.export.Dim("batch", min=1, max=8)}}, strict=False
    )
    other = torch.rand(5, 8, 4, 4)
    torch.testing.assert_close(graph.module()(other), model(other))
