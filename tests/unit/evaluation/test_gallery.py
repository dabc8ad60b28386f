from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mask2former.evaluation.cases import Case
from mask2former.evaluation.gallery import Gallery, case_rows, compare
from mask2former.structures import (
    Categories,
    Instances,
    PanopticSegmentation,
    Segment,
    SemanticSegmentation,
    VideoInstances,
)
from mask2former.structures.ground_truth import (
    CityscapesGroundTruth,
    ClipGroundTruth,
    InstanceGroundTruth,
    PanopticGroundTruth,
)

CLASSES = Categories.from_names(["cat", "dog", "sky", "sea"], ["cat", "dog"])
CAT, DOG, SKY, SEA = range(4)


def _panoptic(ids: np.ndarray, segments: list[tuple[int, int, float]]) -> PanopticSegmentation:
    entries = [
        Segment(number, label, CLASSES[label].is_thing, score, int((ids == number).sum()))
        for number, label, score in segments
    ]
    return PanopticSegmentation(ids.astype(np.int32), tuple(entries), CLASSES)


def _instances(*found: tuple[np.ndarray, int, float]) -> Instances:
    masks = np.stack([mask for mask, _, _ in found]) if found else np.zeros((0, 10, 10), dtype=bool)
    labels, scores = np.array([label for _, label, _ in found], dtype=np.int64), [score for *_, score in found]
    return Instances(masks, labels, np.array(scores, dtype=np.float64), np.zeros((len(found), 4)), CLASSES)


def _ground_truth(*found: tuple[np.ndarray, int, bool]) -> InstanceGroundTruth:
    masks = np.stack([mask for mask, _, _ in found]) if found else np.zeros((0, 10, 10), dtype=bool)
    labels = np.array([label for _, label, _ in found], dtype=np.int64)
    return InstanceGroundTruth(masks, labels, np.array([crowd for *_, crowd in found], dtype=bool))


