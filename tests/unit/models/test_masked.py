from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mask2former.models.layers import MultiHeadAttention
from mask2former.models.pixel_decoders import PixelFeatures
from mask2former.models.position_encoding import sine_encoding
from mask2former.models.transformer_decoders import MaskedTransformerDecoder
from mask2former.models.transformer_decoders.attention import blocked_attention
from mask2former.models.transformer_decoders.layer import DecoderLayer
from mask2former.ops.mask_logits import DenseMasks
from mask2former.ops.resizing import resize_masks
from mask2former.structures import MaskOutput

SIZES = [(2, 3), (4, 6), (8, 12)]  # strides 32, 16 and 8; masks have (16, 24)


def decoder(
    num_layers: int = 7, channels: int = 32, *, temporal: bool = False, **switches: Any
) -> MaskedTransformerDecoder:
    torch.manual_seed(0)
    return MaskedTransformerDecoder(
        5,
        channels,
        mask_dim=16,
        dim=32,
        num_queries=9,
        num_layers=num_layers,
        num_heads=4,
        feedforward_dim=48,
        temporal=temporal,
        **switches,
    )


def pixel_features(count: int, channels: int = 32, dtype: torch.dtype = torch.float32) -> PixelFeatures:
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(count, channels, *size, generator=generator, dtype=dtype) for size in SIZES]
    return PixelFeatures(torch.randn(count, 16, 16, 24, generator=generator, dtype=dtype), maps)


def same(first: MaskOutput, second: MaskOutput) -> bool:
    return all(
        torch.equal(getattr(first, name), getattr(second, name))
        for name in ("class_logits", "mask_logits", "query_features")
    )


@pytest.mark.parametrize("frames", [1, 3])
def test_every_depth_predicts(frames: int) -> None:
    model = decoder()
    output = model(pixel_features(2 * frames), frames)
    assert len(output.aux_outputs) == 7  # from the query features, then after each layer but the last
    for depth in (output, *output.aux_outputs):
        assert depth.class_logits.shape == (2, 9, 6)
        assert depth.mask_logits.shape == (2, 9, frames, 16, 24)
        assert depth.query_features.shape == (2, 9, 32)
    assert not any(depth.aux_outputs for depth in output.aux_outputs)


def test_auxiliary_outputs_can_be_left_out() -> None:
    model, features = decoder(), pixel_features(1)
    with_them, without = model(features), model(features, aux_outputs=False)
    assert without.aux_outputs == []
    assert same(with_them, without)


def test_the_first_prediction_is_that_of_the_query_features() -> None:
    model, features = decoder(), pixel_features(1)
    first = model(features).aux_outputs[0]
    assert model.query_features is not None
    queries = model.norm(model.query_features.weight)
    one, two, three = model.mask_head
    embedding = three(two(one(queries).relu()).relu())
    masks = torch.einsum("qc,chw->qhw", embedding, features.mask_features[0])
    torch.testing.assert_close(first.query_features[0], queries)
    torch.testing.assert_close(first.class_logits[0], model.class_head(queries))
    torch.testing.assert_close(first.mask_logits[0, :, 0], masks)


def test_layers_take_the_levels_in_turn() -> None:
    seen = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], _: object) -> None:
        seen.append((inputs[2].shape[1], inputs[4].shape[2]))

    model = decoder()
    for layer in model.layers:
        layer.register_forward_hook(note)
    model(pixel_features(4), 2)
    tokens = [2 * h * w for h, w in SIZES]  # of both frames
    assert seen == [(tokens[index % 3], tokens[index % 3]) for index in range(7)]


def test_a_layer_attends_to_the_image_then_to_queries_then_feeds_forward() -> None:
    torch.manual_seed(0)
    layer = DecoderLayer(16, 2, 24)
    x, index = torch.randn(1, 4, 16), torch.randn(1, 4, 16)
    key, value = torch.randn(1, 6, 16), torch.randn(1, 6, 16)
    blocked = torch.zeros(1, 4, 6, dtype=torch.bool)
    got = layer(x, index, key, value, blocked)
    x = layer.cross_norm(x + layer.cross_attention(x + index, key, value))
    x = layer.self_norm(x + layer.self_attention(x + index, x + index, x))
    expected = layer.feedforward_norm(x + layer.linear2(layer.linear1(x).relu()))
    torch.testing.assert_close(got, expected)


def tokens_of(model: MaskedTransformerDecoder, features: PixelFeatures) -> tuple[list[Tensor], list[Tensor]]:
    """Keys and values of the first three layers, one for each level, for clips of three frames."""
    keys, values = [], []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], _: object) -> None:
        keys.append(inputs[2])
        values.append(inputs[3])

    for layer in model.layers:
        layer.register_forward_hook(note)
    model(features, 3)
    return keys[:3], values[:3]


def test_keys_have_positions_and_both_have_the_level() -> None:
    model = decoder()
    features = pixel_features(6)
    keys, values = tokens_of(model, features)
    for level, (height, width) in enumerate(SIZES):
        position = sine_encoding(
            1, height, width, 32, temporal=False, dtype=torch.float32, device=torch.device("cpu")
        ).flatten(0, 2)
        for clip in range(2):
            for frame in range(3):
                content = (
                    features.multi_scale[level][3 * clip + frame].flatten(1).T + model.level_embedding.weight[level]
                )
                tokens = slice(frame * height * width, (frame + 1) * height * width)
                torch.testing.assert_close(values[level][clip, tokens], content)
                torch.testing.assert_close(keys[level][clip, tokens], content + position)


