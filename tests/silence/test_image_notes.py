"""Notes about partly read files reach the user: commands print them with a count; all readers share one range."""

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from mask2former import checkpoints, notes
from mask2former.cli import main
from mask2former.config import CocoInstanceConfig, InferenceConfig, LabelFolderConfig, YoloConfig, parse
from mask2former.data.build import build_images
from mask2former.data.datasets.reader import notes_of_some
from mask2former.dataset_tools.check import check_dataset
from mask2former.errors import UserError
from mask2former.inference.predictor import Predictor
from mask2former.media.frames import open_frames
from mask2former.media.images import read_image

pytestmark = pytest.mark.usefixtures("small_overlays")
H, W = 32, 48
VALUES = np.rint(np.linspace(0, 1023, H * W)).reshape(H, W).astype(np.uint16)
BYTES = (VALUES // 4).astype(np.uint8)


def images(folder: Path) -> Path:
    """Write a plain image, a 10-bit one, one of two pages, a transparent one and one that is skipped."""
    folder.mkdir(parents=True)
    Image.fromarray(BYTES).save(folder / "plain.png")
    Image.fromarray(VALUES).save(folder / "deep.png")
    Image.fromarray(BYTES).save(folder / "pages.tif", save_all=True, append_images=[Image.fromarray(BYTES)])
    Image.fromarray(np.dstack([BYTES] * 4)).save(folder / "clear.png")
    Image.fromarray(BYTES).save(folder / "other.gif")
    return folder


PARTS = (
    r"read as 10 bits, .*\(1\): '.*deep\.png'",
    r"several pages.* \(1\): '.*pages\.tif' \(2\)",
    r"alpha channel.* \(1\): '.*clear\.png'",
)
SKIPPED = r"other formats, skipped: \.gif .*\(1\): '.*other\.gif'"


def coco(root: Path) -> Path:
    folder = images(root / "images")
    names = ["plain.png", "deep.png", "pages.tif", "clear.png"]
    corners = [2, 2, 20, 2, 20, 20, 2, 20]
    content = {
        "images": [{"id": k, "file_name": name, "height": H, "width": W} for k, name in enumerate(names)],
        "categories": [{"id": 1, "name": "circle"}],
        "annotations": [{"id": k, "image_id": k, "category_id": 1, "segmentation": [corners]} for k in range(4)],
    }
    (root / "a.json").write_text(json.dumps(content))
    assert folder.is_dir()
    return root / "a.json"


def coco_config(path: Path, **settings: Any) -> CocoInstanceConfig:
    split = [{"annotations": str(path), "images": str(path.parent / "images")}]
    return parse(CocoInstanceConfig, {"train": split, "validation": split, **settings}, "test")


def test_predict_says_what_it_read_in_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = images(tmp_path / "in")
    command = ["predict", str(folder), "-o", str(tmp_path / "out"), "-m", "scenes-tiny", "--short-edge", "64"]
    assert main(command) == 0
    printed = capsys.readouterr().err
    for part in (*PARTS, SKIPPED):
        assert re.search(f"^note: .*{part}", printed, re.MULTILINE), (part, printed)
    assert main([*command, "--value-range", "0", "1023", "--overwrite"]) == 0
    assert "10 bits" not in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "deep.json").read_text())["settings"]["value_range"] == [0, 1023]
    assert main([*command, "--value-rule", "percentile", "--overwrite"]) == 0
    assert "percentiles 0.5 and 99.5" in " ".join(capsys.readouterr().err.split())
    assert json.loads((tmp_path / "out" / "deep.json").read_text())["settings"]["value_range"] == "percentile"
    assert main([*command, "--value-rule", "full", "--value-range", "0", "9"]) == 2
    assert "--value-range and --value-rule cannot be used together" in capsys.readouterr().err
    for black, white in (("9", "1"), ("0", "1_000"), ("nan", "1"), ("0", "inf")):
        assert main([*command, "--value-range", black, white]) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert f"--value-range is '{black} {white}'; expected two ascending numbers, black and white, as in" in error


def test_predict_gives_the_same_for_8_bits_and_10_in_16(tmp_path: Path) -> None:
    predictor = Predictor.from_pretrained("scenes-tiny", device="cpu")
    scene = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(scene).save(tmp_path / "a.png")
    Image.fromarray(np.where(scene == 255, 1023, scene.astype(np.uint16) * 4)).save(tmp_path / "b.png")
    settings = {"value_range": (0, 1020)}
    first, second = (predictor(tmp_path / name, "semantic", **settings) for name in ("a.png", "b.png"))
    np.testing.assert_array_equal(first.labels, second.labels)


def test_check_data_counts_what_is_read_in_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = coco(tmp_path)
    report = check_dataset(coco_config(path))
    found = "\n".join(finding.sentence() for finding in report.findings)
    for part in PARTS:
        assert re.search(part, found), (part, found)
    command = ["check-data", str(path), "--images", str(path.parent / "images"), "--workers", "0"]
    assert main([*command, "--sheet", str(tmp_path / "sheet.png")]) == 0
    printed = capsys.readouterr()
    for part in PARTS:
        assert re.search(f"^note: .*{part}", printed.out, re.MULTILINE), printed.out
    assert not printed.err


