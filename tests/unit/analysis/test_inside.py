"""Observations inside a model: attention equal to that of the layers, and sampling locations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mask2former import Mask2Former, Predictor, recipes
from mask2former.analysis.inside import attention_of, depth_names, predictions_of_depths, sampling_of
from mask2former.analysis.subjects import prepared
from mask2former.config import ModelConfig
from mask2former.errors import UserError
from mask2former.inference.predicted_image import Shown
from mask2former.models.build import build_model
from mask2former.models.layers import MultiHeadAttention
from mask2former.models.transformer_decoders.attention import MaskPooling, SpatiallyModulatedAttention
from mask2former.ops.deform_attn import deformable_sampling
from mask2former.scenes import SCENE_CATEGORIES


def small(**parts: dict[str, Any]) -> Mask2Former:
    values = recipes.scenes_tiny().model.model_dump()
    values["transformer_decoder"] |= {"num_layers": 3, **parts.pop("transformer_decoder", {})}
    torch.manual_seed(0)
    model = build_model(ModelConfig.model_validate(values | parts), len(SCENE_CATEGORIES))
    model.categories = SCENE_CATEGORIES
    return model.eval()


def shown_to(model: Mask2Former) -> Shown:
    return prepared(Predictor(model, "cpu"), np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["masked", "full", "smca", "mask_pool"])
def test_attention_is_what_the_layers_compute(kind: str) -> None:
    torch.manual_seed(1)
    query, key, value = (torch.randn(2, tokens, 16) for tokens in (5, 12, 12))
    blocked = torch.rand(2, 5, 12) < 0.5
    blocked[:, :, 0] = False
    module: Any = {"smca": SpatiallyModulatedAttention, "mask_pool": MaskPooling}.get(kind, MultiHeadAttention)(16, 4)
    guide = {"full": None, "smca": torch.rand(12, 2)}.get(kind, blocked)
    weights = module.weights(query, key, guide)
    torch.testing.assert_close(weights.sum(3), torch.ones(weights.shape[:3]))
    if kind == "mask_pool":
        values = value.unsqueeze(1)
    else:
        projected = nn.functional.linear(value, module.in_proj_weight[32:], module.in_proj_bias[32:])
        values = projected.unflatten(2, (4, -1)).transpose(1, 2)
    attended = module.out_proj((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(module(query, key, value, guide), attended)


@pytest.mark.parametrize("switches", [{}, {"scales": "naive", "attention": "smca"}, {"query_init": "zero"}], ids=str)
def test_a_pass_is_seen_and_left_as_it_is(switches: dict[str, str]) -> None:
    model = small(transformer_decoder=switches)
    shown = shown_to(model)
    predictions, layers = attention_of(model, shown)
    names = depth_names(model, len(predictions))
    assert names[-1] == f"layer {len(layers)}" == "layer 3"
    assert names[0] == ("layer 1" if "query_init" in switches else "queries")
    assert not any(module._forward_pre_hooks for module in model.modules())
    height, width = predictions[-1].padded_size
    strides = [[32, 16, 8]] * 3 if switches.get("scales") else [[32], [16], [8]]
    assert [list(layer.grids) for layer in layers] == [
        [(height // stride, width // stride) for stride in of_layer] for of_layer in strides
    ]
    for layer in layers:
        assert layer.weights.shape == (32, sum(rows * columns for rows, columns in layer.grids))
        torch.testing.assert_close(layer.weights.sum(1), torch.ones(32))
    with torch.inference_mode():
        alone = model([torch.from_numpy(shown.resized).permute(2, 0, 1)])
    assert torch.equal(alone.class_logits[0], predictions[-1].class_logits)


def test_masked_attention_stays_inside_the_mask_of_the_layer_before() -> None:
    model = small()
    shown = shown_to(model)
    predictions, layers = attention_of(model, shown)
    for before, layer in zip(predictions, layers, strict=False):
        masks = nn.functional.interpolate(before.masks.all().transpose(0, 1), layer.grids[0], mode="bilinear")[0]
        outside = (masks < 0).flatten(1)
        some = ~outside.all(1)
        assert (layer.weights[some][outside[some]] == 0).all()
        assert not torch.equal(layer.weights, layer.everywhere)


@torch.inference_mode()
def test_sampled_values_are_those_of_the_layer() -> None:
    model = small()
    first: Any = model.pixel_decoder.layers[0]  # pyright: ignore[reportIndexIssue]
    nn.init.normal_(first.attention.sampling_offsets.weight, std=0.3)
    seen: dict[str, Any] = {}
    hook = first.attention.register_forward_hook(lambda module, given, out: seen.update(given=given, out=out))
    shown = shown_to(model)
    layers = sampling_of(model, shown)
    hook.remove()
    _, value, shapes = seen["given"]
    heads = first.attention.shape[0]
    values = first.attention.value_projection(value).unflatten(2, (heads, -1))
    layer = layers[0]
    assert layer.grids == tuple(shapes)
    sampled = deformable_sampling(values, shapes, layer.locations[None], layer.weights[None], "reference")
    torch.testing.assert_close(first.attention.output_projection(sampled), seen["out"], rtol=1e-4, atol=1e-5)


def test_what_cannot_be_seen_is_refused() -> None:
    pyramid = {"name": "fpn", "dim": 128, "mask_dim": 128}
    of_pixels = small(pixel_decoder=pyramid)
    with pytest.raises(UserError, match="FPNPixelDecoder has no deformable attention, so it samples nowhere"):
        sampling_of(of_pixels, shown_to(of_pixels))

    class Own(nn.Module):
        def forward(self, query: Tensor, *others: object) -> Tensor:
            return query

    layer: Any = of_pixels.transformer_decoder.layers[1]  # pyright: ignore[reportIndexIssue]
    layer.cross_attention = Own()
    with pytest.raises(UserError, match=r"cross-attention Own has no method weights\(query, key, guide\)"):
        attention_of(of_pixels, shown_to(of_pixels))
    layers: Any = of_pixels.transformer_decoder.layers
    layers[1] = Own()
    with pytest.raises(UserError, match="the decoder layer Own has no module cross_attention"):
        attention_of(of_pixels, shown_to(of_pixels))


def test_layers_that_share_a_module_are_seen_one_by_one() -> None:
    model, shared = small(), small()
    decoders: list[Any] = [model.transformer_decoder, shared.transformer_decoder]
    for layer in decoders[0].layers[1:]:
        layer.cross_attention.load_state_dict(decoders[0].layers[0].cross_attention.state_dict())
    for layer in decoders[1].layers[1:]:
        layer.cross_attention = decoders[1].layers[0].cross_attention
    both = [attention_of(one, shown_to(one))[1] for one in (model, shared)]
    for apart, one in zip(*both, strict=True):
        assert one.grids == apart.grids
        assert torch.equal(one.weights, apart.weights)

    encoders: list[Any] = [model.pixel_decoder, shared.pixel_decoder]
    for layer in encoders[0].layers[1:]:
        layer.load_state_dict(encoders[0].layers[0].state_dict())
    encoders[1].layers = nn.ModuleList([encoders[1].layers[0]] * len(encoders[1].layers))
    pairs = zip(sampling_of(model, shown_to(model)), sampling_of(shared, shown_to(shared)), strict=True)
    assert all(torch.equal(one.locations, apart.locations) for apart, one in pairs)


def test_models_without_queries_are_refused() -> None:
    values = recipes.scenes_tiny().model.model_dump()
    values["transformer_decoder"] = {"name": "per-pixel"}
    values["inference"] |= {"tasks": ("semantic",)}
    model = build_model(ModelConfig.model_validate(values), len(SCENE_CATEGORIES))
    model.categories = SCENE_CATEGORIES
    shown = shown_to(model)
    with pytest.raises(UserError, match="the attention of a PerPixelHead cannot be shown"):
        attention_of(model, shown)
    with pytest.raises(UserError, match="the model classifies pixels, so it has no queries to analyze"):
        predictions_of_depths(model, [torch.from_numpy(shown.resized).permute(2, 0, 1)])
