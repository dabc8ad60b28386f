"""Complete clips in the predictor, and data sets of clips in the evaluation loop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former import postprocessing
from mask2former.config import EvaluationConfig, InferenceConfig
from mask2former.data.datasets.scenes import SceneClips
from mask2former.data.transforms import resize_clip
from mask2former.errors import UserError
from mask2former.evaluation.cases import Cases, match_classes
from mask2former.evaluation.evaluate import evaluate_predictor
from mask2former.inference.predictor import Predictor
from mask2former.metrics.average_precision import VideoInstanceEvaluator
from mask2former.models.mask2former import Mask2Former
from mask2former.notes import collect_notes, sentences
from mask2former.ops import masks as mask_ops
from mask2former.results_io import TracksFile, result_writer
from mask2former.structures import Categories, VideoInstances
from mask2former.structures.ground_truth import ClipGroundTruth


@pytest.fixture
def predictor(tiny_model: Mask2Former) -> Predictor:
    return Predictor(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (3, 50, 84, 3), dtype=np.uint8))


def test_a_clip_goes_through_the_model_at_once(predictor: Predictor, frames: list[np.ndarray]) -> None:
    result = predictor.clip(frames, max_instances=40)
    assert isinstance(result, VideoInstances)
    assert result.masks.shape[1:] == (3, 50, 84)
    clip = resize_clip(frames, (57, 96))
    assert clip.shape == (3, 3, 57, 96)
    with torch.inference_mode():
        output = predictor.model.prepare_for_inference()([clip], aux_outputs=False)
    assert output.mask_logits.shape[2] == 3
    [prediction] = output.predictions([(57, 96)])
    settings = predictor.settings.model_copy(update={"max_instances": 40, "instance_threshold": 0})
    expected = postprocessing.video_instance(prediction, (50, 84), predictor.categories, settings)
    assert result.to_dict() == expected.to_dict()
    assert len(result) == 20  # 10 queries and 2 classes of things
    alone = predictor.clip(frames[:1], max_instances=40)
    assert abs(alone.scores - result.scores).max() > 1e-6  # frames influence one another


def test_clips_and_windows_fit_what_the_network_takes(predictor: Predictor, frames: list[np.ndarray]) -> None:
    seen: list[tuple[int, ...]] = []

    class Network:
        largest_input = (40, 70)

        def __call__(self, images: Sequence[torch.Tensor]) -> list[Any]:
            seen.extend(tuple(image.shape) for image in images)
            return predictor.predictions(images)

    other = Predictor(Network(), "cpu", settings=predictor.settings, categories=predictor.categories)
    with collect_notes() as notes:
        assert other.clip(frames).size_hw == (50, 84)
        tracked = list(other.track(frames, window=2, stride=1))
    assert [frame.image.shape for frame in tracked] == [(50, 84, 3)] * 3
    assert seen == [(3, 3, 40, 67), (2, 3, 40, 67), (2, 3, 40, 67)]  # 57x96 without the limit
    assert [note.example for note in notes] == ["50x84"] * 3
    assert sentences(notes)[0].startswith("sizes of images that are resized to less than the settings specify")


def test_sources_of_frames_are_those_of_images(predictor: Predictor, frames: list[np.ndarray], tmp_path: Path) -> None:
    Image.fromarray(frames[1]).save(tmp_path / "1.png")
    mixed = [Image.fromarray(frames[0]), tmp_path / "1.png", torch.from_numpy(frames[2]).permute(2, 0, 1)]
    assert predictor.clip(mixed).to_dict() == predictor.clip(frames).to_dict()


def test_wrong_clips_are_refused(predictor: Predictor, frames: list[np.ndarray], tiny_model: Mask2Former) -> None:
    with pytest.raises(UserError, match="at least one frame, and all its frames must have the same size; got none"):
        predictor.clip([])
    with pytest.raises(UserError, match=r"got \(40, 84\) and \(50, 84\)"):
        predictor.clip([frames[0], frames[1][:40]])
    with pytest.raises(UserError, match="no_such"):
        predictor.clip(frames, no_such=1)
    with pytest.raises(UserError, match=r"got one ndarray; pass \[frame\]"):
        predictor.clip(frames[0])  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=r"got one str; .* a video or folder to track"):
        predictor.clip("street.mp4")
    other = Predictor(tiny_model, device="cpu", settings=InferenceConfig(tasks=("semantic",)))
    with pytest.raises(UserError, match="does not support the task 'instance'"):
        other.clip(frames)


class Oracle:
    """Predicts the ground truth of a clip, which it recognises by the first frame, and records the settings."""

    def __init__(self, clips: SceneClips) -> None:
        self.categories, self.settings = clips.categories, InferenceConfig(tasks=("instance",))
        self.predictions = {
            clips.images(index)[0].tobytes(): clips.ground_truths(index, ["instance"])["instance"]
            for index in range(len(clips))
        }
        self.seen: list[dict[str, object]] = []

    def choose_tasks(self, tasks: list[str]) -> tuple[str, ...]:
        return tuple(tasks)

    def clip(self, frames: list[np.ndarray], **overrides: object) -> VideoInstances:
        self.seen.append(overrides)
        ground_truth: ClipGroundTruth = self.predictions[frames[0].tobytes()]
        scores = np.linspace(0.9, 0.5, len(ground_truth.labels))
        return VideoInstances(ground_truth.masks, ground_truth.labels, scores, self.categories)


def test_perfect_tracks_are_measured_as_such_and_written(tmp_path: Path) -> None:
    clips = SceneClips(48, num_frames=4, seed=7, length=3)
    oracle, told = Oracle(clips), []
    class_map = match_classes(clips.categories, clips.categories)
    path = tmp_path / "new" / "results.json"
    with result_writer("instance", path, clips.categories, style="youtube-vis") as writer:
        assert isinstance(writer, TracksFile)
        report = evaluate_predictor(
            oracle,  # pyright: ignore[reportArgumentType]
            Cases(clips, ["instance"], clips.categories, class_map, limit=2),
            ["instance"],
            EvaluationConfig(max_detections=50),
            style="youtube-vis",
            results=writer,
            progress=told.append,
            short_edge=0,
        )
        assert not path.exists()
    assert report.metrics["instance/AP"] == pytest.approx(100)
    assert report.num_images == 2
    assert told == [1, 2]
    everything = {"short_edge": 0, "instance_threshold": 0.0, "class_thresholds": {}}  # metrics need all candidates
    assert oracle.seen == [everything] * 2
    records = json.loads(path.read_text())
    assert {row["video_id"] for row in records} == {7, 8}
    first = clips.ground_truths(0, ["instance"])["instance"]
    assert sum(row["video_id"] == 7 for row in records) == len(first.labels)
    np.testing.assert_array_equal(mask_ops.decode(records[0]["segmentations"]), first.masks[0])
    assert records[0]["category_id"] == clips.categories[first.labels[0]].id


def test_without_annotations_there_are_results_and_no_metrics(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clips = SceneClips(48, num_frames=2, seed=7, length=1)
    oracle = Oracle(clips)
    monkeypatch.setattr(clips, "has_ground_truth", False)
    with result_writer("instance", tmp_path / "r.json", clips.categories, style="youtube-vis") as writer:
        report = evaluate_predictor(
            oracle,  # pyright: ignore[reportArgumentType]
            Cases(clips, ["instance"], clips.categories, match_classes(clips.categories, clips.categories)),
            ["instance"],
            style="youtube-vis",
            results=writer,
        )
    assert report.metrics == {}
    assert writer.count > 0


def test_classes_of_the_data_become_those_of_the_model() -> None:
    clips = SceneClips(48, num_frames=2, seed=7, length=1)
    oracle = Oracle(clips)
    turned = Categories(tuple(reversed(clips.categories.items)))
    oracle.categories = turned
    ground_truth = clips.ground_truths(0, ["instance"])["instance"]
    labels = len(turned) - 1 - ground_truth.labels
    oracle.predictions = {key: ground_truth._replace(labels=labels) for key in oracle.predictions}
    class_map = match_classes(turned, clips.categories)
    cases = Cases(clips, ["instance"], clips.categories, class_map)
    report = evaluate_predictor(oracle, cases, ["instance"], style="youtube-vis")  # pyright: ignore[reportArgumentType]
    assert report.metrics["instance/AP"] == pytest.approx(100)
    wrong = VideoInstanceEvaluator(turned)
    wrong.update(VideoInstances(ground_truth.masks, labels, np.linspace(0.9, 0.5, len(labels)), turned), ground_truth)
    assert wrong.compute()["instance/AP"] < 50
