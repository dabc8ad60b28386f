"""Data as users refer to it: the name of a data set, a run file, or your own annotations and images."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mask2former.config import (
    ClipSampling,
    DataConfig,
    DatasetConfig,
    EvaluationConfig,
    MixedConfig,
    NamedFilesConfig,
    OfficialConfig,
    RunConfig,
    Task,
    parse,
    read_run_file,
)
from mask2former.data.annotated import AnnotatedSet
from mask2former.data.build import build_split
from mask2former.data.clips import MeasuredClips
from mask2former.data.datasets.annotation_files import found_file, groups_in
from mask2former.data.datasets.coco import CocoInstances
from mask2former.data.datasets.mask_folders import MaskFolders
from mask2former.data.datasets.official import Split
from mask2former.data.datasets.scenes import SceneClips, Scenes
from mask2former.data.datasets.video_panoptic import VideoPanoptic, is_video_panoptic
from mask2former.data.datasets.youtube_vis import YouTubeVIS, is_youtube_vis
from mask2former.documents import read_yaml
from mask2former.errors import OptionError, UserError

__all__ = ["DataSource", "OpenedData", "dataset_by_name", "files_named_in", "reading_outside"]

ConfigT = TypeVar("ConfigT", bound=DatasetConfig)

_FIRST_SCENE = 1_000_000  # of those for validation
_SCENE_SIDE = 128  # pixels
_SCENES, _SCENE_CLIPS, _CLIP_FRAMES = 50, 20, 20


@dataclass(frozen=True, kw_only=True)
class OpenedData:
    """A data set of images or clips.

    Attributes:
        samples: the data set.
        record: what the data is, for metrics and result files.
        evaluation: the evaluation settings of its run file, if any.
        as_drawn: images that models process at their original size.
    """

    samples: AnnotatedSet | MeasuredClips
    record: dict[str, Any]
    evaluation: EvaluationConfig | None = None
    as_drawn: bool = False


@dataclass(frozen=True)
class DataSource:
    """The images or clips to use: those of ``annotations`` if given, else those of ``data``.

        DataSource("cityscapes:panoptic")
        DataSource(annotations="val.json", images="val", by="modality")

    Args:
        data: ``scenes`` (the default) or ``scene-clips``, which are drawn; a published data set, as ``NAME`` or
            ``NAME:TASK``; ``youtube-vis:2019`` or ``:2021``; ``RUN.yaml``, the data of a run file; or a configuration.
        root: the folder that holds the published data sets.
        annotations: a file in COCO's or YouTube-VIS format, or a folder of id maps; with ``images``.
        images: the folder of its images or frames.
        segments: the folder of PNG files of video panoptic ground truth (VIPSeg's format).
        split: which part of the data.
        seed: of the first scene.
        size: side of scenes in pixels.
        limit: use only this many images or clips, from the start.
        allow_outside: also read images that annotations or lists name outside the image folder.
        by: a key of the images of ``annotations`` whose values form groups, for instance ``modality``.
    """

    data: str | DatasetConfig | None = None
    root: str | Path | None = None
    annotations: str | Path | None = None
    images: str | Path | None = None
    segments: str | Path | None = None
    split: Split = "validation"
    seed: int | None = None
    size: int | None = None
    limit: int | None = None
    by: str | None = None
    allow_outside: bool = False

    def check(self) -> None:
        """Refuse arguments that name two sources of data, or only half of one.

        Raises:
            UserError: the message names the arguments.
        """
        if (self.annotations is None) != (self.images is None):
            raise OptionError(
                lambda name: (
                    f"{name('annotations')} FILE.json and {name('images')} DIR belong together; give both, or neither "
                    "for scenes"
                )
            )
        for needy, what in (("segments", "is the folder of PNGs of an annotation file"), ("by", "is a key of images")):
            if getattr(self, needy) is not None and self.annotations is None:
                raise OptionError(
                    lambda name, needy=needy, what=what: (
                        f"{name(needy)} {what}; give {name('annotations')} FILE.json with it"
                    )
                )
        for other in ("data", "root"):
            if getattr(self, other) is not None and self.annotations is not None:
                raise OptionError(
                    lambda name, other=other: (
                        f"{name(other)} and {name('annotations')} name different data; give only one of them"
                    )
                )
        is_drawn = self.annotations is None and self.data in (None, "scenes", "scene-clips")
        subject = self.annotations or self.data
        names_files = not os.path.isdir(self.annotations) if self.annotations is not None else not is_drawn
        if self.allow_outside and not names_files:
            raise _no_names_of_files(str(subject or "scenes"))
        for about in ("seed", "size"):
            if getattr(self, about) is not None and not is_drawn:
                raise OptionError(lambda name, about=about: f"{name(about)} applies to scenes, not to {subject}")

    def files(self) -> list[str | Path]:
        """The files and folders that are named here or in a run file, none of which may be overwritten."""
        named = (self.data, self.annotations, self.images, self.segments)
        files = [entry for entry in named if isinstance(entry, str | Path)]
        settings: Any = None
        if isinstance(self.data, str) and _is_run_file(self.data):
            with contextlib.suppress(UserError):  # opening it reports what is wrong with it
                settings = read_yaml(Path(self.data), "run file")
        elif self.data is not None and not isinstance(self.data, str):
            settings = self.data.model_dump(mode="json")
        return [*files, *files_named_in(settings)]

    def open(self, default_task: Callable[[], Task]) -> OpenedData:
        """Open the data, and read as much as its length requires.

        Args:
            default_task: supplies the task if a published data set has several tasks and none is given.

        Raises:
            UserError: the data does not exist, files are missing or broken, or arguments contradict each other.
        """
        self.check()
        if self.annotations is not None and self.images is not None:
            return self._open_files(Path(self.annotations), Path(self.images))
        if self.data in (None, "scenes", "scene-clips"):
            first, side = _FIRST_SCENE if self.seed is None else self.seed, self.size or _SCENE_SIDE
            if self.data == "scene-clips":
                drawn = SceneClips(side, _CLIP_FRAMES, first, self.limit or _SCENE_CLIPS)
            else:
                drawn = Scenes(side, first, self.limit or _SCENES)
            record = {"data": self.data or "scenes", "seed": first, "size": side}
            return OpenedData(samples=drawn, record=record, as_drawn=True)
        config, run = self._configuration(default_task)
        if self.allow_outside:
            config = reading_outside(config, self.data if isinstance(self.data, str) else config.name)
        data = (DataConfig() if run is None else run.data).model_copy(update={"dataset": config})
        values = data.model_dump(mode="json", include={"dataset", "validation"})
        return OpenedData(
            samples=build_split(data, self.split),
            record={"data": values["dataset"] if data.validation is None else values, "split": self.split},
            evaluation=None if run is None else run.evaluation,
        )

    def groups(self) -> dict[int | str, str] | None:
        """The group of every image by its id, if there are groups.

        Raises:
            UserError: the file cannot be read, or its images do not have the key.
        """
        if self.by is None or self.annotations is None:
            return None
        return groups_in(found_file(self.annotations), self.by)

    def _open_files(self, annotations: Path, images: Path) -> OpenedData:
        record: dict[str, Any] = {"data": str(annotations), "split": self.split, "images": str(images)}
        outside = self.allow_outside
        if self.segments is not None:
            record["segments"] = str(self.segments)
            samples = VideoPanoptic(annotations, Path(self.segments), images, allow_outside=outside)
        elif is_video_panoptic(annotations):
            raise OptionError(
                lambda name: (
                    f"'{annotations}' lists segments of videos; give the folder of their PNGs as {name('segments')} DIR"
                )
            )
        elif annotations.is_dir():
            if images.is_file():
                raise OptionError(
                    lambda name: (
                        f"{name('images')} is the file '{images}' and {name('annotations')} the folder "
                        f"'{annotations}'; expected a folder of images: are the two swapped?"
                    )
                )
            samples = MaskFolders(images, annotations)
        elif is_youtube_vis(annotations):
            samples = YouTubeVIS([(annotations, images)], allow_outside=outside)
        else:
            record = {"data": "coco", "annotations": str(annotations), "images": str(images)}
            samples = CocoInstances([(annotations, images)], allow_outside=outside)
        return OpenedData(samples=samples, record=record)

    def _configuration(self, default_task: Callable[[], Task]) -> tuple[DatasetConfig, RunConfig | None]:
        if not isinstance(self.data, str):
            assert self.data is not None
            return self.data, None
        root = None if self.root is None else Path(self.root)
        if _is_run_file(self.data):
            if root is not None:
                raise OptionError(
                    lambda named: (
                        f"{named('root')} applies to published data sets given by name; '{self.data}' specifies where "
                        "its data is"
                    )
                )
            run = parse(RunConfig, read_run_file(Path(self.data)), self.data)
            return run.data.dataset, run
        return dataset_by_name(self.data, root, default_task), None


def dataset_by_name(name: str, root: Path | None, default_task: Callable[[], Task]) -> DatasetConfig:
    """The configuration of ``NAME`` or ``NAME:TASK``, for clips ``NAME:YEAR``.

    Args:
        name: of a published data set.
        root: the folder of the published data sets, if given.
        default_task: supplies the task if none is given and the data set has several.

    Raises:
        UserError: the name does not exist, or the data set does not have the task.
    """
    images = (kind for kind in OfficialConfig.__subclasses__() if not issubclass(kind, ClipSampling))
    kinds = {kind.model_fields["name"].default: kind for kind in images}
    typed, _, task = name.partition(":")
    if typed == "youtube-vis":
        if task not in ("2019", "2021"):
            raise UserError(f"there is no data set '{name}'; expected youtube-vis:2019 or youtube-vis:2021")
        clips = {"dataset": {"name": typed, "year": int(task), "root": None if root is None else str(root)}}
        return parse(DataConfig, clips, f"data {name}").dataset
    if typed not in kinds:
        known = ", ".join(sorted(kinds))
        raise OptionError(
            lambda called: (
                f"there is no published data set '{typed}'; expected {known}, youtube-vis:YEAR or a run file "
                "(RUN.yaml); evaluate and analyze also draw scenes and scene-clips, and read your own data with "
                f"{called('annotations')} FILE.json {called('images')} DIR"
            )
        )
    values: dict[str, Any] = {"name": typed, "root": None if root is None else str(root)}
    if "task" in kinds[typed].model_fields:
        values["task"] = task or default_task()
    elif task not in ("", "semantic"):
        raise UserError(f"{typed} has labels for the task semantic only, not for {task}")
    return parse(DataConfig, {"dataset": values}, f"data {name}").dataset


def files_named_in(settings: Any) -> Iterator[str]:
    """Annotation files, names files and the like, but not images: all texts in settings, as JSON, that name a file."""
    values = [settings]
    while values:
        value = values.pop()
        if isinstance(value, dict | list):
            values += value.values() if isinstance(value, dict) else value
        elif isinstance(value, str) and os.path.isfile(value):
            yield value


def reading_outside(dataset: ConfigT, source: str) -> ConfigT:
    """The data set, allowing its files to name others outside their folders.

    Raises:
        UserError: nothing in it names files.
    """
    if isinstance(dataset, MixedConfig) and any(isinstance(part.dataset, NamedFilesConfig) for part in dataset.parts):
        parts = [
            part.model_copy(update={"dataset": reading_outside(part.dataset, source)})
            if isinstance(part.dataset, NamedFilesConfig)
            else part
            for part in dataset.parts
        ]
        return dataset.model_copy(update={"parts": tuple(parts)})
    if not isinstance(dataset, NamedFilesConfig):
        raise _no_names_of_files(source)
    return dataset.model_copy(update={"allow_outside": True})


def _no_names_of_files(source: str) -> OptionError:
    return OptionError(
        lambda name: f"{name('allow_outside')} applies to annotations and lists that name files; {source} has none"
    )


def _is_run_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))
