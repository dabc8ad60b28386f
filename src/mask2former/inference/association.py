"""Which objects of a window of frames are objects of earlier windows: the memory of a tracker.

Objects are compared by their masks in the frames that both windows share (or, for adjacent windows, in the frames
on both sides), by the decoder states of their queries, and by their classes. Models and images are not needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

from mask2former.config import TrackingConfig

__all__ = ["Candidates", "TrackLinker"]

_SAME_OBJECT = 0.5  # mask IoU above which two candidates of one window are the same object
_MEMORY = 0.9  # weight of the old state when the state of a new window is added


@dataclass(frozen=True, slots=True)
class Candidates:
    """The objects that a model detected in one window.

    Attributes:
        first_frame: index of the first frame of the window in the clip.
        masks: at the resolution of the network.
        features: states of the queries.
        probabilities: class probabilities.
    """

    first_frame: int
    masks: Bool[np.ndarray, "N T h w"]
    features: Float32[np.ndarray, "N C"]
    probabilities: Float32[np.ndarray, "N K"]

    @property
    def end(self) -> int:
        return self.first_frame + self.masks.shape[1]


@dataclass(slots=True)
class _Track:
    """The memory of one object.

    Attributes:
        number: its id.
        feature: mean state of its queries, normalised to length 1.
        probability_sum: sum of its class probabilities over windows.
        num_windows: number of these windows.
        first_frame: index in the clip of the first frame of ``masks``, those of the window where it was last found.
        masks: at the resolution of the network.
        velocity: of its centre (down, right), in pixels of the masks per frame.
    """

    number: int
    feature: Float64[np.ndarray, " C"]
    probability_sum: Float64[np.ndarray, " K"]
    num_windows: int
    first_frame: int
    masks: Bool[np.ndarray, "T h w"]
    velocity: Float64[np.ndarray, " 2"]

    @property
    def end(self) -> int:
        return self.first_frame + len(self.masks)

    @property
    def probabilities(self) -> Float64[np.ndarray, " K"]:
        return self.probability_sum / self.num_windows


class TrackLinker:
    """Assigns ids to the objects of one window after another.

    Its memory is bounded: a track that has not been found for ``max_lost`` frames is forgotten.

    Args:
        settings: see :class:`~mask2former.config.TrackingConfig`; the window is ignored.
    """

    def __init__(self, settings: TrackingConfig) -> None:
        self.settings = settings
        self._tracks: list[_Track] = []
        self._next = 1
        self._previous_end = 0

    def __len__(self) -> int:
        """Number of tracks in memory."""
        return len(self._tracks)

    def update(self, found: Candidates, *, non_overlapping: bool = False) -> Int64[np.ndarray, " N"]:
        """The ids of the objects of the next window, from 1; 0 for a duplicate of a more certain object.

        ``non_overlapping`` means that no two objects share pixels, so there are no duplicates.
        """
        numbers = np.zeros(len(found.masks), dtype=np.int64)
        features = _unit(found.features.astype(np.float64))
        owners: list[_Track | None] = [None] * len(numbers)
        distinct = list(range(len(numbers))) if non_overlapping else _distinct(found)
        active = [track for track in self._tracks if track.end == self._previous_end]
        lost = [track for track in self._tracks if track.end != self._previous_end]
        for tracks, is_active in ((active, True), (lost, False)):
            free = [index for index in distinct if owners[index] is None]
            for row, index in self._pairs(tracks, found, features, free, is_active=is_active):
                owners[index] = tracks[row]
        for index in distinct:
            owner = owners[index]
            if owner is None:
                owner = _Track(
                    self._next,
                    features[index],
                    np.zeros(found.probabilities.shape[1]),
                    0,
                    0,
                    found.masks[0],
                    np.zeros(2),
                )
                self._tracks.append(owner)
                self._next += 1
            self._learn(owner, found, features, index)
            numbers[index] = owner.number
        self._previous_end = found.end
        self._tracks = [track for track in self._tracks if found.end - track.end <= self.settings.max_lost]
        return numbers

    def probabilities(self, number: int) -> Float64[np.ndarray, " K"]:
        """Class probabilities of a track that was found in the last window, averaged over its windows."""
        return next(track.probabilities for track in self._tracks if track.number == number)

    def _pairs(
        self,
        tracks: list[_Track],
        found: Candidates,
        features: Float64[np.ndarray, "N C"],
        free: list[int],
        *,
        is_active: bool,
    ) -> list[tuple[int, int]]:
        """Pairs of tracks and candidates, each used once, with the largest sum of scores."""
        if not tracks or not free:
            return []
        similarity = np.stack([track.feature for track in tracks]) @ features[free].T
        known = np.sqrt(np.stack([track.probabilities for track in tracks]))
        agreement = known @ np.sqrt(found.probabilities[free].astype(np.float64)).T  # Bhattacharyya coefficient
        if is_active:
            score = np.stack([_overlaps(track, found, free) for track in tracks]) + similarity + agreement
            allowed = score >= self.settings.min_match
        else:
            score = similarity * agreement
            allowed = score >= self.settings.min_similarity
        from scipy.optimize import linear_sum_assignment  # takes a quarter of a second, and images do not need it

        rows, columns = linear_sum_assignment(np.where(allowed, score, 0.0), maximize=True)
        pairs = zip(rows.tolist(), columns.tolist(), strict=True)
        return [(row, free[column]) for row, column in pairs if allowed[row, column]]

    def _learn(self, track: _Track, found: Candidates, features: Float64[np.ndarray, "N C"], index: int) -> None:
        track.feature = _unit(_MEMORY * track.feature + (1 - _MEMORY) * features[index])
        track.probability_sum = track.probability_sum + found.probabilities[index]
        track.num_windows += 1
        if track.end == found.first_frame and track.num_windows > 1:
            before, after = _centre(track.masks[-1]), _centre(found.masks[index, 0])
            track.velocity = after - before if before is not None and after is not None else np.zeros(2)
        else:
            track.velocity = np.zeros(2)
        track.first_frame, track.masks = found.first_frame, found.masks[index]


def _distinct(found: Candidates) -> list[int]:
    """Candidates, the most certain first, without duplicates of other candidates."""
    kept: list[int] = []
    for index in np.argsort(-found.probabilities.max(axis=1, initial=0), kind="stable").tolist():
        if not kept or _ious(found.masks[index], found.masks[kept]).max() <= _SAME_OBJECT:
            kept.append(index)
    return kept


def _unit(vectors: Float64[np.ndarray, "*batch C"]) -> Float64[np.ndarray, "*batch C"]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _ious(mask: Bool[np.ndarray, "T h w"], others: Bool[np.ndarray, "N T h w"]) -> Float64[np.ndarray, " N"]:
    """Intersection over union with each of the others, summed over frames; 0 where both are empty."""
    shared = np.count_nonzero(mask & others, axis=(1, 2, 3))
    union = np.count_nonzero(mask | others, axis=(1, 2, 3))
    return shared / np.maximum(union, 1)


def _overlaps(track: _Track, found: Candidates, chosen: list[int]) -> Float[np.ndarray, " N"]:
    """IoU of a track with candidates in shared frames, or else between its last frame and their first one."""
    start = max(track.first_frame, found.first_frame)
    if start >= track.end:
        return _ious(_shifted(track.masks[-1], track.velocity)[None], found.masks[chosen, :1])
    length = min(track.end, found.end) - start
    theirs = start - found.first_frame
    mine = start - track.first_frame
    return _ious(track.masks[mine : mine + length], found.masks[chosen, theirs : theirs + length])


def _centre(mask: Bool[np.ndarray, "h w"]) -> Float64[np.ndarray, " 2"] | None:
    """Mean row and column of the pixels; None if there are none."""
    indices = np.argwhere(mask)
    return indices.mean(axis=0) if len(indices) else None


def _shifted(mask: Bool[np.ndarray, "h w"], by: Float64[np.ndarray, " 2"]) -> Bool[np.ndarray, "h w"]:
    """The mask shifted by whole pixels (down, right); pixels that leave the frame are lost."""
    result = np.zeros_like(mask)
    sides = []
    for length, step in zip(mask.shape, np.rint(by).astype(int).tolist(), strict=True):
        sides.append((slice(max(0, step), length + min(0, step)), slice(max(0, -step), length - max(0, step))))
    (rows, source_rows), (columns, source_columns) = sides
    result[rows, columns] = mask[source_rows, source_columns]
    return result
