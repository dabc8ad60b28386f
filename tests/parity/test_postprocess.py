"""Post-processing compared with the published numbers, and with a literal form of the specification."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mask2former import postprocessing
from mask2former.config import InferenceConfig
from mask2former.postprocessing import resampling
from mask2former.structures import Categories, Prediction

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "postprocess.npz"
IMAGE_SIZE, OUTPUT_SIZE = (90, 121), (101, 137)
CATEGORIES = Categories.from_names([f"class {k}" for k in range(9)], [f"class {k}" for k in range(5)])


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def prediction(golden: dict[str, np.ndarray]) -> Prediction:
    class_logits, masks = torch.from_numpy(golden["mask_cls"]), torch.from_numpy(golden["mask_pred"])
    return Prediction(class_logits, masks[:, None], IMAGE_SIZE, (4 * masks.shape[1], 4 * masks.shape[2]))


@pytest.fixture(params=["one row", "seven rows", "whole"])
def strips(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"one row": 1, "seven rows": 7 * 24 * 137, "whole": 2**30}[request.param]
    monkeypatch.setattr(resampling, "_STRIP_VALUES_CPU", values)


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize(
    ("score", "overlap", "prefix"),
    [
        (0.8, 0.8, ""),
        (0.8, 0.0, "thresholds_0.8_0.0."),
        (0.0, 0.5, "thresholds_0.0_0.5."),
        (0.99999, 0.8, "thresholds_0.99999_0.8."),
    ],
)
def test_panoptic_equals_the_published(
    prediction: Prediction, golden: dict[str, np.ndarray], score: float, overlap: float, prefix: str
) -> None:
    settings = InferenceConfig(score_threshold=score, overlap_threshold=overlap)
    result = postprocessing.panoptic(prediction, OUTPUT_SIZE, CATEGORIES, settings)
    np.testing.assert_array_equal(result.ids, golden[f"{prefix}panoptic.ids"])
    rows = [(segment.id, int(segment.is_thing), segment.label) for segment in result.segments]
    assert rows == [tuple(row) for row in golden[f"{prefix}panoptic.segments"].tolist()]


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("things_only", [True, False])
def test_instances_equal_the_published(
    prediction: Prediction, golden: dict[str, np.ndarray], things_only: bool
) -> None:
    settings = InferenceConfig(things_only=things_only, max_instances=20, instance_threshold=0)
    result = postprocessing.instance(prediction, OUTPUT_SIZE, CATEGORIES, settings)
    prefix = "panoptic_on.instances." if things_only else "panoptic_off.instances."
    np.testing.assert_allclose(result.scores, golden[prefix + "scores"], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(result.labels, golden[prefix + "classes"])
    count, height, width = golden[prefix + "mask_shape"].tolist()
    masks = np.unpackbits(golden[prefix + "masks_packed"], axis=1)[:, : height * width].reshape(count, height, width)
    np.testing.assert_array_equal(result.masks, masks.astype(bool))


@pytest.mark.usefixtures("strips")
def test_semantic_equals_the_published(prediction: Prediction, golden: dict[str, np.ndarray]) -> None:
    scores = postprocessing.semantic_scores(prediction, OUTPUT_SIZE, InferenceConfig())
    np.testing.assert_allclose(scores[:, ::4, ::4].numpy(), golden["sem_seg_every4"], rtol=1e-6, atol=1e-7)
    labels = postprocessing.semantic(prediction, OUTPUT_SIZE, CATEGORIES, InferenceConfig()).labels
    np.testing.assert_array_equal(labels, golden["sem_seg.argmax"])


# --- the specification, written out ----------------------------------------------------------------------------------


def _resized_logits(prediction: Prediction, output_size: tuple[int, int]) -> Tensor:
    masks = prediction.mask_logits[None, :, 0]
    masks = F.interpolate(masks, size=prediction.padded_size, mode="bilinear", align_corners=False)
    masks = masks[:, :, : prediction.image_size[0], : prediction.image_size[1]]
    return F.interpolate(masks, size=output_size, mode="bilinear", align_corners=False)[0]


def _panoptic_reference(
    class_logits: Tensor, masks: Tensor, categories: Categories, score_threshold: float, overlap_threshold: float
) -> tuple[Tensor, list[tuple[int, int]], dict[int, int]]:
    """Id map, (id, label) of every segment, and the painted area of each, one query after the other."""
    scores, labels = class_logits.softmax(-1).max(-1)
    keep = (labels != len(categories)) & (scores > score_threshold)
    ids = torch.zeros(masks.shape[-2:], dtype=torch.int32)
    segments: list[tuple[int, int]] = []
    stuff: dict[int, int] = {}
    if not keep.any():
        return ids, segments, {}
    probabilities = masks[keep].sigmoid()
    owner = (scores[keep].view(-1, 1, 1) * probabilities).argmax(0)
    for query, label in enumerate(labels[keep].tolist()):
        assigned = owner == query
        original = probabilities[query] >= 0.5
        both = assigned & original
        if not assigned.any() or not original.any() or not both.any():
            continue
        if assigned.sum().item() / original.sum().item() < overlap_threshold:
            continue
        if not categories[label].is_thing and label in stuff:
            ids[both] = stuff[label]
            continue
        number = len(segments) + 1
        if not categories[label].is_thing:
            stuff[label] = number
        ids[both] = number
        segments.append((number, label))
    return ids, segments, {number: int((ids == number).sum()) for number, _ in segments}


def _random_prediction(seed: int, image_size: tuple[int, int], dtype: torch.dtype = torch.float64) -> Prediction:
    """A prediction with smooth masks, certain and uncertain classes, repeated stuff and queries without an object."""
    generator = torch.Generator().manual_seed(seed)
    masks = F.interpolate(torch.randn(1, 30, 5, 6, generator=generator, dtype=dtype), size=(20, 24), mode="bicubic")
    class_logits = 3.0 * torch.randn(30, 10, generator=generator, dtype=dtype)
    return Prediction(class_logits, 8 * masks[0, :, None] - 1, image_size, (80, 96))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sizes", [((80, 96), (80, 96)), ((71, 90), (150, 61)), ((33, 96), (20, 300))])
@pytest.mark.parametrize("thresholds", [(0.0, 0.0), (0.5, 0.3), (0.8, 0.8)])
def test_panoptic_equals_the_slow_reading(
    seed: int, sizes: tuple[tuple[int, int], tuple[int, int]], thresholds: tuple[float, float]
) -> None:
    prediction = _random_prediction(seed, sizes[0])
    logits = _resized_logits(prediction, sizes[1])
    ids, segments, areas = _panoptic_reference(prediction.class_logits, logits, CATEGORIES, *thresholds)
    settings = InferenceConfig(score_threshold=thresholds[0], overlap_threshold=thresholds[1])
    result = postprocessing.panoptic(prediction, sizes[1], CATEGORIES, settings)
    np.testing.assert_array_equal(result.ids, ids.numpy())
    assert [(segment.id, segment.label) for segment in result.segments] == segments
    assert {segment.id: segment.area for segment in result.segments} == areas


@pytest.mark.parametrize("sizes", [((80, 96), (80, 96)), ((71, 90), (150, 61)), ((33, 96), (20, 300))])
@pytest.mark.parametrize("masks_first", [True, False])
def test_semantic_scores_equal_the_slow_reading(
    sizes: tuple[tuple[int, int], tuple[int, int]], masks_first: bool
) -> None:
    prediction = _random_prediction(11, sizes[0])
    probabilities = prediction.class_logits.softmax(-1)[:, :-1]
    if masks_first:
        expected = torch.einsum("qk,qhw->khw", probabilities, _resized_logits(prediction, sizes[1]).sigmoid())
    else:
        image_size, output_size = sizes
        padded = F.interpolate(prediction.mask_logits[None, :, 0], size=(80, 96), mode="bilinear", align_corners=False)
        scores = torch.einsum("qk,qhw->khw", probabilities, padded[0].sigmoid())
        cropped = scores[None, :, : image_size[0], : image_size[1]]
        expected = F.interpolate(cropped, size=output_size, mode="bilinear", align_corners=False)[0]
    settings = InferenceConfig(resize_masks_first=masks_first)
    scores = postprocessing.semantic_scores(prediction, sizes[1], settings)
    torch.testing.assert_close(scores, expected, rtol=1e-12, atol=1e-12)
    labels = postprocessing.semantic(prediction, sizes[1], CATEGORIES, settings).labels
    np.testing.assert_array_equal(labels, expected.argmax(0).numpy())


@pytest.mark.parametrize("things_only", [True, False])
def test_instances_equal_the_slow_reading(things_only: bool) -> None:
    prediction, output_size = _random_prediction(12, (71, 90)), (150, 61)
    logits = _resized_logits(prediction, output_size)
    flat = prediction.class_logits.softmax(-1)[:, :-1].flatten()
    expected = []
    for pair in flat.argsort(descending=True)[:40].tolist():
        query, label = divmod(pair, 9)
        if things_only and not CATEGORIES[label].is_thing:
            continue
        mask = (logits[query] > 0).double()
        mask_score = (logits[query].sigmoid() * mask).sum() / (mask.sum() + 1e-6)
        expected.append((float(flat[pair] * mask_score), label, mask.bool().numpy()))
    expected.sort(key=lambda entry: -entry[0])
    settings = InferenceConfig(things_only=things_only, max_instances=40, instance_threshold=0)
    result = postprocessing.instance(prediction, output_size, CATEGORIES, settings)
    np.testing.assert_allclose(result.scores, [score for score, _, _ in expected], rtol=1e-12)
    assert result.labels.tolist() == [label for _, label, _ in expected]
    np.testing.assert_array_equal(result.masks, np.stack([mask for _, _, mask in expected]))
