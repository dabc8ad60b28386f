"""From images in folders to results in a folder, and to tables and other formats for the complete run.

:func:`predict_files` is the public function; what it does with each image is in ``segment_files``.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from jaxtyping import UInt8

from mask2former.config import InferenceConfig, Task
from mask2former.errors import OptionError, UserError, prefixed
from mask2former.files import check_outputs, leftovers_note, location_of, reserved
from mask2former.inference.large_files import read_whole_or_parts
from mask2former.inference.opening import ModelSource, model_files, model_name, open_predictor
from mask2former.inference.plan_files import FileSource, plan
from mask2former.inference.predicted_image import LargeImage
from mask2former.inference.predictor import Predictor
from mask2former.inference.result_files import Job, Outcome, check_run_file, image_sha256_of, is_of_another_image
from mask2former.inference.segment_files import segment_files
from mask2former.media.georeference import georeference
from mask2former.media.image_files import ImageFile, ImagePage, NamedBytes, in_memory, path_of
from mask2former.media.pixel_sizes import stated_pixel_size
from mask2former.media.web_images import WebImage
from mask2former.notes import collect_notes, note, sentences
from mask2former.pixels import Regions
from mask2former.progress import Progress, silent, tiles_told
from mask2former.results_io.coco import is_coco_results, write_coco_results
from mask2former.results_io.formats import FormatWriter, ImagesOfRun, format_folder, open_format
from mask2former.results_io.json import read_result, result_of, saved_document
from mask2former.results_io.table import TableFiles, checked_size, images_table, is_table
from mask2former.structures import Categories
from mask2former.structures.tables import PixelSize
from mask2former.visualization import Palette

if TYPE_CHECKING:
    from mask2former.inference.tta import MultiScaleFlip

__all__ = ["FileSource", "FilesReport", "predict_files"]

_Read = TypeVar("_Read")


@dataclass(frozen=True)
class FilesReport:
    """The outcome of a call.

    Attributes:
        task: of the results.
        settings: the inference settings.
        outcomes: number of images by :attr:`Outcome.status`.
        num_different: skipped images whose existing results come from another model or other settings.
        num_crowded: processed images that may have more instances than ``max_instances`` allows.
        num_found: segments, instances or classes in all results of this model.
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
        """Number of all images of the call."""
        return sum(self.outcomes.values())


