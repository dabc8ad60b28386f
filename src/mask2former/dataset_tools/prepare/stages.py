"""How a conversion runs: in several processes, continuing where it was stopped, with counts at the end.

Every file appears completely or not at all. A stage with an index file (a JSON of all images) records finished images
in a journal beside it, so that a stopped run loses nothing. Knows no data set.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mask2former import documents, limits
from mask2former.data.parallel import map_in_processes
from mask2former.errors import OptionError, UserError
from mask2former.files import write_whole
from mask2former.media.folders import walk_folder
from mask2former.media.image_files import open_image
from mask2former.pixels import load

__all__ = [
    "Index",
    "Job",
    "Outcome",
    "Plan",
    "Stage",
    "images_in",
    "panoptic_index",
    "planned",
    "read_rgb",
    "run_stage",
    "save_image",
]

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """One image: its input and output files."""

    key: str
    sources: tuple[Path, ...]
    outputs: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """The JSON file that lists all images of a stage, compiled from the records of its jobs in order."""

    path: Path
    content: Callable[[Sequence[Record]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Stage:
    """The same conversion for all images of a split.

    Attributes:
        title: what is created.
        jobs: one per image, with different keys.
        convert: writes the outputs of a job; returns the record for the index.
        official: number of images in the official data set; None: the jobs are all there are.
        index: the JSON file that lists the images, with the records of ``convert``; None: there is none.
    """

    title: str
    jobs: Sequence[Job]
    convert: Callable[[Job], Record | None]
    official: int | None
    index: Index | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The stages of a data set, and sentences about missing parts of the download."""

    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a stage: images converted now, images that existed already, and the official total, if any."""

    title: str
    made: int
    there: int
    official: int | None

    @property
    def note(self) -> str:
        """What a user should know; empty if everything is complete."""
        found = self.made + self.there
        if self.official in (None, found):
            return ""
        kind = "subset" if found < self.official else "not the official set"
        return f"{kind}: {found} of {self.official} official images"


def run_stage(stage: Stage, num_workers: int, progress: Callable[[str, int, int], None]) -> Outcome:
    """Do what has not been done yet; ``progress`` is called with the title, the number of images done, and the total.

    Raises:
        UserError: a file cannot be read or written; finished images stay.
    """
    assert len({job.key for job in stage.jobs}) == len(stage.jobs)
    if stage.index is None:
        return _convert_all(stage, None, num_workers, progress)
    if _is_whole_index(stage.index.path, [job.key for job in stage.jobs]):
        _Journal(stage.index.path).remove()  # of a run that was killed in between
        return _convert_all(stage, None, num_workers, progress)
    with _Journal(stage.index.path) as journal:
        outcome = _convert_all(stage, journal, num_workers, progress)
        content = stage.index.content([journal.records[job.key] for job in stage.jobs])
        text = json.dumps(content, separators=(",", ":"))
        write_whole(stage.index.path, lambda path: path.write_text(text, encoding="utf-8"))
        journal.remove()
    return outcome


def _convert_all(
    stage: Stage, journal: _Journal | None, num_workers: int, progress: Callable[[str, int, int], None]
) -> Outcome:
    made = 0
    total = len(stage.jobs)
    progress(stage.title, 0, total)
    known = [journal is None or job.key in journal.records for job in stage.jobs]
    work = partial(_convert_unless_done, stage.convert)
    with contextlib.closing(map_in_processes(work, list(zip(stage.jobs, known, strict=True)), num_workers)) as results:
        for done, (job, (is_new, record)) in enumerate(zip(stage.jobs, results, strict=True), start=1):
            made += is_new
            if is_new and journal is not None:
                assert record is not None
                journal.add(job.key, record)
            progress(stage.title, done, total)
    return Outcome(stage.title, made, total - made, stage.official)


def _convert_unless_done(convert: Callable[[Job], Record | None], task: tuple[Job, bool]) -> tuple[bool, Record | None]:
    job, is_known = task
    if is_known and all(_is_whole_image(path) for path in job.outputs):
        return False, None
    return True, convert(job)


def _is_whole_image(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with open_image(path) as image:
            load(image)
    except UserError:  # whatever it is, the file is created again
        return False
    return True


def _is_whole_index(path: Path, keys: Sequence[str]) -> bool:
    try:
        content = documents.read_json(path, "index file")
    except UserError:
        return False
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        return False
    return [str(image.get("id")) if isinstance(image, dict) else None for image in images] == list(keys)


class _Journal:
    """Records of finished images, one per line, in a hidden file beside the index."""

    def __init__(self, index: Path) -> None:
        self.path = index.with_name(f".{index.name}.journal")
        self.records: dict[str, Record] = {}
        self._file: IO[bytes] | None = None

    def __enter__(self) -> _Journal:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to '{self.path.parent}': {error.strerror}; choose another folder") from error
        try:
            content = documents.read_bytes(self.path, "journal", limits.JSON_BYTES) if self.path.exists() else b""
            whole = content[: content.rfind(b"\n") + 1]  # the last line may be incomplete
            for line in whole.splitlines():
                key, record = documents.parse_json(line, "a line of it")
                self.records[key] = record
            self._file = self.path.open("ab")
            self._file.truncate(len(whole))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"cannot use '{self.path}': {error}; remove it to start the conversion again") from error
        return self

    def add(self, key: str, record: Record) -> None:
        assert self._file is not None
        self.records[key] = record
        self._file.write(json.dumps([key, record], separators=(",", ":")).encode() + b"\n")
        self._file.flush()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()


# --- what conversions share ------------------------------------------------------------------------------------------


def planned(stages: Sequence[Stage], notes: Sequence[str], missing: str, folder: Path, archive: str) -> Plan:
    """The plan of a data set, of which some part is there.

    Args:
        stages: of the parts that are there.
        notes: about the others.
        missing: what is not there if there are no stages, for the message.
        folder: where it was expected.
        archive: what to unpack, and where.

    Raises:
        OptionError: there are no stages.
    """
    if not stages:
        raise OptionError(
            lambda name: (
                f"there {missing} in '{folder}': {'; '.join(notes)}; unpack {archive}, or give another {name('root')}"
            )
        )
    return Plan(tuple(stages), tuple(notes))


def panoptic_index(records: Sequence[Record], categories: Sequence[Record]) -> Record:
    """The content of a file in COCO's panoptic format, from records of an ``image`` and its ``annotation``."""
    images, annotations = ([record[key] for record in records] for key in ("image", "annotation"))
    return {"images": images, "annotations": annotations, "categories": list(categories)}


def save_image(path: Path, image: Image.Image, kind: str = "PNG", **options: Any) -> None:
    """Write an image completely; ``kind`` is Pillow's name for the format."""
    write_whole(path, lambda temporary: image.save(temporary, format=kind, **options))


def read_rgb(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """An image whose colours encode numbers.

    Raises:
        UserError: it is missing, damaged, or does not have three channels.
    """
    with open_image(path) as image:
        load(image)
        if image.mode not in ("RGB", "RGBA"):
            raise UserError(f"'{path}' is an image of mode {image.mode}; expected colours (RGB)")
        return np.asarray(image.convert("RGB"))


def images_in(folder: Path, ending: str) -> Iterator[Path]:
    """Files with this suffix in a folder and its subfolders, sorted; hidden ones are skipped.

    Raises:
        UserError: one of the folders cannot be read.
    """
    if folder.is_dir():
        paths = (Path(parent, name) for parent, _, names in walk_folder(folder) for name in names)
        yield from sorted(path for path in paths if path.name.endswith(ending) and not path.name.startswith("."))
