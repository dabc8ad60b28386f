"""YouTube-VIS files: official, custom and broken ones, with frames and with videos."""

from __future__ import annotations

import json
import math
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former.config import ClipSampling, ClipsConfig, DataConfig, YouTubeVISConfig, parse
from mask2former.data.build import build_samples, build_training_set
from mask2former.data.datasets.youtube_vis import YouTubeVIS
from mask2former.data.loading.sampling import Draw
from mask2former.data.loading.training_set import TrainingSet
from mask2former.errors import UserError
from mask2former.ops import masks as mask_ops

HEIGHT, WIDTH = 24, 32
CATEGORIES = [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}]  # not by rising id


def mask(top: int, left: int) -> np.ndarray:
    plane = np.zeros((HEIGHT, WIDTH), dtype=bool)
    plane[top : top + 8, left : left + 10] = True
    return plane


def compressed(plane: np.ndarray) -> dict[str, Any]:
    return mask_ops.encode(plane[None])[0]


def uncompressed(plane: np.ndarray) -> dict[str, Any]:
    flat = plane.T.ravel()
    edges = np.flatnonzero(np.diff(flat.astype(int))) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": [0, *runs] if flat[0] else runs}


def content() -> dict[str, Any]:
    """A file with two videos, id 2 before id 1, which has a dog in both frames, a cat in one and a crowd of dogs."""
    dog = [mask(2, 3), mask(4, 5)]
    return {
        "videos": [
            {"id": 2, "width": WIDTH, "height": HEIGHT, "length": 1, "file_names": ["b/0.png"]},
            {"id": 1, "width": WIDTH, "height": HEIGHT, "length": 2, "file_names": ["a/0.png", "a/1.png"]},
        ],
        "annotations": [
            {
                "id": 1,
                "video_id": 1,
                "category_id": 9,
                "iscrowd": 0,
                "segmentations": [uncompressed(dog[0]), compressed(dog[1])],
                "bboxes": [[3, 2, 10, 8], [5, 4, 10, 8]],
                "areas": [80, 60],
            },
            {
                "id": 2,
                "video_id": 1,
                "category_id": 4,
                "iscrowd": 0,
                "segmentations": [compressed(mask(0, 0)), [[12, 12, 22, 12, 22, 20, 12, 20]]],
                "bboxes": [None, [12, 12, 10, 8]],
                "areas": [None, None],
            },
            {"id": 3, "video_id": 1, "category_id": 9, "iscrowd": 1, "segmentations": [None, compressed(mask(14, 0))]},
        ],
        "categories": CATEGORIES,
    }


def write(folder: Path, values: dict[str, Any]) -> tuple[Path, Path]:
    frames = folder / "frames"
    for name, grey in (("a/0.png", 10), ("a/1.png", 20), ("b/0.png", 30)):
        path = frames / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), grey, np.uint8)).save(path)
    file = folder / "clips.json"
    file.write_text(json.dumps(values))
    return file, frames


def test_videos_come_by_rising_id_with_their_tracks(tmp_path: Path) -> None:
    clips = YouTubeVIS([write(tmp_path, content())])
    assert [clips.image_id(index) for index in range(len(clips))] == [1, 2]
    assert [clips.clip_length(index) for index in range(len(clips))] == [2, 1]
    assert clips.num_objects.tolist() == [2, 0]
    assert clips.has_ground_truth
    sample = clips[0]
    assert sample.target is not None
    assert sample.image[:, 0, 0, 0].tolist() == [10, 20]
    assert sample.target.labels.tolist() == [1, 0]  # class indices follow the ids: 4, 9
    np.testing.assert_array_equal(sample.target.masks[0].numpy(), [mask(2, 3), mask(4, 5)])
    # A frame counts where both box and mask are given; polygons are masks too.
    np.testing.assert_array_equal(sample.target.masks[1].numpy(), [np.zeros_like(mask(0, 0)), mask(12, 12)])
    empty = clips[1].target
    assert empty is not None
    assert empty.masks.shape == (0, 1, HEIGHT, WIDTH)


def test_the_ground_truth_has_crowds_and_the_areas_of_the_file(tmp_path: Path) -> None:
    ground_truth = YouTubeVIS([write(tmp_path, content())]).ground_truths(0, ["instance"])["instance"]
    assert ground_truth.labels.tolist() == [1, 0, 1]
    assert ground_truth.iscrowd.tolist() == [False, False, True]
    assert ground_truth.areas is not None
    np.testing.assert_allclose(ground_truth.areas, [70, 80, 80])  # areas that the file lacks are computed
    np.testing.assert_array_equal(ground_truth.masks[2], [np.zeros_like(mask(0, 0)), mask(14, 0)])


