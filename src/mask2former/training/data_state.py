"""What identifies the data of a run, to notice a change between two calls without reading any image."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any, get_args

from mask2former.config import DataConfig
from mask2former.data.annotated import AnnotatedSet
from mask2former.data.build import build_split
from mask2former.data.clips import MeasuredClips
from mask2former.data.datasets.official import Split
from mask2former.data.datasets.reader import ImageReader, Reader
from mask2former.data.sources import files_named_in
from mask2former.media.archives import File

__all__ = ["data_state", "digest_of"]


def digest_of(samples: AnnotatedSet | MeasuredClips, count: int) -> str:
    """Identifies the first samples of a data set by names, ids and numbers of objects, but not by their location."""
    counts = samples.num_objects
    names = [samples.image_id(index) for index in range(count)]
    files = [samples.file(index).name for index in range(count)] if isinstance(samples, Reader) else []
    return _digest([names, files, [] if counts is None else counts[:count].tolist()])


def data_state(config: DataConfig) -> dict[str, str]:
    """Digests of all that can be told about the data of a run without reading an image, by what they are about.

    These are the files that the configuration names, such as lists of classes; and for each split the content of all
    annotation files, :func:`digest_of` and the sizes of image files in bytes. The content of label maps and masks is
    not part of it, nor are the frames of clips.

    Raises:
        UserError: the data is missing or broken.
    """
    state: dict[str, str] = {}
    for name in sorted(set(files_named_in(config.model_dump(mode="json")))):
        if Path(name).suffix.lower() != ".zip":  # images and annotations in it count one by one
            state[name] = _content(Path(name))
    contents = dict(state)  # by path: both splits can be parts of one data set
    for split in get_args(Split) if config.is_validated else ("train",):
        samples = build_split(config, split)
        state[f"{split} samples"] = digest_of(samples, len(samples))
        if isinstance(samples, ImageReader) and samples.annotation_files:
            for file in samples.annotation_files:
                contents[str(file)] = contents.get(str(file)) or _content(file)
            of_split = [(file.name, contents[str(file)]) for file in samples.annotation_files]
            state[f"annotation files of {split}"] = _digest(of_split)
        if isinstance(samples, Reader):
            state[f"sizes of {split} images"] = _digest([_num_bytes(samples.file(i)) for i in range(len(samples))])
    return state


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _content(file: File) -> str:
    if not isinstance(file, Path):
        return hashlib.sha256(file.read_bytes()).hexdigest()
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _num_bytes(file: File) -> int | None:
    with contextlib.suppress(OSError):  # reading the image reports that it is missing
        return file.stat().st_size if isinstance(file, Path) else file.num_bytes
    return None
