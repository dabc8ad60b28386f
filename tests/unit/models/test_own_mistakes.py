"""Mistakes in parts of one's own, and in arguments of parts of ours, that gave other results without a word."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from mask2former.errors import UserError
from mask2former.losses import Criterion, HungarianMatcher, LossTerm, MatchedDepth
from mask2former.models.layers import MultiHeadAttention
from mask2former.models.mask2former import Mask2Former
from mask2former.models.pixel_decoders import FPNPixelDecoder, MSDeformAttnPixelDecoder, PixelFeatures
from mask2former.models.transformer_decoders import (
    MaskedTransformerDecoder,
    PerPixelPlusHead,
    StandardTransformerDecoder,
)
from mask2former.ops.mask_logits import MaskLogits
from mask2former.structures import MaskOutput, Target

DIM, CLASSES = 32, 3


class Backbone(nn.Module):
    """Maps of the given strides, which need not be 4, 8, 16 and 32."""

    def __init__(self, steps: Sequence[int] = (4, 2, 2, 2)) -> None:
        super().__init__()
        self.channels = (DIM,) * len(steps)
        self.steps = nn.ModuleList(
            nn.Conv2d(channels, DIM, step, step) for channels, step in zip((3, *self.channels[1:]), steps, strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = []
        for step in self.steps:
            maps.append(images := step(images))
        return maps


class Reordered(FPNPixelDecoder):
    """A pixel decoder that returns some of its maps, in another order."""

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__((DIM,) * 4, DIM, DIM)
        self.chosen = levels

    def forward(self, features: Sequence[Tensor]) -> PixelFeatures:
        found = super().forward(features)
        return PixelFeatures(found.mask_features, [found.multi_scale[level] for level in self.chosen])


class ForImages(nn.Module):
    """A transformer decoder that takes every frame for an image."""

    def forward(self, features: PixelFeatures, num_frames: int = 1, *, aux_outputs: bool = True) -> MaskOutput:
        masks = features.mask_features[:, :5].unsqueeze(2)
        return MaskOutput(masks.new_zeros(len(masks), 5, CLASSES + 1), masks, masks.new_zeros(len(masks), 5, DIM))


def decoder(**changes: int) -> MaskedTransformerDecoder:
    sizes = {"channels": DIM, "mask_dim": DIM, "dim": DIM, "num_queries": 5, "num_layers": 2, "feedforward_dim": 16}
    return MaskedTransformerDecoder(CLASSES, **(sizes | changes))  # pyright: ignore[reportArgumentType]


def model_of(
    backbone: nn.Module | None = None, pixels: nn.Module | None = None, queries: nn.Module | None = None
) -> Mask2Former:
    torch.manual_seed(0)
    pixels = pixels or FPNPixelDecoder((DIM,) * 4, DIM, DIM)
    return Mask2Former(backbone or Backbone(), pixels, queries or decoder())


def image(height: int = 64) -> Tensor:
    return torch.randint(0, 256, (3, height, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("steps", [(2, 2, 2, 2), (8, 2, 2, 1)])
def test_a_backbone_of_other_strides_is_refused(steps: Sequence[int]) -> None:
    """Its results had another scale than the image."""
    height, width = 64 // steps[0], 96 // steps[0]
    with pytest.raises(UserError, match=rf"are \(1, 5, 1, {height}, {width}\); expected \(1, queries, 1, 16, 24\)"):
        model_of(Backbone(steps))([image()])


def test_a_decoder_for_images_refuses_clips() -> None:
    model = model_of(queries=ForImages())
    assert model([image(), image()]).padded_size == (64, 96)
    with pytest.raises(UserError, match=r"are \(2, 5, 1, 16, 24\); expected \(1, queries, 2, 16, 24\): clips"):
        model([torch.stack([image(), image()])])


@pytest.mark.parametrize("steps", [(4, 2, 2), (4, 2, 2, 2, 1)])
def test_another_number_of_maps_is_refused(steps: Sequence[int]) -> None:
    """A fifth map was ignored."""
    with pytest.raises(UserError, match=f"the backbone returned {len(steps)} maps; expected four, of strides 4, 8"):
        model_of(Backbone(steps))([image()])


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([2, 1, 0], "maps of the sizes 8x12, 4x6, 2x3; expected the coarsest map first"),
        ([0, 1], r"maps of \[32, 32\] channels; the transformer decoder expects embeddings of 32 \(mask_dim\) and 3"),
        ([0, 1, 2, 2], r"maps of \[32, 32, 32, 32\] channels"),
    ],
)
def test_other_maps_than_the_masked_decoder_attends_to_are_refused(levels: Sequence[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        model_of(pixels=Reordered(levels))([image()])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_dim": 24}, r"embeddings of 24 \(mask_dim\) and 3 maps of 32 \(channels\)"),
        ({"channels": 48}, r"embeddings of 32 \(mask_dim\) and 3 maps of 48 \(channels\)"),
    ],
)
def test_widths_that_do_not_fit_are_named(changes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=r"returned embeddings of 32 channels and maps of \[32, 32, 32\].*" + message):
        model_of(queries=decoder(**changes))([image()])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaskedTransformerDecoder(3, order="self-first"), "order is 'self-first'; expected cross_first or"),
        (lambda: MaskedTransformerDecoder(3, query_init="random"), "query_init is 'random'; expected learned_superv"),
        (lambda: MaskedTransformerDecoder(3, attention="none"), "attention is 'none'; expected masked, full, smca or"),
        (lambda: MaskedTransformerDecoder(3, attention="full", pilots=9), "pilots attend inside masks, but attention"),
        (lambda: MaskedTransformerDecoder(3, dim=90), "dim 90 must be a multiple of num_heads 8 and of 4"),
        (lambda: MSDeformAttnPixelDecoder((8,) * 4, stages=(3, 3)), "stages"),
        (lambda: StandardTransformerDecoder(3, source="res9"), "source is 'res9'; expected res2, res3, res4, res5"),
        (lambda: PerPixelPlusHead(3, source="res9"), "source is 'res9'; expected res2, res3, res4, res5"),
        (lambda: Criterion(3, match_on="pixels"), "match_on is 'pixels'; expected points or masks"),
        (lambda: Criterion(3, loss_on="pixels"), "loss_on is 'pixels'; expected points or masks"),
        (lambda: Criterion(3, mask_loss="l1"), "mask_loss is 'l1'; expected bce or focal"),
        (lambda: Criterion(3, importance_sample_ratio=1.5), "importance_sample_ratio is 1.5; expected"),
    ],
)
def test_arguments_are_checked_as_in_a_run_file(make: Callable[[], nn.Module], message: str) -> None:
    """Unknown words meant the default."""
    with pytest.raises(UserError, match=message):
        make()


def test_stages_are_the_number_of_layers() -> None:
    assert len(MSDeformAttnPixelDecoder((8,) * 4, stages=(1, 1, 1)).layers) == 3


def test_only_terms_of_ones_own_may_have_a_weight() -> None:
    own = LossTerm("loss_own", 1.0, lambda matched: matched.mask_logits.sum())
    assert Criterion(3, class_weight=0.0, mask_weight=0.0, dice_weight=0.0, terms=[own]).weights["loss_own"] == 1.0
    with pytest.raises(UserError, match="nothing would be learned"):
        Criterion(3, class_weight=0.0, mask_weight=0.0, dice_weight=0.0)


def targets() -> list[Target]:
    masks = torch.zeros(2, 1, 64, 96, dtype=torch.bool)
    masks[0, :, :20], masks[1, :, 40:] = True, True
    return [Target(torch.tensor([0, 1]), masks)]


class AreaMatcher(HungarianMatcher):
    """The one of ``docs/extend/loss_term.md``, whose own cost has a gradient."""

    def cost(self, class_logits, mask_logits, labels, masks, points, ignored=None):
        assert isinstance(mask_logits, MaskLogits)
        predicted = mask_logits.at_points(points).sigmoid().mean((1, 2))
        assert not predicted.requires_grad
        usual = super().cost(class_logits, mask_logits, labels, masks, points, ignored)
        return usual + 2 * (predicted[:, None] - masks.float().mean((1, 2, 3))).abs().to(usual)


def test_a_matcher_with_a_cost_of_its_own_trains() -> None:
    criterion = Criterion(CLASSES, num_points=64)
    criterion.matcher = AreaMatcher()
    model = model_of()
    criterion(model([image()]), targets()).total.backward()
    assert model.transformer_decoder.class_head.weight.grad.abs().sum() > 0  # pyright: ignore


@pytest.mark.parametrize(
    ("term", "got"),
    [
        (lambda matched: matched.sampled.logits.mean(1), r"a tensor \(2,\)"),
        (lambda matched: matched.sampled.logits.mean().view(1), r"a tensor \(1,\)"),
        (lambda matched: 1.0, "a float"),
    ],
)
def test_a_term_that_is_not_one_number_is_named(term: Callable[[MatchedDepth], Tensor], got: str) -> None:
    criterion = Criterion(CLASSES, num_points=64, terms=[LossTerm("loss_own", 1.0, term)])
    with pytest.raises(UserError, match=f"the loss term loss_own returned {got}; expected a tensor with one number"):
        criterion(model_of()([image()]), targets())


def test_attention_with_a_prior_is_still_blocked() -> None:
    """A prior replaced what is blocked, but not in the weights that are shown."""
    torch.manual_seed(0)
    attention = MultiHeadAttention(16, 2).double()
    query, key = torch.randn(1, 3, 16).double(), torch.randn(1, 5, 16).double()
    blocked, prior = torch.tensor([False, True, False, True, False]).expand(1, 3, 5), torch.randn(1, 2, 3, 5).double()
    value = attention.in_proj_weight[32:], attention.in_proj_bias[32:]
    values = nn.functional.linear(key, *value).unflatten(2, (2, -1)).transpose(1, 2)
    mixed = attention.weights(query, key, blocked, prior) @ values
    torch.testing.assert_close(
        attention(query, key, key, blocked, prior), attention.out_proj(mixed.transpose(1, 2).flatten(2))
    )
