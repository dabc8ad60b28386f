"""From what a network says to results: ``(prediction, output_size, categories, settings) -> result``.

A function for each task (Mask2Former, Sec. 3 and 4.1) and one for clips. Nothing here knows which network made a
prediction, how images were resized, or what happens to a result.

Masks at the output size are large (100 queries at 1024x2048 are 840 MB), so they never exist as a whole: every task
walks over strips of output rows that fit the cache, and keeps only what it needs of each strip.
"""

from __future__ import annotations

from mask2former.config import InferenceConfig, Task
from mask2former.errors import UserError
from mask2former.postprocessing.instances import best_pairs, instance, remove_overlaps
from mask2former.postprocessing.panoptic_maps import panoptic, panoptic_with_queries
from mask2former.postprocessing.semantic_maps import semantic, semantic_scores
from mask2former.postprocessing.video import frame_masks, video_instance
from mask2former.structures import Categories, PixelPrediction, Prediction, Segmentation

__all__ = [
    "best_pairs",
    "frame_masks",
    "instance",
    "of_queries",
    "panoptic",
    "panoptic_with_queries",
    "remove_overlaps",
    "segmentation",
    "semantic",
    "semantic_scores",
    "video_instance",
]

_TASKS = {"panoptic": panoptic, "instance": instance}


def segmentation(
    prediction: Prediction | PixelPrediction,
    output_size: tuple[int, int],
    categories: Categories,
    settings: InferenceConfig,
    task: Task,
) -> Segmentation:
    """The result of a task by its name.

    Raises:
        UserError: the prediction is one of pixels, and the task is not semantic.
    """
    if task == "semantic":
        return semantic(prediction, output_size, categories, settings)
    return _TASKS[task](of_queries(prediction), output_size, categories, settings)


def of_queries(prediction: Prediction | PixelPrediction) -> Prediction:
    """A prediction that has queries.

    Raises:
        UserError: it is one of pixels, of which there are semantic results alone.
    """
    if isinstance(prediction, PixelPrediction):
        raise UserError(
            "the network classifies pixels, and therefore predicts no objects or segments; choose the task semantic"
        )
    return prediction
