"""Every knob of the library on one page: frozen, strict pydantic models, no torch.

Defaults are the published values (Mask2Former, Sec. 4.1) unless a comment says otherwise. Counts of classes, thing
ids and colours are not settings: they come from the categories of the data or the checkpoint. Modules never see
these objects; ``models/build.py``, ``data/build.py`` and ``training/`` turn them into plain keyword arguments.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from mask2former import limits
from mask2former.documents import parse_yaml, read_yaml
from mask2former.errors import UserError
from mask2former.notes import note
from mask2former.text import printable, quoted

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
    "NoAugmentationConfig",
    "OfficialConfig",
    "OptimConfig",
    "OwnPartsConfig",
    "PanopticFiles",
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

Task = Literal["panoptic", "instance", "semantic"]
MetricStyle = Literal["coco", "cityscapes", "youtube-vis"]  # whose official tools measure a data set
ConfigT = TypeVar("ConfigT", bound=BaseModel)
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
# What no run needs, and what would fill the memory or the day, is refused before anything is begun: see limits.py.
PositiveInt = Annotated[int, Field(gt=0, le=limits.INTEGER)]
NonNegativeInt = Annotated[int, Field(ge=0, le=limits.INTEGER)]
Batch = Annotated[int, Field(gt=0, le=limits.BATCH)]
Frames = Annotated[int, Field(gt=0, le=limits.CLIP_FRAMES)]
Detections = Annotated[int, Field(gt=0, le=limits.DETECTIONS)]
SceneNumber = Annotated[int, Field(ge=0, le=limits.SCENE)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]

_MOST_FAULTS = 10  # that one message lists


# Settings by the names that they had until 0.1.0. Files and overrides may still use these.
_OLD_NAMES: Mapping[str, str] = {
    "arguments": "kwargs",
    "batch_per_device": "batch_size_per_device",
    "checkpoint_every": "checkpoint_interval",
    "every": "interval",
    "exclusive": "non_overlapping",
    "factors": "scale_range",
    "keep_empty": "filter_empty",
    "log_every": "log_interval",
    "num_pictures": "num_images",
    "total_batch": "batch_size",
}
_TURNED_ROUND = "keep_empty"  # true was what false is now


def with_new_names(values: dict[str, Any], known: Container[str] | None = None) -> dict[str, Any]:
    """``values`` with the names that settings have now, for those that had another one until 0.1.0.

    Args:
        values: one group of settings.
        known: the settings that the group has; by default all that were renamed.

    Raises:
        ValueError: a setting under both names.
    """
    renewed = {}
    for name, value in values.items():
        new = _OLD_NAMES.get(name, name) if isinstance(name, str) else name
        if new == name or (known is not None and new not in known):
            renewed[name] = value
            continue
        if new in values:
            raise ValueError(f"'{name}' is the old name of '{new}', and both are set; leave out '{name}'")
        renewed[new] = not value if name == _TURNED_ROUND and isinstance(value, bool) else value
    return renewed


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _read_old_names(cls, values: Any) -> Any:
        return with_new_names(values, cls.model_fields) if isinstance(values, dict) else values


# --- model -----------------------------------------------------------------------------------------------------------


class TimmConfig(_Strict):
    """Any timm model with ``features_only`` support."""

    name: Literal["timm"] = "timm"
    model: str = "resnet50"
    norm: Literal["frozen", "sync", "batch"] = "frozen"  # of batch-normalised models; others keep their own norm
    kwargs: dict[str, Any] = {}  # passed to timm.create_model, for instance {"channels": [48, 96, 192, 384]}


class SwinConfig(_Strict):
    """Swin Transformer; the defaults are Swin-T."""

    name: Literal["swin"] = "swin"
    embed_dim: PositiveInt = 96
    depths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (2, 2, 6, 2)
    num_heads: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (3, 6, 12, 24)
    window_size: PositiveInt = 7
    drop_path_rate: Probability = 0.3

    @model_validator(mode="after")
    def _divisible(self) -> SwinConfig:
        for stage, heads in enumerate(self.num_heads):
            if self.embed_dim * 2**stage % heads:
                raise ValueError(
                    f"stage {stage + 1} has {self.embed_dim * 2**stage} channels (embed_dim {self.embed_dim}, doubled "
                    f"from stage to stage), which must be a multiple of its num_heads {heads}"
                )
        return self


BackboneConfig = Annotated[TimmConfig | SwinConfig, Field(discriminator="name")]


class MSDeformAttnConfig(_Strict):
    """Multi-scale deformable attention pixel decoder."""

    name: Literal["msdeformattn"] = "msdeformattn"
    dim: PositiveInt = 256
    mask_dim: PositiveInt = 256
    num_layers: PositiveInt = 6
    num_heads: PositiveInt = 8
    num_points: PositiveInt = 4
    feedforward_dim: PositiveInt = 1024
    dropout: Probability = 0.0

    @model_validator(mode="after")
    def _divisible(self) -> MSDeformAttnConfig:
        if self.dim % self.num_heads or self.dim % 32:
            raise ValueError(f"dim {self.dim} must be a multiple of num_heads {self.num_heads} and of 32 (norm groups)")
        return self


class MaskedDecoderConfig(_Strict):
    """Masked-attention transformer decoder."""

    name: Literal["masked"] = "masked"
    dim: PositiveInt = 256
    num_queries: PositiveInt = 100
    num_layers: PositiveInt = 9
    num_heads: PositiveInt = 8
    feedforward_dim: PositiveInt = 2048
    position_encoding: Literal["2d", "3d"] = "2d"  # 3d adds the frame index: the published video models
    masked_attention: bool = True  # False: queries look everywhere (Mask2Former, Table 4a), for comparison

    @model_validator(mode="after")
    def _divisible(self) -> MaskedDecoderConfig:
        if self.dim % self.num_heads or self.dim % 4:
            raise ValueError(f"dim {self.dim} must be a multiple of num_heads {self.num_heads} and of 4")
        return self


class InferenceConfig(_Strict):
    """Inference settings; stored in the checkpoint."""

    tasks: tuple[Task, ...] = ("panoptic", "instance", "semantic")  # what the model was trained for
    short_edge: NonNegativeInt = 800  # pixels; 0 keeps the size of the image
    long_edge: PositiveInt = 1333  # cap, pixels
    resize_masks_first: bool = True  # False: class scores are computed at the padded size (semantic-only models)
    things_only: bool = True  # instances: drop stuff classes (panoptic models)
    # instances: choose max_instances among things; False, as published: stuff is chosen too and dropped afterwards
    things_first: bool = False
    score_threshold: Probability = 0.8  # panoptic: the class probability of a segment is above it
    # instances and tracks: those of at least this score are predicted, the others are candidates. Ours; nothing is
    # published, since average precision counts all candidates
    instance_threshold: Probability = 0.5
    overlap_threshold: Probability = 0.8
    max_instances: Detections = 100
    # instances: a pixel belongs to the best instance alone, and what keeps less than overlap_threshold of its mask is
    # dropped; for objects that cannot overlap. Published: they may
    non_overlapping: bool = False
    # instances alone: side, in pixels of the image, of tiles that are segmented one by one and joined; each is
    # resized by short_edge / tile. 0: the whole image at once, as published
    tile: NonNegativeInt = 0
    tile_overlap: NonNegativeInt = 32  # pixels of the image that neighbours share at least
    # pixels: with tiles, the diameter of objects that the model was trained on; the image is cut again, into tiles of
    # another side, where the median of its objects has another one. 0: tiles of one side for all images
    diameter: NonNegativeFloat = 0.0
    # values that become 0 and 255 in images that are not 8-bit, in training, too, for instance [0, 4095] for cameras of
    # 12 bits. None: as the file says, else inferred from the values (see data/images.py)
    value_range: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _rising(self) -> InferenceConfig:
        if self.value_range is not None and not -math.inf < self.value_range[0] < self.value_range[1] < math.inf:
            raise ValueError(f"value_range must be two rising numbers, black and white, got {self.value_range}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _one_threshold(cls, values: Any) -> Any:
        """A model of instances without panoptic has one threshold, which until 0.1.0 was called score_threshold."""
        if not isinstance(values, dict) or "score_threshold" not in values or not cls._lacks_panoptic(values):
            return values
        values = dict(values)
        if "instance_threshold" not in values:
            values["instance_threshold"] = values.pop("score_threshold")
        elif values["score_threshold"] not in (
            values["instance_threshold"],
            cls.model_fields["score_threshold"].default,
        ):
            raise ValueError(
                f"score_threshold {values['score_threshold']} is for panoptic segments, which this model does not "
                "predict; set instance_threshold"
            )
        return values

    @staticmethod
    def _lacks_panoptic(values: dict[str, Any]) -> bool:
        tasks = values.get("tasks")
        return isinstance(tasks, list | tuple) and "instance" in tasks and "panoptic" not in tasks

    @model_validator(mode="after")
    def _some_task(self) -> InferenceConfig:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks must name at least one task, each once; got {self.tasks}")
        if self.tile and self.tasks != ("instance",):
            raise ValueError(
                f"tile {self.tile} is for instance models only, and this one has the tasks {', '.join(self.tasks)}; "
                "leave it out (0), or use an instance model such as nuclei"
            )
        if 0 < self.tile < 16:
            raise ValueError(f"tile must be 0, for whole images, or at least 16 pixels, got {self.tile}")
        if self.tile and self.tile_overlap > self.tile // 2:
            raise ValueError(f"tile_overlap {self.tile_overlap} must be at most half of tile {self.tile}")
        if self.tile and self.short_edge > limits.TILE_SCALE * self.tile:  # each tile would be an image of its own
            raise ValueError(
                f"short_edge {self.short_edge} must be at most {limits.TILE_SCALE} times tile {self.tile}; set a "
                "larger tile, or a smaller short_edge"
            )
        if self.diameter and not (self.tile and self.short_edge):
            raise ValueError(f"diameter {self.diameter} is for tiles: set tile and short_edge too")
        return self

    @property
    def default_task(self) -> Task:
        """Panoptic, else instance, else semantic: whichever the model was trained for."""
        order: tuple[Task, ...] = ("panoptic", "instance", "semantic")
        return next(task for task in order if task in self.tasks)


class ArchitectureConfig(_Strict):
    """What a model is built from."""

    backbone: BackboneConfig = TimmConfig()
    pixel_decoder: MSDeformAttnConfig = MSDeformAttnConfig()
    transformer_decoder: MaskedDecoderConfig = MaskedDecoderConfig()

    @model_validator(mode="after")
    def _same_dim(self) -> Self:
        if self.pixel_decoder.dim != self.transformer_decoder.dim:
            raise ValueError(
                f"pixel_decoder.dim {self.pixel_decoder.dim} and transformer_decoder.dim "
                f"{self.transformer_decoder.dim} must be equal"
            )
        return self


class ModelConfig(ArchitectureConfig):
    """The model of a run: its architecture, its inference settings, and what its training starts from."""

    inference: InferenceConfig = InferenceConfig()
    init: str | None = None  # name (coco-instance/r50) or file of the weights that training starts from
    init_partial: bool = (
        False  # take what fits: other classes, queries and windows; the run says what is newly initialised
    )

    @property
    def architecture(self) -> ArchitectureConfig:
        """The part of it that weights depend on."""
        return ArchitectureConfig(
            backbone=self.backbone, pixel_decoder=self.pixel_decoder, transformer_decoder=self.transformer_decoder
        )


class OwnPartsConfig(_Strict):
    """What a file says of a model with parts that no configuration describes."""

    architecture: None
    inference: InferenceConfig


# --- training --------------------------------------------------------------------------------------------------------


class CriterionConfig(_Strict):
    """Weights of loss and matching, and point sampling (Sec. 3.3)."""

    class_weight: NonNegativeFloat = 2.0
    mask_weight: NonNegativeFloat = 5.0
    dice_weight: NonNegativeFloat = 5.0
    no_object_weight: NonNegativeFloat = 0.1
    num_points: int = Field(default=12544, gt=0, le=limits.POINTS)
    oversample_ratio: float = Field(default=3.0, ge=1.0, le=100.0)
    importance_sample_ratio: Probability = 0.75
    # void and ignored pixels, crowd regions: background as published, or in no mask loss and no matching cost
    void: Literal["background", "ignored"] = "background"


class ScenesConfig(_Strict):
    """The built-in procedural data set; no files needed."""

    name: Literal["scenes"] = "scenes"
    image_size: tuple[PositiveInt, PositiveInt] = (128, 128)  # height, width
    train_seed: SceneNumber = 0
    num_training: PositiveInt = 1_000_000  # every scene is drawn when it is its turn
    validation_seed: SceneNumber = 1_000_000  # behind the training scenes
    num_validation: PositiveInt = 50


class FilesConfig(_Strict):
    """A data set of image files that anybody made."""

    # whether annotations were made on images as EXIF turns them (all viewers do), or on the stored pixels: ignore
    exif: Literal["apply", "ignore"] = "apply"


class NamedFilesConfig(FilesConfig):
    """Such a data set whose annotations or lists name the files."""

    # whether they may lead out of the folder that they are relative to (/data/a.jpg, ../a.jpg); links in it always may
    allow_outside: bool = False


class CocoFiles(_Strict):
    """One annotation file and the folder that its ``file_name`` entries are relative to."""

    annotations: str
    images: str


class CocoInstanceConfig(NamedFilesConfig):
    """Objects in COCO's instance format, anybody's; several files of one split must have the same categories."""

    name: Literal["coco-instance"] = "coco-instance"
    train: tuple[CocoFiles, ...] = Field(min_length=1)
    validation: tuple[CocoFiles, ...] = Field(min_length=1)
    missing_images: Literal["error", "skip"] = "error"  # annotated images whose file is not there
    missing_masks: Literal["error", "skip"] = "error"  # objects with a box but without a segmentation
    crowds: Literal["regions", "objects"] = "regions"  # objects: iscrowd is not heeded (CVAT sets it on painted masks)


class PanopticFiles(_Strict):
    """One annotation file, the folder of its PNGs and the folder of its images."""

    annotations: str
    segments: str
    images: str


class CocoPanopticConfig(NamedFilesConfig):
    """Segments in COCO's panoptic format, anybody's; several files of one split must have the same categories."""

    name: Literal["coco-panoptic"] = "coco-panoptic"
    train: tuple[PanopticFiles, ...] = Field(min_length=1)
    validation: tuple[PanopticFiles, ...] = Field(min_length=1)
    task: Task = "panoptic"  # what is learned; instance: things alone, semantic: classes alone
    missing_images: Literal["error", "skip"] = "error"  # annotated images whose file is not there


class LabelFolders(_Strict):
    """Two trees of folders: the label map of ``a/X.jpg`` is ``a/X.png``."""

    images: str
    labels: str


class LabelFolderConfig(FilesConfig):
    """Images with label maps, whose pixels are class numbers."""

    name: Literal["label-folder"] = "label-folder"
    train: tuple[LabelFolders, ...] = Field(min_length=1)
    validation: tuple[LabelFolders, ...] = Field(min_length=1)
    names: str  # file with the classes: .txt (a name per line, from 0), or number and name (.txt, .json, .yaml, .csv)
    # numbers that are neither learned nor measured; None: 255, unless the names file gives it to a class
    ignore: tuple[NonNegativeInt, ...] | None = None
    label_suffix: str = ""  # of label maps before the ending, for instance _mask in X_mask.png
    unpaired: Literal["error", "skip"] = "error"  # images without a label map, and the other way round
    # classes without a pixel beside an ignored number that covers much: it is probably theirs, or they are absent
    unseen_classes: Literal["error", "keep"] = "error"


class YoloConfig(NamedFilesConfig):
    """Polygons in YOLO's segmentation format; the splits are those of its file."""

    name: Literal["yolo"] = "yolo"
    data: str  # its data.yaml
    missing_masks: Literal["error", "skip"] = "error"  # objects with a box but without a polygon


