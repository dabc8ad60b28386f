"""Pictures in folders to results in a folder: what goes where, what is there already, and one file for the whole run.

The loop behind ``mask2former predict``. Draws no progress and ends no program; each picture is one :class:`Outcome`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mask2former.atomic import write_whole
from mask2former.config import InferenceConfig, Task
from mask2former.data.images import list_images, read_image
from mask2former.errors import RequestError
from mask2former.inference.predictor import Predictor
from mask2former.structures import Categories, Instances, Segmentation

__all__ = ["Job", "Outcome", "check_file", "check_folder", "coco_results", "plan", "segment_files", "write_json"]

_ENDINGS = (".png", ".json", "_ids.png", "_labels.png")


@dataclass(frozen=True, slots=True)
class Job:
    """One picture; its results are ``stem`` plus an ending, below the folder ``output``."""

    source: Path
    output: Path
    stem: Path

    @property
    def document(self) -> Path:
        """The JSON file, whose presence says that the picture is done."""
        return self.file(".json")

    def file(self, ending: str) -> Path:
        return self.output / f"{self.stem}{ending}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one picture.

    Attributes:
        job: the picture.
        status: ``skipped`` means that its results were there; ``refused`` that the picture cannot be read or its
            results cannot be written; ``failed`` that the machine could not do it.
        reason: why there is no result, one sentence.
        differs: skipped although what is there was made by another model or with other settings.
        crowded: done, but there may be more instances than ``max_instances`` lets through.
    """

    job: Job
    status: Literal["done", "skipped", "refused", "failed"]
    reason: str = ""
    differs: bool = False
    crowded: bool = False


def plan(sources: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str]) -> list[Job]:
    """The pictures of files and folders, and where their results go; touches nothing.

    An output folder inside a source folder is not searched for pictures.

    Raises:
        RequestError: no pictures, an output that is no folder or cannot be written, or results that would overwrite
            a picture or each other.
    """
    folder = Path(output)
    check_folder(folder)
    resolved = folder.resolve()
    roots = {Path(source).resolve() for source in sources if Path(source).is_dir()}
    if resolved in roots:
        raise RequestError(f"the output folder '{folder}' is one of the sources; choose another")
    inside = any(resolved.is_relative_to(root) for root in roots)
    jobs = [
        Job(path, folder, stem)
        for path, stem in list_images(sources)
        if not (inside and path.resolve().is_relative_to(resolved))
    ]
    if not jobs:
        raise RequestError(f"the sources hold no pictures but those in the output folder '{folder}'")
    pictures = {job.source.resolve() for job in jobs}
    owners: dict[Path, Job] = {}
    for job in jobs:
        for ending in _ENDINGS:
            target = resolved / f"{job.stem}{ending}"
            if target in pictures:
                raise RequestError(f"'{target.name}' in '{folder}' would overwrite a picture; choose another output")
            if owners.setdefault(target, job) is not job:
                raise RequestError(
                    f"the results of '{owners[target].source}' and '{job.source}' would share the name "
                    f"'{target.name}'; run them apart"
                )
    return jobs


def segment_files(
    predictor: Predictor,
    jobs: Iterable[Job],
    task: Task | None = None,
    *,
    model: str = "",
    overlay: bool = True,
    overwrite: bool = False,
) -> Iterator[Outcome]:
    """Segment and save one picture after the other; one that cannot be read does not stop the others.

    Args:
        predictor: its settings are used and recorded.
        jobs: from :func:`plan`.
        task: see :class:`Predictor`.
        model: name of the model, recorded.
        overlay: write the picture with the segments drawn on it.
        overwrite: segment also what has results.
    """
    task = predictor.choose_tasks(task)[0]
    settings = predictor.recorded_settings
    for job in jobs:
        found = None if overwrite else _read_document(job.document)
        if found is not None:
            differs = (found.get("model"), found["task"], found.get("settings")) != (model, task, settings)
            yield Outcome(job, "skipped", differs=differs)
            continue
        try:
            image = read_image(job.source)
            result = predictor(image, task)
            job.document.unlink(missing_ok=True)  # from here on the old results are not complete
            result.save(job.document, image if overlay else None, model=model, settings=settings)
        except RequestError as error:
            reason = str(error)
            if job.source.name not in reason:
                reason = f"'{job.source}': {reason}"
            yield Outcome(job, "refused", reason=reason)
        except torch.OutOfMemoryError:
            yield Outcome(
                job, "failed", reason=f"'{job.source}' does not fit the memory of {predictor.device}; try --short-edge"
            )
        else:
            yield Outcome(job, "done", crowded=_is_crowded(result, predictor.settings))


