"""One frame of tracks: how it is drawn and written."""

from __future__ import annotations

import numpy as np
import pytest

from mask2former.ops import masks as mask_ops
from mask2former.structures import Categories, PanopticSegmentation, Segment
from mask2former.structures.tracks import TRACK_COLUMNS, TrackedFrame

CATEGORIES = Categories.from_names(["cat", "dog", "sky"], things=["cat", "dog"])


def frame(numbers: list[int], masks: list[np.ndarray], panoptic: PanopticSegmentation | None = None) -> TrackedFrame:
    count = len(numbers)
    return TrackedFrame(
        image=np.full((40, 60, 3), 90, np.uint8),
        index=3,
        seconds=0.1,
        track_ids=np.array(numbers, dtype=np.int64),
        masks=np.array(masks, dtype=bool).reshape(count, 40, 60),
        labels=np.arange(count, dtype=np.int64) % 2,
        scores=np.full(count, 0.75),
        probabilities=np.full((count, 3), 0.3, np.float32),
        categories=CATEGORIES,
        panoptic=panoptic,
    )


def box(top: int, left: int) -> np.ndarray:
    mask = np.zeros((40, 60), dtype=bool)
    mask[top : top + 16, left : left + 16] = True
    return mask


def test_a_track_has_one_colour_whoever_else_is_there() -> None:
    alone = np.asarray(frame([5], [box(4, 4)]).plot(labels=False))
    pair = np.asarray(frame([2, 5], [box(20, 40), box(4, 4)]).plot(labels=False))
    assert (alone[12, 12] == pair[12, 12]).all()
    assert (pair[28, 48] != pair[12, 12]).any()
    assert (alone[35, 5] == 90).all()


def test_colours_of_neighbouring_numbers_differ() -> None:
    seen = [np.asarray(frame([number], [box(4, 4)]).plot(labels=False))[12, 12].astype(int) for number in range(1, 9)]
    for index, one in enumerate(seen):
        assert all(abs(one - other).sum() > 20 for other in seen[:index])


def test_the_record_has_what_is_seen() -> None:
    record = frame([2, 5], [box(4, 6), np.zeros((40, 60), dtype=bool)]).to_dict()
    assert (record["index"], record["seconds"]) == (3, 0.1)
    (item,) = record["objects"]
    assert item == {
        "track_id": 2,
        "category_id": CATEGORIES[0].id,
        "category_name": "cat",
        "score": 0.75,
        "area": 256,
        "bbox": [6, 4, 16, 16],
        "segmentation": mask_ops.encode(box(4, 6)[None])[0],
    }


def test_stuff_has_no_track() -> None:
    ids = np.where(box(4, 6), 4, 3).astype(np.int32)
    segments = (Segment(4, 0, True, 0.75, 256), Segment(3, 2, False, 0.5, 40 * 60 - 256))
    both = frame([1], [box(4, 6)], PanopticSegmentation(ids, segments, CATEGORIES))
    assert both.task == "panoptic"
    thing, stuff = both.to_dict()["objects"]
    assert (thing["track_id"], thing["category_name"]) == (1, "cat")
    assert (stuff["track_id"], stuff["category_name"], stuff["area"]) == (None, "sky", 40 * 60 - 256)
    image, alone = (np.asarray(item.plot(labels=False)) for item in (both, frame([1], [box(4, 6)])))
    assert (abs(image[12, 14].astype(int) - alone[12, 14]) <= 2).all()  # the colour of the track in either task
    assert (image[38, 58] != alone[38, 58]).any()


def test_ids_must_rise() -> None:
    with pytest.raises(AssertionError, match="rise"):
        frame([5, 2], [box(0, 0), box(4, 4)])


def test_rows_are_the_objects_of_the_record() -> None:
    ids = np.zeros((40, 60), dtype=np.int32)
    ids[30:] = 3
    ids[4:20, 4:20] = 8
    stuff = PanopticSegmentation(ids, (Segment(3, 2, False, 0.5, 600), Segment(8, 0, True, 0.75, 256)), CATEGORIES)
    hidden = np.zeros((40, 60), dtype=bool)
    found = frame([5, 6], [box(4, 4), hidden], stuff)
    rows = found.rows()
    assert all(tuple(row) == TRACK_COLUMNS for row in rows)
    assert [(row["frame"], row["seconds"], row["track_id"]) for row in rows] == [(3, 0.1, 5), (3, 0.1, None)]
    same = ("track_id", "category_id", "category_name", "score", "area")
    assert [[row[key] for key in same] for row in rows] == [
        [item[key] for key in same] for item in found.to_dict()["objects"]
    ]
