"""The library calls behind the commands, with objects as well as names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from PIL import Image

from mask2former import (
    DataSource,
    EvaluationConfig,
    Predictor,
    UserError,
    check_data,
    evaluate,
    known_models,
    predict_files,
    track_files,
)
from mask2former.config import ScenesConfig
from mask2former.data.datasets.scenes import SceneClips, Scenes
from mask2former.errors import OptionError
from mask2former.structures.tracks import TrackedFrame


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.from_pretrained("scenes-tiny", device="cpu", quiet=True)


def test_a_data_set_its_name_and_its_configuration_are_measured_alike(predictor: Predictor) -> None:
    config = ScenesConfig(image_size=(128, 128), validation_seed=7, num_validation=2)
    reports = [
        evaluate(predictor, Scenes((128, 128), seed=7, length=2), "semantic"),
        evaluate(predictor, config, ["semantic"]),
        evaluate("scenes-tiny", DataSource(config, limit=2), "semantic", device="cpu"),
    ]
    assert reports[0].metrics == reports[1].metrics == reports[2].metrics
    assert [report.request["model"] for report in reports] == ["Predictor", "Predictor", "scenes-tiny"]
    assert [report.num_available for report in reports] == [2, 2, 2]


def test_options_that_are_set_win_over_those_of_the_run_file(predictor: Predictor, tmp_path: Path) -> None:
    run = tmp_path / "run.yaml"
    data = "{dataset: {name: scenes, num_validation: 1}}"
    run.write_text(f"data: {data}\nevaluation: {{boundary: true, max_detections: 7}}\n")
    report = evaluate(predictor, str(run), "instance", EvaluationConfig(max_detections=9))
    assert report.request["settings"]["max_detections"] == 9
    assert "instance/boundary_AP" in report.metrics


def test_a_message_names_the_argument_or_the_flag(predictor: Predictor) -> None:
    with pytest.raises(OptionError, match=r"^seed applies to scenes, not to coco$") as caught:
        evaluate(predictor, DataSource("coco", seed=1))
    assert caught.value.sentence(lambda name: f"--{name}") == "--seed applies to scenes, not to coco"
    clips = SceneClips(64, 2, 0, 1)
    with pytest.raises(OptionError, match=r"^report applies to images, not to clips$"):
        evaluate(predictor, clips, report="x.html")
    with pytest.raises(
        UserError, match="an evaluator is for the task semantic, which is not measured; measured: instance"
    ):
        evaluate(predictor, clips, evaluators=[("semantic", Any)])  # pyright: ignore[reportArgumentType]


def test_a_loaded_model_is_not_loaded_otherwise(predictor: Predictor) -> None:
    with pytest.raises(UserError, match="'dtype' applies to loading a model, but this one is already loaded"):
        evaluate(predictor, dtype="bfloat16")


def test_files_are_segmented_once(predictor: Predictor, tmp_path: Path) -> None:
    Image.fromarray(Scenes(64).image(0)).save(tmp_path / "a.png")
    told: list[tuple[str, int, int | None]] = []
    options = {"overlays": False, "coco": tmp_path / "all.json", "progress": lambda *step: told.append(step)}
    first = predict_files(predictor, [tmp_path / "a.png"], tmp_path / "out", "instance", **options)
    assert first.outcomes == {"done": 1, "skipped": 0, "refused": 0, "failed": 0}
    assert told == [("instance", 0, 1), ("instance", 1, 1)]
    assert (tmp_path / "all.json").is_file()
    again = predict_files(predictor, [tmp_path / "a.png"], tmp_path / "out", "instance", overlays=False)
    assert (again.outcomes["skipped"], again.num_found) == (1, first.num_found)


class FrameNumbers:
    """A writer of the user's own, which records the indices of frames."""

    def __init__(self) -> None:
        self.path, self.seen = Path(), []

    def __enter__(self) -> Self:
        return self

    def add(self, frame: TrackedFrame) -> None:
        self.seen.append(frame.index)

    def __exit__(self, *_: object) -> None:
        self.seen.append("closed")


def test_frames_of_a_video_go_to_ones_own_writers_too(predictor: Predictor, tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    for number, frame in enumerate(SceneClips(64, 3, 0, 1).images(0)):
        Image.fromarray(np.asarray(frame)).save(folder / f"{number}.png")
    mine = FrameNumbers()
    report = track_files(predictor, folder, tmp_path / "out", video=False, writers=[mine], short_edge=0)
    assert mine.seen == [0, 1, 2, "closed"]
    assert (report.num_frames, report.complete) == (3, True)
    assert report.files == {"results": tmp_path / "out" / "clip.json"}
    with pytest.raises(OptionError, match="use overwrite or another output"):
        track_files(predictor, folder, tmp_path / "out", video=False)
    with pytest.raises(UserError, match=r"got list; frames in memory are tracked by Predictor\.track"):
        track_files(predictor, [np.zeros((8, 8, 3), np.uint8)], tmp_path / "out")  # pyright: ignore[reportArgumentType]
    report = track_files(predictor, folder, tmp_path / "slow", video=False, rate=1 / 3600)
    assert json.loads(report.files["results"].read_text())["rate"] == pytest.approx(1 / 3600, rel=1e-5)


def test_data_that_are_drawn_are_not_checked() -> None:
    with pytest.raises(UserError, match="are drawn and not checked"):
        check_data(ScenesConfig())


def test_models_are_listed_by_what_they_do() -> None:
    assert {entry["name"] for entry in known_models(cached=True)} >= {"scenes-tiny", "nuclei"}
    assert all(entry["license"]["commercial"] for entry in known_models("instance", commercial=True))
    with pytest.raises(UserError, match="no models of data set 'birds'"):
        known_models(dataset="birds")
