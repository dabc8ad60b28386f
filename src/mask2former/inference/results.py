"""From outputs of the model to results, with the settings that a checkpoint carries.

What the predictor answers and what training measures come from here, so that both are the same. Knows no images.
"""

from __future__ import annotations

from typing import TypeVar

import torch

from mask2former import postprocessing
from mask2former.config import InferenceConfig, Task
from mask2former.errors import UserError
from mask2former.structures.categories import Categories
from mask2former.structures.clips import VideoInstances
from mask2former.structures.outputs import MaskOutput
from mask2former.structures.results import Instances, Segmentation

__all__ = ["ALL_CANDIDATES", "check_finite", "clip_result_of", "predicted", "result_of"]

# Settings with which results hold all instances, as metrics and files of results for them need it.
ALL_CANDIDATES = {"instance_threshold": 0.0}

ResultT = TypeVar("ResultT")


def check_finite(output: MaskOutput) -> None:
    """Refuse logits that are NaN or infinite, from which results would come that look like results.

    Costs two passes over the logits, which is well below 1 % of the model.

    Raises:
        UserError: some are; with float16 that is nearly always its range.
    """
    dtype = str(output.mask_logits.dtype).removeprefix("torch.")
    for name, logits in (("class", output.class_logits), ("mask", output.mask_logits)):
        low, high = torch.aminmax(logits)  # NaN passes through
        if not (low.isfinite() and high.isfinite()):
            cause = (
                "values went beyond the range of float16: use bfloat16 or float32"
                if output.mask_logits.dtype == torch.float16
                else "the weights are damaged, or too large for this input: load them again, or take another checkpoint"
            )
            raise UserError(f"the model gives {name} logits that are not finite (in {dtype}); {cause}")


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
            things_first=settings.things_first,
            max_instances=settings.max_instances,
        )
        # Windows are first joined: what is a lesser guess in one may be the better one of another.
        if settings.tile:
            return found
        if settings.non_overlapping:
            found = postprocessing.remove_overlaps(found, settings.overlap_threshold)
        return found.at_least(settings.instance_threshold)
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
    found = postprocessing.video_instance(
        output,
        index,
        image_size_hw,
        output_size_hw,
        categories,
        things_only=settings.things_only,
        things_first=settings.things_first,
        max_instances=settings.max_instances,
    )
    return found.at_least(settings.instance_threshold)


def predicted(result: ResultT, settings: InferenceConfig) -> ResultT:
    """What a user is shown of a result that was asked for with all candidates (``instance_threshold=0``)."""
    if isinstance(result, Instances | VideoInstances):
        return result.at_least(settings.instance_threshold)  # pyright: ignore[reportReturnType]  (of the same type)
    return result