class OfficialConfig(_Strict):
    """A published data set in the layout of its download."""

    root: str | None = None  # holds the data sets; None: MASK2FORMER_DATA, else DETECTRON2_DATASETS, else ./datasets


class CocoConfig(OfficialConfig):
    """COCO 2017: 133 classes, 80 of them things; instance has these alone."""

    name: Literal["coco"] = "coco"
    task: Task


class CocoStuff10kConfig(OfficialConfig):
    """COCO-Stuff 10k, semantic: 171 classes."""

    name: Literal["coco-stuff-10k"] = "coco-stuff-10k"


class Ade20kConfig(OfficialConfig):
    """ADE20K: 150 classes, 100 of them things; instance has these alone."""

    name: Literal["ade20k"] = "ade20k"
    task: Task


class Ade20kFullConfig(OfficialConfig):
    """ADE20K, semantic: the 847 classes of the release of 2021."""

    name: Literal["ade20k-full"] = "ade20k-full"


class CityscapesConfig(OfficialConfig):
    """Cityscapes, fine annotations: 19 classes, 8 of them things; instance has these alone."""

    name: Literal["cityscapes"] = "cityscapes"
    task: Task


class MapillaryVistasConfig(OfficialConfig):
    """Mapillary Vistas 1.2: 65 classes, 37 of them things."""

    name: Literal["mapillary-vistas"] = "mapillary-vistas"
    task: Literal["panoptic", "semantic"]


