"""Images in folders to results in a folder: what goes where, what is there already, and one file for the whole run.

:func:`predict_files` is the call, :func:`segment_files` its loop. Draws no progress and ends no program; each image
is one :class:`Outcome`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import struct
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import UInt8

import mask2former
from mask2former import documents, limits
from mask2former.config import InferenceConfig, Task, with_new_names
from mask2former.data.georeference import GeoReference, georeference
from mask2former.data.image_files import (
    ImageFile,
    ImagePage,
    NamedBytes,
    in_memory,
    num_pages,
    open_image,
    path_of,
)
from mask2former.data.images import as_file, image_size, list_images, read_image
from mask2former.data.regions import LARGE_PIXELS, open_large, reduced
from mask2former.data.web_images import is_address
from mask2former.errors import FailedError, OptionError, UserError, prefixed
from mask2former.files import check_apart, check_file, check_folder, folder_lock, leftovers_note, location_of, reserved
from mask2former.inference import failures
from mask2former.inference.opening import ModelSource, model_name, open_predictor
from mask2former.inference.pipeline import Failure, Ready
from mask2former.inference.predicted_image import LargeImage
from mask2former.inference.predictor import ALL_CANDIDATES, Predictor, predicted
from mask2former.inference.tile_results import Results
from mask2former.inference.tiling import PackedResults
from mask2former.limits import check_limit
from mask2former.notes import collect_notes, note, sentences
from mask2former.pixels import displayed
from mask2former.progress import Progress, silent
from mask2former.results_io.coco import is_coco_results, write_coco_results
from mask2former.results_io.formats import FormatWriter, ImagesOfRun, format_folder, open_format
from mask2former.results_io.json import RECORDS, read_result, result_of, saved_document
from mask2former.results_io.packed import packed_files
from mask2former.results_io.table import TableFiles, images_table, is_table
from mask2former.structures import Categories, Instances, PanopticSegmentation, Segmentation, SemanticSegmentation
from mask2former.structures.packed_results import PackedPanoptic, PackedSegmentation, PackedSemantic
from mask2former.structures.results import SCHEMA_VERSION, SOFTWARE, write_files
from mask2former.structures.tables import PixelSize
from mask2former.visualization import Palette

if TYPE_CHECKING:
    import torch

    from mask2former.inference.tta import MultiScaleFlip

__all__ = [
    "FileSource",
    "FilesReport",
    "Job",
    "Outcome",
    "categories_sha256",
    "check_coco_file",
    "plan",
    "predict_files",
    "segment_files",
]

FileSource = str | os.PathLike[str] | NamedBytes
"""A path of an image or folder, an http(s) address, or an image file in memory."""

_MAPS: Mapping[str, str] = {"panoptic": "_ids.png", "semantic": "_labels.png"}  # by task: the exact map of an image
_ENDINGS = (".png", ".json", *_MAPS.values())
_HEAD = b'{"schema_version": '  # of JSON files of results
_TIFF_SOFTWARE = 305  # the tag of a TIFF file that says what wrote it
_MARK = b"tEXtSoftware\0" + SOFTWARE.encode()  # in PNG files of ours
_PNG = b"\x89PNG\r\n\x1a\n"
_OVERVIEW = 4096  # pixels: longer side of the copy of a large image on which its overlay is drawn
_TRACED = 6  # calls of a trace that are kept


@dataclass(frozen=True, slots=True)
class Job:
    """One image; its results are ``stem`` plus an ending, below the folder ``output``."""

    source: ImageFile
    output: Path
    stem: Path

    @property
    def document(self) -> Path:
        """The JSON file, which says of what and by what it was made; written last."""
        return self.file(".json")

    def file(self, ending: str) -> Path:
        return self.output / f"{self.stem}{ending}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image.

    Attributes:
        job: the image.
        status: ``skipped`` means that its results were there; ``refused`` that the image cannot be read or its
            results cannot be written; ``failed`` that something else went wrong, for instance for want of memory.
        reason: why there is no result, one sentence.
        trace: where it happened, if nobody expected it.
        differs: skipped although what is there was made by another model, with other classes or settings, or by a
            version that recorded something else.
        crowded: done, but there may be more instances than ``max_instances`` lets through.
        found: how many segments, instances or classes were predicted; 0 where ``differs``.
        candidates: how many instances there were of any score.
    """

    job: Job
    status: Literal["done", "skipped", "refused", "failed"]
    reason: str = ""
    trace: str = ""
    differs: bool = False
    crowded: bool = False
    found: int = 0
    candidates: int = 0


