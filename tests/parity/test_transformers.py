"""The Mask2Former of ``transformers`` with random weights gives the same numbers: a second reference.

It is an independent code base that runs here, so it covers what the golden arrays cannot: other sizes, widths and
depths. Its weights pass through our converter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from mask2former.checkpoints import load_into
from mask2former.checkpoints.formats.huggingface import HUGGINGFACE
from mask2former.checkpoints.formats.original import from_original, original_names
from mask2former.checkpoints.rules import to_original
from mask2former.config import MaskedDecoderConfig, ModelConfig, MSDeformAttnConfig, SwinConfig
from mask2former.models.build import build_model
from mask2former.models.mask2former import Mask2Former
from mask2former.structures import MaskOutput

NUM_CLASSES = 7
CONFIG = ModelConfig(
    backbone=SwinConfig(embed_dim=16, depths=(2, 2, 3, 2), num_heads=(1, 2, 4, 8), window_size=5),
    pixel_decoder=MSDeformAttnConfig(num_layers=3),
    transformer_decoder=MaskedDecoderConfig(num_queries=12, num_layers=5),
)
# Heights and widths in pixels of the images of a batch. Padded to 32, then a quarter, then halves: the grids are
# smaller than the window of 5, multiples of it, and neither.
BATCHES = [[(75, 131)], [(150, 61), (129, 33)], [(197, 320)], [(32, 32)]]


def reference_model() -> Any:
    """A model whose values are all moved from their initial ones, so that every branch has an effect."""
    backbone, pixel_decoder, decoder = CONFIG.backbone, CONFIG.pixel_decoder, CONFIG.transformer_decoder
    assert isinstance(backbone, SwinConfig)
    assert isinstance(pixel_decoder, MSDeformAttnConfig)
    assert isinstance(decoder, MaskedDecoderConfig)
    config = transformers.Mask2FormerConfig(
        backbone_config=transformers.SwinConfig(
            embed_dim=backbone.embed_dim,
            depths=list(backbone.depths),
            num_heads=list(backbone.num_heads),
            window_size=backbone.window_size,
            out_features=["stage1", "stage2", "stage3", "stage4"],  # pyright: ignore[reportCallIssue]  (of the base)
        ),
        num_queries=decoder.num_queries,
        num_labels=NUM_CLASSES,  # pyright: ignore[reportCallIssue]  (of the base)
        encoder_layers=pixel_decoder.num_layers,
        decoder_layers=decoder.num_layers + 1,  # counts the prediction before the first layer, as the published files
    )
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.Mask2FormerForUniversalSegmentation(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.04 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def our_model(state: dict[str, Tensor]) -> Mask2Former:
    model = build_model(CONFIG, NUM_CLASSES).double().eval()
    load_into(model, from_original(to_original(HUGGINGFACE, state), CONFIG), "transformers")
    return model


@pytest.fixture(scope="module")
def reference() -> Any:
    return reference_model()


@pytest.fixture(scope="module")
def ours(reference: Any) -> Mask2Former:
    return our_model(reference.state_dict())


@pytest.mark.parametrize("sizes", BATCHES, ids=str)
def test_logits_of_every_layer_are_those_of_transformers(
    reference: Any, ours: Mask2Former, sizes: list[tuple[int, int]]
) -> None:
    generator = torch.Generator().manual_seed(2)
    images = [torch.randint(0, 256, (3, *size), generator=generator) for size in sizes]
    with torch.inference_mode():
        expected = reference(pixel_values=ours.normalize(images).flatten(0, 1), output_auxiliary_logits=True)
        output = ours(images)
    compare(output, expected)


def test_sizes_that_are_not_padded_agree_too(reference: Any, ours: Mask2Former) -> None:
    pixels = torch.randn((1, 3, 101, 150), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.inference_mode():
        expected = reference(pixel_values=pixels, output_auxiliary_logits=True)
        output = ours.transformer_decoder(ours.pixel_decoder(ours.backbone(pixels)))
    compare(output, expected)


def compare(output: MaskOutput, expected: Any) -> None:
    pairs = [(output, expected), *zip(output.aux_outputs, expected.auxiliary_logits, strict=True)]
    assert len(pairs) == 5 + 1
    for got, wanted in pairs:
        torch.testing.assert_close(got.class_logits, wanted["class_queries_logits"], rtol=0, atol=1e-9)
        torch.testing.assert_close(got.mask_logits.squeeze(2), wanted["masks_queries_logits"], rtol=0, atol=1e-9)

    # The comparison means something only if masks block a part of the image and queries differ.
    blocked = (output.mask_logits < 0).double().mean()
    assert 0.02 < blocked < 0.98
    assert output.class_logits.std(dim=1).min() > 0.01


def test_files_of_transformers_hold_the_same_weights_under_their_other_names(reference: Any, tmp_path: Path) -> None:
    reference.save_pretrained(tmp_path)  # written with the names of the files on its hub
    stored = to_original(HUGGINGFACE, load_file(tmp_path / "model.safetensors"))
    in_memory = to_original(HUGGINGFACE, reference.state_dict())
    published = {name for name, ours in original_names(CONFIG) if ours is not None} | {"criterion.empty_weight"}
    assert stored.keys() == in_memory.keys() == published
    for name, value in in_memory.items():
        assert torch.equal(stored[name], value), name
