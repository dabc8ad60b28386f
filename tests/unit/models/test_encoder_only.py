"""Encoder-only mask transformers: tiny plain vision transformers of timm with random weights."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mask2former import Criterion, Mask2Former, Predictor
from mask2former.analysis import count_flops
from mask2former.checkpoints.convert import convert
from mask2former.checkpoints.describe import describe_checkpoint
from mask2former.checkpoints.formats.backbones import recognised_backbone, start_from_backbone
from mask2former.config import ArchitectureConfig, ModelConfig, OptimConfig, TimmConfig, parse
from mask2former.errors import UserError
from mask2former.export import export
from mask2former.models.build import build_model
from mask2former.models.transformer_decoders import EncoderOnlyDecoder
from mask2former.models.transformer_decoders.encoder_only import masked_shares
from mask2former.structures import Categories, MaskOutput
from mask2former.structures.model_info import ModelInfo
from mask2former.structures.samples import Target
from mask2former.training.optim import parameter_groups

CLASSES, QUERIES, BLOCKS = 3, 5, 2
TINY: dict[str, Any] = {"embed_dim": 32, "depth": 3, "num_heads": 2}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", TINY),
    "dinov2": ("vit_small_patch14_reg4_dinov2", TINY | {"img_size": 56}),
    "dinov3": ("vit_small_patch16_dinov3", TINY),
}


def body(model: Mask2Former) -> Any:
    """The timm model inside the backbone."""
    return model.backbone.body


def values(kind: str = "dinov2", **decoder: Any) -> dict[str, Any]:
    model, kwargs = KINDS[kind]
    return {
        "backbone": {"name": "timm", "model": model, "kwargs": kwargs, "joint_blocks": BLOCKS},
        "pixel_decoder": {"name": "none"},
        "transformer_decoder": {"name": "encoder-only", "num_queries": QUERIES, **decoder},
    }


def small(kind: str = "dinov2", **decoder: Any) -> Mask2Former:
    """A model whose parameters are moved from their initial values, so that every branch has an effect."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(ModelConfig.model_validate(values(kind, **decoder)), CLASSES).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    model.categories = Categories.from_names(["a", "b", "c"])
    return model


@cache
def shared(kind: str) -> Mask2Former:
    return small(kind)


