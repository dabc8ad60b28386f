"""Data that a run reads, and how it is batched."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mask2former import limits
from mask2former.config.augmentation import AugmentationConfig, NoAugmentationConfig, ResizeCropFlipConfig
from mask2former.config.fields import Batch, Frames, NonNegativeInt, PositiveInt, Probability, SceneNumber, Strict, Task
from mask2former.text import listed, quoted

__all__ = [
    "STEM",
    "UNNAMED_CLASS",
    "Ade20kConfig",
    "Ade20kFullConfig",
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
    "DataConfig",
    "DatasetConfig",
    "FilesConfig",
    "IdMapFolders",
    "IdMapsConfig",
    "LabelFolderConfig",
    "LabelFolders",
    "MapillaryVistasConfig",
    "MaskFileFolders",
    "MaskFilesConfig",
    "MaskFoldersConfig",
    "MetricStyle",
    "MixedConfig",
    "MixedPart",
    "NamedFilesConfig",
    "OfficialConfig",
    "PairedFilesConfig",
    "PanopticFiles",
    "SceneClipsConfig",
    "ScenesConfig",
    "ToolFiles",
    "ToolFilesConfig",
    "ValidationSplitConfig",
    "YoloConfig",
    "YouTubeVISConfig",
]

UNNAMED_CLASS = "object"  # for maps without class names
STEM = "{stem}"  # the common part of the names of an image and its label map
MetricStyle = Literal["coco", "cityscapes", "youtube-vis"]  # whose official metrics apply to a data set


class ScenesConfig(Strict):
    """The built-in procedural data set; no files needed."""

    name: Literal["scenes"] = "scenes"
    image_size: tuple[PositiveInt, PositiveInt] = (128, 128)  # height, width
    train_seed: SceneNumber = 0
    num_training: PositiveInt = 1_000_000  # every scene is drawn when it is needed
    validation_seed: SceneNumber = 1_000_000  # after the training scenes
    num_validation: PositiveInt = 50


class FilesConfig(Strict):
    """A custom data set of image files."""

    # whether annotations were made on images rotated by EXIF (as all viewers do) or on the stored pixels: ignore
    exif: Literal["apply", "ignore"] = "apply"


class NamedFilesConfig(FilesConfig):
    """A custom data set whose annotations or lists name the files."""

    # whether names may point outside the folder that they are relative to (/data/a.jpg, ../a.jpg); links in it may, too
    allow_outside: bool = False


class CocoFiles(Strict):
    """One annotation file, and the folder to which its ``file_name`` entries are relative."""

    annotations: str
    images: str


class CocoInstanceConfig(NamedFilesConfig):
    """Custom objects in COCO's instance format; several files of one split must have the same categories."""

    name: Literal["coco-instance"] = "coco-instance"
    train: tuple[CocoFiles, ...] = Field(min_length=1)
    validation: tuple[CocoFiles, ...]
    missing_images: Literal["error", "skip"] = "error"  # annotated images whose file does not exist
    missing_masks: Literal["error", "skip"] = "error"  # objects with a box but without a segmentation
    crowds: Literal["regions", "objects"] = "regions"  # objects: iscrowd is ignored (CVAT sets it on painted masks)


class PanopticFiles(Strict):
    """One annotation file, the folder of its PNGs and the folder of its images."""

    annotations: str
    segments: str
    images: str


class CocoPanopticConfig(NamedFilesConfig):
    """Custom segments in COCO's panoptic format; several files of one split must have the same categories."""

    name: Literal["coco-panoptic"] = "coco-panoptic"
    train: tuple[PanopticFiles, ...] = Field(min_length=1)
    validation: tuple[PanopticFiles, ...]
    task: Task = "panoptic"  # what is learned; instance: only things, semantic: only classes
    missing_images: Literal["error", "skip"] = "error"  # annotated images whose file does not exist


class LabelFolders(Strict):
    """Two folder trees: the label map of ``a/X.jpg`` is ``a/X.png``."""

    images: str
    labels: str
    split: str | None = None  # file with the names of the images to use, like VOC's ImageSets/Segmentation/train.txt


class PairedFilesConfig(FilesConfig):
    """A custom data set with a label file for each image, paired by name."""

    image_name: str = STEM  # pattern of image names without extension, for instance {stem}_leftImg8bit
    label_name: str = STEM  # pattern of label map names, for instance {stem}_gtFine_labelIds, or {stem}_mask
    unpaired: Literal["error", "skip"] = "error"  # images without a label map, and vice versa