_LISTED = 10  # failures in a report


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

    Each image X gives an overlay X.png, exact maps, and X.json, which is written last. The next call skips finished
    images, see :func:`segment_files`.

    Args:
        model: a name, file or folder, a model, or a predictor.
        sources: an image, a folder, which is searched to any depth, or several of them. An image may also be an
            http(s) address or :class:`~mask2former.media.images.NamedBytes`.
        output: the folder of results, with the folder structure of the sources.
        task: see :class:`Predictor`.
        page: which page, frame or plane of each file, from 1; its results are called ``X_page3``. ``all``: every one.
            None: the first, with a note if there are more.
        recipe: for files without configuration, for instance ``coco-panoptic/r50``.
        trained_for: instead of ``recipe``, the tasks that the model was trained for.
        weights: see :meth:`Predictor.from_pretrained`.
        overlays: whether X.png is drawn.
        palette: of the overlays drawn by this call, see :meth:`~mask2former.PanopticSegmentation.plot`.
        coco: also write one COCO results file, with instances of any score.
        table: also write a table of all masks, and one of all images beside it, see
            :class:`~mask2former.results_io.table.TableFiles`.
        pixel_size: for the tables, for instance ``0.65um``; ``file``: what each file states, see
            :func:`~mask2former.media.pixel_sizes.stated_pixel_size`.
        also: further formats to write, each in a folder of ``output`` with its name; some of
            :data:`~mask2former.results_io.formats.FORMATS`.
        writers: for your own formats; they receive every result, and the stems of files as ids of images.
        overwrite: also process images that have results, and overwrite other files with the same names.
        batch_size: the largest number of images that go through the network together, see :meth:`Predictor.stream`.
        views: test-time augmentation.
        device: see :class:`Predictor`.
        dtype: see :class:`Predictor`.
        compile: see :class:`Predictor`.
        progress: called with the step, and the numbers of images done and in total, or of tiles for an image that has
            many.
        observe: called with the outcome of each image.
        settings: inference settings that replace the stored ones, as in :meth:`Predictor.from_pretrained`, for instance
            ``score_threshold=0.5``. With ``tile`` alone, tiles overlap by a quarter.

    Raises:
        UserError: there are no images, the model or a setting is wrong, or existing files are in the way; nothing has
            been written then.
        FailedError: an image failed for a reason that would stop all others, for instance a full disk; finished results
            stay.
    """
    if pixel_size is not None and table is None:
        raise OptionError(lambda name: f"{name('pixel_size')} applies to tables; give {name('table')} too")
    size = checked_size(pixel_size)
    file = None if coco is None else Path(coco)
    with collect_notes() as planned:
        several = [sources] if isinstance(sources, str | os.PathLike | NamedBytes) else sources
        jobs = plan(several, output, page=page)
    tables = () if table is None else (Path(table), images_table(Path(table)))
    files = [*([] if file is None else [("coco", file)]), *(("table", path) for path in tables)]
    read = [source for job in jobs if (source := path_of(job.source)) is not None]
    check_outputs(files, [*model_files(model), *read])
    for option, path in files:
        check_run_file(path, jobs, option, is_coco_results if option == "coco" else is_table, overwrite=overwrite)
    folders = [_format_folder(Path(output), name, jobs, files, overwrite=overwrite) for name in dict.fromkeys(also)]
    loading = {"recipe": recipe, "trained_for": trained_for, "weights": weights, "device": device, "dtype": dtype}
    predictor = open_predictor(model, compile=compile, views=views, progress=progress, **loading, **settings)
    chosen = predictor.choose_tasks(task)[0]
    run = _images_of(jobs, predictor, model_name(model))
    every = [*writers]
    if table is not None:
        every.append(TableFiles(table, run.categories, run.names, run.read, size, run.pixel_size_of))
    every += [open_format(folder, run) for folder in folders]
    removed = leftovers_note(path.parent for path in (*(job.document for job in jobs), *([file] if file else [])))
    outcomes: dict[str, int] = dict.fromkeys(("done", "skipped", "refused", "failed"), 0)
    sums: dict[str, int] = dict.fromkeys(("differs", "crowded", "found", "candidates"), 0)
    failed: list[Outcome] = []
    usable: list[Job] = []
    # A pipe is held open, so that its reader waits for the file.
    waiting = contextlib.nullcontext() if file is None else reserved(file)
    tiles = tiles_told(progress, chosen, lambda: sum(outcomes.values()), len(jobs))
    with waiting, collect_notes() as found, tiles, contextlib.ExitStack() as stack:
        progress(chosen, 0, len(jobs))
        options = {"model": model_name(model), "overlay": overlays, "palette": palette, "candidates": coco is not None}
        options |= {"overwrite": overwrite, "batch_size": batch_size}
        for outcome in segment_files(predictor, jobs, chosen, **options):
            outcomes[outcome.status] += 1
            for name in sums:
                sums[name] += getattr(outcome, name)
            if not outcome.reason and not outcome.differs:
                if not usable:  # otherwise a run without results would replace files of an earlier run
                    every = [stack.enter_context(writer) for writer in every]
                usable.append(outcome.job)
                _pass_on(outcome.job, chosen, predictor.categories, every)
            elif outcome.differs and every:
                note(
                    "images whose results come from another model or other settings, left out of tables and formats",
                    f"'{outcome.job.source}'",
                )
            if outcome.reason and len(failed) < _LISTED:
                failed.append(outcome)
            observe(outcome)
            progress(chosen, sum(outcomes.values()), len(jobs))
        if every and not usable and sums["differs"]:
            raise OptionError(
                lambda name: (
                    f"no table or other format was written: the results in '{output}' come from another "
                    f"model, other classes or settings, or another version; use {name('overwrite')} or another output"
                )
            )
        if file is not None and usable:
            write_coco_results(file, usable, chosen, predictor.categories)
        for path in () if usable else (*(path for _, path in files), *(writer.path for writer in every)):
            if path.is_file():
                note("files of an earlier run that were kept, because no image has a result now", f"'{path}'")
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
    """Information for formats about the images of a run; the ids are the stems of their results."""
    sources = {job.stem.as_posix(): job for job in jobs}

    @functools.lru_cache(maxsize=1)  # what is behind an address is fetched once for all formats
    def again(stem: str) -> ImageFile:
        return _again(sources[stem])

    def read(image_id: int | str) -> UInt8[np.ndarray, "H W C"] | Regions:
        with collect_notes():  # these notes were already issued when it was segmented
            image = read_whole_or_parts(again(str(image_id)), predictor.settings, overlay=False)
        return image.regions if isinstance(image, LargeImage) else image

    names: dict[int | str, str] = {stem: _name(job) for stem, job in sources.items()}

    def read_again(what: str, reader: Callable[[ImageFile], _Read], image_id: int | str) -> _Read | None:
        try:
            return reader(again(str(image_id)))
        except UserError:  # it could be read a moment ago
            note(f"images whose {what} could not be read again", f"'{sources[str(image_id)].source}'")
            return None

    place_of = functools.partial(read_again, "coordinates", georeference)
    pixel_size_of = functools.partial(read_again, "pixel sizes", stated_pixel_size)
    rooted: dict[int | str, str] = {stem: _rooted(names[stem], path_of(job.source)) for stem, job in sources.items()}
    return ImagesOfRun(predictor.categories, names, read, model, place_of, rooted, pixel_size_of)


def _again(job: Job) -> ImageFile:
    """The file of an image that was segmented, to be read a second time.

    Raises:
        UserError: it cannot be fetched again, or the address returns another image now, as that of a webcam does.
    """
    source = in_memory(job.source)
    if isinstance(job.source.file if isinstance(job.source, ImagePage) else job.source, WebImage):
        there = read_result(job.document)
        if there is not None and is_of_another_image(there, image_sha256_of(source)):
            raise UserError(f"'{job.source}' has changed since it was segmented; save it as a file and give that")
    return source


def _name(job: Job) -> str:
    """The name of an image with its folders; for a page, the name that it would have as a file."""
    name = job.source.name
    if isinstance(job.source, ImagePage):
        name = f"{job.stem.name}{Path(name).suffix}"
    return (job.stem.parent / name).as_posix()


def _rooted(name: str, file: Path | None) -> str:
    """The name of an image below a folder, prefixed with the name of that folder."""
    if file is None:
        return name
    folder = Path(os.path.abspath(file)).parents[name.count("/")]
    return f"{folder.name}/{name}" if folder.name else name


def _pass_on(job: Job, task: Task, categories: Categories, writers: Sequence[FormatWriter]) -> None:
    """Pass the stored result of an image to writers of other formats.

    Raises:
        UserError: a writer rejects it.
    """
    if not writers:
        return
    document = saved_document(job.document, task)
    if document is None:
        note("images whose results had been removed when other formats were written, left out", f"'{job.document}'")
        return
    try:
        result = result_of(document, categories)
    except UserError as error:
        raise prefixed(f"'{job.document}'", error) from error
    for writer in writers:
        writer.add(job.stem.as_posix(), result)


def _format_folder(
    output: Path, name: str, jobs: Sequence[Job], files: Iterable[tuple[str, Path]], *, overwrite: bool
) -> Path:
    """The folder of a format, which must contain neither results of images nor files of other options.

    Raises:
        UserError: there is no such format, or the folder is used for something else.
    """
    folder = format_folder(output, name, overwrite=overwrite)
    for option, path in files:
        if location_of(folder) in map(str, Path(location_of(path)).parents):
            raise OptionError(
                lambda called, option=option, path=path: (
                    f"{called(option)} '{path}' is inside '{folder}', which {called('also')} writes; choose another "
                    "file"
                )
            )
    if inside := next((job for job in jobs if job.stem.parts[:-1][:1] == (name,)), None):
        raise UserError(
            f"'{folder}' contains results of images, for instance of '{inside.source}', so the format "
            f"{name} cannot be written there; choose another output, or give the folder of the images "
            "itself as the source"
        )
    return folder