def _box(top: int, bottom: int, left: int = 0, right: int = 10) -> np.ndarray:
    mask = np.zeros((10, 10), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


# --- one image -----------------------------------------------------------------------------------------------------


def test_panoptic_quality_and_confident_errors_of_one_image() -> None:
    true = np.full((10, 10), 3)
    true[:4] = 7
    true[9] = 0  # void
    ids = np.full((10, 10), 1)
    ids[:2] = 2
    # Rows 0-1 are right, 2-3 are sky taken for sea by a segment that is 90 % sure, 4-8 are right.
    prediction = _panoptic(ids, [(1, SEA, 0.9), (2, SKY, 0.6)])
    ground_truth = PanopticGroundTruth(true, [(3, SEA, False), (7, SKY, False)])
    quality, confidence, remark = compare(prediction, ground_truth, CLASSES)
    assert quality == pytest.approx((50 / 70 + 0) / (1 + 0.5 + 0.5))  # the IoU of sky is 0.5: no match
    assert confidence == pytest.approx(20 / 90 * 0.9)
    assert remark == "sky taken for sea: 22 % of the image"


def test_instances_count_the_best_partner_on_both_sides() -> None:
    prediction = _instances((_box(0, 4), CAT, 0.9), (_box(6, 8), DOG, 0.8))
    ground_truth = _ground_truth((_box(0, 5), CAT, False), (_box(6, 8), CAT, False))
    quality, confidence, remark = compare(prediction, ground_truth, CLASSES)
    # The dog is no cat.
    assert quality == pytest.approx((0.8 + 0 + 0.8 + 0) / 4)
    assert confidence == pytest.approx(0.8)
    assert remark == "dog, 80 % sure, best IoU with a true one 0 %"


def test_a_prediction_on_a_crowd_of_its_class_is_neither_right_nor_wrong() -> None:
    prediction = _instances((_box(0, 2), CAT, 0.9))
    quality, confidence, remark = compare(prediction, _ground_truth((_box(0, 8), CAT, True)), CLASSES)
    assert (np.isnan(quality), confidence, remark) == (True, 0.0, "")
    assert compare(prediction, _ground_truth((_box(0, 8), DOG, True)), CLASSES)[:2] == pytest.approx((0.0, 0.9))


def test_errors_of_label_maps_count_inside_regions_and_not_at_borders() -> None:
    true = np.full((60, 60), SKY)
    labels = np.full((60, 60), SKY)
    labels[30:] = SEA
    ground_truth, shifted = true.copy(), true.copy()
    shifted[31:] = SEA  # one row differs, at the border of the prediction
    prediction = SemanticSegmentation(labels, CLASSES)
    assert compare(prediction, ground_truth, CLASSES).confidence == pytest.approx(29 / 60, abs=1e-9)
    assert compare(prediction, ground_truth, CLASSES).remark == "sky taken for sea: 50 % of the image"
    assert compare(prediction, shifted, CLASSES)[1:] == (0.0, "")
    assert compare(prediction, shifted, CLASSES).quality == pytest.approx((30 / 31 + 29 / 30) / 2)
    ignored = ground_truth.copy()
    ignored[30:] = CLASSES.ignore_label
    assert compare(prediction, ignored, CLASSES)[:2] == (1.0, 0.0)


def test_nothing_true_and_nothing_predicted_has_no_quality() -> None:
    empty = np.zeros((10, 10), np.int32)
    ignored = np.full((10, 10), CLASSES.ignore_label)
    for prediction, ground_truth in (
        (_panoptic(empty, []), PanopticGroundTruth(empty, [])),
        (_instances(), _ground_truth()),
        (SemanticSegmentation(ignored, CLASSES), ignored),
    ):
        quality, confidence, remark = compare(prediction, ground_truth, CLASSES)
        assert (np.isnan(quality), confidence, remark) == (True, 0.0, "")
    assert compare(_instances(), _ground_truth((_box(0, 2), CAT, False)), CLASSES) == (0.0, 0.0, "")
    assert compare(_instances((_box(0, 2), CAT, 0.7)), _ground_truth(), CLASSES)[:2] == pytest.approx((0.0, 0.7))


# --- a few of many ---------------------------------------------------------------------------------------------------


def _shown(rows: int, name: str, gallery: Gallery, size: int = 10) -> None:
    """Add an image whose label map is right in ``rows`` of ten rows."""
    labels = np.full((size, size), SEA)
    labels[: rows * size // 10] = SKY
    image = np.zeros((size, size, 3), dtype=np.uint8)
    case = Case(image, {"semantic": np.full((size, size), SKY)}, name)
    gallery.add(case, {"semantic": SemanticSegmentation(labels, CLASSES)})


def test_only_the_extremes_are_kept_the_first_of_equals() -> None:
    gallery = Gallery(CLASSES, keep=2)
    for number, rows in enumerate([5, 9, 1, 9, 7, 9, 3, 1]):
        _shown(rows, f"{number}: {rows}", gallery)
    assert [entry.image_id for entry in gallery.of("semantic", "best")] == ["1: 9", "3: 9"]
    assert [entry.image_id for entry in gallery.of("semantic", "worst")] == ["2: 1", "7: 1"]
    assert [entry.image_id for entry in gallery.of("semantic", "confident")] == ["2: 1", "7: 1"]
    assert gallery.of("panoptic", "best") == []


@pytest.mark.parametrize(("size", "drawn"), [(10, 320), (100, 400), (256, 512), (400, 400), (1000, 334)])
def test_drawings_are_large_enough_to_read_and_small_enough_to_keep(size: int, drawn: int) -> None:
    gallery = Gallery(CLASSES)
    _shown(5, "x", gallery, size)
    for data in gallery.of("semantic", "best")[0].images:
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.size) == ("WEBP", (drawn, drawn))


def test_label_ids_of_cityscapes_are_measured_and_drawn_as_classes() -> None:
    city = Categories.load("cityscapes")
    road, car = city.names.index("road"), city.names.index("car")
    ids = np.full((10, 10), 7, np.int32)  # road
    ids[:4] = 26001  # a car
    labels = np.where(ids == 7, road, car)
    case = Case(np.zeros((10, 10, 3), np.uint8), {"semantic": CityscapesGroundTruth(ids)}, 1)
    gallery = Gallery(city)
    gallery.add(case, {"semantic": SemanticSegmentation(labels, city)})
    assert gallery.of("semantic", "best")[0].comparison.quality == 1.0
    ((image, ground_truth, prediction),) = case_rows(
        case, SemanticSegmentation(labels, city), case.ground_truths["semantic"], city
    )
    assert image.size == ground_truth.size == (320, 320)
    assert np.array_equal(np.asarray(ground_truth), np.asarray(prediction))


def test_a_clip_is_drawn_by_its_first_and_last_frame() -> None:
    masks = np.stack([_box(0, 3), _box(2, 5), _box(6, 9)])[None]
    found = VideoInstances(masks, np.array([CAT]), np.array([0.9]), CLASSES)
    ground_truth = ClipGroundTruth(masks, np.array([CAT]), np.array([False]))
    case = Case([np.full((10, 10, 3), 40 * frame, np.uint8) for frame in range(3)], {"instance": ground_truth}, 1)
    first, last = case_rows(case, found, ground_truth, CLASSES)
    assert [int(np.asarray(row[0]).mean()) for row in (first, last)] == [0, 80]
    for row, top in ((first, 0), (last, 6)):
        change = (
            np.abs(np.asarray(row[1]).astype(int) - np.asarray(row[0])).mean(axis=(1, 2)).reshape(10, 32).mean(axis=1)
        )
        assert change[top : top + 3].min() > 20
        assert change[6 - top : 9 - top].max() < 20  # but for the plate with the count