class LabelFolderConfig(PairedFilesConfig):
    """Images with label maps, whose pixels are class numbers or the colours of classes."""

    name: Literal["label-folder"] = "label-folder"
    train: tuple[LabelFolders, ...] = Field(min_length=1)
    validation: tuple[LabelFolders, ...]
    # file with the classes: .txt (a name per line, from 0), or number and name (.txt, .json, .yaml, .csv), optionally
    # with colours; or pascal_voc
    names: str
    encoding: Literal["numbers", "colors"] = "numbers"  # colors: pixels have the colours in the names file
    # numbers that are neither learned nor measured; None: 255, unless the names file assigns it to a class
    ignore: tuple[NonNegativeInt, ...] | None = None
    # classes without a pixel while an ignored number covers a lot: that number is probably theirs, or they are absent
    unseen_classes: Literal["error", "keep"] = "error"

    @model_validator(mode="before")
    @classmethod
    def _read_label_suffix(cls, values: Any) -> Any:
        """``label_suffix: _mask``, the form until 0.1.0, is ``label_name: "{stem}_mask"``."""
        if isinstance(values, dict) and isinstance(suffix := values.get("label_suffix"), str):
            if "label_name" in values:
                raise ValueError("'label_suffix' is the old form of 'label_name', but both are set; leave it out")
            rest = {name: value for name, value in values.items() if name != "label_suffix"}
            return {**rest, "label_name": f"{STEM}{suffix}"}
        return values


class IdMapFolders(LabelFolders):
    """Two folder trees; ``labels`` has the id maps.

    Attributes:
        classes: folder with label maps of the same names, which give the class of every object, like VOC's
            SegmentationClass for SegmentationObject.
    """

    classes: str | None = None


class IdMapsConfig(PairedFilesConfig):
    """Images with maps on which each number or colour is one object, and 0 or black is none."""

    name: Literal["id-maps"] = "id-maps"
    train: tuple[IdMapFolders, ...] = Field(min_length=1)
    validation: tuple[IdMapFolders, ...]
    class_name: str = UNNAMED_CLASS  # of all objects, if there are no class maps
    names: str | None = None  # with class maps: their names file, whose first class is the background
    encoding: Literal["numbers", "colors"] = "numbers"  # of the class maps
    ignore: tuple[
        NonNegativeInt, ...
    ] = ()  # unknown pixels: numbers on either map (VOC: 255), or those of colours of the names file


class MaskFileFolders(Strict):
    """Images with a folder of mask files for each.

    Attributes:
        images: images, at any depth.
        masks: contains a folder ``X`` for each image ``X.png``; None: the masks of ``a/images/X.png`` are in
            ``a/masks``, as in the Data Science Bowl 2018.
    """

    images: str
    masks: str | None = None


class MaskFilesConfig(FilesConfig):
    """Images with one mask file for each object: pixels that are not black belong to it."""

    name: Literal["mask-files"] = "mask-files"
    train: tuple[MaskFileFolders, ...] = Field(min_length=1)
    validation: tuple[MaskFileFolders, ...]
    class_name: str = UNNAMED_CLASS  # of all objects


class ToolFiles(Strict):
    """Annotation files of a tool, and the folder with their images."""

    annotations: str  # a file, or a folder with one file per image
    images: str


class ToolFilesConfig(NamedFilesConfig):
    """Objects in the format in which an annotation tool saves or exports them."""

    name: Literal["labelme", "via", "cvat", "label-studio", "supervisely", "qupath", "imagej"]
    train: tuple[ToolFiles, ...] = Field(min_length=1)
    validation: tuple[ToolFiles, ...]
    names: str | None = None  # file with the classes, as for label-folder; None: those in the data, sorted
    class_attribute: str | None = None  # VIA, if regions have several attributes: the one that is the class
    missing_images: Literal["error", "skip"] = "error"  # annotated images whose file does not exist
    missing_masks: Literal["error", "skip"] = "error"  # boxes, points and lines, which are not masks


class YoloConfig(NamedFilesConfig):
    """Polygons in YOLO's segmentation format; its file defines the splits."""

    name: Literal["yolo"] = "yolo"
    data: str  # path of its data.yaml
    missing_masks: Literal["error", "skip"] = "error"  # objects with a box but without a polygon


class OfficialConfig(Strict):
    """A published data set in the layout of its download."""

    root: str | None = None  # of the data sets; None: MASK2FORMER_DATA, else DETECTRON2_DATASETS, else ./datasets


