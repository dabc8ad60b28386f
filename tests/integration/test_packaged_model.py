"""The model that is included in the package."""

from __future__ import annotations

import dataclasses
import json
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence
from scipy import ndimage

from mask2former import demo, recipes
from mask2former.cli import main
from mask2former.data.datasets.scenes import SceneClips, Scenes
from mask2former.inference.predictor import ALL_CANDIDATES, Predictor
from mask2former.media.frames import open_frames
from mask2former.metrics.average_precision import VideoInstanceEvaluator
from mask2former.scenes import SCENE_CATEGORIES, draw_scene
from mask2former.structures import ModelInfo


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.from_pretrained("scenes-tiny", device="cpu")


def test_it_is_small_and_its_recipe_is_known(predictor: Predictor) -> None:
    file = resources.files("mask2former").joinpath("assets", "scenes-tiny.safetensors")
    assert len(file.read_bytes()) < 10_000_000
    made = ModelInfo.of(recipes.scenes_tiny().model, SCENE_CATEGORIES)
    assert dataclasses.replace(predictor.model.info, metrics={}) == made


def test_the_model_of_clips_is_small_and_its_recipe_is_known() -> None:
    file = resources.files("mask2former").joinpath("assets", "scene-clips.safetensors")
    assert len(file.read_bytes()) < 10_000_000
    info = Predictor.from_pretrained("scene-clips", device="cpu").model.info
    made = ModelInfo.of(recipes.scene_clips().model, SCENE_CATEGORIES)
    assert dataclasses.replace(info, metrics={}) == made


@pytest.mark.long
def test_training_on_clips_follows_objects_better() -> None:
    """On whole new clips, the model's AP is at least 3 above that of the image model it started from (35 and 28)."""
    clips = SceneClips(128, num_frames=36, seed=9_000_000, length=4)
    settings = ALL_CANDIDATES | {"short_edge": 0, "max_instances": 30, "things_first": False}
    found = {}
    for name in ("scenes-tiny", "scene-clips"):
        predictor, metric = Predictor.from_pretrained(name, device="cpu"), VideoInstanceEvaluator(SCENE_CATEGORIES)
        for index in range(len(clips)):
            tracks = predictor.clip(clips.images(index), **settings)
            metric.update(tracks, clips.ground_truths(index, ["instance"])["instance"])
        found[name] = metric.compute()["instance/AP"]
    assert found["scene-clips"] > found["scenes-tiny"] + 3


@pytest.mark.long
def test_demonstration_on_fresh_scenes(tmp_path: Path) -> None:
    """On eight scenes of neither training nor validation, PQ is above 70; .ci/run starts the command, with fifty."""
    report = demo.run("scenes-tiny", tmp_path / "demo", num_scenes=8, device="cpu")
    assert report.metrics["panoptic/PQ"] > 70
    assert report.sheet.exists()


@pytest.mark.long
@pytest.mark.parametrize("has_pyav", [True, False])
def test_demonstration_on_a_fresh_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_pyav: bool) -> None:
    """The demonstration writes a video if PyAV is installed, otherwise an animation."""
    if not has_pyav:
        monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(demo, "_CLIP_FRAMES", 5)
    monkeypatch.setattr(demo, "_MEASURED_FRAMES", 5)
    report = demo.run_video("scene-clips", tmp_path / "demo", num_clips=1, seed=1, device="cpu")
    assert report.video == tmp_path / "demo" / ("tracks.mp4" if has_pyav else "tracks.gif")
    assert report.num_tracks > 0
    assert report.metrics["instance/AP50"] > 20
    if has_pyav:
        frames = [frame.image for frame in open_frames(report.video)]
    else:
        with Image.open(report.video) as animation:
            frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(animation)]
    assert [frame.shape for frame in frames] == [(384, 768, 3)] * 5


@pytest.mark.slow
def test_it_follows_things_through_clips(tmp_path: Path) -> None:
    """On the twenty clips of the demonstration, AP is above 20."""
    report = demo.run_video("scenes-tiny", tmp_path, device="cpu")
    assert report.metrics["instance/AP"] > 20


def test_it_finds_the_things_of_a_scene(predictor: Predictor) -> None:
    sample = Scenes((192, 192), seed=3_000_000, length=1)[0]
    assert sample.target is not None
    image = sample.image[0].permute(1, 2, 0).numpy()
    result = predictor(image, "semantic")
    ground_truth = np.zeros(image.shape[:2], int)
    for label, mask in zip(sample.target.labels.tolist(), sample.target.masks[:, 0].numpy(), strict=True):
        ground_truth[mask] = label
    assert (result.labels == ground_truth).mean() > 0.7


# --- nuclei ----------------------------------------------------------------------------------------------------------


