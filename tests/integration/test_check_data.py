"""``mask2former check-data``: every format that it supports, every fault by name, and suggestions that train."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from mask2former import visualization
from mask2former.cli import main
from mask2former.config import RunConfig, parse
from mask2former.dataset_tools.check import check_dataset
from mask2former.dataset_tools.contact_sheet import sheet
from mask2former.dataset_tools.figures import DataReport
from mask2former.dataset_tools.infer_format import DataPaths, infer_format
from mask2former.dataset_tools.prepare import dataset_names
from mask2former.dataset_tools.suggest import run_file, suggest_config
from mask2former.errors import UserError

H, W = 40, 60
NAMES = "sky\nroad\ncar\n"


def image_file(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (H, W, 3), dtype=np.uint8)).save(path)


def square(left: int, top: int, side: int = 10) -> list[int]:
    return [left, top, left + side, top, left + side, top + side, left, top + side]


def coco(root: Path, change: Callable[[dict[str, Any]], object] = lambda content: None) -> Path:
    """Write three training images with 2, 1 and 0 objects, two for validation; ``change`` edits the training file."""
    for split, count, seed in (("train", 3, 0), ("val", 2, 100)):
        content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
        content["categories"] = [{"id": 4, "name": "cell"}, {"id": 7, "name": "dirt"}]
        for number in range(count):
            image_file(root / split / f"{number}.png", seed + number)
            content["images"].append({"id": number, "file_name": f"{number}.png", "height": H, "width": W})
        for number, (image, category, corners) in enumerate(
            [(0, 4, square(2, 3)), (0, 7, square(20, 20, 5)), (1, 4, square(30, 10, 20))]
        ):
            entry = {"id": number, "image_id": image, "category_id": category, "segmentation": [corners]}
            content["annotations"].append(entry)
        if split == "train":
            change(content)
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root / "annotations" / "instances_train.json"


def panoptic(root: Path) -> Path:
    for split, seed in (("train", 0), ("val", 50)):
        annotations = []
        for number in range(2):
            image_file(root / split / f"{number}.png", seed + number)
            ids = np.zeros((H, W, 3), dtype=np.uint8)
            ids[:20, :, 0], ids[25:35, 5:25, 0], ids[25:35, 35:, 0] = 1, 2, 3
            (root / f"panoptic_{split}").mkdir(exist_ok=True)
            Image.fromarray(ids).save(root / f"panoptic_{split}" / f"{number}.png")
            segments = [{"id": number, "category_id": category} for number, category in ((1, 1), (2, 5), (3, 5))]
            annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": segments})
        content = {
            "images": [{"id": number, "file_name": f"{number}.png"} for number in range(2)],
            "annotations": annotations,
            "categories": [{"id": 1, "name": "sky", "isthing": 0}, {"id": 5, "name": "car", "isthing": 1}],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(content))
    return root / "annotations" / "panoptic_train.json"


def label_folder(root: Path) -> Path:
    for split, seed in (("train", 0), ("val", 50)):
        for number in range(2):
            image_file(root / "images" / split / f"{number}.jpg", seed + number)
            labels = np.zeros((H, W), dtype=np.uint8)
            labels[20:], labels[:4], labels[30:, 40:] = 1, 255, 2
            (root / "labels" / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels).save(root / "labels" / split / f"{number}.png")
    (root / "names.txt").write_text(NAMES)
    return root


def yolo(root: Path) -> Path:
    for split, seed in (("train", 0), ("val", 50)):
        for number in range(2):
            image_file(root / "images" / split / f"{number}.jpg", seed + number)
            file = root / "labels" / split / f"{number}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n" * (number + 1))
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cell]\n")
    return root / "data.yaml"


def report_of(path: Path, **options: Any) -> DataReport:
    config, _ = infer_format(path)
    assert not isinstance(config, RunConfig)
    return check_dataset(config, **options)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


# --- figures ---------------------------------------------------------------------------------------------------------


def test_figures_of_objects(tmp_path: Path) -> None:
    report = report_of(coco(tmp_path))
    facts = report.splits["train"]
    assert facts.objects.tolist() == [0, 1, 2]
    assert facts.areas.tolist() == [25, 100, 400]
    assert (facts.images_of.tolist(), facts.objects_of.tolist()) == ([2, 1], [2, 1])
    assert facts.pixels_of.tolist() == [500, 25]
    assert facts.sizes_hw == (((H, W), 3),)
    assert not report.is_broken
    assert [finding.sentence() for finding in report.findings] == ["train: images without object (1): 2.png"]
    values = json.loads(json.dumps(report.to_dict()))
    assert values["splits"]["validation"]["objects_per_image"]["max"] == 2


def test_figures_of_label_maps_with_their_void(tmp_path: Path) -> None:
    report = report_of(label_folder(tmp_path))
    facts = report.splits["train"]
    assert report.task == "semantic"
    assert facts.pixels_of.tolist() == [2 * 16 * W, 2 * 20 * W - 2 * 10 * 20, 2 * 10 * 20]
    assert report.to_dict()["splits"]["train"]["void_share"] == pytest.approx(0.1)
    assert not report.findings


def test_several_processes_find_the_same(tmp_path: Path) -> None:
    path = coco(tmp_path)
    (tmp_path / "train" / "1.png").write_bytes(b"no image")
    assert report_of(path, num_workers=2).to_dict() == report_of(path).to_dict()


# --- faults ----------------------------------------------------------------------------------------------------------


def forget(tmp_path: Path) -> None:
    (tmp_path / "train" / "1.png").unlink()


def damage(tmp_path: Path) -> None:
    path = tmp_path / "train" / "1.png"
    path.write_bytes(path.read_bytes()[:200])


def resize(tmp_path: Path) -> None:
    Image.new("RGB", (W, H + 1)).save(tmp_path / "train" / "1.png")


@pytest.mark.parametrize(
    ("change", "break_files", "message"),
    [
        (lambda content: None, forget, r"lacks images .*1\.png"),
        (lambda content: None, damage, r"images that cannot be used \(1\): .*1\.png"),
        (lambda content: None, resize, r"images that cannot be used \(1\): .*41x60 .* says 40x60"),
        (lambda content: content["annotations"][0].update(category_id=5), None, r"categories of annotations 1 \(0\)"),
        (lambda content: content["annotations"][0].update(image_id=9), None, r"images of annotations 1 \(0\)"),
        (lambda content: content["annotations"][1].update(id=0), None, "annotation ids must be unique"),
        (lambda content: content["annotations"][1].update(segmentation=[]), None, r"annotations 1 \(1\) have no segm"),
        (lambda content: content.update(annotations=[]), None, "nothing is annotated"),
    ],
)
def test_faults_are_named_and_end_with_1(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Any]], object],
    break_files: Callable[[Path], None] | None,
    message: str,
) -> None:
    path = coco(tmp_path, change)
    if break_files is not None:
        break_files(tmp_path)
    assert main(["check-data", str(path), "--workers", "0"]) == 1
    out, error = capsys.readouterr()
    assert "broken: train: " in out
    assert error.count("\n") == 1
    assert error.startswith("error: 1 fault in ")
    for text in (out, error):
        assert re.search(message, text), text


def test_the_rest_is_read_although_something_is_broken(tmp_path: Path) -> None:
    path = coco(tmp_path, lambda content: content["annotations"][0].update(segmentation=[]))
    (tmp_path / "train" / "2.png").unlink()
    report = report_of(path)
    assert report.is_broken
    assert report.splits["train"].num_images == 2
    assert report.splits["train"].objects.tolist() == [1, 1]


def test_many_broken_files_are_counted(tmp_path: Path) -> None:
    root = label_folder(tmp_path)
    for number in range(30):
        image_file(root / "images" / "train" / f"x{number}.jpg", number)
        Image.fromarray(np.full((H, W), 9, dtype=np.uint8)).save(root / "labels" / "train" / f"x{number}.png")
    finding = report_of(root).findings[0]
    assert finding.broken
    assert (finding.count, len(finding.offenders)) == (30, 20)
    assert "contains the numbers 1 (9)" in finding.offenders[0]
    assert finding.sentence().endswith("; and 10 more")


def test_what_is_odd_but_not_broken(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"] += [
            {"id": 10, "image_id": 1, "category_id": 4, "segmentation": [square(30, 10, 20)]},  # again
            {"id": 11, "image_id": 1, "category_id": 7, "segmentation": [square(30, 10, 20)]},  # another class
            {"id": 12, "image_id": 2, "category_id": 4, "segmentation": [[9.1, 9.1, 9.3, 9.1, 9.3, 9.3]]},  # no pixel
        ]

    path = coco(tmp_path, change)
    image_file(tmp_path / "train" / "2.png", 0)  # the first one again
    dark = np.full((H, W, 3), 3, np.uint8)
    dark[:20] = np.arange(40, 60)[:, None, None]
    for name in ("train/1.png", "val/0.png"):  # dark validation images are no fault: they are not augmented
        Image.fromarray(dark).save(tmp_path / name)
    report = report_of(path, num_queries=2)
    assert not report.is_broken
    sentences = {finding.sentence() for finding in report.findings}
    assert sentences == {
        "train: images with objects that are annotated twice (1): 1.png: 1",
        "train: images with objects without pixels (1): 2.png: 1",
        "train: images with more objects than the model has queries (2) (1): 1.png: 3",
        "train: dark images (99.98 % of the values are below 64 of 255; the colour jitter of resize-crop-flip "
        "subtracts up to 32, unless data.augmentation.exposure is set, for example to [0.15, 1.0]) (1): 1.png: 59",
        "train: images that occur several times (1): 0.png = 2.png",
        "validation: images that are also training data (1): 0.png = 1.png",
    }


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere.json"], "no file or folder 'nowhere.json'"),
        (["empty"], "contains no known data set"),
        (["text.txt"], "is not a known data set"),
        (["other.json"], "not a COCO file"),
        (["other.yaml"], "neither a run file .* nor a YOLO data.yaml"),
        (["voc"], "no published data set 'voc'"),
        (["other.json", "--suggest", "other.json"], "'other.json' is an input and would be overwritten"),
        (["other.json", "--suggest", "edited.yaml"], "--suggest 'edited.yaml' already exists and is not overwritten"),
        (["alone.json"], "give their folder with --images"),
        (["labels"], "names.txt"),
    ],
)
def test_wrong_requests_end_with_2(capsys: pytest.CaptureFixture[str], args: list[str], message: str) -> None:
    Path("empty").mkdir()
    Path("text.txt").write_text("")
    Path("edited.yaml").write_text("")
    Path("other.json").write_text("[]")
    Path("other.yaml").write_text("a: 3\n")
    alone = {"images": [{"id": 1, "file_name": "gone.png"}], "annotations": [], "categories": []}
    Path("alone.json").write_text(json.dumps(alone))
    (label_folder(Path("labels")) / "names.txt").unlink()
    assert main(["check-data", *args]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not Path("contact-sheet.png").exists()


# --- the command -----------------------------------------------------------------------------------------------------


def shorter(tmp_path: Path, monitor: str) -> list[str]:
    """Overrides that reduce a suggested run to a model of few layers and one step on smaller images."""
    sizes = ["crop_size", "pad_size"] if monitor == "semantic/mIoU" else ["image_size"]
    model = {
        "backbone": {
            "name": "timm",
            "model": "resnet10t",
            "norm": "batch",
            "kwargs": {"channels": [16, 32, 32, 64]},
        },
        "pixel_decoder": {"dim": 32, "mask_dim": 32, "num_layers": 1, "num_heads": 2, "feedforward_dim": 32},
    }
    decoder = {"dim": 32, "num_layers": 1, "num_heads": 2, "feedforward_dim": 32}
    return [
        *(f"model.{name}={json.dumps(value)}" for name, value in model.items()),
        *(f"model.transformer_decoder.{name}={value}" for name, value in decoder.items()),
        *(f"data.augmentation.{name}=[96, 96]" for name in sizes),
        "model.init=null",
        "criterion.num_points=64",
        "data.batch_size=2",
        "data.num_workers=0",
        "trainer.max_steps=1",
        "trainer.accelerator=cpu",
        "evaluation.interval=1",
        "evaluation.num_images=0",
        f"output={tmp_path / 'run'}",
    ]


@pytest.mark.parametrize(
    ("write", "monitor"),
    [
        pytest.param(coco, "instance/AP", id="coco"),
        pytest.param(yolo, "instance/AP", id="yolo", marks=pytest.mark.long),
        pytest.param(panoptic, "panoptic/PQ", id="panoptic", marks=pytest.mark.long),
        pytest.param(label_folder, "semantic/mIoU", id="labels"),
    ],
)
@pytest.mark.usefixtures("unpredicted_memory")
def test_checks_draws_and_proposes_a_run_that_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Callable[[Path], Path], monitor: str
) -> None:
    path = write(tmp_path / "data")
    command = ["check-data", str(path), "--suggest", "run.yaml", "--json", "facts.json", "--workers", "0"]
    assert main(command) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "nothing is broken" in out
    run = parse(RunConfig, yaml.safe_load(Path("run.yaml").read_text()), "proposal")
    assert run.evaluation.monitor == monitor
    assert run.model.inference.tasks[0] == monitor.split("/")[0]
    with Image.open("contact-sheet.png") as image:
        assert image.width > 1000
    facts = json.loads(Path("facts.json").read_text())
    assert facts["broken"] is False
    assert facts["dataset"]["name"] == run.data.dataset.name
    assert main(["check-data", "run.yaml", "--workers", "0"]) == 0  # a run file is a data set, too
    assert f"the model has {run.model.transformer_decoder.queries} queries" in capsys.readouterr().out or (
        monitor == "semantic/mIoU"
    )
    assert main(["train", "run.yaml", *shorter(tmp_path, monitor)]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run" / "model.safetensors"), "--data", "run.yaml"]) == 0
    assert monitor in capsys.readouterr().out


def test_without_training_data_the_sheet_shows_validation(tmp_path: Path) -> None:
    config, _ = infer_format(coco(tmp_path))
    assert not isinstance(config, RunConfig)
    (tmp_path / "annotations" / "instances_train.json").write_text("{")
    assert sheet(config, "test") is not None
    report = check_dataset(config)
    assert report.is_broken
    assert list(report.splits) == ["validation"]


def test_the_sheet_shows_annotations_and_passes_over_what_is_broken(tmp_path: Path) -> None:
    config, _ = infer_format(label_folder(tmp_path))
    assert not isinstance(config, RunConfig)
    drawn = sheet(config, "test")
    assert drawn is not None
    (tmp_path / "images" / "train" / "0.jpg").write_bytes(b"")
    fewer = sheet(config, "test")
    assert fewer is not None
    assert fewer.width < drawn.width
    (tmp_path / "images" / "train" / "1.jpg").write_bytes(b"")
    assert sheet(config, "test") is None


# --- proposals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("init", "told"),
    [
        ("scenes-tiny", "the model has 32 queries"),
        ("coco-instance/swin-l", "the model has 200 queries"),  # known without its weights
        ("nowhere.safetensors", "the settings of model.init 'nowhere.safetensors' cannot be read"),
    ],
)
def test_a_run_file_is_checked_with_the_settings_of_its_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], init: str, told: str
) -> None:
    files = {"annotations": str(coco(tmp_path)), "images": str(tmp_path / "train")}
    dataset = {"name": "coco-instance", "train": [files], "validation": [files]}
    values = {"model": {"init": init}, "data": {"dataset": dataset}}
    values["evaluation"] = {"tasks": ["instance"], "monitor": "instance/AP"}
    Path("run.yaml").write_text(yaml.safe_dump(values))
    main(["check-data", "run.yaml", "--workers", "0"])
    assert told in capsys.readouterr().out


@pytest.mark.parametrize(
    ("augmentation", "is_noted"),
    [
        ({"name": "resize-crop-flip"}, True),
        ({"name": "resize-crop-flip", "exposure": [0.2, 1]}, False),
        ({"name": "resize-crop-flip", "color_jitter": False}, False),
        ({"name": "large-scale-jitter"}, False),
    ],
)
def test_dark_images_matter_where_brightness_is_subtracted(
    tmp_path: Path, augmentation: dict[str, Any], *, is_noted: bool
) -> None:
    files = {"annotations": str(coco(tmp_path)), "images": str(tmp_path / "train")}
    for path in (tmp_path / "train").glob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) // 8).save(path)
    dataset = {"name": "coco-instance", "train": [files], "validation": [files]}
    run = parse(RunConfig, {"data": {"dataset": dataset, "augmentation": augmentation}}, "run")
    findings = check_dataset(run.data.dataset, run=run).findings
    assert any(finding.message.startswith("dark images") for finding in findings) == is_noted


def test_crowded_images_ask_for_queries_and_detections(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        corners = [square(x, y, 4) for x in range(0, 55, 5) for y in range(0, 35, 5)] * 2
        content["annotations"] = [
            {"id": number, "image_id": 0, "category_id": 4, "segmentation": [corner]}
            for number, corner in enumerate(corners[:120])
        ]

    config, _ = infer_format(coco(tmp_path, change))
    assert not isinstance(config, RunConfig)
    run, reasons = suggest_config(config, check_dataset(config))
    assert run.model.transformer_decoder.queries == 150
    assert run.evaluation.max_detections == run.model.inference.max_instances == 150
    assert any("120 objects" in reason for reason in reasons)


def test_proposals_follow_the_sizes_of_images_and_objects(tmp_path: Path) -> None:
    config, _ = infer_format(coco(tmp_path))
    assert not isinstance(config, RunConfig)
    run, _ = suggest_config(config, check_dataset(config))
    assert run.evaluation.area_limits == (75, 200)  # by COCO's limits all would be small: 25, 100, 400, twice
    assert (run.model.inference.short_edge, run.data.augmentation.image_size) == (256, (384, 384))  # type: ignore[union-attr]
    assert run.trainer.max_steps == 1000
    scaled = {"train": (900, 1200), "val": (900, 1200)}
    for split, (height, width) in scaled.items():
        for path in (tmp_path / split).glob("*.png"):
            Image.new("RGB", (width, height), (int(path.stem), len(split), 0)).save(path)
        file = tmp_path / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        for image in content["images"]:
            image.update(height=height, width=width)
        for number, entry in enumerate(content["annotations"]):
            entry["segmentation"] = [square(number * 10, 0, (10, 60, 200)[number])]
        file.write_text(json.dumps(content))
    run, _ = suggest_config(config, check_dataset(config))
    assert run.evaluation.area_limits == (1024, 9216)
    assert (run.model.inference.short_edge, run.model.inference.long_edge) == (896, 1184)


def test_dark_images_with_classes_alone_get_another_exposure(tmp_path: Path) -> None:
    config, _ = infer_format(label_folder(tmp_path))
    assert not isinstance(config, RunConfig)
    for is_dark in (False, True):
        run, reasons = suggest_config(config, check_dataset(config))
        assert run.data.augmentation.name == "resize-crop-flip"
        assert run.data.augmentation.exposure == ((0.15, 1.0) if is_dark else None)
        assert any("training images are dark" in reason for reason in reasons) == is_dark
        for path in (tmp_path / "images" / "train").glob("*.jpg"):
            Image.fromarray(np.asarray(Image.open(path)) // 8).save(path)


def cells(tmp_path: Path, count: int, side: int, classes: int = 1) -> RunConfig:
    """The suggested run for images with this many squares of this side, which are all of the first class."""

    def change(content: dict[str, Any]) -> None:
        content["categories"] = content["categories"][:classes]
        content["annotations"] = [
            {"id": 100 * image + number, "image_id": image, "category_id": 4, "segmentation": [corners]}
            for image in range(3)
            for number in range(count)
            for corners in [square(8 * (number % 7), 8 * (number // 7), side)]
        ]

    config, _ = infer_format(coco(tmp_path, change))
    assert not isinstance(config, RunConfig)
    validation = Path(config.validation[0].annotations)  # type: ignore[union-attr]
    content = json.loads(validation.read_text())
    content["categories"] = content["categories"][:classes]
    content["annotations"] = [entry for entry in content["annotations"] if entry["category_id"] == 4]
    validation.write_text(json.dumps(content))
    run, reasons = suggest_config(config, check_dataset(config))
    text = run_file(run, reasons, "test")
    assert parse(RunConfig, yaml.safe_load(text), "proposal") == run
    assert all(len(line) < 400 for line in text.splitlines())
    return run


@pytest.mark.parametrize(
    ("count", "side", "classes", "init"),
    [
        (10, 4, 1, "nuclei"),
        (10, 4, 2, "coco-instance/r50"),  # two kinds
        (10, 20, 1, "coco-instance/r50"),  # large ones
        (3, 4, 1, "coco-instance/r50"),  # few
    ],
)
def test_many_small_objects_of_one_class_start_from_the_packaged_model(
    tmp_path: Path, count: int, side: int, classes: int, init: str
) -> None:
    run = cells(tmp_path, count, side, classes)
    assert run.model.init == init
    if init == "nuclei":
        assert run.model.model_fields_set == {"init", "inference"}  # everything else is the packaged model's
        assert run.model.inference.model_fields_set == {"min_area"}
        assert (run.trainer.max_steps, run.optim.lr) == (200, 2e-5)
        assert run.evaluation.max_detections == 400
        assert run.data.augmentation.name == "resize-crop-flip"
        assert run.data.augmentation.exposure == (0.15, 1.0)  # colour jitter would blacken dark fluorescence
    else:
        assert "backbone" not in run.model.model_fields_set


def test_cells_smaller_than_those_of_the_packaged_model_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its ``min_area`` would leave them out; ``check-data`` counts them if a run keeps it."""
    run = cells(tmp_path, 10, 4)
    assert run.model.inference.min_area == 16
    dumped = run.model_dump(mode="json")
    dumped["model"] = {"init": "nuclei"}
    Path("run.yaml").write_text(yaml.safe_dump(dumped))
    main(["check-data", "run.yaml", "--workers", "0"])
    found = " ".join(capsys.readouterr().out.split())
    assert "images with objects below 21 pixels, which model.inference.min_area leaves out of predictions (3)" in found
    assert "0.png: 10" in found


