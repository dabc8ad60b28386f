"""What a run can be told beyond its recipe (docs/training-options.md), as its users tell it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import SHORT, Finished, config_of, finish, run_values, table
from safetensors.torch import load_file

from mask2former.cli import main
from mask2former.config import RunConfig, parse
from mask2former.data.datasets.scenes import Scenes
from mask2former.errors import UserError
from mask2former.models.mask2former import Mask2Former
from mask2former.structures.categories import Categories
from mask2former.structures.samples import Sample
from mask2former.training.run import train
from mask2former.training.time_limit import TimeLimit

pytestmark = [
    pytest.mark.usefixtures("unpredicted_memory"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]

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
    values = config.model_dump(mode="json", exclude_unset=True) | {"output": str(tmp_path / "named")}
    values["model"]["init_classes"] = "by-name"
    result = train(parse(RunConfig, values, "test"), train_data=data, validation_data=data)
    said = capsys.readouterr().out
    count = len(scenes.categories)
    assert f"{count - 1} of {count} classes keep what they have learned: {scenes.categories.names[0]}, " in said
    assert f"new: cactus; gone: {other}" in said
    assert "Not measured before the first step, since classes are newly initialised" in said
    before, after = load_file(finished_run.result.model)[HEAD], load_file(result.model)[HEAD]
    kept = [index for index in range(count + 1) if index != 1]
    torch.testing.assert_close(after[kept], before[kept])
    assert not torch.allclose(after[1], before[1])


def test_what_is_frozen_keeps_weights_and_statistics_and_can_be_set_free(
    tmp_path: Path, finished_run: Finished
) -> None:
    """The backbone has batch norm, which would follow the images."""
    init, frozen = finished_run.result.model, {"freeze": ["backbone", "transformer_decoder.query_features"]}

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
    shown = finish(config("parts", steps=1, **frozen)).shown
    assert "frozen (optim.freeze): backbone, transformer_decoder.query_features; " in shown
    assert same(finish(config("parts", **frozen), resume=True).result.model, whole.model)
    finish(config("parts", steps=3), resume=True)
    assert {"backbone.", "transformer_decoder."} <= {f"{name.split('.')[0]}." for name in changed("parts")}
    with pytest.raises(UserError, match=r"no part 'backbones'; .* for instance backbone"):
        train(config("wrong", freeze=["backbones"]))
    with pytest.raises(UserError, match="is all that learns"):
        train(config("all", freeze=["backbone", "pixel_decoder", "transformer_decoder"]))


def test_class_weights_change_the_class_loss_alone(tmp_path: Path, finished_run: Finished) -> None:
    def first_row(name: str, weights: Any) -> dict[str, str]:
        criterion = {"num_points": 128, "class_weights": weights}
        run = finish(config_of(tmp_path / name, criterion=criterion, trainer={**SHORT, "max_steps": 1}))
        assert ("criterion.class_weights, by the number of objects in all 8 images: " in run.shown) == (
            weights == "balanced"
        )
        return table(run.folder)[0]

    plain, names = table(finished_run.folder)[0], Scenes((64, 64)).categories.names
    rows = [first_row("named", {names[0]: 5.0}), first_row("balanced", "balanced")]
    assert len({row["loss_ce"] for row in (plain, *rows)}) == 3
    assert all(row["loss_mask"] == plain["loss_mask"] for row in rows)
    with pytest.raises(UserError, match=r"class_weights names treee, but the classes of the training data are "):
        train(config_of(tmp_path / "wrong", criterion={"class_weights": {"treee": 2.0}}))


@pytest.mark.parametrize("calls", [3, 5])  # after two steps; after the first case of the validation behind them
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
    assert "trainer.max_hours 1 is over after 2 steps" in said.out
    assert f"go on with --resume {tmp_path / 'run'}" in said.err
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    resumed = finish(config, resume=True)
    assert same(resumed.result.model, finished_run.result.model)
    rows = (tmp_path / "run" / "metrics.csv").read_bytes(), (finished_run.folder / "metrics.csv").read_bytes()
    assert rows[0] == rows[1]


def test_no_step_is_taken_without_time(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(config_of(tmp_path / "run", trainer={**SHORT, "max_hours": 1e-9}))
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