def random_image(seed: int, *shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def run(model: Mask2Former, images: list[Tensor], *, aux_outputs: bool = True) -> MaskOutput:
    with torch.inference_mode():
        output = model(images, aux_outputs=aux_outputs)
    assert isinstance(output, MaskOutput)
    return output


def close(one: MaskOutput, other: MaskOutput) -> None:
    pairs = [(one, other), *zip(one.aux_outputs, other.aux_outputs, strict=True)]
    for first, second in pairs:
        for name in ("class_logits", "mask_logits", "query_features"):
            torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_any_size_in_batches_and_clips(kind: str) -> None:
    model = shared(kind)
    images = [random_image(seed, 3, 70, 45) for seed in range(2)]
    together = run(model, images)
    assert together.class_logits.shape == (2, QUERIES, CLASSES + 1)
    assert together.mask_logits.shape == (2, QUERIES, 1, 24, 16)
    assert len(together.aux_outputs) == BLOCKS
    for index, image in enumerate(images):
        alone, rows = run(model, [image]), slice(index, index + 1)
        torch.testing.assert_close(together.class_logits[rows], alone.class_logits, rtol=0, atol=1e-9)
        torch.testing.assert_close(together.mask_logits[rows], alone.mask_logits, rtol=0, atol=1e-9)
        close(run(model, [image.unsqueeze(0)]), alone)
        still = run(model, [image.expand(3, -1, -1, -1)])  # a clip of equal frames
        torch.testing.assert_close(still.class_logits, alone.class_logits, rtol=0, atol=1e-9)
        torch.testing.assert_close(still.mask_logits, alone.mask_logits.expand_as(still.mask_logits), rtol=0, atol=1e-9)
    clip = torch.stack(images)
    forward, backward = run(model, [clip]), run(model, [clip.flip(0)])
    torch.testing.assert_close(backward.class_logits, forward.class_logits, rtol=0, atol=1e-9)
    torch.testing.assert_close(backward.mask_logits.flip(2), forward.mask_logits, rtol=0, atol=1e-9)
    assert (forward.class_logits - together.class_logits[:1]).abs().max() > 1e-4  # frames influence each other


@pytest.mark.parametrize("kind", KINDS)
def test_without_queries_the_tokens_are_those_of_timm(kind: str) -> None:
    """Without queries, the blocks that take them compute what timm's do, including rotary positions."""
    model = shared(kind)
    pixels = model.normalize([random_image(0, 3, 64, 96)]).flatten(0, 1)
    patch = body(model).patch_embed.patch_size[0]
    with torch.no_grad():
        features = model.backbone(pixels)
        tokens = torch.cat((features.prefix, features.patches), 1)
        for index, block in enumerate(features.blocks):
            tokens = block(tokens) if features.ropes is None else block(tokens, rope=features.ropes[index])
        seen = pixels if patch == 16 else F.interpolate(pixels, (56, 84), mode="bilinear", antialias=True)
        expected = body(model).forward_features(seen)
    assert features.grid == (4, 6)
    torch.testing.assert_close(features.norm(tokens), expected, rtol=0, atol=1e-9)


def test_shares_fall_one_after_the_other() -> None:
    assert masked_shares(0.0, 2) == masked_shares(0.25, 2) == [1, 1]
    first, second = masked_shares(0.375, 2)
    assert (first, second) == (pytest.approx(0.5**0.9), 1)
    assert masked_shares(0.5, 2) == [0, 1]
    assert masked_shares(0.625, 2) == [0, pytest.approx(0.5**0.9)]
    assert masked_shares(0.75, 2) == masked_shares(1.0, 2) == [0, 0]


def seen_masks(model: Mask2Former, image: Tensor) -> list[Tensor | None]:
    """The attention mask that each of the last blocks gets."""
    found: list[Tensor | None] = []
    blocks = body(model).blocks[-BLOCKS:]
    hooks = [
        block.register_forward_pre_hook(lambda *given: found.append(given[2]["attn_mask"]), with_kwargs=True)
        for block in blocks
    ]
    with torch.no_grad():
        model([image])
    for hook in hooks:
        hook.remove()
    return found


def test_queries_attend_inside_the_mask_read_before_for_the_share_of_the_time() -> None:
    model, image = small(), random_image(1, 3, 64, 64)
    decoder = model.transformer_decoder
    assert isinstance(decoder, EncoderOnlyDecoder)
    prefix = body(model).num_prefix_tokens
    assert seen_masks(model, image) == [None, None]  # in inference, whatever the progress
    model.train()
    assert not any(mask.any() for mask in seen_masks(model, image) if mask is not None)  # no progress, no mask
    decoder.set_progress(0.0)
    with torch.no_grad():
        output = model([image])
    outside = torch.empty(0)
    for depth, mask in zip(output.aux_outputs, seen_masks(model, image), strict=True):
        assert mask is not None
        queries = mask[0, 0, prefix : prefix + QUERIES]
        logits = F.interpolate(depth.mask_logits[:, :, 0], (4, 4), mode="bilinear").flatten(2)[0]
        outside = logits < 0
        assert outside.any()
        outside &= ~outside.all(1, keepdim=True)
        assert torch.equal(queries[:, prefix + QUERIES :].isinf(), outside)
        assert not queries[:, : prefix + QUERIES].any()
        rest = mask[0, 0].clone()
        rest[prefix : prefix + QUERIES] = 0
        assert not rest.any()  # other tokens are not restricted
    decoder.set_progress(0.55)  # the first block no longer masks
    first, second = seen_masks(model, image)
    assert first is not None
    assert second is not None
    assert not first.any()
    torch.manual_seed(0)
    drawn = []
    for _ in range(30):
        mask = seen_masks(model, image)[1]
        assert mask is not None
        drawn.append(mask[0, 0, prefix : prefix + QUERIES].isinf().any(1))
    counts = torch.stack(drawn)
    always = outside.any(1)
    assert not counts[:, ~always].any()
    assert abs(counts[:, always].double().mean() - masked_shares(0.55, 2)[1]) < 0.15
    decoder.set_progress(1.0)
    model.eval()
    last = run(model, [image])
    model.train()
    with torch.no_grad():
        close(model([image]), last)  # at the end training and inference do the same


def test_without_annealing_nothing_is_masked() -> None:
    model = small(mask_annealing=False).train()
    decoder = model.transformer_decoder
    assert isinstance(decoder, EncoderOnlyDecoder)
    decoder.set_progress(0.0)
    assert seen_masks(model, random_image(1, 3, 64, 64)) == [None, None]


def test_all_of_it_learns_also_when_blocks_are_computed_again() -> None:
    model = small().train()
    decoder, image = model.transformer_decoder, random_image(1, 3, 64, 64)
    assert isinstance(decoder, EncoderOnlyDecoder)
    decoder.set_progress(0.0)
    target = Target(torch.tensor([0, 2]), torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0)) > 0.5)
    found = []
    for enable in (False, True):
        model.set_gradient_checkpointing(enable)
        model.zero_grad()
        uniform = torch.Generator().manual_seed(0)
        losses = Criterion(CLASSES, num_points=32)(
            model([image]), [target], lambda shape, draws=uniform: torch.rand(shape, generator=draws)
        )
        assert {"loss_mask", "loss_mask_0", "loss_mask_1"} < losses.terms.keys()
        losses.total.backward()
        gradients = {name: value.grad for name, value in model.named_parameters()}
        assert all(value is not None and value.isfinite().all() for value in gradients.values())
        found.append(gradients)
    torch.testing.assert_close(found[0], found[1])