def test_training_clips_are_made_of_it(tmp_path: Path) -> None:
    file, frames = write(tmp_path, content())
    entry = [{"annotations": str(file), "frames": str(frames)}]
    config = parse(
        DataConfig, {"dataset": {"name": "clips", "train": entry, "validation": entry, "labels_from": "any-frame"}}, ""
    )
    samples = build_training_set(config)
    assert isinstance(samples, TrainingSet)
    assert samples.wide().all()
    clip = samples[Draw(0, 3)]
    assert clip.target is not None
    assert clip.image[:, 0, 0, 0].tolist() == [10, 20]
    assert clip.target.labels.tolist() == [1, 0]
    still = samples[Draw(1, 3)]
    assert still.image[:, 0, 0, 0].tolist() == [30, 30]
    assert samples.categories.names == ("cat", "dog")


def test_crowds_are_ignored_in_the_frames_that_have_them(tmp_path: Path) -> None:
    samples = TrainingSet(
        YouTubeVIS([write(tmp_path, content())]), sampling=ClipSampling(labels_from="any-frame"), with_ignored=True
    )
    target, without = samples[Draw(0, 3)].target, samples[Draw(1, 3)].target
    assert target is not None
    assert target.ignored is not None
    expected = [np.zeros_like(mask(0, 0)), mask(14, 0)]
    np.testing.assert_array_equal(target.ignored, expected & ~target.masks.any(dim=0).numpy())
    assert target.ignored[1].any()
    packed = samples.packed(Draw(0, 3)).unpack().target
    assert packed is not None
    assert packed.ignored is not None
    assert torch.equal(packed.ignored, target.ignored)
    alone = samples.samples[0].target  # pyright: ignore[reportIndexIssue]  (a reader inside a data set of one's own)
    assert alone is not None
    assert alone.ignored is not None
    assert torch.equal(alone.ignored, target.ignored)
    assert without is not None
    assert without.ignored is None


def test_test_sets_have_no_annotations(tmp_path: Path) -> None:
    values = content()
    del values["annotations"]
    file, frames = write(tmp_path, values)
    clips = YouTubeVIS([(file, frames)])
    assert not clips.has_ground_truth
    assert [len(clips.images(index)) for index in range(2)] == [2, 1]
    entry = {"annotations": str(file), "frames": str(frames)}
    with pytest.raises(UserError, match="cannot be used for training"):
        build_training_set(DataConfig(dataset=ClipsConfig(train=(entry,), validation=(entry,))))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("in_archive", [False, True])
def test_the_official_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_archive: bool) -> None:
    values = content() | {"categories": [{"id": 4, "name": "x"}, {"id": 9, "name": "y"}]}
    file, frames = write(tmp_path, values)
    base = tmp_path / "sets" / "ytvis_2021"
    (base / "valid").mkdir(parents=True)
    file.rename(base / "valid.json")
    if in_archive:
        with zipfile.ZipFile(base / "valid.zip", "w") as archive:
            for path in frames.rglob("*.png"):
                archive.write(path, Path("valid/JPEGImages") / path.relative_to(frames))
        (base / "valid").rmdir()
    else:
        frames.rename(base / "valid" / "JPEGImages")
    monkeypatch.setenv("MASK2FORMER_DATA", str(tmp_path / "sets"))
    config = YouTubeVISConfig(year=2021)
    clips = build_samples(config, "validation")
    assert isinstance(clips, YouTubeVIS)
    assert len(clips) == 2
    assert clips.images(0)[1][0, 0, 0] == 20
    assert len(clips.categories) == 40  # those of the packaged table, whatever the file lists
    with pytest.raises(UserError, match=r"train\.json"):
        build_samples(config, "train")


