"""Each part in turn is replaced by one from outside the package: ten steps of training lower the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2former import Criterion, LossTerm, Mask2Former, recipes
from mask2former.config import ModelConfig
from mask2former.data.datasets.scenes import Scenes
from mask2former.losses import MatchedDepth
from mask2former.models.build import build_model
from mask2former.models.pixel_decoders import PixelFeatures
from mask2former.scenes import SCENE_CATEGORIES

STEPS, DIM = 10, 32
CHANNELS = (16, 32, 32, 64)


def small() -> Mask2Former:
    values = recipes.scenes_tiny().model.model_dump()
    values["backbone"]["kwargs"] = {"channels": list(CHANNELS)}
    sizes = {"dim": DIM, "num_heads": 2, "feedforward_dim": DIM, "num_layers": 2}
    values["pixel_decoder"] |= sizes | {"mask_dim": DIM, "num_layers": 1}
    values["transformer_decoder"] |= sizes
    model = build_model(ModelConfig.model_validate(values), len(SCENE_CATEGORIES))
    model.info = replace(model.info, architecture=None, categories=SCENE_CATEGORIES)  # it has custom parts
    return model


class Patches(nn.Module):
    """A backbone: one linear layer of patches for each stride."""

    def __init__(self) -> None:
        super().__init__()
        pairs = zip(CHANNELS, (4, 8, 16, 32), strict=True)
        self.maps = nn.ModuleList(nn.Conv2d(3, channels, stride, stride) for channels, stride in pairs)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [F.gelu(convolution(images)) for convolution in self.maps]


class Mixer(nn.Module):
    """A pixel decoder that projects every map to one width, with the mean of them all at stride 4."""

    def __init__(self) -> None:
        super().__init__()
        self.widths = nn.ModuleList(nn.Conv2d(channels, DIM, 1) for channels in CHANNELS)

    def forward(self, maps: Sequence[Tensor]) -> PixelFeatures:
        found = [width(one) for width, one in zip(self.widths, maps, strict=True)]
        fine = torch.stack([F.interpolate(one, size=found[0].shape[2:]) for one in found]).mean(0)
        return PixelFeatures(fine, found[:0:-1])


class Nearest(nn.Module):
    """A kind of attention with weights by the distance between query and key."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.out = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None = None) -> Tensor:
        scores = -torch.cdist(query, key)
        if blocked is not None:
            scores = scores.masked_fill(blocked, float("-inf"))
        return self.out(scores.softmax(2) @ self.value(value))


def centre(matched: MatchedDepth) -> Tensor:
    """A loss term that separates the mean logits inside and outside."""
    logits, targets, _ = matched.sampled
    return F.softplus(1 - (logits * (2 * targets - 1)).mean(1)).sum() / matched.num_masks


def with_backbone(model: Mask2Former) -> None:
    model.backbone = Patches()


def with_pixel_decoder(model: Mask2Former) -> None:
    model.pixel_decoder = Mixer()


def with_attention(model: Mask2Former) -> None:
    for layer in model.transformer_decoder.layers:  # pyright: ignore[reportGeneralTypeIssues]
        layer.cross_attention = Nearest()


def with_loss_term(model: Mask2Former) -> None:
    """Change nothing: the loss term is part of the criterion."""


@pytest.mark.parametrize(
    "add",
    [
        with_backbone,
        with_attention,
        # these two learn for two steps in test_own_parts.py, too
        pytest.param(with_pixel_decoder, marks=pytest.mark.slow),
        pytest.param(with_loss_term, marks=pytest.mark.slow),
    ],
)
def test_a_part_of_ones_own_learns(add: Callable[[Mask2Former], None]) -> None:
    torch.manual_seed(0)
    model = small()
    add(model)
    terms = [LossTerm("loss_centre", 1.0, centre)] if add is with_loss_term else []
    criterion = Criterion(len(SCENE_CATEGORIES), num_points=128, terms=terms)
    scenes = Scenes(64, 0, 2)
    samples = [scenes[index] for index in range(2)]
    images = [sample.image for sample in samples]
    targets = [sample.target for sample in samples if sample.target is not None]
    optimizer = torch.optim.AdamW(model.train().parameters(), 2e-3)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    totals = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        losses = criterion(model(images), targets)
        losses.total.backward()
        optimizer.step()
        totals.append(float(losses.total.detach()))
        assert ("loss_centre_1" in losses.terms) == bool(terms)
    assert sum(totals[-3:]) < sum(totals[:3])
    unmoved = [name for name, value in model.named_parameters() if torch.equal(value, start[name])]
    assert unmoved == []
