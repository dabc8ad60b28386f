"""Tracks as results: thresholds, frames, files, images."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mask2former.errors import UserError
from mask2former.ops import masks as mask_ops
from mask2former.structures import Categories, VideoInstances
from mask2former.visualization.labels import Plate

CATEGORIES = Categories.from_dict({"categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]})


@pytest.fixture
def tracks() -> VideoInstances:
    masks = np.zeros((2, 3, 20, 30), dtype=bool)
    masks[0, :2, 2:8, 3:9] = True
    masks[1, 1:, 10:15, 10:25] = True
    return VideoInstances(masks, np.array([1, 0]), np.array([0.9, 0.3]), CATEGORIES)


def test_a_frame_has_all_tracks_in_their_order(tracks: VideoInstances) -> None:
    assert (len(tracks), tracks.num_frames, tracks.size_hw) == (2, 3, (20, 30))
    for index in range(3):
        frame = tracks.frame(index)
        np.testing.assert_array_equal(frame.masks, tracks.masks[:, index])
        assert frame.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(tracks.frame(2).boxes, [[0, 0, 0, 0], [10, 10, 25, 15]])


def test_only_boxes_are_kept_and_sparse_frames_give_the_same(tracks: VideoInstances) -> None:
    assert [[patch.mask.size for patch in frame] for frame in tracks.sparse] == [[36, 0], [36, 75], [0, 75]]
    same = VideoInstances(tracks.sparse, tracks.labels, tracks.scores, CATEGORIES)
    assert same.to_dict() == tracks.to_dict()
    np.testing.assert_array_equal(same.masks, tracks.masks)
    with pytest.raises(AssertionError, match="at least one frame"):
        VideoInstances((), tracks.labels, tracks.scores, CATEGORIES)


def test_a_threshold_keeps_whole_tracks(tracks: VideoInstances) -> None:
    kept = tracks.above(0.5)
    assert kept.labels.tolist() == [1]
    np.testing.assert_array_equal(kept.masks, tracks.masks[:1])
    assert len(tracks.above(0.95)) == 0


def test_files_for_the_server_have_an_encoding_per_frame(tracks: VideoInstances) -> None:
    records = json.loads(json.dumps(tracks.to_ytvis(12)))
    assert [(row["video_id"], row["category_id"], row["score"]) for row in records] == [(12, 3, 0.9), (12, 7, 0.3)]
    for row, masks in zip(records, tracks.masks, strict=True):
        np.testing.assert_array_equal(mask_ops.decode(row["segmentations"]), masks)  # also empty ones


def test_json_leaves_out_frames_without_the_track(tracks: VideoInstances) -> None:
    values = json.loads(json.dumps(tracks.to_dict(model="m", settings={"max_instances": 10})))
    assert (values["task"], values["size"], values["num_frames"]) == ("instance", [20, 30], 3)
    first = values["tracks"][0]
    assert (first["category_name"], first["areas"]) == ("dog", [36, 36, 0])
    assert first["segmentations"][2] is None
    np.testing.assert_array_equal(mask_ops.decode(first["segmentations"][0])[0], tracks.masks[0, 0])


def test_a_track_keeps_its_colour(tracks: VideoInstances) -> None:
    frames = [np.full((20, 30, 3), 128, np.uint8)] * 3
    drawn = [np.asarray(image) for image in tracks.plot(frames, labels=False, threshold=0.2)]
    inside = [drawn[0][5, 6], drawn[1][5, 6], drawn[1][12, 17], drawn[2][12, 17]]
    assert (inside[0] == inside[1]).all()
    assert (inside[2] == inside[3]).all()
    assert (inside[0] != inside[2]).any()
    assert (drawn[2][5, 6] == 128).all()
    with pytest.raises(UserError, match="10x10 pixels but the result 20x30"):
        next(tracks.plot([np.zeros((10, 10, 3), np.uint8)] * 3))
    with pytest.raises(ValueError, match=r"shorter|longer"):
        list(tracks.plot(frames[:2]))


def test_tracks_of_one_class_keep_their_colours_and_those_in_sight_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unlike in single images, colours do not depend on neighbours; each frame counts the tracks visible in it."""
    counted: list[list[str]] = []
    paste = Plate.paste
    monkeypatch.setattr(Plate, "paste", lambda self, *rest: (counted.append(self.lines), paste(self, *rest))[1])
    masks = np.zeros((4, 3, 200, 300), dtype=bool)
    for track in range(4):
        for time in range(3):
            left = 40 * ((track * (time + 1)) % 5)  # other neighbours in each frame
            masks[track, time, 100:130, left : left + 30] = True
    masks[3, 1] = False
    tracks = VideoInstances(masks, np.zeros(4, np.int64), np.linspace(0.9, 0.6, 4), CATEGORIES)
    frames = [np.asarray(image) for image in tracks.plot([np.full((200, 300, 3), 90, np.uint8)] * 3)]
    assert counted == [["cat: 4"], ["cat: 3"], ["cat: 4"]]
    seen = [
        {
            tuple(frames[time][115, int(np.flatnonzero(masks[track, time, 115])[15])])
            for time in range(3)
            if masks[track, time].any()
        }
        for track in range(4)
    ]
    assert [len(colors) for colors in seen] == [1] * 4
    assert len(set.union(*seen)) == 4
