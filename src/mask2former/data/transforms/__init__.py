"""Images and their ground truth before the network: sizes, geometry, and the random augmentations of training.

``sizes`` resizes images, for prediction too. ``geometry`` moves images, polygons, ids and masks alike. A ``plan`` is
one draw of an augmentation, for an image or all frames of a clip. ``published`` has those that run files choose from;
``color_jitter``, ``exposure`` and ``blur`` change values, and ``copy_paste`` joins two samples. Knows arrays only,
no data sets and no models.
"""

from mask2former.data.transforms.blur import Blur, draw_blur
from mask2former.data.transforms.color_jitter import ColorJitter, draw_color_jitter
from mask2former.data.transforms.exposure import Exposure, draw_exposure
from mask2former.data.transforms.geometry import Crop, Flip, Geometry, Resize
from mask2former.data.transforms.plan import Augmentation, Plan, class_map, object_areas
from mask2former.data.transforms.published import LargeScaleJitter, ResizeCropFlip
from mask2former.data.transforms.sizes import (
    frame_size,
    resize_clip,
    resize_image,
    shortest_edge_size,
)

__all__ = [
    "Augmentation",
    "Blur",
    "ColorJitter",
    "Crop",
    "Exposure",
    "Flip",
    "Geometry",
    "LargeScaleJitter",
    "Plan",
    "Resize",
    "ResizeCropFlip",
    "class_map",
    "draw_blur",
    "draw_color_jitter",
    "draw_exposure",
    "frame_size",
    "object_areas",
    "resize_clip",
    "resize_image",
    "shortest_edge_size",
]
