from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from mask2former.config import MaskedDecoderConfig, ModelConfig, MSDeformAttnConfig, SwinConfig, TimmConfig
from mask2former.errors import UserError
from mask2former.models.build import build_model
from mask2former.models.mask2former import Mask2Former
from mask2former.structures import ImageBatch, ModelInfo

BACKBONES = {
    "timm": TimmConfig(model="resnet10t", norm="batch", kwargs={"channels": [16, 24, 32, 40]}),
    "frozen": TimmConfig(model="resnet10t", norm="frozen", kwargs={"channels": [16, 24, 32, 40]}),
    "swin": SwinConfig(embed_dim=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 2, 4), window_size=3),
}
NUM_CLASSES = 4


def small(
    backbone: str, position_encoding: str = "2d", num_layers: int = 4, **normalisation: tuple[float, ...]
) -> Mask2Former:
    config = ModelConfig(
        backbone=BACKBONES[backbone],
        pixel_decoder=MSDeformAttnConfig(
            dim=64, mask_dim=48, num_layers=num_layers // 2, num_heads=4, feedforward_dim=64
        ),
        transformer_decoder=MaskedDecoderConfig.model_validate(
            {
                "dim": 64,
                "num_queries": 10,
                "num_layers": num_layers,
                "num_heads": 4,
                "feedforward_dim": 64,
                "position_encoding": position_encoding,
            }
        ),
    )
    torch.manual_seed(0)
    return build_model(config.model_copy(update=normalisation), NUM_CLASSES)


