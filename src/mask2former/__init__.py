"""Mask2Former: panoptic, instance and semantic segmentation of pictures and clips with one architecture.

The public face. Names are imported when first used, so that ``import mask2former`` costs nothing; nothing inside the
package imports them from here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mask2former.config import ModelConfig, RunConfig
    from mask2former.errors import RequestError
    from mask2former.inference.predictor import Predictor
    from mask2former.losses import Criterion, LossTerm
    from mask2former.models.build import build_model
    from mask2former.models.mask2former import Mask2Former
    from mask2former.recipes import recipe, recipe_names, scenes_tiny
    from mask2former.structures import (
        Categories,
        Instances,
        MaskOutput,
        ModelInfo,
        PanopticSegmentation,
        SemanticSegmentation,
        VideoInstances,
    )
    from mask2former.training.run import train

    __version__: str

__all__ = [
    "Categories",
    "Criterion",
    "Instances",
    "LossTerm",
    "Mask2Former",
    "MaskOutput",
    "ModelConfig",
    "ModelInfo",
    "PanopticSegmentation",
    "Predictor",
    "RequestError",
    "RunConfig",
    "SemanticSegmentation",
    "VideoInstances",
    "__version__",
    "build_model",
    "recipe",
    "recipe_names",
    "scenes_tiny",
    "train",
]

_HOME = {
    "Categories": "mask2former.structures",
    "Criterion": "mask2former.losses",
    "Instances": "mask2former.structures",
    "LossTerm": "mask2former.losses",
    "Mask2Former": "mask2former.models.mask2former",
    "MaskOutput": "mask2former.structures",
    "ModelConfig": "mask2former.config",
    "ModelInfo": "mask2former.structures",
    "PanopticSegmentation": "mask2former.structures",
    "Predictor": "mask2former.inference.predictor",
    "RequestError": "mask2former.errors",
    "RunConfig": "mask2former.config",
    "SemanticSegmentation": "mask2former.structures",
    "VideoInstances": "mask2former.structures",
    "build_model": "mask2former.models.build",
    "recipe": "mask2former.recipes",
    "recipe_names": "mask2former.recipes",
    "scenes_tiny": "mask2former.recipes",
    "train": "mask2former.training.run",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        try:
            value: Any = metadata.version("mask2former")
        except metadata.PackageNotFoundError:  # a source tree that was never installed
            value = "0+uninstalled"
    elif name in _HOME:
        if name == "train":
            from mask2former.training import need_lightning

            need_lightning()
        value = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'mask2former' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
