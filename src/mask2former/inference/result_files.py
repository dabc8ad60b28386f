"""The result files of an image: which ones there are, how existing ones were made, and what must not be overwritten."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mask2former
from mask2former import documents, limits
from mask2former.config import InferenceConfig, Task, with_new_names
from mask2former.errors import OptionError, UserError
from mask2former.files import folder_lock, location_of
from mask2former.media.image_files import (
    ImageFile,
    ImagePage,
    NamedBytes,
    open_image,
    path_of,
)
from mask2former.notes import note
from mask2former.results_io.formats import files_of_image
from mask2former.results_io.json import read_result
from mask2former.structures import Categories, Instances, Segmentation
from mask2former.structures.packed_results import PackedSegmentation
from mask2former.structures.result_base import RECORDS, SCHEMA_VERSION, SOFTWARE
from mask2former.text import listed

__all__ = [
    "ENDINGS",
    "EXACT_MAPS",
    "Job",
    "Outcome",
    "Request",
    "categories_sha256",
    "check_alike",
    "check_in_the_way",
    "check_run_file",
    "drop_stale",
    "image_sha256_of",
    "is_of_another_image",
    "is_own_image",
    "remove_incomplete",
    "remove_old",
    "with_other_formats",
]

EXACT_MAPS: Mapping[str, str] = {
    "panoptic": "_ids.png",
    "semantic": "_labels.png",
}  # by task: the exact map of an image
ENDINGS = (".png", ".json", *EXACT_MAPS.values())
_CONTENT = {"coco": "COCO results", "table": "table"}  # what the files of options contain, for messages
_HEAD = b'{"schema_version": '  # start of JSON result files
_TIFF_SOFTWARE = 305  # the TIFF tag that names the software that wrote the file
_MARK = b"tEXtSoftware\0" + SOFTWARE.encode()  # in our PNG files
_PNG = b"\x89PNG\r\n\x1a\n"
# Settings that earlier results do not record, with the values that they were made with.
_ADDED = {"resampling": "antialiased", "classes": None, "min_area": 0, "class_thresholds": {}, "bands": None}


@dataclass(frozen=True, slots=True)
class Job:
    """One image; its results are ``stem`` plus an ending, in the folder ``output``."""

    source: ImageFile
    output: Path
    stem: Path

    @property
    def document(self) -> Path:
        """The JSON file, which records the image and how its results were made; written last."""
        return self.file(".json")

    def file(self, ending: str) -> Path:
        return self.output / f"{self.stem}{ending}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one image.

    Attributes:
        job: the image.
        status: ``skipped`` means that its results already exist; ``refused`` that the image cannot be read or its
            results cannot be written; ``failed`` that another error occurred, for instance because memory ran out.
        reason: why there is no result, in one sentence.
        trace: where an unexpected error occurred.
        differs: skipped although the existing results were made by another model, with other classes or settings, or
            by a version with another format of records.
        crowded: done, but there may be more instances than ``max_instances`` allows.
        found: number of predicted segments, instances or classes; 0 if ``differs``.
        candidates: number of instances of any score.
    """

    job: Job
    status: Literal["done", "skipped", "refused", "failed"]
    reason: str = ""
    trace: str = ""
    differs: bool = False
    crowded: bool = False
    found: int = 0
    candidates: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """Requirements for existing results, and the files that belong to a result.

    Attributes:
        task: of the results.
        settings: the recorded settings.
        weights_sha256: hash of the model's weights.
        categories_sha256: hash of its classes, see :func:`categories_sha256`.
        endings: endings of the files.
        candidates: whether instances below the threshold are also written.
    """

    task: Task
    settings: Mapping[str, Any]
    weights_sha256: str
    categories_sha256: str
    endings: tuple[str, ...]
    candidates: bool

    def skips(self, job: Job, document: Mapping[str, Any], image_sha256: str) -> Outcome | None:
        """The outcome of an image with existing results; None if they are to be replaced."""
        if not self.made(document):
            return Outcome(job, "skipped", differs=True)
        if document["provenance"].get("image_sha256") != image_sha256 or not self.is_complete(job, document):
            return None
        found = len(document[RECORDS[self.task]])
        return Outcome(job, "skipped", found=found, candidates=document.get("num_candidates", found))

    def made(self, document: Mapping[str, Any]) -> bool:
        """Whether it was made with these weights, classes and settings."""
        provenance, settings = document.get("provenance"), document.get("settings")
        if isinstance(settings, dict):
            with contextlib.suppress(ValueError):  # a setting under two names, which no version writes
                settings = _ADDED | with_new_names(settings)
        return isinstance(provenance, dict) and (
            document["schema_version"],
            document["task"],
            settings,
            provenance.get("weights_sha256"),
            provenance.get("categories_sha256"),
        ) == (SCHEMA_VERSION, self.task, self.settings, self.weights_sha256, self.categories_sha256)

    def is_complete(self, job: Job, document: Mapping[str, Any]) -> bool:
        if self.candidates and "candidates" not in document:
            return False
        width_height = tuple(document["size"][::-1])
        for ending in self.endings[1:]:
            found = _whole_png(job.file(ending))
            if found is None or (ending != ".png" and found != width_height):  # overlays may be larger than the image
                return False
        return True

    def extra(
        self,
        everything: PackedSegmentation | Segmentation,
        settings: InferenceConfig,
        source: ImageFile,
        image_sha256: str,
    ) -> dict[str, Any]:
        """Additional content of the JSON file: how the result was made, and candidates."""
        values: dict[str, Any] = {
            "provenance": {
                "version": mask2former.__version__,
                "image": source.name,
                "image_sha256": image_sha256,
                "weights_sha256": self.weights_sha256,
                "categories_sha256": self.categories_sha256,
            }
        }
        if isinstance(source, ImagePage):
            values["provenance"]["page"] = source.number
        if isinstance(everything, Instances):
            values["num_candidates"] = len(everything)
            if self.candidates:
                values["candidates"] = everything.below(
                    settings.instance_threshold, settings.class_thresholds
                ).to_dict()["instances"]
        return values