def random_image(height: int, width: int, frames: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(height * width)
    shape = (3, height, width) if frames is None else (frames, 3, height, width)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("channels", [1, 5])
def test_a_model_takes_as_many_channels_as_its_mean_has_numbers(backbone: str, channels: int) -> None:
    mean, std = tuple(float(10 * number) for number in range(channels)), (40.0,) * channels
    model = small(backbone, num_layers=2, pixel_mean=mean, pixel_std=std).eval()
    assert (model.channels, model.info.inference.bands) == (channels, channels)
    image = random_image(channels * 33, 70)[0].view(channels, 33, 70)
    pixels = model.normalize([image])[0, 0]
    torch.testing.assert_close(pixels[-1, :33, :70], (image[-1] - mean[-1]) / 40)
    with torch.inference_mode():
        plain, prepared = (one([image], aux_outputs=False) for one in (model, model.prepare_for_inference()))
        others = model([image.flip(0)], aux_outputs=False)
    torch.testing.assert_close(prepared.class_logits, plain.class_logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(others.class_logits, plain.class_logits) == (channels == 1)
    with pytest.raises(UserError, match=rf"expects images of {channels} channels?, got 3; use images like"):
        model([random_image(33, 70)])


def test_images_are_normalised_and_then_padded_with_zeros() -> None:
    model = small("timm").double()
    image = random_image(33, 70)
    pixels = model.normalize([image])
    assert pixels.shape == (1, 1, 3, 64, 96)
    mean = torch.tensor([123.675, 116.280, 103.530], dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor([58.395, 57.120, 57.375], dtype=torch.float64).view(3, 1, 1)
    torch.testing.assert_close(pixels[0, 0, :, :33, :70], (image - mean) / std, rtol=0, atol=1e-12)
    assert not pixels[..., 33:, :].any()
    assert not pixels[..., 70:].any()


def test_every_form_of_a_model_normalises_as_its_configuration_says() -> None:
    model = small("frozen", num_layers=2, pixel_mean=(127.0, 0.0, 1.5), pixel_std=(128.0, 255.0, 1.0)).double().eval()
    image = random_image(32, 33)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in ((127, 0, 1.5), (128, 255, 1)))
    for form in (model, model.prepare_for_inference(), copy.deepcopy(model)):
        pixels = form.normalize([image])
        torch.testing.assert_close(pixels[0, 0, ..., :33], (image - mean) / std, rtol=0, atol=1e-12)
        assert not pixels[..., 33:].any()


def test_a_batch_is_padded_to_the_largest_height_and_width() -> None:
    pixels = small("timm").normalize([random_image(32, 65), random_image(40, 32)])
    assert pixels.shape == (2, 1, 3, 64, 96)
    assert not pixels[0, ..., 32:, :].any()
    assert not pixels[1, ..., 32:].any()


def test_bytes_and_floats_of_one_value_are_one_image() -> None:
    model = small("timm")
    image = random_image(32, 48)
    assert torch.equal(model.normalize([image]), model.normalize([image.float()]))


@pytest.mark.parametrize("frames", [None, 1, 3])
def test_masks_always_have_a_frame_axis_at_a_quarter_of_the_padded_size(frames: int | None) -> None:
    model = small("timm").eval()
    with torch.inference_mode():
        output = model([random_image(50, 70, frames), random_image(64, 20, frames)])
    assert output.class_logits.shape == (2, 10, NUM_CLASSES + 1)
    assert output.mask_logits.shape == (2, 10, frames or 1, 16, 24)
    assert output.padded_size == (64, 96)
    assert len(output.aux_outputs) == 4


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("position_encoding", ["2d", "3d"])
def test_every_parameter_gets_a_gradient(backbone: str, position_encoding: str) -> None:
    model = small(backbone, position_encoding).train()
    with torch.no_grad():  # these start at zero and let nothing through to the positions before them
        for name, parameter in model.named_parameters():
            if "sampling_offsets.weight" in name or "attention_weights.weight" in name:
                parameter.normal_(std=0.1)
    output = model([random_image(64, 96, 2), random_image(64, 80, 2)])
    total = torch.zeros(())
    for depth in (output, *output.aux_outputs):
        total = total + depth.class_logits.square().mean() + depth.mask_logits.square().mean()
    total.backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all() or not parameter.grad.any()
    ]
    assert not without


@pytest.mark.long
@pytest.mark.unchecked
@pytest.mark.parametrize("backbone", ["timm", "swin"])
def test_evaluation_compiles_without_a_graph_break(backbone: str) -> None:
    model = small(backbone, num_layers=2).eval()  # tracing time grows with the layers
    images = [random_image(64, 96)]
    if backbone == "swin":  # the parts after it are the same
        pixels = model.normalize(images).flatten(0, 1)
        with torch.inference_mode():
            maps = torch.compile(model.backbone, fullgraph=True, backend="eager")(pixels)
            torch.testing.assert_close(list(maps), list(model.backbone(pixels)))
        return
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.inference_mode():
        got, expected = compiled(images), model(images)
    torch.testing.assert_close(got.class_logits, expected.class_logits)
    torch.testing.assert_close(got.mask_logits, expected.mask_logits)
    assert len(got.aux_outputs) == len(expected.aux_outputs)


@pytest.mark.parametrize("backbone", ["frozen", "swin"])
def test_the_whole_model_can_run_in_half_precision(backbone: str) -> None:
    model = small(backbone).eval()
    with torch.inference_mode():
        expected = model([random_image(64, 64)])
        got = model.bfloat16()([random_image(64, 64)])
    assert got.class_logits.dtype == torch.bfloat16
    assert got.class_logits.isfinite().all()
    assert (got.class_logits - expected.class_logits).abs().mean() < 0.1


def test_initial_values_depend_on_the_seed_alone() -> None:
    first, second = small("swin").state_dict(), small("swin").state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_evaluation_draws_no_random_numbers() -> None:
    model = small("swin").eval()
    before = torch.get_rng_state()
    with torch.inference_mode():
        model([random_image(32, 32)])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_can_be_made_of_parts() -> None:
    parts = small("timm")
    model = Mask2Former(parts.backbone, parts.pixel_decoder, parts.transformer_decoder, size_divisibility=64).eval()
    batch = ImageBatch(torch.zeros(1, 1, 3, 64, 64), ((40, 33),))
    with torch.inference_mode():
        assert model(batch).padded_size == (64, 64)
    assert model.info == ModelInfo()


@pytest.mark.parametrize("backbone", ["frozen", "swin"])
def test_a_prepared_model_gives_the_same_and_leaves_the_model_as_it_is(backbone: str) -> None:
    model = small(backbone).double().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parts = list(model.children())
    prepared = model.prepare_for_inference()
    assert type(prepared) is type(model)
    assert (prepared.info, prepared.mean, prepared.std) == (model.info, model.mean, model.std)
    assert prepared.backbone is not model.backbone
    assert list(model.children()) == parts
    images = [random_image(50, 70), random_image(64, 33)]
    with torch.inference_mode():
        got, expected = prepared(images), model(images)
    torch.testing.assert_close(got.class_logits, expected.class_logits, rtol=0, atol=1e-9)
    torch.testing.assert_close(got.mask_logits, expected.mask_logits, rtol=0, atol=1e-9)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert before.keys() == model.state_dict().keys()
    assert model.train().prepare_for_inference().backbone is model.backbone


def test_a_part_that_returns_something_else_is_named() -> None:
    class Tuple(torch.nn.Module):
        def forward(self, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
            return torch.zeros(1), torch.zeros(1)

    model = small("timm").eval()
    decoder, model.transformer_decoder = model.transformer_decoder, Tuple()
    with pytest.raises(UserError, match="transformer decoder returned a tuple; expected MaskOutput"):
        model([random_image(32, 32)])
    model.transformer_decoder, model.pixel_decoder = decoder, Tuple()
    with pytest.raises(UserError, match="pixel decoder returned a tuple; expected PixelFeatures"):
        model([random_image(32, 32)])
