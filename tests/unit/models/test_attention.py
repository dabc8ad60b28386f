"""The settings of the masked decoder for the paper's comparisons, and what each of them means."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mask2former.config import MaskedDecoderConfig
from mask2former.models.layers import MultiHeadAttention
from mask2former.models.pixel_decoders import PixelFeatures
from mask2former.models.transformer_decoders import MaskedTransformerDecoder
from mask2former.models.transformer_decoders.attention import (
    MaskPooling,
    SpatiallyModulatedAttention,
    blocked_attention,
    token_positions,
)
from mask2former.models.transformer_decoders.layer import DecoderLayer
from mask2former.ops.mask_logits import DenseMasks, MaskLogits
from mask2former.structures import MaskOutput

DEFAULT: dict[str, Any] = {}
SWITCHES: dict[str, dict[str, Any]] = {
    "full": {"attention": "full"},
    "smca": {"attention": "smca"},
    "mask_pool": {"attention": "mask_pool"},
    "naive": {"scales": "naive"},
    "s32": {"scales": "s32"},
    "s16": {"scales": "s16"},
    "s8": {"scales": "s8"},
    "self_first": {"order": "self_first"},
    "learned": {"query_init": "learned"},
    "zero": {"query_init": "zero"},
    "dropout": {"dropout": 0.1},
    "pre_norm": {"pre_norm": True},
    "smca and naive": {"attention": "smca", "scales": "naive", "query_init": "zero", "order": "self_first"},
    "mask_pool and naive": {"attention": "mask_pool", "scales": "naive", "query_init": "learned", "dropout": 0.1},
}
SIZES = [(2, 3), (4, 6), (8, 12)]


def decoder(seed: int = 0, num_layers: int = 4, channels: int = 32, **switches: Any) -> MaskedTransformerDecoder:
    torch.manual_seed(seed)
    return MaskedTransformerDecoder(
        5, channels, 16, dim=32, num_queries=9, num_layers=num_layers, num_heads=4, feedforward_dim=48, **switches
    ).double()


def pixel_features(count: int, channels: int = 32, sizes: list[tuple[int, int]] = SIZES) -> PixelFeatures:
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(count, channels, *size, generator=generator, dtype=torch.float64) for size in sizes]
    return PixelFeatures(torch.randn(count, 16, 16, 24, generator=generator, dtype=torch.float64), maps)


def assert_same(first: MaskOutput, second: MaskOutput) -> None:
    for one, other in zip([first, *first.aux_outputs], [second, *second.aux_outputs], strict=True):
        for name in ("class_logits", "mask_logits", "query_features"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=1e-12)


def differ(first: MaskOutput, second: MaskOutput) -> bool:
    return (first.class_logits - second.class_logits).abs().max().item() > 1e-6


def with_weights_of(source: nn.Module, model: MaskedTransformerDecoder) -> MaskedTransformerDecoder:
    model.load_state_dict(source.state_dict())
    return model


def test_every_setting_of_a_switch_is_in_the_table_above() -> None:
    fields = MaskedDecoderConfig.model_fields
    for name in ("attention", "scales", "order", "query_init"):
        values = {switches[name] for switches in SWITCHES.values() if name in switches}
        assert values | {fields[name].default} == set(fields[name].annotation.__args__)  # pyright: ignore


# --- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SWITCHES)
def test_a_batch_is_its_clips_one_by_one_and_every_parameter_learns(name: str) -> None:
    # A parameter without gradient would stop distributed training.
    frames, model = 3, decoder(channels=20, **SWITCHES[name]).train()
    features = pixel_features(2 * frames, channels=20)
    torch.manual_seed(3)
    output = model(features, frames)
    skipped = SWITCHES[name].get("query_init") in ("learned", "zero")
    assert len(output.aux_outputs) == 4 - skipped
    depths = [output, *output.aux_outputs]
    torch.stack([depth.class_logits.square().sum() + depth.mask_logits.sum() for depth in depths]).sum().backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []
    model.eval()
    together = model(features, frames)
    for clip in range(2):
        rows = slice(clip * frames, (clip + 1) * frames)
        alone = PixelFeatures(features.mask_features[rows], [level[rows] for level in features.multi_scale])
        single = model(alone, frames)
        torch.testing.assert_close(together.class_logits[clip : clip + 1], single.class_logits, rtol=0, atol=1e-10)
        torch.testing.assert_close(together.mask_logits[clip : clip + 1], single.mask_logits, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", SWITCHES)
def test_it_is_not_the_published_decoder(name: str) -> None:
    model = decoder(**SWITCHES[name])
    other = decoder()
    other.load_state_dict(model.state_dict(), strict=False)
    features = pixel_features(1)
    torch.manual_seed(0)
    changed = model(features)
    torch.manual_seed(0)
    if name == "learned":  # differs only in the outputs that have a loss
        assert torch.equal(changed.class_logits, other(features).class_logits)
        assert len(changed.aux_outputs) == len(other(features).aux_outputs) - 1
    else:
        assert differ(changed, other(features))
    if name == "dropout":
        assert_same(model.eval()(features), other.eval()(features))


@pytest.mark.slow
@pytest.mark.unchecked
@pytest.mark.parametrize("name", SWITCHES)
def test_it_compiles_to_one_graph_and_exports(name: str) -> None:
    torch.compiler.reset()
    model, features = decoder(num_layers=2, **SWITCHES[name]).eval(), pixel_features(2)

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = model

        def forward(self, embeddings: Tensor, *maps: Tensor) -> tuple[Tensor, Tensor]:
            output = self.decoder(PixelFeatures(embeddings, list(maps)), 2, aux_outputs=False)
            return output.class_logits, output.mask_logits

    module, arguments = Logits(), (features.mask_features, *features.multi_scale)
    with torch.no_grad():
        expected = module(*arguments)
        compiled = torch.compile(module, backend="eager", fullgraph=True)(*arguments)
        exported = torch.export.export(module, arguments).module()(*arguments)
    for one, two, wanted in zip(compiled, exported, expected, strict=True):
        torch.testing.assert_close(one, wanted, rtol=0, atol=1e-10)
        torch.testing.assert_close(two, wanted, rtol=0, atol=1e-10)


# --- attention -------------------------------------------------------------------------------------------------------


def test_masked_attention_with_nothing_blocked_is_full_attention() -> None:
    masked, features = decoder(), pixel_features(2)
    everywhere = with_weights_of(masked, decoder(attention="full"))
    assert differ(everywhere(features, 2), masked(features, 2))
    masked.guide = lambda masks, grids: torch.zeros_like(masks.all()).bool().flatten(2)
    assert_same(everywhere(features, 2), masked(features, 2))


def test_mask_pooling_is_the_mean_of_the_features_inside_the_mask() -> None:
    torch.manual_seed(0)
    pooling, values = MaskPooling(8, 2).double(), torch.randn(2, 30, 8, dtype=torch.float64)
    logits = torch.randn(2, 4, 1, 5, 6, dtype=torch.float64)
    logits[0, 1] = -1.0  # an empty mask: the mean of all
    got = pooling(values[:, :4], values, values, blocked_attention(DenseMasks(logits)))
    for clip in range(2):
        for query in range(4):
            inside = logits[clip, query].flatten() > 0
            rows = values[clip] if not inside.any() else values[clip][inside]
            torch.testing.assert_close(got[clip, query], pooling.out_proj(rows.mean(0)))


def test_mask_pooling_is_attention_to_equal_keys() -> None:
    torch.manual_seed(0)
    attention, pooling = MultiHeadAttention(8, 2).double(), MaskPooling(8, 2).double()
    values, keys = torch.randn(1, 12, 8).double(), torch.zeros(1, 12, 8).double()
    with torch.no_grad():
        attention.in_proj_weight[16:] = torch.eye(8)
        attention.out_proj.load_state_dict(pooling.out_proj.state_dict())
    blocked = torch.rand(1, 3, 12) > 0.5
    queries = torch.randn(1, 3, 8).double()
    torch.testing.assert_close(pooling(queries, keys, values, blocked), attention(queries, keys, values, blocked))


def test_positions_of_tokens_are_the_centres_of_pixels_frame_by_frame_and_scale_by_scale() -> None:
    positions = token_positions([(2, 1, 2), (1, 2, 1)], torch.zeros(()))
    row = [[0.25, 0.5], [0.75, 0.5]]
    torch.testing.assert_close(positions, torch.tensor([*row, *row, [0.5, 0.25], [0.5, 0.75]]))


def test_the_prior_peaks_at_the_predicted_centre_of_each_head() -> None:
    torch.manual_seed(0)
    attention, queries = SpatiallyModulatedAttention(16, 4).double(), torch.randn(2, 7, 16).double()
    positions = token_positions([(1, 20, 30)], queries)
    prior = attention.prior(queries, positions)
    centers, widths = attention.centers(queries)
    assert prior.shape == (2, 4, 7, 600)
    assert centers.shape == widths.shape == (2, 4, 7, 2)
    assert prior.max() <= 0
    x, y = ((positions[:, axis] - centers[..., axis, None]) / widths[..., axis, None] for axis in (0, 1))
    distance = x.square() + y.square()
    assert torch.equal(prior.argmax(3), distance.argmin(3))
    by_distance = prior.gather(3, distance.argsort(3))
    assert not by_distance[..., 0].any()
    assert (by_distance.diff(dim=3) <= 0).all()  # falls with the distance, in widths
    beside = torch.cat((centers[0, 1, 0][None], positions))  # a pixel right at the centre
    torch.testing.assert_close(
        attention.prior(queries, beside)[0, 1, 0, 1:], (-128.0 * distance[0, 1, 0]).clamp(min=-1e4)
    )


def test_a_wide_prior_is_full_attention_and_a_narrow_one_takes_the_nearest_pixel() -> None:
    torch.manual_seed(0)
    attention, plain = SpatiallyModulatedAttention(16, 4).double(), MultiHeadAttention(16, 4).double()
    plain.load_state_dict(attention.state_dict(), strict=False)
    queries, keys, values = (torch.randn(1, n, 16).double() for n in (5, 48, 48))
    positions = token_positions([(1, 6, 8)], queries)
    for log_width, expected in ((5.0, plain(queries, keys, values)), (-5.0, None)):
        with torch.no_grad():
            attention.spread.weight.zero_()
            attention.spread.bias.copy_(torch.tensor([0.0, 0.0, log_width, log_width]).repeat(4))
        got = attention(queries, keys, values, positions)
        if expected is None:
            nearest = attention.prior(queries, positions)[0, 0].argmax(1)
            weight, bias = (part.chunk(3)[2] for part in (attention.in_proj_weight, attention.in_proj_bias))
            expected = attention.out_proj(values[:, nearest] @ weight.T + bias)
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)
        else:
            torch.testing.assert_close(got, expected, rtol=0, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_far_from_every_pixel_half_precision_stays_finite(dtype: torch.dtype) -> None:
    attention = SpatiallyModulatedAttention(16, 4)
    with torch.no_grad():
        attention.spread.bias.copy_(torch.tensor([300.0, -300.0, -9.0, -9.0]).repeat(4))
    attention = attention.to(dtype)
    queries, tokens = torch.randn(1, 3, 16).to(dtype), torch.randn(1, 12, 16).to(dtype)
    got = attention(queries, tokens, tokens, token_positions([(1, 3, 4)], queries))
    assert got.dtype == dtype
    assert got.isfinite().all()


# --- scales ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "attention"), [("s32", "masked"), ("s16", "full"), ("s16", "smca"), ("s8", "masked"), ("s8", "mask_pool")]
)
def test_a_single_scale_is_the_efficient_way_with_equal_levels(scale: str, attention: str) -> None:
    single = decoder(scales=scale, attention=attention)
    efficient = with_weights_of(single, decoder(attention=attention))
    level = ["s32", "s16", "s8"].index(scale)
    with torch.no_grad():
        for model in (single, efficient):
            model.level_embedding.weight.copy_(model.level_embedding.weight[level].expand(3, -1))
    features = pixel_features(2)
    equal = PixelFeatures(features.mask_features, [features.multi_scale[level]] * 3)
    assert_same(single(features, 2), efficient(equal, 2))


@pytest.mark.parametrize(
    ("scales", "expected"), [("efficient", [6, 24, 96, 6]), ("naive", [126] * 4), ("s16", [24] * 4)]
)
def test_layers_take_their_scales_in_turn(scales: str, expected: list[int]) -> None:
    seen: list[int] = []
    model = decoder(scales=scales)
    for layer in model.layers:
        layer.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[2].shape[1]))
    model(pixel_features(1))
    assert seen == expected


def test_all_scales_together_are_the_tokens_of_each_with_their_masks() -> None:
    # Every layer blocks what the masks say at all three sizes; a mask counts as empty only if it is at each of them.
    single, naive = decoder(), decoder(scales="naive")
    naive.load_state_dict(single.state_dict())
    seen: dict[str, list[Tensor]] = {"efficient": [], "naive": []}
    for name, model in (("efficient", single), ("naive", naive)):

        def keep(masks: MaskLogits, grids: object, name: str = name) -> Tensor:
            seen[name].append(masks.all().flatten(2))
            return torch.zeros_like(seen[name][-1]).bool()

        model.guide = keep
    features = pixel_features(4)
    single(features, 2)
    naive(features, 2)
    sizes = [2 * h * w for h, w in SIZES]
    first = seen["naive"][0].split(sizes, 2)
    torch.testing.assert_close(first[0], seen["efficient"][0], rtol=0, atol=1e-12)  # the same queries, level by level
    for level, size in enumerate(SIZES):
        dense = DenseMasks(naive(features, 2).aux_outputs[0].mask_logits)
        resized = torch.nn.functional.interpolate(dense.all().flatten(0, 2)[:, None], size, mode="bilinear")
        torch.testing.assert_close(first[level], resized.view(2, 9, -1), rtol=0, atol=1e-12)


# --- order, queries, norms -------------------------------------------------------------------------------------------


def test_self_attention_first() -> None:
    torch.manual_seed(0)
    layer = DecoderLayer(16, 2, 24, self_first=True)
    x, index = torch.randn(1, 4, 16), torch.randn(1, 4, 16)
    key, value = torch.randn(1, 6, 16), torch.randn(1, 6, 16)
    got = layer(x, index, key, value, None)
    x = layer.self_norm(x + layer.self_attention(x + index, x + index, x))
    x = layer.cross_norm(x + layer.cross_attention(x + index, key, value))
    torch.testing.assert_close(got, layer.feedforward_norm(x + layer.linear2(layer.linear1(x).relu())))


def test_norms_first() -> None:
    torch.manual_seed(0)
    layer = DecoderLayer(16, 2, 24, pre_norm=True)
    x, index = torch.randn(1, 4, 16), torch.randn(1, 4, 16)
    key, value = torch.randn(1, 6, 16), torch.randn(1, 6, 16)
    got = layer(x, index, key, value, None)
    x = x + layer.cross_attention(layer.cross_norm(x) + index, key, value)
    normed = layer.self_norm(x)
    x = x + layer.self_attention(normed + index, normed + index, normed)
    torch.testing.assert_close(got, x + layer.linear2(layer.linear1(layer.feedforward_norm(x)).relu()))


def test_queries_that_start_from_zero_have_no_parameter_and_equal_learned_ones_of_zero() -> None:
    zero, learned = decoder(query_init="zero"), decoder(query_init="learned")
    assert {name for name, _ in learned.named_parameters()} - {name for name, _ in zero.named_parameters()} == {
        "query_features.weight"
    }
    learned.load_state_dict(zero.state_dict(), strict=False)
    assert learned.query_features is not None
    nn.init.zeros_(learned.query_features.weight)
    assert_same(zero(pixel_features(2), 2), learned(pixel_features(2), 2))


def test_queries_without_a_loss_of_their_own_predict_from_the_first_layer_on() -> None:
    supervised, model = decoder(), decoder(query_init="learned")
    with_them, without = supervised(pixel_features(1)), model(pixel_features(1))
    assert_same(
        MaskOutput(without.class_logits, without.mask_logits, without.query_features, without.aux_outputs),
        MaskOutput(with_them.class_logits, with_them.mask_logits, with_them.query_features, with_them.aux_outputs[1:]),
    )


def test_dropout_is_of_training_and_drops_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def attend(*tensors: Tensor, dropout_p: float = 0.0, **rest: Any) -> Tensor:
        shares.append(dropout_p)
        return real(*tensors, dropout_p=dropout_p, **rest)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
    model = decoder(num_layers=1, dropout=0.25)
    dropped: list[tuple[object, bool]] = []
    layer = model.layers[0]
    assert isinstance(layer, DecoderLayer)
    layer.dropout.register_forward_hook(lambda module, inputs, output: dropped.append((module.p, module.training)))
    model.train()(pixel_features(1))
    assert shares == [0.25, 0.25]  # both attentions
    assert dropped == [(0.25, True)] * 4  # what the three steps add, and the hidden units
    first, second = model.eval()(pixel_features(1)), model(pixel_features(1))
    assert shares[2:] == [0.0] * 4
    assert torch.equal(first.class_logits, second.class_logits)
