"""Clips of any length: the model processes windows of frames, and objects are linked from one window to the next.

Memory does not grow with the length of the clip: it holds a window of frames, the network's output for it, and recent
tracks. Nothing is written.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from mask2former import postprocessing
from mask2former.config import InferenceConfig, Task, TrackingConfig, parse
from mask2former.errors import UserError
from mask2former.inference.association import Candidates, TrackLinker
from mask2former.media.frames import Frame
from mask2former.notes import note
from mask2former.ops.masks import Patch
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.structures import Categories, PanopticSegmentation, Prediction, Segment, VideoInstances
from mask2former.structures.tracks import TrackedFrame

__all__ = ["TrackingTask", "choose_tracking", "join_frames", "track_frames"]

TrackingTask = Literal["panoptic", "instance"]
Predict = Callable[[Sequence[UInt8[np.ndarray, "H W C"]]], Prediction]


def choose_tracking(
    task: Task | None,
    tracking: TrackingConfig,
    settings: InferenceConfig,
    default_window: int,
    given: Collection[str] = (),
) -> tuple[TrackingTask, TrackingConfig]:
    """The task, by default instance if the model supports it, and the settings with their defaults filled in.

    ``given`` are the names of the inference settings of this call.

    Raises:
        UserError: the task has no tracks, the stride exceeds the window, or a setting of this call has no effect.
    """
    if unused := [name for name in ("max_instances", "things_first") if name in given]:
        advice = {
            "max_instances": "tracks are limited by their score: raise score_threshold for fewer",
            "things_first": "there is no maximum number of tracks that stuff could take up: leave it out",
        }
        raise UserError(
            f"{unused[0]} applies to images and to clips as a whole (`Predictor.clip`); {advice[unused[0]]}"
        )
    only_panoptic = "panoptic" in settings.tasks and "instance" not in settings.tasks
    chosen: Task = task or ("panoptic" if only_panoptic else "instance")
    if chosen not in get_args(TrackingTask):
        raise UserError(f"the task '{chosen}' has no tracks; expected {' or '.join(get_args(TrackingTask))}")
    window = tracking.window or default_window
    stride = tracking.stride or max(1, 3 * window // 4)
    if stride > window:
        raise UserError(f"stride {stride} must not be above window {window}, or frames would be skipped")
    threshold = settings.instance_threshold if tracking.threshold is None else tracking.threshold
    if chosen == "instance" and settings.class_thresholds and tracking.threshold is None:
        message = "thresholds of single classes apply to images and clips; tracks of all classes share one"
        note(message, f"{threshold:g} instead of class_thresholds")
    filled = {"window": window, "stride": stride, "threshold": threshold}
    return chosen, tracking.model_copy(update=filled)  # pyright: ignore[reportReturnType]


def track_frames(
    predict: Predict,
    frames: Iterable[Frame],
    task: TrackingTask,
    categories: Categories,
    settings: InferenceConfig,
    tracking: TrackingConfig,
) -> Iterator[TrackedFrame]:
    """One result per frame, each as soon as no later window can change it.

    A clip that fits into one window is segmented as in the published code: no objects are merged.

    Args:
        predict: returns the prediction for the frames of one window, see
            :meth:`~mask2former.inference.predictor.Predictor.clip_prediction`.
        frames: frames of equal size.
        task: ``instance`` tracks objects that may overlap; ``panoptic`` assigns every pixel to the track of a thing or
            to a class of stuff.
        categories: the classes of the network.
        settings: of post-processing.
        tracking: with window, stride and threshold, see :func:`choose_tracking`.

    Raises:
        UserError: the network returns no features with which objects could be tracked.
    """
    window, stride = tracking.window, tracking.stride
    assert window is not None
    assert stride is not None
    assert tracking.threshold is not None
    linker = TrackLinker(tracking)
    reader = _Reader(predict, task, categories, settings, tracking.threshold)
    buffer: deque[Frame] = deque(maxlen=window)
    shown = given = 0  # frames that the network has seen; frames that were returned
    last: _Window | None = None
    source = _Ahead(frames)
    for frame in source:
        buffer.append(frame)
        seen = frame.index + 1
        is_full = len(buffer) == window and seen - shown >= stride
        if not is_full and not source.ends():
            continue
        last = None  # freed before the next window is created
        last = reader.read(list(buffer))
        is_whole = shown == 0 and source.ends()
        numbers = (
            _by_certainty(last.found) if is_whole else linker.update(last.found, non_overlapping=task == "panoptic")
        )
        means = _means(last.found, numbers, None if is_whole else linker)
        shown = seen
        # Before the next frame is read, which the source may produce only after somebody has seen these.
        for final in (seen - window + stride, seen):
            for index in range(given, final):
                yield reader.frame(last, index - last.frames[0].index, numbers, means)
            given = max(given, final)
            if final < seen and not source.ends():
                break


class _Ahead(Iterator[Frame]):
    """Frames, of which the next one is read early if someone has to know whether there is one."""

    def __init__(self, frames: Iterable[Frame]) -> None:
        self._frames = iter(frames)
        self._read: list[Frame] = []

    def __next__(self) -> Frame:
        return self._read.pop() if self._read else next(self._frames)

    def ends(self) -> bool:
        """Whether there is no further frame; waits for it if it has not been read yet."""
        if not self._read:
            self._read += itertools.islice(self._frames, 1)
        return not self._read


def join_frames(
    frames: Iterable[TrackedFrame], *, things_only: bool = False, max_instances: int = 100
) -> VideoInstances:
    """All frames as one result, the most certain (track, class) pairs first; memory grows with the number of frames.

    The probability of a class is its sum over the frames in which a track was searched for, divided by the number of
    all frames, so a short track has a lower score.

    Args:
        frames: frames of one clip, at least one, without panoptic results.
        things_only: drop stuff classes after ``max_instances`` pairs are chosen, so fewer may remain.
        max_instances: how many pairs are chosen.
    """
    results = list(frames)
    assert results, "a clip must have at least one frame"
    categories = results[0].categories
    numbers = np.unique(np.concatenate([frame.track_ids for frame in results]))
    sums = np.zeros((len(numbers), len(categories)))
    empty = SparseMasks([Patch(0, 0, np.zeros((0, 0), dtype=bool))], results[0].size_hw)
    row_of_track = np.zeros((len(results), len(numbers)), dtype=np.int64)  # by frame; the empty mask if it is absent
    for index, frame in enumerate(results):
        tracks = np.searchsorted(numbers, frame.track_ids)
        row_of_track[index] = len(frame)
        row_of_track[index, tracks] = np.arange(len(frame))
        sums[tracks] += frame.probabilities
    chosen = parse(
        InferenceConfig, {"things_only": things_only, "max_instances": max_instances}, "settings of join_frames"
    )
    scores, best, labels = postprocessing.best_pairs(torch.from_numpy(sums / len(results)), categories, chosen)
    masks = [
        SparseMasks([*frame.sparse, *empty], frame.size_hw).take(rows[best.numpy()])
        for frame, rows in zip(results, row_of_track, strict=True)
    ]
    return VideoInstances(masks, labels.numpy(), scores.numpy(), categories)


# --- one window ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Window:
    """The network's output for some frames, and the objects in it.

    Attributes:
        frames: the original frames.
        prediction: for all of them, as one clip.
        queries: indices of the queries of the objects.
        found: the objects.
        segmentations: for video panoptic, one per frame, with the query of every thing segment by segment id.
    """

    frames: list[Frame]
    prediction: Prediction
    queries: Int64[Tensor, " N"]
    found: Candidates
    segmentations: list[tuple[PanopticSegmentation, dict[int, int]]]


class _Reader:
    """Finds objects in windows of frames, and converts them to results."""

    def __init__(
        self,
        predict: Predict,
        task: TrackingTask,
        categories: Categories,
        settings: InferenceConfig,
        threshold: float,
    ) -> None:
        self.predict = predict
        self.task = task
        self.settings = settings
        self.threshold = threshold
        self.categories = categories
        only_things = task == "panoptic" or settings.things_only
        self.allowed = np.array([item.is_thing or not only_things for item in categories])

    def read(self, frames: list[Frame]) -> _Window:
        images = [frame.image for frame in frames]
        prediction = self.predict(images)
        if prediction.query_features is None:
            raise UserError(
                "the network returns no query_features, which are needed to link objects from one window to the "
                "next; see mask2former.structures.Prediction"
            )
        probabilities = prediction.probabilities[:, :-1].float().cpu().numpy()
        segmentations: list[tuple[PanopticSegmentation, dict[int, int]]] = []
        if self.task == "panoptic":
            size = (images[0].shape[0], images[0].shape[1])
            segmentations = [
                postprocessing.panoptic_with_queries(prediction.frame(index), size, self.categories, self.settings)
                for index in range(len(frames))
            ]
            kept = np.array(sorted({query for _, queries in segmentations for query in queries.values()}), dtype=int)
        else:
            likely = np.where(self.allowed, probabilities, 0.0).max(axis=1)
            kept = np.flatnonzero(likely >= self.threshold)
        queries = torch.from_numpy(kept).to(prediction.device)
        found = Candidates(
            first_frame=frames[0].index,
            masks=(prediction.masks_of(queries) > 0).cpu().numpy(),
            features=prediction.query_features[queries].float().cpu().numpy(),
            probabilities=probabilities[kept],
        )
        return _Window(frames, prediction, queries, found, segmentations)

    def frame(
        self, window: _Window, index: int, numbers: Int64[np.ndarray, " N"], means: Float64[np.ndarray, "N K"]
    ) -> TrackedFrame:
        """The result of one frame of a window; objects with the number 0 are left out."""
        order = np.argsort(numbers, kind="stable")
        order = order[numbers[order] > 0]
        frame = window.frames[index]
        allowed = np.where(self.allowed, means[order], -1.0)
        labels = allowed.argmax(axis=1) if len(order) else np.zeros(0, dtype=np.int64)
        panoptic = None
        if self.task == "panoptic":
            panoptic, masks = self._renumbered(window, index, numbers, order, labels)
        else:
            queries = window.queries[torch.from_numpy(order).to(window.queries.device)]
            size_hw = (frame.image.shape[0], frame.image.shape[1])
            masks = postprocessing.frame_masks(window.prediction.frame(index), size_hw, queries)
        return TrackedFrame(
            image=frame.image,
            index=frame.index,
            seconds=frame.seconds,
            track_ids=numbers[order],
            masks=masks,
            labels=labels,
            scores=allowed.max(axis=1, initial=0.0),
            probabilities=window.found.probabilities[order],
            categories=self.categories,
            panoptic=panoptic,
        )

    def _renumbered(
        self,
        window: _Window,
        index: int,
        numbers: Int64[np.ndarray, " N"],
        order: Int64[np.ndarray, " M"],
        labels: Int64[np.ndarray, " M"],
    ) -> tuple[PanopticSegmentation, SparseMasks]:
        """The panoptic result of a frame with persistent ids, and the masks of its things in the order of their ids."""
        segmentation, query_of_segment = window.segmentations[index]
        row_of_query = {query: row for row, query in enumerate(window.queries.tolist())}
        label_of_row = dict(zip(order.tolist(), labels.tolist(), strict=True))
        table = np.zeros(max((segment.id for segment in segmentation.segments), default=0) + 1, dtype=np.int32)
        segments = []
        for segment in segmentation.segments:
            number, label = segment.label + 1, segment.label
            if segment.is_thing:
                row = row_of_query[query_of_segment[segment.id]]
                number, label = len(self.categories) + int(numbers[row]), label_of_row[row]
            table[segment.id] = number
            segments.append(Segment(number, label, segment.is_thing, segment.score, segment.area))
        ids = table[segmentation.ids]
        masks = SparseMasks.of_ids(ids, (len(self.categories) + numbers[order]).tolist())
        return PanopticSegmentation(ids, tuple(segments), self.categories), masks


def _by_certainty(found: Candidates) -> Int64[np.ndarray, " N"]:
    """Numbers from 1, the most certain object first."""
    numbers = np.empty(len(found.probabilities), dtype=np.int64)
    numbers[np.argsort(-found.probabilities.max(axis=1, initial=0), kind="stable")] = np.arange(1, len(numbers) + 1)
    return numbers


def _means(
    found: Candidates, numbers: Int64[np.ndarray, " N"], linker: TrackLinker | None
) -> Float64[np.ndarray, "N K"]:
    """Class probabilities of each object, averaged over all its windows; without a linker, in this window alone."""
    means = found.probabilities.astype(np.float64)
    for row, number in enumerate(numbers.tolist()):
        if linker is not None and number:
            means[row] = linker.probabilities(number)
    return means
