"""Images with channels other than red, green and blue, from the user's view: files, training, commands, export."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import yaml
from PIL import Image
from runs import Finished, finish, run_values

from mask2former import Predictor, checkpoints
from mask2former.analysis import layer_metrics
from mask2former.cli import main
from mask2former.config import ModelConfig, RunConfig, parse
from mask2former.data.build import build_images
from mask2former.data.datasets.scenes import SceneClips, Scenes
from mask2former.data.sources import DataSource
from mask2former.dataset_tools.check_data import check_data
from mask2former.errors import UserError
from mask2former.evaluation.evaluate import evaluate
from mask2former.media.images import read_image
from mask2former.models.build import build_model
from mask2former.scenes import SCENE_CATEGORIES, draw_scene
from mask2former.training.datamodule import DataModule
from mask2former.training.memory import MemoryEstimate

SIDE = 64
INTERLEAVED: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"}
pytestmark = [pytest.mark.long, pytest.mark.usefixtures("small_overlays", "unpredicted_memory")]


def five_bands(rgb: np.ndarray) -> np.ndarray:
    """Five bands of 12 bits: blue, green, red, and two that are derived."""
    red, green, blue = (rgb[..., channel].astype(np.uint16) * 16 for channel in range(3))
    return np.stack([blue, green, red, (red + green) // 2, 4095 - blue], axis=-1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn scenes as TIFF files of five bands, with id maps of their things."""
    folder = tmp_path_factory.mktemp("bands")
    for name in ("images", "ids"):
        (folder / name).mkdir()
    for number in range(6):
        scene = draw_scene(number, (SIDE, SIDE))
        tifffile.imwrite(folder / f"images/{number}.tif", five_bands(scene.image), **INTERLEAVED)
        things = [segment for segment, label in scene.segments if SCENE_CATEGORIES[label].is_thing]
        ids = np.where(np.isin(scene.ids, things), scene.ids, 0)
        Image.fromarray(ids.astype(np.uint16)).save(folder / f"ids/{number}.png")
    return folder


def values(data: Path, output: Path, **model: Any) -> dict:
    dataset = {
        "name": "id-maps",
        "train": [{"images": str(data / "images"), "labels": str(data / "ids")}],
        "validation": [{"images": str(data / "images"), "labels": str(data / "ids")}],
    }
    run = run_values(output, data={"dataset": dataset, "batch_size": 2, "num_workers": 0})
    inference = {**run["model"]["inference"], "tasks": ["instance"], **model.pop("inference", {})}
    run["model"] = {**run["model"], "inference": inference, **model}
    run["trainer"] = {**run["trainer"], "max_steps": 2}
    run["evaluation"] = {**run["evaluation"], "tasks": ["instance"], "monitor": "instance/AP", "num_images": 1}
    return run


ONE = {"pixel_mean": [110], "pixel_std": [55], "inference": {"bands": [2], "value_range": [[0, 4095]]}}
FIVE = {"pixel_mean": [110] * 5, "pixel_std": [55] * 5, "inference": {"value_range": [0, 4095]}}


def trained(data: Path, output: Path, model: dict[str, Any]) -> Finished:
    return finish(parse(RunConfig, values(data, output, **dict(model)), "run"))