def test_a_model_that_segments_tiles_has_its_queries_for_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Objects of an image are not compared with them, whether the model is suggested or that of a run file."""

    def change(content: dict[str, Any]) -> None:
        content["categories"] = content["categories"][:1]
        content["annotations"] = [
            {"id": 200 * image + number, "image_id": image, "category_id": 4, "segmentation": [corners]}
            for image in range(3)
            for number, corners in enumerate(square(4 * (n % 15), 4 * (n // 15), 2) for n in range(120))
        ]

    path = coco(tmp_path, change)
    files = {"annotations": str(path), "images": str(tmp_path / "train")}
    dataset = {"name": "coco-instance", "train": [files], "validation": []}
    run = {"model": {"init": "nuclei"}, "data": {"dataset": dataset}}
    Path("run.yaml").write_text(yaml.safe_dump(run | {"evaluation": {"tasks": ["instance"], "monitor": "instance/AP"}}))
    for source, *suggest in ((str(path), "--suggest", "suggested.yaml"), ("run.yaml",)):
        main(["check-data", source, "--workers", "0", *suggest, "--json", "report.json"])
        out = capsys.readouterr().out
        assert "the model has 100 queries for each tile" in out
        assert not re.search(r"than the model has queries|in one image: train on", out)
        assert json.loads(Path("report.json").read_text())["is_tiled"]
    assert yaml.safe_load(Path("suggested.yaml").read_text())["model"]["init"] == "nuclei"
    main(["check-data", str(path), "--workers", "0", "--queries", "110"])
    assert "more objects than the model has queries (110) (3)" in capsys.readouterr().out


# --- what is recognised ----------------------------------------------------------------------------------------------


def test_layouts_of_label_maps(tmp_path: Path) -> None:
    source = label_folder(tmp_path / "a")
    for split in ("train", "val"):
        for kind, name in (("images", "imgs"), ("labels", "masks")):
            (tmp_path / "b" / split).mkdir(parents=True, exist_ok=True)
            (source / kind / split).rename(tmp_path / "b" / split / name)
    config, notes = infer_format(tmp_path / "b", DataPaths(names=source / "names.txt"))
    assert not isinstance(config, RunConfig)
    assert (config.train[0].labels, config.validation[0].images) == (  # type: ignore[union-attr]
        str(tmp_path / "b" / "train" / "masks"),
        str(tmp_path / "b" / "val" / "imgs"),
    )
    folders = tmp_path / "b" / "val"
    assert notes == [f"used for validation: the maps in '{folders / 'masks'}' of the images in '{folders / 'imgs'}'"]
    given = DataPaths(tmp_path / "b" / "train" / "imgs", tmp_path / "b" / "train" / "masks", source / "names.txt")
    assert infer_format(tmp_path / "b" / "train", given)[0] == config


def test_without_validation_data_the_user_is_told(tmp_path: Path) -> None:
    path = coco(tmp_path)
    (tmp_path / "annotations" / "instances_val.json").unlink()
    config, (note,) = infer_format(path)
    assert "is used instead" in note
    assert not isinstance(config, RunConfig)
    assert list(check_dataset(config).splits) == ["train"]


def test_exports_of_tools_in_a_folder(tmp_path: Path) -> None:
    path = coco(tmp_path / "x")
    content = json.loads(path.read_text())
    for split in ("train", "valid"):  # as Roboflow has it
        for number in range(3):
            image_file(tmp_path / split / f"{number}.png", number)
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(content))
    config, _ = infer_format(tmp_path)
    assert not isinstance(config, RunConfig)
    assert config.validation[0].images == str(tmp_path / "valid")  # type: ignore[union-attr]


def test_one_of_several_files_is_said_to_be_taken(tmp_path: Path) -> None:
    path = coco(tmp_path)
    (tmp_path / "annotations.json").write_bytes(path.read_bytes())
    _, notes = infer_format(tmp_path)
    assert any(f"used as the data: '{path}', not annotations.json" in note for note in notes)
    source = label_folder(tmp_path / "labels")
    (source / "classes.txt").write_text("a\nb\n")
    _, notes = infer_format(source)
    assert any("names.txt', not from 'classes.txt'; to use another file, give it (--names" in note for note in notes)


@pytest.mark.parametrize(
    "content",
    [
        {"images": [{"id": 1, "file_name": 5}], "annotations": []},
        {"images": [], "annotations": [{"image_id": 1, "file_name": None, "segments_info": []}]},
        {"images": {}, "annotations": {}},
        {"images": ["a.png"], "annotations": []},
    ],
)
def test_what_only_looks_like_a_coco_file_is_refused(tmp_path: Path, content: Any) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"a\.json' (is not a COCO file|lists no images)"):
        infer_format(tmp_path / "a.json")


# --- preparing -------------------------------------------------------------------------------------------------------


def test_prepare_says_what_was_made_and_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "ADEChallengeData2016" / "annotations" / "validation"
    folder.mkdir(parents=True)
    Image.fromarray(np.full((2, 2), 7, dtype=np.uint8)).save(folder / "ADE_val_00000001.png")
    for made, there in ((1, 0), (0, 1)):
        assert main(["prepare", "ade20k", "--data-root", str(tmp_path)]) == 0
        out = capsys.readouterr().out
        assert f"semantic label maps, validation: {made} made, {there} already there; subset: 1 of 2000" in out
        assert "note: training is missing" in out
    assert main(["prepare", "voc"]) == 2
    assert "expected one of ade20k" in capsys.readouterr().err
    assert main(["prepare", "cityscapes", "--data-root", str(tmp_path)]) == 2
    assert "gtFine_trainvaltest.zip" in capsys.readouterr().err


def test_the_help_names_what_can_be_prepared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "--help"]) == 0
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name in dataset_names():
        assert name in words


def test_names_that_lead_outside_are_allowed_by_a_flag_that_the_proposal_keeps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lead_outside(content: dict[str, Any]) -> None:
        content["images"][2]["file_name"] = "../pool/a.png"

    file, proposal = coco(tmp_path, lead_outside), tmp_path / "run.yaml"
    image_file(tmp_path / "pool" / "a.png", 7)
    words = ["check-data", str(file), "--images", str(tmp_path / "train"), "--sheet", str(tmp_path / "sheet.png")]
    assert main(words) == 1
    assert "for check-data and evaluate: --allow-outside" in capsys.readouterr().out
    assert main([*words, "--allow-outside", "--propose", str(proposal)]) == 0  # the former name of --suggest
    assert "--propose is called --suggest now" in capsys.readouterr().err
    assert yaml.safe_load(proposal.read_text("utf-8"))["data"]["dataset"]["allow_outside"] is True
    capsys.readouterr()
    assert main(["check-data", str(label_folder(tmp_path / "maps")), "--allow-outside"]) == 2
    assert "--allow-outside applies to annotations" in capsys.readouterr().err
    words = ["evaluate", "nuclei", "--annotations", str(file), "--images", str(tmp_path / "train")]
    assert main(words) == 2
    assert "allow_outside=true" in capsys.readouterr().err
    assert main([*words, "--allow-outside"]) == 2  # the files are read, and only the classes differ
    assert "the classes of the model (1) and of the data" in capsys.readouterr().err
    assert main(["evaluate", "nuclei", "--allow-outside"]) == 2
    assert "--allow-outside applies to annotations" in capsys.readouterr().err


def test_where_nothing_can_be_proposed_the_faults_are_summed_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def forget_images(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image["file_name"] = f"lost-{image['file_name']}"

    file = coco(tmp_path, forget_images)
    words = ["--images", str(tmp_path / "train"), "--propose", str(tmp_path / "run.yaml")]
    assert main(["check-data", str(file), *words]) == 1
    err = capsys.readouterr().err
    assert "fix what is reported as broken above" in err
    assert "no run can be suggested" not in err


def test_annotations_in_an_archive_are_to_be_unpacked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("train.json", "{}")
    for path in ("all.zip", "all.zip/train.json"):
        assert main(["check-data", str(tmp_path / path)]) == 2
        assert "only images and label maps can be read; unpack the annotations" in capsys.readouterr().err


def test_the_sheet_counts_one_class_in_the_singular(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = infer_format(coco(tmp_path, lambda content: content.update(annotations=content["annotations"][:1])))
    assert not isinstance(config, RunConfig)
    said: list[str] = []
    monkeypatch.setattr(visualization, "contact_sheet", lambda *_, subtitle, **__: said.append(subtitle))
    sheet(config, "test")
    assert said == ["3 images (train), 2 classes; 3 images and 1 class shown"]
