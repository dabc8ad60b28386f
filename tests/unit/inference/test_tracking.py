"""Clips of any length: windows, results as they become final, and the published result if one window is enough."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mask2former.config import InferenceConfig
from mask2former.data.datasets.scenes import SceneClips
from mask2former.errors import UserError
from mask2former.inference.predictor import Predictor
from mask2former.inference.tracking import join_frames
from mask2former.models.mask2former import Mask2Former

ROOT = Path(__file__).parents[3]


@pytest.fixture
def predictor(tiny_model: Mask2Former) -> Predictor:
    return Predictor(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (11, 50, 84, 3), dtype=np.uint8))


@pytest.mark.parametrize("most", [10, 25, 40])
@pytest.mark.parametrize("things_only", [True, False])
def test_one_window_gives_the_published_result(
    tiny_model: Mask2Former, frames: list[np.ndarray], most: int, things_only: bool
) -> None:
    settings = InferenceConfig(
        short_edge=64, long_edge=96, things_only=things_only, max_instances=most, instance_threshold=0
    )
    predictor = Predictor(tiny_model, device="cpu", settings=settings)
    results = list(predictor.track(frames[:4], window=4, threshold=0.0))
    joined = join_frames(results, things_only=things_only, max_instances=most)
    expected = predictor.clip(frames[:4])
    assert len(expected) > 0 or (things_only and most == 10)  # stuff has the best scores here
    assert joined.to_dict() == expected.to_dict()


def test_tracks_are_those_above_the_threshold(predictor: Predictor, frames: list[np.ndarray]) -> None:
    everything = predictor.clip(frames[:3], max_instances=40, things_first=False)
    middle = np.float32(np.sort(everything.scores)[len(everything) // 2])
    threshold = float(np.nextafter(middle, np.float32(1)))  # between two scores
    results = list(predictor.track(frames[:3], window=3, threshold=threshold))
    joined = join_frames(results, things_only=True, max_instances=40)
    assert joined.at_least(threshold).to_dict() == everything.at_least(threshold).to_dict()
    assert 0 < len(results[0]) < len(next(iter(predictor.track(frames[:3], window=3, threshold=0.0))))


@pytest.mark.parametrize("task", ["instance", "panoptic"])
@pytest.mark.parametrize(("window", "stride"), [(1, 1), (4, 3), (4, 1), (5, 5), (20, 3)])
def test_every_frame_comes_once_and_in_order(
    predictor: Predictor, frames: list[np.ndarray], task: str, window: int, stride: int
) -> None:
    results = list(predictor.track(frames, task, window=window, stride=stride, rate=10.0, threshold=0.3))  # pyright: ignore[reportArgumentType]
    assert [frame.index for frame in results] == list(range(11))
    assert [frame.seconds for frame in results] == pytest.approx([index / 10 for index in range(11)])
    assert all(frame.task == task for frame in results)
    assert all((frame.image == image).all() for frame, image in zip(results, frames, strict=True))


def test_results_come_as_soon_as_they_are_final(predictor: Predictor, frames: list[np.ndarray]) -> None:
    events: list[str] = []

    def network(clips: Sequence[torch.Tensor]) -> Sequence[Any]:
        events.append(f"window of {len(clips[0])}")
        return predictor.network(clips)

    watched = Predictor(network, "cpu", settings=predictor.settings, categories=predictor.categories)

    def source() -> Iterator[np.ndarray]:
        for index, frame in enumerate(frames):
            events.append(f"read {index}")
            yield frame

    for frame in watched.track(source(), window=4, stride=3):
        events.append(f"final {frame.index}")
    # The first window waits for the next frame, to know whether the clip ends. The last one is moved back to be full.
    expected = [*(f"read {n}" for n in range(4)), "window of 4", "read 4", *(f"final {n}" for n in range(3))]
    expected += ["read 5", "read 6", "window of 4", *(f"final {n}" for n in range(3, 6))]
    expected += ["read 7", "read 8", "read 9", "window of 4", *(f"final {n}" for n in range(6, 9))]
    expected += ["read 10", "window of 4", "final 9", "final 10"]
    assert events == expected


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (3, 3), (4, 2)])
def test_a_camera_may_wait_until_results_are_seen(
    predictor: Predictor, frames: list[np.ndarray], window: int, stride: int
) -> None:
    finished = 0

    def camera() -> Iterator[np.ndarray]:
        for index, frame in enumerate(frames):
            if index > window:  # what the windows before have made final
                assert finished >= (index - window) // stride * stride + stride
            yield frame

    for number, frame in enumerate(predictor.track(camera(), window=window, stride=stride), start=1):
        assert frame.index == number - 1
        finished = number
    assert finished == len(frames)


def test_windows_of_one_frame_are_the_results_of_images(predictor: Predictor, frames: list[np.ndarray]) -> None:
    for frame, image in zip(predictor.track(frames[:3], "panoptic", window=1), frames, strict=False):
        alone = predictor(image, "panoptic")
        assert frame.panoptic is not None
        pairs = set(zip(alone.ids.ravel().tolist(), frame.panoptic.ids.ravel().tolist(), strict=True))
        assert len(pairs) == len({old for old, _ in pairs}) == len({new for _, new in pairs})  # only renumbered
        assert [segment.area for segment in frame.panoptic.segments] == [segment.area for segment in alone.segments]


def test_panoptic_ids_are_classes_and_tracks(predictor: Predictor, frames: list[np.ndarray]) -> None:
    num_classes = len(predictor.categories)
    for frame in predictor.track(frames, "panoptic", window=3):
        assert frame.panoptic is not None
        for segment in frame.panoptic.segments:
            if not segment.is_thing:
                assert segment.id == segment.label + 1
                continue
            row = frame.track_ids.tolist().index(segment.id - num_classes)
            assert (frame.masks[row] == (frame.panoptic.ids == segment.id)).all()
            assert frame.labels[row] == segment.label
            assert predictor.categories[segment.label].is_thing


def test_a_packaged_model_follows_things_through_a_scene() -> None:
    """Of the things found in more than half of a clip's frames, two thirds, and at least two, have one number only."""
    predictor = Predictor.from_pretrained("scenes-tiny", device="cpu")
    clips = SceneClips(96, 12, seed=2_500_001, length=1)
    ground_truth = clips.ground_truths(0, ["instance"])["instance"]
    results = list(predictor.track(clips.images(0), "instance", short_edge=0))
    numbers_of: list[list[int]] = []
    for masks in ground_truth.masks:
        numbers = [
            int(frame.track_ids[row])
            for index, frame in enumerate(results)
            for row, mask in enumerate(frame.masks)
            if (mask & masks[index]).sum() > 0.5 * (mask | masks[index]).sum()
        ]
        numbers_of += [numbers] if len(numbers) > 6 else []
    kept = sum(len(set(numbers)) == 1 for numbers in numbers_of)
    assert kept >= max(2, len(numbers_of) * 2 / 3)


