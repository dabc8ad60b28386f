"""The shared vocabulary: what data, models, losses, post-processing and evaluation hand to one another.

Nothing here knows how any of it is made. Names are imported when first used, so that who needs the classes of a data
set only, as the processes of ``mask2former prepare``, does without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mask2former.structures.categories import Categories, Category
    from mask2former.structures.clips import VideoInstances
    from mask2former.structures.model_info import ModelInfo
    from mask2former.structures.outputs import MaskOutput
    from mask2former.structures.pixel_predictions import PixelOutput, PixelPrediction
    from mask2former.structures.predictions import Prediction
    from mask2former.structures.results import (
        Instances,
        PanopticSegmentation,
        Segment,
        Segmentation,
        SemanticSegmentation,
    )
    from mask2former.structures.samples import Batch, ImageBatch, Sample, Target

__all__ = [
    "Batch",
    "Categories",
    "Category",
    "ImageBatch",
    "Instances",
    "MaskOutput",
    "ModelInfo",
    "PanopticSegmentation",
    "PixelOutput",
    "PixelPrediction",
    "Prediction",
    "Sample",
    "Segment",
    "Segmentation",
    "SemanticSegmentation",
    "Target",
    "VideoInstances",
]

_HOME = {
    "Batch": "samples",
    "Categories": "categories",
    "Category": "categories",
    "ImageBatch": "samples",
    "Instances": "results",
    "MaskOutput": "outputs",
    "ModelInfo": "model_info",
    "PanopticSegmentation": "results",
    "PixelOutput": "pixel_predictions",
    "PixelPrediction": "pixel_predictions",
    "Prediction": "predictions",
    "Sample": "samples",
    "Segment": "results",
    "Segmentation": "results",
    "SemanticSegmentation": "results",
    "Target": "samples",
    "VideoInstances": "clips",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mask2former.structures' has no attribute '{name}'")
    value = getattr(import_module(f"mask2former.structures.{_HOME[name]}"), name)
    globals()[name] = value
    return value
