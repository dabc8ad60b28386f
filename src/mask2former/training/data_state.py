"""The state of the files of a run's data, which shows a change between two calls without reading any image."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import get_args

from mask2former.config import DataConfig
from mask2former.data.build import build_split
from mask2former.data.datasets.official import Split
from mask2former.data.datasets.reader import Reader
from mask2former.data.sources import files_named_in
from mask2former.media.archives import File

__all__ = ["data_state"]


def data_state(config: DataConfig) -> dict[str, str]:
    """What identifies the data of a run, by what it belongs to.

    That is the SHA-256 of every file that the configuration names, such as annotations, and for each split one of the
    ids of its images or clips, of their numbers of objects as far as the annotations tell, and of the names and sizes
    in bytes of image files. Label maps and masks in folders are not part of it, nor are the frames of clips.

    Raises:
        UserError: the data is missing or broken.
    """
    state: dict[str, str] = {}
    for name in sorted(set(files_named_in(config.model_dump(mode="json")))):
        if Path(name).suffix.lower() != ".zip":  # images in it count one by one
            with Path(name).open("rb") as file:
                state[name] = hashlib.file_digest(file, "sha256").hexdigest()
    for split in get_args(Split) if config.is_validated else ("train",):
        samples = build_split(config, split)
        files = [samples.file(index) for index in range(len(samples))] if isinstance(samples, Reader) else []
        counts = None if samples.num_objects is None else samples.num_objects.tolist()
        ids = [samples.image_id(index) for index in range(len(samples))]
        values = [ids, counts, [(file.name, _num_bytes(file)) for file in files]]
        state[f"{split} data"] = hashlib.sha256(json.dumps(values).encode()).hexdigest()
    return state


def _num_bytes(file: File) -> int | None:
    with contextlib.suppress(OSError):  # reading the image reports that it is missing
        return file.stat().st_size if isinstance(file, Path) else file.num_bytes
    return None