def _fluorescence(seed: int, count: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """An image like those of fluorescence microscopes, and its ids: blurred bright ellipses apart on dark noise."""
    rng = np.random.default_rng(seed)
    ids, (y, x) = np.zeros((200, 280), dtype=int), np.mgrid[:200, :280]
    while ids.max() < count:
        row, column = rng.uniform(8, 192), rng.uniform(8, 272)
        a, b, turn = rng.uniform(6, 11), rng.uniform(5, 8), rng.uniform(0, np.pi)
        along = (x - column) * np.cos(turn) + (y - row) * np.sin(turn)
        across = (y - row) * np.cos(turn) - (x - column) * np.sin(turn)
        mask = (along / a) ** 2 + (across / b) ** 2 <= 1
        around = np.asarray(ndimage.binary_dilation(mask, iterations=3), dtype=bool)
        if not (ids[around] > 0).any():
            ids[mask] = ids.max() + 1
    brightness = np.append(0.0, rng.uniform(60, 160, count)).take(ids)
    image = ndimage.gaussian_filter(brightness, 1.0) + 12 + rng.normal(0, 3, ids.shape)
    return np.repeat(image.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2), ids


def test_nuclei_are_found_one_by_one() -> None:
    """At least 25 of 30 drawn nuclei are found, without overlaps; the model was trained on microscope images."""
    predictor = Predictor.from_pretrained("nuclei", device="cpu")
    image, ids = _fluorescence(seed=0)
    found = predictor(image, "instance").above(0.5)
    assert found.masks.sum(axis=0).max() == 1
    ground_truths = np.stack([ids == number for number in range(1, ids.max() + 1)])
    common = (ground_truths[:, None] & found.masks[None]).sum((2, 3))
    ious = common / (ground_truths.sum((1, 2))[:, None] + found.masks.sum((1, 2))[None] - common)
    right = int((ious.max(axis=1) > 0.5).sum())
    assert right >= 25
    assert len(found) - right <= 3


def test_slivers_are_no_nuclei() -> None:
    """No annotated nucleus has fewer than 21 pixels; what a border leaves of one is predicted only from then on."""
    predictor = Predictor.from_pretrained("nuclei", device="cpu")
    image, ids = _fluorescence(seed=0)
    rows = np.flatnonzero((ids == 1).any(axis=1))
    cut = image[rows[-1] - 1 :]  # two rows of the first nucleus are left at the border
    kept, every = predictor(cut, "instance"), predictor(cut, "instance", min_area=0)
    assert 0 < len(kept) < len(every)
    assert all(item.area >= 21 for item in kept)


def test_the_model_of_nuclei_is_small_and_its_recipe_is_known() -> None:
    file = resources.files("mask2former").joinpath("assets", "nuclei.safetensors")
    assert len(file.read_bytes()) < 10_000_000
    info = Predictor.from_pretrained("nuclei", device="cpu").model.info
    made = ModelInfo.of(recipes.nuclei().model)
    assert (info.architecture, info.inference) == (made.architecture, made.inference)
    assert info.known_categories.names == ("nucleus",)


def test_tiles_can_be_chosen_on_the_command_line(tmp_path: Path) -> None:
    image, _ = _fluorescence(seed=1)
    Image.fromarray(image[:48, :64]).save(tmp_path / "a.png")  # the stored settings matter, not the tiles
    common = ["predict", str(tmp_path / "a.png"), "--device", "cpu", "--no-overlays"]
    for name, options in {"stored": [], "others": ["--tile", "100"], "none": ["--tile", "0"]}.items():
        assert main([*common, "--model", "nuclei", "-o", str(tmp_path / name), *options]) == 0
    settings = {
        name: json.loads((tmp_path / name / "a.json").read_text())["settings"] for name in ("stored", "others", "none")
    }
    assert {name: (found["tile"], found["tile_overlap"]) for name, found in settings.items()} == {
        "stored": (128, 32),
        "others": (100, 25),
        "none": (0, 0),
    }


def test_scenes_in_tiles_are_predicted_and_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(draw_scene(7, (200, 320)).image).save(tmp_path / "a.png")
    common = ["predict", str(tmp_path / "a.png"), "--device", "cpu", "-m", "scenes-tiny", "-o", str(tmp_path / "out")]
    assert main([*common, "--tile", "192", "--tile-overlap", "64"]) == 0
    document = json.loads((tmp_path / "out" / "a.json").read_text())
    assert (document["task"], document["settings"]["tile_overlap"]) == ("panoptic", 64)
    labels = [segment["category_name"] for segment in document["segments"] if not segment["is_thing"]]
    assert len(labels) == len(set(labels)) > 0
    measured = ["evaluate", "scenes-tiny", "--scenes", "1", "--size", "128", "--device", "cpu", "--tile", "96"]
    assert main([*measured, "--json", str(tmp_path / "metrics.json")]) == 0
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["tile"] == 96
    assert {"panoptic/PQ", "instance/AP", "semantic/mIoU"} <= set(found["metrics"])
    assert "PQ" in capsys.readouterr().out
