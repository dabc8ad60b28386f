"""Every command on the page about published data sets, on miniatures, with models small enough for a test."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from layouts import LAYOUTS
from runs import config_of, run_values

from mask2former import DataSource, Predictor, evaluate
from mask2former.cli import main
from mask2former.config import InferenceConfig
from mask2former.errors import UserError
from mask2former.structures import Categories, Prediction
from mask2former.training.datamodule import DataModule

PAGE = Path(__file__).parents[2] / "docs" / "datasets.md"

COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]


def _shrunk(values: dict[str, Any], output: Path) -> dict[str, Any]:
    """The settings of a recipe, with its data and tasks but the sizes of a test."""
    tiny = run_values(output)
    model = {**tiny["model"], "inference": {**values["model"]["inference"], "short_edge": 64, "long_edge": 96}}
    augmentation = dict(values["data"]["augmentation"])
    if augmentation["name"] == "large-scale-jitter":
        augmentation["image_size"] = [64, 64]
    else:
        augmentation |= {"short_edges": [48, 64], "crop_size": [32, 48]}
        augmentation["pad_size"] = augmentation["pad_size"] and [64, 64]
    return {
        **values,
        "model": model,
        "criterion": {"num_points": 64},
        "data": {
            **values["data"],
            "augmentation": augmentation,
            "batch_size": 2,
            "batch_size_per_device": 1,
            "num_workers": 0,
        },
        "trainer": {"max_steps": 1, "accelerator": "cpu", "log_interval": 1},
        "evaluation": {**values["evaluation"], "interval": 1, "num_images": 0},
    }


@pytest.mark.long
@pytest.mark.filterwarnings("default")  # Lightning gives advice as warnings
def test_every_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for layout in LAYOUTS.values():
        layout(tmp_path / "data")
    monkeypatch.setenv("MASK2FORMER_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    measured = []
    for command in COMMANDS:
        words = shlex.split(command)
        assert words.pop(0) == "mask2former"
        if words[0] == "recipe":
            assert words[2] == ">"
            assert main(words[:2]) == 0
            values = _shrunk(yaml.safe_load(capsys.readouterr().out), tmp_path)
            Path(words[3]).write_text(yaml.safe_dump(values), encoding="utf-8")
            continue
        if words[0] == "evaluate":
            words += ["--device", "cpu", "--json", "metrics.json"]
        code = main(words)
        shown = capsys.readouterr()
        assert code == 0, (command, shown.err)
        if words[0] == "evaluate":
            report = json.loads(Path("metrics.json").read_text())
            assert report["num_images"] == 2, command
            measured.append((report["data"]["name"], sorted(report["tasks"])))
    everything = ["instance", "panoptic", "semantic"]
    assert measured == [
        ("coco", everything),
        ("ade20k", everything),
        ("cityscapes", ["instance"]),
        ("mapillary-vistas", ["panoptic", "semantic"]),
        ("coco-stuff-10k", ["semantic"]),
        ("ade20k-full", ["semantic"]),
        ("coco", ["semantic"]),
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data", "kitti"], "no published data set 'kitti'; expected ade20k, ade20k-full, cityscapes, coco"),
        (["--data", "cells/val.json"], "read your own data with --annotations FILE.json --images DIR"),
        (["--data", "coco:depth"], "'dataset.task' is 'depth'; expected panoptic"),
        (["--data", "mapillary-vistas:instance"], "expected panoptic or semantic"),
        (["--data", "ade20k-full:panoptic"], "ade20k-full has labels for the task semantic only, not for panoptic"),
        (["--data", "coco:panoptic"], "COCO: there is no folder"),
        (["--data", "none.yaml"], "there is no run file 'none.yaml'"),
        (["--data", "{root}/run.yaml", "--data-root", "."], "--data-root applies to published data sets given by name"),
        (["--data", "coco", "--size", "64"], "--size applies to scenes, not to coco"),
        (["--data", "cityscapes", "--data-root", "{root}"], "the classes of the model"),
        (
            ["--data", "cityscapes:semantic", "--data-root", "{root}", "--task", "panoptic"],
            "ground truth for semantic, not",
        ),
    ],
)
def test_wrong_requests_are_one_sentence(
    args: list[str], message: str, tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    LAYOUTS["cityscapes"](tmp_path)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run_values(tmp_path / "run")), encoding="utf-8")
    words = [word.replace("{root}", str(tmp_path)) for word in args]
    assert main(["evaluate", str(tiny_file), *words]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert len(shown.splitlines()) == 1


def test_a_task_of_the_data_that_the_model_lacks_is_noted(tmp_path: Path) -> None:
    def network(images: Sequence[torch.Tensor]) -> list[Prediction]:
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        logits = torch.eye(1, 20)
        return [Prediction(logits, torch.ones(1, 1, *size), image_size=size, padded_size=size) for size in sizes]

    LAYOUTS["cityscapes"](tmp_path)
    settings = InferenceConfig(short_edge=0, tasks=("semantic",))
    predictor = Predictor(network, device="cpu", categories=Categories.load("cityscapes"), settings=settings)
    told = "'cityscapes:panoptic': the model was not trained for panoptic; measured: semantic"
    assert told in evaluate(predictor, DataSource("cityscapes:panoptic", root=tmp_path)).notes
    for data in ("cityscapes", "cityscapes:semantic"):
        assert told not in evaluate(predictor, DataSource(data, root=tmp_path)).notes
    assert told not in evaluate(predictor, DataSource("cityscapes:panoptic", root=tmp_path), "semantic").notes


def test_the_data_of_a_run_file_can_be_measured(
    tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(run_values(tmp_path / "run")), encoding="utf-8")
    code = main(["evaluate", str(tiny_file), "--data", str(file), "--device", "cpu", "--task", "semantic"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert "2 images measured" in shown.out


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        (
            {"tasks": ["instance"], "monitor": "instance/AP"},
            "evaluation.tasks contains instance, but the validation data has",
        )
    ],
)
def test_training_says_at_once_what_its_validation_data_cannot_measure(
    evaluation: dict[str, Any], message: str, tmp_path: Path
) -> None:
    LAYOUTS["mapillary-vistas"](tmp_path)
    dataset = {"name": "mapillary-vistas", "task": "panoptic", "root": str(tmp_path)}
    module = DataModule(config_of(tmp_path / "run", data__dataset=dataset, evaluation=evaluation))
    with pytest.raises(UserError, match=message):
        _ = module.validation_set


def test_the_classes_of_validation_are_those_of_training_in_any_order(tmp_path: Path) -> None:
    LAYOUTS["coco"](tmp_path)
    base = tmp_path / "coco"
    files = {
        split: {
            "annotations": str(base / "annotations" / f"panoptic_{part}2017.json"),
            "segments": str(base / f"panoptic_{part}2017"),
            "images": str(base / f"{part}2017"),
        }
        for split, part in (("train", "train"), ("validation", "val"))
    }
    content = json.loads(Path(files["validation"]["annotations"]).read_text())
    dataset = {"name": "coco-panoptic", "train": [files["train"]], "validation": [files["validation"]]}
    config = config_of(tmp_path / "run", data__dataset=dataset)
    expected = [case.ground_truths for case in DataModule(config).validation_set]
    content["categories"].reverse()
    Path(files["validation"]["annotations"]).write_text(json.dumps(content))
    found = [case.ground_truths for case in DataModule(config).validation_set]
    for before, after in zip(expected, found, strict=True):
        assert before["panoptic"].segments == after["panoptic"].segments
        assert (before["panoptic"].ids == after["panoptic"].ids).all()
    content["categories"][0]["name"] = "unheard of"
    Path(files["validation"]["annotations"]).write_text(json.dumps(content))
    with pytest.raises(UserError, match="only the data has 'unheard of'"):
        _ = DataModule(config).validation_set
