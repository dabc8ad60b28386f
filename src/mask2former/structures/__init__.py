"""The shared vocabulary: what data, models, losses, post-processing and evaluation hand to one another.

Nothing here knows how any of it is made.
"""

from mask2former.structures.categories import Categories, Category
from mask2former.structures.clips import VideoInstances
from mask2former.structures.outputs import MaskOutput
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
    "PanopticSegmentation",
    "Sample",
    "Segment",
    "Segmentation",
    "SemanticSegmentation",
    "Target",
    "VideoInstances",
]
