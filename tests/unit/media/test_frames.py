"""Frames in temporal order from videos, folders and iterators: times, cuts, damage."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from mask2former.errors import UserError
from mask2former.media.frames import open_frames
from mask2former.media.image_files import ImagePage, all_pages
from mask2former.media.images import read_image


def write_video(path: Path, ticks: list[int], *, options: dict[str, str] | None = None, noisy: bool = False) -> Path:
    """Write a video whose frame k has the grey 5 k and the time ``ticks[k]`` / 100 s; every tenth is a key frame."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "10", "crf": "10", "bf": "2"})
        stream.codec_context.time_base = Fraction(1, 100)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index, tick in enumerate(ticks):
            image = np.full((48, 64, 3), 5 * index, np.uint8)
            if noisy:
                image = image + rng.integers(0, 30, image.shape, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


STEADY = list(range(0, 160, 4))  # 40 frames at 25 per second


def test_a_video_gives_all_frames_with_their_times(tmp_path: Path) -> None:
    frames = open_frames(write_video(tmp_path / "clip.mp4", STEADY))
    assert (frames.rate, frames.num_frames) == (25.0, 40)
    seen = list(frames)
    assert [frame.index for frame in seen] == list(range(40))
    assert [frame.seconds for frame in seen] == pytest.approx([tick / 100 for tick in STEADY])
    assert seen[3].image.shape == (48, 64, 3)
    assert frames.notes == []


@pytest.mark.parametrize("name", ["stack.tif", "stack.gif"])
def test_the_pages_of_a_stack_are_frames(tmp_path: Path, name: str) -> None:
    first, *others = (Image.new("L", (64, 48), 40 * index) for index in range(5))
    first.save(tmp_path / name, save_all=True, append_images=others)
    frames = open_frames(tmp_path / name, start=0.5, end=2.0, rate=2)
    assert frames.num_frames == 3
    assert [(frame.seconds, int(frame.image[0, 0, 0])) for frame in frames] == [(0.5, 40), (1.0, 80), (1.5, 120)]
    assert frames.notes == []


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_an_animation_has_the_times_that_it_states(tmp_path: Path, name: str) -> None:
    first, *others = (Image.new("L", (64, 48), 40 * index) for index in range(5))
    shown = [100, 200, 50, 150, 500]  # milliseconds
    first.save(tmp_path / name, save_all=True, append_images=others, duration=shown)
    frames = open_frames(tmp_path / name)
    assert (frames.num_frames, frames.rate) == (5, pytest.approx(5))
    assert [frame.seconds for frame in frames] == pytest.approx([0, 0.1, 0.3, 0.35, 0.5])
    part = open_frames(tmp_path / name, start=0.1, end=0.5)
    assert part.num_frames == 3
    assert [(frame.index, frame.seconds) for frame in part] == [
        (k, pytest.approx([0.1, 0.3, 0.35][k])) for k in range(3)
    ]
    assert [frame.seconds for frame in open_frames(tmp_path / name, rate=10)] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


PAGES: dict[str, tuple[str | None, dict[str, Any]]] = {
    "palettes.gif": ("P", {"duration": 40, "disposal": 2}),
    "colors.gif": ("RGB", {"duration": 40}),
    "alpha.webp": ("RGBA", {"duration": 40, "lossless": True}),
    "alpha.png": ("RGBA", {"duration": 40, "disposal": 1, "blend": 1}),
    "plain.tif": ("RGB", {}),
    "packed.tif": ("L", {"compression": "tiff_lzw"}),
    "turned.tif": ("RGB", {"tiffinfo": {274: 6}}),
    "mixed.tif": (None, {}),
}


@pytest.mark.parametrize("name", PAGES)
def test_pages_read_one_after_the_other_are_those_read_on_their_own(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    mode, settings = PAGES[name]
    modes = ("RGB", "L", "P", "1", "RGBA", "CMYK", "P", "LA") if mode is None else (mode,) * 8
    images = []
    for each in modes:
        pixels = np.repeat(np.repeat(rng.integers(0, 255, (6, 8, 4), dtype=np.uint8), 6, axis=0), 6, axis=1)
        images.append(Image.fromarray(pixels).convert(each))
    images[0].save(path := tmp_path / name, save_all=True, append_images=images[1:], **settings)
    alone = [read_image(ImagePage(path, number)) for number in range(1, len(images) + 1)]
    for order in (range(8), (0, 3, 2, 2, 7, 4, 5)):
        pages = all_pages(path, 8)
        for index in order:
            np.testing.assert_array_equal(read_image(pages[index]), alone[index])


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_a_file_is_not_opened_for_each_of_its_frames(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = (Image.new("L", (8, 8), 200 * (index % 2)) for index in range(60))
    settings: dict[str, Any] = {} if name == "a.tif" else {"duration": 40}
    first.save(tmp_path / name, save_all=True, append_images=others, **settings)
    opened, open_image = [], Image.open

    def counting(*args: Any, **kwargs: Any) -> Any:
        opened.append(args)
        return open_image(*args, **kwargs)

    monkeypatch.setattr(Image, "open", counting)
    assert len(list(open_frames(tmp_path / name))) == 60
    assert len(opened) < 10  # each frame would be sought from the first, in quadratic time


@pytest.mark.parametrize("name", ["a.gif", "a.tif"])
def test_a_forked_process_opens_the_file_for_itself(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is open at the fork has one position for both processes, which would read what the other sought."""
    rng = np.random.default_rng(0)
    first, *others = (Image.fromarray(rng.integers(0, 255, (20, 20), dtype=np.uint8)) for _ in range(5))
    settings: dict[str, Any] = {} if name == "a.tif" else {"duration": 40}
    first.save(tmp_path / name, save_all=True, append_images=others, **settings)
    alone = [read_image(ImagePage(tmp_path / name, number)) for number in range(1, 6)]
    pages = all_pages(tmp_path / name, 5)
    read_image(pages[0])
    opened, open_image = [], Image.open
    monkeypatch.setattr(Image, "open", lambda *args, **kwargs: opened.append(args) or open_image(*args, **kwargs))
    child = os.fork()
    if child == 0:  # pytest has no part in it, whatever happens
        is_right = False
        try:
            is_right = all((read_image(pages[index]) == alone[index]).all() for index in (1, 2, 3)) and bool(opened)
        finally:
            os._exit(0 if is_right else 1)
    assert os.waitpid(child, 0)[1] == 0
    for index in range(1, 5):
        np.testing.assert_array_equal(read_image(pages[index]), alone[index])
    assert not opened


def test_an_animation_that_is_cut_short_is_read_up_to_there(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, *others = (Image.fromarray(rng.integers(0, 255, (48, 64), dtype=np.uint8)) for _ in range(5))
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=200)
    content = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(content[: int(0.7 * len(content))])
    seen = []
    with pytest.raises(UserError, match="is damaged or cut short"):
        seen.extend(frame.seconds for frame in open_frames(tmp_path / "a.gif"))
    assert seen == pytest.approx([0, 0.2, 0.4])


def test_a_rate_is_refused_where_the_source_has_its_own_times(tmp_path: Path) -> None:
    video = write_video(tmp_path / "clip.mp4", STEADY)
    with pytest.raises(UserError, match=r"rate applies to folders, .*the video '.*clip\.mp4' has its own times"):
        open_frames(video, rate=25)
    with pytest.raises(UserError, match="camera 0 has its own times, so leave it out"):
        open_frames(0, rate=25)


def test_a_time_after_the_last_frame_is_told_from_a_source_without_frames(tmp_path: Path) -> None:
    for index in range(3):
        Image.new("RGB", (64, 48)).save(tmp_path / f"{index}.png")
    with pytest.raises(UserError, match=r"yields no frames; there are none in the requested time \(at 30 per second\)"):
        list(open_frames(tmp_path, start=9.0))
    with pytest.raises(UserError, match=r"has no frames; expected at least one"):
        list(open_frames([]))


def test_hidden_files_are_no_frames(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "0.png")
    (tmp_path / "._0.png").write_bytes(b"\0\5\x16\7")  # as macOS leaves on other file systems
    assert len(list(open_frames(tmp_path))) == 1


def test_a_variable_rate_keeps_its_times(tmp_path: Path) -> None:
    ticks = [0, 4, 5, 30, 31, 90]
    frames = list(open_frames(write_video(tmp_path / "clip.mp4", ticks)))
    assert [frame.seconds for frame in frames] == pytest.approx([tick / 100 for tick in ticks])


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.62, None), (0.62, 0.9), (0.8, 0.81), (0.0, 99.0)])
def test_only_what_lies_between_the_times_is_read(tmp_path: Path, start: float, end: float | None) -> None:
    video = write_video(tmp_path / "clip.mp4", STEADY)
    expected = [k for k, tick in enumerate(STEADY) if start <= tick / 100 and (end is None or tick / 100 < end)]
    frames = open_frames(video, start=start, end=end)
    seen = list(frames)
    assert [round(float(frame.image.mean()) / 5) for frame in seen] == expected
    assert [frame.index for frame in seen] == list(range(len(expected)))
    assert [frame.seconds for frame in seen] == pytest.approx([STEADY[k] / 100 for k in expected])
    assert frames.notes == []
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(40):
        Image.new("RGB", (64, 48), (5 * index,) * 3).save(folder / f"{index}.png")
    assert [round(float(frame.image.mean()) / 5) for frame in open_frames(folder, rate=25, start=start, end=end)] == (
        expected
    )


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_broken_tail_gives_the_frames_there_are_and_a_note(tmp_path: Path, share: float) -> None:
    whole = write_video(tmp_path / "whole.mp4", STEADY, options={"movflags": "faststart"}, noisy=True)
    content = whole.read_bytes()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(content[: int(share * len(content))])
    frames = open_frames(broken)
    seen = list(frames)
    assert 5 < len(seen) < 40
    for one, other in zip(seen, open_frames(whole), strict=False):
        assert one.seconds == other.seconds
    assert any("broken.mp4' is damaged after" in note for note in frames.notes)


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for index in (10, 9, 2, 1):
        Image.new("RGB", (8, 8), (index,) * 3).save(tmp_path / f"frame{index}.png")
    (tmp_path / "notes.txt").write_text("no image")
    frames = open_frames(tmp_path)
    assert (frames.rate, frames.num_frames) == (30.0, 4)
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [1, 2, 9, 10]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("a_0.png a_5.png a_10.png a_15.png", ""),
        ("1403636579.png 1403636641.png 1403636702.png 1403636777.png", ""),  # times
        ("a1.png a2.png b9.png b10.png", ""),
        ("8.png 9.png 10.png 13.png 14.png", "have gaps, .* ('10.png' to '13.png')"),
        ("1000.png 1033.png 1067.png 1100.png 1133.png", ""),  # times in milliseconds
        ("a1.jpg a1.png a2.png a3.png", "more than once; .* ('a1.jpg' to 'a1.png')"),
    ],
)
def test_numbers_of_frames_that_are_missing_or_doubled_are_noted(tmp_path: Path, names: str, words: str) -> None:
    for name in names.split():
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    frames = open_frames(tmp_path)
    assert len(list(frames)) == len(names.split())
    assert len(frames.notes) == bool(words)
    for note in frames.notes:
        assert all(part in note for part in words.split(" .* "))


def test_a_frame_of_another_size_is_named(tmp_path: Path) -> None:
    for index, size in ((1, (8, 6)), (2, (8, 6)), (10, (6, 8))):
        Image.new("RGB", size).save(tmp_path / f"frame{index}.png")
    with pytest.raises(UserError, match=r"frame 2 of the folder '.*' \('.*frame10\.png'\) is 8x6 but the first is 6x8"):
        list(open_frames(tmp_path))
    pages = [Image.new("L", (8, 6)), Image.new("L", (6, 8))]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match=r"frame 1 of the pages of '.*' \('.*stack\.tif \(page 2\)'\) is 8x6"):
        list(open_frames(tmp_path / "stack.tif"))


def test_an_iterator_is_read_one_by_one() -> None:
    taken = []

    def source() -> Iterator[np.ndarray]:
        for index in range(1000):
            taken.append(index)
            yield np.zeros((8, 8, 3), np.uint8)

    frames = iter(open_frames(source(), rate=10))
    assert [next(frames).seconds for _ in range(3)] == pytest.approx([0, 0.1, 0.2])
    assert taken == [0, 1, 2]
    assert len(list(open_frames(np.zeros((5, 8, 8, 3), np.uint8)))) == 5


def test_what_is_no_clip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("this is not a video at all, only some words")
    (tmp_path / "empty").mkdir()
    (tmp_path / "clips" / "one").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for source, message in (
        (tmp_path / "none.mp4", "there is no video or folder"),
        (tmp_path / "text.mp4", "cannot be opened"),
        (tmp_path / "empty", "contains no images; expected the frames"),
        (tmp_path / "clips", r"contains no images; it contains folders: give one of them \('one'\)"),
        (tmp_path / "a.png", "is an image; expected a video, a stack or a folder"),
        (-1, "camera numbers start at 0"),
        (np.zeros((8, 8, 3), np.uint8), r"got one image \(ndarray\)"),
        (Image.new("RGB", (8, 8)), r"got one image \(Image\)"),
    ):
        with pytest.raises(UserError, match=message):
            open_frames(source)  # pyright: ignore[reportArgumentType]
    video = write_video(tmp_path / "clip.mp4", STEADY)
    with pytest.raises(UserError, match="yields no frames; there are none in the requested time"):
        list(open_frames(video, start=50))
    with pytest.raises(UserError, match="expected at least one"):
        list(open_frames([], end=5.0))
    with pytest.raises(UserError, match="0 <= start < end"):
        open_frames(video, start=2, end=1)
    with pytest.raises(UserError, match="rate must be above 0"):
        open_frames(tmp_path, rate=0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="cameras are devices elsewhere")
def test_a_camera_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="camera 93 cannot be opened"):
        open_frames(93)