def _whole_png(path: Path) -> tuple[int, int] | None:
    """Width and height of a PNG file whose chunks are complete and match their checksums; None for other files."""
    try:
        documents.check_regular(path, "result")
        content = memoryview(path.read_bytes())
    except (OSError, UserError):
        return None
    start = len(_PNG)
    if content[:start] != _PNG:
        return None
    while start + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, start)
        end = start + 12 + length
        if end > len(content) or zlib.crc32(content[start + 4 : end - 4]) != int.from_bytes(content[end - 4 : end]):
            return None
        if kind == b"IEND":
            return struct.unpack_from(">II", content, 16)
        start = end
    return None


def image_sha256_of(source: ImageFile) -> str:
    """Hash of a file; empty if it cannot be read or is too large, for which reading the image has a better error."""
    path = path_of(source)
    if path is None:
        content = source.file if isinstance(source, ImagePage) else source
        return hashlib.sha256(content.content).hexdigest() if isinstance(content, NamedBytes) else ""
    try:
        if documents.check_regular(path, "image") > limits.LARGE_IMAGE_BYTES:
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, UserError):
        return ""


def categories_sha256(categories: Categories) -> str:
    """Hash of the properties of classes that results depend on: ids, names, and which are things."""
    classes = [[item.id, item.name, item.is_thing] for item in categories]
    return hashlib.sha256(json.dumps(classes).encode()).hexdigest()


def is_of_another_image(document: Mapping[str, Any], image_sha256: str) -> bool:
    """Whether results are known to be from another image; False if one of the hashes is unknown."""
    provenance = document.get("provenance")
    recorded = provenance.get("image_sha256") if isinstance(provenance, dict) else None
    return bool(recorded and image_sha256) and recorded != image_sha256


def check_in_the_way(jobs: Sequence[Job], request: Request) -> None:
    """Check that no file that is not a result of ours would be overwritten.

    Raises:
        UserError: there is such a file, which the message names.
    """
    others = [
        path
        for job in jobs
        for ending in request.endings
        if os.path.exists(path := job.file(ending))  # False where the name is too long, which stops only this image
        and not (_is_own_document(path) if ending == ".json" else is_own_image(path) or _is_damaged(path, job))
    ]
    if others:
        more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
        raise OptionError(
            lambda name: (
                f"'{others[0]}'{more} already exists and is not a result of mask2former predict; choose "
                f"another output, or replace it with {name('overwrite')}"
            )
        )


def check_alike(jobs: Sequence[Job], request: Request) -> None:
    """Check that results of several models, settings or tasks are not mixed in one file.

    Raises:
        UserError: they would be mixed; the message names a file.
    """
    others = [
        job.document
        for job in jobs
        if (document := read_result(job.document)) is not None and not request.made(document)
    ]
    if others:
        more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
        raise OptionError(
            lambda name: (
                f"'{others[0]}'{more} comes from another model, other classes or settings, or another "
                f"version, and one COCO file must not mix them; use {name('overwrite')} or another output"
            )
        )