def broken(change: str) -> dict[str, Any]:
    values = content()
    video, track = values["videos"][1], values["annotations"][0]
    if change == "frames":
        track["segmentations"] = track["segmentations"][:1]
    elif change == "size":
        track["segmentations"][0] = mask_ops.encode(np.ones((1, 5, 5), bool))[0]
    elif change == "mask":
        track["segmentations"][1] = {"size": [HEIGHT, WIDTH], "counts": "\x00?"}
    elif change == "video":
        track["video_id"] = 77
    elif change == "category":
        track["category_id"] = [1]
    elif change == "length":
        video["length"] = 7
    elif change == "height":
        video["height"] = "24"
    elif change == "names":
        del video["file_names"]
    elif change == "missing":
        video["file_names"][1] = "a/9.png"
    elif change == "twice":
        video["id"] = 2
    elif change == "no videos":
        values |= {"videos": [], "annotations": []}
    elif change == "coco":
        del values["videos"]
    elif change == "annotations":
        values["annotations"] = {}
    elif change == "corners":
        track["segmentations"][0] = [[1, 1, math.nan, 5, 9, 9]]
    elif change == "far":
        track["segmentations"][0] = [[1, 1, 1e12, 5, 9, 9]]
    elif change == "runs":
        track["segmentations"][0] = {"size": [HEIGHT, WIDTH], "counts": [math.inf]}
    elif change == "no id":
        video["id"] = None
    return values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("frames", "annotation 1 is broken: 'segmentations' must be a list with one entry for each of the 2 frames"),
        ("size", r"annotation 1 is broken: the mask of frame 0 is \(5, 5\)"),
        ("mask", "annotation 1 is broken"),
        ("video", r"the videos of annotations 1 \(1\) are not listed in 'videos'"),
        ("category", "annotation 1 needs a 'video_id' and a 'category_id'"),
        ("length", "video 1 has 2 files, but declares 7 frames"),
        ("height", "video 1 needs whole numbers"),
        ("names", "video 1 needs an 'id' and the list 'file_names'"),
        ("missing", r"lacks frames .* 1 \(a/9\.png\)"),
        ("twice", "video ids must be unique"),
        ("no videos", "no videos in"),
        ("coco", "YouTube-VIS"),
        ("annotations", "not a list of objects"),
        ("corners", "annotation 1 is broken: expected pixels .*, got nan among them"),  # not gigabytes of memory
        ("far", "annotation 1 is broken: expected pixels .*, got 1e[+]12 among them"),
        ("runs", "annotation 1 is broken: expected a run-length encoding"),
        ("no id", "needs an 'id' and the list 'file_names'"),
    ],
)
def test_faults_of_a_file_are_one_sentence(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        YouTubeVIS([write(tmp_path, broken(change))])


def test_the_folder_that_has_the_frames_is_named(tmp_path: Path) -> None:
    file, frames = write(tmp_path, content())
    with pytest.raises(UserError, match=r"lacks frames .*; its folder 'frames' has 'b/0\.png': give that one"):
        YouTubeVIS([(file, frames.parent)])
    with pytest.raises(UserError, match=r"lacks frames .*; check the folder"):
        YouTubeVIS([(file, frames / "a")])


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    file, frames = write(tmp_path, content())
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(frames / "a/1.png")
    clips = YouTubeVIS([(file, frames)])
    with pytest.raises(UserError, match=r"1\.png' is 9x9 .*of video 1 says 24x32"):
        clips.images(0)
    with pytest.raises(UserError, match="folder of frames"):
        YouTubeVIS([(file, tmp_path / "none")])


def test_files_of_one_set_must_agree(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first = write(tmp_path / "one", content())
    second = write(tmp_path / "two", content() | {"categories": [{"id": 4, "name": "cow"}, {"id": 9, "name": "dog"}]})
    with pytest.raises(UserError, match="different categories"):
        YouTubeVIS([first, second])
    assert len(YouTubeVIS([first, first])) == 4
    assert len(YouTubeVIS([first, first], filter_empty=True)) == 2  # those with tracks


def noted(tmp_path: Path, change: Callable[[list[dict[str, Any]]], None]) -> tuple[YouTubeVIS, str]:
    values = content()
    change(values["annotations"])
    clips = YouTubeVIS([write(tmp_path, values)])
    return clips, "; ".join(note.partition("': ")[2] for note in clips.notes)


@pytest.mark.parametrize("area", [math.nan, "60", -60, 1e12, True, 10**400])
def test_areas_that_cannot_be_are_counted(tmp_path: Path, area: Any) -> None:
    clips, notes = noted(tmp_path, lambda entries: entries[0]["areas"].__setitem__(1, area))
    assert "pixels are counted instead: annotations 1 (1 in frame 1)" in notes
    areas = clips.ground_truths(0, ["instance"])["instance"].areas
    assert areas is not None
    assert areas[0] == 80


@pytest.mark.parametrize(
    ("area", "words", "used"),
    [
        (104, "", 104),  # of a mask of 80 pixels that fills its box
        (105, "'area' differs from the area of the mask; it still decides what counts as small", 105),
        (24, "", 24),
        (23, "'area' differs from the area of the mask", 23),
        (HEIGHT * WIDTH, "'area' differs from the area of the mask", HEIGHT * WIDTH),
        (HEIGHT * WIDTH + 1, "'area' is not a positive number that fits into the image", 80),
        (0, "'area' is not a positive number that fits into the image", 80),
    ],
)
def test_areas_that_differ_from_their_mask_are_noted(tmp_path: Path, area: int, words: str, used: int) -> None:
    clips, notes = noted(tmp_path, lambda entries: entries[0]["areas"].__setitem__(1, area))
    assert words in notes
    assert notes.count("'area'") == bool(words)
    assert ("annotations 1 (1 in frame 1)" in notes) == bool(words)
    areas = clips.ground_truths(0, ["instance"])["instance"].areas
    assert areas is not None
    assert areas[0] == (80 + used) / 2  # the mean of the frames


def test_areas_of_polygons_count_what_is_outside_of_the_frame(tmp_path: Path) -> None:
    def change(entries: list[dict[str, Any]]) -> None:
        entries[1]["segmentations"][1] = [[-40, 12, 60, 12, 60, 20, -40, 20]]
        entries[1].update(bboxes=[None, [-40, 12, 100, 8]], areas=[None, 800])

    clips, notes = noted(tmp_path, change)  # of more pixels than a frame has
    assert "'area'" not in notes
    areas = clips.ground_truths(0, ["instance"])["instance"].areas
    assert areas is not None
    assert areas[1] == 800


def test_masks_and_boxes_that_do_not_go_together_are_noted(tmp_path: Path) -> None:
    _, notes = noted(tmp_path, lambda entries: entries[0]["bboxes"].__setitem__(1, [20, 14, 10, 8]))
    assert notes.count("do not match their 'bbox' (IoU below 0.5) and are used as they are: annotations 1 (1 in") == 1
    clips, notes = noted(tmp_path, lambda entries: entries[0]["segmentations"].__setitem__(1, None))
    assert "left out boxes without a mask: annotations 1 (1 in frame 1)" in notes
    assert clips.num_objects.tolist() == [2, 0]
    assert "left out masks without a box: annotations 1 (2 in frame 0)" in notes  # as published


def test_tracks_without_masks_and_frames_that_repeat_are_noted(tmp_path: Path) -> None:
    def change(entries: list[dict[str, Any]]) -> None:
        entries[1].update(segmentations=[None, None], bboxes=[None, None])
        entries[2]["segmentations"][1] = compressed(np.zeros_like(mask(0, 0)))

    _, notes = noted(tmp_path, change)
    assert "tracks without any mask: annotations 1 (2)" in notes
    bare = content()
    for entry in bare["annotations"]:
        entry.update(segmentations=[None, None], bboxes=[None, None])
    with pytest.raises(UserError, match=r"^no videos with objects in .*tracks without any mask"):
        YouTubeVIS([write(tmp_path, bare)], filter_empty=True)
    assert "masks without pixels, where the object counts as not visible: annotations 1 (3 in frame 1)" in notes
    values = content()
    values["videos"][1]["file_names"][1] = "a/0.png"
    assert any("listed more than once: 1 (a/0.png)" in one for one in YouTubeVIS([write(tmp_path, values)]).notes)
    del values["annotations"]
    assert any("has no 'annotations'" in one for one in YouTubeVIS([write(tmp_path, values)]).notes)


def test_flags_pairs_and_ids_are_read_or_refused(tmp_path: Path) -> None:
    clips, notes = noted(tmp_path, lambda entries: entries[2].update(iscrowd="0"))
    assert clips.num_objects.tolist() == [3, 0]
    pairs = [[12, 12], [22, 12], [22, 20], [12, 20]]
    clips, notes = noted(tmp_path, lambda entries: entries[1]["segmentations"].__setitem__(1, pairs))
    assert "lists of pairs [x, y] instead of x, y, x, y, ...: annotations 1 (2 in frame 1)" in notes
    np.testing.assert_array_equal(clips.ground_truths(0, ["instance"])["instance"].masks[1, 1], mask(12, 12))
    for key, value, message in (
        ("iscrowd", "no", "'iscrowd' is 'no'"),
        ("video_id", True, "needs a 'video_id' and a 'category_id', .* got True"),
        ("id", 2, r"annotation ids must be unique; given more than once: 1 \(2\)"),
    ):
        with pytest.raises(UserError, match=message):
            noted(tmp_path, lambda entries, key=key, value=value: entries[0].update({key: value}))


def test_many_frames_outside_the_folder_take_time_in_proportion_to_their_number(tmp_path: Path) -> None:
    (tmp_path / "outside.png").touch()
    (tmp_path / "frames").mkdir()
    count = 20_000
    video = {"id": 1, "height": 9, "width": 9, "file_names": ["../outside.png"] * count, "length": count}
    file = tmp_path / "clips.json"
    file.write_text(json.dumps({"videos": [video], "categories": [{"id": 1, "name": "cat"}], "annotations": []}))
    begin = time.process_time()
    with pytest.raises(UserError, match=r"names files that are not in its folder .*: 20000 \("):
        YouTubeVIS([(file, tmp_path / "frames")])
    assert time.process_time() - begin < 4
