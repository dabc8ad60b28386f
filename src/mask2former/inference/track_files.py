"""From a video, a folder of frames or a camera to files of tracks, in one call."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mask2former import interrupts
from mask2former.config import Task
from mask2former.errors import FailedError, OptionError, UserError
from mask2former.files import check_outputs, leftovers_note
from mask2former.inference import failures
from mask2former.inference.opening import ModelSource, model_files, model_name, open_predictor
from mask2former.media.frames import open_frames
from mask2former.progress import Progress, silent
from mask2former.results_io.growing import FrameWriter
from mask2former.results_io.json import TrackDocument
from mask2former.results_io.video import VideoWriter
from mask2former.results_io.youtube_vis import TrackResults
from mask2former.text import count

__all__ = ["TrackReport", "track_files"]

_TRACKS = "YouTube-VIS results"  # kind of a file, in reports


@dataclass(frozen=True)
class TrackReport:
    """The result of tracking a clip.

    Attributes:
        task: of the tracks.
        num_frames: number of frames.
        num_tracks: number of tracks with at least one pixel.
        files: the files that were written, by kind.
        complete: False if the call was interrupted.
        notes: what a user should know, one sentence each.
    """

    task: str
    num_frames: int
    num_tracks: int
    files: dict[str, Path]
    complete: bool
    notes: tuple[str, ...]


def track_files(
    model: ModelSource,
    source: str | Path | int,
    output: str | Path,
    task: Literal["panoptic", "instance"] | None = None,
    *,
    recipe: str | None = None,
    trained_for: Task | Sequence[Task] = (),
    weights: str | None = None,
    start: float = 0.0,
    end: float | None = None,
    rate: float | None = None,
    video: bool = True,
    ytvis: str | Path | None = None,
    video_id: int = 1,
    writers: Sequence[FrameWriter] = (),
    overwrite: bool = False,
    device: str | None = None,
    dtype: str | None = None,
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda note: None,
    **settings: Any,
) -> TrackReport:
    """Track objects through a clip of any length; what ``mask2former track`` does.

    Writes X.json with all masks, and X.mp4 with the tracks drawn on it. Ctrl-C stops it after the current frame; the
    results so far can be read. Both files grow under other names, see :mod:`mask2former.results_io.partial`.

    Args:
        model: a name, file or folder, a model, or a predictor.
        source: a video, a folder of frames, or the number of a camera.
        output: the folder of results.
        task: see :meth:`Predictor.track`.
        recipe: for files without configuration, for instance ``coco-panoptic/r50``.
        trained_for: instead of ``recipe``, the tasks that the model was trained for.
        weights: see :meth:`Predictor.from_pretrained`.
        start: seconds to skip at the beginning.
        end: where to stop, in seconds, excluded; None: at the end.
        rate: see :meth:`Predictor.track`.
        video: whether X.mp4 is written.
        ytvis: also write the tracks as a YouTube-VIS results file.
        video_id: id of the clip in that file.
        writers: for your own formats; they receive every frame.
        overwrite: replace existing results.
        device: see :class:`Predictor`.
        dtype: see :class:`Predictor`.
        progress: called with the step, and the numbers of frames done and in total.
        tell: called, before the first frame, with messages for the user.
        settings: see :meth:`Predictor.track`.

    Raises:
        UserError: the clip cannot be read, a file is in the way, or a setting is wrong; nothing has been written then.
        MissingExtraError: the source is a video, and PyAV is not installed.
        FailedError: a frame could not be read, predicted or written; earlier results stay.
    """
    where, name = _source(source)
    folder = Path(output)
    outputs = {"results": folder / f"{name}.json"}
    if video:
        outputs["video"] = folder / f"{name}.mp4"
    if ytvis is not None:
        outputs[_TRACKS] = Path(ytvis)
    _check_files(outputs, [*model_files(model), *([] if isinstance(where, int) else [where])], overwrite)
    frames = open_frames(where, start=start, end=end, rate=rate)
    drawing = VideoWriter(outputs["video"], frames.rate) if video else None
    loading = {"recipe": recipe, "trained_for": trained_for, "weights": weights, "device": device, "dtype": dtype}
    predictor = open_predictor(model, progress=progress, **loading)
    results, recorded = predictor.track_opened(frames, task, **settings)

    head = {
        "model": model_name(model),
        "settings": recorded,
        "source": str(source),
        "rate": float(f"{frames.rate:.6g}"),
    }
    document = TrackDocument(outputs["results"], head)
    growing: list[TrackDocument | VideoWriter] = [document] if drawing is None else [document, drawing]
    for note in _leftovers(outputs.values(), growing):
        tell(note)
    stopped = False
    try:
        with contextlib.ExitStack() as stack:
            ends = stack.enter_context(interrupts.postponed())
            opened: list[FrameWriter] = [stack.enter_context(writer) for writer in (*growing, *writers)]
            if ytvis is not None:
                things = predictor.settings.things_only
                tracks = TrackResults(ytvis, video_id, predictor.categories, things_only=things)
                opened.append(stack.enter_context(tracks))
            progress("tracking", 0, frames.num_frames)
            for number, frame in enumerate(results, start=1):
                for writer in opened:
                    writer.add(frame)
                progress("tracking", number, frames.num_frames)
                if ends():
                    stopped = True
                    break
            document.notes += frames.notes
            for writer in growing:
                writer.complete = not stopped
    except Exception as error:  # any error, which also reports what was done before
        if not document.count:
            raise
        kept = [f"'{next(filter(Path.exists, (w.working.path, w.path)), w.path)}'" for w in growing]
        most = f" (and played up to the last seconds in {kept[1]})" if len(kept) > 1 else ""
        reason = str(error)  # names the frame
        if not isinstance(error, UserError):
            reason = failures.reason(error, f"frame {document.count + 1} of {frames.name}", predictor.device)
        done = f"{reason}; {count(document.count, 'finished frame')} can be read in {kept[0]}{most}"
        raise FailedError(done) from error
    return TrackReport(document.task, document.count, document.num_tracks, outputs, not stopped, tuple(frames.notes))


def _source(source: str | Path | int) -> tuple[Path | int, str]:
    """The source, and the name of its results.

    Raises:
        UserError: it is something else, such as frames.
    """
    if not isinstance(source, str | Path | int):
        raise UserError(
            f"expected the path of a video or of a folder, or the number of a camera, got {type(source).__name__}; "
            "frames in memory are tracked by Predictor.track, whose results writers take"
        )
    if isinstance(source, int) or (isinstance(source, str) and source.isdecimal() and not os.path.exists(source)):
        return int(source), f"camera-{int(source)}"
    path = Path(source)
    return path, path.resolve().name if path.is_dir() else path.stem


def _check_files(outputs: Mapping[str, Path], inputs: Sequence[Path], overwrite: bool) -> None:
    check_outputs([("ytvis" if kind == _TRACKS else "output", path) for kind, path in outputs.items()], inputs)
    for output in outputs.values():
        if output.is_file() and not overwrite:  # not for a device or a pipe
            raise OptionError(
                lambda name, output=output: f"'{output}' already exists; use {name('overwrite')} or another output"
            )


def _leftovers(outputs: Iterable[Path], growing: Sequence[TrackDocument | VideoWriter]) -> list[str]:
    """Sentences about files that killed runs have left behind."""
    notes = leftovers_note(output.parent for output in outputs)
    if left := [f"'{path}'" for writer in growing if (path := writer.working.left())]:
        notes.append(
            f"a killed run left its finished frames in {' and '.join(left)}; this run starts with the first frame, "
            "and removes them when it is complete"
        )
    return notes