class ClipSampling(_Strict):
    """How training clips are taken from longer ones; validation sees whole clips."""

    num_frames: Frames = 2  # of a training clip
    frame_range: PositiveInt = 20  # frames that the others may lie before or behind the first one drawn
    labels_from: Literal["last-frame", "any-frame"] = "last-frame"  # "any-frame" corrects the published one


class SceneClipsConfig(ClipSampling):
    """Moving scenes; no files needed."""

    name: Literal["scene-clips"] = "scene-clips"
    image_size: tuple[PositiveInt, PositiveInt] = (128, 128)  # height, width
    clip_length: Frames = 20  # frames
    train_seed: SceneNumber = 0
    num_training: PositiveInt = 1_000_000
    validation_seed: SceneNumber = 1_000_000
    num_validation: PositiveInt = 20


class YouTubeVISConfig(ClipSampling, OfficialConfig):
    """YouTube-VIS: tracks of 40 classes."""

    name: Literal["youtube-vis"] = "youtube-vis"
    year: Literal[2019, 2021]


class ClipFiles(_Strict):
    """One annotation file and the folder that its ``file_names`` entries are relative to."""

    annotations: str
    frames: str


class ClipsConfig(ClipSampling, NamedFilesConfig):
    """Tracks in YouTube-VIS format: OVIS and anybody's, of frames or of video files."""

    name: Literal["clips"] = "clips"
    train: tuple[ClipFiles, ...] = Field(min_length=1)
    validation: tuple[ClipFiles, ...] = Field(min_length=1)


