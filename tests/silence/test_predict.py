"""Results that could be lost, outdated or not as intended: each is right, noted, or rejected before any work.

A row is what a user does after a first ``predict``, and the outcome: ``right`` checks the files, ``note`` is found on
standard error or in the last line, ``refused`` is the error (exit code 2), after which every file is unchanged.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
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

pytestmark = pytest.mark.usefixtures("small_overlays")


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ModelConfig(
        backbone=TimmConfig(model="resnet10t", norm="batch", kwargs={"channels": [16, 24, 32, 40]}),
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
    """A folder with two images and a model, and commands that are run there."""

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
    """A folder with the results of a first run."""
    folder = tmp_path_factory.mktemp("done")
    index = Place(folder)
    shutil.copy(model_file, index.model)
    index.photos.mkdir()
    for number, name in enumerate(("a.png", "b.bmp")):
        index.draw(name, seed=number)
    assert index.predict() == 0
    return folder


@pytest.fixture
def index(done: Path, tmp_path: Path) -> Place:
    return Place(Path(shutil.copytree(done, tmp_path / "copy")))


Do = Callable[[Place], int]


# --- refused, and no file is changed ---------------------------------------------------------------------------------

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
        "a folder with results",
    ),
    "--coco names an image": (lambda p: p.predict("--coco", p.photos / "a.png"), "is an input"),
    "--coco names the model": (lambda p: p.predict("--coco", p.model), "is an input"),
    "--coco names the annotations": (
        lambda p: p.predict("--coco", _file(p.photos / "val.json", '{"images": [], "annotations": []}')),
        "contains no COCO results of mask2former predict",
    ),
    "--coco would mix settings": (
        lambda p: p.predict("--coco", p.coco, "--score-threshold", 0.5),
        "(and 1 more) comes from another model, other classes or settings",
    ),
    "--coco would mix names of classes": (
        lambda p: p.predict("--coco", p.coco, model=_rename(_copy(p.model, p.photos.parent / "labels"), name="tumour")),
        "other classes or settings",
    ),
    "--coco is a pipe that nobody reads": (
        lambda p: p.predict("--coco", _pipe(p.coco), "-o", p.photos / "new"),
        "it is a pipe that nobody reads",
    ),
    "--coco is such a pipe, and may overwrite": (
        lambda p: p.predict("--coco", _pipe(p.coco), "-o", p.photos / "new", "--overwrite"),
        "it is a pipe that nobody reads",
    ),
    "an output folder is a link to the images": (
        lambda p: p.predict("-o", _linked(p.photos / "deep", p.photos.parent / "labels", p), "--overwrite"),
        "labels/deep/a.png' would overwrite an image, ",
    ),
    "an output file is a link to an image": (
        lambda p: p.predict("-o", _linked(p.photos / "a.png", p.photos.parent / "labels", p), "--overwrite"),
        "labels/a.png' would overwrite an image, ",
    ),
    "an output file is a link to another image": (
        lambda p: p.predict("-o", _linked(p.photos / "b.bmp", p.photos.parent / "labels", p, "a.json"), "--overwrite"),
        "labels/a.json' would overwrite an image, ",
    ),
    "an output file is an image by another name": (
        lambda p: p.predict("-o", _linked(p.photos / "a.png", p.photos.parent / "labels", p, hard=True), "--overwrite"),
        "labels/a.png' would overwrite an image, ",
    ),
    "--coco would mix tasks": (lambda p: p.predict("--coco", p.coco, task="semantic"), "must not mix"),
    "annotations lie where results go": (
        lambda p: p.predict("-o", _file(p.photos.parent / "labels" / "a.json", '{"shapes": []}').parent),
        "not a result of mask2former predict",
    ),
    "an image lies where an overlay goes": (
        lambda p: p.predict("-o", _copy(p.photos / "a.png", p.photos.parent / "thumbnails").parent),
        "not a result of mask2former predict",
    ),
    "results go among the images": (lambda p: p.predict("-o", p.photos), "one of the sources"),
    "results are taken for images": (lambda p: p.predict(sources=[p.out], task="semantic"), "one of the sources"),
    "overlays are named as images": (
        lambda p: p.predict("-o", p.out / "new", sources=sorted(p.out.glob("*.png"))),
        "contain only results",
    ),
    "no model": (
        lambda p: main(["predict", str(p.photos), "-o", str(p.out)]),
        "coco-panoptic/swin-t for photographs",
    ),
    "no model for a video": (
        lambda p: main(["track", str(p.photos), "-o", str(p.out)]),
        "coco-panoptic/swin-t for photographs",
    ),
    "tiles that share more than half": (
        lambda p: p.predict("--tile", 64, "--tile-overlap", 33),
        "tile_overlap 33 must be at most half of tile 64",
    ),
    "a threshold out of range": (lambda p: p.predict("--score-threshold", 1.5), "--score-threshold is 1.5; expected"),
    "metrics over the annotations": (
        lambda p: _evaluate(p, "--json", p.photos / "val.json"),
        "is an input",
    ),
    "results over the annotations": (
        lambda p: _evaluate(p, "--results", p.photos / "val.json"),
        "is an input",
    ),
    "metrics over the model": (lambda p: _evaluate(p, "--json", p.model), "is an input"),
    "results among the images": (lambda p: _evaluate(p, "--results", p.photos), "is an input"),
    "panoptic results among the images": (
        lambda p: _evaluate(p, "--results", p.photos.with_suffix(".json")),
        "is an input",
    ),
}


def _file(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        path.write_text(text)
    return path


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _linked(target: Path, folder: Path, index: Place, name: str = "", *, hard: bool = False) -> Path:
    """Make ``folder`` with a link to an image or to a folder with one."""
    folder.mkdir()
    if not target.exists():
        target.mkdir()
        shutil.copy(index.photos / "a.png", target)
    link = folder / (name or target.name)
    link.hardlink_to(target) if hard else link.symlink_to(target)
    return folder


def _copy(path: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return Path(shutil.copy(path, folder))


def _evaluate(index: Place, *words: object) -> int:
    annotations = _file(index.photos / "val.json", '{"images": [], "annotations": [], "categories": []}')
    given = ["--annotations", annotations, "--images", index.photos, *words]
    return main(["evaluate", str(index.model), *map(str, given)])


@pytest.mark.parametrize("row", REFUSED)
def test_refused_before_anything_is_touched(row: str, index: Place, capsys: pytest.CaptureFixture[str]) -> None:
    do, words = REFUSED[row]
    before = index.snapshot()
    assert do(index) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error
    after = index.snapshot()
    assert {name: after[name] for name in before} == before
    assert all(Path(name).parts[0] in ("photos", "labels", "thumbnails") for name in after.keys() - before.keys())


# --- right, or noted -------------------------------------------------------------------------------------------------

RIGHT: dict[str, tuple[Do, str, Callable[[Place], bool]]] = {
    "nothing has changed": (lambda p: p.predict(), "2 skipped", lambda p: True),
    "another image of the same name": (
        lambda p: _then(p.draw("b.bmp", seed=99), p.predict),
        "results of other images of the same name, replaced (1): ",
        lambda p: p.document("b")["instances"] == _fresh(p, "b.bmp"),
    ),
    "another image under another suffix": (
        lambda p: _then(p.draw("b.jpg", seed=99) and (p.photos / "b.bmp").unlink(), p.predict),
        "replaced (1): ",
        lambda p: p.document("b")["provenance"]["image"] == "b.jpg",
    ),
    "the same image, touched": (lambda p: _then((p.photos / "a.png").touch(), p.predict), "2 skipped", lambda p: True),
    "a missing overlay": (
        lambda p: _then((p.out / "a.png").unlink(), p.predict),
        "1 image segmented",
        lambda p: (p.out / "a.png").exists(),
    ),
    "first without overlays": (
        lambda p: _then(p.predict("--overwrite", "--no-overlays"), p.predict),
        "2 images segmented",
        lambda p: (p.out / "a.png").exists(),
    ),
    "anew without overlays": (
        lambda p: p.predict("--overwrite", "--no-overlays", "--score-threshold", 0.09),
        "2 images segmented",
        lambda p: not (p.out / "a.png").exists(),  # it would show an earlier result
    ),
    "another task over it": (
        lambda p: _then(p.predict("--overwrite", task="panoptic"), lambda: p.predict("--overwrite", task="semantic")),
        "2 images segmented",
        lambda p: not (p.out / "a_ids.png").exists() and (p.out / "a_labels.png").exists(),
    ),
    "other settings": (
        lambda p: p.predict("--score-threshold", 0.09),
        "; 2 skipped and not counted because their results come from another model, other classes or settings, or",
        lambda p: p.document()["settings"]["instance_threshold"] == 0.07,
    ),
    "other weights under the same name": (
        lambda p: _then(_retrain(p.model), p.predict),
        "2 skipped and not counted",
        lambda p: True,
    ),
    "other names of classes": (
        lambda p: _then(_rename(p.model, name="tumour"), p.predict),
        "2 skipped and not counted",
        lambda p: {item["category_name"] for item in p.document()["instances"]} <= {"cat", "dog"},
    ),
    "other names of classes, made anew": (
        lambda p: _then(_rename(p.model, name="tumour"), lambda: p.predict("--overwrite")),
        "2 images segmented",
        lambda p: "tumour" in {item["category_name"] for item in p.document()["instances"]},
    ),
    "other ids of classes": (
        lambda p: _then(_rename(p.model, id=77), p.predict),
        "2 skipped and not counted",
        lambda p: True,
    ),
    "other things": (
        lambda p: _then(_rename(p.model, is_thing=False), p.predict),
        "2 skipped and not counted",
        lambda p: True,
    ),
    "other colours of classes": (
        lambda p: _then(_rename(p.model, color=(1, 2, 3)), p.predict),
        "2 skipped because their results already exist",
        lambda p: True,
    ),
    "a COCO file that nobody needs": (
        lambda p: p.predict("--coco", "/dev/null"),
        "COCO results: /dev/null",
        lambda p: Path("/dev/null").is_char_device(),
    ),
    "what a killed run has left": (
        lambda p: _then((p.out / ".m2f-01234567.tmp").write_text("half"), p.predict),
        "note: temporary files that killed runs had left were removed (1)\n",
        lambda p: not (p.out / ".m2f-01234567.tmp").exists(),
    ),
    "what a killed run of tracks has left": (
        lambda p: _then(
            (p.out / ".m2f-01234567.mp4").write_text("half"),
            lambda: main(["track", str(p.photos), "-o", str(p.out), "-m", str(p.model), "--no-video"]),
        ),
        "note: temporary files that killed runs had left were removed (1)\n",
        lambda p: not (p.out / ".m2f-01234567.mp4").exists(),
    ),
    "the same weights under another name": (
        lambda p: p.predict(model=_copy(p.model, p.photos.parent / "elsewhere")),
        "2 skipped because their results already exist",
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
        "overlays and maps of earlier results, not used as images (2): ",
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
    "one instance of a model whose best predictions are stuff": (
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


def _fresh(index: Place, name: str) -> Any:
    result = Predictor.from_pretrained(index.model, device="cpu")(index.photos / name, "instance")
    return json.loads(json.dumps(result.to_dict()["instances"]))


def _retrain(path: Path) -> None:
    model = checkpoints.from_pretrained(path)
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    checkpoints.save(model, path)


def _rename(path: Path, **changes: Any) -> Path:
    """Change the first class of a model file."""
    model = checkpoints.from_pretrained(path)
    assert model.categories is not None
    first, *others = model.categories
    model.categories = Categories((replace(first, **changes), *others), model.categories.ignore_label)
    checkpoints.save(model, path)
    return path


@pytest.mark.parametrize("row", RIGHT)
def test_right_or_said(row: str, index: Place, capsys: pytest.CaptureFixture[str]) -> None:
    do, words, is_right = RIGHT[row]
    assert do(index) == 0
    captured = capsys.readouterr()
    assert words in captured.out.splitlines()[-1] + captured.err
    assert is_right(index)


def test_one_threshold_for_what_is_written_drawn_and_counted(index: Place, capsys: pytest.CaptureFixture[str]) -> None:
    everything = Predictor.from_pretrained(index.model, device="cpu")(
        index.photos / "a.png", "instance", instance_threshold=0
    )
    with Image.open(index.photos / "a.png") as opened:
        image = np.asarray(opened.convert("RGB"))
    for words, threshold in (([], 0.07), (["--score-threshold", "0.09"], 0.09), (["--score-threshold", "0"], 0.0)):
        assert index.predict("--overwrite", *words, sources=[index.photos / "a.png"]) == 0
        expected = int((everything.scores >= threshold).sum())
        line = f"{expected} instances of {len(everything)} candidates at or above score {threshold:g} in 1 image"
        assert line in capsys.readouterr().out
        scores = [record["score"] for record in index.document()["instances"]]
        assert scores == everything.scores[:expected].tolist()
        drawn = np.asarray(Image.open(index.out / "a.png"))
        assert np.array_equal(drawn, np.asarray(everything.at_least(threshold).plot(image, scale=None)))
    assert 0 < (everything.scores >= 0.09).sum() < (everything.scores >= 0.07).sum() < len(everything)


@pytest.mark.parametrize("words", [[], ["--overwrite"]])
def test_old_results_are_not_those_of_an_image_that_cannot_be_read(
    index: Place, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    image = index.photos / "a.png"
    image.write_bytes(image.read_bytes()[:200])
    assert index.predict("--coco", index.coco, *words) == 1
    notes = capsys.readouterr().err
    assert "removed because the new images could not be segmented (1): " in notes
    assert "same name, replaced" not in notes
    assert {record["image_id"] for record in json.loads(index.coco.read_text())} == {"b"}
    assert not list(index.out.glob("a*"))


def test_results_of_an_image_that_failed_before_and_fails_again_are_not_noted(
    index: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    (index.photos / "c.png").write_bytes(b"")
    assert index.predict("--coco", index.coco) == 1
    assert index.predict("--coco", index.coco) == 1
    assert "removed" not in capsys.readouterr().err
    assert {record["image_id"] for record in json.loads(index.coco.read_text())} == {"a", "b"}


@pytest.mark.parametrize("is_named", [True, False])
def test_one_coco_file_into_a_pipe(index: Place, is_named: bool) -> None:
    received: list[str] = []
    ends = () if is_named else os.pipe()
    source, path = (Path(f"/dev/fd/{end}") for end in ends) if ends else [_pipe(index.coco)] * 2
    reader = threading.Thread(target=lambda: received.append(source.read_text()), daemon=True)
    reader.start()
    assert index.predict("--coco", path) == 0
    for end in reversed(ends):
        os.close(end)
    reader.join(timeout=60)
    assert len(json.loads(received[0])) == 40
