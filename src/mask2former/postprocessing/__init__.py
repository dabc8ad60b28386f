"""From the outputs of a network to results: ``(prediction, output_size, categories, settings) -> result``.

There is a function for each task (Mask2Former, Sec. 3 and 4.1) and one for clips. They do not depend on which network
made a prediction, how images were resized, or how a result is used.

Masks at the output size are large (100 queries at 1024x2048 are 840 MB), so they are never computed all at once: every
task goes over strips of output rows that fit into the cache, and keeps only what it needs of each strip.
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
    """The result of a task, chosen by its name.

    Raises:
        UserError: the network classifies pixels, and the task is not semantic.
    """
    if task == "semantic":
        return semantic(prediction, output_size, categories, settings)
    return _TASKS[task](of_queries(prediction), output_size, categories, settings)


def of_queries(prediction: Prediction | PixelPrediction) -> Prediction:
    """The prediction, checked to have queries.

    Raises:
        UserError: the network classifies pixels, so only semantic results are possible.
    """
    if isinstance(prediction, PixelPrediction):
        raise UserError(
            "the network classifies pixels, and therefore predicts no objects or segments; choose the task semantic"
        )
    return prediction
