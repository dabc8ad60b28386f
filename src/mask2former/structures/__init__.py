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

_NAMES = {  # by module
    "categories": ("Categories", "Category"),
    "clips": ("VideoInstances",),
    "model_info": ("ModelInfo",),
    "outputs": ("MaskOutput",),
    "pixel_predictions": ("PixelOutput", "PixelPrediction"),
    "predictions": ("Prediction",),
    "results": ("Instances", "PanopticSegmentation", "Segment", "Segmentation", "SemanticSegmentation"),
    "samples": ("Batch", "ImageBatch", "Sample", "Target"),
}


def __getattr__(name: str) -> Any:
    home = next((module for module, names in _NAMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module 'mask2former.structures' has no attribute '{name}'")
    value = getattr(import_module(f"mask2former.structures.{home}"), name)
    globals()[name] = value
    return value
