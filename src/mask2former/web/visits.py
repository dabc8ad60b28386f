"""What each visitor of the page has open: an image or a clip with its prediction. Knows neither gradio nor browsers.

An image passes through the network once; tasks, thresholds and classes are applied to its output.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from mask2former import limits
from mask2former.config import Task
from mask2former.documents import encode_json
from mask2former.errors import FailedError, UserError
from mask2former.inference.predicted_image import PredictedImage
from mask2former.inference.predictor import Predictor
from mask2former.inference.track_files import track_files
from mask2former.limits import check_limit
from mask2former.media.frames import open_frames
from mask2former.media.images import PixelLimitError, image_size
from mask2former.media.video import VIDEO_SUFFIXES
from mask2former.notes import collect_notes, sentences
from mask2former.progress import Progress, silent
from mask2former.results_io.csv import csv_text
from mask2former.structures import Segmentation
from mask2former.structures.tables import ROW_COLUMNS
from mask2former.structures.tracks import TRACK_COLUMNS, TrackedFrame
from mask2former.text import printable, quoted

__all__ = ["GONE", "Clip", "Visit", "Visits", "threshold_of"]

_CLIP_TASKS: tuple[Task, ...] = ("instance", "panoptic")  # of which the first is the default
GONE = "your image is no longer available: it is kept for half an hour, and only for the latest visitors; drop it again"


@dataclass(frozen=True)
class Clip:
    """A clip with its tracks, as files in memory.

    Attributes:
        video: MP4 with the tracks drawn on it.
        document: JSON with all masks, see :class:`~mask2former.results_io.json.TrackDocument`.
        table: CSV with one line per object and frame.
        tracks: as in the document: id, class, score, first and last frame.
        size_hw: height and width of its frames, in pixels.
        num_frames: number of its frames.
        rate: its frames per second.
    """

    video: bytes
    document: bytes
    table: str
    tracks: list[dict[str, Any]]
    size_hw: tuple[int, int]
    num_frames: int
    rate: float


@dataclass
class Visit:
    """What one visitor has open, and how it is shown.

    Attributes:
        source: the file that was uploaded, or an example.
        name: what it is called, without folders.
        model: the name of the model.
        predictor: the model itself.
        task: that is shown.
        threshold: minimum score of what is shown, for all classes; None: those of the model, which can be set by class.
        image: the image after its pass through the network; None before, and for a clip.
        clip: the clip with its tracks; None before, and for an image.
        hidden: indices of the classes that are switched off.
        notes: what a visitor should know about the input.
        pass_again: passes the image through the network with another threshold of panoptic segments; only where tiles
            were joined with the first one.
    """

    source: Path
    name: str
    model: str
    predictor: Predictor
    task: Task
    threshold: float | None = None
    image: PredictedImage | None = None
    clip: Clip | None = None
    hidden: frozenset[int] = frozenset()
    notes: list[str] = field(default_factory=list)
    pass_again: Callable[[float], PredictedImage] | None = None
    _last: tuple[tuple[Task, float | None], Segmentation] | None = field(default=None, repr=False)

    def read_as(self, task: Task) -> None:
        """Show another task of the image, with the thresholds that the model has for it."""
        self.task, self.threshold = task, None

    @property
    def least_score(self) -> float:
        """The threshold of classes that have none of their own."""
        return threshold_of(self.predictor, self.task) if self.threshold is None else self.threshold

    def hide(self, labels: Any) -> None:
        """Switch off these classes and no others.

        Raises:
            UserError: they are not class indices.
        """
        count = len(self.predictor.categories)
        if not isinstance(labels, list) or not all(isinstance(label, int) and 0 <= label < count for label in labels):
            raise UserError(f"expected class indices, 0 to {count - 1}, got {quoted(labels)}")
        self.hidden = frozenset(labels)

    def every_class(self) -> Segmentation:
        """The result of the task and threshold, of all classes.

        Without another pass through the network, except for another threshold of panoptic segments of tiles, which are
        joined with it.
        """
        if self.image is None:
            raise UserError(GONE)
        key: tuple[Task, float | None] = (self.task, self.threshold)
        last = self._last
        if last is None or last[0] != key:  # else only classes were switched
            self._last = last = key, self._read(self.image)
        return last[1]

    def _read(self, image: PredictedImage) -> Segmentation:
        if self.task == "panoptic" and self.threshold is not None and self.pass_again is not None:
            return self.pass_again(self.threshold)(self.task)
        return image(self.task, **self._thresholds())

    def visible(self, every: Segmentation) -> Segmentation:
        """The part of a result that is not switched off."""
        return every.filter(set(range(len(every.categories))) - self.hidden)

    def download(self, kind: Literal["png", "json", "csv", "mp4"]) -> tuple[str, bytes]:
        """Name and content of a file with what is shown.

        Raises:
            UserError: an image as MP4, or a clip as PNG.
        """
        stem = Path(self.name).stem or "result"
        if self.clip is not None:
            files = {"mp4": self.clip.video, "json": self.clip.document, "csv": self.clip.table.encode()}
            if kind not in files:
                raise UserError("there is no PNG for a clip; choose MP4, JSON or CSV")
            return f"{stem}.{kind}", files[kind]
        if self.image is None:
            raise UserError(GONE)
        result = self.visible(self.every_class())
        if kind == "csv":
            return f"{stem}.csv", csv_text(result.rows(), ROW_COLUMNS).encode()
        if kind not in ("png", "json"):
            raise UserError(f"there is no {kind.upper()} for an image; choose PNG, JSON or CSV")
        image = self.image.shown.rgb if kind == "png" else None
        settings = {**self.predictor.recorded_settings, **self._thresholds()}
        hidden = [self.predictor.categories[label].name for label in sorted(self.hidden)]
        files = result.encoded(image, model=self.model, settings=settings, extra={"hidden_classes": hidden})
        return f"{stem}.{kind}", files[f".{kind}"]

    def _thresholds(self) -> Mapping[str, Any]:
        """As a setting: what a visitor sets applies to all classes."""
        if self.threshold is None:
            return {}
        if self.task == "instance":
            return {"instance_threshold": self.threshold, "class_thresholds": {}}
        return {"score_threshold": self.threshold} if self.task == "panoptic" else {}


def threshold_of(predictor: Predictor, task: Task) -> float:
    """The threshold of a model for a task, for classes without their own; 0 for semantic, which has none."""
    settings = predictor.settings
    return {"panoptic": settings.score_threshold, "instance": settings.instance_threshold}.get(task, 0.0)


class Visits:
    """Everything that visitors have open: the latest ones, for a limited time.

    Args:
        predictors: by name; passes through the network of one take place one after the other.
        most: maximum number of visitors; a new one replaces the one that was idle longest.
        seconds: after which an idle one is removed.
        clip_frames: maximum number of frames of a clip.
        clock: returns seconds, from any origin.
    """

    def __init__(
        self,
        predictors: Mapping[str, Predictor],
        *,
        most: int = 16,
        seconds: float = 1800.0,
        clip_frames: int = 600,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.predictors = dict(predictors)
        self.clip_frames = clip_frames
        self._most, self._seconds, self._clock = most, seconds, clock
        self._open: OrderedDict[str, tuple[float, Visit]] = OrderedDict()
        self._lock = threading.Lock()  # of the table
        self._network = {name: threading.Lock() for name in self.predictors}

    def __len__(self) -> int:
        return len(self._open)

    def predictor(self, model: str) -> Predictor:
        """The model with this name.

        Raises:
            UserError: it does not exist.
        """
        if model not in self.predictors:
            raise UserError(f"there is no model '{printable(str(model), 100)}' here; choose one from the list")
        return self.predictors[model]

    def find(self, visitor: str) -> Visit | None:
        """What a visitor has open, which may be waiting for the network or have failed; None: nothing, or no longer."""
        with self._lock:
            self._forget_idle()
            if visitor not in self._open:
                return None
            visit = self._open[visitor][1]
            self._open[visitor] = (self._clock(), visit)
            self._open.move_to_end(visitor)
            return visit

    def get(self, visitor: str) -> Visit:
        """The same.

        Raises:
            UserError: nothing is open.
        """
        if (visit := self.find(visitor)) is None:
            raise UserError(GONE)
        return visit

    def close(self, visitor: str) -> None:
        """Forget a visitor."""
        with self._lock:
            self._open.pop(visitor, None)

    def open(
        self,
        visitor: str,
        source: Path,
        model: str,
        task: str | None = None,
        threshold: float | None = None,
        progress: Progress = silent,
    ) -> Visit:
        """Predict an image or a clip, which replaces what the visitor had open.

        Args:
            visitor: the visitor's id.
            source: a file of any name; one with a video suffix is a clip.
            model: the name of the model.
            task: by default, and where the model or a clip does not support it, the first one that is supported.
            threshold: for all classes; by default the model's own.
            progress: called with the number of frames of a clip.

        Raises:
            UserError: the file cannot be read or is too large, or the model does not support it; the visitor can still
                choose another model for it.
        """
        predictor = self.predictor(model)
        is_clip = source.suffix.lower() in VIDEO_SUFFIXES
        visit = Visit(source, printable(source.name, 100), model, predictor, predictor.settings.default_task, threshold)
        with self._lock:
            self._open[visitor] = (self._clock(), visit)
            self._open.move_to_end(visitor)
            self._forget_idle()
        if not source.exists():
            raise UserError(GONE)
        tasks = self.tasks(model, is_clip=is_clip)
        visit.task = tasks[tasks.index(task)] if task in tasks else tasks[0]
        try:
            if is_clip:
                self._track(visit, progress)
            else:
                self._predict(visit)
        except (UserError, FailedError) as error:  # whose paths are ours, not given by the visitor
            raise UserError(str(error).replace(str(source), visit.name)) from error
        return visit

    def tasks(self, model: str, *, is_clip: bool = False) -> tuple[Task, ...]:
        """The tasks of a model, for a clip or for an image, the default first.

        Raises:
            UserError: there is none.
        """
        settings = self.predictor(model).settings
        known = settings.tasks
        if not is_clip:
            first = settings.default_task
            return (first, *(name for name in known if name != first))
        tasks: tuple[Task, ...] = tuple(name for name in _CLIP_TASKS if name in known)
        if not tasks:
            raise UserError(f"the model '{model}' supports only {', '.join(known)}; clips need instance or panoptic")
        return tasks

    def _forget_idle(self) -> None:
        now = self._clock()
        while self._open:
            visitor, (seen, _) = next(iter(self._open.items()))
            if len(self._open) <= self._most and now - seen <= self._seconds:
                return
            del self._open[visitor]

    def _predict(self, visit: Visit) -> None:
        try:
            height, width = image_size(visit.source)
        except PixelLimitError as error:  # which comes before ours
            raise UserError(str(error).partition(", or raise ")[0]) from error  # visitors cannot
        check_limit(
            "the image has too many pixels:", height * width, limits.PAGE_PIXELS, "make it smaller, or use predict"
        )

        def passed(**settings: Any) -> PredictedImage:
            if not visit.source.exists():
                raise UserError(GONE)
            shown = visit.predictor.prepare(visit.source, **settings)
            with self._network[visit.model]:
                [image] = visit.predictor.run([shown])
            return image

        def again(threshold: float) -> PredictedImage:
            with collect_notes():  # they were told the first time
                return passed(score_threshold=threshold)

        with collect_notes() as found:
            visit.image = passed()
        visit.pass_again = again if visit.predictor.settings.tile else None
        visit.notes = sentences(found)

    def _track(self, visit: Visit, progress: Progress) -> None:
        frames = open_frames(visit.source)
        advice = "cut it, or use the command 'mask2former track'"
        check_limit("the clip has too many frames:", frames.num_frames or 0, self.clip_frames, advice)
        with tempfile.TemporaryDirectory(prefix="mask2former-clip-") as folder, self._network[visit.model]:
            table = _Table(self.clip_frames, advice)
            try:
                report = track_files(
                    visit.predictor,
                    visit.source,
                    folder,
                    visit.task,  # pyright: ignore[reportArgumentType]  (one of those of clips)
                    writers=[table],
                    progress=progress,
                    score_threshold=visit.least_score,  # tracks have one for all classes
                )
            except FailedError as error:  # names files that no longer exist; the underlying fault is its cause
                cause = error.__cause__
                raise (cause if isinstance(cause, UserError) else error) from error
            document = report.files["results"].read_bytes()
            values = json.loads(document)
            values |= {"source": visit.name, "model": visit.model}
            visit.clip = Clip(
                report.files["video"].read_bytes(),
                encode_json(values).encode(),
                csv_text(table.rows, TRACK_COLUMNS),
                values["tracks"],
                (values["size"][0], values["size"][1]),
                report.num_frames,
                values["rate"],
            )
        visit.notes = list(report.notes)


class _Table:
    """Collects the rows of all frames, and stops a clip that has more frames than its file says."""

    path = Path("table.csv")

    def __init__(self, most: int, advice: str) -> None:
        self.rows: list[dict[str, Any]] = []
        self._most, self._advice = most, advice

    def __enter__(self) -> Self:
        return self

    def add(self, frame: TrackedFrame) -> None:
        check_limit("the clip has too many frames:", frame.index + 1, self._most, self._advice)
        self.rows += frame.rows()

    def __exit__(self, *_: object) -> None:
        """Nothing needs to be closed."""
