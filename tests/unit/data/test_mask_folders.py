"""Clips with one id map per frame."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2former.config import ClipFolders, DataConfig, MaskFoldersConfig
from mask2former.data.build import build_training_set
from mask2former.data.datasets.mask_folders import MaskFolders
from mask2former.data.loading.sampling import Draw
from mask2former.errors import UserError


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """Clip "a" of three frames with object 1 in all and object 7 in the last one; clip "b" of one frame."""
    for clip, count in (("a", 3), ("b", 1)):
        for frame in range(count):
            image = Image.fromarray(np.full((20, 30, 3), 10 * frame, np.uint8))
            ids = np.zeros((20, 30), np.uint8)
            ids[2:8, 2:8] = 1
            if frame == 2:
                ids[10:18, 10:25] = 7
            palette = Image.fromarray(ids, mode=None)
            palette.putpalette([0, 0, 0, 128, 0, 0] * 4 + [0, 64, 128] * 8)
            for folder, image_file, ending in (("images", image, "jpg"), ("masks", palette, "png")):
                (tmp_path / folder / clip).mkdir(parents=True, exist_ok=True)
                image_file.save(tmp_path / folder / clip / f"{frame:05d}.{ending}")
    (tmp_path / "train.txt").write_text("b\n")
    return tmp_path


def test_every_value_is_one_object_of_the_whole_clip(davis: Path) -> None:
    clips = MaskFolders(davis / "images", davis / "masks")
    assert [clips.image_id(index) for index in range(len(clips))] == ["a", "b"]
    assert [clips.clip_length(index) for index in range(2)] == [3, 1]
    assert clips.clip_size(0) == (20, 30)
    sample = clips[0]
    assert sample.target is not None
    assert sample.target.labels.tolist() == [0, 0]
    assert sample.target.masks.flatten(2).any(2).tolist() == [[True] * 3, [False, False, True]]
    ground_truth = clips.ground_truths(0, ["instance"])["instance"]
    np.testing.assert_array_equal(ground_truth.masks, sample.target.masks.numpy())
    some = clips.annotated(0, [0, 1])
    assert some.annotated.tolist() == [[True, True]]  # the other object is in none of these


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "lost+found"])
def test_folders_of_other_programs_are_no_clips(davis: Path, name: str) -> None:
    for folder in ("images", "masks"):
        (davis / folder / name).mkdir()
        clips = MaskFolders(davis / "images", davis / "masks")
        assert [clips.image_id(index) for index in range(len(clips))] == ["a", "b"]
        assert not clips.notes


def test_huge_ids_take_no_memory(davis: Path) -> None:
    ids = np.zeros((20, 30), np.int32)
    ids[3, 4] = 2**31 - 1
    Image.fromarray(ids).save(davis / "masks" / "b" / "00000.png", format="TIFF")  # PNG has 16 bits at most
    tracemalloc.start()
    try:
        [frame] = MaskFolders(davis / "images", davis / "masks").annotated(1, [0]).frames
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()
    assert frame.ids is not None
    assert np.argwhere(frame.ids == 1).tolist() == [[3, 4]]


def test_training_clips_are_made_of_it(davis: Path) -> None:
    folders = ClipFolders(images=str(davis / "images"), masks=str(davis / "masks"))
    config = MaskFoldersConfig(train=folders, validation=folders)
    samples = build_training_set(DataConfig(dataset=config))
    clip = samples[Draw(0, 1)]
    assert clip.target is not None
    assert clip.image.shape == (2, 3, 20, 30)
    assert set(clip.target.labels.tolist()) <= {0, 1}  # 1 is "no object"
    assert samples.categories.names == ("object",)


def test_a_list_has_one_clip_in_a_line_and_repeated_ones_are_read_once(davis: Path) -> None:
    (davis / "train.txt").write_text("b\na\nb\n")
    clips = MaskFolders(davis / "images", davis / "masks", davis / "train.txt")
    assert len(clips) == 2
    assert clips.notes[0] == f"clips of '{davis / 'train.txt'}' are listed more than once, but read once: 1 (b)"
    (davis / "train.txt").write_text("a b\n")  # one clip, not two
    with pytest.raises(UserError, match=r"there is no folder '.*a b' for the clip of this name"):
        MaskFolders(davis / "images", davis / "masks", davis / "train.txt")


def test_a_list_of_clips_and_images_without_maps(davis: Path) -> None:
    clips = MaskFolders(davis / "images", davis / "masks", davis / "train.txt")
    assert [clips.image_id(index) for index in range(len(clips))] == ["b"]
    (davis / "masks" / "a" / "00001.png").unlink()
    clips = MaskFolders(davis / "images", davis / "masks")
    assert clips.clip_length(0) == 2
    assert clips.notes == ["clip 'a': left out 1 of 3 images, which have no id map"]


def test_faults_are_one_sentence(davis: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        MaskFolders(davis / "images", davis / "nowhere")
    with pytest.raises(UserError, match="contains no clips"):
        MaskFolders(davis / "images", davis / "masks" / "a")
    (davis / "images" / "a" / "00002.jpg").unlink()
    with pytest.raises(UserError, match=r"no image for the id map '00002\.png'"):
        MaskFolders(davis / "images", davis / "masks")
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(davis / "images" / "b" / "00000.jpg")
    clips = MaskFolders(davis / "images", davis / "masks", davis / "train.txt")
    with pytest.raises(UserError, match=r"is 5x5 .*its id map is 20x30"):
        clips.annotated(0, [0])


def test_what_folders_lack_or_have_twice_is_said(davis: Path) -> None:
    (davis / "images" / "c").mkdir()
    clips = MaskFolders(davis / "images", davis / "masks")
    assert any("without a folder of id maps: 1 (c)" in note for note in clips.notes)
    assert MaskFolders(davis / "images", davis / "masks", davis / "train.txt").notes == []  # the list selects clips
    Image.new("RGB", (30, 20)).save(davis / "images" / "a" / "00001.png")
    with pytest.raises(UserError, match=r"two files for one frame: '00001\.png' and '00001\.jpg'|'00001\.jpg' and"):
        MaskFolders(davis / "images", davis / "masks")


def test_frames_come_by_number(davis: Path) -> None:
    for folder, ending in (("images", "jpg"), ("masks", "png")):
        for old, new in (("00000", "9"), ("00001", "10"), ("00002", "11")):
            (davis / folder / "a" / f"{old}.{ending}").rename(davis / folder / "a" / f"{new}.{ending}")
    clips = MaskFolders(davis / "images", davis / "masks")
    assert [int(image[0, 0, 0]) // 9 for image in clips.images(0)] == [0, 1, 2]
