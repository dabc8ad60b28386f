"""Relations between batching, padding and the frame axis: equalities that hold for every kind of model."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from mask2former.config import (
    MaskedDecoderConfig,
    ModelConfig,
    MSDeformAttnConfig,
    SwinConfig,
    TimmConfig,
    TransformerFPNConfig,
)
from mask2former.models.build import build_model
from mask2former.models.mask2former import Mask2Former
from mask2former.models.transformer_decoders import MaskedTransformerDecoder
from mask2former.models.transformer_decoders.attention import Grid, blocked_attention
from mask2former.ops.mask_logits import DenseMasks, MaskLogits
from mask2former.structures import ImageBatch, MaskOutput

_PIXEL_DECODER = MSDeformAttnConfig(dim=64, mask_dim=48, num_layers=2, num_heads=4, feedforward_dim=64)
_RESNET = TimmConfig(model="resnet10t", norm="frozen", kwargs={"channels": [16, 24, 32, 40]})
_CONVNEXT = TimmConfig(model="convnext_atto", kwargs={"dims": [16, 24, 32, 40], "depths": [1, 1, 1, 1]})
_SWIN = SwinConfig(embed_dim=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 2, 4), window_size=3)
_PYRAMID = TransformerFPNConfig(dim=64, mask_dim=48, num_layers=1, num_heads=4, feedforward_dim=64)
KINDS = {  # backbone and pixel decoder
    "resnet": (_RESNET, _PIXEL_DECODER),
    "pyramid": (_RESNET, _PYRAMID),
    "convnext": (_CONVNEXT, _PIXEL_DECODER),
    "swin": (_SWIN, _PIXEL_DECODER),
    "stages": (_RESNET, _PIXEL_DECODER.model_copy(update={"num_layers": 3, "stages": (1, 1, 1)})),
}


@cache
def model_of(kind: str, position_encoding: str = "2d", dtype: torch.dtype = torch.float64) -> Mask2Former:
    """A small model whose values are moved from their initial ones, so that every branch has an effect."""
    decoder = {"dim": 64, "num_queries": 10, "num_layers": 4, "num_heads": 4, "feedforward_dim": 64}
    backbone, pixel_decoder = KINDS[kind]
    config = ModelConfig(
        backbone=backbone,
        pixel_decoder=pixel_decoder,
        transformer_decoder=MaskedDecoderConfig.model_validate(decoder | {"position_encoding": position_encoding}),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(config, 4).to(dtype).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    return model


def run(model: Mask2Former, images: list[Tensor] | ImageBatch) -> MaskOutput:
    with torch.inference_mode():
        return model(images)


def random_image(seed: int, height: int, width: int, frames: int | None = None) -> Tensor:
    shape = (3, height, width) if frames is None else (frames, 3, height, width)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def assert_equal(first: MaskOutput, second: MaskOutput, tolerance: float = 0.0) -> None:
    """Check that the outputs of all depths are equal; a tolerance of 0 means bit for bit."""
    pairs = [(first, second), *zip(first.aux_outputs, second.aux_outputs, strict=True)]
    assert len(pairs) == 5
    for one, other in pairs:
        for name in ("class_logits", "mask_logits", "query_features"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=tolerance)


def part(output: MaskOutput, index: int) -> MaskOutput:
    """The output of one clip of a batch."""
    rows = slice(index, index + 1)
    return MaskOutput(
        output.class_logits[rows],
        output.mask_logits[rows],
        output.query_features[rows],
        [part(depth, index) for depth in output.aux_outputs],
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frames", [None, 2])
def test_a_batch_of_equal_sizes_equals_its_members(kind: str, frames: int | None) -> None:
    model = model_of(kind)
    images = [random_image(seed, 60, 75, frames) for seed in range(3)]
    together = run(model, images)
    for index, image in enumerate(images):
        assert_equal(part(together, index), run(model, [image]), 1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_clip_of_one_frame_is_the_image_bit_for_bit(kind: str, dtype: torch.dtype) -> None:
    model = model_of(kind, dtype=dtype)
    image = random_image(0, 70, 45)
    assert_equal(run(model, [image.unsqueeze(0)]), run(model, [image]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_lies_in_the_padding_does_not_matter(kind: str, dtype: torch.dtype) -> None:
    model = model_of(kind, dtype=dtype)
    images = [random_image(0, 70, 45), random_image(1, 33, 90)]
    pixels = torch.zeros((2, 1, 3, 96, 96), dtype=images[0].dtype)
    for clip, image in zip(pixels, images, strict=True):
        clip[0, :, : image.shape[1], : image.shape[2]] = image
    padded = ImageBatch(pixels, ((70, 45), (33, 90)))
    expected = run(model, images)
    assert_equal(run(model, padded), expected)

    garbage = random_image(2, 128, 160).expand(2, 1, 3, 128, 160).clone()  # also larger than need be
    for clip, image in zip(garbage, images, strict=True):
        clip[0, :, : image.shape[1], : image.shape[2]] = image
    assert_equal(run(model, ImageBatch(garbage, ((70, 45), (33, 90)))), expected)
    infinite = torch.full((2, 1, 3, 96, 96), torch.nan)
    infinite[:, :, :, :70, :90] = garbage[:, :, :, :70, :90].float()
    infinite[0, ..., 45:] = torch.inf
    infinite[1, ..., 33:, :] = torch.nan
    assert_equal(run(model, ImageBatch(infinite, ((70, 45), (33, 90)))), expected)


def test_results_depend_on_how_a_image_was_padded() -> None:
    # As in the published model; a reason why the predictor runs images one by one.
    model = model_of("resnet")
    small, large = random_image(0, 64, 64), random_image(1, 128, 128)
    alone, beside = run(model, [small]), run(model, [small, large])
    assert (alone.class_logits - beside.class_logits[:1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_independent_up_to_the_transformer_decoder(kind: str) -> None:
    model = model_of(kind)
    clip = random_image(0, 64, 96, 3)
    with torch.inference_mode():
        features = model.pixel_decoder(model.backbone(model.normalize([clip]).flatten(0, 1)))
        for index, frame in enumerate(clip):
            alone = model.pixel_decoder(model.backbone(model.normalize([frame]).flatten(0, 1)))
            for got, wanted in zip(
                [features.mask_features, *features.multi_scale], [alone.mask_features, *alone.multi_scale], strict=True
            ):
                torch.testing.assert_close(got[index : index + 1], wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_that_stands_still_is_its_frame(kind: str) -> None:
    # Keys and values of all frames are one sequence; repeated tokens do not change the weighted mean. This
    # holds only without the position encoding of time.
    model = model_of(kind)
    image = random_image(0, 64, 96)
    still = run(model, [image.expand(3, -1, -1, -1)])
    single = run(model, [image])
    assert still.mask_logits.shape[2] == 3
    for depth, expected in zip([still, *still.aux_outputs], [single, *single.aux_outputs], strict=True):
        torch.testing.assert_close(depth.class_logits, expected.class_logits, rtol=0, atol=1e-9)
        repeated = expected.mask_logits.expand_as(depth.mask_logits)
        torch.testing.assert_close(depth.mask_logits, repeated, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_that_attends_to_one_frame_only_is_that_frame(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The frames of a clip influence each other only in the attention of its queries.
    model = model_of(kind)
    decoder = model.transformer_decoder
    assert isinstance(decoder, MaskedTransformerDecoder)
    clip = random_image(0, 64, 96, 3)
    singles = [run(model, [frame]) for frame in clip]
    for index, single in enumerate(singles):

        def of_clip(masks: MaskLogits, grids: list[Grid], index: int = index) -> Tensor:
            logits = masks.all()
            blocked = torch.ones_like(logits, dtype=torch.bool).flatten(3)
            blocked[:, :, index] = blocked_attention(DenseMasks(logits[:, :, index : index + 1]))
            return blocked.flatten(2)

        monkeypatch.setattr(decoder, "guide", of_clip)
        seen = run(model, [clip])
        monkeypatch.undo()
        frame = MaskOutput(
            seen.class_logits,
            seen.mask_logits[:, :, index : index + 1],
            seen.query_features,
            [
                MaskOutput(depth.class_logits, depth.mask_logits[:, :, index : index + 1], depth.query_features)
                for depth in seen.aux_outputs
            ],
        )
        assert_equal(frame, single, 1e-8)


def test_the_order_of_frames_matters_only_with_the_code_of_time() -> None:
    clip = random_image(0, 64, 96, 3)
    for position_encoding, matters in (("2d", False), ("3d", True)):
        model = model_of("resnet", position_encoding)
        forward, backward = run(model, [clip]), run(model, [clip.flip(0)])
        change = (forward.class_logits - backward.class_logits).abs().max()
        assert (change > 1e-4) == matters
        if not matters:
            torch.testing.assert_close(backward.mask_logits.flip(2), forward.mask_logits, rtol=0, atol=1e-8)


def test_clips_fold_into_the_batch_clip_by_clip() -> None:
    model = model_of("resnet")
    first, second = random_image(0, 64, 96, 2), random_image(1, 64, 96, 2)
    features = model.pixel_decoder(model.backbone(model.normalize([first, second]).flatten(0, 1)))
    output = model.transformer_decoder(features, 2)
    expected = run(model, [first, second])
    assert_equal(output, expected)
    # Every frame's masks come from its own embeddings and the clip's queries.
    decoder = model.transformer_decoder
    assert isinstance(decoder, MaskedTransformerDecoder)
    one, two, three = decoder.mask_head
    embedding = three(two(one(output.query_features).relu()).relu())
    for clip in range(2):
        for frame in range(2):
            masks = torch.einsum("qc,chw->qhw", embedding[clip], features.mask_features[2 * clip + frame])
            torch.testing.assert_close(output.mask_logits[clip, :, frame], masks, rtol=0, atol=1e-9)
