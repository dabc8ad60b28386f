"""Average precision and recall of tracks, as YouTube-VIS counts them (Yang et al., ICCV 2019); OVIS uses the same.

COCO's rules with one difference: the IoU of two tracks is the sum over frames of their intersections, divided by the
sum of their unions. Only IoUs are kept of a clip, so the state of a whole data set stays small. Nothing here knows how
predictions are made or where ground truth is stored.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from mask2former.errors import RequestError
from mask2former.ops.sparse_masks import AnyTracks, common_pixels, frames_of
from mask2former.structures import Categories, Target
from mask2former.structures.clips import VideoInstances
from mask2former.structures.truths import ClipTruth

__all__ = ["VideoInstanceEvaluator", "track_areas", "track_ious"]

_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)
_LARGEST = 1e5**2  # pixels; COCO's own bound


class _Clip(NamedTuple):
    """What is kept of one clip: D detections, G true tracks."""

    ious: Float64[np.ndarray, "D G"]
    labels: Int64[np.ndarray, " D"]
    scores: Float64[np.ndarray, " D"]
    areas: Float64[np.ndarray, " D"]
    true_labels: Int64[np.ndarray, " G"]
    true_crowds: Bool[np.ndarray, " G"]
    true_areas: Float64[np.ndarray, " G"]


class _Matched(NamedTuple):
    """The detections of one class in one clip by falling score, and how many true tracks count."""

    scores: Float64[np.ndarray, " D"]
    hits: Bool[np.ndarray, "10 D"]
    ignored: Bool[np.ndarray, "10 D"]
    num_true: int


def track_ious(first: AnyTracks, second: AnyTracks) -> Float64[np.ndarray, "D G"]:
    """Summed intersections over summed unions of all pairs of tracks of one clip; 0 where both are empty."""
    pairs = list(zip(frames_of(first), frames_of(second), strict=True))
    shared = np.sum([common_pixels(*pair) for pair in pairs], axis=0, dtype=np.float64)
    sizes = [np.sum([masks.areas for masks in frames], axis=0) for frames in zip(*pairs, strict=True)]
    union = sizes[0][:, None] + sizes[1][None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def track_areas(tracks: AnyTracks) -> Float64[np.ndarray, " N"]:
    """Pixels per frame of each track, the mean over the frames where it is; 0 for a track that is nowhere."""
    pixels = np.stack([masks.areas for masks in frames_of(tracks)], axis=1)
    return pixels.sum(axis=1) / np.maximum(np.count_nonzero(pixels, axis=1), 1)


class VideoInstanceEvaluator:
    """Collects clips; :meth:`compute` gives percent (Mask2Former for Video Instance Segmentation, Tables 1 and 2).

    Args:
        categories: the classes of the model. Without true tracks a class does not enter the means.
        max_detections: how many tracks per clip and class count, the most certain first.
        area_limits: mean pixels per frame where medium and large tracks begin.

    Raises:
        RequestError: a limit that makes no sense.
    """

    def __init__(
        self,
        categories: Categories,
        *,
        max_detections: int = 100,
        area_limits: tuple[float, float] = (128**2, 256**2),
    ) -> None:
        if max_detections < 1:
            raise RequestError(f"max_detections must be at least 1, got {max_detections}")
        if not 0 < area_limits[0] < area_limits[1] < _LARGEST:
            raise RequestError(f"area_limits must be two rising numbers of pixels, got {area_limits}")
        self.categories = categories
        self.max_detections = max_detections
        medium, large = area_limits
        self.ranges = {"": (0.0, _LARGEST), "s": (0.0, medium), "m": (medium, large), "l": (large, _LARGEST)}
        self.most_true = 0  # tracks in one clip, for remarks
        self._clips: list[_Clip] = []

    def truth_of_target(self, target: Target) -> ClipTruth:
        """The things of a target that have pixels in some frame; none of them is a crowd."""
        is_thing = np.array([category.is_thing for category in self.categories])
        labels, masks = target.labels.cpu().numpy(), target.masks.cpu().numpy()
        chosen = is_thing[labels] & masks.any(axis=(1, 2, 3))
        return ClipTruth(masks[chosen], labels[chosen], np.zeros(np.count_nonzero(chosen), dtype=bool))

    def update(self, prediction: VideoInstances, truth: ClipTruth) -> None:
        """Add one clip.

        Raises:
            RequestError: masks of different sizes or numbers of frames, or lengths that do not fit.
        """
        shape = (prediction.num_frames, *prediction.size_hw)
        if shape != truth.masks.shape[1:]:
            raise RequestError(
                f"the prediction has {shape} (frames, height, width) and the ground truth "
                f"{truth.masks.shape[1:]}; predict all frames of the clip at the size of the annotation"
            )
        true = frames_of(truth.masks)
        areas = track_areas(true) if truth.areas is None else truth.areas
        if not len(truth.labels) == len(truth.iscrowd) == len(areas) == len(truth.masks):
            raise RequestError(
                f"ground truth has {len(truth.masks)} tracks, but {len(truth.labels)} labels, {len(truth.iscrowd)} "
                f"crowd flags and {len(areas)} areas; give one of each per track"
            )
        if len(wrong := areas[~((areas >= 0) & (areas <= _LARGEST))]):  # NaN too
            raise RequestError(
                f"ground truth has an area of {wrong[0]:g} pixels, which is in no range of areas; expected 0 to "
                f"{_LARGEST:g}"
            )
        self.most_true = max(self.most_true, int(np.count_nonzero(~np.asarray(truth.iscrowd, dtype=bool))))
        self._clips.append(
            _Clip(
                track_ious(prediction.sparse, true),
                prediction.labels,
                prediction.scores,
                track_areas(prediction.sparse),
                np.asarray(truth.labels, dtype=np.int64),
                np.asarray(truth.iscrowd, dtype=bool),
                np.asarray(areas, dtype=np.float64),
            )
        )

    def merge(self, other: VideoInstanceEvaluator) -> None:
        """Add the clips of another evaluator, for instance of another process (evaluators can be pickled)."""
        self._clips = self._clips + other._clips
        self.most_true = max(self.most_true, other.most_true)

    def compute(self) -> dict[str, float]:
        """Average precision and recall; percent, NaN where there is no track.

        Returns:
            ``instance/AP`` (mean over IoU 0.5 to 0.95), ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``; ``AR`` with the
            number of detections (1, 10, ``max_detections``, as far as that reaches), ``ARs``, ``ARm``, ``ARl``.
        """
        most, limits = self.max_detections, sorted({1, 10, self.max_detections})
        curves = {name: self._curves(name, most) for name in self.ranges}
        values = {"AP": curves[""][0], "AP50": curves[""][0][:, 0], "AP75": curves[""][0][:, 5]}
        values |= {f"AP{name}": curves[name][0] for name in ("s", "m", "l")}
        values |= {f"AR{limit}": self._curves("", limit)[1] for limit in limits if limit <= most}
        values |= {f"AR{name}": curves[name][1] for name in ("s", "m", "l")}
        return {f"instance/{name}": _percent(entries) for name, entries in values.items()}

    def per_class(self) -> dict[str, dict[str, float]]:
        """``AP`` and ``AP50`` of every thing class by name; percent, NaN for classes without true tracks."""
        precision, _ = self._curves("", self.max_detections)
        return {
            category.name: {"AP": _percent(precision[index]), "AP50": _percent(precision[index, 0])}
            for index, category in enumerate(self.categories)
            if category.is_thing
        }

    def _curves(self, size: str, limit: int) -> tuple[Float64[np.ndarray, "K 10 101"], Float64[np.ndarray, "K 10"]]:
        """Precision by class, threshold and recall level, and the final recall; NaN for classes without true tracks."""
        precision = np.full((len(self.categories), len(_THRESHOLDS), len(_RECALLS)), np.nan)
        recall = np.full((len(self.categories), len(_THRESHOLDS)), np.nan)
        for label in sorted({int(label) for clip in self._clips for label in np.unique(clip.true_labels)}):
            clips = [_match(clip, label, self.ranges[size], limit) for clip in self._clips]
            num_true = sum(clip.num_true for clip in clips)
            if not num_true:
                continue
            order = np.argsort(-np.concatenate([clip.scores for clip in clips]), kind="stable")
            hits, ignored = (
                np.concatenate(parts, axis=1)[:, order]
                for parts in ([clip.hits for clip in clips], [clip.ignored for clip in clips])
            )
            for place in range(len(_THRESHOLDS)):
                counted = ~ignored[place]
                true = np.cumsum(hits[place] & counted)
                found = true / num_true
                ratio = true / np.maximum(np.cumsum(counted), 1)
                ratio = np.maximum.accumulate(ratio[::-1])[::-1]  # never falling towards lower recall
                reached = np.searchsorted(found, _RECALLS, side="left")
                precision[label, place] = np.append(ratio, 0.0)[reached]
                recall[label, place] = found[-1] if found.size else 0.0
        return precision, recall


def _match(clip: _Clip, label: int, area_range: tuple[float, float], limit: int) -> _Matched:
    """Detections of one class matched to true tracks, the most certain first, each to the best that is left.

    Crowds and tracks of another size do not count, nor do detections that match them or, unmatched, have another size.
    """
    low, high = area_range
    chosen = np.flatnonzero(clip.labels == label)
    chosen = chosen[np.argsort(-clip.scores[chosen], kind="stable")][:limit]
    true = np.flatnonzero(clip.true_labels == label)
    unwanted = clip.true_crowds[true] | (clip.true_areas[true] < low) | (clip.true_areas[true] > high)
    order = np.argsort(unwanted, kind="stable")  # those that count come first
    true, unwanted = true[order], unwanted[order]
    crowds, ious = clip.true_crowds[true], clip.ious[np.ix_(chosen, true)]
    outside = (clip.areas[chosen] < low) | (clip.areas[chosen] > high)

    hits = np.zeros((len(_THRESHOLDS), len(chosen)), dtype=bool)
    ignored = np.zeros_like(hits)
    for place, threshold in enumerate(_THRESHOLDS):
        taken = np.zeros(len(true), dtype=bool)
        for row in range(len(chosen)):
            best, least = -1, min(threshold, 1 - 1e-10)
            for column in np.flatnonzero(~taken | crowds):
                if best >= 0 and not unwanted[best] and unwanted[column]:
                    break  # a track that counts goes before one that does not
                if ious[row, column] >= least:
                    best, least = int(column), float(ious[row, column])
            if best >= 0:
                taken[best] = True
                hits[place, row], ignored[place, row] = True, unwanted[best]
            else:
                ignored[place, row] = outside[row]
    return _Matched(clip.scores[chosen], hits, ignored, int(np.count_nonzero(~unwanted)))


def _percent(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return 100.0 * float(defined.mean()) if defined.size else float("nan")