def test_earlier_blocks_learn_more_slowly_and_positions_do_not_decay() -> None:
    rates = {}
    for group in parameter_groups(small(), OptimConfig(backbone_multiplier=1)):
        rates |= {name: (group["lr_multiplier"], group["weight_decay"]) for name in group["names"]}
    body = "backbone.body."
    assert rates[f"{body}blocks.2.mlp.fc1.weight"] == rates[f"{body}blocks.1.mlp.fc1.weight"] == (1, 0.05)
    assert rates[f"{body}blocks.0.mlp.fc1.weight"] == (pytest.approx(0.8), 0.05)
    assert rates[f"{body}patch_embed.proj.weight"] == (pytest.approx(0.64), 0.05)
    assert rates[f"{body}pos_embed"] == (pytest.approx(0.64), 0)
    assert rates[f"{body}norm.weight"] == (1, 0)
    assert rates["transformer_decoder.queries.weight"] == (1, 0)


def test_a_model_is_stored_described_counted_and_converted_to_ours_alone(tmp_path: Path) -> None:
    model, file = small().float(), tmp_path / "vit.safetensors"
    model.save_pretrained(file)
    again, image = Mask2Former.from_pretrained(file).eval(), random_image(0, 3, 50, 70)
    assert torch.equal(run(model, [image]).class_logits, run(again, [image]).class_logits)
    assert again.info.known_architecture == model.info.known_architecture
    words = describe_checkpoint(file)
    assert words["backbone"].endswith("queries in its last 2 blocks")
    assert (words["pixel decoder"], words["decoder"]) == ("none", "encoder-only, 5 queries")
    with pytest.raises(UserError, match=r"only our own format .* can store an encoder-only model"):
        convert(file, tmp_path / "original.pkl", to="original")
    cost = count_flops(model, [(64, 96)])
    rows = {row.name: row.multiply_adds for row in cost.modules}
    assert cost.published is None
    assert rows["backbone"] > 29 * 12 * 32 * 32  # one block of 24 patches and 5 tokens
    # two blocks, which have 5 queries more, and one reading of masks
    assert rows["transformer_decoder"] > 2 * 34 * 12 * 32 * 32 + 24 * 4 * 32 * 32 + 96 * 4 * 32 * 32


