from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2former.config import MSDeformAttnConfig
from mask2former.models.pixel_decoders import MSDeformAttnPixelDecoder
from mask2former.models.pixel_decoders.msdeformattn import DeformableAttention
from mask2former.ops.points import pixel_centers

DIRECTIONS = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]  # (x, y) of the 8 heads


def decoder(channels: tuple[int, ...] = (16, 24, 32, 40), **settings: Any) -> MSDeformAttnPixelDecoder:
    torch.manual_seed(0)
    small: dict[str, Any] = {"dim": 64, "mask_dim": 32, "num_layers": 2, "num_heads": 4, "feedforward_dim": 96}
    return MSDeformAttnPixelDecoder(channels, **(small | settings))


def backbone_maps(height: int, width: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, channels, -(-height // stride), -(-width // stride), generator=generator, dtype=dtype)
        for channels, stride in zip((16, 24, 32, 40), (4, 8, 16, 32), strict=True)
    ]


def assert_uniform(values: Tensor, bound: float) -> None:
    assert 0.98 * bound < values.abs().max().item() <= bound * (1 + 1e-6)
    assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_heads_sample_in_eight_directions_and_points_ever_farther() -> None:
    attention = DeformableAttention(256, num_levels=3, num_heads=8, num_points=4)
    attention.reset_parameters()
    offsets = attention.sampling_offsets.bias.view(8, 3, 4, 2)
    for head, direction in enumerate(DIRECTIONS):
        for level in range(3):
            for point in range(4):
                expected = torch.tensor(direction) * (point + 1.0)
                torch.testing.assert_close(offsets[head, level, point], expected, rtol=0, atol=1e-5)
    for zeros in (attention.sampling_offsets.weight, *attention.attention_weights.parameters()):
        assert not zeros.any()


def test_fresh_attention_averages_its_samples() -> None:
    # Zero weights: every query samples the initial directions with one twelfth each.
    torch.manual_seed(0)
    attention = DeformableAttention(32, num_levels=3, num_heads=2, num_points=4).double()
    attention.reset_parameters()
    shapes = [(3, 4), (6, 8), (12, 16)]
    tokens = sum(h * w for h, w in shapes)
    value = torch.randn(1, tokens, 32, dtype=torch.float64)
    reference = torch.cat([pixel_centers(shape, value)[0] for shape in shapes])
    got = attention(torch.randn(1, tokens, 32, dtype=torch.float64), value, shapes)

    values = attention.value_projection(value)[0].view(tokens, 2, 16)
    expected = torch.zeros(tokens, 2, 16, dtype=torch.float64)
    start = 0
    for height, width in shapes:
        pixels = values[start : start + height * width]
        start += height * width
        for head, direction in enumerate((1.0, -1.0)):  # two heads: along +x and -x
            level = pixels[:, head].T.reshape(1, 16, height, width)
            for point in range(1, 5):
                indices = reference + torch.tensor([direction * point / width, 0.0], dtype=torch.float64)
                samples = F.grid_sample(level, (2 * indices - 1).view(1, -1, 1, 2), align_corners=False)
                expected[:, head] += samples[0, :, :, 0].T / 12
    torch.testing.assert_close(got[0], attention.output_projection(expected.flatten(1)), rtol=0, atol=1e-6)


def test_initial_values() -> None:
    torch.manual_seed(0)
    model = MSDeformAttnPixelDecoder((64, 128, 256, 512))
    for projection, channels in zip(model.input_projections, (512, 256, 128), strict=True):
        conv, norm = projection.get_submodule("0"), projection.get_submodule("1")
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.GroupNorm)
        assert conv.bias is not None
        assert_uniform(conv.weight, math.sqrt(6 / (channels + 256)))
        assert not conv.bias.any()
        assert torch.equal(norm.weight, torch.ones(256))
        assert not norm.bias.any()
        assert (norm.num_groups, norm.eps) == (32, 1e-5)
    for layer in model.layers:
        attention = layer.get_submodule("attention")
        assert isinstance(attention, DeformableAttention)
        assert not attention.sampling_offsets.weight.any()  # not overwritten by the rule for all matrices
        for part in (attention.value_projection, attention.output_projection):
            assert_uniform(part.weight, math.sqrt(6 / 512))
            assert not part.bias.any()
        for name, fan_in in (("linear1", 256), ("linear2", 1024)):
            linear = layer.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            assert_uniform(linear.weight, math.sqrt(6 / (256 + 1024)))
            assert 0.9 / math.sqrt(fan_in) < linear.bias.abs().max().item() <= 1 / math.sqrt(fan_in)
    assert model.level_embedding.shape == (3, 256)
    assert model.level_embedding.std().item() == pytest.approx(1, rel=0.1)
    for conv, fan_in in ((model.lateral[0], 64), (model.output[0], 256 * 9), (model.mask_projection, 256)):
        assert isinstance(conv, nn.Conv2d)
        assert_uniform(conv.weight, math.sqrt(3 / fan_in))
    assert model.lateral[0].bias is None
    assert model.output[0].bias is None
    assert model.mask_projection.bias is not None
    assert not model.mask_projection.bias.any()


