"""The paper's ablations on a custom run: equal steps and seeds, resumable, and one table."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image
from runs import config_of, run_values

from mask2former.checkpoints.initial import Initial
from mask2former.cli import main
from mask2former.config import (
    NoPixelDecoderConfig,
    RunConfig,
    StandardDecoderConfig,
    TrainerConfig,
    changed,
    leaves,
    parse,
)
from mask2former.errors import UserError
from mask2former.models.mask2former import Mask2Former
from mask2former.models.pixel_decoders.none import NoPixelDecoder
from mask2former.notes import collect_notes
from mask2former.recipes import ABLATIONS, PARTS, ROWS, SINCE, ablated
from mask2former.training.ablate import BASELINE, AblationRow, ablate, base_run, draw, scenes_base

pytestmark = pytest.mark.usefixtures("small_overlays", "unpredicted_memory")

SHORT = {"trainer__max_steps": 2, "evaluation__tasks": ["panoptic", "semantic"]}


@pytest.mark.long
def test_rows_are_trained_measured_and_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run_values(tmp_path, **SHORT)))
    command = ["ablate", str(tmp_path / "run.yaml"), "-o", str(tmp_path / "all"), "--row", "attention-full"]
    assert main([*command, "--seeds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("[")] == [
        "[1 of 2] baseline, seed 0",
        "[2 of 2] attention-full, seed 0",
    ]
    assert lines[-1].endswith("ablations.png")
    assert (tmp_path / "all" / "ablations.png").is_file()
    table = lines[-4:]
    assert " ".join(table[0].split()) == "PQ (least to most) change paper mIoU (least to most) change paper"
    assert [line.split()[0] for line in table[1:3]] == ["baseline", "attention-full"]
    assert table[2].endswith("-1.7")  # mIoU in the paper: 45.5 and 47.2
    values = json.loads((tmp_path / "all" / "ablations.json").read_text())
    assert values["steps"] == 2
    row = values["rows"]["attention-full"]
    assert row["settings"] == {"model.transformer_decoder.attention": "full"}
    assert row["paper"] == {"AP": 37.8, "PQ": 47.1, "mIoU": 45.5}
    assert row["metrics"].keys() == {"0"}

    # finished rows are read, not trained again
    checkpoint = tmp_path / "all" / "baseline" / "seed-0" / "checkpoints" / "last.ckpt"
    before = checkpoint.stat().st_mtime_ns
    assert main([*command, "--seeds", "1"]) == 0
    assert checkpoint.stat().st_mtime_ns == before
    assert json.loads((tmp_path / "all" / "ablations.json").read_text()) == values

    # trainings with other settings are refused
    assert main([*command, "--seeds", "1", "--steps", "1"]) == 2
    error = capsys.readouterr().err
    assert "contains trainings with other settings (trainer.max_steps was 2 and is 1); choose another output" in error
    assert checkpoint.stat().st_mtime_ns == before


def test_settings_change_the_run_of_all_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[RunConfig] = []

    def record(run: RunConfig, *, resume: bool, progress: object) -> SimpleNamespace:
        trained.append(run)
        return SimpleNamespace(metrics={"panoptic/PQ": 50.0})

    monkeypatch.setattr("mask2former.training.run.train", record)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run_values(tmp_path, **SHORT)))
    for source in ("scenes", str(tmp_path / "run.yaml")):
        command = ["ablate", source, "data.batch_size=3", "--row", "attention-full", "--seeds", "1", "--steps", "7"]
        assert main([*command, "-o", str(tmp_path / Path(source).stem)]) == 0
    assert [run.data.batch_size for run in trained] == [3] * 4
    assert [run.trainer.max_steps for run in trained] == [7] * 4
    assert [run.model.transformer_decoder.attention for run in trained] == ["masked", "full"] * 2  # type: ignore[union-attr]

    capsys.readouterr()
    assert main(["ablate", "scenes", "seed=4", "-o", str(tmp_path / "other")]) == 2
    assert "seed is set for each training; choose --seeds instead" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_other_rows_in_the_same_folder_keep_what_is_finished_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "ablations.json"

    def trained(run: RunConfig, *, resume: bool, progress: object) -> SimpleNamespace:
        return SimpleNamespace(metrics={"panoptic/PQ": 40.0 + run.seed})

    def interrupted(run: RunConfig, *, resume: bool, progress: object) -> SimpleNamespace:
        raise KeyboardInterrupt

    monkeypatch.setattr("mask2former.training.run.train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ablate(config_of(tmp_path), tmp_path, ["attention-full"])
    assert not table.exists()

    monkeypatch.setattr("mask2former.training.run.train", trained)
    ablate(config_of(tmp_path), tmp_path, ["attention-full"], seeds=2)
    before = table.read_text()
    monkeypatch.setattr("mask2former.training.run.train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ablate(config_of(tmp_path), tmp_path, ["dropout"], seeds=1)
    assert table.read_text() == before

    monkeypatch.setattr("mask2former.training.run.train", trained)
    told: list[tuple[str, int]] = []
    rows = ablate(config_of(tmp_path), tmp_path, ["dropout"], 1, lambda what, _, total: told.append((what, total)))
    assert told == [("dropout, seed 0", 2)]  # the result of the baseline is in the table
    assert {row.name: sorted(row.metrics) for row in rows} == {
        BASELINE: [0, 1],
        "dropout": [0],
        "attention-full": [0, 1],
    }
    values = json.loads(table.read_text())
    assert values["seeds"] == 2
    assert values["rows"] == {
        row.name: row.to_dict() | {"spread": {"panoptic/PQ": list(row.spread("panoptic/PQ") or ())}} for row in rows
    }
    assert values["rows"]["attention-full"] == json.loads(before)["rows"]["attention-full"]

    values["rows"]["dropout"]["settings"] = {"model.transformer_decoder.dropout": 0.3}
    table.write_text(json.dumps(values))
    message = r"trainings of dropout with other settings \(model.transformer_decoder.dropout=0.3; now .*=0.1\); choose"
    with pytest.raises(UserError, match=message):
        ablate(config_of(tmp_path), tmp_path, ["dropout"])

    row = values["rows"]["dropout"]
    message = "contains rows that do not belong to a table of ablations; choose another output"
    for damaged in ({"settings": {}}, row | {"metrics": {"0": {"panoptic/PQ": "good"}}}, row | {"paper": {"PQ": None}}):
        values["rows"]["dropout"] = damaged
        table.write_text(json.dumps(values))
        with pytest.raises(UserError, match=message):
            ablate(config_of(tmp_path), tmp_path, ["dropout"])


def test_settings_of_rows_are_equal_after_a_round_trip_through_json() -> None:
    for row in ROWS.values():
        assert json.loads(json.dumps(row.described)) == row.described


@pytest.mark.parametrize("row", PARTS)
def test_parts_are_as_wide_as_those_that_they_replace(row: str) -> None:
    base = scenes_base()
    run = ablated(base, PARTS[row])
    assert RunConfig.model_validate(run.model_dump(mode="json")) == run
    before, model = base.model, run.model
    assert not isinstance(model.pixel_decoder, NoPixelDecoderConfig)
    assert (model.pixel_decoder.dim, model.pixel_decoder.mask_dim) == (128, 128)
    assert model.pixel_decoder.name != before.pixel_decoder.name
    if row == "maskformer-decoder":
        decoder = model.transformer_decoder
        assert isinstance(decoder, StandardDecoderConfig)
        assert (decoder.dim, decoder.num_queries, decoder.num_layers) == (128, 32, 2)  # of 3 layers, as 6 of 9


def test_changes_are_those_of_equal_seeds_and_drawn_beside_the_paper(tmp_path: Path) -> None:
    name = "panoptic/PQ"
    baseline = AblationRow(BASELINE, {}, {0: {name: 40.0}, 1: {name: 44.0}, 2: {}}, {"PQ": 51.9})
    row = AblationRow("attention-full", {}, {1: {name: 41.0}, 0: {name: 38.0}, 2: {name: 1.0}}, {"PQ": 47.1})
    assert row.changes(name, baseline) == [-2.0, -3.0]
    draw([baseline, row], tmp_path / "ablations.png")
    image = np.asarray(Image.open(tmp_path / "ablations.png").convert("RGB")).reshape(-1, 3)
    assert (image == (217, 98, 43)).all(axis=1).any()  # the diamond of the paper
    assert (image == (42, 111, 201)).all(axis=1).any()  # the dots of the seeds


@pytest.mark.parametrize("row", SINCE)
def test_what_came_after_the_paper_changes_what_it_names(row: str) -> None:
    base = scenes_base()
    run = ablated(base, SINCE[row])
    assert RunConfig.model_validate(run.model_dump(mode="json")) == run
    plain = leaves(base)
    changed = {key for key, value in leaves(run).items() if value != plain.get(key)}
    if row == "mask-piloted":
        assert changed == {"model.transformer_decoder.pilots"}
        assert run.model.transformer_decoder.model_dump()["pilots"] == 32  # of 32 queries, for 100 in the paper
    else:
        parts = {
            "plain-vit": ("model.backbone.",),
            "token-scaling": ("model.pixel_decoder.stages",),
            "encoder-only": ("model.backbone.", "model.pixel_decoder.", "model.transformer_decoder."),
        }
        assert all(key.startswith(parts[row]) for key in changed)
        assert run.model.transformer_decoder.queries == 32


@pytest.mark.parametrize("row", ["per-pixel", pytest.param("maskformer-decoder", marks=pytest.mark.slow)])
def test_a_row_with_parts_is_trained_and_measured_by_what_it_can(
    row: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run_values(tmp_path, **SHORT | {"trainer__max_steps": 1})))
    command = ["ablate", str(tmp_path / "run.yaml"), "-o", str(tmp_path / "all"), "--row", row]
    assert main([*command, "--seeds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()[-3:-1]
    assert [line.split()[0] for line in lines] == ["baseline", row]
    values = json.loads((tmp_path / "all" / "ablations.json").read_text())["rows"][row]
    tasks = {name.partition("/")[0] for name in values["metrics"]["0"]}
    if row == "per-pixel":
        assert len(lines[1].split()) == 6  # mIoU, its range and the change; no PQ, and nothing in the paper
        assert values["settings"]["model.transformer_decoder"] == "per-pixel"
        assert (values["paper"], tasks) == ({}, {"semantic"})
    else:
        assert lines[1].endswith("-1.9")  # mIoU in the paper: 45.3 and 47.2
        assert tasks == {"panoptic", "semantic"}


def test_a_row_that_the_run_cannot_measure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="per-pixel classifies pixels, so the run must measure semantic"):
        ablate(config_of(tmp_path), tmp_path / "all", ["per-pixel"])


@pytest.mark.parametrize("init", [None, "scenes-tiny", "timm/resnet18.a1_in1k"])
def test_rows_that_the_initial_model_was_not_trained_for_are_noted(
    init: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mask2former.training.run.train", stop)
    if init is not None and init.startswith("timm/"):
        monkeypatch.setattr("mask2former.training.start.with_start", lambda run, *_: (run, Initial()))  # no model
    base = scenes_base(2)
    base = base.model_copy(update={"model": base.model.model_copy(update={"init": init, "init_partial": True})})
    rows = ["attention-full", "loss-on-masks", "dropout", "token-scaling", "mask-piloted"]
    with collect_notes() as notes, pytest.raises(KeyboardInterrupt):
        ablate(base, tmp_path / "all", rows)
    told = ["2 of 5 rows: attention-full, token-scaling"] if init == "scenes-tiny" else []
    assert [example for _, example in notes] == told

    if init == "scenes-tiny":  # before the first row is trained
        with pytest.raises(
            UserError, match=r"^pixel-decoder-fpn: scenes-tiny does not fit: model.pixel_decoder.name"
        ) as no:
            ablate(base, tmp_path / "all", [*rows, "pixel-decoder-fpn"])
        assert str(no.value).endswith(  # its settings cannot be left out
            "msdeformattn in the weights; choose other rows, or start all rows from a backbone or from random weights "
            "(model.init=null)"
        )


def test_a_row_that_cannot_be_trained_is_refused_before_the_first_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise StopIteration

    def refuse(model: Mask2Former, trainer: TrainerConfig) -> None:
        if isinstance(model.pixel_decoder, NoPixelDecoder):
            raise UserError("it has no pixel decoder")

    monkeypatch.setattr("mask2former.training.run.train", stop)
    base = changed(scenes_base(2), {"trainer.precision": "bf16", "trainer.half_pixel_decoder": True})
    with pytest.raises(StopIteration):
        ablate(base, tmp_path / "all", ["plain-vit", "encoder-only"])
    monkeypatch.setattr("mask2former.training.start.prepare_for_training", refuse)
    with pytest.raises(UserError, match=r"^encoder-only: it has no pixel decoder"):
        ablate(base, tmp_path / "all", ["plain-vit", "encoder-only"])


def test_the_spread_of_seeds() -> None:
    row = AblationRow("x", {}, {0: {"panoptic/PQ": 40.0}, 1: {"panoptic/PQ": 43.0}, 2: {"panoptic/PQ": 41.5}}, {})
    assert row.spread("panoptic/PQ") == (41.5, 40.0, 43.0)
    assert row.spread("instance/AP") is None


def test_a_row_that_does_not_exist_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no ablation 'attention-ful'; did you mean attention-full"):
        ablate(config_of(tmp_path), tmp_path / "all", ["attention-ful"])
    with pytest.raises(UserError, match="no ablation 'nothing'; expected one of attention-full, "):
        ablate(config_of(tmp_path), tmp_path / "all", ["nothing"])
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["trainer.max_step=3"], "error: override 'trainer.max_step=3': unknown key 'trainer.max_step'; did you mean"),
        (["--steps", str(10**10)], "error: --steps is '10000000000'; expected a whole number from 1"),
    ],
)
def test_a_wrong_argument_is_named(
    args: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ablate", "scenes", "-o", str(tmp_path / "all"), *args]) == 2
    assert capsys.readouterr().err.startswith(words)


@pytest.mark.parametrize(
    ("decoder", "words"),
    [
        ({"name": "standard"}, "ablations change the transformer decoder 'masked', but the run has 'standard'"),
        ({"pre_norm": True}, "attention mask_pool does not read the queries, so pre_norm has nothing to norm"),
    ],
)
def test_a_run_that_rows_do_not_fit_is_refused_before_anything_is_trained(
    decoder: dict[str, object], words: str, tmp_path: Path
) -> None:
    values = run_values(tmp_path)
    values["model"]["transformer_decoder"] |= decoder
    if "name" in decoder:
        values["model"]["transformer_decoder"] = {**decoder, "dim": 32, "num_queries": 20, "num_heads": 2}
    with pytest.raises(UserError, match=words):
        ablate(parse(RunConfig, values, "test"), tmp_path / "all", ["attention-full", "attention-mask-pool"])
    assert not (tmp_path / "all").exists()


def test_the_base_on_scenes_is_measured_for_all_tasks_at_its_end() -> None:
    assert base_run("scenes") == scenes_base()
    run = base_run("scenes", steps=40)
    assert run == scenes_base(40)
    assert (run.trainer.max_steps, run.evaluation.interval, run.optim.schedule_steps) == (40, 40, None)
    assert set(run.evaluation.tasks) == {"panoptic", "instance", "semantic"}
    assert RunConfig.model_validate(run.model_dump(mode="json")) == run


def test_a_base_run_from_python_names_the_arguments_of_the_call() -> None:
    with pytest.raises(UserError, match=r"^seed is set for each training; choose seeds instead$"):
        base_run("scenes", ["seed=4"])
    with pytest.raises(UserError, match=r"^steps 7 and the override trainer.max_steps=9 set the same"):
        base_run("scenes", ["trainer.max_steps=9"], steps=7)


@pytest.mark.parametrize("row", ABLATIONS)
def test_rows_change_the_scenes_as_they_change_the_papers_runs(row: str) -> None:
    base = scenes_base()
    run = ablated(base, ABLATIONS[row])
    assert RunConfig.model_validate(run.model_dump(mode="json")) == run
    plain = leaves(base)
    changed = {key: value for key, value in leaves(run).items() if value != plain[key]}
    expected = dict(ABLATIONS[row].settings)
    queries = "model.transformer_decoder.num_queries"
    if queries in expected:
        expected[queries] = round(expected[queries] * 0.32)  # of 32, for 100 in the paper
    assert changed == expected
    assert BASELINE not in ABLATIONS


def test_data_that_has_changed_since_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(run: RunConfig, *, resume: bool, progress: object) -> SimpleNamespace:
        return SimpleNamespace(metrics={"instance/AP": 40.0})

    monkeypatch.setattr("mask2former.training.run.train", trained)
    splits = {}
    for split in ("train", "validation"):
        image, file = tmp_path / f"{split}.png", tmp_path / f"{split}.json"
        Image.new("RGB", (64, 64)).save(image)
        shape = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 50, 1, 50, 50]]}
        images, categories = [{"id": 1, "file_name": image.name}], [{"id": 1, "name": "cell"}]
        file.write_text(json.dumps({"images": images, "annotations": [shape], "categories": categories}))
        splits[split] = [{"annotations": str(file), "images": str(tmp_path)}]
    values = run_values(tmp_path, data__dataset={"name": "coco-instance", **splits})
    values["evaluation"] |= {"tasks": ["instance"], "monitor": "instance/AP"}
    base, table = parse(RunConfig, values, "test"), tmp_path / "ablations.json"

    ablate(base, tmp_path, ["dropout"], seeds=1)
    recorded = json.loads(table.read_text())["data"]
    ablate(base, tmp_path, ["dropout"], seeds=2)
    assert json.loads(table.read_text())["data"] == recorded
    changes = (
        ("validation.png", "sizes of validation images"),
        ("train.json", r".*train\.json, annotation files of train"),
    )
    for name, change in changes:
        file = tmp_path / name
        before = file.read_bytes()
        file.write_bytes(before + b" ")
        with pytest.raises(UserError, match=rf"with other data \(changed since: {change}\); choose another output"):
            ablate(base, tmp_path, ["dropout"], seeds=3)
        file.write_bytes(before)

    # a finished folder does not need its data
    away = (tmp_path / "train.json").rename(tmp_path / "away.json")
    text = table.read_text()
    assert [sorted(row.metrics) for row in ablate(base, tmp_path, ["dropout"], seeds=2)] == [[0, 1], [0, 1]]
    assert table.read_text() == text
    away.rename(tmp_path / "train.json")

    # nobody knows what the rows of a table without a record were trained on, however many rows are added
    document = json.loads(text)
    del document["data"]
    table.write_text(json.dumps(document))
    for seeds in (3, 4):
        with collect_notes() as notes:
            ablate(base, tmp_path, ["dropout"], seeds=seeds)
        told = [note.example for note in notes if "without a record of their data" in note.message]
        assert told == [f"'{tmp_path}'"]
        assert json.loads(table.read_text())["data"] is None