def _is_crowded(result: Segmentation, settings: InferenceConfig) -> bool:
    """Whether the last answer that was let through would still be shown.

    Where answers are exclusive some of those that were let through are dropped later, hence half of them suffice.
    """
    if not isinstance(result, Instances) or len(result) < settings.max_instances / 2:
        return False
    return bool(result.scores.min() >= settings.score_threshold)


def coco_results(jobs: Iterable[Job], task: Task, categories: Categories) -> Any:
    """The COCO results of a run, from its JSON files: a list of records, or for panoptic a dictionary.

    Image ids are the numbers in the file names where every name is a number (as in COCO), else the names with their
    folders. Pictures without results are left out.

    Raises:
        RequestError: results that were there are of another task.
    """
    stems, documents = [], []
    for job in jobs:
        document = _read_document(job.document)
        if document is None:
            continue
        if document["task"] != task:
            raise RequestError(
                f"'{job.document}' holds results of the task '{document['task']}', not '{task}'; "
                "use --overwrite or another output"
            )
        stems.append(job.stem.as_posix())
        documents.append(document)
    names = [stem.rsplit("/", 1)[-1] for stem in stems]
    numbered = all(name.isdecimal() for name in names) and len({int(name) for name in names}) == len(names)
    ids: list[Any] = [int(name) for name in names] if numbered else stems
    if task == "panoptic":
        return _panoptic_results(ids, stems, documents, categories)
    key, fields = {
        "instance": ("instances", ("category_id", "bbox", "score", "segmentation")),
        "semantic": ("classes", ("category_id", "segmentation")),
    }[task]
    return [
        {"image_id": identifier, **{field: record[field] for field in fields}}
        for identifier, document in zip(ids, documents, strict=True)
        for record in document[key]
    ]


def _panoptic_results(
    ids: list[Any], stems: list[str], documents: list[dict[str, Any]], categories: Categories
) -> dict[str, Any]:
    images, annotations = [], []
    for identifier, stem, document in zip(ids, stems, documents, strict=True):
        height, width = document["size"]
        info = [
            {key: segment[key] for key in ("id", "category_id", "area", "bbox")} for segment in document["segments"]
        ]
        images.append({"id": identifier, "file_name": f"{stem}.png", "height": height, "width": width})
        annotations.append({"image_id": identifier, "file_name": f"{stem}_ids.png", "segments_info": info})
    classes = [{"id": item.id, "name": item.name, "isthing": int(item.is_thing)} for item in categories]
    return {"images": images, "annotations": annotations, "categories": classes}


def write_json(path: str | os.PathLike[str], values: Any) -> None:
    """Write a JSON file whole or not at all, with its folder.

    Raises:
        RequestError: the place cannot be written.
    """
    target = Path(path)
    check_file(target)
    text = json.dumps(values, allow_nan=False) + "\n"
    write_whole(target, lambda file: file.write_text(text, encoding="utf-8"))


def check_file(path: Path) -> None:
    """That a file can be written there later.

    Raises:
        RequestError: it is a folder, or its folder cannot be written.
    """
    if path.is_dir():
        raise RequestError(f"'{path}' is a folder; expected the name of a file to write")
    check_folder(path.parent)


def check_folder(folder: Path) -> None:
    """That a folder can be made or written there later.

    Raises:
        RequestError: a file is in the way, or there is no permission.
    """
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise RequestError(f"cannot write to '{folder}': '{existing}' is a file; choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RequestError(f"cannot write to '{folder}': no permission for '{existing}'; choose another folder")


def _read_document(path: Path) -> dict[str, Any] | None:
    """Results of an earlier run; None where there are none or not of our kind."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and {"task", "schema_version", "size"} <= document.keys() else None
