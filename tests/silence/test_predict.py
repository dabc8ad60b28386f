"""Results that are lost, stale or not what was asked for: each is right, or says so, or is refused before it is done.

A row is what a user does after a first ``predict``, and the outcome: ``right`` looks at the files, ``note`` is found on
standard error or in the last line, ``refused`` is the error (exit code 2), which leaves every file as it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former import Predictor, checkpoints
from mask2former.cli import main
from mask2former.config import (
    InferenceConfig,
    MaskedDecoderConfig,
    ModelConfig,
    MSDeformAttnConfig,
    TimmConfig,
)
from mask2former.models.build import build_model
from mask2former.structures import Categories


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ModelConfig(
        backbone=TimmConfig(model="resnet10t", norm="batch", arguments={"channels": [16, 24, 32, 40]}),
        pixel_decoder=MSDeformAttnConfig(dim=64, mask_dim=64, num_layers=1, num_heads=4, feedforward_dim=64),
        transformer_decoder=MaskedDecoderConfig(dim=64, num_queries=10, num_layers=1, num_heads=4, feedforward_dim=64),
        inference=InferenceConfig(short_edge=64, score_threshold=0.0, instance_threshold=0.07, overlap_threshold=0.0),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(config, 4)
    model.categories = Categories.from_names(["cat", "dog", "sky", "sea"], ["cat", "dog"])
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    checkpoints.save(model, path)
    return path


class Place:
    """A folder with two images, a model, and what can be done there."""

    def __init__(self, folder: Path) -> None:
        self.photos, self.out, self.coco = folder / "photos", folder / "out", folder / "coco.json"
        self.model = folder / "m.safetensors"

    def draw(self, name: str, seed: int) -> Path:
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(self.photos / name)
        return self.photos / name

    def predict(self, *words: object, task: str = "instance", sources: Any = None, model: object = None) -> int:
        given = sources or [self.photos]
        common = ["-m", model or self.model, "-t", task, "--device", "cpu"]
        return main(["predict", *map(str, given), *(() if "-o" in words else ("-o", str(self.out))),
                     *map(str, common), *map(str, words)])  # fmt: skip

    def document(self, name: str = "a") -> dict[str, Any]:
        return json.loads((self.out / f"{name}.json").read_text())

    def snapshot(self) -> dict[str, bytes]:
        root = self.photos.parent
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, model_file: Path) -> Path:
    """The folder after the first run."""
    folder = tmp_path_factory.mktemp("done")
    place = Place(folder)
    shutil.copy(model_file, place.model)
    place.photos.mkdir()
    for number, name in enumerate(("a.png", "b.bmp")):
        place.draw(name, seed=number)
    assert place.predict() == 0
    return folder


@pytest.fixture
def place(done: Path, tmp_path: Path) -> Place:
    return Place(Path(shutil.copytree(done, tmp_path / "copy")))


Do = Callable[[Place], int]


# --- refused, and every file is as it was ----------------------------------------------------------------------------

REFUSED: dict[str, tuple[Do, str]] = {
    "--coco names a result": (lambda p: p.predict("--coco", p.out / "a.json"), "one of the results"),
    "--coco names an overlay": (lambda p: p.predict("--coco", p.out / "b.png"), "one of the results"),
    "--coco names a map of another task": (lambda p: p.predict("--coco", p.out / "a_ids.png"), "one of the results"),
    "--coco names a result by another way": (
        lambda p: p.predict("--coco", p.out / ".." / "out" / "a.json"),
        "one of the results",
    ),
    "--coco differs from a result in case": (lambda p: p.predict("--coco", p.out / "A.JSON"), "one of the results"),
    "--coco lies below a result": (lambda p: p.predict("--coco", p.out / "a.json" / "c.json"), "out/a.json"),
    "--coco lies below a result to come": (
        lambda p: p.predict("-o", p.out / "new", "--coco", p.out / "new" / "a.json" / "c.json"),
        "one of the results",
    ),
    "--coco is a folder of results to come": (
        lambda p: p.predict("-o", p.out / "new", "--coco", p.out / "new"),
        "a folder of the results",
    ),
    "--coco names an image": (lambda p: p.predict("--coco", p.photos / "a.png"), "is read here"),
    "--coco names the model": (lambda p: p.predict("--coco", p.model), "is read here"),
    "--coco names the annotations": (
        lambda p: p.predict("--coco", _file(p.photos / "val.json", '{"images": [], "annotations": []}')),
        "no file of COCO results",
    ),
    "--coco would mix settings": (
        lambda p: p.predict("--coco", p.coco, "--score-threshold", 0.5),
        "(and 1 more) was made by another model, with other settings",
    ),
    "--coco would mix tasks": (lambda p: p.predict("--coco", p.coco, task="semantic"), "must not mix"),
    "annotations lie where results go": (
        lambda p: p.predict("-o", _file(p.photos.parent / "labels" / "a.json", '{"shapes": []}').parent),
        "no result of mask2former predict",
    ),
    "an image lies where an overlay goes": (
        lambda p: p.predict("-o", _copy(p.photos / "a.png", p.photos.parent / "thumbnails").parent),
        "no result of mask2former predict",
    ),
    "results go among the images": (lambda p: p.predict("-o", p.photos), "one of the sources"),
    "results are taken for images": (lambda p: p.predict(sources=[p.out], task="semantic"), "one of the sources"),
    "overlays are named as images": (
        lambda p: p.predict("-o", p.out / "new", sources=sorted(p.out.glob("*.png"))),
        "no images but results",
    ),
    "no model": (
        lambda p: main(["predict", str(p.photos), "-o", str(p.out)]),
        "coco-panoptic/swin-t for photographs",
    ),
    "no model for a video": (
        lambda p: main(["track", str(p.photos), "-o", str(p.out)]),
        "coco-panoptic/swin-t for photographs",
    ),
    "windows of a panoptic model": (
        lambda p: p.predict("--tile", 64),
        "tile 64 is for models of instances alone, and this one answers panoptic, instance, semantic",
    ),
    "a threshold out of range": (lambda p: p.predict("--score-threshold", 1.5), "score_threshold"),
    "metrics over the annotations": (
        lambda p: _evaluate(p, "--json", p.photos / "val.json"),
        "is read here",
    ),
    "results over the annotations": (
        lambda p: _evaluate(p, "--results", p.photos / "val.json"),
        "is read here",
    ),
    "metrics over the model": (lambda p: _evaluate(p, "--json", p.model), "is read here"),
    "results among the images": (lambda p: _evaluate(p, "--results", p.photos), "is read here"),
    "panoptic results among the images": (
        lambda p: _evaluate(p, "--results", p.photos.with_suffix(".json")),
        "is read here",
    ),
}


def _file(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        path.write_text(text)
    return path


def _copy(path: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return Path(shutil.copy(path, folder))


def _evaluate(place: Place, *words: object) -> int:
    annotations = _file(place.photos / "val.json", '{"images": [], "annotations": [], "categories": []}')
    given = ["--annotations", annotations, "--images", place.photos, *words]
    return main(["evaluate", str(place.model), *map(str, given)])


@pytest.mark.parametrize("row", REFUSED)
def test_refused_before_anything_is_touched(row: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    do, words = REFUSED[row]
    before = place.snapshot()
    assert do(place) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error
    after = place.snapshot()
    assert {name: after[name] for name in before} == before
    assert all(Path(name).parts[0] in ("photos", "labels", "thumbnails") for name in after.keys() - before.keys())


# --- right, or said --------------------------------------------------------------------------------------------------

RIGHT: dict[str, tuple[Do, str, Callable[[Place], bool]]] = {
    "nothing has changed": (lambda p: p.predict(), "2 skipped", lambda p: True),
    "another image of the same name": (
        lambda p: _then(p.draw("b.bmp", seed=99), p.predict),
        "results of other images of the same name, made anew (1): ",
        lambda p: p.document("b")["instances"] == _fresh(p, "b.bmp"),
    ),
    "another image under another suffix": (
        lambda p: _then(p.draw("b.jpg", seed=99) and (p.photos / "b.bmp").unlink(), p.predict),
        "made anew (1): ",
        lambda p: p.document("b")["provenance"]["image"] == "b.jpg",
    ),
    "the same image, touched": (lambda p: _then((p.photos / "a.png").touch(), p.predict), "2 skipped", lambda p: True),
    "a missing overlay": (
        lambda p: _then((p.out / "a.png").unlink(), p.predict),
        "1 picture segmented",
        lambda p: (p.out / "a.png").exists(),
    ),
    "first without overlays": (
        lambda p: _then(p.predict("--overwrite", "--no-pictures"), p.predict),
        "2 pictures segmented",
        lambda p: (p.out / "a.png").exists(),
    ),
    "anew without overlays": (
        lambda p: p.predict("--overwrite", "--no-pictures", "--score-threshold", 0.09),
        "2 pictures segmented",
        lambda p: not (p.out / "a.png").exists(),  # it would show an earlier result
    ),
    "another task over it": (
        lambda p: _then(p.predict("--overwrite", task="panoptic"), lambda: p.predict("--overwrite", task="semantic")),
        "2 pictures segmented",
        lambda p: not (p.out / "a_ids.png").exists() and (p.out / "a_labels.png").exists(),
    ),
    "other settings": (
        lambda p: p.predict("--score-threshold", 0.09),
        "2 by another model, with other settings or by an older version, and not counted",
        lambda p: p.document()["settings"]["instance_threshold"] == 0.07,
    ),
    "other weights under the same name": (
        lambda p: _then(_retrain(p.model), p.predict),
        "2 by another model",
        lambda p: True,
    ),
    "the same weights under another name": (
        lambda p: p.predict(model=_copy(p.model, p.photos.parent / "elsewhere")),
        "2 skipped, whose results were already there",
        lambda p: True,
    ),
    "one COCO file later": (
        lambda p: p.predict("--coco", p.coco),
        "of 40 candidates",
        lambda p: len(json.loads(p.coco.read_text())) == 40,
    ),
    "results inside the images": (
        lambda p: _then(p.predict("-o", p.photos / "out"), lambda: p.predict("-o", p.photos / "out")),
        "2 skipped",
        lambda p: not (p.photos / "out" / "out").exists(),
    ),
    "earlier results among the images": (
        lambda p: _then(shutil.copytree(p.out, p.photos / "old"), p.predict),
        "overlays and maps of earlier results, not taken as images (2): ",
        lambda p: not (p.out / "old").exists(),
    ),
    "a threshold that nothing reaches": (
        lambda p: p.predict("--score-threshold", 0.99, "-o", p.photos.parent / "none"),
        "0 instances of 40 candidates at or above score 0.99 in 2 images",
        lambda p: json.loads((p.photos.parent / "none" / "a.json").read_text())["instances"] == [],
    ),
    "a threshold that everything reaches": (
        lambda p: p.predict("--score-threshold", 0, "-o", p.photos.parent / "all"),
        "40 instances of 40 candidates at or above score 0 in 2 images",
        lambda p: len(json.loads((p.photos.parent / "all" / "a.json").read_text())["instances"]) == 20,
    ),
    "one instance of a model whose best answers are stuff": (
        lambda p: p.predict("--max-instances", 1, "-o", p.photos.parent / "one", "--score-threshold", 0),
        "2 instances of 2 candidates",
        lambda p: (
            json.loads((p.photos.parent / "one" / "a.json").read_text())["instances"][0]["category_name"]
            in ("cat", "dog")
        ),
    ),
    "one for tracks": (
        lambda p: main(
            ["track", str(p.photos), "-o", str(p.out / "t"), "-m", str(p.model), "--no-video", "--threshold", "0.9"]
        ),
        "--threshold is called --score-threshold now",
        lambda p: json.loads((p.out / "t" / "photos.json").read_text())["tracks"] == [],
    ),
}


def _then(_: object, after: Callable[[], int]) -> int:
    return after()


def _fresh(place: Place, name: str) -> Any:
    result = Predictor.from_pretrained(place.model, device="cpu")(place.photos / name, "instance")
    return json.loads(json.dumps(result.to_dict()["instances"]))


def _retrain(path: Path) -> None:
    model = checkpoints.from_pretrained(path)
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    checkpoints.save(model, path)


@pytest.mark.parametrize("row", RIGHT)
def test_right_or_said(row: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    do, words, is_right = RIGHT[row]
    assert do(place) == 0
    captured = capsys.readouterr()
    assert words in captured.out.splitlines()[-1] + captured.err
    assert is_right(place)


def test_one_threshold_for_what_is_written_drawn_and_counted(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    everything = Predictor.from_pretrained(place.model, device="cpu")(
        place.photos / "a.png", "instance", instance_threshold=0
    )
    with Image.open(place.photos / "a.png") as opened:
        image = np.asarray(opened.convert("RGB"))
    for words, threshold in (([], 0.07), (["--score-threshold", "0.09"], 0.09), (["--score-threshold", "0"], 0.0)):
        assert place.predict("--overwrite", *words, sources=[place.photos / "a.png"]) == 0
        expected = int((everything.scores >= threshold).sum())
        line = f"{expected} instances of {len(everything)} candidates at or above score {threshold:g} in 1 image"
        assert line in capsys.readouterr().out
        scores = [record["score"] for record in place.document()["instances"]]
        assert scores == everything.scores[:expected].tolist()
        drawn = np.asarray(Image.open(place.out / "a.png"))
        assert np.array_equal(drawn, np.asarray(everything.at_least(threshold).plot(image, scale=None)))
    assert 0 < (everything.scores >= 0.09).sum() < (everything.scores >= 0.07).sum() < len(everything)