class ClipFolders(_Strict):
    """Two folders that have one folder per clip each, as DAVIS has them."""

    images: str  # images, for instance DAVIS/JPEGImages/480p
    masks: str  # id maps of the same names, for instance DAVIS/Annotations/480p
    clips: str | None = None  # file with the names of the clips, for instance DAVIS/ImageSets/2017/train.txt


class MaskFoldersConfig(ClipSampling, NamedFilesConfig):
    """Clips with an id map per frame, of one class: DAVIS, YouTube-VOS, MOSE and alike."""

    name: Literal["mask-folders"] = "mask-folders"
    train: ClipFolders
    validation: ClipFolders


DatasetConfig = Annotated[
    ScenesConfig
    | CocoInstanceConfig
    | CocoPanopticConfig
    | CocoConfig
    | CocoStuff10kConfig
    | Ade20kConfig
    | Ade20kFullConfig
    | CityscapesConfig
    | MapillaryVistasConfig
    | LabelFolderConfig
    | YoloConfig
    | SceneClipsConfig
    | YouTubeVISConfig
    | ClipsConfig
    | MaskFoldersConfig,
    Field(discriminator="name"),
]

Flip = Literal["horizontal", "vertical", "both", "none"]  # both: each with its own draw; for views from above


class NoAugmentationConfig(_Strict):
    """Images as they are."""

    name: Literal["none"] = "none"