@dataclass(frozen=True)
class FilesReport:
    """What became of the images of a call.

    Attributes:
        task: of the results.
        settings: the inference settings.
        outcomes: how many images ended how, by :attr:`Outcome.status`.
        num_different: skipped, since another model or other settings made what is there.
        num_crowded: done, but there may be more instances than ``max_instances`` lets through.
        num_found: segments, instances or classes in all results that are of this model.
        num_candidates: instances of any score in them.
        failed: the outcomes of the first ten images without a result.
        notes: what a user should know, one sentence each.
    """

    task: Task
    settings: InferenceConfig
    outcomes: Mapping[str, int]
    num_different: int
    num_crowded: int
    num_found: int
    num_candidates: int
    failed: tuple[Outcome, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def num_images(self) -> int:
        """All that were named."""
        return sum(self.outcomes.values())


_LISTED = 10  # failures that a report has
# Settings that earlier results do not name, with what they were made with.
_ADDED = {"resampling": "antialiased", "classes": None, "min_area": 0, "class_thresholds": {}, "bands": None}


def predict_files(
    model: ModelSource,
    sources: FileSource | Sequence[FileSource],
    output: str | os.PathLike[str],
    task: Task | None = None,
    *,
    page: int | Literal["all"] | None = None,
    recipe: str | None = None,
    trained_for: Task | Sequence[Task] = (),
    weights: str | None = None,
    overlays: bool = True,
    palette: Palette = "classes",
    coco: str | os.PathLike[str] | None = None,
    table: str | os.PathLike[str] | None = None,
    pixel_size: str | PixelSize | None = None,
    also: Sequence[str] = (),
    writers: Sequence[FormatWriter] = (),
    overwrite: bool = False,
    batch_size: int = 1,
    views: MultiScaleFlip | None = None,
    device: str | None = None,
    dtype: str | None = None,
    compile: bool = False,
    progress: Progress = silent,
    observe: Callable[[Outcome], None] = lambda outcome: None,
    **settings: Any,
) -> FilesReport:
    """Segment images and folders of images into a folder; what ``mask2former predict`` does.

    For every image X there are an overlay X.png, exact maps, and X.json, which is written last. The next
    call skips what is done, see :func:`segment_files`.

    Args:
        model: a name, file or folder, a model, or a predictor.
        sources: an image, a folder, which is searched to any depth, or several of them. An image may also be an
            http(s) address or :class:`~mask2former.data.images.NamedBytes`.
        output: the folder of results, with the folder structure of the sources.
        task: see :class:`Predictor`.
        page: which page, frame or plane of each file, from 1; its results are called ``X_page3``. ``all``: every one.
            None: the first, and a note where there are more.
        recipe: for files without configuration, for instance ``coco-panoptic/r50``.
        trained_for: in its place, the tasks that the model was trained for.
        weights: see :meth:`Predictor.from_pretrained`.
        overlays: whether X.png is drawn.
        palette: of overlays that are drawn now, see :meth:`~mask2former.PanopticSegmentation.plot`.
        coco: also write one COCO results file; instances of any score are in it.
        table: also write a table of all masks, and one of all images beside it, see
            :class:`~mask2former.results_io.table.TableFiles`.
        pixel_size: for the tables, for instance ``0.65um``.
        also: formats that are written too, each in a folder of ``output`` that has its name; one of
            :data:`~mask2former.results_io.formats.FORMATS`.
        writers: also get every result, for your own formats; ids of images are the stems of their files.
        overwrite: also process images that have results, and overwrite other files of the same names.
        batch_size: how many images go through the network together at most, see :meth:`Predictor.stream`.
        views: test-time augmentation.
        device: see :class:`Predictor`.
        dtype: see :class:`Predictor`.
        compile: see :class:`Predictor`.
        progress: told the step, and how many images of how many are done.
        observe: told what became of each image.
        settings: inference settings that replace the stored ones, as of :meth:`Predictor.from_pretrained`, for instance
            ``score_threshold=0.5``. With ``tile`` alone tiles overlap by a quarter.

    Raises:
        UserError: no images, a wrong model or setting, or files in the way; nothing has been written then.
        FailedError: what stopped an image would stop all others, for instance a full disk; what is done stays.
    """
    if pixel_size is not None and table is None:
        raise OptionError(lambda name: f"{name('pixel_size')} is for tables; give {name('table')} too")
    size = None if pixel_size is None else PixelSize.of(pixel_size)
    file = None if coco is None else Path(coco)
    with collect_notes() as planned:
        several = [sources] if isinstance(sources, str | os.PathLike | NamedBytes) else sources
        jobs = plan(several, output, page=page)
    tables = () if table is None else (Path(table), images_table(Path(table)))
    if file is not None:
        check_apart(file, [model] if isinstance(model, str | Path) else [])
        check_coco_file(file, jobs, overwrite=overwrite)
        if location_of(file) in map(location_of, tables):
            raise OptionError(
                lambda name: f"{name('coco')} and {name('table')} would both write '{file}'; name two files"
            )
    for path in tables:
        check_apart(path, [model] if isinstance(model, str | Path) else [])
        _check_run_file(path, jobs, "--table", is_table, overwrite=overwrite)
    folders = [_format_folder(Path(output), name, jobs, overwrite=overwrite) for name in dict.fromkeys(also)]
    loading = {"recipe": recipe, "trained_for": trained_for, "weights": weights, "device": device, "dtype": dtype}
    predictor = open_predictor(model, compile=compile, views=views, progress=progress, **loading, **settings)
    chosen = predictor.choose_tasks(task)[0]
    run = _images_of(jobs, predictor, model_name(model))
    every = [*writers]
    if table is not None:
        every.append(TableFiles(table, run.categories, run.names, run.read, size))
    every += [open_format(folder, run) for folder in folders]
    removed = leftovers_note(path.parent for path in (*(job.document for job in jobs), *([file] if file else [])))
    outcomes: dict[str, int] = dict.fromkeys(("done", "skipped", "refused", "failed"), 0)
    sums: dict[str, int] = dict.fromkeys(("differs", "crowded", "found", "candidates"), 0)
    failed: list[Outcome] = []
    usable: list[Job] = []
    # A pipe is held open, so that whoever reads it waits for the file.
    waiting = contextlib.nullcontext() if file is None else reserved(file)
    with waiting, collect_notes() as found, contextlib.ExitStack() as stack:
        progress(chosen, 0, len(jobs))
        options = {"model": model_name(model), "overlay": overlays, "palette": palette, "candidates": coco is not None}
        options |= {"overwrite": overwrite, "batch_size": batch_size}
        for outcome in segment_files(predictor, jobs, chosen, **options):
            outcomes[outcome.status] += 1
            for name in sums:
                sums[name] += getattr(outcome, name)
            if not outcome.reason and not outcome.differs:
                if not usable:  # files of a run without any result would replace those of an earlier one
                    every = [stack.enter_context(writer) for writer in every]
                usable.append(outcome.job)
                _pass_on(outcome.job, chosen, predictor.categories, every)
            elif outcome.differs and every:
                note(
                    "images whose results were made otherwise, left out of tables and formats",
                    f"'{outcome.job.source}'",
                )
            if outcome.reason and len(failed) < _LISTED:
                failed.append(outcome)
            observe(outcome)
            progress(chosen, sum(outcomes.values()), len(jobs))
        if every and not usable and sums["differs"]:
            raise UserError(
                f"no table or other format was written: the results in '{output}' were made by another model, with "
                "other classes or settings, or by another version; use --overwrite or another output"
            )
        if file is not None and usable:
            write_coco_results(file, usable, chosen, predictor.categories)
    notes = (*removed, *sentences([*planned, *found]))
    return FilesReport(
        chosen,
        predictor.settings,
        outcomes,
        num_different=sums["differs"],
        num_crowded=sums["crowded"],
        num_found=sums["found"],
        num_candidates=sums["candidates"],
        failed=tuple(failed),
        notes=notes,
    )


def _images_of(jobs: Sequence[Job], predictor: Predictor, model: str) -> ImagesOfRun:
    """What formats need to know of the images of a run; their ids are the stems of their results."""
    sources = {job.stem.as_posix(): job for job in jobs}

    def read(image_id: int | str) -> UInt8[np.ndarray, "H W C"]:
        with collect_notes():  # they were said when it was segmented
            return read_image(sources[str(image_id)].source, **predictor.settings.reading)

    names: dict[int | str, str] = {
        stem: (job.stem.parent / job.source.name).as_posix() for stem, job in sources.items()
    }

    def place_of(image_id: int | str) -> GeoReference | None:
        file = sources[str(image_id)].source
        try:
            return georeference(file)
        except UserError:  # it was there a moment ago
            note("images whose coordinates could not be read again", f"'{file}'")
            return None

    return ImagesOfRun(predictor.categories, names, read, model, place_of)


def _pass_on(job: Job, task: Task, categories: Categories, writers: Sequence[FormatWriter]) -> None:
    """Give the result of an image, as it is on the disk, to writers of other formats.

    Raises:
        UserError: a writer refuses it.
    """
    if not writers:
        return
    document = saved_document(job.document, task)
    if document is None:
        note("images whose results were gone when other formats were written, left out", f"'{job.document}'")
        return
    try:
        result = result_of(document, categories)
    except UserError as error:
        raise prefixed(f"'{job.document}'", error) from error
    for writer in writers:
        writer.add(job.stem.as_posix(), result)


def _format_folder(output: Path, name: str, jobs: Sequence[Job], *, overwrite: bool) -> Path:
    """The folder of a format, in which no results of images lie.

    Raises:
        UserError: there is no such format, or the folder is for something else.
    """
    folder = format_folder(output, name, overwrite=overwrite)
    if inside := next((job for job in jobs if job.stem.parts[:-1][:1] == (name,)), None):
        raise UserError(
            f"results of images lie in '{folder}', for instance those of '{inside.source}', so the format {name} "
            "cannot be written there; choose another output, or name the images' folder itself as the source"
        )
    return folder


def plan(
    sources: Sequence[FileSource], output: str | os.PathLike[str], *, page: int | Literal["all"] | None = None
) -> list[Job]:
    """The images of files and folders, and where their results go; touches nothing.

    An output folder inside a source folder is not searched for images. Overlays and maps of earlier results are
    skipped wherever they lie, with a note.

    Raises:
        UserError: no images, an output that is no folder or cannot be written, or results that would overwrite
            an image or each other, also through links.
    """
    folder = Path(output)
    check_folder(folder)
    resolved = folder.resolve()
    others = [as_file(source) for source in sources if isinstance(source, NamedBytes) or is_address(source)]
    named = [Path(source) for source in sources if not isinstance(source, NamedBytes) and not is_address(source)]
    roots = {source.resolve() for source in named if source.is_dir()}
    if resolved in roots:
        raise UserError(f"the output folder '{folder}' is one of the sources; choose another")
    inside = any(resolved.is_relative_to(root) for root in roots)

    def skip(path: Path) -> bool:
        if inside and path.resolve().is_relative_to(resolved):
            return True
        if is_ours := _is_own_image(path):
            note("overlays and maps of earlier results, not taken as images", f"'{path}'")
        return is_ours

    found: list[tuple[ImageFile, Path]] = list(list_images(named, skip)) if named or not others else []
    found += [(file, Path(Path(file.name).stem)) for file in others]
    jobs = [Job(file, folder, stem) for image, name in found for file, stem in _pages(image, name, page)]
    if not jobs:
        raise UserError(
            f"the sources hold no images but results of mask2former predict or what is in the output folder "
            f"'{folder}'; name the images themselves"
        )
    images = {_identity(path): path for job in jobs if (path := path_of(job.source)) is not None}
    real_folder = functools.cache(os.path.realpath)  # thousands of results lie in few folders
    owners: dict[str, Job] = {}
    for job in jobs:
        for ending in _ENDINGS:
            path = job.file(ending)
            target = os.path.join(real_folder(path.parent), path.name)
            if os.path.islink(target):
                target = os.path.realpath(target)
            identity = _identity(target)
            if identity is not None and identity in images:
                raise UserError(f"'{path}' would overwrite an image, '{images[identity]}'; choose another output")
            if owners.setdefault(target, job) is not job:
                raise UserError(
                    f"the results of '{owners[target].source}' and '{job.source}' would both be written to '{path}'; "
                    "run them separately"
                )
    return jobs


def _pages(file: ImageFile, stem: Path, page: int | Literal["all"] | None) -> list[tuple[ImageFile, Path]]:
    """The chosen pages of a file, with the stems of their results."""
    if page is None or isinstance(file, ImagePage):
        return [(file, stem)]
    numbers = range(page, page + 1) if isinstance(page, int) else range(0)
    if page == "all":
        with contextlib.suppress(UserError):  # of a file that cannot be read, which fails alone, later
            file = in_memory(file)
            count = num_pages(file)
            check_limit(f"'{file}' has pages:", count, limits.IMAGE_PAGES - 1, "name one with page")
            numbers = range(1, count + 1) if count > 1 else numbers
    elif not isinstance(page, int) or isinstance(page, bool):
        raise UserError(f"page must be a number from 1, or all, got {page!r}")
    if not numbers:
        return [(file, stem)]
    assert not isinstance(file, ImagePage)
    return [(ImagePage(file, number), stem.with_name(f"{stem.name}_page{number}")) for number in numbers]


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """What tells one file from another, however it is spelled or linked; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


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
    """Segment images and save their results; one that fails, for whatever reason, does not stop the others.

    Threads read ahead and write behind the network; outcomes come in the order of the jobs. Which images share a batch
    does not depend on what is there, so that an interrupted run is completed to the same bytes.

    An image is skipped if all its files are there, undamaged, and were made from this image with these weights, classes
    and settings. If the image has changed, or files are missing or damaged, they are replaced; if another model or
    other settings made them, they are kept and reported as different. Results of an earlier image of the same name are
    removed if the new one cannot be segmented. Several runs may write into one folder at once.

    Args:
        predictor: its settings are used and recorded.
        jobs: from :func:`plan`.
        task: see :class:`Predictor`.
        model: name of the model, recorded.
        overlay: write the image with the segments drawn on it.
        palette: its colours.
        candidates: write instances below the threshold too, as :func:`coco_results` needs them.
        overwrite: also process images that have results, and overwrite other files of the same names.
        batch_size: how many images go through the network together at most, see :meth:`Predictor.stream`.

    Raises:
        UserError: a file is in the way that is no result of ours, with ``candidates`` there are results of another
            model or other settings, or ``batch_size`` is below 1; before anything is written.
        FailedError: what stopped an image would stop all others, for instance a full disk; what is done stays.
    """
    task = predictor.choose_tasks(task)[0]
    jobs = list(jobs)
    request = _Request(
        task,
        predictor.recorded_settings,
        predictor.weights_sha256(),
        categories_sha256(predictor.categories),
        (".json", *((".png",) if overlay else ()), *((_MAPS[task],) if task in _MAPS else ())),
        candidates and task == "instance",
    )
    if not overwrite:
        _check_in_the_way(jobs, request)
        if candidates:
            _check_alike(jobs, request)
    run = _Run(predictor, request, model, overlay, palette, overwrite, batch_size)
    stages = (run.read, run.encode, run.write)
    for file, outcome in predictor.in_stages(map(_File, jobs), *stages, (task,), batch_size, **ALL_CANDIDATES):
        yield _failed(file.job, outcome.error, predictor.device) if isinstance(outcome, Failure) else outcome


def _failed(job: Job, error: Exception, device: torch.device) -> Outcome:
    """What becomes of an image that failed.

    Raises:
        FailedError: the others would fail, too.
    """
    with contextlib.suppress(OSError):
        _remove_incomplete(job)
    reason = failures.reason(error, f"'{job.source}'", device)
    if failures.ends_run(error, device):
        raise FailedError(reason) from error
    with contextlib.suppress(OSError):
        _drop_stale(job)
    if isinstance(error, UserError):
        return Outcome(job, "refused", reason)
    return Outcome(job, "failed", reason, "".join(traceback.format_exception(error, limit=-_TRACED)))


@dataclass(slots=True)
class _File:
    """An image file on its way.

    Attributes:
        job: where it is and where its results go.
        sha256: of what was read.
    """

    job: Job
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class _Run:
    """Reading and writing of :func:`segment_files`, both in threads."""

    predictor: Predictor
    request: _Request
    model: str
    overlay: bool
    palette: Palette
    overwrite: bool
    batch_size: int

    def read(self, file: _File) -> UInt8[np.ndarray, "H W C"] | LargeImage | Ready[Outcome]:
        """The image, or what becomes of it where its results are there."""
        job, reading = file.job, self.predictor.settings.reading
        source = in_memory(job.source)
        before = _state(source)
        file.sha256 = _sha256(source)
        if (outcome := self._there(file)[1]) is not None:
            with contextlib.suppress(UserError):  # of an image that cannot be read, which no batch had either
                key = self.predictor.batch_key(image_size(source)) if self.batch_size > 1 else None
                return Ready(outcome, key, lambda: read_image(source, **reading))
            return Ready(outcome)
        image = self._large(source) or read_image(source, **reading)
        if _state(source) != before:
            raise UserError(f"'{job.source}' was changed while it was read; run the same command again")
        return image

    def _large(self, path: ImageFile) -> LargeImage | None:
        """A large image that will be cut into tiles, to be read by parts; None of any other."""
        settings = self.predictor.settings
        regions = open_large(path, **settings.reading) if settings.tile and isinstance(path, Path) else None
        if regions is None:
            return None
        note(
            f"images of more than {LARGE_PIXELS / 1e6:.0f} megapixels, read by parts: their overlays are drawn on "
            "reduced copies",
            f"'{path}' ({regions.size_hw[0]}x{regions.size_hw[1]} pixels, height x width)",
        )
        step = -(-max(regions.size_hw) // _OVERVIEW)
        return LargeImage(regions, reduced(regions, step), step)

    def encode(
        self, file: _File, image: UInt8[np.ndarray, "H W C"] | LargeImage, results: Results | PackedResults
    ) -> tuple[Mapping[str, bytes], Outcome]:
        """The files of an image, and what becomes of it with them."""
        job, settings = file.job, self.predictor.settings
        everything = results[self.request.task]
        result = predicted(everything, settings)
        head = {
            "model": self.model,
            "settings": self.request.settings,
            "extra": self.request.extra(everything, settings, job.source, file.sha256),
            "palette": self.palette,
        }
        if isinstance(image, LargeImage):
            assert not isinstance(result, PanopticSegmentation | SemanticSegmentation)
            files = packed_files(result, displayed(image.overview) if self.overlay else None, image.step, **head)
        else:
            assert not isinstance(result, PackedPanoptic | PackedSemantic)
            files = result.encoded(displayed(image) if self.overlay else None, **head)
        crowded = _is_crowded(everything, settings)
        return files, Outcome(job, "done", crowded=crowded, found=_count(result), candidates=_count(everything))

    def write(self, file: _File, made: tuple[Mapping[str, bytes], Outcome]) -> Outcome:
        """Write the files of an image, unless another run has done so meanwhile."""
        job, (files, done) = file.job, made
        with folder_lock(job.document.parent):
            there, outcome = self._there(file)
            if outcome is not None:
                return outcome
            is_stale = there is not None and _is_of_another_image(there, file.sha256)
            _remove_old(job)
            write_files(job.document, files)
        if is_stale:
            note("results of other images of the same name, replaced", f"'{job.document}'")
        return done

    def _there(self, file: _File) -> tuple[dict[str, Any] | None, Outcome | None]:
        """The results that are there, and what becomes of the image where they stay."""
        there = None if self.overwrite else read_result(file.job.document)
        return there, None if there is None else self.request.skips(file.job, there, file.sha256)


@dataclass(frozen=True, slots=True)
class _Request:
    """What results must have been made by, and which files belong to them.

    Attributes:
        task: of the results.
        settings: recorded ones.
        weights_sha256: of the model.
        categories_sha256: of its classes: :func:`categories_sha256`.
        endings: of the files.
        candidates: whether instances below the threshold are written too.
    """

    task: Task
    settings: Mapping[str, Any]
    weights_sha256: str
    categories_sha256: str
    endings: tuple[str, ...]
    candidates: bool

    def skips(self, job: Job, document: Mapping[str, Any], image_sha256: str) -> Outcome | None:
        """What becomes of an image with results; None where they are to be replaced."""
        if not self.made(document):
            return Outcome(job, "skipped", differs=True)
        if document["provenance"].get("image_sha256") != image_sha256 or not self.is_complete(job, document):
            return None
        found = len(document[RECORDS[self.task]])
        return Outcome(job, "skipped", found=found, candidates=document.get("num_candidates", found))

    def made(self, document: Mapping[str, Any]) -> bool:
        """Whether these weights made it, with these classes and settings."""
        provenance, settings = document.get("provenance"), document.get("settings")
        if isinstance(settings, dict):
            with contextlib.suppress(ValueError):  # of a setting under two names, which is nobody's
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
            if found is None or (ending != ".png" and found != width_height):  # overlays may be enlarged
                return False
        return True

    def extra(
        self,
        everything: PackedSegmentation | Segmentation,
        settings: InferenceConfig,
        source: ImageFile,
        image_sha256: str,
    ) -> dict[str, Any]:
        """What the JSON file says beside the result: what it was made of, and candidates."""
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


def _state(file: ImageFile) -> tuple[int, ...]:
    """What changes when a file is written or replaced; nothing where there is none."""
    try:
        status = os.stat(path_of(file) or "")
    except (OSError, ValueError):
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _whole_png(path: Path) -> tuple[int, int] | None:
    """Width and height of a PNG file, all of whose chunks are there as their checksums say; None of anything else."""
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


def _sha256(source: ImageFile) -> str:
    """Of a file; nothing where it cannot be read or is no image by its size, which reading the image says better."""
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
    """Of what results say of the classes: ids, names, and which are things."""
    classes = [[item.id, item.name, item.is_thing] for item in categories]
    return hashlib.sha256(json.dumps(classes).encode()).hexdigest()


def _is_of_another_image(document: Mapping[str, Any], image_sha256: str) -> bool:
    """Whether results are known to be of another image; False where one of the two is unknown."""
    provenance = document.get("provenance")
    recorded = provenance.get("image_sha256") if isinstance(provenance, dict) else None
    return bool(recorded and image_sha256) and recorded != image_sha256


def _check_in_the_way(jobs: Sequence[Job], request: _Request) -> None:
    """Refuse to write over what is no result of ours.

    Raises:
        UserError: naming a file.
    """
    others = [
        path
        for job in jobs
        for ending in request.endings
        if (path := job.file(ending)).exists()
        and not (_is_own_document(path) if ending == ".json" else _is_own_image(path) or _is_damaged(path, job))
    ]
    if others:
        more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
        raise UserError(
            f"'{others[0]}'{more} is there and is no result of mask2former predict; choose another output, or "
            "--overwrite to lose it"
        )


def _check_alike(jobs: Sequence[Job], request: _Request) -> None:
    """Refuse to mix results of several models, settings or tasks in one file.

    Raises:
        UserError: naming a file.
    """
    others = [
        job.document
        for job in jobs
        if (document := read_result(job.document)) is not None and not request.made(document)
    ]
    if others:
        more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
        raise UserError(
            f"'{others[0]}'{more} was made by another model, with other classes or settings, or by another version, "
            "and one COCO file must not mix them; use --overwrite or another output"
        )


def _remove_old(job: Job) -> None:
    """Remove an earlier result, its JSON file first: from here on it is not complete."""
    if read_result(job.document) is None:
        return
    ours = [path for ending in (".png", *_MAPS.values()) if _is_own_image(path := job.file(ending))]
    for path in (job.document, *ours):
        path.unlink(missing_ok=True)


def _remove_incomplete(job: Job) -> None:
    """Remove the overlay and maps of a result whose JSON file, which is written last, is not there."""
    if not job.document.parent.is_dir():
        return
    with folder_lock(job.document.parent):
        if not job.document.exists():
            for ending in (".png", *_MAPS.values()):
                if _is_own_image(path := job.file(ending)):
                    path.unlink(missing_ok=True)


def _drop_stale(job: Job) -> None:
    """Remove the results of another image, which nothing replaces: by their name they would be taken for this one's."""
    there = read_result(job.document)
    if there is not None and _is_of_another_image(there, _sha256(job.source)):
        _remove_old(job)
        message = "results of earlier images of the same name, removed because the new images could not be segmented"
        note(message, f"'{job.document}'")


def _is_own_image(path: Path) -> bool:
    """Whether a file is an overlay or a map of a result: it says so, or (of 0.1.0) the JSON file beside it does."""
    if path.suffix.lower() not in (".png", ".tif") or not path.is_file():
        return False
    try:
        with path.open("rb") as file:  # a large map is not opened as an image
            if _MARK in file.read(128):
                return True
        with open_image(path) as image:
            marks = image.info.get("Software"), getattr(image, "tag_v2", {}).get(_TIFF_SOFTWARE)
            if SOFTWARE in marks:
                return True
    except (UserError, OSError):  # whatever is wrong with it, reading it says
        return False
    for task, ending in (*_MAPS.items(), ("", ".png")):
        document = read_result(path.with_name(path.name.removesuffix(ending) + ".json"))
        if path.name.endswith(ending) and document is not None and "provenance" not in document:
            return document["task"] == task if task else document.get("model") is not None
    return False


def _is_crowded(result: Segmentation | PackedSegmentation, settings: InferenceConfig) -> bool:
    """Whether the last of ``max_instances`` instances would still be shown.

    Where overlaps are removed, some of these are dropped later, hence half of them suffice.
    """
    if not isinstance(result, Instances) or len(result) < settings.max_instances / 2:
        return False
    return len(predicted(result, settings)) == len(result)


def check_coco_file(path: Path, jobs: Sequence[Job], *, overwrite: bool = False) -> None:
    """That the file for the COCO results of a run can be written later and destroys nothing.

    Raises:
        UserError: it is an image or one of the results, or lies where results go, or something else is there.
    """
    _check_run_file(path, jobs, "--coco", is_coco_results, overwrite=overwrite)


def _check_run_file(
    path: Path, jobs: Sequence[Job], option: str, is_ours: Callable[[Path], bool], *, overwrite: bool
) -> None:
    check_file(path)
    check_apart(path, [source for job in jobs if (source := path_of(job.source)) is not None])
    target = location_of(path)
    results = {location_of(job.file(ending)): job for job in jobs for ending in _ENDINGS}
    folders = {folder for index in results for folder in Path(index).parents}
    if target in results or any(str(folder) in results for folder in Path(target).parents):
        raise UserError(f"'{path}' is one of the results of this run; name another file for {option}")
    if Path(target) in folders:
        raise UserError(f"'{path}' is a folder of the results of this run; name another file for {option}")
    if path.is_file() and not overwrite and not is_ours(path):  # reading a pipe would wait for its writer
        raise UserError(
            f"'{path}' is there and is no file of {option[2:].replace('coco', 'COCO results')} of mask2former predict; "
            f"name another file for {option}, or --overwrite to lose it"
        )


def _count(result: Segmentation | PackedSegmentation) -> int:
    """How many records its JSON file has."""
    if isinstance(result, PackedSemantic):
        return len(set[int]().union(*(np.unique(strip).tolist() for _, strip in result.labels.strips())))
    if isinstance(result, PackedPanoptic):
        return len(result.segments)
    if isinstance(result, SemanticSegmentation):
        return int((np.unique(result.labels) < len(result.categories)).sum())
    return len(result)


def _is_damaged(path: Path, job: Job) -> bool:
    """Whether an overlay or map is empty, as after a power cut, or a cut PNG file beside the results it belongs to."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(len(_PNG))
    return not start or (start == _PNG and _whole_png(path) is None and read_result(job.document) is not None)


def _is_own_document(path: Path) -> bool:
    """Whether a JSON file is a result of ours, or what is left of one: empty or cut short after a power cut."""
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