class CocoConfig(OfficialConfig):
    """COCO 2017: 133 classes, 80 of them things; instance has only the things."""

    name: Literal["coco"] = "coco"
    task: Task


class CocoStuff10kConfig(OfficialConfig):
    """COCO-Stuff 10k, semantic: 171 classes."""

    name: Literal["coco-stuff-10k"] = "coco-stuff-10k"


class Ade20kConfig(OfficialConfig):
    """ADE20K: 150 classes, 100 of them things; instance has only the things."""

    name: Literal["ade20k"] = "ade20k"
    task: Task


class Ade20kFullConfig(OfficialConfig):
    """ADE20K, semantic: the 847 classes of the 2021 release."""

    name: Literal["ade20k-full"] = "ade20k-full"


class CityscapesConfig(OfficialConfig):
    """Cityscapes, fine annotations: 19 classes, 8 of them things; instance has only the things."""

    name: Literal["cityscapes"] = "cityscapes"
    task: Task


class MapillaryVistasConfig(OfficialConfig):
    """Mapillary Vistas 1.2: 65 classes, 37 of them things."""

    name: Literal["mapillary-vistas"] = "mapillary-vistas"
    task: Literal["panoptic", "semantic"]


ImageFilesConfig = (
    CocoInstanceConfig
    | CocoPanopticConfig
    | CocoConfig
    | CocoStuff10kConfig
    | Ade20kConfig
    | Ade20kFullConfig
    | CityscapesConfig
    | MapillaryVistasConfig
    | LabelFolderConfig
    | IdMapsConfig
    | MaskFilesConfig
    | ToolFilesConfig
    | YoloConfig
)


