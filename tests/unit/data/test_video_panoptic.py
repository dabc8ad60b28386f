"""Clips with panoptic ground truth in VIPSeg's format: reading, notes and errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import write_vipseg
from PIL import Image

from mask2former.data.clips import MeasuredClips
from mask2former.data.datasets.scenes import SceneClips
from mask2former.data.datasets.video_panoptic import VideoPanoptic, is_video_panoptic
from mask2former.errors import UserError


@pytest.fixture
def clips() -> SceneClips:
    return SceneClips(48, num_frames=3, seed=5, length=2)


def opened(root: Path) -> VideoPanoptic:
    return VideoPanoptic(root / "clips.json", root / "maps", root / "images")


def test_frames_and_ground_truths_are_those_of_the_files(tmp_path: Path, clips: SceneClips) -> None:
    write_vipseg(tmp_path, clips)
    assert is_video_panoptic(tmp_path / "clips.json")
    read = opened(tmp_path)
    assert isinstance(read, MeasuredClips)
    assert [read.image_id(index) for index in range(len(read))] == ["clip0", "clip1"]
    assert read.categories.names == clips.categories.names
    for index in range(2):
        assert read.clip_length(index) == 3
        assert np.array_equal(read.images(index), clips.images(index))
        for one, other in zip(
            read.ground_truths(index, ["panoptic"])["panoptic"],
            clips.ground_truths(index, ["panoptic"])["panoptic"],
            strict=True,
        ):
            assert np.array_equal(one.ids, other.ids)
            assert sorted(one.segments) == sorted(other.segments)
    assert list(read.notes) == []


def test_images_may_have_another_suffix_and_names_their_folder(tmp_path: Path, clips: SceneClips) -> None:
    content = write_vipseg(tmp_path, clips)
    for path in (tmp_path / "images").rglob("*.png"):  # as VIPSeg has them
        Image.open(path).save(path.with_suffix(".jpg"), quality=100)
        path.unlink()
    for entry in content["annotations"]:
        for frame in entry["annotations"]:
            frame["file_name"] = f"{entry['video_id']}/{frame['file_name']}"
    (tmp_path / "clips.json").write_text(json.dumps(content))
    read = opened(tmp_path)
    assert np.abs(np.array(read.images(1)).astype(int) - np.array(clips.images(1))).mean() < 6
    assert np.array_equal(
        read.ground_truths(1, ["panoptic"])["panoptic"][2].ids, clips.ground_truths(1, ["panoptic"])["panoptic"][2].ids
    )


def infos(content: dict[str, Any], frame: int) -> list[dict[str, Any]]:
    return content["annotations"][0]["annotations"][frame]["segments_info"]


def drop_annotation(content: dict[str, Any]) -> None:
    content["annotations"][0]["annotations"].pop(1)


def change_area(content: dict[str, Any]) -> None:
    infos(content, 0)[0]["area"] += 7
    infos(content, 2)[0]["area"] += 7


def change_class(content: dict[str, Any]) -> None:
    one = infos(content, 1)[0]
    one["category_id"] = next(item["id"] for item in content["categories"] if item["id"] != one["category_id"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop_annotation, r"left out frames without an annotation: 1 \(clip0/1\)"),
        (change_area, r"2 segments in 2 images have an 'area' in the file that differs .* \(segment"),
        (change_class, r"the ids 1 \(\d+\) have different classes in different frames"),
    ],
)
def test_what_is_doubtful_is_noted(
    tmp_path: Path, clips: SceneClips, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    content = write_vipseg(tmp_path, clips)
    change(content)
    (tmp_path / "clips.json").write_text(json.dumps(content))
    read = opened(tmp_path)
    for _ in range(2):  # noted once, however often frames are read
        for index in range(len(read)):
            read.ground_truths(index, ["panoptic"])
    (note,) = read.notes
    with pytest.raises(UserError, match=words):
        raise UserError(note)


def test_ids_that_change_from_frame_to_frame_are_noted(tmp_path: Path, clips: SceneClips) -> None:
    content = write_vipseg(tmp_path, clips)
    for index, frame in enumerate(content["annotations"][0]["annotations"]):
        path = tmp_path / "maps" / "clip0" / frame["file_name"]
        pixels = np.asarray(Image.open(path)).copy()
        pixels[..., 1] = index + 1
        Image.fromarray(pixels).save(path)
        for info in frame["segments_info"]:
            info["id"] += 256 * (index + 1)
    (tmp_path / "clips.json").write_text(json.dumps(content))
    read = opened(tmp_path)
    read.ground_truths(0, ["panoptic"])
    assert any("in clip 'clip0', no object has the same id in 2 of its 3 frames" in note for note in read.notes)


def lose_video(content: dict[str, Any]) -> None:
    content["videos"].pop()


def lose_image(content: dict[str, Any]) -> None:
    content["videos"][0]["images"].pop()


def twice(content: dict[str, Any]) -> None:
    content["annotations"].append(content["annotations"][0])


def other_size(content: dict[str, Any]) -> None:
    content["videos"][0]["images"][1]["height"] = 99


def lose_map(content: dict[str, Any]) -> None:
    content["annotations"][0]["annotations"][0]["file_name"] = "none.png"


def frame_twice(content: dict[str, Any]) -> None:
    frames = content["annotations"][0]["annotations"]
    frames.append(frames[0])


def no_frame_id(content: dict[str, Any]) -> None:
    content["annotations"][0]["annotations"][0]["image_id"] = []


def no_list(content: dict[str, Any]) -> None:
    content["annotations"][0]["annotations"] = {"a": 1}


def flat(content: dict[str, Any]) -> None:
    content["images"] = content.pop("videos")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lose_video, r"annotated videos are not listed in 'videos': 1 \(clip1\)"),
        (lose_image, r"video 'clip0' has annotations of frames that its 'images' do not list: 1 \(2\)"),
        (twice, "the video 'clip0' is annotated twice"),
        (other_size, "video 'clip0' has frames of several sizes"),
        (lose_map, r"lacks PNGs of .*clip0/none\.png"),
        (frame_twice, r"frame ids of video 'clip0' must be unique; given more than once: 1 \(0\)"),
        (no_frame_id, "the id of one frame of video 'clip0' is neither a number nor text"),
        (no_list, "needs a 'video_id' and a list 'annotations'"),
        (flat, "is not in VIPSeg's video panoptic format"),
    ],
)
def test_what_is_broken_is_refused(
    tmp_path: Path, clips: SceneClips, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    content = write_vipseg(tmp_path, clips)
    change(content)
    (tmp_path / "clips.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=words):
        opened(tmp_path)


def test_a_map_with_ids_that_are_not_listed_is_refused(tmp_path: Path, clips: SceneClips) -> None:
    content = write_vipseg(tmp_path, clips)
    infos(content, 1).pop()
    (tmp_path / "clips.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="ids that its 'segments_info' does not list"):
        opened(tmp_path).ground_truths(0, ["panoptic"])
