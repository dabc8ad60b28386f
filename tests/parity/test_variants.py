"""Alternatives compared in the paper, against the published implementation in float64: logits, results, losses."""

from __future__ import annotations

from functools import cache

import golden
import numpy as np
import pytest
import torch
from golden import VARIANTS, arrays, facts
from torch import Tensor, nn

from mask2former import postprocessing
from mask2former.config import InferenceConfig
from mask2former.losses import PixelCriterion
from mask2former.models.layers import MultiHeadAttention
from mask2former.models.mask2former import Mask2Former
from mask2former.structures import Categories, MaskOutput, PixelOutput, Target

DEPTHS = {  # outputs of earlier layers; the last case was run without
    "masked_decoder_fpn": 9,
    "masked_decoder_transformer_encoder_prenorm": 3,
    "standard_decoder_fpn": 5,
    "standard_decoder_transformer_encoder": 5,
    "standard_decoder_prenorm_encoder_pixel_embedding": 0,
}
OF_MASKS = list(DEPTHS)
OF_PIXELS = [case for case in VARIANTS if case.startswith("per_pixel")]
CLASSES = Categories.from_names([f"class {index}" for index in range(150)])


@cache
def model_of(case: str) -> Mask2Former:
    return golden.variant_model(case)


def image(case: str) -> Tensor:
    return torch.from_numpy(arrays(f"variant_{case}")["image"]).permute(2, 0, 1).double()


def compare(actual: Tensor, case: str, key: str, tolerance: float) -> bool:
    """Compare with the stored array, or with the part in the trimmed file; return False if there is none."""
    stored = arrays(f"variant_{case}")
    name, part = (key, actual.numpy()) if key in stored else golden.some(key, actual.numpy())
    if name not in stored:
        return False
    assert part.shape == stored[name].shape, name
    np.testing.assert_allclose(part, stored[name], rtol=1e-6, atol=tolerance, err_msg=name)
    return True


# Two other cases have its parts.
SLOW = pytest.param("standard_decoder_fpn", marks=pytest.mark.slow)


@pytest.mark.parametrize("case", [SLOW if case == "standard_decoder_fpn" else case for case in OF_MASKS])
def test_masks_and_classes_of_every_depth(case: str) -> None:
    deep = DEPTHS[case] > 0
    with torch.no_grad():
        output = model_of(case)([image(case)], aux_outputs=deep)
    assert isinstance(output, MaskOutput)
    assert len(output.aux_outputs) == DEPTHS[case]
    assert compare(output.class_logits, case, "pred_logits", 1e-6)
    assert compare(output.mask_logits[:, :, 0], case, "pred_masks", 1e-5)
    compared = 0
    for depth, earlier in enumerate(output.aux_outputs):
        compared += compare(earlier.class_logits, case, f"aux{depth}.pred_logits", 1e-6)
        compared += compare(earlier.mask_logits[:, ::10, 0], case, f"aux{depth}.pred_masks_every10", 1e-5)
    assert compared >= 3 * deep
    size = (image(case).shape[1], image(case).shape[2])
    result = postprocessing.semantic(
        output.predictions([size])[0], size, CLASSES, InferenceConfig(resize_masks_first=False)
    )
    np.testing.assert_array_equal(result.labels, arrays(f"variant_{case}")["sem_seg.argmax"])


@pytest.mark.parametrize("case", OF_PIXELS)
def test_scores_of_pixels(case: str) -> None:
    height, width = image(case).shape[1:]
    with torch.no_grad():
        output = model_of(case)([image(case)], aux_outputs=False)
    assert isinstance(output, PixelOutput)
    [prediction] = output.predictions([(height, width)])
    settings = InferenceConfig(tasks=("semantic",))
    scores = postprocessing.semantic_scores(prediction, (height, width), settings)
    assert compare(scores[None, :, ::4, ::4], case, "logits.every4", 1e-5)
    result = postprocessing.semantic(prediction, (height, width), CLASSES, settings)
    np.testing.assert_array_equal(result.labels, arrays(f"variant_{case}")["sem_seg.argmax"])


@pytest.mark.parametrize("case", OF_PIXELS)
def test_loss_of_pixels(case: str) -> None:
    model = model_of(case).train()
    for module in model.modules():  # as the case was run
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, MultiHeadAttention):
            module.dropout = 0.0
    wanted = torch.from_numpy(arrays(f"variant_{case}")["sem_seg_target"]).long()
    labels = torch.tensor([label for label in wanted.unique().tolist() if label != 255])
    target = Target(labels, (wanted == labels[:, None, None]).unsqueeze(1))
    assert (wanted == 255).any()
    with torch.no_grad():
        losses = PixelCriterion(150)(model([image(case)[:, :64, :64]]), [target])
    model.eval()
    expected = facts(f"variant_{case}")["training_losses"]
    assert losses.terms.keys() == expected.keys()
    for name, value in losses.terms.items():
        assert value.item() == pytest.approx(expected[name], abs=1e-9), name
    assert losses.total.item() == pytest.approx(sum(expected.values()), abs=1e-9)
