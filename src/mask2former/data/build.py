"""Data sets from their configuration: the only module that knows them by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Unpack

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
    IdMapsConfig,
    LabelFolderConfig,
    MapillaryVistasConfig,
    MaskFilesConfig,
    MaskFoldersConfig,
    MixedConfig,
    MixedPart,
    PairedFilesConfig,
    Reading,
    SceneClipsConfig,
    ScenesConfig,
    ToolFilesConfig,
    YoloConfig,
    YouTubeVISConfig,
)
from mask2former.data.annotated import AnnotatedSet
from mask2former.data.clips import ClipSet
from mask2former.data.datasets import official
from mask2former.data.datasets.class_names import read_color_table, read_names
from mask2former.data.datasets.coco import CocoInstances
from mask2former.data.datasets.coco_panoptic import CocoPanoptic, PanopticFiles
from mask2former.data.datasets.id_maps import IdMapFolders, IdMaps, object_categories, things_beside_background
from mask2former.data.datasets.label_folder import LabelFolder, LabelFolders
from mask2former.data.datasets.mask_files import MaskFiles, MaskFolder
from mask2former.data.datasets.mask_folders import MaskFolders
from mask2former.data.datasets.official import Split
from mask2former.data.datasets.pairs import Names
from mask2former.data.datasets.reader import ImageReader, Reader
from mask2former.data.datasets.scenes import SceneClips, Scenes
from mask2former.data.datasets.tool_files import open_tool_files
from mask2former.data.datasets.yolo import YoloPolygons, read_yolo
from mask2former.data.datasets.youtube_vis import YouTubeVIS
from mask2former.data.loading.training_set import TrainingSet
from mask2former.data.mixed import Mixed
from mask2former.data.parts import part_of, selected
from mask2former.data.transforms import (
    Augmentation,
    LargeScaleJitter,
    ResizeCropFlip,
)
from mask2former.errors import UserError, prefixed
from mask2former.notes import collect_notes, sentences
from mask2former.structures.categories import Categories

__all__ = [
    "build_augmentation",
    "build_images",
    "build_samples",
    "build_split",
    "build_training_set",
    "read_as",
]


def build_samples(
    config: DatasetConfig, split: Split, *, filter_empty: bool = False, **reading: Unpack[Reading]
) -> AnnotatedSet | ClipSet:
    """A data set of images or clips, by index, without augmentation.

    Args:
        config: which data set, and where it is.
        split: which part of it.
        filter_empty: leaves out images and clips without objects (scenes and label maps always have some).
        reading: how the model reads images (``value_range``, ``bands``), see
            :func:`~mask2former.media.images.read_image`.

    Raises:
        UserError: files that are missing or broken, or no validation data.
    """
    if split == "validation" and getattr(config, "validation", None) == ():
        raise UserError(
            f"the data set '{config.name}' has no validation data (data.dataset.validation is []); give data to "
            "evaluate on (--annotations and --images, or --split train; in Python a DataSource with these)"
        )
    with collect_notes() as found:
        samples = _OPENERS[type(config)](config, split, filter_empty)
    if isinstance(samples, ImageReader):
        samples.exif = getattr(config, "exif", "apply")
    read_as(samples, reading)
    if found:
        assert not isinstance(samples, Mixed), "what is noted while a part is opened belongs to the part"
        assert isinstance(samples.notes, list)
        samples.notes.extend(sentences(found))
    return samples


def read_as(samples: object, reading: Reading) -> None:
    """Make a data set read its images as the model expects; your own samples are used as they are.

    Raises:
        UserError: the model expects image bands, but the data set draws its images in colour.
    """
    if isinstance(samples, ImageReader):
        samples.reading = reading
    elif isinstance(samples, Scenes | SceneClips) and (bands := reading.get("bands")) is not None:
        raise UserError(
            "drawn scenes have only red, green and blue channels, but the model expects image bands (bands "
            f"{bands}); use data that is read from files"
        )


def build_split(
    config: DataConfig, split: Split, *, filter_empty: bool = False, **reading: Unpack[Reading]
) -> AnnotatedSet | ClipSet:
    """:func:`build_samples` for the data of a run, which may hold back a part of the training data for validation.

    Raises:
        UserError: as for :func:`build_samples`, or a part would be empty.
    """
    if config.validation is None:
        return build_samples(config.dataset, split, filter_empty=filter_empty, **reading)
    if isinstance(config.dataset, MixedConfig):
        if not any(part.held_back for part in config.dataset.parts):
            raise UserError("data.validation takes images from no part of the data set: held_back is false for all")

        def opened(part: MixedPart) -> AnnotatedSet | ClipSet:
            own = config.model_copy(
                update={"dataset": part.dataset, "validation": config.validation if part.held_back else None}
            )
            return build_split(own, split, filter_empty=filter_empty, **reading)

        return _mix(config.dataset, lambda part: part.held_back, opened, split)
    whole = build_samples(config.dataset, "train", filter_empty=filter_empty, **reading)
    return part_of(whole, config.validation, split)


def build_images(
    config: DatasetConfig, split: Split, *, filter_empty: bool = False, **reading: Unpack[Reading]
) -> AnnotatedSet:
    """:func:`build_samples` where images are expected.

    Raises:
        UserError: as for :func:`build_samples`, or the data set has clips.
    """
    if isinstance(config, ClipSampling):
        raise UserError(f"the data set '{config.name}' has clips; expected one of images")  # pyright: ignore
    samples = build_samples(config, split, filter_empty=filter_empty, **reading)
    assert not isinstance(samples, ClipSet)
    return samples


def _scenes(config: ScenesConfig, split: Split, filter_empty: bool) -> AnnotatedSet:
    return Scenes(config.image_size, *_drawn(config, split))


def _scene_clips(config: SceneClipsConfig, split: Split, filter_empty: bool) -> ClipSet:
    return SceneClips(config.image_size, config.clip_length, *_drawn(config, split))


def _drawn(config: ScenesConfig | SceneClipsConfig, split: Split) -> tuple[int, int]:
    """The first seed, and the number of scenes or clips."""
    if split == "train":
        return config.train_seed, config.num_training
    return config.validation_seed, config.num_validation


def _coco_instances(config: CocoInstanceConfig, split: Split, filter_empty: bool) -> AnnotatedSet:
    return CocoInstances(
        [(entry.annotations, entry.images) for entry in getattr(config, split)],
        filter_empty=filter_empty,
        missing_images=config.missing_images,
        missing_masks=config.missing_masks,
        crowds=config.crowds,
        allow_outside=config.allow_outside,
    )


def _coco_panoptic(config: CocoPanopticConfig, split: Split, filter_empty: bool) -> AnnotatedSet:
    return CocoPanoptic(
        [PanopticFiles(entry.annotations, entry.segments, entry.images) for entry in getattr(config, split)],
        config.task,
        filter_empty=filter_empty,
        missing_images=config.missing_images,
        allow_outside=config.allow_outside,
    )


def _label_folder(config: LabelFolderConfig, split: Split, filter_empty: bool) -> AnnotatedSet:
    notes: list[str] = []
    by_color = config.encoding == "colors"
    categories = read_names(config.names, notes, by_color=by_color)
    if by_color:
        categories = _learned(categories, config.ignore or (), config.names)
    return LabelFolder(
        [LabelFolders(entry.images, entry.labels, entry.split) for entry in getattr(config, split)],
        categories,
        ignore=config.ignore,
        files=_names(config),
        colors=read_color_table(config.names) if by_color else None,
        unseen_classes=config.unseen_classes,
        notes=notes,
    )


def _learned(categories: Categories, ignore: Sequence[int], names: str) -> Categories:
    """The classes of colours without those whose number is ignored, which are in the file to name their colours.

    Raises:
        UserError: there are no others.
    """
    kept = tuple(item for item in categories if item.id not in ignore)
    if not kept:
        raise UserError(f"all classes of '{names}' are ignored, so there is nothing to learn; correct dataset.ignore")
    return replace(categories, items=kept)


def _names(config: PairedFilesConfig) -> Names:
    return Names(config.image_name, config.label_name, config.unpaired)


def _id_maps(config: IdMapsConfig, split: Split, filter_empty: bool) -> AnnotatedSet:
    entries = config.train if split == "train" else config.validation
    has_classes = {entry.classes is not None for entry in entries}
    if len(has_classes) > 1 or (config.names is not None) != has_classes.pop():
        raise UserError(
            "data set id-maps: class maps (classes: DIR, for each pair of folders) and the file of class names "
            "(names: FILE) belong together; give both, or neither if all objects are of one class"
        )
    colors = None
    if config.names is None:
        categories = object_categories(config.class_name)
    else:
        by_color = config.encoding == "colors"
        categories = things_beside_background(read_names(config.names, by_color=by_color), config.names)
        if by_color:
            if categories[0].id in config.ignore:
                raise UserError(
                    f"dataset.ignore contains {categories[0].id}, the background '{categories[0].name}' of "
                    f"'{config.names}', which has no objects; remove it from dataset.ignore"
                )
            categories = _learned(categories, config.ignore, config.names)
        colors = read_color_table(config.names) if by_color else None
    return IdMaps(
        [IdMapFolders(entry.images, entry.labels, entry.classes, entry.split) for entry in entries],
        categories,
        files=_names(config),
        ignore=config.ignore,
        colors=colors,
        filter_empty=filter_empty,
    )


def _mask_files(config: MaskFilesConfig, split: Split, filter_empty: bool) -> AnnotatedSet:
    sources = [MaskFolder(entry.images, entry.masks) for entry in getattr(config, split)]
    return MaskFiles(sources, config.class_name, filter_empty=filter_empty)


def _tool_files(config: ToolFilesConfig, split: Split, filter_empty: bool) -> AnnotatedSet:
    return open_tool_files(
        config.name,
        [(entry.annotations, entry.images) for entry in getattr(config, split)],
        names=None if config.names is None else read_names(config.names, by_color=True),
        class_attribute=config.class_attribute,
        filter_empty=filter_empty,
        missing_images=config.missing_images,
        missing_masks=config.missing_masks,
        allow_outside=config.allow_outside,
    )


def _yolo(config: YoloConfig, split: Split, filter_empty: bool) -> AnnotatedSet:
    return YoloPolygons(
        read_yolo(config.data),
        split,
        filter_empty=filter_empty,
        missing_masks=config.missing_masks,
        allow_outside=config.allow_outside,
    )


def _mixed(config: MixedConfig, split: Split, filter_empty: bool) -> AnnotatedSet:
    return _mix(
        config,
        lambda part: part.is_validated,
        lambda part: build_samples(part.dataset, split, filter_empty=filter_empty),
        split,
    )


def _mix(
    config: MixedConfig,
    is_validated: Callable[[MixedPart], bool],
    opened: Callable[[MixedPart], AnnotatedSet | ClipSet],
    split: Split,
) -> Mixed:
    """The parts that have this split as one data set; only training repeats images, metrics count each of them once."""
    readers: dict[str, Reader] = {}
    kept: list[MixedPart] = []
    for number, part in enumerate(config.parts, start=1):
        if split == "train" or is_validated(part):
            name = f"part {number} ({part.dataset.name})"
            try:
                samples = opened(part)
                assert isinstance(samples, Reader)  # all data sets that can be a part are read from image files
                readers[name] = selected(samples, part.select)
            except UserError as error:
                raise prefixed(name, error) from error
            kept.append(part)
    return Mixed(list(readers.values()), [part.repeat if split == "train" else 1 for part in kept], list(readers))


def _clips(config: ClipsConfig, split: Split, filter_empty: bool) -> ClipSet:
    sources = [(entry.annotations, entry.frames) for entry in getattr(config, split)]
    return YouTubeVIS(sources, filter_empty=filter_empty, allow_outside=config.allow_outside)


def _mask_folders(config: MaskFoldersConfig, split: Split, filter_empty: bool) -> ClipSet:
    folders = config.train if split == "train" else config.validation
    return MaskFolders(folders.images, folders.masks, folders.clips, allow_outside=config.allow_outside)


# The function that opens a data set, given its configuration, the split, and whether to leave out images and clips
# without objects.
_OPENERS: dict[type, Callable[[Any, Split, bool], AnnotatedSet | ClipSet]] = {
    ScenesConfig: _scenes,
    CocoInstanceConfig: _coco_instances,
    CocoPanopticConfig: _coco_panoptic,
    LabelFolderConfig: _label_folder,
    IdMapsConfig: _id_maps,
    MaskFilesConfig: _mask_files,
    ToolFilesConfig: _tool_files,
    YoloConfig: _yolo,
    CocoConfig: lambda config, split, drop: official.coco(config.root, split, config.task, filter_empty=drop),
    CocoStuff10kConfig: lambda config, split, drop: official.coco_stuff_10k(config.root, split),
    Ade20kConfig: lambda config, split, drop: official.ade20k(config.root, split, config.task, filter_empty=drop),
    Ade20kFullConfig: lambda config, split, drop: official.ade20k_full(config.root, split),
    CityscapesConfig: lambda config, split, drop: official.cityscapes(
        config.root, split, config.task, filter_empty=drop
    ),
    MapillaryVistasConfig: lambda config, split, drop: official.mapillary_vistas(
        config.root, split, config.task, filter_empty=drop
    ),
    SceneClipsConfig: _scene_clips,
    YouTubeVISConfig: lambda config, split, drop: official.youtube_vis(
        config.root, split, config.year, filter_empty=drop
    ),
    ClipsConfig: _clips,
    MaskFoldersConfig: _mask_folders,
    MixedConfig: _mixed,
}


def build_augmentation(config: AugmentationConfig) -> Augmentation | None:
    """The random augmentation, whose arguments have the names of its settings; None for images as they are."""
    settings = dict(config)
    kind = {"large-scale-jitter": LargeScaleJitter, "resize-crop-flip": ResizeCropFlip}.get(settings.pop("name"))
    return None if kind is None else kind(**settings)


def build_training_set(
    config: DataConfig,
    samples: AnnotatedSet | ClipSet | None = None,
    augmentation: Augmentation | None = None,
    *,
    with_ignored: bool = False,
    **reading: Unpack[Reading],
) -> TrainingSet:
    """The training samples of a run.

    Args:
        config: the data of the run.
        samples: used instead of the data set in ``config``.
        augmentation: used instead of the one in ``config``.
        with_ignored: whether targets say where the ground truth is unknown.
        reading: how the model reads images, see :func:`~mask2former.media.images.read_image`.

    Raises:
        UserError: files are missing or broken, or have no annotations; or as for :func:`read_as`.
    """
    found = samples
    if found is None:
        found = build_split(config, "train", filter_empty=config.filter_empty, **reading)
    else:
        read_as(found, reading)
    if isinstance(found, ClipSet) and not found.has_ground_truth:
        raise UserError("the training clips have no 'annotations'; the public test sets cannot be used for training")
    sampling = config.dataset if isinstance(config.dataset, ClipSampling) else None
    if augmentation is None and getattr(config.augmentation, "diameter", None) and "instance" not in found.tasks:
        raise UserError(
            "data.augmentation.diameter is that of objects, but the training data are for the task "
            f"{', '.join(found.tasks)}; leave it out, so that scale_range counts from the size of the image"
        )
    augmentation = augmentation or build_augmentation(config.augmentation)
    if config.copy_paste and (isinstance(found, ClipSet) or "instance" not in found.tasks):
        what = "clips" if isinstance(found, ClipSet) else f"for the task {', '.join(found.tasks)}"
        raise UserError(f"data.copy_paste requires images with objects, but the training data are {what}; set it to 0")
    return TrainingSet(found, augmentation, sampling=sampling, with_ignored=with_ignored, copy_paste=config.copy_paste)