def test_time_enters_the_keys_only_if_requested() -> None:
    features = pixel_features(3)
    still = tokens_of(decoder(), features)[0][0]
    moving = tokens_of(decoder(temporal=True), features)[0][0]
    change = (moving - still).unflatten(1, (3, -1))  # (B, T, tokens of a frame, C)
    assert change.abs().min(dim=3).values.max() > 0
    assert (change - change[:, :, :1]).abs().max() < 1e-5  # the same everywhere in a frame
    assert (change[:, 0] - change[:, 1]).abs().max() > 0.1


def test_queries_attend_only_where_their_mask_is() -> None:
    logits = torch.full((1, 9, 1, 8, 12), -3.0)
    logits[0, 0, 0, :4, :6] = 5.0  # a quarter of the image
    logits[0, 1, 0] = 2.0  # all of it
    blocked = blocked_attention(DenseMasks(logits)).view(9, 8, 12)
    assert not blocked[0, :4, :6].any()
    assert blocked[0, 4:].all()
    assert blocked[0, :, 6:].all()
    assert not blocked[1].any()


def test_a_query_with_an_empty_mask_attends_everywhere() -> None:
    logits = torch.full((2, 9, 3, 4, 6), -3.0)
    logits[0, 0, 1, 1:3, 1:3] = 5.0  # in one frame: the other frames stay blocked
    blocked = blocked_attention(DenseMasks(logits)).view(2, 9, 3, 24)
    assert blocked[0, 0, [0, 2]].all()
    assert blocked[0, 0, 1].any()
    assert not blocked[0, 0, 1].all()
    assert not blocked[0, 1:].any()
    assert not blocked[1].any()


def test_half_is_not_blocked() -> None:
    assert not blocked_attention(DenseMasks(torch.zeros(1, 9, 1, 2, 3))).any()


@pytest.mark.parametrize("frames", [1, 3])
def test_attention_reads_masks_resized_to_each_level(frames: int) -> None:
    # The published way: all masks at full size, then resized. Ours resizes the pixel embeddings.
    model, features = decoder().double(), pixel_features(2 * frames, dtype=torch.float64)
    levels: list[Tensor] = []
    model.guide = lambda masks, grids: blocked_attention(levels.append(masks.all()) or masks)
    output = model(features, frames)
    assert len(levels) == 7
    for index, (level, depth) in enumerate(zip(levels, output.aux_outputs, strict=True)):
        resized = resize_masks(depth.mask_logits, SIZES[index % 3])
        torch.testing.assert_close(level, resized, rtol=0, atol=1e-12)
        assert not level.requires_grad


def test_masks_steer_attention_without_a_gradient() -> None:
    # So the mask head learns from the masks it predicts, not from where they make the next layers attend.
    model = decoder(num_layers=3)
    model(pixel_features(1)).class_logits.sum().backward()
    assert all(parameter.grad is None for parameter in model.mask_head.parameters())


def test_a_projection_is_there_only_for_other_channels() -> None:
    assert not list(decoder().input_projections.parameters())
    model = decoder(channels=20)
    for projection in model.input_projections:
        assert isinstance(projection, nn.Conv2d)
        assert projection.weight.shape == (32, 20, 1, 1)
        assert 0.95 * math.sqrt(3 / 20) < projection.weight.abs().max().item() <= math.sqrt(3 / 20)
        assert projection.bias is not None
        assert not projection.bias.any()
    assert model(pixel_features(1, channels=20)).class_logits.isfinite().all()


def test_initial_values() -> None:
    torch.manual_seed(0)
    model = MaskedTransformerDecoder(133)
    assert len(model.layers) == 9

    def assert_uniform(values: Tensor, bound: float) -> None:
        assert 0.97 * bound < values.abs().max().item() <= bound * (1 + 1e-6)
        assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)

    layer = model.layers[4]
    assert isinstance(layer, DecoderLayer)
    for attention in (layer.cross_attention, layer.self_attention):
        assert isinstance(attention, MultiHeadAttention)
        assert_uniform(attention.in_proj_weight, math.sqrt(6 / 1024))
        assert_uniform(attention.out_proj.weight, math.sqrt(6 / 512))
        assert not attention.in_proj_bias.any()
        assert not attention.out_proj.bias.any()
    for linear, fan_in in ((layer.linear1, 256), (layer.linear2, 2048)):
        assert_uniform(linear.weight, math.sqrt(6 / 2304))
        assert 0.9 / math.sqrt(fan_in) < linear.bias.abs().max().item() <= 1 / math.sqrt(fan_in)
    for head in (model.class_head, *model.mask_head):  # as torch starts linear layers
        assert isinstance(head, nn.Linear)
        assert_uniform(head.weight, 1 / 16)
        assert 0 < head.bias.abs().max().item() <= 1 / 16
    assert model.query_features is not None
    for embedding, rows in ((model.query_features, 100), (model.query_positions, 100), (model.level_embedding, 3)):
        assert embedding.weight.shape == (rows, 256)
        assert embedding.weight.std().item() == pytest.approx(1, rel=0.1)
    assert model.class_head.out_features == 134
