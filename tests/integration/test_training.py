"""Training from the user's view: the real model, loss and data, with Lightning."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
import yaml
from conversions import small_model
from runs import SHORT, Finished, config_of, finish, run_values, table
from safetensors.torch import load_file
from torch import Tensor

from mask2former.checkpoints.formats.original import to_original
from mask2former.cli import main
from mask2former.config import RunConfig, parse
from mask2former.data.annotated import Annotated
from mask2former.data.datasets.scenes import Scenes
from mask2former.errors import UserError
from mask2former.inference.predictor import Predictor
from mask2former.models.mask2former import Mask2Former
from mask2former.notes import collect_notes
from mask2former.ops.points import UniformPoints
from mask2former.recipes import scenes_tiny
from mask2former.structures.samples import Batch
from mask2former.training.datamodule import DataModule
from mask2former.training.module import TrainingModule
from mask2former.training.run import train

TASKS = ["panoptic", "instance", "semantic"]
FEW_SCENES = {"name": "scenes", "image_size": [32, 48], "num_training": 4, "num_validation": 1}  # fp16 is slow here
SCENE_CLIPS = {"name": "scene-clips", "image_size": [64, 64], "num_validation": 1}


quick = pytest.mark.usefixtures("unpredicted_memory")

ONE_STEP = {**SHORT, "max_steps": 1}


def same_weights(first: Path, second: Path) -> bool:
    left, right = load_file(first), load_file(second)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def one_step(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(config_of(tmp_path_factory.mktemp("runs") / "one", trainer=ONE_STEP))


def test_a_run_leaves_what_the_contract_says(finished_run: Finished) -> None:
    run, result = finished_run.folder, finished_run.result
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints",
        "images",
        "metrics.csv",
        "model.safetensors",
        "run.yaml",
        "times.csv",
    ]
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    expected = config_of(run, evaluation__num_images=2).model_dump(mode="json")
    assert yaml.safe_load((run / "run.yaml").read_text()) == expected
    assert list((run / "images").glob("*.png"))
    rows = table(run)
    assert {row["global_step"] for row in rows if row["loss"]} == {"1", "2", "3", "4"}
    assert "panoptic/PQ" in rows[0]
    model = Mask2Former.from_pretrained(result.model)
    assert model.categories is not None
    assert "PQ" in str(result)
    assert str(result.model) in str(result)
    assert "Predicted memory per device: 0.0" in finished_run.shown


@quick
def test_resumed_equals_uninterrupted(tmp_path: Path, finished_run: Finished) -> None:
    """A resumed run has the best weights of an uninterrupted one; killed runs are tested with averaged weights."""
    begun = finish(config_of(tmp_path, trainer={**SHORT, "max_steps": 2}))
    losses = r"loss [\d.]+ \(ce [\d.]+, mask [\d.]+, dice [\d.]+\); [\d.]+ s per step, \d+:\d\d:\d\d left"
    assert re.search(rf"^step 2 of 2: {losses}$", begun.shown, re.MULTILINE)
    assert re.search(r"^validation after step 2: panoptic/PQ [\d.]+ \(0:\d\d:\d\d\)$", begun.shown, re.MULTILINE)
    assert "\r" not in begun.shown  # without a terminal there are lines
    resumed = finish(config_of(tmp_path), resume=True)
    # Progress counts the steps of all parts, with the time left.
    assert re.search(rf"^step 3 of 4: {losses}$", resumed.shown, re.MULTILINE)
    assert "step 1 of" not in resumed.shown
    assert same_weights(finished_run.result.model, resumed.result.model)


@quick
def test_a_run_that_was_killed_before_its_model_was_written_has_its_metrics(
    tmp_path: Path, finished_run: Finished
) -> None:
    shutil.copytree(finished_run.folder, tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    config = config_of(tmp_path / "run", evaluation__num_images=2)
    written, finished = (finish(config, resume=True).result for _ in range(2))
    assert written.metrics == finished.metrics == finished_run.result.metrics
    assert "panoptic/PQ" in written.metrics
    assert all("/" in name for name in written.metrics)


@pytest.mark.long
@quick
def test_ignoring_void_changes_a_run_only_where_there_is_some(
    tmp_path: Path, one_step: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(name: str, void: str) -> dict[str, Tensor]:
        criterion = {"num_points": 128, "void": void}
        return load_file(train(config_of(tmp_path / name, trainer=ONE_STEP, criterion=criterion)).model)

    plain = load_file(one_step.result.model), weights("without", "ignored")
    assert all(torch.equal(plain[0][name], plain[1][name]) for name in plain[0])
    annotated = Scenes.annotated

    def with_hole(self: Scenes, index: int, *, with_ignored: bool = False) -> Annotated:
        whole = annotated(self, index)
        assert whole.ids is not None
        hole = np.zeros(whole.size_hw, dtype=bool)
        hole[20:50, 10:40] = True
        return replace(whole, ids=np.where(hole, 0, whole.ids), ignored=hole if with_ignored else None)

    monkeypatch.setattr(Scenes, "annotated", with_hole)
    holes = weights("background", "background"), weights("ignored", "ignored")
    assert any(not torch.equal(holes[0][name], holes[1][name]) for name in holes[0])


@pytest.mark.long
@quick
def test_half_precision_starts_at_the_loss_of_full_precision_and_resumes_exactly(tmp_path: Path) -> None:
    def config(name: str, steps: int, precision: str = "fp16") -> RunConfig:
        trainer = {**SHORT, "precision": precision, "max_steps": steps}
        return config_of(
            tmp_path / name, trainer=trainer, evaluation={"interval": 1}, data__dataset=FEW_SCENES, data__batch_size=2
        )

    train(config("exact", 1, "fp32"))
    half = train(config("whole", 2))
    exact, close = table(tmp_path / "exact"), table(tmp_path / "whole")
    losses = [[float(row["loss"]) for row in rows if row["loss"]] for rows in (exact, close)]
    assert losses[0] != losses[1]
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-3)  # later matches may differ
    train(config("parts", 1))
    parts = train(config("parts", 2), resume=True)
    assert same_weights(half.model, parts.model)


@quick
def test_half_precision_leaves_out_steps_whose_gradients_overflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scale that is too large is halved, and neither weights nor averaged weights change until it fits."""
    scales, weights = [], []
    step = TrainingModule.training_step

    def watched(self: TrainingModule, window: Sequence[Batch], batch_idx: int) -> None:
        scaler = self._scaler
        assert scaler is not None
        if batch_idx == 0:
            scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0**120})
        scales.append(scaler.get_scale())
        weights.append(self.model.state_dict()["transformer_decoder.class_head.weight"].clone())
        step(self, window, batch_idx)

    monkeypatch.setattr(TrainingModule, "training_step", watched)
    trainer = {**SHORT, "precision": "fp16", "max_steps": 2}
    changes = {"data__dataset": FEW_SCENES, "data__batch_size": 2, "optim__ema_decay": 0.5}
    result = train(config_of(tmp_path, trainer=trainer, **changes))
    assert scales == [2.0**120, 2.0**119]
    assert all(torch.equal(weights[0], later) for later in weights[1:])
    assert torch.equal(load_file(result.model)["transformer_decoder.class_head.weight"], weights[0])


