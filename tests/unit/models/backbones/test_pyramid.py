"""Plain vision transformers with a simple feature pyramid: tiny timm models with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mask2former import Mask2Former
from mask2former.analysis import count_flops
from mask2former.checkpoints.describe import describe_checkpoint
from mask2former.checkpoints.formats.backbones import recognised_backbone, start_from_backbone
from mask2former.config import ModelConfig, OptimConfig, TimmConfig
from mask2former.errors import UserError
from mask2former.models.backbones import TimmBackbone
from mask2former.models.backbones.pyramid import SimpleFeaturePyramid
from mask2former.models.build import build_model
from mask2former.structures import Categories
from mask2former.training.optim import parameter_groups

TINY: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2}
DINO: tuple[str, dict[str, Any]] = ("vit_small_patch14_dinov2", TINY | {"img_size": 56})
PLAIN = ("vit_tiny_patch16_224", TINY)


def backbone(model: str, kwargs: dict[str, Any], **settings: Any) -> TimmBackbone:
    torch.manual_seed(0)
    return TimmBackbone(model, kwargs=kwargs, pyramid=24, **settings).eval()


@pytest.mark.parametrize(("model", "kwargs"), [DINO, PLAIN], ids=["dinov2", "vit"])
def test_the_maps_have_four_strides(model: str, kwargs: dict[str, Any]) -> None:
    vit = backbone(model, kwargs)
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        maps = vit(images)
    assert [tuple(level.shape) for level in maps] == [(2, 24, 64 // s, 96 // s) for s in vit.strides]
    assert vit.channels == (24,) * 4


def test_patches_of_14_pixels_see_an_image_of_as_many_tokens() -> None:
    model, kwargs = DINO
    vit = backbone(model, kwargs)
    images = torch.randn(1, 3, 64, 32)
    seen = F.interpolate(images, (56, 28), mode="bilinear", antialias=True)
    with torch.inference_mode():
        [feature] = vit.body(seen)
        expected = vit.pyramid(feature)  # pyright: ignore[reportOptionalCall]
        assert feature.shape == (1, 32, 4, 2)
        for level, wanted in zip(vit(images), expected, strict=True):
            torch.testing.assert_close(level, wanted)


def test_patches_of_14_pixels_are_seen_in_half_precision() -> None:
    model, kwargs = DINO
    vit = backbone(model, kwargs).bfloat16()
    with torch.inference_mode():
        maps = vit(torch.randn(1, 3, 64, 32).bfloat16())
    assert {level.dtype for level in maps} == {torch.bfloat16}


def test_a_pyramid_is_made_level_by_level() -> None:
    torch.manual_seed(0)
    pyramid = SimpleFeaturePyramid(8, 6).double()
    feature = torch.randn(1, 8, 4, 6, dtype=torch.float64)
    with torch.no_grad():
        maps = pyramid(feature)
    coarsest: Any = pyramid.levels[3]
    _, reduce, norm, smooth, last = coarsest
    pooled = feature.unflatten(2, (2, 2)).unflatten(4, (3, 2)).amax((3, 5))
    reduced = torch.einsum("dc,nchw->ndhw", reduce.weight[:, :, 0, 0], pooled)
    reduced = (reduced - reduced.mean(1, keepdim=True)) / (reduced.var(1, False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(norm(torch.einsum("dc,nchw->ndhw", reduce.weight[:, :, 0, 0], pooled)), reduced)
    torch.testing.assert_close(maps[3], last(smooth(reduced)))
    assert [level.shape[2:] for level in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_the_pyramid_learns_at_the_base_rate_and_positions_do_not_decay() -> None:
    model = small_model()
    rates = {}
    for group in parameter_groups(model, OptimConfig()):
        rates |= {name: (group["lr_multiplier"], group["weight_decay"]) for name in group["names"]}
    [position] = [name for name in rates if name.endswith("pos_embed")]
    assert rates[position] == (0.1, 0.0)
    assert rates["backbone.pyramid.levels.0.1.weight"] == (pytest.approx(1.0), 0.05)
    assert rates["backbone.pyramid.levels.0.2.weight"] == (pytest.approx(1.0), 0.0)


def small_model() -> Mask2Former:
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {
            "backbone": {"name": "timm", "model": DINO[0], "kwargs": DINO[1], "pyramid": 16},
            "pixel_decoder": {"dim": 32, "mask_dim": 16, "num_layers": 1, "num_heads": 2, "feedforward_dim": 32},
            "transformer_decoder": {
                "dim": 32,
                "num_queries": 5,
                "num_layers": 2,
                "num_heads": 2,
                "feedforward_dim": 32,
            },
        }
    )
    model = build_model(config, 3)
    model.categories = Categories.from_names(["a", "b", "c"])
    return model


def test_a_model_with_it_is_stored_described_and_counted(tmp_path: Path) -> None:
    model, file = small_model().eval(), tmp_path / "vit.safetensors"
    model.save_pretrained(file)
    again = Mask2Former.from_pretrained(file).eval()
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(model([image]).class_logits, again([image]).class_logits)
    assert again.info.known_architecture.backbone == TimmConfig(model=DINO[0], kwargs=DINO[1], pyramid=16)
    assert "simple feature pyramid of 16 channels" in describe_checkpoint(file)["backbone"]
    cost = count_flops(model, [(64, 96)])
    rows = {row.name: row for row in cost.modules}
    assert rows["backbone.pyramid"].multiply_adds > 4 * 6 * 32 * 16
    assert rows["backbone.body"].multiply_adds > 2 * 4 * 6 * 32 * 32 * 12  # two blocks of 24 tokens


def test_it_starts_from_weights_of_timm() -> None:
    import timm

    torch.manual_seed(1)
    whole = timm.create_model(DINO[0], **DINO[1])
    wanted = TimmConfig(model=DINO[0], kwargs=DINO[1], pyramid=16)
    found = recognised_backbone(whole.state_dict(), None, wanted)
    assert found is not None
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    notes = start_from_backbone(model, found[1], "weights")
    assert "the pyramid over the backbone is newly initialised" in notes
    after = model.state_dict()
    assert torch.equal(after["backbone.body.model.pos_embed"], whole.state_dict()["pos_embed"])
    assert torch.equal(
        after["backbone.body.model.blocks.1.mlp.fc2.weight"], whole.state_dict()["blocks.1.mlp.fc2.weight"]
    )
    kept = "backbone.pyramid.levels.0.1.weight"
    assert torch.equal(after[kept], before[kept])


def test_models_that_do_not_go_with_it_are_refused() -> None:
    with pytest.raises(UserError, match=r"a pyramid \(model.backbone.pyramid\) is for plain vision transformers"):
        TimmBackbone("resnet18", pyramid=16)
    with pytest.raises(UserError, match=r"for a plain vision transformer set model.backbone.pyramid=256"):
        TimmBackbone(PLAIN[0], kwargs=PLAIN[1] | {"depth": 3})
    with pytest.raises(UserError, match="does not accept images of arbitrary size"):
        TimmBackbone(PLAIN[0], kwargs=PLAIN[1] | {"dynamic_img_size": False}, pyramid=16)
