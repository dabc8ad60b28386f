"""Predictions say what they hold, and can be taken apart and kept; those of pixels as those of queries."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mask2former.structures import Categories, MaskOutput, PixelPrediction, Prediction, VideoInstances

CATEGORIES = Categories.from_names(["cat", "dog"])
SIZES = (30, 40), (32, 64)


def make(kind: type[Prediction] | type[PixelPrediction]) -> Prediction | PixelPrediction:
    values = torch.arange(2 * 3 * 8 * 16, dtype=torch.bfloat16).reshape(2, 3, 8, 16)
    return PixelPrediction(values, *SIZES) if kind is PixelPrediction else Prediction(torch.zeros(2, 3), values, *SIZES)


def scores(prediction: Prediction | PixelPrediction) -> torch.Tensor:
    return prediction.class_scores if isinstance(prediction, PixelPrediction) else prediction.masks.all()


@pytest.mark.parametrize("kind", [Prediction, PixelPrediction])
def test_frames_and_copies(kind: type[Prediction] | type[PixelPrediction]) -> None:
    prediction = make(kind)
    assert prediction.num_frames == 3
    frame = prediction.frame(1)
    assert frame.num_frames == 1
    assert (frame.image_size, frame.padded_size) == SIZES
    assert torch.equal(scores(frame), scores(prediction)[:, 1:2])
    kept, before = prediction.clone(), scores(prediction).clone()
    scores(prediction).zero_()
    assert torch.equal(scores(kept), before)
    on_host = kept.on_host()
    assert scores(on_host).dtype == torch.float32
    assert torch.equal(scores(on_host), before.float())


def test_what_is_shown_of_them_is_sizes_and_no_numbers() -> None:
    assert repr(make(Prediction)) == (
        "Prediction(2 queries, 2 classes, mask logits (2, 3, 8, 16), image_size=(30, 40), padded_size=(32, 64))"
    )
    assert repr(make(PixelPrediction)) == (
        "PixelPrediction(class scores (2, 3, 8, 16), image_size=(30, 40), padded_size=(32, 64))"
    )
    output = MaskOutput(torch.zeros(1, 2, 3), torch.zeros(1, 2, 1, 8, 16), torch.zeros(1, 2, 4))
    assert repr(output) == "MaskOutput(class_logits (1, 2, 3), masks (1, 2, 1, 8, 16), aux_outputs=0)"
    masks = np.ones((2, 3, 4, 5), dtype=bool)
    clip = VideoInstances(masks, np.array([1, 1]), np.array([0.5, 0.25]), CATEGORIES)
    assert "2 dog" in repr(clip)
    assert "3 frames of 4x5 pixels" in repr(clip)
