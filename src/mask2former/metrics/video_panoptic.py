"""Video panoptic quality (Kim et al., CVPR 2020): panoptic quality of tubes, over windows of several lengths.

This module does not depend on how predictions are made or where ground truth is stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, Integer

from mask2former.errors import UserError
from mask2former.metrics.identity import count_panoptic_identities, no_identities
from mask2former.metrics.overlaps import added, by_class, defined_mean, looked_up
from mask2former.metrics.panoptic import PanopticCounts, count_matches, no_counts, qualities
from mask2former.structures import Categories, PanopticSegmentation
from mask2former.structures.ground_truth import PanopticGroundTruth

__all__ = ["VideoPanopticEvaluator", "count_tubes"]

_Tubes = tuple[Int64[np.ndarray, "T H W"], list[tuple[int, int, bool]]]


def count_tubes(
    predictions: Sequence[PanopticSegmentation],
    ground_truths: Sequence[PanopticGroundTruth],
    length: int,
    num_classes: int,
) -> PanopticCounts:
    """Matches of tubes in all windows of ``length`` successive frames of one clip; a shorter clip is one window.

    A tube is the set of all pixels of one id and class in the window. Tubes of the same class match when their IoU,
    over the pixels of all frames and with void excluded from the union, exceeds 0.5. All rules are those of panoptic
    quality, :func:`~mask2former.metrics.panoptic.count_matches`, for one image of all frames stacked vertically.

    Args:
        predictions: of every frame, with ids that stay the same over time.
        ground_truths: of every frame, with ids that stay the same over time.
        length: frames in a window.
        num_classes: length of the counts.

    Raises:
        UserError: the numbers or sizes of frames differ, or ids do not match their lists.
    """
    if len(predictions) != len(ground_truths) or not ground_truths:
        raise UserError(
            f"got {len(predictions)} predicted and {len(ground_truths)} true frames; expected the same number of "
            "both, at least one"
        )
    predicted = _tubes(
        [frame.ids for frame in predictions],
        [[(segment.id, segment.label, False) for segment in frame.segments] for frame in predictions],
    )
    true = _tubes([frame.ids for frame in ground_truths], [frame.segments for frame in ground_truths])
    counts = no_counts(num_classes)
    for start in range(max(1, len(ground_truths) - length + 1)):
        mine, my_tubes = _window(predicted, start, length)
        theirs, their_tubes = _window(true, start, length)
        tubes = [(number, label) for number, label, _ in my_tubes]
        counts = added(counts, count_matches(mine, tubes, PanopticGroundTruth(theirs, their_tubes), num_classes))
    return counts


def _tubes(maps: Sequence[Integer[np.ndarray, "H W"]], lists: Sequence[Sequence[tuple[int, int, bool]]]) -> _Tubes:
    """Frames with one number per tube, from 1, and all tubes. An id that changes its class starts another tube."""
    sizes = {ids.shape for ids in maps}
    if len(sizes) != 1:
        raise UserError(f"all frames of a clip must have the same size, got {sorted(sizes)}")
    numbers: dict[tuple[int, int, bool], int] = {}
    result = np.zeros((len(maps), *sizes.pop()), dtype=np.int64)
    for index, (ids, segments) in enumerate(zip(maps, lists, strict=True)):
        tube_of = {segment[0]: numbers.setdefault(segment, len(numbers) + 1) for segment in segments}
        result[index] = looked_up(ids, {0: 0, **tube_of}, missing=-1)
        if (is_unknown := result[index] < 0).any():
            raise UserError(
                f"the id map of frame {index} contains the id {ids[is_unknown].min()}, which its list lacks"
            )
    return result, [(tube, label, crowd) for (_, label, crowd), tube in numbers.items()]


def _window(tubes: _Tubes, start: int, length: int) -> tuple[Int64[np.ndarray, "h W"], list[tuple[int, int, bool]]]:
    """Some frames stacked vertically, and the tubes that appear in them."""
    frames = tubes[0][start : start + length].reshape(-1, tubes[0].shape[2])
    seen = set(np.unique(frames).tolist())
    return frames, [tube for tube in tubes[1] if tube[0] in seen]


class VideoPanopticEvaluator:
    """Adds up the tubes of clips, and the identity switches of their things; :meth:`compute` returns percent.

    Args:
        categories: the classes of the model.
        lengths: lengths of the windows in frames; in the paper, 1 to 4 annotated frames.

    Raises:
        UserError: there is no length, or one below 1.
    """

    def __init__(self, categories: Categories, *, lengths: Sequence[int] = (1, 2, 3, 4)) -> None:
        if not lengths or min(lengths) < 1 or len(set(lengths)) < len(lengths):
            raise UserError(f"the lengths of windows must be at least 1 and differ, got {tuple(lengths)}")
        self.categories = categories
        self.counts = {length: no_counts(len(categories)) for length in lengths}
        self.identities = no_identities()

    def update(self, prediction: Sequence[PanopticSegmentation], ground_truth: Sequence[PanopticGroundTruth]) -> None:
        """Add one clip, frame by frame.

        Raises:
            UserError: see :func:`count_tubes`.
        """
        for length, counts in self.counts.items():
            found = count_tubes(prediction, ground_truth, length, len(self.categories))
            self.counts[length] = added(counts, found)
        switches = count_panoptic_identities(prediction, ground_truth, self.categories.thing_indices)
        self.identities = added(self.identities, switches)

    def merge(self, other: VideoPanopticEvaluator) -> None:
        """Add the clips of another evaluator, for instance from another process (evaluators can be pickled)."""
        assert self.counts.keys() == other.counts.keys()
        self.counts = {length: added(counts, other.counts[length]) for length, counts in self.counts.items()}
        self.identities = added(self.identities, other.identities)

    def compute(self) -> dict[str, float]:
        """``panoptic/VPQ``, the mean over the lengths, and ``VPQ1`` etc. for each; also with ``_things``, ``_stuff``.

        They are percentages and means over classes, NaN where there are none. For things there are also
        ``panoptic/id_switches``, a count, and ``panoptic/found``, the percentage of the true objects of all frames that
        have a prediction, see :mod:`~mask2former.metrics.identity`.
        """
        everything = range(len(self.categories))
        groups = {"": everything, "_things": self.categories.thing_indices, "_stuff": self.categories.stuff_indices}
        columns = {length: qualities(counts)["PQ"] for length, counts in self.counts.items()}
        values = {}
        for suffix, group in groups.items():
            means = {length: defined_mean(column[list(group)]) for length, column in columns.items()}
            values[f"panoptic/VPQ{suffix}"] = defined_mean(np.array(list(means.values())))
            values |= {f"panoptic/VPQ{length}{suffix}": mean for length, mean in means.items()}
        switches, found, present = self.identities
        values["panoptic/id_switches"] = float(switches) if present else float("nan")
        values["panoptic/found"] = 100 * found / present if present else float("nan")
        return values

    def per_class(self) -> dict[str, dict[str, float]]:
        """``VPQ`` of every class by name; percent, NaN for classes neither present nor predicted."""
        columns = np.stack([qualities(counts)["PQ"] for counts in self.counts.values()])
        return by_class(self.categories, {"VPQ": [defined_mean(of_class) for of_class in columns.T]})