@quick
def test_accumulated_batches_add_up_to_the_whole_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask terms are divided by the targets of the whole window, not of each micro-batch."""

    def same_for_every_mask(self: TrainingModule, step: int) -> UniformPoints:
        def uniform(shape: tuple[int, ...]) -> Tensor:
            grid = torch.rand(shape[1:], generator=torch.Generator().manual_seed(shape[1]))
            return grid.expand(shape)

        return uniform

    monkeypatch.setattr(TrainingModule, "_points", same_for_every_mask)
    rows = []
    for micro in (None, 1):
        values = run_values(tmp_path / f"{micro}", data__batch_size_per_device=micro, trainer=ONE_STEP)
        values["model"]["backbone"]["norm"] = "frozen"  # batch statistics would differ
        train(parse(RunConfig, values, "test"))
        rows.append(table(tmp_path / f"{micro}")[0])
    for term in ("loss_mask", "loss_dice", "loss_mask_0", "loss_dice_0"):
        assert float(rows[0][term]) == pytest.approx(float(rows[1][term]), rel=1e-4), term


@quick
def test_another_class_list_and_query_count(
    tmp_path: Path, finished_run: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    first = finished_run.result
    values = run_values(tmp_path / "second", trainer=ONE_STEP, optim={"lr": 1e-12})
    values["model"]["init"] = str(first.model)
    values["model"]["transformer_decoder"] |= {"num_queries": 24, "feedforward_dim": 16}
    with pytest.raises(UserError, match=r"num_queries is 24 in the run but 20 in the weights; .*feedforward_dim is 16"):
        train(parse(RunConfig, values, "test"))
    values["model"]["init_partial"] = True
    second = train(parse(RunConfig, values, "test"))
    assert "linear1.weight" in capsys.readouterr().out
    before, after = load_file(first.model), load_file(second.model)
    name = "transformer_decoder.query_features.weight"
    torch.testing.assert_close(before[name], after[name][:20])
    assert len(after[name]) == 24


@quick
def test_gradient_checkpointing_changes_nothing(tmp_path: Path, finished_run: Finished) -> None:
    """Losses and gradient norms of two steps agree; metrics would not, since batch norms see each batch twice."""
    trainer = {**SHORT, "max_steps": 2, "gradient_checkpointing": True}
    train(config_of(tmp_path / "saving", trainer=trainer, evaluation={"interval": 9}))
    steps = [[row for row in table(run) if row["loss"]][:2] for run in (finished_run.folder, tmp_path / "saving")]
    for plain, saving in zip(*steps, strict=True):
        names = [name for name in plain if name.startswith(("loss", "gradient_norm"))]
        assert len(names) > 5
        for name in names:
            assert float(saving[name]) == pytest.approx(float(plain[name]), rel=1e-4), name


@quick
def test_early_stopping_and_event_files(tmp_path: Path) -> None:
    trainer = {**SHORT, "max_steps": 20, "tensorboard": True}
    config = config_of(
        tmp_path / "run", trainer=trainer, evaluation={"interval": 1, "patience": 2}, optim={"lr": 1e-12}
    )
    train(config)
    steps = {int(row["global_step"]) for row in table(tmp_path / "run")}
    assert max(steps) <= 10
    stored = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["global_step"] == max(steps)  # not the last multiple of checkpoint_interval
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


@quick
def test_out_of_memory_names_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("mask2former.training.module.TrainingModule.manual_backward", full)
    with pytest.raises(MemoryError, match=r"batch_size_per_device.*gradient_checkpointing.*dataset"):
        train(config_of(tmp_path / "run"))


@pytest.mark.long
@quick
def test_a_half_precision_pixel_decoder_and_channels_last_change_little_and_resume_exactly(tmp_path: Path) -> None:
    def config(name: str, steps: int) -> RunConfig:
        trainer = {**SHORT, "precision": "bf16", "half_pixel_decoder": True, "channels_last": True, "max_steps": steps}
        return config_of(tmp_path / name, trainer=trainer, evaluation={"interval": 1})

    train(config_of(tmp_path / "plain", trainer={**ONE_STEP, "precision": "bf16"}))
    whole = train(config("whole", 2))
    losses = [[float(row["loss"]) for row in table(tmp_path / name) if row["loss"]] for name in ("plain", "whole")]
    assert losses[0] != losses[1]
    assert losses[1][0] == pytest.approx(losses[0][0], rel=2e-2)
    train(config("parts", 1))
    parts = train(config("parts", 2), resume=True)
    assert same_weights(whole.model, parts.model)
    with pytest.raises(UserError, match="half_pixel_decoder needs precision bf16"):
        config_of(tmp_path, trainer={**SHORT, "half_pixel_decoder": True})


_ONE_SCENE = {"name": "scenes", "image_size": [64, 80], "num_training": 8, "num_validation": 1}
_TILES = {"tasks": ["instance"], "tile": 40, "tile_overlap": 16, "short_edge": 64}
_OTHER_SIZE = {"short_edge": 96, "long_edge": 200, "score_threshold": 0.3}  # the images have 64x80 pixels
_CLIPS = {**SCENE_CLIPS, "clip_length": 4, "image_size": [48, 64], "num_validation": 2}


@pytest.mark.parametrize(
    ("tasks", "inference", "dataset", "training"),
    [
        (
            TASKS,
            {**_OTHER_SIZE, "resize_masks_first": False},
            {},
            {"trainer__precision": "bf16", "trainer__channels_last": True, "optim__ema_decay": 0.5},
        ),
        # Slow: these settings one by one; in the last two nothing is averaged, and the best row is taken.
        pytest.param(TASKS, _OTHER_SIZE, {}, {"trainer__channels_last": True}, marks=pytest.mark.slow),
        pytest.param(
            TASKS, _OTHER_SIZE, {}, {"trainer__precision": "bf16", "optim__ema_decay": 0.5}, marks=pytest.mark.slow
        ),
        pytest.param(["instance"], _TILES, {}, {}, marks=pytest.mark.slow),  # tiles are in the next one, too
        pytest.param(
            ["instance"],
            {**_TILES, "diameter": 20.0, "non_overlapping": True},
            _ONE_SCENE,
            {},
            marks=pytest.mark.long,
        ),
        pytest.param(["instance"], {"short_edge": 72, "long_edge": 200}, _CLIPS, {}, marks=pytest.mark.long),
    ],
)
def test_a_run_measures_what_evaluate_measures(
    tmp_path: Path, tasks: list[str], inference: dict, dataset: dict, training: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    values = run_values(tmp_path / "run")
    values["data"]["dataset"] = dataset or {**values["data"]["dataset"], "image_size": [64, 80]}
    values["evaluation"] |= {"interval": 1, "tasks": tasks, "monitor": f"{tasks[0]}/{'PQ' if len(tasks) > 1 else 'AP'}"}
    values["evaluation"] |= {"max_detections": 20, "area_limits": [50, 400]}
    values["model"] = scenes_tiny().model.model_dump() | {"init": "scenes-tiny", "inference": inference}
    values["optim"] = {"lr": 1e-4}
    for path, value in ({"trainer__max_steps": 1} | training).items():
        group, name = path.split("__")
        values[group] = {**values[group], name: value}
    result = train(parse(RunConfig, values, "test"))
    rows = [row for row in table(tmp_path / "run") if not row["loss"]]  # before the first step, and after it
    monitor = values["evaluation"]["monitor"]
    row = rows[-1] if "optim__ema_decay" in training else max(rows, key=lambda row: float(row[monitor] or "-inf"))
    run = tmp_path / "run" / "run.yaml"
    command = ["evaluate", str(result.model), "--data", str(run), "--json", str(tmp_path / "found.json")]
    assert main([*command, "--device", "cpu"]) == 0
    measured = json.loads((tmp_path / "found.json").read_text())["metrics"]
    assert len(measured) > 5
    assert any(measured.values())
    for name, value in measured.items():
        logged = row.get(name) or None
        assert (logged is None) == (value is None), name
        assert value is None or np.float32(logged) == np.float32(value), name  # what is logged is float32
    assert "in validation" in capsys.readouterr().out  # its memory is estimated, too


@pytest.mark.long
@quick
def test_the_score_threshold_is_chosen_on_validation_and_stored_with_the_model(tmp_path: Path) -> None:
    values = run_values(tmp_path / "run", trainer=ONE_STEP)
    values["evaluation"] |= {"interval": 1, "tasks": ["instance"], "monitor": "instance/AP"}
    values["model"] = {"init": "scenes-tiny", "inference": {"short_edge": 64, "instance_threshold": 0.33}}
    values["optim"] = {"lr": 1e-12}
    result = train(parse(RunConfig, values, "test"))
    predictor = Predictor.from_pretrained(result.model, device="cpu", quiet=True)
    run = tmp_path / "run" / "run.yaml"
    command = ["evaluate", str(result.model), "--data", str(run), "--json", str(tmp_path / "found.json")]
    assert main([*command, "--device", "cpu"]) == 0
    points = json.loads((tmp_path / "found.json").read_text())["score_thresholds"]
    best = max(points, key=lambda point: (point["F1"], point["score"]))
    assert predictor.settings.instance_threshold == best["score"] == result.instance_threshold
    assert f"Score threshold of instances: {best['score']:g}, " in str(result)
    values["evaluation"]["choose_threshold"] = False
    kept = train(parse(RunConfig, values, "test"), overwrite=True)
    assert Predictor.from_pretrained(kept.model, device="cpu", quiet=True).settings.instance_threshold == 0.33


@pytest.mark.parametrize(("short_edge", "expected"), [(192, True), (80, False)])
def test_a_run_whose_images_are_resized_for_prediction_alone_says_so(
    tmp_path: Path, short_edge: int, expected: bool
) -> None:
    """One of the remarks, which a run prints before its first step, says by how much objects appear larger."""
    values = run_values(tmp_path / "run")
    values["model"]["inference"] |= {"short_edge": short_edge}
    remarks = DataModule(parse(RunConfig, values, "test")).remarks()
    assert any("objects appear 3.0 times as large as in training" in remark for remark in remarks) is expected
    assert any("objects appear" in remark for remark in remarks) is expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__batch_size": 3, "trainer": {**SHORT, "devices": 2}}, "not a multiple of trainer.devices"),
        ({"data__batch_size_per_device": 3}, "does not divide"),
        ({"evaluation__monitor": "semantic/mIoU"}, "belongs to none of evaluation.tasks"),
        (
            {"evaluation__monitor": "panoptic/PQs"},
            "'panoptic/PQs' is not measured; expected one of panoptic/PQ, panoptic/SQ",
        ),
        ({"model": {"init": "nowhere.safetensors"}}, "nowhere"),
        ({"model": {"inference": {"tasks": ["instance"], "tile": 64}}}, "evaluation.tasks are panoptic"),
        (
            {
                "model": {"inference": {"tasks": ["instance"], "non_overlapping": True}},
                "data": {"dataset": SCENE_CLIPS},
            },
            "the data are clips",
        ),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(config_of(tmp_path / "run", **changes))


@quick
def test_another_run_is_not_overwritten(tmp_path: Path, one_step: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path / "run", trainer=ONE_STEP)
    with pytest.raises(UserError, match="nothing to resume"):
        train(config, resume=True)
    shutil.copytree(one_step.folder, tmp_path / "run")
    with pytest.raises(UserError, match="contains a run"):
        train(config)
    weights = tmp_path / "run" / "model.safetensors"
    there = weights.read_bytes()
    config = config.model_copy(update={"seed": 6})

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingModule, "on_train_start", stopped)
    start = config.model_copy(update={"model": config.model.model_copy(update={"init": str(weights)})})
    events = tmp_path / "run" / "tensorboard" / "events.out.tfevents.1.host.2.0"
    events.parent.mkdir()
    events.write_bytes(b"")
    with pytest.raises(KeyboardInterrupt):
        train(start, overwrite=True)
    assert not events.exists()
    events.write_bytes(b"")
    with pytest.raises(KeyboardInterrupt):
        train(start)  # no run is here now that it would replace
    assert events.exists()
    assert weights.read_bytes() == there  # weights that a run starts from are kept until it is done
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_bytes(b"another run was here")
    with pytest.raises(KeyboardInterrupt):
        train(config, overwrite=True)
    assert not weights.exists()  # or it would look like the result of the new run


@pytest.mark.long
@quick
def test_two_scenes_are_overfitted(tmp_path: Path) -> None:
    """A model trained on two scenes has a panoptic quality above 80 on them (about 89; 0 if it is not trained)."""
    values = run_values(tmp_path / "run")
    values["model"]["backbone"]["kwargs"] = {"channels": [16, 32, 64, 128]}
    values["model"]["pixel_decoder"] |= {"dim": 64, "mask_dim": 64, "num_heads": 4, "feedforward_dim": 128}
    values["model"]["transformer_decoder"] |= {"dim": 64, "num_heads": 4, "feedforward_dim": 128}
    values["criterion"] = {"num_points": 256}
    values["data"]["dataset"] |= {"num_training": 2, "validation_seed": 0}
    values["data"]["batch_size"] = 2
    values["optim"] |= {"lr": 4e-3, "weight_decay": 0.0, "schedule": "poly", "warmup_steps": 10, "warmup_factor": 0.1}
    values["trainer"] |= {"max_steps": 60, "log_interval": 30, "checkpoint_interval": 60}
    values["evaluation"] |= {"interval": 60}
    result = train(parse(RunConfig, values, "test"))
    assert result.metrics["panoptic/PQ"] > 80


def test_checkpoints_of_a_run_load_as_models(finished_run: Finished, tmp_path: Path) -> None:
    result = Mask2Former.from_pretrained(finished_run.result.model)
    best = Mask2Former.from_pretrained(finished_run.folder / "checkpoints" / "best.ckpt")
    assert best.info == replace(result.info, metrics={})
    assert_same(best.state_dict(), result.state_dict())

    state = torch.load(finished_run.folder / "checkpoints" / "last.ckpt", weights_only=True)
    plain = {name.removeprefix("model."): value for name, value in state["state_dict"].items()}
    average = {name: value + 1 for name, value in plain.items() if value.is_floating_point()}
    state["state_dict"]["criterion.weights"] = torch.ones(2)  # a buffer of a criterion of one's own
    torch.save({**state, "average": {"updates": 1, "values": average}}, tmp_path / "last.ckpt")
    with collect_notes() as notes:
        assert_same(Mask2Former.from_pretrained(tmp_path / "last.ckpt").state_dict(), plain | average)
    assert [note.message for note in notes] == [
        "the averaged weights of the training are used; the others are its set 'state_dict'"
    ]
    assert_same(Mask2Former.from_pretrained(tmp_path / "last.ckpt", weights="state_dict").state_dict(), plain)
    with pytest.raises(UserError, match="there is no such set; sets of weights are average, state_dict"):
        Mask2Former.from_pretrained(tmp_path / "last.ckpt", weights="model_ema")
    with pytest.raises(UserError, match="includes its own configuration; leave out the tasks"):
        Mask2Former.from_pretrained(tmp_path / "last.ckpt", tasks="instance")

    state["run"]["objects"] = ["model"]  # of one that was made in Python
    torch.save(state, tmp_path / "own.ckpt")
    with pytest.raises(UserError, match=r"own\.ckpt: the weights are for a model with custom parts"):
        Mask2Former.from_pretrained(tmp_path / "own.ckpt")
    assert_same(Mask2Former.from_pretrained(tmp_path / "own.ckpt", model=best).state_dict(), plain)
    del state["run"]  # as 0.1.0 wrote it at first
    torch.save(state, tmp_path / "old.ckpt")
    with pytest.raises(
        UserError, match=r"without its settings and classes; expected .* the model\.safetensors of a tr"
    ):
        Mask2Former.from_pretrained(tmp_path / "old.ckpt")


def assert_same(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in got.items())


def test_a_file_that_does_not_say_enough_to_start_from(tmp_path: Path) -> None:
    model = small_model()
    torch.save(
        {"state_dict": {f"model.{name}": value for name, value in to_original(model).items()}}, tmp_path / "a.pth"
    )
    values = run_values(tmp_path / "run", model={"init": str(tmp_path / "a.pth")})
    with pytest.raises(UserError) as caught:
        train(parse(RunConfig, values, "test"))
    assert str(caught.value).endswith(
        "no published model fits; give --task (panoptic, instance or semantic) to: mask2former convert "
        f"{tmp_path / 'a.pth'} NEW.safetensors; then start from that file"
    )


@quick
def test_a_step_that_cannot_be_taken_is_numbered_like_those_before_it(tmp_path: Path) -> None:
    """Steps are counted from 1, as in the table of metrics: one that fails after the first is step 2."""
    config = config_of(tmp_path / "run", trainer=SHORT, optim={"lr": 1e30, "warmup_steps": 0})
    with pytest.raises(FloatingPointError, match=r"^step 2: .*failed-step-2\.pt"):
        train(config)
    assert (tmp_path / "run" / "failed-step-2.pt").is_file()
    assert [row["global_step"] for row in table(tmp_path / "run")] == ["1"]


@quick
def test_a_step_that_cannot_be_taken_is_the_error_even_if_its_batch_cannot_be_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("mask2former.training.module.write_whole", full)
    config = config_of(tmp_path / "run", trainer=SHORT, optim={"lr": 1e30, "warmup_steps": 0})
    with pytest.raises(FloatingPointError, match=r"^step 2: .*could not be saved in .*failed-step-2\.pt \(.*No space"):
        train(config)


@quick
def test_a_best_checkpoint_that_is_deleted_during_the_run_is_missed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Deletes(lightning.Callback):
        def on_train_end(self, trainer: object, pl_module: object) -> None:
            (tmp_path / "run" / "checkpoints" / "best.ckpt").unlink()

    result = train(config_of(tmp_path / "run", trainer=ONE_STEP, evaluation={"interval": 1}), callbacks=[Deletes()])
    assert "best.ckpt, of the best validation (step 1), no longer exists: model.safetensors" in capsys.readouterr().out
    assert result.best is None