def test_wrong_requests_are_refused_at_once(
    predictor: Predictor, frames: list[np.ndarray], tiny_model: Mask2Former
) -> None:
    with pytest.raises(UserError, match="'semantic' has no tracks; expected panoptic or instance"):
        predictor.track(frames, "semantic")
    with pytest.raises(UserError, match="no_such"):
        predictor.track(frames, no_such=1)
    with pytest.raises(UserError, match=r"tracking settings: unknown key 'windows'; did you mean window\?"):
        predictor.track(frames, windows=3)
    with pytest.raises(UserError, match="stride 2 must not be above window 1"):
        predictor.track(frames, stride=2, window=1)
    with pytest.raises(UserError, match="window"):
        predictor.track(frames, window=0)
    whole = r"applies to images and to clips as a whole \(`Predictor.clip`\); "
    with pytest.raises(
        UserError, match=f"max_instances {whole}tracks are limited by their score: raise score_threshold"
    ):
        predictor.track(frames, max_instances=5)
    with pytest.raises(UserError, match=f"things_first {whole}there is no maximum number of tracks"):
        predictor.track(frames, things_first=True)
    other = Predictor(tiny_model, device="cpu", settings=InferenceConfig(tasks=("semantic",)))
    with pytest.raises(UserError, match="does not support the task 'instance'"):
        other.track(frames)
    with pytest.raises(UserError, match="has no frame"):
        list(predictor.track([]))
    with pytest.raises(UserError, match="frame 1 of the sequence of frames is 40x84 but the first is 50x84"):
        list(predictor.track([frames[0], frames[1][:40]]))


@pytest.mark.slow
@pytest.mark.parametrize("window", [1, 8])
def test_memory_does_not_grow_with_the_length(window: int, tmp_path: Path) -> None:
    """Peak memory of tracking 50 and 2,000 frames is equal within a tenth."""
    out = tmp_path / "memory.json"
    program = ROOT / "benchmarks" / "tracking.py"
    command = [sys.executable, str(program), "--memory", "--window", str(window), "--out", str(out)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    report = json.loads(out.read_text())
    assert 0.9 < report["ratio"] < 1.1, report
    assert report["frames"]["2000"]["tracks"] > report["frames"]["50"]["tracks"] > 0