def test_maps_come_coarse_first_and_masks_at_the_finest() -> None:
    features = decoder()(backbone_maps(96, 160))
    assert features.mask_features.shape == (2, 32, 24, 40)
    assert [tuple(level.shape) for level in features.multi_scale] == [(2, 64, 3, 5), (2, 64, 6, 10), (2, 64, 12, 20)]


def test_without_layers_the_maps_are_the_projections() -> None:
    model = decoder(num_layers=0).double()
    maps = backbone_maps(64, 96, torch.float64)
    features = model(maps)
    projected = [part(level) for part, level in zip(model.input_projections, maps[:0:-1], strict=True)]
    for got, wanted in zip(features.multi_scale, projected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    # The step to stride 4: no activation after the lateral, one after the 3x3 convolution.
    finest = model.lateral(maps[0]) + F.interpolate(projected[2], scale_factor=2, mode="bilinear")
    conv, norm, _ = model.output
    expected = model.mask_projection(norm(conv(finest)).relu())
    torch.testing.assert_close(features.mask_features, expected, rtol=0, atol=1e-12)


def test_it_runs_in_float32_under_autocast() -> None:
    model, maps = decoder(), backbone_maps(64, 64)
    plain = model(maps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model([level.bfloat16() if index else level for index, level in enumerate(maps)])
        same = model(maps)
    assert mixed.mask_features.dtype == torch.float32
    assert torch.equal(same.mask_features, plain.mask_features)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model = MSDeformAttnPixelDecoder((16, 24, 32, 40), 32, 32, 1, 2, feedforward_dim=32, dropout=0.5)
    maps = backbone_maps(32, 32)
    assert not torch.equal(model(maps).mask_features, model(maps).mask_features)
    model.eval()
    assert torch.equal(model(maps).mask_features, model(maps).mask_features)


def perturbed(dtype: torch.dtype) -> MSDeformAttnPixelDecoder:
    """A decoder in evaluation mode whose parameters are moved from zero."""
    model = decoder()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.to(dtype).eval()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 0.02)], ids=str
)
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 64, 96), (2, 36, 100), (3, 32, 160)])
@torch.no_grad()
def test_the_form_for_inference_gives_the_same(
    dtype: torch.dtype, tolerance: float, batch: int, height: int, width: int
) -> None:
    model = perturbed(dtype)
    maps = [level[:1].expand(batch, -1, -1, -1).clone() for level in backbone_maps(height, width, dtype)]
    for level in maps:
        level[-1] *= -0.5
    expected = model(maps)
    prepared = model.for_inference()
    strided = [level.transpose(2, 3).contiguous().transpose(2, 3) for level in maps]
    last = [level.to(memory_format=torch.channels_last) for level in maps]
    for given in (maps, strided, last):
        copies = [level.clone() for level in given]
        got = prepared(given)
        assert all(torch.equal(level, copy) for level, copy in zip(given, copies, strict=True))  # not written to
        pairs = zip((got.mask_features, *got.multi_scale), (expected.mask_features, *expected.multi_scale), strict=True)
        for one, other in pairs:
            assert (one.dtype, one.shape) == (dtype, other.shape)
            torch.testing.assert_close(one, other, rtol=0, atol=tolerance * other.abs().max().item())


