"""Every setting of the library: frozen, strict pydantic models, no torch.

Defaults are the published values (Mask2Former, Sec. 4.1) unless a comment says otherwise. Counts of classes, thing
ids and colours are not settings: they come from the categories of the data or the checkpoint. Modules read
their defaults from them and are given plain keyword arguments by ``models/build.py``, ``data/build.py`` and
``training/``.
"""

from __future__ import annotations

from mask2former.config.augmentation import (
    AugmentationConfig,
    LargeScaleJitterConfig,
    NoAugmentationConfig,
    ResizeCropFlipConfig,
)
from mask2former.config.data import (
    Ade20kConfig,
    Ade20kFullConfig,
    CityscapesConfig,
    ClipFiles,
    ClipFolders,
    ClipSampling,
    ClipsConfig,
    CocoConfig,
    CocoFiles,
    CocoInstanceConfig,
    CocoPanopticConfig,
    CocoStuff10kConfig,
    DataConfig,
    DatasetConfig,
    FilesConfig,
    LabelFolderConfig,
    LabelFolders,
    MapillaryVistasConfig,
    MaskFoldersConfig,
    MetricStyle,
    NamedFilesConfig,
    OfficialConfig,
    PanopticFiles,
    SceneClipsConfig,
    ScenesConfig,
    YoloConfig,
    YouTubeVISConfig,
)
from mask2former.config.fields import Resampling, Task
from mask2former.config.inference import InferenceConfig, TrackingConfig
from mask2former.config.model import (
    ArchitectureConfig,
    BackboneConfig,
    MaskedDecoderConfig,
    ModelConfig,
    MSDeformAttnConfig,
    OwnPartsConfig,
    SwinConfig,
    TimmConfig,
)
from mask2former.config.old_names import with_new_names
from mask2former.config.run import RunConfig, apply_overrides, leaves, parse, read_run_file
from mask2former.config.training import CriterionConfig, EvaluationConfig, OptimConfig, TrainerConfig

__all__ = [
    "Ade20kConfig",
    "Ade20kFullConfig",
    "ArchitectureConfig",
    "AugmentationConfig",
    "BackboneConfig",
    "CityscapesConfig",
    "ClipFiles",
    "ClipFolders",
    "ClipSampling",
    "ClipsConfig",
    "CocoConfig",
    "CocoFiles",
    "CocoInstanceConfig",
    "CocoPanopticConfig",
    "CocoStuff10kConfig",
    "CriterionConfig",
    "DataConfig",
    "DatasetConfig",
    "EvaluationConfig",
    "FilesConfig",
    "InferenceConfig",
    "LabelFolderConfig",
    "LabelFolders",
    "LargeScaleJitterConfig",
    "MSDeformAttnConfig",
    "MapillaryVistasConfig",
    "MaskFoldersConfig",
    "MaskedDecoderConfig",
    "MetricStyle",
    "ModelConfig",
    "NamedFilesConfig",
    "NoAugmentationConfig",
    "OfficialConfig",
    "OptimConfig",
    "OwnPartsConfig",
    "PanopticFiles",
    "Resampling",
    "ResizeCropFlipConfig",
    "RunConfig",
    "SceneClipsConfig",
    "ScenesConfig",
    "SwinConfig",
    "Task",
    "TimmConfig",
    "TrackingConfig",
    "TrainerConfig",
    "YoloConfig",
    "YouTubeVISConfig",
    "apply_overrides",
    "leaves",
    "parse",
    "read_run_file",
    "with_new_names",
]
