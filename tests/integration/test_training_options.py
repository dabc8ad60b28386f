"""Settings of a run beyond its recipe (docs/training-options.md), as users set them."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from runs import SHORT, Finished, config_of, finish, run_values, table
from safetensors.torch import load_file

from mask2former.cli import main
from mask2former.config import RunConfig, TrainerConfig, apply_overrides, parse
from mask2former.data.datasets.scenes import Scenes
from mask2former.data.transforms import class_map
from mask2former.errors import MissingExtraError, UserError
from mask2former.evaluation.scores import Evaluation
from mask2former.export import export
from mask2former.inference.predictor import Predictor
from mask2former.models.mask2former import Mask2Former
from mask2former.structures import Instances
from mask2former.structures.categories import Categories
from mask2former.structures.samples import Sample
from mask2former.training.run import train
from mask2former.training.time_limit import TimeLimit

pytestmark = pytest.mark.usefixtures("unpredicted_memory")

PAGE = Path(__file__).parents[2] / "docs" / "training-options.md"
HEAD = "transformer_decoder.class_head.weight"


def same(first: Path, second: Path) -> bool:
    left, right = load_file(first), load_file(second)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def run_from(output: Path, init: Path, **changes: Any) -> RunConfig:
    """A run that starts from the weights of another one."""
    values = run_values(output, **changes)
    values["model"]["init"] = str(init)
    return parse(RunConfig, values, "test")


class Renamed:
    """Scenes whose classes have other names."""

    def __init__(self, scenes: Scenes, names: dict[str, str]) -> None:
        self.scenes = scenes
        old = scenes.categories
        new = [names.get(item.name, item.name) for item in old]
        self.categories = Categories.from_names(
            new, [name for name, item in zip(new, old, strict=True) if item.is_thing]
        )

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int, /) -> Sample:
        return self.scenes[index]


def test_classes_of_the_same_name_go_on_with_what_they_have_learned(
    tmp_path: Path, finished_run: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = Scenes((64, 64), 0, 4)
    other = scenes.categories.names[1]
    data = Renamed(scenes, {other: "cactus"})
    changes = {"optim": {"lr": 1e-12}, "trainer": {**SHORT, "max_steps": 1}}
    config = run_from(tmp_path / "whole", finished_run.result.model, **changes)
    moved = Renamed(scenes, {scenes.categories.names[0]: other, other: "cactus"})
    with pytest.raises(UserError, match=r"init_classes=by-name .* keep what they have learned"):
        train(config, train_data=moved, validation_data=moved)
    by_name = config.model.model_copy(update={"init_classes": "by-name"})
    named = config.model_copy(update={"model": by_name, "output": str(tmp_path / "named")})
    result = train(named, train_data=data, validation_data=data)
    said = capsys.readouterr().out
    count = len(scenes.categories)
    assert f"{count - 1} of {count} classes keep what they have learned: {scenes.categories.names[0]}, " in said
    assert f"new: cactus; gone: {other}" in said
    assert "Skipping the validation before the first step because some classes are newly initialised" in said
    before, after = load_file(finished_run.result.model)[HEAD], load_file(result.model)[HEAD]
    kept = [index for index in range(count + 1) if index != 1]
    torch.testing.assert_close(after[kept], before[kept])
    assert not torch.allclose(after[1], before[1])


@pytest.mark.parametrize("resumed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_is_frozen_keeps_weights_and_statistics_and_can_be_set_free(
    tmp_path: Path, finished_run: Finished, resumed: bool
) -> None:
    """Frozen parts keep their weights and statistics (the backbone has batch norm), and learn if freeze is left out."""
    init = finished_run.result.model
    frozen: dict[str, Any] = {"freeze": ["backbone", "transformer_decoder.query_features"]}

    def config(name: str, steps: int = 2, **optim: Any) -> RunConfig:
        trainer, evaluation = {**SHORT, "max_steps": steps, "checkpoint_interval": 1}, {"interval": 1}
        return run_from(tmp_path / name, init, trainer=trainer, optim=optim, evaluation=evaluation)

    def changed(name: str) -> set[str]:
        now = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        before = load_file(init)
        return {key for key, value in before.items() if not torch.equal(now[f"model.{key}"], value)}

    model = Mask2Former.from_pretrained(init)
    whole = train(config("whole", **frozen), model=model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert changed("whole")
    assert not any(name.startswith(("backbone.", "transformer_decoder.query_features.")) for name in changed("whole"))
    if resumed:
        shown = finish(config("parts", steps=1, **frozen)).shown
        assert "frozen (optim.freeze): backbone, transformer_decoder.query_features; " in shown
        assert same(finish(config("parts", **frozen), resume=True).result.model, whole.model)
        finish(config("parts", steps=3), resume=True)
        assert {"backbone.", "transformer_decoder."} <= {f"{name.split('.')[0]}." for name in changed("parts")}
    with pytest.raises(UserError, match=r"no part 'backbones'; .* for instance backbone"):
        train(config("wrong", freeze=["backbones"]))
    with pytest.raises(UserError, match="would freeze everything that learns"):
        train(config("all", freeze=["backbone", "pixel_decoder", "transformer_decoder"]))


def test_class_weights_change_the_class_loss_alone(tmp_path: Path, finished_run: Finished) -> None:
    def first_row(name: str, weights: Any) -> dict[str, str]:
        criterion = {"num_points": 128, "class_weights": weights}
        run = finish(config_of(tmp_path / name, criterion=criterion, trainer={**SHORT, "max_steps": 1}))
        assert ("criterion.class_weights, by the number of objects in all 8 images: " in run.shown) == (
            weights == "balanced"
        )
        return table(run.folder)[0]

    plain, weighted = table(finished_run.folder)[0], first_row("balanced", "balanced")
    assert weighted["loss_ce"] != plain["loss_ce"]
    assert weighted["loss_mask"] == plain["loss_mask"]
    with pytest.raises(UserError, match=r"class_weights names treee, but the classes of the training data are "):
        train(config_of(tmp_path / "wrong", criterion={"class_weights": {"treee": 2.0}}))


@pytest.mark.parametrize(
    "calls",  # after two steps; after the first case of the validation that follows
    [pytest.param(3, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.long)],
)
def test_a_run_whose_time_is_over_goes_on_where_it_was(
    tmp_path: Path,
    finished_run: Finished,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    calls: int,
) -> None:
    trainer = {**SHORT, "max_hours": 1.0, "checkpoint_interval": 3}
    config = config_of(tmp_path / "run", trainer=trainer, evaluation={"interval": 2})
    (tmp_path / "run.yaml").write_text(config.model_dump_json())  # JSON is YAML
    with monkeypatch.context() as patch:
        seen = iter(range(100))
        patch.setattr(TimeLimit, "is_over", lambda *_: next(seen) == calls - 1)
        assert main(["train", str(tmp_path / "run.yaml")]) == 130
    said = capsys.readouterr()
    assert "trainer.max_hours 1 reached after 2 steps" in said.out
    assert f"to continue: mask2former train {tmp_path / 'run' / 'run.yaml'} --resume {tmp_path / 'run'}" in said.err
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    resumed = finish(config, resume=True)
    assert same(resumed.result.model, finished_run.result.model)
    rows = (tmp_path / "run" / "metrics.csv").read_bytes(), (finished_run.folder / "metrics.csv").read_bytes()
    assert rows[0] == rows[1]


def write_labels(folder: Path) -> dict[str, Any]:
    """Write eight scenes with their label maps; return the settings of the data set, without validation."""
    scenes = Scenes((48, 48), 0, 8)
    for index in range(len(scenes)):
        annotated = scenes.annotated(index)
        for kind, values in (("images", annotated.image), ("labels", class_map(annotated).astype(np.uint8))):
            path = folder / kind / f"{index}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(values).save(path)
    (folder / "names.txt").write_text("\n".join(scenes.categories.names))
    files = {"images": str(folder / "images"), "labels": str(folder / "labels")}
    return {"name": "label-folder", "train": [files], "names": str(folder / "names.txt")}


def semantic_run(output: Path, dataset: dict[str, Any]) -> dict[str, Any]:
    """Settings of a semantic run of one step."""
    data = {"dataset": dataset, "batch_size": 2, "num_workers": 0}
    evaluation = {"tasks": ["semantic"], "monitor": "semantic/mIoU", "interval": 1, "num_images": 0}
    values = run_values(output, data=data, evaluation=evaluation, trainer={**SHORT, "max_steps": 1})
    values["model"]["inference"] |= {"tasks": ["semantic"]}
    return values


def test_a_part_of_the_data_is_held_back_and_evaluate_measures_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without validation files a fold is held back; a run and ``evaluate --data run.yaml`` measure the same on it."""
    values = semantic_run(tmp_path / "run", write_labels(tmp_path))
    values["data"]["validation"] = {"fold": "1 of 2"}
    run = finish(parse(RunConfig, values, "test"))
    assert re.search(r"note: data.validation: [2-6] of 8 images are used for validation", run.shown)
    command = ["evaluate", str(run.result.model), "--data", str(run.folder / "run.yaml"), "--device", "cpu"]
    assert main([*command, "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["metrics"]["semantic/mIoU"] == pytest.approx(run.result.metrics["semantic/mIoU"], rel=1e-6)
    capsys.readouterr()
    assert main(["check-data", str(run.folder / "run.yaml"), "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert "do not show how the model does on other images" not in " ".join(capsys.readouterr().out.split())
    values["data"]["validation"] = {"fold": "2 of 2"}
    with pytest.raises(UserError, match=r"cannot resume .*data.validation.fold was 1 of 2 and is 2 of 2 now"):
        train(parse(RunConfig, values, "test"), resume=True)


def test_all_data_are_for_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With ``dataset.validation: []`` nothing is measured, and all commands say so; leaving it out is an error."""
    dataset = write_labels(tmp_path)
    values = semantic_run(tmp_path / "run", dataset)
    with pytest.raises(UserError, match=r"data\.dataset\.validation' is missing"):
        parse(RunConfig, values, "test")
    values["data"]["dataset"]["validation"] = []
    run = finish(parse(RunConfig, values, "test"))
    assert "note: there is no validation data: no metrics are computed, no score threshold is chosen, and" in run.shown
    assert "semantic/mIoU not measured" in str(run.result)
    assert run.result.model.exists()
    assert finish(parse(RunConfig, values, "test"), resume=True).result.model == run.result.model
    capsys.readouterr()
    file = str(run.folder / "run.yaml")
    assert main(["evaluate", str(run.result.model), "--data", file, "--device", "cpu"]) == 2
    assert "'label-folder' has no validation data (data.dataset.validation is [])" in capsys.readouterr().err
    assert main(["evaluate", str(run.result.model), "--data", file, "--split", "train", "--device", "cpu"]) == 0
    assert main(["check-data", file, "--sheet", str(tmp_path / "sheet.png")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "there is no validation data: no metrics are computed" in shown
    values["evaluation"]["patience"] = 3
    values["output"] = str(tmp_path / "other")
    with pytest.raises(UserError, match=r"patience is 3, but there is no validation data"):
        train(parse(RunConfig, values, "test"))


def test_thresholds_of_classes_are_stored_with_the_model_and_used_by_predict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = Scenes((64, 64), 0, 1)
    names = scenes.categories.names
    chosen = {name: 0.0 for name in names[:4]}
    monkeypatch.setattr(Evaluation, "best_threshold", lambda self: 0.95)
    monkeypatch.setattr(Evaluation, "class_thresholds", lambda self: chosen)  # with two images, chance would decide
    evaluation = {"interval": 1, "choose_threshold": "per-class", "tasks": ["instance"], "monitor": "instance/AP"}
    trainer = {**SHORT, "max_steps": 1}
    run = finish(config_of(tmp_path / "run", evaluation=evaluation, trainer=trainer))
    assert f"of single classes, chosen in the same way: {names[0]} 0, {names[1]} 0" in str(run.result)
    again = finish(config_of(tmp_path / "run", evaluation=evaluation, trainer=trainer), resume=True)
    assert again.result.class_thresholds == chosen
    best = Mask2Former.from_pretrained(run.folder / "checkpoints" / "best.ckpt")
    predictor = Predictor(Mask2Former.from_pretrained(run.result.model))
    for settings in (best.info.inference, predictor.settings):
        assert (settings.instance_threshold, settings.class_thresholds) == (0.95, chosen)

    image = scenes.image(0)
    everything, found = predictor(image, "instance", instance_threshold=0), predictor(image, "instance")
    assert isinstance(everything, Instances)
    assert isinstance(found, Instances)
    assert len(found) == sum(label < 4 for label in everything.labels) > 0
    assert len(everything) > len(found)
    assert not len(predictor(image, "instance", score_threshold=1.0))  # for all classes
    with pytest.raises(UserError, match="class_thresholds names dgo, but the classes are "):
        predictor(image, "instance", class_thresholds={"dgo": 0.5})
    Image.fromarray(image).save(tmp_path / "scene.png")
    command = ["predict", str(tmp_path / "scene.png"), "--model", str(run.result.model), "--task", "instance"]
    assert main([*command, "--output", str(tmp_path / "results"), "--no-overlays"]) == 0
    told = f"{len(found)} instances of {len(everything)} candidates at or above the scores of their classes in 1 image"
    assert told in " ".join(capsys.readouterr().out.split())
    assert len(json.loads((tmp_path / "results" / "scene.json").read_text())["instances"]) == len(found)
    with pytest.raises(UserError, match="'class_thresholds', which an exported file cannot apply"):
        export(best, tmp_path / "model.onnx", results="instance")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_whose_package_is_missing_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"{name} is not installed; .* pip install 'mask2former\[{name}\]'"):
        train(config_of(tmp_path / "run", trainer={**SHORT, "loggers": ["csv", name]}))
    assert not (tmp_path / "run" / "run.yaml").exists()


def test_event_files_as_they_were_asked_for_until_0_1() -> None:
    both = {"loggers": ["csv", "tensorboard"]}
    for given in ({"tensorboard": True}, {"tensorboard": True, "loggers": ["csv"]}, both):
        assert parse(TrainerConfig, given, "test").loggers == ("csv", "tensorboard")
    assert parse(TrainerConfig, {"tensorboard": False}, "test") == TrainerConfig()
    with pytest.raises(UserError, match=r"'loggers\.0'"):
        parse(TrainerConfig, {"loggers": ["wand"]}, "test")


@pytest.mark.slow  # needs wandb and mlflow-skinny, which no other test does: pip install '.[wandb,mlflow]'
@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.skipif(not all(map(importlib.util.find_spec, ("wandb", "mlflow"))), reason="wandb or mlflow is missing")
def test_a_resumed_run_goes_on_in_the_records_of_the_services(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished_run: Finished
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def config(steps: int) -> RunConfig:
        loggers = {"loggers": ["csv", "wandb", "mlflow"]}
        return config_of(tmp_path / "run", trainer={**SHORT, "max_steps": steps, **loggers})

    train(config(2))
    first = json.loads((tmp_path / "run" / "loggers.json").read_text())
    result = train(config(4), resume=True)
    assert json.loads((tmp_path / "run" / "loggers.json").read_text()) == first
    assert same(result.model, finished_run.result.model)
    assert [folder.name.rpartition("-")[2] for folder in (tmp_path / "run" / "wandb").glob("offline-run-*")] == [
        first["wandb"]
    ] * 2

    from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

    client = MlflowClient(f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}")
    assert [entry.step for entry in client.get_metric_history(first["mlflow"], "loss")] == [0, 1, 2, 3]
    assert client.get_run(first["mlflow"]).data.params["optim.lr"] == "0.0001"


@pytest.mark.parametrize(
    "resumed", [pytest.param(False, marks=pytest.mark.long), pytest.param(True, marks=pytest.mark.slow)]
)
def test_the_page_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resumed: bool) -> None:
    """The page's settings make a run file; its example, with fewer steps, keeps its record when it is resumed."""
    monkeypatch.chdir(tmp_path)
    settings = re.findall(r"\| `((?:\w+\.)+\w+=[^`]+)`", PAGE.read_text())
    assert len(settings) >= 7
    run = parse(RunConfig, apply_overrides({}, settings), "page")
    assert run.optim.freeze == ("backbone",)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    small = "dataset=ScenesConfig(image_size=(64, 64), num_validation=1), batch_size=2, num_workers=0"
    names: dict[str, Any] = {"__name__": "page"}
    for steps, arguments in ((2, ""), (3, ", resume=True"))[: 1 + resumed]:
        changes = (
            ("DataConfig(batch_size=8)", f"DataConfig({small})"),
            ("max_steps=1000", f"max_steps={steps}, accelerator='cpu', log_interval=1"),
            ("interval=1000", "interval=9, num_images=0"),
            (
                "RunConfig(\n",
                "RunConfig(criterion=CriterionConfig(num_points=64), optim=OptimConfig(schedule='step'),\n",
            ),
            ("[worst])", f"[worst]{arguments})"),
            ("import DataConfig", "import CriterionConfig, OptimConfig, ScenesConfig, DataConfig"),
        )
        shorter = block
        for long, short in changes:
            assert block.count(long) == 1, long
            shorter = shorter.replace(long, short)
        exec(compile(shorter, str(PAGE), "exec"), names)
    losses = [float(row["loss"]) for row in table(tmp_path / "runs" / "watched") if row["loss"]]
    assert len(losses) == 2 + resumed
    assert names["worst"].loss == pytest.approx(max(losses), rel=1e-6)
    assert names["worst"].step == 1 + losses.index(max(losses))


@pytest.mark.slow
def test_the_batch_size_that_fits_is_found_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished_run: Finished
) -> None:
    """With little memory a pass has one image; a resumed run keeps that, however much memory there is then."""

    def config(steps: int, micro: int | str = "auto") -> RunConfig:
        name = "auto" if micro == "auto" else "set"
        trainer = {**SHORT, "max_steps": steps, "precision": "bf16"}
        return config_of(tmp_path / name, data__batch_size_per_device=micro, trainer=trainer)

    monkeypatch.setattr("mask2former.training.batch_size.available_memory", lambda: 2**20)
    shown = finish(config(2)).shown
    assert "data.batch_size_per_device auto is 1 (0.00 GiB for weights, gradients and optimizer and 0.0" in shown
    assert "even one image may be too many" in shown
    assert "4 images per step = 1 device x 1 x 4 accumulated" in shown
    assert "batch_size_per_device: 1\n" in (tmp_path / "auto" / "run.yaml").read_text()
    monkeypatch.setattr("mask2former.training.batch_size.available_memory", lambda: 2**40)
    resumed = finish(config(4), resume=True)
    assert "1 setting changes after step 2 (before -> now): trainer.max_steps 2 -> 4\n" in resumed.shown
    assert same(resumed.result.model, train(config(4, 1)).model)


def test_a_learning_rate_is_found_without_a_trace_in_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], finished_run: Finished
) -> None:
    config = run_from(tmp_path / "run", finished_run.result.model)
    (tmp_path / "run.yaml").write_text(config.model_dump_json())
    command = ["find-lr", str(tmp_path / "run.yaml"), "-o", str(tmp_path / "rates.png"), "data.batch_size=1"]
    assert main([*command, "--steps", "12", "--lowest", "1e-5", "--highest", "1e-2"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "12 steps up to a rate of 0.01: the loss " in shown
    assert "step 12 of 12: loss " in shown
    found = json.loads((tmp_path / "rates.json").read_text())
    assert found["rates"] == pytest.approx(np.geomspace(1e-5, 1e-2, 12).tolist())
    assert len(found["losses"]) == len(found["means"]) == 12
    with Image.open(tmp_path / "rates.png") as curve:
        assert curve.size[0] > 500
    assert not (tmp_path / "run").exists()
    assert main([*command, "--steps", "5"]) == 2
    assert "--steps is 5; expected ascending rates above 0 and at least 10 steps" in capsys.readouterr().err


def test_no_step_is_taken_without_time(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(config_of(tmp_path / "run", trainer={**SHORT, "max_hours": 1e-9}))
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
