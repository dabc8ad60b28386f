"""Mask2Former: panoptic, instance and semantic segmentation of images and clips with one architecture.

This is the public interface. Names are imported when first used, so that ``import mask2former`` is fast; modules inside
the package do not import them from here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mask2former.checkpoints.average import average_files
    from mask2former.checkpoints.convert import convert
    from mask2former.checkpoints.describe import describe_checkpoint, known_models
    from mask2former.config import EvaluationConfig, ModelConfig, RunConfig
    from mask2former.data.sample_sets import SampleSet
    from mask2former.data.sources import DataSource
    from mask2former.dataset_tools.check_data import check_data
    from mask2former.dataset_tools.prepare import prepare
    from mask2former.errors import UserError
    from mask2former.evaluation.curves import plot_runs
    from mask2former.evaluation.evaluate import evaluate
    from mask2former.inference.predict_files import predict_files
    from mask2former.inference.predictor import Predictor
    from mask2former.inference.track_files import track_files
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
        Prediction,
        SemanticSegmentation,
        VideoInstances,
    )
    from mask2former.training.run import train

    __version__: str

__all__ = [
    "Categories",
    "Criterion",
    "DataSource",
    "EvaluationConfig",
    "Instances",
    "LossTerm",
    "Mask2Former",
    "MaskOutput",
    "ModelConfig",
    "ModelInfo",
    "PanopticSegmentation",
    "Prediction",
    "Predictor",
    "RunConfig",
    "SampleSet",
    "SemanticSegmentation",
    "UserError",
    "VideoInstances",
    "__version__",
    "average_files",
    "build_model",
    "check_data",
    "convert",
    "describe_checkpoint",
    "evaluate",
    "known_models",
    "plot_runs",
    "predict_files",
    "prepare",
    "recipe",
    "recipe_names",
    "scenes_tiny",
    "track_files",
    "train",
]

_HOME = {
    "Categories": "mask2former.structures",
    "DataSource": "mask2former.data.sources",
    "EvaluationConfig": "mask2former.config",
    "Criterion": "mask2former.losses",
    "Instances": "mask2former.structures",
    "LossTerm": "mask2former.losses",
    "Mask2Former": "mask2former.models.mask2former",
    "MaskOutput": "mask2former.structures",
    "ModelConfig": "mask2former.config",
    "ModelInfo": "mask2former.structures",
    "PanopticSegmentation": "mask2former.structures",
    "Prediction": "mask2former.structures",
    "Predictor": "mask2former.inference.predictor",
    "UserError": "mask2former.errors",
    "SampleSet": "mask2former.data.sample_sets",
    "RunConfig": "mask2former.config",
    "SemanticSegmentation": "mask2former.structures",
    "VideoInstances": "mask2former.structures",
    "average_files": "mask2former.checkpoints.average",
    "build_model": "mask2former.models.build",
    "check_data": "mask2former.dataset_tools.check_data",
    "describe_checkpoint": "mask2former.checkpoints.describe",
    "convert": "mask2former.checkpoints.convert",
    "evaluate": "mask2former.evaluation.evaluate",
    "known_models": "mask2former.checkpoints.describe",
    "plot_runs": "mask2former.evaluation.curves",
    "predict_files": "mask2former.inference.predict_files",
    "prepare": "mask2former.dataset_tools.prepare",
    "recipe": "mask2former.recipes",
    "recipe_names": "mask2former.recipes",
    "scenes_tiny": "mask2former.recipes",
    "track_files": "mask2former.inference.track_files",
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