class LargeScaleJitterConfig(_Strict):
    """Flip, resize by a random factor, cut or pad to a fixed size (Mask2Former, Sec. 4.1: COCO)."""

    name: Literal["large-scale-jitter"] = "large-scale-jitter"
    image_size: tuple[PositiveInt, PositiveInt] = (1024, 1024)  # height, width of every result
    min_scale: PositiveFloat = 0.1  # of the box that the image is fitted into
    max_scale: PositiveFloat = 2.0
    flip: Flip = "horizontal"  # with probability 0.5
    keep_lost: bool = False  # objects that were cut away stay as empty masks (published for panoptic)

    @model_validator(mode="after")
    def _rising(self) -> LargeScaleJitterConfig:
        if self.min_scale > self.max_scale:
            raise ValueError(f"min_scale {self.min_scale} must not be above max_scale {self.max_scale}")
        return self


class ResizeCropFlipConfig(_Strict):
    """Resize to a random short edge, random crop, colour jitter, flip, pad; the defaults are ADE20K instance's."""

    name: Literal["resize-crop-flip"] = "resize-crop-flip"
    short_edges: tuple[PositiveInt, ...] = Field(default=tuple(range(320, 1281, 64)), min_length=1)  # pixels
    long_edge: PositiveInt = 2560  # cap, pixels
    # instead of short edges: a factor between these two for images of any size, where objects have one scale
    scale_range: tuple[PositiveFloat, PositiveFloat] | None = None
    # pixels: with it, factors are relative to the size at which the image's median object has this diameter
    diameter: PositiveFloat | None = None
    crop_size: tuple[PositiveInt, PositiveInt] | None = (640, 640)  # height, width; smaller images stay
    max_category_share: float = Field(default=1.0, gt=0.0, le=1.0)  # of one class in a crop, else another; 1: off
    color_jitter: bool = True
    flip: Flip = "horizontal"  # with probability 0.5
    pad_size: tuple[PositiveInt, PositiveInt] | None = (640, 640)  # height, width of every result; None: no padding
    keep_lost: bool = True  # objects that were cut away stay as empty masks

    @model_validator(mode="after")
    def _rising(self) -> ResizeCropFlipConfig:
        if self.scale_range is not None and not self.scale_range[0] <= self.scale_range[1] <= 100:
            raise ValueError(f"scale_range must rise, to 100 at most, got {self.scale_range}")
        if self.diameter is not None and self.scale_range is None:
            raise ValueError(
                "diameter is the size that scale_range is relative to; set scale_range too, for instance [0.7, 1.4]"
            )
        return self


