"""The loop over the images of a run: each image to the files of its result; one that fails does not stop the others.

It draws no progress and never ends the program; the result for each image is an :class:`Outcome`.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from mask2former.config import InferenceConfig, Task
from mask2former.errors import FailedError, UserError
from mask2former.files import folder_lock
from mask2former.inference import failures
from mask2former.inference.large_files import check_unchanged, encode_result, file_state, read_whole_or_parts
from mask2former.inference.pipeline import Failure, Ready
from mask2former.inference.predicted_image import LargeImage
from mask2former.inference.predictor import ALL_CANDIDATES, Predictor, predicted
from mask2former.inference.result_files import (
    EXACT_MAPS,
    Job,
    Outcome,
    Request,
    categories_sha256,
    check_alike,
    check_in_the_way,
    drop_stale,
    image_sha256_of,
    is_of_another_image,
    remove_incomplete,
    remove_old,
    with_other_formats,
)
from mask2former.inference.tile_results import Results
from mask2former.inference.tiling import PackedResults
from mask2former.media.image_files import in_memory
from mask2former.media.images import image_size, read_image
from mask2former.notes import note
from mask2former.results_io.json import read_result
from mask2former.structures import Instances, Segmentation
from mask2former.structures.packed_results import PackedSegmentation
from mask2former.structures.result_base import write_files
from mask2former.visualization import Palette

if TYPE_CHECKING:
    import torch

__all__ = ["segment_files"]

_TRACED = 6  # last calls of a trace that are kept


def segment_files(
    predictor: Predictor,
    jobs: Iterable[Job],
    task: Task | None = None,
    *,
    model: str = "",
    overlay: bool = True,
    palette: Palette = "classes",
    candidates: bool = False,
    overwrite: bool = False,
    batch_size: int = 1,
) -> Iterator[Outcome]:
    """Segment images and save their results; an image that fails for any reason does not stop the others.

    Threads read ahead of the network and write behind it; outcomes have the order of the jobs. Which images share a
    batch does not depend on existing results, so an interrupted run is completed with the same bytes.

    An image is skipped if all its files exist undamaged and were made from this image with these weights, classes and
    settings. If the image has changed, or files are missing or damaged, they are replaced. If they come from another
    model or other settings, they are kept and reported as different. Results of an earlier image with the same name are
    removed if the new one cannot be segmented. Several runs may write into one folder at once.

    Args:
        predictor: its settings are used and recorded.
        jobs: from :func:`plan`.
        task: see :class:`Predictor`.
        model: name of the model, recorded.
        overlay: write the image with the segments drawn on it.
        palette: its colours.
        candidates: also write instances below the threshold, as :func:`write_coco_results` needs them.
        overwrite: also process images that have results, and overwrite other files with the same names.
        batch_size: the largest number of images that go through the network together, see :meth:`Predictor.stream`.

    Raises:
        UserError: an existing file is not a result of ours, with ``candidates`` there are results of another
            model or other settings, or ``batch_size`` is below 1. Nothing has been written then.
        FailedError: an image failed for a reason that would stop all others, for instance a full disk; finished results
            are kept.
    """
    task = predictor.choose_tasks(task)[0]
    jobs = list(jobs)
    request = Request(
        task,
        predictor.recorded_settings,
        predictor.weights_sha256(),
        categories_sha256(predictor.categories),
        (".json", *((".png",) if overlay else ()), *((EXACT_MAPS[task],) if task in EXACT_MAPS else ())),
        candidates and task == "instance",
    )
    if not overwrite:
        check_in_the_way(jobs, request)
        if candidates:
            check_alike(jobs, request)
    run = _Run(predictor, request, model, overlay, palette, overwrite, batch_size)
    stages = (run.read, run.encode, run.write)
    for file, outcome in predictor.in_stages(map(_File, jobs), *stages, (task,), batch_size, **ALL_CANDIDATES):
        yield _failed(file.job, outcome.error, predictor.device) if isinstance(outcome, Failure) else outcome


def _failed(job: Job, error: Exception, device: torch.device) -> Outcome:
    """The outcome of an image that failed.

    Raises:
        FailedError: the other images would fail, too.
    """
    with contextlib.suppress(OSError):
        remove_incomplete(job)
    reason = failures.reason(error, f"'{job.source}'", device)
    if failures.ends_run(error, device):
        raise FailedError(reason) from error
    with contextlib.suppress(OSError):
        drop_stale(job)
    if isinstance(error, UserError):
        return Outcome(job, "refused", reason)
    return Outcome(job, "failed", reason, "".join(traceback.format_exception(error, limit=-_TRACED)))


@dataclass(slots=True)
class _File:
    """An image file in progress.

    Attributes:
        job: the image and the paths of its results.
        sha256: hash of the bytes that were read.
    """

    job: Job
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class _Run:
    """Reading and writing of :func:`segment_files`, both in threads."""

    predictor: Predictor
    request: Request
    model: str
    overlay: bool
    palette: Palette
    overwrite: bool
    batch_size: int

    def read(self, file: _File) -> UInt8[np.ndarray, "H W C"] | LargeImage | Ready[Outcome]:
        """The image, or its outcome if its results already exist."""
        job, reading = file.job, self.predictor.settings.reading
        source = in_memory(job.source)
        before = file_state(source)
        file.sha256 = image_sha256_of(source)
        if (outcome := self._there(file)[1]) is not None:
            with contextlib.suppress(UserError):  # an image that cannot be read was not part of any batch
                key = self.predictor.batch_key(image_size(source)) if self.batch_size > 1 else None
                return Ready(outcome, key, lambda: read_image(source, **reading))
            return Ready(outcome)
        image = read_whole_or_parts(source, self.predictor.settings, overlay=self.overlay)
        check_unchanged(source, before)
        return image

    def encode(
        self, file: _File, image: UInt8[np.ndarray, "H W C"] | LargeImage, results: Results | PackedResults
    ) -> tuple[Mapping[str, bytes], Outcome]:
        """The files of an image, and its outcome."""
        job, settings = file.job, self.predictor.settings
        everything = results[self.request.task]
        result = predicted(everything, settings)
        head = {
            "model": self.model,
            "settings": self.request.settings,
            "extra": self.request.extra(everything, settings, job.source, file.sha256),
            "palette": self.palette,
        }
        files = encode_result(result, image, overlay=self.overlay, **head)
        crowded = _is_crowded(everything, settings)
        return files, Outcome(job, "done", crowded=crowded, found=len(result), candidates=len(everything))

    def write(self, file: _File, made: tuple[Mapping[str, bytes], Outcome]) -> Outcome:
        """Write the files of an image, unless another run has done so in the meantime."""
        job, (files, done) = file.job, made
        with folder_lock(job.document.parent):
            there, outcome = self._there(file)
            if outcome is not None:
                return outcome
            is_stale = there is not None and is_of_another_image(there, file.sha256)
            remove_old(job)
            gone = with_other_formats(job) if is_stale else ""
            write_files(job.document, files)
        if is_stale:
            note("results of other images of the same name, replaced", f"'{job.document}'{gone}")
        return done

    def _there(self, file: _File) -> tuple[dict[str, Any] | None, Outcome | None]:
        """The existing results, and the outcome of the image if they are kept."""
        there = None if self.overwrite else read_result(file.job.document)
        return there, None if there is None else self.request.skips(file.job, there, file.sha256)


def _is_crowded(result: Segmentation | PackedSegmentation, settings: InferenceConfig) -> bool:
    """Whether the last of ``max_instances`` instances is still above the threshold.

    If overlaps are removed, some instances are dropped later, so half of them suffice.
    """
    if not isinstance(result, Instances) or len(result) < settings.max_instances / 2:
        return False
    return len(predicted(result, settings)) == len(result)