def test_files_of_other_models_do_not_speak_of_it() -> None:
    info = ModelInfo(ArchitectureConfig(backbone=TimmConfig(model="resnet18")), categories=Categories.from_names(["a"]))
    assert "joint_blocks" not in json.dumps(info.to_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_from_weights_of_timm(kind: str) -> None:
    import timm

    name, kwargs = KINDS[kind]
    torch.manual_seed(1)
    whole = timm.create_model(name, **kwargs).state_dict()
    found = recognised_backbone(whole, None, TimmConfig(model=name, kwargs=kwargs, joint_blocks=BLOCKS))
    assert found is not None
    model = small(kind).float()
    model.mean, model.std = found[1].normalisations[0].pixel_mean, found[1].normalisations[0].pixel_std
    start_from_backbone(model, found[1], "weights")
    after = model.state_dict()
    for entry in ("blocks.0.norm1.weight", "blocks.2.mlp.fc2.weight", "norm.weight", "patch_embed.proj.weight"):
        assert torch.equal(after[f"backbone.body.{entry}"], whole[entry])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dinov2", "dinov3"])
def test_it_is_written_for_another_runtime(kind: str, tmp_path: Path) -> None:
    written = export(small(kind).float(), tmp_path / "vit.onnx", size=(64, 96))
    assert written.difference < 1e-4
    predicted = Predictor.from_pretrained(written.path)(random_image(0, 50, 75, 3).numpy(), "panoptic")
    assert predicted.ids.shape == (50, 75)


@pytest.mark.slow
@pytest.mark.unchecked
def test_it_compiles_whole_and_is_exported_for_batches_of_any_length() -> None:
    model = small().float()
    image, decoder = random_image(0, 3, 64, 64), model.transformer_decoder
    assert isinstance(decoder, EncoderOnlyDecoder)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    expected = run(model, [image], aux_outputs=False)
    assert torch.equal(compiled([image], aux_outputs=False).class_logits, expected.class_logits)
    model.train()
    for progress in (0, 1):  # on which the graph does not depend
        decoder.set_progress(progress)
        assert len(compiled([image]).aux_outputs) == BLOCKS
    torch.compiler.reset()

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
            output = self.model.forward_normalized(pixels, aux_outputs=False)
            assert isinstance(output, MaskOutput)
            return output.class_logits, output.mask_logits

    model.eval()
    dims = {"pixels": {0: torch.export.Dim("batch", min=1, max=8)}}
    graph = torch.export.export(Graph(), (torch.rand(2, 1, 3, 64, 64),), dynamic_shapes=dims, strict=False)
    other = torch.rand(3, 1, 3, 64, 64)
    for found, wanted in zip(graph.module()(other), Graph()(other), strict=True):
        torch.testing.assert_close(found, wanted)
    assert not any("rand" in str(node.target) for node in graph.graph.nodes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixel_decoder": {"name": "fpn"}}, "encoder-only need pixel_decoder.name none, too"),
        ({"transformer_decoder": {"name": "masked"}}, "need transformer_decoder.name encoder-only, too"),
        ({"backbone": {"name": "swin"}}, "need backbone.joint_blocks, too"),
        ({"backbone": {"name": "timm", "joint_blocks": 2, "pyramid": 8}}, "set one of the two to 0"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(ModelConfig, values() | changes, "run.yaml: model")


@pytest.mark.parametrize(
    ("model", "kwargs", "message"),
    [
        ("resnet18", {}, "joint_blocks require a plain vision transformer|is not a plain vision transformer"),
        ("beit_base_patch16_224", {}, "joint_blocks require a plain vision|is not a plain vision transformer"),
        ("vit_tiny_patch16_224", TINY | {"dynamic_img_size": False}, "remove 'dynamic_img_size' and"),
        ("vit_tiny_patch16_224", TINY | {"patch_drop_rate": 0.5}, "and all patches are needed"),
        (
            "vit_tiny_patch16_224",
            TINY | {"patch_size": [16, 8]},
            "has patches of .*joint_blocks require square",
        ),
        ("vit_tiny_patch16_224", TINY | {"depth": 2}, "has 2 blocks, but model.backbone.joint_blocks is 2"),
    ],
)
def test_backbones_that_cannot_are_refused(model: str, kwargs: dict[str, Any], message: str) -> None:
    config = values() | {"backbone": {"name": "timm", "model": model, "kwargs": kwargs, "joint_blocks": BLOCKS}}
    with pytest.raises(UserError, match=message):
        build_model(ModelConfig.model_validate(config), CLASSES)