AugmentationConfig = Annotated[
    NoAugmentationConfig | LargeScaleJitterConfig | ResizeCropFlipConfig, Field(discriminator="name")
]


class DataConfig(_Strict):
    """What is read and how it is batched."""

    dataset: DatasetConfig = ScenesConfig()
    augmentation: AugmentationConfig = NoAugmentationConfig()  # of training images
    filter_empty: bool = False  # train on images without objects too; the published recipes drop them
    group_by_aspect: bool = False  # images of one pass are all wider than high, or none is
    batch_size: Batch = 16  # images per optimizer step over all devices
    batch_size_per_device: Batch | None = None  # None: batch_size over the devices; smaller values accumulate
    num_workers: int = Field(default=2, ge=0, le=limits.WORKERS)


class OptimConfig(_Strict):
    """AdamW, clipping and schedule."""

    lr: PositiveFloat = 1e-4
    weight_decay: NonNegativeFloat = 0.05
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    backbone_multiplier: NonNegativeFloat = 0.1
    clip_norm: PositiveFloat = 0.01
    schedule: Literal["step", "poly"] = "poly"
    schedule_steps: PositiveInt | None = None  # length of the poly schedule; None: trainer.max_steps
    steps: tuple[NonNegativeInt, ...] = ()  # of the step schedule
    gamma: PositiveFloat = 0.1
    poly_power: PositiveFloat = 0.9
    warmup_steps: NonNegativeInt = 0
    warmup_factor: NonNegativeFloat = 1.0
    ema_decay: Decay = 0.0  # 0: off


