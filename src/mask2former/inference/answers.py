"""From outputs of the model to results, with the settings that a checkpoint carries.

What the predictor answers and what training measures come from here, so that both are the same. Knows no pictures.
"""

from __future__ import annotations

from mask2former import postprocessing
from mask2former.config import InferenceConfig, Task
from mask2former.structures.categories import Categories
from mask2former.structures.clips import VideoInstances
from mask2former.structures.outputs import MaskOutput
from mask2former.structures.results import Segmentation

__all__ = ["clip_result_of", "result_of"]


def result_of(
    task: Task,
    output: MaskOutput,
    index: int,
    image_size_hw: tuple[int, int],
    output_size_hw: tuple[int, int],
    categories: Categories,
    settings: InferenceConfig,
) -> Segmentation:
    """The result of one task for image ``index`` of an output, with the settings that a checkpoint carries."""
    if task == "panoptic":
        return postprocessing.panoptic(
            output,
            index,
            image_size_hw,
            output_size_hw,
            categories,
            score_threshold=settings.score_threshold,
            overlap_threshold=settings.overlap_threshold,
        )
    if task == "instance":
        found = postprocessing.instance(
            output,
            index,
            image_size_hw,
            output_size_hw,
            categories,
            things_only=settings.things_only,
            max_instances=settings.max_instances,
        )
        # Windows are first joined: what is a lesser guess in one may be the better one of another.
        is_final = settings.exclusive and not settings.tile
        return postprocessing.apart(found, settings.overlap_threshold) if is_final else found
    return postprocessing.semantic(
        output, index, image_size_hw, output_size_hw, categories, resize_masks_first=settings.resize_masks_first
    )


def clip_result_of(
    output: MaskOutput,
    index: int,
    image_size_hw: tuple[int, int],
    output_size_hw: tuple[int, int],
    categories: Categories,
    settings: InferenceConfig,
) -> VideoInstances:
    """The tracks of clip ``index`` of an output, with the settings that a checkpoint carries."""
    return postprocessing.video_instance(
        output,
        index,
        image_size_hw,
        output_size_hw,
        categories,
        things_only=settings.things_only,
        max_instances=settings.max_instances,
    )
