"""Run files state their source, and are read back as the recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mask2former import recipes
from mask2former.config import RunConfig, parse
from mask2former.errors import UserError
from mask2former.notes import collect_notes
from mask2former.training.run_file import read_run, run_file


@pytest.mark.parametrize("name", ["coco-panoptic/swin-l", "cityscapes-semantic/r50", "ytvis2021-instance/swin-t"])
def test_a_published_run_says_what_it_reproduces_and_with_what(name: str) -> None:
    text, recipe = run_file(name), recipes.recipe(name)
    comment = " ".join(line[2:] for line in text.splitlines() if line.startswith("# "))
    assert recipe.reproduces in comment
    assert recipe.init_weights in comment
    samples = "clips" if recipe.is_video else "images"
    assert f"{recipe.num_gpus} GPUs, each with {16 // recipe.num_gpus} of the 16 {samples} of a" in comment
    numbers = {
        "coco-panoptic/swin-l": "PQ 57.8, AP 48.6, mIoU 67.4",
        "cityscapes-semantic/r50": "mIoU 79.4",
        "ytvis2021-instance/swin-t": "AP 45.9",
    }
    assert numbers[name] in comment
    assert parse(RunConfig, yaml.safe_load(text), name) == recipe.run
    assert all(len(line) <= 120 for line in text.splitlines())


def test_a_run_of_a_toolbox_says_what_it_does_not_reproduce() -> None:
    text, recipe = run_file("mmseg/ade20k-semantic/r50"), recipes.recipe("mmseg/ade20k-semantic/r50")
    comment = " ".join(line[2:] for line in text.splitlines() if line.startswith("# "))
    assert recipe.reproduces in comment
    assert "Where MMSegmentation differs" in comment
    assert len(recipe.deviations) >= 3
    assert all(deviation in comment for deviation in recipe.deviations)
    assert parse(RunConfig, yaml.safe_load(text), "mmseg") == recipe.run
    assert all(len(line) <= 120 for line in text.splitlines())


def test_every_setting_and_list_has_one_line() -> None:
    text = run_file("ade20k-semantic/r50")
    assert "short_edges: [256, 307," in text
    assert "\n- " not in text
    assert set(yaml.safe_load(text)) == set(RunConfig.model_fields)


def test_our_own_runs_say_what_they_gave() -> None:
    assert run_file("scenes-tiny").startswith("# Trains the packaged model")
    assert parse(RunConfig, yaml.safe_load(run_file("scenes-tiny")), "test") == recipes.scenes_tiny()


def test_a_table_of_other_models_takes_no_recipe_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = run_file("coco-panoptic/r50")
    (tmp_path / "zoo.json").write_text('{"licenses": {}, "models": []}')
    monkeypatch.setenv("MASK2FORMER_ZOO", str(tmp_path / "zoo.json"))
    assert run_file("coco-panoptic/r50") == text


def test_an_unknown_recipe_names_the_closest() -> None:
    with pytest.raises(UserError, match=r"no run recipe 'coco-panoptic/r5O'; did you mean .*coco-panoptic/r50"):
        run_file("coco-panoptic/r5O")
    with pytest.raises(UserError, match="'mask2former recipe' lists them"):
        run_file("x")


def test_a_run_is_read_with_overrides_and_goes_on_where_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("output: runs/a\ntrainer: {max_steps: 7}\ndata: {dataset: {name: scenes}}\n")
    run = read_run(path, ["optim.lr=0.5"])
    assert (run.output, run.trainer.max_steps, run.optim.lr) == ("runs/a", 7, 0.5)
    with collect_notes() as notes:
        assert read_run(path, resume=tmp_path / "b").output == str(tmp_path / "b")
    assert [example for _, example in notes] == [f"{path} (output 'runs/a'; resumed in '{tmp_path / 'b'}')"]
    with collect_notes() as notes:
        assert read_run(path, [f"output={tmp_path / 'b'}"], resume=tmp_path / "b").output == str(tmp_path / "b")
    assert not notes
    with pytest.raises(UserError, match="override 'output=runs/c': a run that resumes writes to its own directory"):
        read_run(path, ["output=runs/c"], resume=tmp_path / "b")
    with pytest.raises(UserError, match=r"^override 'trainer.steps=8': unknown key 'trainer.steps'"):
        read_run(path, ["trainer.steps=8"])


def test_an_override_is_blamed_where_settings_make_sense_only_with_those_of_the_initial_model(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: {init: scenes-tiny}\n")
    with pytest.raises(UserError, match=r"^override 'model.inference.long_edge=0': 'model.inference.long_edge' is 0"):
        read_run(path, ["model.inference.long_edge=0"])


@pytest.mark.parametrize("text", ["optim: {lr: 0.001}", "data: {batch_size: 2}", "model: {init: scenes-tiny}"])
def test_a_run_without_data_is_noted_with_what_it_trains_on(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with collect_notes() as notes:
        read_run(tmp_path / "run.yaml")
    assert [message for message, _ in notes] == ["run files without data.dataset, whose data are drawn scenes"]
    assert "check-data DATA --suggest RUN.yaml" in notes[0].example
    with collect_notes() as notes:
        read_run(tmp_path / "run.yaml", ["data.dataset.name=scenes"])
    assert not notes