class TrainerConfig(_Strict):
    """How long, how precise, on what."""

    max_steps: PositiveInt = 1000
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # fp16: with loss scaling, as published
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = Field(default=1, gt=0, le=limits.WORKERS)
    half_pixel_decoder: bool = False  # bf16: the pixel decoder too, which the published training keeps in float32
    channels_last: bool = False  # memory layout of images and kernels; faster in bf16 on CPUs
    gradient_checkpointing: bool = False  # less memory, about a third more time
    log_interval: PositiveInt = 20
    checkpoint_interval: PositiveInt = 500
    tensorboard: bool = False  # also write event files

    @model_validator(mode="after")
    def _range_of_half(self) -> TrainerConfig:
        if self.half_pixel_decoder and self.precision != "bf16":
            raise ValueError(f"half_pixel_decoder needs precision bf16 (fp16 overflows there), got {self.precision}")
        return self


class TrackingConfig(_Strict):
    """How a clip of any length is cut into windows, and when two windows show the same object."""

    window: Frames | None = None  # frames that the model sees at once; None: 1, or 8 for models of clips
    stride: PositiveInt | None = None  # frames from one window to the next; None: three quarters of the window
    # instance: least class probability of an object; None: the instance_threshold of the inference settings
    threshold: Probability | None = None
    max_lost: NonNegativeInt = 60  # frames after which a track that is not seen is forgotten
    min_match: NonNegativeFloat = 1.2  # least sum of mask IoU, similarity and class agreement, to go on with a track
    min_similarity: Probability = 0.5  # least similarity times class agreement, to find a lost track again

    @model_validator(mode="after")
    def _within(self) -> TrackingConfig:
        if self.stride is not None and self.stride > (self.window or self.stride):
            raise ValueError(f"stride {self.stride} must not be above window {self.window}, or frames would be skipped")
        return self


class EvaluationConfig(_Strict):
    """What is measured, and when during training."""

    interval: PositiveInt = 1000
    patience: PositiveInt | None = None  # stop after so many validations without a better monitor
    num_images: int = Field(
        default=6, ge=0, le=limits.SHOWN
    )  # validation samples drawn beside their ground truth, each time
    tasks: tuple[Task, ...] = ("panoptic",)
    monitor: str = "panoptic/PQ"
    # instances: after training, the score of the highest F1 on the validation data becomes the instance_threshold of
    # the stored model
    choose_threshold: bool = True
    max_detections: Detections = 100  # instances: per image and class
    # instances: where medium and large begin, pixels; None: those of the official tools (COCO 32 and 96 squared,
    # YouTube-VIS 128 and 256 squared)
    area_limits: tuple[PositiveInt, PositiveInt] | None = None
    boundary: bool = False  # also boundary PQ, boundary AP and boundary IoU
    pooled_threshold: Probability | None = None  # instances: also pooled AP, of objects above this score
    semantic_segments: bool = False  # semantic: also PQ, all pixels of a class in an image being one segment

    @model_validator(mode="after")
    def _rising(self) -> EvaluationConfig:
        if self.area_limits is not None and self.area_limits[0] >= self.area_limits[1]:
            raise ValueError(f"area_limits must rise, got {self.area_limits}")
        return self


class RunConfig(_Strict):
    """One training run, complete: what ``mask2former train`` reads."""

    model: ModelConfig = ModelConfig()
    criterion: CriterionConfig = CriterionConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    trainer: TrainerConfig = TrainerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    output: str = "runs/run"
    seed: int = Field(default=0, ge=0, le=limits.SEED)


# --- from files and arguments ----------------------------------------------------------------------------------------


