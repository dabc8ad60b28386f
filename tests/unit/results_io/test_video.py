"""Videos and JSON files of tracks: their content, and that they are complete however the run ends."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest

from mask2former.inference.tracking import join_frames
from mask2former.media.frames import open_frames
from mask2former.ops import masks as mask_ops
from mask2former.results_io.growing import FrameWriter
from mask2former.results_io.json import TrackDocument
from mask2former.results_io.video import VideoWriter
from mask2former.results_io.youtube_vis import TrackResults
from mask2former.structures import Categories
from mask2former.structures.tracks import TrackedFrame

CATEGORIES = Categories.from_names(["cat", "dog", "sky"], things=["cat", "dog"])
SECONDS = [0.0, 0.04, 0.05, 0.3, 0.5]


def clip(size_hw: tuple[int, int] = (33, 47)) -> list[TrackedFrame]:
    """Five frames: track 1 is in all of them, track 4 in the last two."""
    rng = np.random.default_rng(0)
    frames = []
    for index, seconds in enumerate(SECONDS):
        numbers = np.array([1, 4] if index > 2 else [1], dtype=np.int64)
        masks = np.zeros((len(numbers), *size_hw), dtype=bool)
        masks[0, 2:20, 3 + index : 20 + index] = True
        masks[1:, 22:30, 25:40] = True
        probabilities = np.array([[0.7, 0.1, 0.1], [0.1, 0.8, 0.0]], np.float32)[: len(numbers)]
        image = np.full((*size_hw, 3), 40 * index, np.uint8) + rng.integers(0, 9, (*size_hw, 3), dtype=np.uint8)
        labels, scores = np.arange(len(numbers)), np.array([0.7, 0.8])[: len(numbers)]
        frames.append(TrackedFrame(image, index, seconds, numbers, masks, labels, scores, probabilities, CATEGORIES))
    return frames


def write(frames: list[TrackedFrame], *writers: FrameWriter) -> None:
    """Give the frames to all writers, then raise KeyboardInterrupt."""
    with contextlib.ExitStack() as stack:
        for writer in writers:
            stack.enter_context(writer)
        for frame in frames:
            for writer in writers:
                writer.add(frame)
        raise KeyboardInterrupt


def test_a_video_has_the_frames_at_their_times(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "deep" / "clip.mp4", 12.5) as writer:
        for frame in clip():
            writer.add(frame)
    frames = open_frames(writer.path)
    seen = list(frames)
    assert [frame.seconds for frame in seen] == pytest.approx(SECONDS, abs=1e-4)
    assert seen[0].image.shape == (34, 48, 3)  # both sides even
    for mine, read in zip(clip(), seen, strict=True):
        drawn = np.asarray(mine.plot()).astype(int)
        assert np.abs(read.image[:33, :47] - drawn).mean() < 12
    assert [path.name for path in writer.path.parent.iterdir()] == ["clip.mp4"]
    with av.open(str(writer.path)) as container:
        assert container.streams.video[0].codec_context.name in ("h264", "mpeg4")


def test_without_h264_it_is_mpeg4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    with VideoWriter(tmp_path / "clip.mp4", 25) as writer:
        for frame in clip():
            writer.add(frame)
    with av.open(str(writer.path)) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
        assert len(list(container.decode(video=0))) == 5


def test_the_document_holds_frames_and_tracks(tmp_path: Path) -> None:
    with TrackDocument(tmp_path / "clip.json", {"model": "m", "settings": {"window": 1}, "rate": 25.0}) as document:
        for frame in clip():
            document.add(frame)
        document.notes.append("a note")
    assert (document.count, document.num_tracks) == (5, 2)
    found = json.loads(document.path.read_text())
    assert {key: found[key] for key in ("task", "model", "size", "num_frames", "complete", "notes")} == {
        "task": "instance",
        "model": "m",
        "size": [33, 47],
        "num_frames": 5,
        "complete": True,
        "notes": ["a note"],
    }
    assert found["frames"] == [frame.to_dict() for frame in clip()]
    first, second = found["tracks"]
    assert (first["track_id"], first["first_frame"], first["last_frame"], first["num_frames"]) == (1, 0, 4, 5)
    assert (second["track_id"], second["first_frame"], second["category_name"]) == (4, 3, "dog")


def test_results_are_those_of_the_joined_clip(tmp_path: Path) -> None:
    with TrackResults(tmp_path / "results.json", 17, CATEGORIES, things_only=True) as writer:
        for frame in clip():
            writer.add(frame)
    records = json.loads(writer.path.read_text())
    joined = join_frames(clip(), things_only=True, max_instances=2).to_ytvis(17)
    for record, expected in zip(records, joined, strict=True):
        assert record["video_id"] == expected["video_id"]
        assert record["category_id"] == expected["category_id"]
        assert record["score"] == pytest.approx(expected["score"])
        for mine, whole in zip(record["segmentations"], expected["segmentations"], strict=True):
            assert (mask_ops.encoded_extent(whole)[0] == 0) if mine is None else (mine == whole)
    assert records[1]["segmentations"][:3] == [None] * 3


def test_results_of_many_short_tracks_are_written_one_after_the_other(tmp_path: Path) -> None:
    num_tracks, num_frames = 100, 20_000
    with TrackResults(tmp_path / "results.json", 17, CATEGORIES, things_only=True) as writer:
        writer.count = num_frames
        writer._encodings = {number: {number: {}} for number in range(num_tracks)}
        writer._sums = dict.fromkeys(range(num_tracks), np.array([1.0, 0.5, 0.0]))
        tracemalloc.start()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6  # of 16 MB of lists
    assert len(json.loads(writer.path.read_text())) == num_tracks


def test_an_interruption_leaves_what_was_done(tmp_path: Path) -> None:
    document = TrackDocument(tmp_path / "clip.json", {})
    results = TrackResults(tmp_path / "results.json", 1, CATEGORIES, things_only=True)
    video = VideoWriter(tmp_path / "clip.mp4", 25)
    with pytest.raises(KeyboardInterrupt):
        write(clip()[:3], document, results, video)
    found = json.loads(document.path.read_text())
    assert (len(found["frames"]), found["num_frames"], found["complete"]) == (3, 3, False)
    assert [len(record["segmentations"]) for record in json.loads(results.path.read_text())] == [3]
    assert len(list(open_frames(video.path))) == 3
    assert len(list(tmp_path.iterdir())) == 3


def test_nothing_is_left_where_nothing_was_done(tmp_path: Path) -> None:
    (tmp_path / "clip.json").write_text("older")
    writers = TrackDocument(tmp_path / "clip.json", {}), VideoWriter(tmp_path / "clip.mp4", 25)
    with pytest.raises(KeyboardInterrupt):
        write([], *writers)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.json"]
    assert (tmp_path / "clip.json").read_text() == "older"


def test_links_are_followed_and_long_names_do(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    names = f"{'v' * 250}.mp4", f"{'v' * 250}.json"
    for name in names:
        (tmp_path / name).symlink_to(tmp_path / "elsewhere" / name)
    with pytest.raises(KeyboardInterrupt):
        write(clip()[:3], VideoWriter(tmp_path / names[0], 25), TrackDocument(tmp_path / names[1], {}))
    assert all((tmp_path / name).is_symlink() for name in names)
    assert len(list(open_frames(tmp_path / names[0]))) == 3
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == set(names)


def test_a_video_that_cannot_be_closed_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_text("older")
    writer = VideoWriter(tmp_path / "clip.mp4", 25)
    writer.__enter__()
    writer.add(clip()[0])
    writer._stream = _Broken()
    with pytest.raises(ZeroDivisionError):
        writer.__exit__(None, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    assert (tmp_path / "clip.mp4").read_text() == "older"


class _Broken:
    def encode(self) -> object:
        return 1 / 0