def test_the_form_for_inference_hands_gradients_and_autocast_to_the_plain_decoder() -> None:
    model = perturbed(torch.float32)
    prepared = model.for_inference()
    maps = [level.requires_grad_() for level in backbone_maps(32, 64)]
    assert torch.equal(prepared(maps).mask_features, model(maps).mask_features)
    assert prepared(maps).mask_features.requires_grad
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert prepared(maps).mask_features.dtype == torch.float32  # full precision
        model.full_precision = False
        assert torch.equal(prepared(maps).mask_features, model(maps).mask_features)


def test_the_form_for_inference_shares_parameters_and_copies_what_it_merges() -> None:
    model = perturbed(torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prepared = model.for_inference()
    assert {id(parameter) for parameter in prepared.parameters()} == {id(parameter) for parameter in model.parameters()}
    with torch.no_grad():
        prepared(backbone_maps(32, 32))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class _OwnLinear(nn.Linear):
    pass


class _OwnDecoder(MSDeformAttnPixelDecoder):
    pass


def test_own_modules_inside_have_no_form_that_would_not_call_them() -> None:
    changes = {
        "linear": lambda model: setattr(model.layers[0], "linear1", _OwnLinear(64, 64)),
        "layer": lambda model: model.layers.insert(0, nn.Identity()),
        "activation": lambda model: model.output.__setitem__(2, nn.GELU()),
        "norm": lambda model: setattr(model.layers[0], "norm1", nn.Identity()),
    }
    for name, change in changes.items():
        model = perturbed(torch.float32)
        assert model.for_inference() is not model
        change(model)
        assert model.for_inference() is model, name
    own = _OwnDecoder([8, 8, 8, 8], dim=32, num_heads=4)
    assert own.for_inference() is own


@pytest.mark.long
@pytest.mark.unchecked
@torch.no_grad()
def test_the_form_for_inference_compiles_into_one_graph() -> None:
    model, maps = perturbed(torch.float32), backbone_maps(32, 64)
    prepared, expected = model.for_inference(), model(maps).mask_features
    compiled = torch.compile(prepared, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(maps).mask_features, expected, rtol=1e-4, atol=1e-4)


def test_in_stages_the_coarse_tokens_are_encoded_alone_and_the_others_wait() -> None:
    torch.manual_seed(0)
    channels = (8, 8, 8, 8)
    staged = MSDeformAttnPixelDecoder(channels, 32, 32, 3, 2, 2, 32, stages=(1, 1, 1)).double().eval()
    assert staged.levels == (1, 2, 3)
    for parameter in staged.parameters():  # so that no layer is the identity
        nn.init.normal_(parameter, std=0.3)
    maps = [torch.randn(1, 8, 64 // s, 96 // s, dtype=torch.float64) for s in (4, 8, 16, 32)]
    seen: list[tuple[int, int]] = []
    for layer in staged.layers:
        layer.register_forward_pre_hook(lambda _, given: seen.append((given[0].shape[1], len(given[2]))))
    with torch.no_grad():
        first = staged(maps)
        assert seen == [(6, 1), (30, 2), (126, 3)]
        other = [maps[0], maps[1] + 1, *maps[2:]]
        waits = {}
        staged.layers[2].register_forward_pre_hook(lambda _, given: waits.update(tokens=given[0].clone()))
        staged(maps)
        before = waits["tokens"]
        staged(other)
    torch.testing.assert_close(waits["tokens"][:, :30], before[:, :30])  # the finest level came after two layers
    assert not torch.equal(waits["tokens"][:, 30:], before[:, 30:])
    assert [one.shape[2:] for one in first.multi_scale] == [(2, 3), (4, 6), (8, 12)]
    assert staged.for_inference() is staged


def test_stages_add_up() -> None:
    with pytest.raises(ValueError, match=r"stages \[1, 1, 1\] must add up to num_layers 6"):
        MSDeformAttnConfig(stages=(1, 1, 1))
