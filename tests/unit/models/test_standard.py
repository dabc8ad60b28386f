"""MaskFormer's decoder and the per-pixel heads: batches, clips, their attention, and errors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mask2former.config import ModelConfig, parse
from mask2former.errors import UserError
from mask2former.models.pixel_decoders import PixelFeatures
from mask2former.models.transformer_decoders import PerPixelHead, PerPixelPlusHead, StandardTransformerDecoder

SMALL = {"dim": 32, "num_layers": 3, "num_heads": 4, "feedforward_dim": 48}
WIDTHS = {"res2": 8, "res5": 24, "encoder": 32, "mask_features": 20}


def features_of(count: int) -> PixelFeatures:
    torch.manual_seed(0)
    sizes = [(16, 24), (8, 12), (4, 6), (2, 3)]
    backbone = [torch.randn(count, width, *size) for width, size in zip((8, 12, 16, 24), sizes, strict=True)]
    return PixelFeatures(torch.randn(count, 20, 16, 24), [], torch.randn(count, 32, 2, 3), backbone)


def rows_of(features: PixelFeatures, rows: slice) -> PixelFeatures:
    assert features.encoded is not None
    assert features.backbone is not None
    return PixelFeatures(
        features.mask_features[rows], [], features.encoded[rows], [one[rows] for one in features.backbone]
    )


def decoder_of(kind: str, **settings: object) -> nn.Module:
    make = {"standard": StandardTransformerDecoder, "per-pixel-plus": PerPixelPlusHead, "per-pixel": PerPixelHead}[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return make(5, mask_dim=20, **settings).eval()


def logits(output: object) -> Tensor:
    masks = getattr(output, "mask_logits", None)
    return masks if masks is not None else output.class_scores  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("kind", ["standard", "per-pixel-plus", "per-pixel"])
def test_a_batch_is_its_members_and_a_still_clip_is_its_frame(kind: str) -> None:
    transformer = {} if kind == "per-pixel" else {"channels": 24, "source": "res5", "num_encoder_layers": 1, **SMALL}
    decoder, features = decoder_of(kind, **transformer), features_of(2)
    with torch.no_grad():
        together = decoder(features, 1)
        alone = decoder(rows_of(features, slice(1, 2)), 1)
        still = decoder(rows_of(features, slice(0, 1)), 1)
        first = features_of(2)
        repeated = PixelFeatures(
            first.mask_features[:1].expand(3, -1, -1, -1),
            [],
            None,
            [one[:1].expand(3, -1, -1, -1) for one in first.backbone or ()],
        )
        clip = decoder(repeated, 3)
    torch.testing.assert_close(logits(together)[1:], logits(alone), rtol=0, atol=1e-4)
    torch.testing.assert_close(logits(clip), logits(still).expand_as(logits(clip)), rtol=0, atol=1e-4)
    assert len(together.aux_outputs) == (0 if kind == "per-pixel" else 2)
    assert not decoder(features, 1, aux_outputs=False).aux_outputs


@pytest.mark.parametrize("source", WIDTHS)
def test_it_attends_to_the_map_that_is_named(source: str) -> None:
    decoder = decoder_of("standard", channels=WIDTHS[source], source=source, num_queries=4, **SMALL)
    features = features_of(1)
    maps = {"encoder": features.encoded, "mask_features": features.mask_features}
    assert features.backbone is not None
    maps |= {f"res{level}": one for level, one in enumerate(features.backbone, start=2)}
    for one in maps.values():
        assert one is not None
        one.requires_grad_()
    decoder(features, 1, aux_outputs=False).class_logits.sum().backward()
    assert {name for name, one in maps.items() if one is not None and one.grad is not None} == {source}


def test_dropout_is_for_training_alone() -> None:
    decoder, features = decoder_of("standard", channels=24, dropout=0.5, **SMALL), features_of(1)
    assert torch.equal(logits(decoder(features, 1)), logits(decoder(features, 1)))
    decoder.train()
    assert not torch.equal(logits(decoder(features, 1)), logits(decoder(features, 1)))


def test_a_map_that_is_not_handed_on_is_told() -> None:
    bare = PixelFeatures(torch.randn(1, 20, 16, 24), [])
    for source, width in (("res5", 24), ("encoder", 32)):
        with pytest.raises(UserError, match=f"does not provide the map .* \\({source}\\)"):
            decoder_of("standard", channels=width, source=source, **SMALL)(bare, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pixel_decoder": {"name": "fpm"}}, "name' is 'fpm'; expected msdeformattn, .* or none; did you mean fpn"),
        ({"pixel_decoder": {"name": "fpn", "dim": 40}}, "dim 40 must be a multiple of 32"),
        ({"pixel_decoder": {"name": "fpn", "num_layers": 2}}, "unknown key .*; .* of fpn has dim, mask_dim, name"),
        ({"pixel_decoder": {"name": "fapn", "num_groups": 7}}, "dim 256 must be a multiple of num_groups 7"),
        ({"transformer_decoder": {"name": "standard", "dim": 30}}, "dim 30 must be a multiple of num_heads 8"),
        ({"transformer_decoder": {"name": "standard", "source": "encoder"}}, "msdeformattn has none; set .* res5"),
        ({"transformer_decoder": {"name": "per-pixel"}}, r"inference.tasks must be \[semantic\]"),
    ],
)  # fmt: skip
def test_settings_that_make_no_model(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(ModelConfig, values, "test")
