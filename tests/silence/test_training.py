"""Resumed runs, and runs that start from a model: settings take effect, are noted, or are rejected unchanged."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from runs import SHORT, run_values, table
from safetensors.torch import load_file

from mask2former import checkpoints
from mask2former.cli import main
from mask2former.config import EvaluationConfig, RunConfig, TrainerConfig, parse
from mask2former.errors import UserError
from mask2former.training.module import TrainingModule
from mask2former.training.result import TrainingResult, how_it_ended
from mask2former.training.resume import LastState
from mask2former.training.run import train

pytestmark = [
    pytest.mark.usefixtures("unpredicted_memory"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*"),
]

CLASSES = ("cell", "dirt", "bubble")


def write_data(folder: Path, names: tuple[str, ...] = CLASSES, count: int = 4) -> dict[str, Any]:
    """Write images with one square of each class in COCO's format; return the settings of the data set."""
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(count):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
            folder / f"{number}.png"
        )
        images.append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 64})
        for index, name in enumerate(CLASSES):
            x, y = 4 + 20 * index, 5 + 9 * number
            corners = [x, y, x + 14, y, x + 14, y + 14, x, y + 14]
            entry = {"id": len(annotations), "image_id": number, "segmentation": [corners], "iscrowd": 0}
            if name in names:
                annotations.append({**entry, "category_id": 10 + CLASSES.index(name), "bbox": [x, y, 14, 14]})
    categories = [{"id": 10 + CLASSES.index(name) if name in CLASSES else 99, "name": name} for name in names]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "objects.json").write_text(json.dumps(content))
    files = [{"annotations": str(folder / "objects.json"), "images": str(folder)}]
    return {"name": "coco-instance", "train": files, "validation": files}


def values_of(output: Path, dataset: dict[str, Any]) -> dict[str, Any]:
    values = run_values(output, data__dataset=dataset)
    values["model"]["inference"]["tasks"] = ["instance"]
    values["evaluation"] = {"interval": 2, "tasks": ["instance"], "monitor": "instance/AP", "num_images": 0}
    values["trainer"] = {**SHORT, "max_steps": 2, "checkpoint_interval": 1}
    values["optim"] |= {"lr": 1e-3, "schedule": "poly"}
    return values


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The settings of a finished run of two steps."""
    folder = tmp_path_factory.mktemp("finished")
    values = values_of(folder / "run", write_data(folder / "data"))
    train(parse(RunConfig, values, "test"))
    return values


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def copied(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Copy the folder of a run; return its settings with that folder."""
    shutil.copytree(values["output"], folder)
    return json.loads(json.dumps(values)) | {"output": str(folder)}


def put(values: dict[str, Any], path: str, value: Any) -> None:
    *groups, name = path.split(".")
    for group in groups:
        values = values.setdefault(group, {})
    values[name] = value


# --- refused, and nothing is touched ------------------------------------------------------------------------------