@pytest.fixture(scope="module")
def five(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A finished run of two steps that trained a model of five channels."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice of Lightning
        patch.setattr("mask2former.training.module.estimate_memory", lambda *_: MemoryEstimate(0, 0, 1))
        return trained(data, tmp_path_factory.mktemp("five") / "run", FIVE)


def test_a_model_of_five_channels_is_trained_saved_and_used(
    data: Path, five: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, image = str(five.folder / "model.safetensors"), data / "images/1.tif"
    loaded = checkpoints.from_pretrained(weights)
    assert (loaded.channels, loaded.info.inference.bands) == (5, 5)
    assert np.isfinite(five.result.metrics["instance/AP"])  # validation, and its drawings
    assert list(five.folder.glob("images/**/*.png"))

    assert main(["predict", str(image), "-m", weights, "-o", str(tmp_path / "out"), "--score-threshold", "0"]) == 0
    written = json.loads((tmp_path / "out/1.json").read_text())
    predictor = Predictor(loaded, "cpu")
    found = predictor(image, "instance", instance_threshold=0.0)
    assert (written["settings"]["bands"], len(written["instances"])) == (5, len(found))
    assert [one["score"] for one in written["instances"]] == pytest.approx(found.scores.tolist(), abs=1e-5)
    assert np.asarray(Image.open(tmp_path / "out/1.png")).shape == (SIDE, SIDE, 3)

    # The array of all bands is the same image; bands in another order are another one.
    again = predictor(tifffile.imread(image), "instance", instance_threshold=0.0)
    np.testing.assert_array_equal(again.scores, found.scores)
    swapped = predictor(image, "instance", bands=(5, 4, 3, 2, 1), instance_threshold=0.0)
    assert not np.allclose(swapped.scores, found.scores, atol=1e-6)
    tiled = predictor(image, tile=32, tile_overlap=8)
    assert tiled.size_hw == (SIDE, SIDE)
    [one, other] = predictor.stream([image, image], batch_size=2, instance_threshold=0.0)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)

    # An image that does not fit the model is refused with one sentence.
    capsys.readouterr()
    assert main(["predict", str(image), "-m", weights, "-o", str(tmp_path / "no"), "--bands", "1,2"]) == 2
    assert "there are 2 bands, but the model expects images of 5 channels" in capsys.readouterr().err
    for wrong in ("5-1", "999999", "1-999999", "1-32,33"):
        assert main(["predict", str(image), "-m", weights, "-o", str(tmp_path / "no"), "--bands", wrong]) == 2
        assert capsys.readouterr().err.startswith(f"error: --bands is '{wrong}'; expected up to 32 band numbers, ")
    Image.fromarray(draw_scene(1, (SIDE, SIDE)).image).save(tmp_path / "rgb.png")
    assert main(["predict", str(tmp_path / "rgb.png"), "-m", weights, "-o", str(tmp_path / "no")]) == 2
    assert "has 3 bands, but the model expects 5" in "".join(capsys.readouterr())
    with pytest.raises(UserError, match="expects images of 5 channels, got 3"):
        predictor.network([torch.zeros(3, 64, 64, dtype=torch.uint8)])
    with pytest.raises(UserError, match=r"only our own format .* can store"):
        checkpoints.write_original(loaded, tmp_path / "a.pth")


def test_check_data_measures_the_channels_and_suggests_them(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "data.yaml"
    file.write_text(yaml.safe_dump(values(data, tmp_path / "x")))
    words = ["check-data", str(file), "--workers", "0", "--bands", "1-5", "--value-range", "0", "4095"]
    assert main([*words, "--sheet", str(tmp_path / "s.png"), "--suggest", str(tmp_path / "run.yaml")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    pixels = np.concatenate([read_image(path, bands=5, value_range=(0, 4095)) for path in (data / "images").iterdir()])
    mean, std = pixels.reshape(-1, 5).mean(axis=0), pixels.reshape(-1, 5).std(axis=0)
    assert f"channels, in 0..255: mean {mean[0]:.2f}, {mean[1]:.2f}" in shown
    suggested = parse(RunConfig, yaml.safe_load((tmp_path / "run.yaml").read_text()), "run").model
    assert suggested.pixel_mean == pytest.approx(mean, abs=1e-3)
    assert suggested.pixel_std == pytest.approx(std, abs=1e-3)
    assert (suggested.inference.bands, suggested.inference.value_range) == ((1, 2, 3, 4, 5), (0, 4095))
    assert suggested.init_channels == "repeat"
    assert "images of 5 channels" in shown
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.mode == "RGB"


def test_each_band_may_have_a_range_from_check_data_to_predictions(
    data: Path, five: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, image, weights = tmp_path / "data.yaml", str(data / "images/1.tif"), str(five.folder / "model.safetensors")
    file.write_text(yaml.safe_dump(values(data, tmp_path / "x")))
    words = ["check-data", str(file), "--workers", "0", "--bands", "3,1", "--sheet", str(tmp_path / "s.png")]
    assert main([*words, "--band-ranges", "0:4095,-10:2000", "--suggest", str(tmp_path / "run.yaml")]) == 0
    suggested = parse(RunConfig, yaml.safe_load((tmp_path / "run.yaml").read_text()), "run").model
    ranges = ((0.0, 4095.0), (-10.0, 2000.0))
    assert (suggested.inference.bands, suggested.inference.value_range) == ((3, 1), ranges)
    pixels = np.concatenate(
        [read_image(path, bands=(3, 1), value_range=ranges) for path in (data / "images").iterdir()]
    )
    assert suggested.pixel_mean == pytest.approx(pixels.reshape(-1, 2).mean(axis=0), abs=1e-3)

    same, other = ",".join(["0:4095"] * 5), ",".join(["0:4095", "0:3000", " 0:4095", "0 : 4095", "0:900"])
    predict = ["predict", image, "-m", weights, "--score-threshold", "0"]
    found = {}
    for name, given in (("same", same), ("other", other)):
        assert main([*predict, "-o", str(tmp_path / name), "--band-ranges", given]) == 0
        found[name] = json.loads((tmp_path / name / "1.json").read_text())
    assert found["other"]["settings"]["value_range"][4] == [0, 900]
    expected = Predictor.from_pretrained(weights, device="cpu", quiet=True, instance_threshold=0.0)(image, "instance")
    scores = [[one["score"] for one in found[name]["instances"]] for name in ("same", "other")]
    assert scores[0] == pytest.approx(expected.scores.tolist(), abs=1e-5)
    assert scores[1] != pytest.approx(scores[0], abs=1e-5)
    capsys.readouterr()
    for wrong, message in (
        (
            ["--band-ranges", "0:1,2:3"],
            "value_range has 2 ranges, one per band, but bands specifies 5; give the same number",
        ),
        (["--band-ranges", "0:1,3:2"], "--band-ranges is '0:1,3:2'; expected two ascending numbers for each band"),
        (
            ["--band-ranges", same, "--value-rule", "full"],
            "--value-rule and --band-ranges cannot be used together; give only one",
        ),
    ):
        assert main([*predict, "-o", str(tmp_path / "no"), *wrong]) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_three_bands_keep_the_mean_of_the_initial_model_and_classes_that_it_knows_are_kept(
    data: Path, tmp_path: Path
) -> None:
    dataset = parse(RunConfig, values(data, tmp_path / "x"), "run").data.dataset.model_copy(
        update={"class_name": "car"}
    )
    checked = check_data(dataset, bands=(4, 3, 2), value_range="full", suggest=tmp_path / "run.yaml", num_workers=0)
    suggested = yaml.safe_load((tmp_path / "run.yaml").read_text())["model"]
    assert (suggested["inference"]["bands"], suggested["inference"]["value_range"]) == ([4, 3, 2], "full")
    assert not suggested.keys() & {"pixel_mean", "pixel_std", "init_channels"}
    assert suggested["init_classes"] == "by-name"
    assert any("has 1 of 1 classes, to judge by their names (car)" in reason for reason in checked.reasons)
    for bands, how in (((4,), "summed"), ((1, 2, 3, 4), "repeated")):
        suggest = tmp_path / f"{how}.yaml"
        checked = check_data(dataset, bands=bands, value_range="full", suggest=suggest, num_workers=0)
        assert any(reason.endswith(f"which expect three, are {how}") for reason in checked.reasons)
    with pytest.raises(UserError, match="'bands': expected up to 32 band numbers"):
        check_data(dataset, bands=(), num_workers=0)


@pytest.mark.parametrize("bands", [(3, 2, 1), 3])
def test_drawn_scenes_are_no_images_of_a_model_that_chose_bands(
    tiny_config: ModelConfig, tiny_run: RunConfig, bands: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inference = tiny_config.inference.model_copy(update={"bands": bands})
    model = build_model(tiny_config.model_copy(update={"inference": inference}), len(SCENE_CATEGORIES))
    model.categories = SCENE_CATEGORIES
    refused = r"drawn scenes have only red, green and blue channels, but the model expects image bands \(bands "
    for data in ("scenes", Scenes((SIDE, SIDE), length=1), "scene-clips", SceneClips(SIDE, 2, length=1)):
        with pytest.raises(UserError, match=refused):
            evaluate(model, data)
    with pytest.raises(UserError, match=refused):
        layer_metrics(model, DataSource("scenes"))
    run = tiny_run.model_copy(update={"model": tiny_config.model_copy(update={"inference": inference})})
    drawn = DataModule(run, training=Scenes((SIDE, SIDE)), validation=Scenes((SIDE, SIDE)))
    for data in (drawn, DataModule(run)):
        for name in ("training_set", "validation_set"):
            with pytest.raises(UserError, match=refused):
                getattr(data, name)
    checkpoints.save(model, tmp_path / "model.safetensors")
    assert main(["analyze", "attention", str(tmp_path / "model.safetensors")]) == 2
    assert "which drawn scenes do not have; give --image" in " ".join(capsys.readouterr().err.split())


def test_readers_that_are_given_to_a_run_read_as_its_model(data: Path, tmp_path: Path) -> None:
    run = parse(RunConfig, values(data, tmp_path / "run", **ONE), "run")
    train, validation = (build_images(run.data.dataset, split) for split in ("train", "validation"))
    module = DataModule(run, train, validation)
    first = read_image(data / "images/0.tif", **run.model.inference.reading)
    np.testing.assert_array_equal(module.validation_set[0].image, first)
    assert module.training_set.samples is train
    np.testing.assert_array_equal(train.image(0), first)


@pytest.mark.slow
@pytest.mark.parametrize("model", [ONE, FIVE], ids=["one", "five"])
def test_what_training_measured_is_measured_again_and_exported(data: Path, tmp_path: Path, model: dict) -> None:
    run = trained(data, tmp_path / "run", model)
    weights, settings, image = run.folder / "model.safetensors", tmp_path / "again.yaml", data / "images/1.tif"
    whole = parse(RunConfig, values(data, tmp_path / "x", **dict(model)), "run")
    settings.write_text(yaml.safe_dump(whole.model_dump(mode="json")))
    report = ["--json", str(tmp_path / "metrics.json"), "--report", str(tmp_path / "report")]
    assert main(["evaluate", str(weights), "--data", str(settings), *report]) == 0
    measured = json.loads((tmp_path / "metrics.json").read_text())["metrics"]["instance/AP"]
    assert measured == pytest.approx(run.result.metrics["instance/AP"], abs=1e-3)
    found = Predictor.from_pretrained(weights, instance_threshold=0.0)(image, "instance")
    for suffix in ("onnx", "pt2"):
        file = tmp_path / f"model.{suffix}"
        assert main(["export", str(weights), str(file), "--size", f"{SIDE}x{SIDE}"]) == 0
        exported = Predictor.from_pretrained(file, instance_threshold=0.0, trust_code=True)
        np.testing.assert_allclose(exported(image, "instance").scores, found.scores, atol=1e-3)
    words = ["verify-export", str(tmp_path / "model.onnx"), "--against", str(weights), "--no-memory"]
    assert main([*words, "--images", str(image), "-t", "instance"]) == 0
    assert main(words) == 2  # drawn scenes have no bands


@pytest.mark.slow
def test_weights_of_three_channels_are_a_start_for_five(data: Path, tmp_path: Path) -> None:
    three = trained(data, tmp_path / "three", {"inference": {"bands": [3, 2, 1], "value_range": [0, 4095]}})
    start = {**FIVE, "init": str(three.folder / "model.safetensors")}
    with pytest.raises(UserError, match=r"expects images of 3 channels but the run has 5 .*init_channels=repeat"):
        trained(data, tmp_path / "refused", start)
    assert (
        "weights of 3 input channels repeated for 5"
        in trained(data, tmp_path / "five", {**start, "init_channels": "repeat"}).shown
    )
