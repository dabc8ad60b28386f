from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
import yaml
from PIL import Image

from mask2former import Predictor, recipes
from mask2former.cli import app, main
from mask2former.config import RunConfig
from mask2former.inference import predict_files

pytestmark = pytest.mark.usefixtures("small_overlays")
COMMANDS = tuple(command.name for command in app.registered_commands if command.name is not None)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.jpg")
    Image.fromarray(pixels[:, ::-1]).save(folder / "deep" / "b.png")
    return folder


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_help_is_light() -> None:
    """Help lists all commands and imports no package that is slow to import."""
    program = (
        "import sys; from mask2former.cli import main; code = main(['--help']);"
        "heavy = {'torch', 'torchvision', 'timm', 'numpy', 'PIL', 'scipy', 'lightning', 'yaml'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert all(command in result.stdout for command in COMMANDS)


def test_the_module_can_be_run() -> None:
    command = [sys.executable, "-m", "mask2former", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0
    assert result.stdout.startswith("mask2former ")
    assert result.stderr == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert command in capsys.readouterr().out


def test_predict_segments_folders_and_goes_on_where_it_was(
    images: Path, tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, coco = tmp_path / "out", tmp_path / "coco.json"
    command = ["predict", str(images), "--output", str(output), "--model", str(tiny_file), "--coco", str(coco)]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1].startswith("2 images segmented (panoptic, ")
    assert captured.err == ""
    assert _files(output) == {f"{stem}{end}" for stem in ("a", "deep/b") for end in (".png", ".json", "_ids.png")}
    assert [entry["image_id"] for entry in json.loads(coco.read_text())["annotations"]] == ["a", "deep/b"]
    document = json.loads((output / "a.json").read_text())
    assert (document["model"], document["task"]) == (str(tiny_file), "panoptic")

    (output / "deep/b.json").unlink()
    assert main(command) == 0
    assert "1 image segmented" in (out := capsys.readouterr().out)
    assert "1 skipped" in out
    assert main([*command, "--score-threshold", "0.1"]) == 2
    captured = capsys.readouterr()
    assert "comes from another model, other classes or settings" in captured.err  # one COCO file does not mix them
    assert main([word for word in command if word not in ("--coco", str(coco))] + ["--score-threshold", "0.1"]) == 0
    assert "2 skipped and not counted because their results come from another model" in capsys.readouterr().out
    assert main([*command, "--score-threshold", "0.1", "--overwrite"]) == 0
    assert "2 images segmented" in capsys.readouterr().out
    assert json.loads((output / "a.json").read_text())["settings"]["score_threshold"] == 0.1


def test_predict_writes_tables_and_other_formats_of_what_is_chosen(
    images: Path, tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, table = tmp_path / "out", tmp_path / "t.csv"
    args = ["predict", str(images), "-o", str(output), "-m", str(tiny_file), "-t", "semantic"]
    name = Predictor.from_pretrained(tiny_file, device="cpu", quiet=True).categories.names[0]
    args += ["--classes", name, "--min-area", "2", "--table", str(table), "--pixel-size", "2 mm"]
    args += ["--also", "geojson", "--palette", "colorblind"]
    assert main(args) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.endswith(f"; tables: {table} and t_images.csv; also: geojson")
    settings = json.loads((output / "a.json").read_text())["settings"]
    assert (settings["classes"], settings["min_area"]) == ([name], 2)
    assert {row.split(",")[3] for row in table.read_text().splitlines()[1:]} <= {name}
    assert {"geojson/a.geojson", "geojson/deep/b.geojson", "a.png"} <= _files(output)
    for wrong, message in (("--classes=fox", "no class 'fox'"), ("--also=voc", "no format 'voc'")):
        assert main([*args, wrong]) == 2
        assert message in capsys.readouterr().err
    assert main([word for word in args if word not in ("--table", str(table))]) == 2
    assert "--pixel-size applies to tables; give --table too" in capsys.readouterr().err
    assert main([*args, "--ray"]) == 2
    assert "--table cannot be used with --ray" in capsys.readouterr().err


@pytest.mark.parametrize(("task", "ending"), [("instance", None), ("semantic", "_labels.png")])
def test_predict_gives_other_tasks_without_overlays(
    images: Path, tiny_file: Path, tmp_path: Path, task: str, ending: str | None
) -> None:
    args = ["predict", str(images / "a.jpg"), "-o", str(tmp_path / "out"), "-m", str(tiny_file), "--official-settings"]
    assert main([*args, "--task", task, "--no-pictures", "--short-edge", "32", "--dtype", "bfloat16"]) == 0
    assert _files(tmp_path / "out") == {"a.json", *([f"a{ending}"] if ending else [])}
    settings = json.loads((tmp_path / "out/a.json").read_text())["settings"]
    assert (settings["short_edge"], settings["dtype"]) == (32, "bfloat16")


def test_predict_says_when_instances_may_be_missing(
    tiny_file: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["predict", str(images / "a.jpg"), "-m", str(tiny_file), "-t", "instance", "--device", "cpu"]
    told = "1 image may contain more than 3 instances: raise --max-instances"
    for threshold, expected in (("0", True), ("0.99", False)):
        output = ["-o", str(tmp_path / threshold), "--score-threshold", threshold, "--max-instances", "3"]
        assert main([*args, *output]) == 0
        assert (told in capsys.readouterr().out) is expected


def test_predict_can_be_stopped(
    images: Path, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = predict_files.segment_files

    def interrupted(*args: Any, **settings: Any) -> Iterator[Any]:
        yield next(real(*args, **settings))
        raise KeyboardInterrupt

    monkeypatch.setattr(predict_files, "segment_files", interrupted)
    output = tmp_path / "out"
    assert main(["predict", str(images), "-o", str(output), "-m", str(tiny_file)]) == 130
    error = capsys.readouterr().err
    assert error.strip() == f"stopped: 1 image of 2 segmented into {output}; run the same command again to continue"
    assert _files(output) == {"a.png", "a.json", "a_ids.png"}


def test_a_traceback_is_shown_on_request_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "nothing-here"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    for words in (["inspect", "nothing-here", "--debug"], ["--debug", "inspect", "nothing-here"]):
        assert main(words) == 2  # the exit code is the same
        lines = capsys.readouterr().err.splitlines()
        assert lines[0].startswith("Traceback")
        assert lines[-1].startswith("error: 'nothing-here' is neither")


def test_an_interrupt_outside_of_any_commands_care_is_told_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mask2former.training.run_file.read_run_file", interrupted)
    assert main(["train", "x.yaml"]) == 130
    assert capsys.readouterr().err.strip() == "stopped"


def test_an_unexpected_failure_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, tiny_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("mask2former.checkpoints.describe.describe_checkpoint", broken)
    assert main(["inspect", str(tiny_file)]) == 1
    error = capsys.readouterr().err
    assert error == "error: ZeroDivisionError: division by zero (run the command with --debug to see where)\n"


def test_recipe_prints_a_complete_run_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe"]) == 0
    names = capsys.readouterr().out.split()
    assert "scenes-tiny" in names
    for run in recipes.run_recipes().values():
        values = run().model_dump(mode="json")
        assert RunConfig.model_validate(values).model_dump(mode="json") == values
    for name in names[::8]:  # reading and writing YAML takes the most time
        assert main(["recipe", name]) == 0
        values = yaml.safe_load(capsys.readouterr().out)
        assert RunConfig.model_validate(values).model_dump(mode="json") == values
    assert main(["recipe", "scenes-tiny"]) == 0
    assert RunConfig.model_validate(yaml.safe_load(capsys.readouterr().out)) == recipes.scenes_tiny()


def test_models_lists_every_published_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in recipes.recipe_names())


def test_inspect_says_what_a_file_is(tiny_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_file)]) == 0
    out = capsys.readouterr().out
    assert "resnet10t" in out
    assert "14 (8 things, 6 stuff)" in out


def test_evaluate_measures_and_writes(tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "metrics.json"
    args = ["evaluate", str(tiny_file), "--scenes", "2", "--size", "64", "--output", str(output)]
    assert main([*args, "--task", "panoptic", "--task", "semantic", "--official-settings"]) == 0
    document = json.loads(output.read_text())
    metrics = document["metrics"]
    assert document["official_settings"] is True
    assert {"panoptic/PQ", "semantic/mIoU"} <= metrics.keys()
    assert not any(name.startswith("instance") for name in metrics)
    assert "panoptic/PQ" in capsys.readouterr().out


def test_demo_measures_and_draws(tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["demo", "--model", str(tiny_file), "--output", str(tmp_path / "demo"), "--no-open"]
    assert main([*args, "--scenes", "2"]) == 0
    captured = capsys.readouterr()
    for word in ("PQ", "AP", "mIoU", "2 fresh scenes", "mask2former predict", "contact-sheet.png"):
        assert word in captured.out
    assert captured.err == ""
    assert _files(tmp_path / "demo") == {"contact-sheet.png"}
    with Image.open(tmp_path / "demo/contact-sheet.png") as sheet:
        assert sheet.width > 5 * 300


@pytest.mark.filterwarnings("default")  # Lightning gives advice as warnings
def test_train_writes_a_model_that_predicts_and_can_go_on(
    tiny_run: RunConfig, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, directory = tmp_path / "run.yaml", tmp_path / "runs" / "one"
    run.write_text(yaml.safe_dump(tiny_run.model_dump(mode="json")))
    assert main(["train", str(run), f"output={directory}", "optim.lr=3e-4"]) == 0
    assert str(directory / "model.safetensors") in capsys.readouterr().out
    assert yaml.safe_load((directory / "run.yaml").read_text())["optim"]["lr"] == 3e-4
    model = str(directory / "model.safetensors")
    assert main(["predict", str(images), "-o", str(tmp_path / "out"), "--model", model, "--no-overlays"]) == 0
    assert main(["train", str(run), "--resume", str(directory), "trainer.max_steps=3"]) == 0
    assert yaml.safe_load((directory / "run.yaml").read_text())["trainer"]["max_steps"] == 3


def test_names_of_files_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["predict", str(tmp_path / "a\x1b[31mb\x07\x9bc.png"), "-o", str(tmp_path / "out"), "-m", "scenes-tiny"])
        == 2
    )
    shown = capsys.readouterr().err
    assert "a\ufffd[31mb\ufffd\ufffdc.png" in shown
    assert shown.count("\n") == 1


def test_a_word_that_is_no_choice_is_told_without_words_of_the_parser(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--task", "foo"]) == 2
    assert "Invalid value for '--task' / '-t': 'foo' is not one of 'panoptic', " in capsys.readouterr().err


def test_without_a_command_help_is_printed_and_no_empty_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr()
    assert "Usage: mask2former" in shown.out
    assert shown.err == ""


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["serve"], "error: Missing argument 'MODEL' (see: mask2former serve --help)\n"),
        (["predict", "a"], "error: Missing option '--output' / '-o' (see: mask2former predict --help)\n"),
        (["predict", "--ouput", "r"], "(Possible options: --output) (see: mask2former predict --help)\n"),
        (["evaluate", "a", "b"], "extra argument(s) (b) (see: mask2former evaluate --help)\n"),
        (["help"], "error: No such command 'help' (see: mask2former --help)\n"),
        (["analyze", "flop"], "Did you mean 'flops'? (see: mask2former analyze --help)\n"),
    ],
)
def test_an_error_in_the_command_line_names_the_help_to_read(
    command: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 2
    assert capsys.readouterr().err.endswith(message)


def test_a_group_without_a_command_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze"]) == 2
    shown = capsys.readouterr()
    assert "flops" in shown.out
    assert shown.err == ""


def test_every_setting_states_its_default() -> None:
    """Also those that a model states, or that are chosen otherwise; a switch is off, and --weights is for files."""
    untold = [
        f"{' '.join(words)} {option.opts[0]}"
        for words, command in _commands(typer.main.get_command(app))
        for option in command.params
        if getattr(option, "rich_help_panel", None) in ("Settings", "Machine", "Scenes", "Limits", "Bulk (--ray)")
        and option.default is None
        and not isinstance(option.show_default, str)
    ]
    assert untold == []


def _commands(command: Any, *words: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands below this one, with the words that call them."""
    for name, sub in getattr(command, "commands", {}).items():
        yield from _commands(sub, *words, name)
    if not hasattr(command, "commands"):
        yield words, command
