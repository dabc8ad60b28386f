"""Pixel decoders of Table 4e compared with slow forms of their definitions, and their common properties."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2former.errors import UserError
from mask2former.models.parts import set_gradient_checkpointing, set_precision
from mask2former.models.pixel_decoders import (
    BiFPNPixelDecoder,
    FaPNPixelDecoder,
    FPNPixelDecoder,
    SemanticFPNPixelDecoder,
    TransformerFPNPixelDecoder,
)
from mask2former.models.pixel_decoders.bifpn import Fusion
from mask2former.models.pixel_decoders.fapn import DeformableConvolution, FeatureSelection

CHANNELS = (8, 12, 16, 24)
KINDS = {
    "fpn": (FPNPixelDecoder, {}),
    "transformer-fpn": (TransformerFPNPixelDecoder, {"num_layers": 1, "num_heads": 4, "feedforward_dim": 32}),
    "semantic-fpn": (SemanticFPNPixelDecoder, {}),
    "bifpn": (BiFPNPixelDecoder, {"num_layers": 2}),
    "fapn": (FaPNPixelDecoder, {"num_groups": 4}),
}


def maps_of(height: int, width: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Backbone maps of two images of this size; sides are rounded up, as in ResNets."""
    torch.manual_seed(0)
    sizes = [(-(-height // stride), -(-width // stride)) for stride in (4, 8, 16, 32)]
    return [torch.randn(2, channels, *size, dtype=dtype) for channels, size in zip(CHANNELS, sizes, strict=True)]


def decoder_of(kind: str) -> nn.Module:
    make, settings = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return make(CHANNELS, dim=32, mask_dim=20, **settings)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(64, 96), (75, 53)])
def test_maps_have_their_sizes_and_every_parameter_learns(kind: str, size: tuple[int, int]) -> None:
    decoder, maps = decoder_of(kind), maps_of(*size)
    with torch.no_grad():  # with offsets of zero, some parameters have no gradient
        for name, parameter in decoder.named_parameters():
            if "offsets" in name:
                parameter += 0.1 * torch.randn_like(parameter)
    features = decoder(maps)
    assert features.mask_features.shape == (2, 20, *maps[0].shape[2:])
    assert [one.shape for one in features.multi_scale] == [(2, 32, *one.shape[2:]) for one in maps[:0:-1]]
    assert features.backbone is not None
    assert (features.encoded is not None) == (kind == "transformer-fpn")
    scores = [features.mask_features, *features.multi_scale]
    torch.stack([(score * torch.randn_like(score)).sum() for score in scores]).sum().backward()
    silent = [name for name, value in decoder.named_parameters() if value.grad is None or not value.grad.any()]
    assert silent == []


@pytest.mark.parametrize("kind", KINDS)
def test_they_compute_in_full_precision_under_autocast(kind: str) -> None:
    decoder, maps = decoder_of(kind).eval(), maps_of(64, 64)
    with torch.no_grad():
        expected = decoder(maps).mask_features
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(decoder(maps).mask_features, expected)
            set_precision(decoder, full=False)
            assert not torch.equal(decoder(maps).mask_features.float(), expected)


def test_a_map_of_one_pixel_is_refused() -> None:
    maps = [one[:1] for one in maps_of(32, 32)]
    with pytest.raises(UserError, match="one image of at most 32x32 pixels is too small"):
        decoder_of("bifpn")(maps)


def test_a_deformable_convolution_without_offsets_is_a_convolution() -> None:
    torch.manual_seed(0)
    layer, feature = DeformableConvolution(8, 2).double(), torch.randn(2, 8, 5, 7).double()
    weight = layer.weight.view(8, 8, 3, 3)
    expected = F.conv2d(feature, 0.5 * weight, layer.bias, padding=1)  # the sigmoid of zero
    torch.testing.assert_close(layer(feature, feature), expected)


def test_a_deformable_convolution_reads_where_its_offsets_say() -> None:
    torch.manual_seed(0)
    layer, feature = DeformableConvolution(8, 2).double(), torch.randn(1, 8, 6, 7).double()
    bias = layer.offsets.bias
    assert bias is not None
    with torch.no_grad():  # the second group reads one row below and two columns to the right
        offsets = bias.view(2, 9, 3)
        offsets[1, :, 0], offsets[1, :, 1], offsets[..., 2] = 1.0, 2.0, 100.0
    moved = feature.clone()
    moved[:, 4:] = F.pad(feature[:, 4:, 1:, 2:], (0, 2, 0, 1))
    # At the upper and left border the taps outside of the moved map are inside of the map.
    expected = F.conv2d(moved, layer.weight.view(8, 8, 3, 3), layer.bias, padding=1)
    torch.testing.assert_close(layer(feature, feature)[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


def test_a_selection_weighs_channels_by_what_the_whole_map_has_of_them() -> None:
    torch.manual_seed(0)
    layer, feature = FeatureSelection(8, 32).double(), torch.randn(2, 8, 5, 7).double()
    weights = torch.einsum("oc,nc->no", layer.importance.weight[:, :, 0, 0], feature.mean((2, 3))).sigmoid()
    expected = layer.selection(feature * (1 + weights[:, :, None, None]))
    torch.testing.assert_close(layer(feature), expected)


def test_a_fusion_is_a_mean_with_positive_weights() -> None:
    torch.manual_seed(0)
    layer = Fusion(32, 3).double()
    fine, same, coarse = torch.randn(1, 32, 8, 8), torch.randn(1, 32, 4, 4), torch.randn(1, 32, 2, 2)
    fine, same, coarse = fine.double(), same.double(), coarse.double()
    with torch.no_grad():
        layer.weights.copy_(torch.tensor([2.0, -1.0, 1.0]))
    mean = (2 * same + F.max_pool2d(fine, 2)) / 3.0001
    torch.testing.assert_close(layer(same, coarse, fine), layer.norm(layer.pointwise(layer.depthwise(F.silu(mean)))))


@pytest.mark.parametrize("kind", ["fpn", "semantic-fpn", "bifpn", "fapn"])
def test_gradient_checkpointing_is_refused_with_advice_for_users_of_the_decoder(kind: str) -> None:
    set_gradient_checkpointing("pixel decoder", decoder_of(kind), enable=False)
    message = (
        r"^the pixel decoder \w+ does not support gradient checkpointing \(.*\); switch it off \(trainer\.\w+=false\)$"
    )
    with pytest.raises(UserError, match=message):
        set_gradient_checkpointing("pixel decoder", decoder_of(kind), enable=True)