def test_evaluate_says_what_it_read_in_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Notes say which files were read in part; none does for a range of values if the model has one."""
    path = coco(tmp_path)
    predictor = Predictor.from_pretrained("scenes-tiny", device="cpu")
    content = json.loads(path.read_text())
    content["categories"] = [
        {"id": k + 1, "name": item.name} for k, item in enumerate(predictor.categories) if item.is_thing
    ]
    content["annotations"] = [
        {**entry, "category_id": content["categories"][0]["id"]} for entry in content["annotations"]
    ]
    path.write_text(json.dumps(content))
    command = ["evaluate", "--annotations", str(path), "--images", str(path.parent / "images"), "--device", "cpu"]
    assert main([*command, "scenes-tiny"]) == 0
    printed = capsys.readouterr().out
    for part in PARTS:
        assert re.search(f"^note: .*{part}", printed, re.MULTILINE), printed
    info = predictor.model.info
    predictor.model.info = replace(info, inference=info.inference.model_copy(update={"value_range": (0.0, 4095.0)}))
    checkpoints.save(predictor.model, tmp_path / "ranged.safetensors")
    assert main([*command, str(tmp_path / "ranged.safetensors")]) == 0
    assert "10 bits" not in capsys.readouterr().out


def test_training_samples_some_and_reads_as_its_model(tmp_path: Path) -> None:
    path = coco(tmp_path)
    samples = build_images(coco_config(path), "train")
    found = "\n".join(notes_of_some(samples))
    for part in PARTS:
        assert re.search(f"of 4 read .*{part}", found), found
    assert "10 bits" not in "\n".join(notes_of_some(samples, most=1))
    ranged = build_images(coco_config(path), "train", value_range=(0, 4095))
    np.testing.assert_array_equal(
        ranged.image(1), read_image(path.parent / "images" / "deep.png", value_range=(0, 4095))
    )
    np.testing.assert_array_equal(ranged.annotated(1).image, ranged.image(1))
    assert abs(ranged.image(1)[..., 0].astype(int) - BYTES // 4).max() <= 1


def test_label_folders_note_images_of_other_formats(tmp_path: Path) -> None:
    images(tmp_path / "images")
    (tmp_path / "labels").mkdir()
    for name in ("plain", "deep", "pages", "clear"):
        Image.fromarray(BYTES % 2).save(tmp_path / "labels" / f"{name}.png")
    (tmp_path / "names.txt").write_text("a\nb\n")
    split = [{"images": str(tmp_path / "images"), "labels": str(tmp_path / "labels")}]
    values = {"train": split, "validation": split, "names": str(tmp_path / "names.txt")}
    samples = build_images(parse(LabelFolderConfig, values, "test"), "train")
    assert re.search(SKIPPED, "\n".join(samples.notes))


def yolo(root: Path) -> Path:
    images(root / "images" / "train")
    (root / "labels" / "train").mkdir(parents=True)
    for name in ("plain", "deep", "pages", "clear"):
        (root / "labels" / "train" / f"{name}.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(BYTES).save(root / "images" / "train" / "plain.png", exif=exif)
    content = {"train": "images/train", "val": "images/train", "names": ["a"], "path": str(root)}
    (root / "data.yaml").write_text(yaml.safe_dump(content))
    return root / "data.yaml"


def test_yolo_notes_other_formats_and_exif(tmp_path: Path) -> None:
    """Skipped formats are noted, and so are EXIF rotations, since the format states no sizes that would show them."""
    path = yolo(tmp_path)
    report = check_dataset(parse(YoloConfig, {"data": str(path)}, "test"))
    found = "\n".join(finding.sentence() for finding in report.findings)
    assert re.search(SKIPPED, found), found
    assert re.search(r"EXIF mirrors or rotates.*exif=ignore.*\(1\): '.*plain\.png' \(orientation 8\)", found), found
    ignoring = build_images(parse(YoloConfig, {"data": str(path), "exif": "ignore"}, "test"), "train")
    assert {ignoring.image(index).shape for index in range(4)} == {(H, W, 3)}


def test_frames_of_a_folder_are_read_likewise(tmp_path: Path) -> None:
    folder = images(tmp_path / "clip")
    frames = open_frames(folder)
    for _ in frames:
        pass
    found = "\n".join(frames.notes)
    for part in (*PARTS, SKIPPED):
        assert re.search(part, found), found
    frames = open_frames(folder)
    frames.reading = {"value_range": (0, 4095)}
    darkest = min(int(frame.image.max()) for frame in frames)
    assert darkest == round(1023 / 4095 * 255)


def test_without_a_collector_the_first_of_a_kind_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "_logged", set())
    with caplog.at_level(logging.WARNING, "mask2former"):
        for _ in range(3):
            read_image(VALUES)
    (message,) = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(r"16-bit images .*read as 10 bits, .*: 'array' \(up to 1023\)", message)


def test_a_range_is_two_rising_numbers() -> None:
    for wrong in ([1, 0], [0, float("inf")], [0, float("nan")], [3]):
        with pytest.raises(UserError, match="value_range"):
            parse(InferenceConfig, {"value_range": wrong}, "test")
