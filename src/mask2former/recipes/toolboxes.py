"""Models that three toolboxes trained and published themselves (``mmseg/ade20k-semantic/swin-t``).

The tables follow their configuration files; ``tests/data/toolbox_configs.json`` lists the same facts with their
sources. Differences of a toolbox that no setting can express are in ``deviations``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

from mask2former.config import (
    Ade20kConfig,
    AugmentationConfig,
    CityscapesConfig,
    CocoConfig,
    LargeScaleJitterConfig,
    ResizeCropFlipConfig,
)
from mask2former.recipes.families import ALL_TASKS, Family, Training, short_edges

__all__ = ["FAMILIES"]

# Backbones, and the name of the file with their ImageNet weights.
_SWIN_FILES = {
    "swin-t": "swin_tiny_patch4_window7_224",
    "swin-s": "swin_small_patch4_window7_224",
    "swin-b": "swin_base_patch4_window12_384",
    "swin-b-in21k": "swin_base_patch4_window12_384_22k",
    "swin-l": "swin_large_patch4_window12_384_22k",
}
_RESNET_FILES = {"r50": "torchvision://resnet50", "r101": "torchvision://resnet101"}
_MMSEG_DATES = {  # with what MMSegmentation added to the names in its conversion
    "swin-t": "20220317-1cdeb081",
    "swin-s": "20220317-7ba6d6dd",
    "swin-b": "20220317-55b0104a",
    "swin-b-in21k": "20220317-e5c09f74",
    "swin-l": "20220412-6580f57d",
}
_MMDET_INIT = _RESNET_FILES | {name: f"{file}.pth" for name, file in _SWIN_FILES.items()}
_MMSEG_INIT = _RESNET_FILES | {name: f"{file}_{_MMSEG_DATES[name]}.pth" for name, file in _SWIN_FILES.items()}
_SSSEG_INIT = _SWIN_FILES | {"swin-b": _SWIN_FILES["swin-b-in21k"]}

_FILL = "training images are padded with 0; here with 128, before they are normalised"
_XAVIER = (
    "weights that are not pretrained start from Xavier's normal distribution; here from the authors' initial values"
)
_FRACTIONS = "{} images are resized as floats; here values are rounded to whole numbers"
_MIN_SIZE = "images with a side of less than 32 pixels are left out of training; here none is"
_PLACE = "training images are cropped at random on each axis; here one random number serves both"
_POLYGONS = "polygons become masks, which are resized and cropped; here corners are moved, and masks are drawn last"
_FIXED_AFFINE = "batch norms learn their statistics, but scale and shift are fixed; here all of them are learned"


def _crops(base: int, crop: tuple[int, int]) -> AugmentationConfig:
    """Half to double the base size, then crops in which no class covers more than three quarters."""
    return ResizeCropFlipConfig(
        short_edges=short_edges(base),
        long_edge=4 * base,
        resampling="bilinear",
        crop_size=crop,
        max_category_share=0.75,
        pad_size=crop,
    )


# --- MMDetection -----------------------------------------------------------------------------------------------------


def _mmdet_files(**names: str) -> dict[str, str]:
    return {key.replace("_", "-"): f"configs/mask2former/mask2former_{name}.py" for key, name in names.items()}


def _mmdet_training(task: Literal["panoptic", "instance"], monitor: str) -> Training:
    return Training(
        CocoConfig(task=task),
        lambda base: LargeScaleJitterConfig(resampling="bilinear"),
        368_750,
        monitor,
        milestones=(327_778, 355_092),
        long=("swin-l",),
        filter_empty=True,
        not_evaluated=("semantic",),
        precision="fp32",
    )


_mmdet = partial(
    Family,
    edges=(800, 1333),
    provider="mmdet",
    resampling="bilinear",
    init=_MMDET_INIT,
)

# --- MMSegmentation --------------------------------------------------------------------------------------------------

_LARGE_ADE20K = ("swin-b", "swin-b-in21k", "swin-l")
_UNKNOWN_PADDING = (
    "the configuration does not say how images are padded to be segmented; here they are padded to multiples of 32 "
    "pixels, as its other models are"
)


def _mmseg_files(schedule: str, crops: Mapping[str, str], **names: str) -> dict[str, str]:
    found = {}
    for key, name in names.items():
        backbone = key.replace("_", "-")
        crop = crops.get(backbone, crops[""])
        found[backbone] = f"configs/mask2former/mask2former_{name}_8xb2-{schedule}-{crop}.py"
    return found


_mmseg = partial(
    Family,
    tasks=("semantic",),
    norm="sync",
    queries_large=100,
    gpus_large=8,
    provider="mmseg",
    resampling="bilinear",
    init=_MMSEG_INIT,
    deviations=(_FILL, _XAVIER),
)
_of_mmseg = partial(Training, monitor="semantic/mIoU", group_by_aspect=False, precision="fp32")

# --- SSSegmentation --------------------------------------------------------------------------------------------------

_ADE20K_IMAGES = 20_210  # per epoch; the last ones, which do not fill a batch of 16, are left out
_EPOCHS = 130
_EPOCH_STEPS = _ADE20K_IMAGES // 16
_SSSEG_DEVIATIONS = (
    "images are not padded to be segmented; here they are padded to multiples of 32 pixels",
    f"training lasts {_EPOCHS} epochs; here, the same number of steps",
    "training images are padded on all sides, with 0 after they are normalised; here at the bottom and right, with "
    "128 before that",
    "a training image without a labelled pixel counts as an empty mask of the first class; here as no object",
    "the level embedding of the pixel decoder has no weight decay; here it has that of all weights",
    "the configuration does not say the weights of the losses; here they are those of matching, 2, 5 and 5",
)

FAMILIES: dict[str, Family] = {
    "mmdet/coco-panoptic": _mmdet(
        categories="coco_panoptic",
        tasks=ALL_TASKS,
        files=_mmdet_files(
            r50="r50_8xb2-lsj-50e_coco-panoptic",
            r101="r101_8xb2-lsj-50e_coco-panoptic",
            swin_t="swin-t-p4-w7-224_8xb2-lsj-50e_coco-panoptic",
            swin_s="swin-s-p4-w7-224_8xb2-lsj-50e_coco-panoptic",
            swin_b="swin-b-p4-w12-384_8xb2-lsj-50e_coco-panoptic",
            swin_b_in21k="swin-b-p4-w12-384-in21k_8xb2-lsj-50e_coco-panoptic",
            swin_l="swin-l-p4-w12-384-in21k_16xb1-lsj-100e_coco-panoptic",
        ),
        training=_mmdet_training("panoptic", "panoptic/PQ"),
        deviations=(
            "the configuration does not state the class probability that a panoptic segment needs; here it is 0.8, as "
            "in the toolbox's configuration of MaskFormer",
            "its panoptic models are not used for semantic segmentation; here they can be",
            _FRACTIONS.format("training"),
            _PLACE,
            _FILL,
            _MIN_SIZE,
            _XAVIER,
        ),
    ),
    "mmdet/coco-instance": _mmdet(
        categories="coco_instance",
        tasks=("instance",),
        files=_mmdet_files(
            r50="r50_8xb2-lsj-50e_coco",
            r101="r101_8xb2-lsj-50e_coco",
            swin_t="swin-t-p4-w7-224_8xb2-lsj-50e_coco",
            swin_s="swin-s-p4-w7-224_8xb2-lsj-50e_coco",
        ),
        training=_mmdet_training("instance", "instance/AP"),
        deviations=(_FRACTIONS.format("all"), _PLACE, _POLYGONS, _FILL, _MIN_SIZE, _XAVIER),
    ),
    "mmseg/cityscapes-semantic": _mmseg(
        categories="cityscapes",
        edges=(1024, 2048),
        files=_mmseg_files(
            "90k_cityscapes",
            {"": "512x1024"},
            r50="r50",
            r101="r101",
            swin_t="swin-t",
            swin_s="swin-s",
            swin_b_in21k="swin-b-in22k-384x384-pre",
            swin_l="swin-l-in22k-384x384-pre",
        ),
        training=_of_mmseg(
            dataset=CityscapesConfig(task="semantic"),
            augmentation=lambda base: _crops(base, (512, 1024)),
            max_steps=90_000,
        ),
        deviations_of=dict.fromkeys(_RESNET_FILES, (_FIXED_AFFINE,)),
    ),
    "mmseg/ade20k-semantic": _mmseg(
        categories="ade20k_150",
        edges=(512, 2048),
        files=_mmseg_files(
            "160k_ade20k",
            {"": "512x512", **dict.fromkeys(_LARGE_ADE20K, "640x640")},
            r50="r50",
            r101="r101",
            swin_t="swin-t",
            swin_s="swin-s",
            swin_b="swin-b-in1k-384x384-pre",
            swin_b_in21k="swin-b-in22k-384x384-pre",
            swin_l="swin-l-in22k-384x384-pre",
        ),
        exceptions=tuple((name, (640, 2560)) for name in _LARGE_ADE20K),
        training=_of_mmseg(
            dataset=Ade20kConfig(task="semantic"),
            augmentation=lambda base: _crops(base, (base, base)),
            max_steps=160_000,
        ),
        deviations_of=dict.fromkeys(_RESNET_FILES, (_FIXED_AFFINE,))
        | dict.fromkeys(_LARGE_ADE20K, (_UNKNOWN_PADDING,)),
    ),
    "ssseg/ade20k-semantic": Family(
        categories="ade20k_150",
        tasks=("semantic",),
        edges=(512, 2048),
        files={
            backbone: f"ssseg/configs/mask2former/mask2former_{name}_ade20k.py"
            for backbone, name in (("swin-t", "swintiny"), ("swin-s", "swinsmall"), ("swin-b", "swinbase"))
        },
        exceptions=(("swin-b", (640, 2560)),),
        provider="ssseg",
        resampling="bilinear",
        init=_SSSEG_INIT,
        training=Training(
            Ade20kConfig(task="semantic"),
            lambda base: _crops(512, (base, base)),
            _EPOCHS * _EPOCH_STEPS,
            "semantic/mIoU",
            group_by_aspect=False,
            evaluation_interval=10 * _EPOCH_STEPS,
            checkpoint_interval=_EPOCH_STEPS,
            precision="fp32",
        ),
        deviations=_SSSEG_DEVIATIONS,
    ),
}
