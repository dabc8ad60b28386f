"""Average precision of tracks: IoU over frames, areas over frames, and COCO's rules around them."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from mask2former.errors import UserError
from mask2former.metrics.average_precision import InstanceEvaluator, VideoInstanceEvaluator, track_areas
from mask2former.metrics.build import evaluators
from mask2former.metrics.video_panoptic import VideoPanopticEvaluator
from mask2former.ops.masks import boxes_xyxy
from mask2former.ops.sparse_masks import frames_of, pairwise_iou
from mask2former.structures import Categories, Instances, VideoInstances
from mask2former.structures.ground_truth import ClipGroundTruth, InstanceGroundTruth

CATEGORIES = Categories.from_names(["cat", "dog", "sky"], things=["cat", "dog"])


def track(*frames: tuple[int, int] | None, size: tuple[int, int] = (40, 40)) -> np.ndarray:
    """Masks of a track: in each frame a square of 10x10 pixels at (top, left), or nothing."""
    masks = np.zeros((len(frames), *size), dtype=bool)
    for mask, index in zip(masks, frames, strict=True):
        if index is not None:
            mask[index[0] : index[0] + 10, index[1] : index[1] + 10] = True
    return masks


def tracks(*rows: tuple[np.ndarray, int, float]) -> VideoInstances:
    masks = np.stack([mask for mask, _, _ in rows])
    return VideoInstances(masks, np.array([row[1] for row in rows]), np.array([row[2] for row in rows]), CATEGORIES)


def ground_truth(*rows: tuple[np.ndarray, int], crowds: tuple[bool, ...] | None = None) -> ClipGroundTruth:
    masks, labels = np.stack([mask for mask, _ in rows]), np.array([label for _, label in rows])
    return ClipGroundTruth(masks, labels, np.array(crowds or (False,) * len(rows)))


def score(prediction: VideoInstances, true: ClipGroundTruth, **options: object) -> dict[str, float]:
    evaluator = VideoInstanceEvaluator(CATEGORIES, **options)  # pyright: ignore[reportArgumentType]
    evaluator.update(prediction, true)
    return evaluator.compute()


def test_the_iou_of_tracks_is_summed_over_frames() -> None:
    first = np.stack([track((0, 0), (0, 0)), track(None, (0, 0)), track(None, None)])
    second = np.stack([track((0, 0), (0, 5)), track(None, None)])
    ious = pairwise_iou(frames_of(first), frames_of(second))
    np.testing.assert_allclose(ious, [[150 / 250, 0], [50 / 250, 0], [0, 0]])
    of_crowd = pairwise_iou(frames_of(first), frames_of(second), shares=np.array([True, False]))
    np.testing.assert_allclose(of_crowd, [[150 / 200, 0], [50 / 100, 0], [0, 0]])


def test_areas_are_means_over_the_frames_where_a_track_is() -> None:
    masks = np.stack([track((0, 0), None, (0, 35)), track(None, None, None)])
    np.testing.assert_allclose(track_areas(frames_of(masks)), [(100 + 50) / 2, 0])


def test_an_identity_switch_costs_what_a_frame_by_frame_metric_does_not_see() -> None:
    one, other = track((0, 0), (0, 0)), track((20, 20), (20, 20))
    swapped = track((0, 0), (20, 20)), track((20, 20), (0, 0))
    true = ground_truth((one, 0), (other, 0))
    assert score(tracks((one, 0, 0.9), (other, 0, 0.8)), true)["instance/AP"] == pytest.approx(100)
    assert score(tracks((swapped[0], 0, 0.9), (swapped[1], 0, 0.8)), true)["instance/AP50"] == 0


def test_a_clip_of_one_frame_is_measured_as_a_image() -> None:
    rng = np.random.default_rng(0)
    clips = VideoInstanceEvaluator(CATEGORIES, area_limits=(150, 400))
    images = InstanceEvaluator(CATEGORIES, area_limits=(150, 400))
    for _ in range(20):
        corners = rng.integers(0, 25, (5, 2))
        sides = rng.integers(5, 30, (5, 2))
        masks = np.zeros((5, 40, 40), dtype=bool)
        for mask, (top, left), (height, width) in zip(masks, corners, sides, strict=True):
            mask[top : top + height, left : left + width] = True
        shifted = np.roll(masks, rng.integers(0, 3), axis=2)
        labels, scores = rng.integers(0, 2, 5), np.sort(rng.random(5))[::-1].copy()
        crowds = np.zeros(5, dtype=bool)
        clips.update(
            VideoInstances(shifted[:, None], labels, scores, CATEGORIES),
            ClipGroundTruth(masks[:, None], labels, crowds),
        )
        images.update(
            Instances(shifted, labels, scores, boxes_xyxy(shifted), CATEGORIES),
            InstanceGroundTruth(masks, labels, crowds),
        )
    got, expected = clips.compute(), images.compute()
    assert got == pytest.approx(expected, nan_ok=True)
    assert 10 < got["instance/AP"] < 90
    assert clips.per_class() == {
        name: pytest.approx({key: row[key] for key in ("AP", "AP50")}) for name, row in images.per_class().items()
    }


def test_crowds_take_detections_without_counting() -> None:
    thing, crowd = track((0, 0), (0, 0)), track((20, 20), (20, 20))
    prediction = tracks((crowd, 0, 0.9), (thing, 0, 0.8), (crowd, 0, 0.7))
    assert score(prediction, ground_truth((thing, 0), (crowd, 0), crowds=(False, True)))[
        "instance/AP"
    ] == pytest.approx(100)
    assert score(prediction, ground_truth((thing, 0)))["instance/AP"] == pytest.approx(50)


def test_sizes_and_limits_follow_the_options() -> None:
    small, large = track((0, 0), (0, 0)), np.ones((2, 40, 40), dtype=bool)
    true = ground_truth((small, 0), (large, 0))
    numbers = score(tracks((small, 0, 0.9)), true, area_limits=(200, 800), max_detections=1)
    assert numbers["instance/APs"] == pytest.approx(100)
    assert numbers["instance/APl"] == 0
    assert math.isnan(numbers["instance/APm"])
    assert numbers["instance/AR1"] == pytest.approx(50)
    assert "instance/AR10" not in numbers
    published = score(tracks((small, 0, 0.9)), ground_truth((small, 0)))
    assert published["instance/APs"] == pytest.approx(100)  # below 128 squared
    assert "instance/AR100" in published


def test_nothing_found_is_zero_and_nothing_there_is_undefined() -> None:
    one = track((0, 0), (0, 0))
    nothing = VideoInstances(np.zeros((0, 2, 40, 40), bool), np.zeros(0, np.int64), np.zeros(0), CATEGORIES)
    assert score(nothing, ground_truth((one, 0)))["instance/AP"] == 0
    empty = ClipGroundTruth(np.zeros((0, 2, 40, 40), bool), np.zeros(0, np.int64), np.zeros(0, bool))
    assert all(math.isnan(value) for value in score(tracks((one, 0, 0.5)), empty).values())


def test_processes_can_share_the_clips() -> None:
    one, other = track((0, 0), (0, 0)), track((20, 20), None)
    whole = VideoInstanceEvaluator(CATEGORIES)
    parts = [VideoInstanceEvaluator(CATEGORIES), VideoInstanceEvaluator(CATEGORIES)]
    for number, found in enumerate((one, other)):
        for evaluator in (whole, parts[number]):
            evaluator.update(tracks((found, 1, 0.9)), ground_truth((one, 1)))
    parts[0].merge(pickle.loads(pickle.dumps(parts[1])))
    assert parts[0].compute() == pytest.approx(whole.compute(), nan_ok=True)
    assert len(pickle.dumps(parts[0])) < 5000  # numbers only, however large the masks are


def test_clips_are_measured_by_the_tasks_instance_and_panoptic() -> None:
    kinds = evaluators(("instance", "panoptic"), CATEGORIES, style="youtube-vis")
    assert isinstance(kinds["instance"], VideoInstanceEvaluator)
    assert isinstance(kinds["panoptic"], VideoPanopticEvaluator)
    with pytest.raises(UserError, match="measured by the tasks instance and panoptic, not by 'semantic'"):
        evaluators(("semantic",), CATEGORIES, style="youtube-vis")


def test_wrong_requests_are_refused() -> None:
    one = track((0, 0), (0, 0))
    with pytest.raises(UserError, match="at least 1"):
        VideoInstanceEvaluator(CATEGORIES, max_detections=0)
    with pytest.raises(UserError, match="ascending"):
        VideoInstanceEvaluator(CATEGORIES, area_limits=(10, 10))
    evaluator = VideoInstanceEvaluator(CATEGORIES)
    with pytest.raises(UserError, match="all frames"):
        evaluator.update(tracks((one, 0, 0.9)), ground_truth((one[:1], 0)))
    with pytest.raises(UserError, match="one of each per track"):
        evaluator.update(tracks((one, 0, 0.9)), ClipGroundTruth(one[None], np.zeros(2, np.int64), np.zeros(1, bool)))


@pytest.mark.parametrize("area", [math.nan, -1.0, 1e12, math.inf])
def test_areas_in_no_range_are_refused(area: float) -> None:
    mask = track((0, 0), (0, 5))
    with pytest.raises(UserError, match=r"ground truth has an area of .* pixels, which is in no range of areas"):
        score(tracks((mask, 0, 0.9)), ground_truth((mask, 0))._replace(areas=np.array([area])))
    image = InstanceGroundTruth(mask[:1], np.array([0]), np.array([False]), np.array([area]))
    found = Instances(mask[:1], np.array([0]), np.array([0.9]), boxes_xyxy(mask[:1]), CATEGORIES)
    with pytest.raises(UserError, match="in no range of areas"):
        InstanceEvaluator(CATEGORIES).update(found, image)
