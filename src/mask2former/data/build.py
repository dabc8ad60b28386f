"""Configuration to data sets: the only place that knows them by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from mask2former.config import (
    Ade20kConfig,
    Ade20kFullConfig,
    AugmentationConfig,
    CityscapesConfig,
    ClipSampling,
    ClipsConfig,
    CocoConfig,
    CocoInstanceConfig,
    CocoPanopticConfig,
    CocoStuff10kConfig,
    DataConfig,
    DatasetConfig,
    LabelFolderConfig,
    MapillaryVistasConfig,
    MaskFoldersConfig,
    SceneClipsConfig,
    ScenesConfig,
    YoloConfig,
    YouTubeVISConfig,
)
from mask2former.data.annotated import AnnotatedSet
from mask2former.data.clips import ClipSet
from mask2former.data.datasets import official
from mask2former.data.datasets.class_names import read_names
from mask2former.data.datasets.coco import CocoInstances
from mask2former.data.datasets.coco_panoptic import CocoPanoptic, PanopticFiles
from mask2former.data.datasets.label_folder import LabelFolder
from mask2former.data.datasets.mask_folders import MaskFolders
from mask2former.data.datasets.official import Split
from mask2former.data.datasets.reader import ImageReader
from mask2former.data.datasets.yolo import YoloPolygons, read_yolo
from mask2former.data.datasets.youtube_vis import YouTubeVIS
from mask2former.data.images import ValueRange
from mask2former.data.scenes import SceneClips, Scenes
from mask2former.data.training_set import TrainingSet
from mask2former.data.transforms import (
    Augmentation,
    LargeScaleJitter,
    ResizeCropFlip,
)
from mask2former.errors import RequestError
from mask2former.notes import Note, collect_notes, sentences

__all__ = [
    "build_augmentation",
    "build_clips",
    "build_pictures",
    "build_training_set",
]

SetT = TypeVar("SetT", bound=AnnotatedSet | ClipSet)


def build_pictures(
    config: DatasetConfig, split: Split, *, keep_empty: bool = True, value_range: ValueRange | None = None
) -> AnnotatedSet:
    """A data set of pictures, by index, as they are.

    Without ``keep_empty`` pictures without objects are left out (scenes and label maps always have some).
    ``value_range`` is that of the model, see :func:`~mask2former.data.images.read_image`.

    Raises:
        RequestError: files that are missing or broken, or a data set of clips.
    """
    if isinstance(config, ClipSampling):
        raise RequestError(f"the data set '{config.name}' has clips; expected one of pictures")  # pyright: ignore
    with collect_notes() as found:
        samples = _PICTURES[type(config)](config, split, keep_empty)
    return _read_as(samples, config, value_range, found)


def _read_as(samples: SetT, config: DatasetConfig, value_range: ValueRange | None, found: Sequence[Note]) -> SetT:
    """A data set with how its images are read, and what was noticed while it was opened."""
    if isinstance(samples, ImageReader):
        samples.exif, samples.value_range = getattr(config, "exif", "apply"), value_range
    if found:
        assert isinstance(samples.notes, list)
        samples.notes.extend(sentences(found))
    return samples


def _scenes(config: ScenesConfig, split: Split, keep_empty: bool) -> AnnotatedSet:
    if split == "train":
        return Scenes(config.image_size, config.train_seed, config.num_training)
    return Scenes(config.image_size, config.validation_seed, config.num_validation)


def _coco_instances(config: CocoInstanceConfig, split: Split, keep_empty: bool) -> AnnotatedSet:
    return CocoInstances(
        [(entry.annotations, entry.images) for entry in getattr(config, split)],
        keep_empty=keep_empty,
        missing_images=config.missing_images,
        missing_masks=config.missing_masks,
        crowds=config.crowds,
        allow_outside=config.allow_outside,
    )


def _coco_panoptic(config: CocoPanopticConfig, split: Split, keep_empty: bool) -> AnnotatedSet:
    return CocoPanoptic(
        [PanopticFiles(entry.annotations, entry.segments, entry.images) for entry in getattr(config, split)],
        config.task,
        keep_empty=keep_empty,
        missing_images=config.missing_images,
        allow_outside=config.allow_outside,
    )


def _label_folder(config: LabelFolderConfig, split: Split, keep_empty: bool) -> AnnotatedSet:
    notes: list[str] = []
    categories = read_names(config.names, notes)
    return LabelFolder(
        [(entry.images, entry.labels) for entry in getattr(config, split)],
        categories,
        ignore=config.ignore,
        label_suffix=config.label_suffix,
        unpaired=config.unpaired,
        unseen_classes=config.unseen_classes,
        notes=notes,
    )


def _yolo(config: YoloConfig, split: Split, keep_empty: bool) -> AnnotatedSet:
    return YoloPolygons(
        read_yolo(config.data),
        split,
        keep_empty=keep_empty,
        missing_masks=config.missing_masks,
        allow_outside=config.allow_outside,
    )


# What opens a data set of images: from its configuration, the split, and whether to keep images without objects.
_PICTURES: dict[type, Callable[[Any, Split, bool], AnnotatedSet]] = {
    ScenesConfig: _scenes,
    CocoInstanceConfig: _coco_instances,
    CocoPanopticConfig: _coco_panoptic,
    LabelFolderConfig: _label_folder,
    YoloConfig: _yolo,
    CocoConfig: lambda config, split, keep: official.coco(config.root, split, config.task, keep_empty=keep),
    CocoStuff10kConfig: lambda config, split, keep: official.coco_stuff_10k(config.root, split),
    Ade20kConfig: lambda config, split, keep: official.ade20k(config.root, split, config.task, keep_empty=keep),
    Ade20kFullConfig: lambda config, split, keep: official.ade20k_full(config.root, split),
    CityscapesConfig: lambda config, split, keep: official.cityscapes(config.root, split, config.task, keep_empty=keep),
    MapillaryVistasConfig: lambda config, split, keep: official.mapillary_vistas(
        config.root, split, config.task, keep_empty=keep
    ),
}


def build_clips(
    config: SceneClipsConfig | YouTubeVISConfig | ClipsConfig | MaskFoldersConfig,
    split: Split,
    *,
    keep_empty: bool = True,
    value_range: ValueRange | None = None,
) -> SceneClips | YouTubeVIS | MaskFolders:
    """Whole clips, by index; without ``keep_empty`` those without tracks are left out.

    Raises:
        RequestError: files that are missing or broken.
    """
    with collect_notes() as found:
        clips = _open_clips(config, split, keep_empty)
    return _read_as(clips, config, value_range, found)


def _open_clips(
    config: SceneClipsConfig | YouTubeVISConfig | ClipsConfig | MaskFoldersConfig, split: Split, keep_empty: bool
) -> SceneClips | YouTubeVIS | MaskFolders:
    training = split == "train"
    if isinstance(config, YouTubeVISConfig):
        return official.youtube_vis(config.root, split, config.year, keep_empty=keep_empty)
    if isinstance(config, ClipsConfig):
        files = config.train if training else config.validation
        sources = [(entry.annotations, entry.frames) for entry in files]
        return YouTubeVIS(sources, keep_empty=keep_empty, allow_outside=config.allow_outside)
    if isinstance(config, MaskFoldersConfig):
        folders = config.train if training else config.validation
        return MaskFolders(folders.images, folders.masks, folders.clips, allow_outside=config.allow_outside)
    seed = config.train_seed if training else config.validation_seed
    count = config.num_training if training else config.num_validation
    return SceneClips(config.image_size, config.clip_length, seed, count)


def build_augmentation(config: AugmentationConfig) -> Augmentation | None:
    """The random recipe, or None for pictures as they are."""
    if config.name == "none":
        return None
    if config.name == "large-scale-jitter":
        return LargeScaleJitter(
            config.image_size, config.min_scale, config.max_scale, config.flip, keep_lost=config.keep_lost
        )
    return ResizeCropFlip(
        config.short_edges,
        config.long_edge,
        config.crop_size,
        config.pad_size,
        config.flip,
        factors=config.factors,
        diameter=config.diameter,
        max_category_share=config.max_category_share,
        color_jitter=config.color_jitter,
        keep_lost=config.keep_lost,
    )


def build_training_set(
    config: DataConfig, *, with_ignored: bool = False, value_range: ValueRange | None = None
) -> TrainingSet:
    """What a run is trained on; ``with_ignored`` makes targets say where the truth is not known.

    ``value_range`` is that of the model, see :func:`~mask2former.data.images.read_image`.

    Raises:
        RequestError: files that are missing or broken, or that have no annotations.
    """
    samples: AnnotatedSet | ClipSet
    sampling = config.dataset if isinstance(config.dataset, ClipSampling) else None
    if sampling is None:
        samples = build_pictures(config.dataset, "train", keep_empty=config.keep_empty, value_range=value_range)
    else:
        samples = build_clips(sampling, "train", keep_empty=config.keep_empty, value_range=value_range)  # pyright: ignore[reportArgumentType]  (all kinds but their base)
        if not samples.has_truth:
            raise RequestError("the training clips have no 'annotations'; the public test sets cannot be trained on")
    augmentation = build_augmentation(config.augmentation)
    return TrainingSet(samples, augmentation, sampling=sampling, with_ignored=with_ignored)