class MixedPart(Strict):
    """One of several data sets that are trained on together."""

    dataset: ImageFilesConfig = Field(discriminator="name")
    repeat: PositiveInt = 1  # how often each of its training images occurs in a pass over the data
    held_back: bool = True  # whether data.validation takes validation images from this part
    # only images whose entry in the annotation files has one of these values under each key: {modality: [pink, purple]}
    select: dict[str, tuple[str | int | float, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_keys(self) -> Self:
        if self.select and not isinstance(self.dataset, CocoInstanceConfig | CocoPanopticConfig):
            raise ValueError(
                "select is for data sets whose annotation files have entries for images (coco-instance and "
                f"coco-panoptic), not for '{self.dataset.name}'"
            )
        if without := [key for key, values in self.select.items() if not values]:
            raise ValueError(f"select: no value under {listed(without, 3, show=quoted)}; expected a list of values")
        return self

    @property
    def is_validated(self) -> bool:
        """Whether the data set has validation images of its own."""
        return getattr(self.dataset, "validation", None) != ()


class MixedConfig(Strict):
    """Images of several data sets, of any formats; the first part has all classes, the others some of them by name."""

    name: Literal["mixed"] = "mixed"
    parts: tuple[MixedPart, ...] = Field(min_length=1)

    @property
    def validation(self) -> tuple[MixedPart, ...]:
        """The parts with validation images of their own."""
        return tuple(part for part in self.parts if part.is_validated)


class ClipSampling(Strict):
    """How training clips are sampled from longer ones; validation uses complete clips."""

    num_frames: Frames = 2  # of a training clip
    frame_range: PositiveInt = 20  # largest distance of the other frames from the one drawn first, in frames
    labels_from: Literal["last-frame", "any-frame"] = "last-frame"  # "any-frame" corrects the published behaviour


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


class ClipFiles(Strict):
    """One annotation file, and the folder to which its ``file_names`` entries are relative."""

    annotations: str
    frames: str


class ClipsConfig(ClipSampling, NamedFilesConfig):
    """Tracks in YouTube-VIS format (OVIS and custom ones), with frames or video files."""

    name: Literal["clips"] = "clips"
    train: tuple[ClipFiles, ...] = Field(min_length=1)
    validation: tuple[ClipFiles, ...]


class ClipFolders(Strict):
    """Two folders with one folder per clip each, as in DAVIS."""

    images: str  # images, for instance DAVIS/JPEGImages/480p
    masks: str  # id maps with the same names, for instance DAVIS/Annotations/480p
    clips: str | None = None  # file with the names of the clips, for instance DAVIS/ImageSets/2017/train.txt


class MaskFoldersConfig(ClipSampling, NamedFilesConfig):
    """Clips with an id map per frame, of one class: DAVIS, YouTube-VOS, MOSE and similar data sets."""

    name: Literal["mask-folders"] = "mask-folders"
    train: ClipFolders
    validation: ClipFolders


DatasetConfig = Annotated[
    ScenesConfig
    | ImageFilesConfig
    | MixedConfig
    | SceneClipsConfig
    | YouTubeVISConfig
    | ClipsConfig
    | MaskFoldersConfig,
    Field(discriminator="name"),
]


class ValidationSplitConfig(Strict):
    """Validation images or clips that are taken from the training data by their names: a share, or a fold."""

    share: float | None = Field(default=None, gt=0.0, lt=1.0)
    fold: str | None = Field(
        default=None, pattern=r"^[1-9]\d? of [1-9]\d?$", examples=["2 of 5"]
    )  # for cross-validation, such as 2 of 5
    seed: int = Field(default=0, ge=0, le=limits.SEED)  # another seed gives another split
    # regular expression that matches, in the path of an image below the data, a name whose images must stay together,
    # such as the patient's; its first group is used, or the complete match if it has none
    groups: str | None = Field(default=None, max_length=200)

    @model_validator(mode="after")
    def _one_rule(self) -> ValidationSplitConfig:
        if (self.share is None) == (self.fold is None):
            raise ValueError("set one of share, for instance 0.2, and fold, for instance 2 of 5")
        if self.fold is not None and not (self.fold_of[0] <= self.fold_of[1] > 1):
            raise ValueError(f"fold must be k of N, with k from 1 to N and N of 2 or more, got {self.fold}")
        try:
            re.compile(self.groups or "")
        except re.error as error:
            raise ValueError(f"groups is not a regular expression ({error}), got {self.groups}") from error
        return self

    @property
    def fold_of(self) -> tuple[int, int]:
        """Number of the fold, from 1, and the number of folds."""
        fold, _, folds = (self.fold or "1 of 1").split()
        return int(fold), int(folds)


def _validated_by_training(dataset: Any) -> Any:
    """The values of a data set, or of a mixed one, with the training files as validation files where it has none."""
    if not isinstance(dataset, dict):
        return dataset
    if isinstance(parts := dataset.get("parts"), list):
        return {**dataset, "parts": [_part_validated_by_training(part) for part in parts]}
    return {"validation": dataset["train"], **dataset} if "train" in dataset else dataset


def _part_validated_by_training(part: Any) -> Any:
    is_part = isinstance(part, dict) and "dataset" in part
    return {**part, "dataset": _validated_by_training(part["dataset"])} if is_part else part


class DataConfig(Strict):
    """Data that a run reads, and how it is batched."""

    dataset: DatasetConfig = ScenesConfig()
    validation: ValidationSplitConfig | None = None  # replaces the validation data of the data set
    augmentation: AugmentationConfig = NoAugmentationConfig()  # of training images
    copy_paste: Probability = 0.0  # how often things of another training image are pasted onto an image
    filter_empty: bool = False  # True: leave out images without objects, as the published instance recipes do
    group_by_aspect: bool = False  # images of one pass are either all wider than high, or none of them is
    batch_size: Batch = 16  # images per optimizer step over all devices
    # None: batch_size divided by the devices; smaller values accumulate; auto: as many as should fit into memory
    batch_size_per_device: Batch | Literal["auto"] | None = None
    num_workers: int = Field(default=2, ge=0, le=limits.WORKERS)

    @property
    def is_validated(self) -> bool:
        """Whether there is validation data; ``dataset.validation: []`` means that all data is for training."""
        return self.validation is not None or getattr(self.dataset, "validation", None) != ()

    @model_validator(mode="before")
    @classmethod
    def _without_validation_files(cls, values: Any) -> Any:
        """Data that is split here needs no validation files: the training files are inserted in their place."""
        if isinstance(values, dict) and values.get("validation") and "dataset" in values:
            return {**values, "dataset": _validated_by_training(values["dataset"])}
        return values

    @model_validator(mode="after")
    def _shapes_stay(self) -> DataConfig:
        augmentation = self.augmentation
        if not isinstance(augmentation, ResizeCropFlipConfig) or augmentation.pad_size is not None:
            return self  # all of one shape, or unchanged
        if self.group_by_aspect and augmentation.flip == "turns":
            raise ValueError(
                "group_by_aspect puts wide images into batches of their own, but augmentation.flip=turns makes half of "
                "them tall; set group_by_aspect to false, or set augmentation.pad_size"
            )
        return self
