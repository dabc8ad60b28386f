"""A class for every pixel."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from mask2former.config import InferenceConfig
from mask2former.postprocessing.resampling import Size, first_argmax, full_precision, resize_last, row_strips, strips
from mask2former.structures import Categories, PixelPrediction, Prediction, SemanticSegmentation

__all__ = ["semantic", "semantic_scores"]


def semantic(
    prediction: Prediction | PixelPrediction, output_size: Size, categories: Categories, settings: InferenceConfig
) -> SemanticSegmentation:
    """The class of every pixel: the argmax of :func:`semantic_scores`, computed without storing all scores.

    Args:
        prediction: prediction for an image (T = 1), for queries or for pixels.
        output_size: height and width of the result, usually those of the original image.
        categories: the classes of the model.
        settings: ``resize_masks_first`` is used: if True, mask logits are resized before the scores are computed; if
            False, the class scores are resized instead, as published for semantic-only models.
    """
    labels = torch.empty(output_size, dtype=torch.int32, device=prediction.device)
    with torch.inference_mode(), full_precision(prediction):
        for rows, scores in _score_strips(prediction, output_size, settings.resize_masks_first):
            labels[rows] = first_argmax(scores).to(torch.int32)
    return SemanticSegmentation(labels.cpu().numpy(), categories)


def semantic_scores(
    prediction: Prediction | PixelPrediction, output_size: Size, settings: InferenceConfig
) -> Float[Tensor, "K H W"]:
    """Class scores per pixel: the sum over queries of class probability times mask probability, not normalised.

    For a prediction without queries, its logits. Scores are on the device of the prediction, in at least float32.
    Arguments are those of :func:`semantic`.
    """
    is_of_pixels = isinstance(prediction, PixelPrediction)
    num_classes = len(prediction.class_scores) if is_of_pixels else prediction.class_logits.shape[1] - 1
    scores = torch.empty((num_classes, *output_size), dtype=prediction.dtype, device=prediction.device)
    with torch.no_grad(), full_precision(prediction):
        for rows, strip in _score_strips(prediction, output_size, settings.resize_masks_first):
            scores[:, rows] = strip.transpose(0, 1)
    return scores


def _score_strips(
    prediction: Prediction | PixelPrediction, output_size: Size, resize_masks_first: bool
) -> Iterator[tuple[slice, Float[Tensor, "rows K W"]]]:
    """Semantic class scores at the output size, a strip of rows at a time."""
    assert prediction.num_frames == 1, f"an image has one frame, got {prediction.num_frames}"
    if isinstance(prediction, PixelPrediction):  # resizing is linear, so the order does not matter
        yield from strips(prediction.class_scores[:, 0].detach().to(prediction.dtype), prediction, output_size)
        return
    masks = prediction.masks_of()[:, 0]
    probabilities = prediction.probabilities[:, :-1].T.contiguous()  # (K, Q)
    scores_size = output_size if resize_masks_first else prediction.image_size
    score_strips = (
        (rows, probabilities @ logits.sigmoid_()) for rows, logits in strips(masks, prediction, scores_size)
    )
    if scores_size == output_size:
        yield from score_strips
        return
    num_classes, (height, width), (output_height, output_width) = len(probabilities), scores_size, output_size
    scores = masks.new_empty((height, num_classes, width))
    for rows, strip in score_strips:
        scores[rows] = strip
    # Rows first here: these maps are about as large as the result, which must not be in memory all at once.
    values_per_row = num_classes * max(width, output_width)
    for rows, source, weights in row_strips(height, height, height, output_height, values_per_row, masks):
        strip = (weights @ scores[source].flatten(1)).view(-1, width)  # (rows * K, w)
        yield rows, resize_last(strip, width, width, output_width).reshape(-1, num_classes, output_width)
