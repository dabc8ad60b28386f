"""Tracks of a clip."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from mask2former.config import InferenceConfig
from mask2former.memory import check_memory
from mask2former.ops.masks import Patch
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.postprocessing.binary_masks import MaskBands
from mask2former.postprocessing.instances import best_pairs
from mask2former.postprocessing.resampling import Size, full_precision, parts, strips
from mask2former.structures import Categories, Prediction, VideoInstances
from mask2former.structures.result_base import reach

__all__ = ["frame_masks", "video_instance"]


def video_instance(
    prediction: Prediction, output_size: Size, categories: Categories, settings: InferenceConfig
) -> VideoInstances:
    """The most certain (query, class) pairs of a complete clip as tracks, sorted by falling score.

    As for images, a query can appear with several classes, and masks may overlap or be empty. The score is the class
    probability alone (Mask2Former for Video Instance Segmentation, Sec. 3).

    Args:
        prediction: prediction for a clip.
        output_size: height and width of the result.
        categories: the classes of the model.
        settings: ``max_instances``, ``things_only``, ``things_first``, ``instance_threshold`` and ``class_thresholds``
            are used; with a threshold of 0 all candidates are kept, as published.

    Raises:
        UserError: the masks of all frames would not fit into memory, judging by those of the first frame.
    """
    with torch.inference_mode(), full_precision(prediction):
        scores, queries, labels = best_pairs(prediction.probabilities[:, :-1], categories, settings)
    certain, classes = scores.cpu().double().numpy(), labels.cpu().numpy()
    kept = np.flatnonzero(reach(certain, classes, categories, settings.instance_threshold, settings.class_thresholds))
    unique, mask_of_pair = torch.unique(queries[torch.from_numpy(kept).to(queries.device)], return_inverse=True)
    rows = mask_of_pair.cpu().numpy()
    frames: list[SparseMasks] = []
    for index in range(prediction.num_frames):
        masks = frame_masks(prediction.frame(index), output_size, unique)
        if not frames:
            height, width = output_size
            check_memory(
                f"the result of {prediction.num_frames} frames of {height}x{width} pixels (height x width)",
                sum(len(packed.bits) for packed in masks.packed) * prediction.num_frames,
                "use fewer frames or a smaller max_instances, or use track, which holds one window of frames",
            )
        frames.append(masks.take(rows))  # a query with several classes shares one mask, which is not copied
    return VideoInstances(frames, classes[kept], certain[kept], categories)


def frame_masks(prediction: Prediction, output_size: Size, queries: Int64[Tensor, " N"]) -> SparseMasks:
    """Binary masks of some queries in one frame, in the order of the queries.

    Args:
        prediction: prediction for an image, or for one frame of a clip.
        output_size: height and width of the masks.
        queries: indices of the queries.
    """
    assert prediction.num_frames == 1, f"an image has one frame, got {prediction.num_frames}"
    patches: list[Patch] = []
    with torch.inference_mode(), full_precision(prediction):
        for part in parts(queries, prediction, output_size):
            bands = MaskBands(len(part), output_size, prediction.device)
            for rows, logits in strips(prediction.masks_of(part)[:, 0], prediction, output_size):
                bands.add(rows, logits)
            patches += bands.masks()
    return SparseMasks(patches, output_size)