def _note_old_names(values: Any, source: str) -> None:
    """Tell of old names, which somebody wrote into a run file or an override."""
    if not isinstance(values, dict):
        return
    for name, value in values.items():
        if (new := _OLD_NAMES.get(name)) is not None:
            turned = " (true and false exchanged)" if name == _TURNED_ROUND else ""
            note("settings by the name that they had until 0.1.0", f"'{name}' in {source} is now '{new}'{turned}")
        elif name != "kwargs":
            _note_old_names(value, source)


def parse(kind: type[ConfigT], values: Any, source: str) -> ConfigT:
    """``values`` (from YAML or JSON) as a ``kind``.

    Names that settings had until 0.1.0 are read as the new ones, in a whole run with a note.

    Raises:
        UserError: one line per fault, each with the dotted key, what was got and what was expected.
    """
    if not isinstance(values, dict):
        raise UserError(f"{source}: expected a mapping of settings, got {type(values).__name__}")
    if kind is RunConfig:
        _note_old_names(values, source)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = []
        faults = error.errors(include_url=False)
        for fault in faults[:_MOST_FAULTS]:
            key = printable(".".join(str(part) for part in fault["loc"]), 200)
            if fault["type"] == "extra_forbidden":
                lines.append(f"unknown key '{key}'")
            elif fault["type"] == "value_error" and isinstance(fault["input"], dict):  # of several keys together
                lines.append(f"{key}{': ' if key else ''}{printable(fault['msg'].removeprefix('Value error, '), 600)}")
            else:
                lines.append(f"'{key}': {printable(fault['msg'], 300)} (got {quoted(fault['input'])})")
        if len(faults) > _MOST_FAULTS:
            lines.append(f"and {len(faults) - _MOST_FAULTS} more")
        raise UserError(f"{source}: " + "; ".join(lines)) from error


def leaves(config: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Dotted names of all settings to their values, as JSON has them."""
    values: dict[str, Any] = {}
    dumped = config.model_dump(mode="json")
    for name in type(config).model_fields:
        value = getattr(config, name)
        values |= leaves(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else {prefix + name: dumped[name]}
    return values


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``values`` with ``key.sub=value`` settings replaced; the value is read as YAML.

    Raises:
        UserError: an override without ``=``, one that goes through something that is no mapping, or a value that is
            not valid YAML or beyond its limits.
    """
    result = {key: value for key, value in values.items()}
    for override in overrides:
        path, equals, text = override.partition("=")
        source = f"override '{printable(override, 200)}'"
        if not equals or not all(path.split(".")):
            raise UserError(f"{source}: expected key.sub=value")
        value = parse_yaml(text, f"{source}: the value")
        node = result
        *parents, leaf = (_OLD_NAMES.get(name, name) for name in path.split("."))
        if (old := path.rpartition(".")[2]) != leaf:
            _note_old_names({old: value}, source)
            value = with_new_names({old: value})[leaf]
        for name in parents:
            _forget_old_name(node, name)
            child = node.get(name)
            if child is not None and not isinstance(child, dict):
                raise UserError(f"{source}: '{printable(name, 80)}' is a value, not a group of settings")
            node[name] = dict(child or {})
            node = node[name]
        _forget_old_name(node, leaf)
        node[leaf] = value
    return result


def _forget_old_name(node: dict[str, Any], name: str) -> None:
    """Move what ``node`` has under the old name of ``name`` to that one, so that an override replaces it."""
    for old, new in _OLD_NAMES.items():
        if new == name and old in node and new not in node:
            node[new] = with_new_names({old: node.pop(old)})[new]


def read_run_file(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The settings of a run file, with overrides; :func:`parse` makes a :class:`RunConfig` of them.

    Raises:
        UserError: the file cannot be read as YAML, or an override has the wrong form.
    """
    values = read_yaml(path, "run file", hint="mask2former recipe scenes-tiny prints one")
    if not isinstance(values, dict):
        raise UserError(f"'{path}': expected a mapping of settings, got {type(values).__name__}")
    return apply_overrides(values, overrides)