REFUSED: dict[str, tuple[str, Any, str]] = {
    "more queries": ("model.transformer_decoder.num_queries", 24, "num_queries was 20 and is 24 now"),
    "another backbone": ("model.backbone.kwargs", {"channels": [16, 32, 32, 32]}, "model.backbone.kwargs was"),
    "frozen norms": ("model.backbone.norm", "frozen", "model.backbone.norm was batch and is frozen now"),
    "heads, same shapes": ("model.transformer_decoder.num_heads", 4, "num_heads was 2 and is 4 now"),
    "attention, same shapes": ("model.transformer_decoder.masked_attention", False, "attention was masked and is full"),
    "a start, too late": ("model.init", "scenes-tiny", "model.init was None and is scenes-tiny now"),
    "order of classes": ("data", ("dirt", "cell", "bubble"), "in another order: class 0 was 'cell' but is 'dirt' now"),
    "a class less": ("data", ("cell", "dirt"), "other classes (gone: bubble): 3 before, 2 now"),
    "a class more": ("data", ("cell", "dirt", "bubble", "dust"), "other classes (new: dust): 3 before, 4 now"),
    "a class renamed": ("data", ("cell", "dirt", "foam"), "gone: bubble; new: foam"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_weights_contradict_is_refused_untouched(
    finished: dict[str, Any], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, value, words = REFUSED[name]
    values = copied(finished, tmp_path / "run")
    values["trainer"]["max_steps"] = 3
    if path == "data":
        values["data"]["dataset"] = write_data(tmp_path / "other", value)
    else:
        put(values, path, value)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    before = snapshot(tmp_path / "run")
    assert main(["train", str(tmp_path / "run.yaml"), "--resume", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert snapshot(tmp_path / "run") == before


# --- takes effect -------------------------------------------------------------------------------------------------


class SeenError(Exception):
    """Ends a resumed run before its first step."""


Check = Callable[[TrainingModule, Any], bool]
EFFECTS: dict[str, tuple[dict[str, Any], Check, str]] = {
    "weight decay": (
        {"optim.weight_decay": 0.2},
        lambda module, optimizer: {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.2},
        "optim.weight_decay 0.05 -> 0.2",
    ),
    "rate of the backbone": (
        {"optim.backbone_multiplier": 0.1},
        lambda module, optimizer: {group["lr_multiplier"] for group in optimizer.param_groups} == {0.1, 1.0},
        "optim.backbone_multiplier 1.0 -> 0.1",
    ),
    "betas and eps": (
        {"optim.betas": [0.8, 0.9], "optim.eps": 1e-6},
        lambda module, optimizer: (
            optimizer.param_groups[0]["betas"] == (0.8, 0.9) and optimizer.param_groups[1]["eps"] == 1e-6
        ),
        "optim.betas [0.9, 0.999] -> [0.8, 0.9]",
    ),
    "averaging on": (
        {"optim.ema_decay": 0.9},
        lambda module, optimizer: (
            module.average is not None
            and module.average.updates == 0
            and all(
                torch.equal(value, module.model.state_dict()[name]) for name, value in module.average.values.items()
            )
        ),
        "metrics before and after step 2 cannot be compared (optim.ema_decay)",
    ),
    "loss": (
        {"criterion.dice_weight": 9.0},
        lambda module, _: getattr(module.criterion, "weights", {}).get("loss_dice") == 9.0,
        "criterion.dice_weight 5.0 -> 9.0",
    ),
    "patience": (
        {"evaluation.patience": 7},
        lambda module, _: [one.patience for one in module.trainer.early_stopping_callbacks] == [7],
        "evaluation.patience None -> 7",
    ),
    "longer": (
        {"trainer.max_steps": 5},
        lambda module, _: module.trainer.max_steps == 5,
        "the learning rate after step 2 changes from 0 to 0.00063",
    ),
    "seed": ({"seed": 6}, lambda module, _: module.config.seed == 6, "the order of samples changes"),
    "batch": ({"data.batch_size": 2}, lambda module, _: True, "the order of samples changes after step 2"),
    "dropout": (
        {"model.pixel_decoder.dropout": 0.3},
        lambda module, _: 0.3 in {getattr(part, "p", None) for part in module.model.pixel_decoder.modules()},
        "model.pixel_decoder.dropout 0.0 -> 0.3",
    ),
}


# What changes in one resumed run: settings of the optimizer, settings of the loss and the run, and those only noted.
TOGETHER = (
    ("weight decay", "rate of the backbone", "betas and eps", "seed"),
    ("loss", "patience", "longer", "dropout"),
    ("averaging on", "batch"),
)


@pytest.mark.parametrize("names", TOGETHER, ids=", ".join)
def test_what_may_change_takes_effect_and_is_said(
    finished: dict[str, Any],
    names: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values = copied(finished, tmp_path / "run")
    values["trainer"]["max_steps"] = 3
    for name in names:
        for path, value in EFFECTS[name][0].items():
            put(values, path, value)
    moments = torch.load(Path(values["output"]) / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"]
    seen: list[list[str]] = []

    def looked_at(self: TrainingModule, window: Any, batch_idx: int) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        assert len(optimizer.state) == len(moments[0]["state"])  # nothing that was learned is forgotten
        seen.append([name for name in names if EFFECTS[name][1](self, optimizer)])
        raise SeenError

    monkeypatch.setattr(TrainingModule, "training_step", looked_at)
    with pytest.raises(SeenError):
        train(parse(RunConfig, values, "test"), resume=True)
    assert seen == [list(names)]
    shown = capsys.readouterr().out
    assert not [name for name in names if EFFECTS[name][2] not in shown]


def test_every_effect_is_tried_once() -> None:
    assert sorted(name for names in TOGETHER for name in names) == sorted(EFFECTS)


def test_what_is_measured_otherwise_is_not_compared_with_the_best(
    finished: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = copied(finished, tmp_path / "run")
    values["trainer"]["max_steps"] = 3
    values["evaluation"] |= {"monitor": "instance/AR100", "interval": 1}
    result = train(parse(RunConfig, values, "test"), resume=True)
    assert result.best is not None
    assert result.best[0] == pytest.approx(result.metrics["instance/AR100"])  # not AP of step 2, whatever it was
    assert (tmp_path / "run" / "checkpoints" / "best-before-step-2.ckpt").is_file()
    assert "the best validation and patience start over" in capsys.readouterr().out


def test_a_finished_run_says_so_and_changes_nothing(
    finished: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = copied(finished, tmp_path / "run")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    before = snapshot(tmp_path / "run")
    assert main(["train", str(tmp_path / "run.yaml"), "--resume", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert "is finished: 2 of 2 steps are done (raise trainer.max_steps to continue); nothing was changed" in shown
    assert "model.safetensors (instance/AP " in shown
    assert snapshot(tmp_path / "run") == before


def test_a_run_that_was_interrupted_before_its_end_is_not_finished(
    finished: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = copied(finished, tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    killed = [tmp_path / "run" / ".m2f-01234567.tmp", tmp_path / "run" / "checkpoints" / ".m2f-89abcdef.tmp"]
    for path in killed:
        path.write_text("half")
    result = train(parse(RunConfig, values, "test"), resume=True)
    assert result.model.is_file()
    assert not any(path.exists() for path in killed)
    shown = capsys.readouterr().out
    assert "all 2 steps had been completed" in shown
    assert "note: temporary files that killed runs had left were removed (2)\n" in shown


def test_checkpoints_of_0_1_0_are_compared_with_the_run_file(
    finished: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = copied(finished, tmp_path / "run")
    values["trainer"]["max_steps"] = 3
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    del state["run"]
    for name, callback in state["callbacks"].items():
        if name.startswith("KeepCheckpoints"):
            state["callbacks"][name] = {"best_value": callback["best_value"]}
    torch.save(state, last)
    put(values, "model.transformer_decoder.num_queries", 24)
    with pytest.raises(UserError, match="num_queries was 20 and is 24 now"):
        train(parse(RunConfig, values, "test"), resume=True)
    put(values, "model.transformer_decoder.num_queries", 20)
    train(parse(RunConfig, values, "test"), resume=True)
    assert "last.ckpt has no record of its settings and classes (version 0.1.0 wrote none)" in capsys.readouterr().out
    assert "run" in torch.load(last, weights_only=True)


# --- a run that starts from a model -------------------------------------------------------------------------------


def start_values(finished: dict[str, Any], output: Path, **model: Any) -> dict[str, Any]:
    values = json.loads(json.dumps(finished)) | {"output": str(output)}
    values["model"] = {"init": f"{finished['output']}/model.safetensors", **model}
    values["optim"]["lr"] = 1e-12
    return values


def test_the_architecture_comes_from_the_start_which_is_measured_first(
    finished: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = start_values(finished, tmp_path / "run", inference={"score_threshold": 0.3})
    values["evaluation"]["choose_threshold"] = False
    result = train(parse(RunConfig, values, "test"))
    before, after = (checkpoints.open_checkpoint(path) for path in (values["model"]["init"], result.model))
    assert after.info.architecture == before.info.architecture
    assert after.info.inference == before.info.inference.model_copy(update={"instance_threshold": 0.3})
    written = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert written["model"]["backbone"]["kwargs"] == {"channels": [16, 32, 32, 64]}
    first = table(tmp_path / "run")[0]
    assert (first["global_step"], first["loss"]) == ("0", "")
    assert result.start == pytest.approx(float(first["instance/AP"]))
    assert result.best == (result.start, 0)  # nothing can have changed at this rate
    assert f"instance/AP started at {result.start:.1f}, best {result.start:.1f} (step 0), last" in str(result)
    assert (
        "warning: no validation was better than the initial model, so model.safetensors holds the initial weights"
        in str(result)
    )
    values["trainer"]["max_steps"] = 3  # the same file again: what it leaves out is taken from the run
    capsys.readouterr()
    again = train(parse(RunConfig, values, "test"), resume=True)
    assert again.start == result.start
    assert "Starting from" not in capsys.readouterr().out


def test_validation_at_the_start_changes_no_step(
    finished: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = start_values(finished, tmp_path / "measured")
    values["optim"]["lr"] = 1e-3
    measured = train(parse(RunConfig, values, "test"))
    values["output"] = str(tmp_path / "not")
    monkeypatch.setattr("mask2former.training.start.takes_class_head", lambda *_, **__: False)
    plain = train(parse(RunConfig, values, "test"))
    assert (measured.start is None, plain.start is None) == (False, True)
    states = [torch.load(run.directory / "checkpoints" / "last.ckpt", weights_only=True) for run in (measured, plain)]
    first, second = (state["state_dict"] for state in states)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("model", "names", "words"),
    [
        ({"transformer_decoder": {"num_queries": 24}}, CLASSES, "num_queries is 24 in the run but 20 in the weights"),
        ({"backbone": {"name": "swin"}}, CLASSES, "model.backbone.name is swin in the run but timm in the weights"),
        ({}, ("cell", "dirt"), "its classes are not those of the training data"),
        ({}, ("dirt", "cell", "foam"), "its classes are not those of the training data"),
    ],
)
def test_a_start_that_does_not_fit_is_refused_by_setting(
    finished: dict[str, Any], tmp_path: Path, model: dict[str, Any], names: tuple[str, ...], words: str
) -> None:
    values = start_values(finished, tmp_path / "run", **model)
    values["data"]["dataset"] = write_data(tmp_path / "data", names)
    with pytest.raises(UserError, match=words):
        train(parse(RunConfig, values, "test"))
    assert not (tmp_path / "run").exists()


def test_a_start_that_another_recipe_leaves_is_named(finished: dict[str, Any], tmp_path: Path) -> None:
    values = start_values(finished, tmp_path / "run")
    values["model"]["init"] = str(tmp_path / "nuclei-middle" / "model.safetensors")
    with pytest.raises(UserError, match=r"the result of the recipe 'nuclei-middle' .*model\.init=nuclei"):
        train(parse(RunConfig, values, "test"))


@pytest.mark.parametrize(
    ("step", "waited", "model_is", "words"),
    [
        (300, 0, "newer", "300 of 200 steps are done"),
        (200, 0, "newer", "200 of 200 steps are done"),
        (100, 3, "newer", "it stopped at step 100 after 3 validations without improvement"),
        (100, 2, "newer", None),
        (200, 0, "older", None),  # interrupted in its last validation; the model is of an earlier end
        (200, 0, "missing", None),
    ],
)
def test_what_counts_as_finished(tmp_path: Path, step: int, waited: int, model_is: str, words: str | None) -> None:
    last, model = tmp_path / "last.ckpt", tmp_path / "model.safetensors"
    last.touch()
    if model_is != "missing":
        model.touch()
        shift = 10 if model_is == "newer" else -10
        os.utime(model, (last.stat().st_mtime + shift, last.stat().st_mtime + shift))
    config = RunConfig(trainer=TrainerConfig(max_steps=200), evaluation=EvaluationConfig(patience=3))
    state = LastState(last, step, config, 2, None, None, None, waited, ())
    end = how_it_ended(state, config, model)
    assert end is None if words is None else end is not None and end.startswith(words)


@pytest.mark.parametrize(
    ("start", "best", "is_average", "figure", "lines"),
    [
        (53.5, (54.1, 400), False, "54.1", ["AP started at 53.5, best 54.1 (step 400), last 49.9"]),
        (53.5, (54.1, 400), True, "49.9", ["AP started at 53.5, best 54.1 (step 400), last 49.9"]),
        (None, (54.1, 400), False, "54.1", ["AP best 54.1 (step 400), last 49.9"]),
        (
            53.5,
            (53.5, 0),
            True,
            "49.9",
            ["AP started at 53.5, best 53.5 (step 0), last 49.9", "holds the averaged weights of the last step"],
        ),
        (
            53.5,
            (53.5, 0),
            False,
            "53.5",
            ["started at 53.5", "warning: no validation was better than the initial model"],
        ),
    ],
)
def test_the_end_says_what_became_of_the_start(
    start: float | None, best: tuple[float, int], is_average: bool, figure: str, lines: list[str]
) -> None:
    result = TrainingResult(Path("run"), Path("m"), "AP", {"AP": 49.9}, start, best, is_average)
    first, *rest = str(result).splitlines()
    assert first.startswith(f"Model: m (AP {figure})")  # of the weights that are in the file
    assert len(rest) == len(lines)
    assert all(expected in line for expected, line in zip(lines, rest, strict=True))


def test_classes_in_another_order_are_taken_by_name(
    finished: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = start_values(finished, tmp_path / "run")
    values["data"]["dataset"] = write_data(tmp_path / "data", ("bubble", "cell", "dirt"))
    values["trainer"]["max_steps"] = 1
    result = train(parse(RunConfig, values, "test"))
    assert "classes reordered as in the training data" in capsys.readouterr().out
    name = "transformer_decoder.class_head.bias"
    before, after = load_file(values["model"]["init"])[name], load_file(result.model)[name]
    torch.testing.assert_close(after, before[[2, 0, 1, 3]])


# --- the figure belongs to the weights -------------------------------------------------------------------------------


class KilledError(Exception):
    """Stands for a kill of the run."""


def killed_at(values: dict[str, Any], step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resume a run, and kill it before this step."""
    original = TrainingModule.training_step

    def until(self: TrainingModule, window: Any, batch_idx: int) -> None:
        if self.global_step >= step:
            raise KilledError
        original(self, window, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingModule, "training_step", until)
        with pytest.raises(KilledError):
            train(parse(RunConfig, values, "test"), resume=True)


def content(values: dict[str, Any], name: str) -> dict[str, Any]:
    return torch.load(Path(values["output"]) / "checkpoints" / name, weights_only=True)


def going_on(finished: dict[str, Any], folder: Path) -> dict[str, Any]:
    values = copied(finished, folder)
    values["trainer"] |= {"max_steps": 4, "checkpoint_interval": 4}
    values["evaluation"]["interval"] = 1
    return values


OTHERWISE: dict[str, tuple[str, Any]] = {
    "monitor": ("evaluation.monitor", "instance/AR100"),
    "size of images": ("model.inference.short_edge", 96),
    "validation data": ("data", ""),
}


# Slow: tests/unit/training/test_resume.py tests, too, that these settings and data start the search over.
@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name != "monitor" else []) for name in OTHERWISE],
)
def test_a_killed_run_that_measured_otherwise_leaves_no_figure_behind(
    finished: dict[str, Any],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values = going_on(finished, tmp_path / "run")
    before = content(values, "best.ckpt")
    path, value = OTHERWISE[name]
    other = json.loads(json.dumps(values))
    if path == "data":
        folder = tmp_path / "other"
        other["data"]["dataset"]["validation"] = write_data(folder, ("cell", "dirt", "bubble"))["validation"]
        table_of_it = json.loads((folder / "objects.json").read_text())
        del table_of_it["annotations"][0]  # as many images of the same names, but other objects
        (folder / "objects.json").write_text(json.dumps(table_of_it))
    else:
        put(other, path, value)
    for _ in range(2 if name == "monitor" else 1):  # another one resumes from the same last.ckpt and puts nothing aside
        killed_at(other, 3, monkeypatch)
        measured = content(other, "best.ckpt")
        assert measured["global_step"] > before["global_step"]
        aside = content(other, "best-before-step-2.ckpt")
        assert torch.equal(
            aside["state_dict"]["model.transformer_decoder.class_head.bias"],
            before["state_dict"]["model.transformer_decoder.class_head.bias"],
        )
    assert not (tmp_path / "run" / "checkpoints" / "best-before-step-2-2.ckpt").exists()
    capsys.readouterr()
    values["evaluation"]["interval"] = 4  # one more validation
    result = train(parse(RunConfig, values, "test"), resume=True)
    shown = capsys.readouterr().out
    assert "best-before-step-2.ckpt was measured with the current settings" in shown
    assert "best.ckpt was measured with other settings and has been renamed to best-before-step-2-2.ckpt" in shown
    best = content(values, "best.ckpt")
    assert result.best == (best["callbacks"]["KeepCheckpoints"]["best_value"], best["global_step"])
    assert best["run"]["config"]["evaluation"]["monitor"] == "instance/AP"
    bias = load_file(result.model)["transformer_decoder.class_head.bias"]
    assert torch.equal(bias, best["state_dict"]["model.transformer_decoder.class_head.bias"])


def test_data_that_have_moved_are_the_same_data(
    finished: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = going_on(finished, tmp_path / "run")
    values["trainer"]["max_steps"] = 3
    values["data"]["dataset"] = write_data(tmp_path / "moved")
    train(parse(RunConfig, values, "test"), resume=True)
    shown = capsys.readouterr().out
    assert "data.dataset.validation" in shown
    assert "cannot be compared" not in shown


def test_a_best_checkpoint_that_is_gone_is_said(
    finished: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = going_on(finished, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    state["callbacks"]["KeepCheckpoints"] |= {"best_value": 99.0, "best_step": 2}
    torch.save(state, last)
    (tmp_path / "run" / "checkpoints" / "best.ckpt").unlink()
    result = train(parse(RunConfig, values, "test"), resume=True)
    assert (
        "the checkpoint of the best instance/AP no longer exists: the search for the best validation starts over"
        in (capsys.readouterr().out)
    )
    assert result.best is not None
    assert result.best[0] < 99.0


def test_a_damaged_best_checkpoint_is_refused_untouched(finished: dict[str, Any], tmp_path: Path) -> None:
    values = going_on(finished, tmp_path / "run")
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:100])
    before = snapshot(tmp_path / "run")
    with pytest.raises(UserError, match=r"best\.ckpt is damaged .*; restore the file from a copy, or delete it"):
        train(parse(RunConfig, values, "test"), resume=True)
    assert snapshot(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("evaluation.monitor", "instance/AR100", "evaluation.monitor instance/AP -> instance/AR100"),
        pytest.param("optim.ema_decay", 0.9, "optim.ema_decay 0.0 -> 0.9", marks=pytest.mark.long),
        pytest.param("trainer.max_steps", 1, "trainer.max_steps 2 -> 1", marks=pytest.mark.long),
    ],
)
def test_a_finished_run_reports_what_it_was_made_with(
    finished: dict[str, Any], path: str, value: Any, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = train(parse(RunConfig, copied(finished, tmp_path / "run"), "test"), resume=True)
    values = json.loads(json.dumps(finished)) | {"output": str(tmp_path / "run")}
    put(values, path, value)
    assert train(parse(RunConfig, values, "test"), resume=True) == plain
    assert (
        f"the run is finished, so 1 changed setting was ignored (of the run -> ignored): {words}"
        in capsys.readouterr().out
    )


def test_a_finished_run_that_went_on_for_a_while_is_no_longer_that_of_its_model(
    finished: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = going_on(finished, tmp_path / "run")
    for name in ("last.ckpt", "best.ckpt"):  # so that what comes is better
        state = content(values, name)
        state["callbacks"]["KeepCheckpoints"]["best_value"] = -1.0
        torch.save(state, Path(values["output"]) / "checkpoints" / name)
    os.utime(Path(values["output"]) / "model.safetensors")  # later than these
    killed_at(values, 3, monkeypatch)
    values["trainer"]["max_steps"] = 2
    result = train(parse(RunConfig, values, "test"), resume=True)
    best = content(values, "best.ckpt")
    assert best["global_step"] == 3
    assert result.best is not None
    assert result.best[1] == best["global_step"]
    bias = load_file(result.model)["transformer_decoder.class_head.bias"]
    assert torch.equal(bias, best["state_dict"]["model.transformer_decoder.class_head.bias"])


@pytest.mark.long
@pytest.mark.parametrize(
    ("path", "value", "stays"),
    [("evaluation.monitor", "instance/AR100", True), ("model.inference.max_instances", 7, False)],
)
def test_the_figure_of_the_start_stays_where_it_was_measured(
    finished: dict[str, Any], tmp_path: Path, path: str, value: Any, stays: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    values = start_values(finished, tmp_path / "run")
    train(parse(RunConfig, values, "test"))
    values["trainer"]["max_steps"] = 3
    put(values, path, value)
    result = train(parse(RunConfig, values, "test"), resume=True)
    first = float(table(tmp_path / "run")[0]["instance/AR100"])
    assert result.start == (pytest.approx(first) if stays else None)
    left_out = "the metric before the first step was measured with other settings and is no longer reported"
    assert (left_out in capsys.readouterr().out) is not stays


@pytest.mark.parametrize(
    ("names", "partial", "measured"),
    [
        (("cell", "dirt", "foam"), False, True),
        pytest.param(("cell", "dirt"), True, False, marks=pytest.mark.long),
        (("foam", "dust", "sand"), True, False),
    ],
)
def test_a_start_is_measured_or_it_is_said(
    finished: dict[str, Any],
    tmp_path: Path,
    names: tuple[str, ...],
    partial: bool,
    measured: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values = start_values(finished, tmp_path / "run", init_partial=partial)
    values["data"]["dataset"] = write_data(tmp_path / "data")
    file = tmp_path / "data" / "objects.json"
    text = file.read_text()
    for old, new in zip(CLASSES, names, strict=False):
        text = text.replace(f'"name": "{old}"', f'"name": "{new}"')
    if len(names) < len(CLASSES):
        write_data(tmp_path / "data", names)
    else:
        file.write_text(text)
    values["trainer"]["max_steps"] = 1
    result = train(parse(RunConfig, values, "test"))
    said = (
        "Skipping the validation before the first step because the class head is newly initialised"
        in capsys.readouterr().out
    )
    assert (result.start is not None, said) == (measured, not measured)


@pytest.mark.parametrize("ema", [pytest.param(0.0, marks=pytest.mark.long), 0.9])
def test_the_chosen_threshold_is_that_of_the_weights(finished: dict[str, Any], tmp_path: Path, ema: float) -> None:
    values = copied(finished, tmp_path / "run")
    values["optim"]["ema_decay"] = ema
    thresholds = {"last.ckpt": 0.125, "best.ckpt": 0.25}
    for name, threshold in thresholds.items():
        path = tmp_path / "run" / "checkpoints" / name
        state = torch.load(path, weights_only=True) | {"instance_threshold": threshold}
        state["run"]["config"]["optim"]["ema_decay"] = ema
        if ema:
            state["average"] = average_of(state)
        torch.save(state, path)
    (tmp_path / "run" / "model.safetensors").unlink()  # killed after the last validation
    for _ in range(2):  # the second time from the files of a finished run
        result = train(parse(RunConfig, values, "test"), resume=True)
        wanted = thresholds["last.ckpt" if ema else "best.ckpt"]
        assert result.instance_threshold == wanted
        assert checkpoints.open_checkpoint(result.model).info.inference.instance_threshold == wanted


def average_of(state: dict[str, Any]) -> dict[str, Any]:
    entries = {name.removeprefix("model."): value for name, value in state["state_dict"].items()}
    values = {name: value for name, value in entries.items() if value.is_floating_point() and "criterion" not in name}
    return {"updates": 2, "values": values}