def remove_old(job: Job) -> None:
    """Remove an earlier result, its JSON file first, so that it immediately counts as incomplete."""
    if read_result(job.document) is None:
        return
    ours = [path for ending in (".png", *EXACT_MAPS.values()) if is_own_image(path := job.file(ending))]
    for path in (job.document, *ours):
        path.unlink(missing_ok=True)


def remove_incomplete(job: Job) -> None:
    """Remove the overlay and maps of a result whose JSON file, which is written last, does not exist."""
    if not job.document.parent.is_dir():
        return
    with folder_lock(job.document.parent):
        if not os.path.exists(job.document):  # also if its name is too long, for which the method of a path fails
            for ending in (".png", *EXACT_MAPS.values()):
                if is_own_image(path := job.file(ending)):
                    path.unlink(missing_ok=True)


def drop_stale(job: Job) -> None:
    """Remove results of another image that will not be replaced: by name they would seem to be those of this image."""
    there = read_result(job.document)
    if there is not None and is_of_another_image(there, image_sha256_of(job.source)):
        remove_old(job)
        message = "results of earlier images of the same name, removed because the new images could not be segmented"
        note(message, f"'{job.document}'{with_other_formats(job)}")


def with_other_formats(job: Job) -> str:
    """What other formats hold of an earlier image, which seems to be of this one; the end of a note.

    Other programs may have changed these files since, so they are not removed.
    """
    kept = files_of_image(job.output, job.stem.as_posix())
    names = listed([f"'{path}'" for path in kept], 3)
    return f" (its files of other formats (also) are kept: {names})" if kept else ""


def is_own_image(path: Path) -> bool:
    """Whether a file is an overlay or a map of a result, judging by its mark or (for 0.1.0) the JSON file beside it."""
    if path.suffix.lower() not in (".png", ".tif") or not os.path.isfile(path):
        return False
    try:
        with path.open("rb") as file:  # avoids opening a large map as an image
            if _MARK in file.read(128):
                return True
        with open_image(path) as image:
            marks = image.info.get("Software"), getattr(image, "tag_v2", {}).get(_TIFF_SOFTWARE)
            if SOFTWARE in marks:
                return True
    except (UserError, OSError):  # reading the file as an image reports the error
        return False
    for task, ending in (*EXACT_MAPS.items(), ("", ".png")):
        document = read_result(path.with_name(path.name.removesuffix(ending) + ".json"))
        if path.name.endswith(ending) and document is not None and "provenance" not in document:
            return document["task"] == task if task else document.get("model") is not None
    return False


def check_run_file(
    path: Path, jobs: Sequence[Job], option: str, is_ours: Callable[[Path], bool], *, overwrite: bool
) -> None:
    """Check that a file for a complete run, which is named ``option`` in messages, destroys no results and no file.

    Raises:
        UserError: it is one of the results, it is where results are written, or another file exists.
    """
    target = location_of(path)
    results = {location_of(job.file(ending)): job for job in jobs for ending in ENDINGS}
    folders = {folder for index in results for folder in Path(index).parents}
    if target in results or any(str(folder) in results for folder in Path(target).parents):
        raise OptionError(
            lambda name: f"'{path}' is one of the results of this run; choose another file for {name(option)}"
        )
    if Path(target) in folders:
        raise OptionError(
            lambda name: f"'{path}' is a folder with results of this run; choose another file for {name(option)}"
        )
    if path.is_file() and not overwrite and not is_ours(path):  # not for a pipe, where reading would block
        raise OptionError(
            lambda name: (
                f"'{path}' already exists and contains no {_CONTENT[option]} of mask2former predict; choose "
                f"another file for {name(option)}, or replace it with {name('overwrite')}"
            )
        )


def _is_damaged(path: Path, job: Job) -> bool:
    """Whether an overlay or map is empty, as after a power failure, or a truncated PNG file beside its results."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(len(_PNG))
    return not start or (start == _PNG and _whole_png(path) is None and read_result(job.document) is not None)


def _is_own_document(path: Path) -> bool:
    """Whether a JSON file is a result of ours, or the rest of one: empty or truncated after a power failure."""
    if read_result(path) is not None:
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(len(_HEAD))
    if start and start != _HEAD:
        return False
    try:
        documents.read_json(path, "result")
    except UserError:
        return True
    return False
