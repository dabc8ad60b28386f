"""Formats of common tools: ``check-data`` recognises each, and its run file reads exactly the annotated masks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from foreign_formats import FORMATS, SPLITS, H, W, class_map, image_file, masks, objects

from mask2former.cli import main
from mask2former.config import DataConfig, IdMapsConfig, RunConfig, parse
from mask2former.data.build import build_images
from mask2former.data.datasets.label_folder import LabelFolder
from mask2former.data.datasets.official import Split
from mask2former.dataset_tools.check_data import check_data
from mask2former.dataset_tools.data_paths import DataPaths
from mask2former.errors import UserError
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.structures.ground_truth import InstanceGroundTruth

PAGE = Path(__file__).parents[2] / "docs" / "data-formats.md"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", FORMATS)
def test_check_data_knows_it_and_reads_what_was_annotated(name: str) -> None:
    make, kind, has_classes = FORMATS[name]
    checked = check_data(make(Path("data")), suggest="run.yaml", num_workers=0)
    assert not checked.report.is_broken, checked.report.findings
    run = parse(RunConfig, yaml.safe_load(Path("run.yaml").read_text()), "run.yaml")
    assert run.data.dataset.name == kind
    is_same = any("there is no validation data" in note for note in checked.notes)
    parts: list[tuple[Split, str]] = [("train", "train"), ("validation", "train" if is_same else "val")]
    for split, part in parts:
        samples = build_images(run.data.dataset, split)
        names = list(SPLITS[part])
        assert [
            str(samples.image_id(index)).rsplit("/", 1)[-1].rsplit("-", 1)[-1] for index in range(len(samples))
        ] in (
            names,
            [f"{name}_leftImg8bit" for name in names],
        )
        for index, image in enumerate(names):
            if isinstance(samples, LabelFolder):
                classes = samples.ground_truths(index, ["semantic"])["semantic"]
                assert isinstance(classes, np.ndarray)
                assert (classes == class_map(image)).all()
                continue
            truth = samples.ground_truths(index, ["instance"])["instance"]
            assert isinstance(truth, InstanceGroundTruth)
            labels = [samples.categories[label].name for label in truth.labels.tolist()]
            dense = SparseMasks.of(truth.masks).dense()
            assert {(label, mask.tobytes()) for label, mask in zip(labels, dense, strict=True)} == {
                (label if has_classes else "object", mask.tobytes())
                for (label, _), mask in zip(objects(image), masks(image), strict=True)
            }
            assert len(samples.annotated(index).labels) == len(labels)


def test_void_is_ignored_and_background_is_known() -> None:
    make, _, _ = FORMATS["voc"]
    samples = build_images(check_data(make(Path("data")), num_workers=0).dataset, "train")
    ignored = samples.annotated(0, with_ignored=True).ignored
    assert ignored is not None
    assert np.flatnonzero(ignored.any(axis=1)).tolist() == [4]  # the row of 255


def test_without_names_of_classes_it_is_said_how_to_write_them() -> None:
    make, _, _ = FORMATS["voc"]
    path = make(Path("data"))
    (path / "names.txt").unlink()
    with pytest.raises(UserError, match=r"write 'data/labelmap.txt' .*; for the classes of VOC 2012, names is pascal_"):
        check_data(path, num_workers=0)
    assert check_data(path, DataPaths(names=Path("pascal_voc")), num_workers=0).report.task == "instance"


def test_maps_of_classes_alone_are_read_where_they_are_named() -> None:
    make, _, _ = FORMATS["voc"]
    found = check_data(make(Path("data")), DataPaths(labels=Path("data/SegmentationClass")), num_workers=0)
    assert (found.dataset.name, found.report.task) == ("label-folder", "semantic")
    assert not found.report.is_broken


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    make, _, _ = FORMATS["labelme"]
    path = make(Path("data"))
    assert main(["check-data", str(path), "--suggest", "run.yaml", "--workers", "0"]) == 0
    assert main(["check-data", "run.yaml", "--workers", "0"]) == 0
    assert "nothing is broken" in capsys.readouterr().out


REFUSED = {
    "a_seg.npy": (b"\x93NUMPY", "read as the map of an image .*; give the folder with images and maps"),
    "via.csv": (b"filename,file_size\n", "export JSON .VIA"),
    "labelbox.ndjson": (b"{}\n", "as Labelbox exports; convert it to COCO"),
    "a.mat": (b"MATLAB", "a MATLAB file; save its label maps as PNG"),
    "datumaro.json": (
        b'{"dm_format_version": "1.0", "media_type": 2, "infos": {}, "categories": {}, "items": []}',  # 1.13
        "Datumaro's own JSON, .* export 'COCO 1.0'",
    ),
    "darwin.json": (b'{"version": "2.0", "item": {}, "annotations": []}', "JSON of V7 Darwin, .* export 'COCO'"),
    "segments.json": (b'{"name": "a", "dataset": {}, "created_at": ""}', "a release of Segments.ai, .* COCO panoptic"),
    "bdd.json": (b'{"frames": []}', "Scalabel's JSON"),
    "clips.json": (b'{"videos": [], "annotations": []}', "YouTube-VIS format.* recipe ytvis2019-instance/r50', name"),
    "boxes.xml": (b"<annotation><object><bndbox/></object></annotation>", "boxes of one image .* masks cannot be"),
    "old.xml": (b"<annotation><object><polygon><pt/></polygon></object></annotation>", "old LabelMe web tool"),
    "kml.xml": (b"<kml/>", "XML of an unknown kind"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_named_with_the_way_to_export_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, words = REFUSED[name]
    folder = Path("data")
    folder.mkdir()
    (folder / name).write_bytes(content)
    assert main(["check-data", str(folder / name)]) == 2
    assert re.search(words, capsys.readouterr().err)


def test_label_studios_yolo_is_refused_with_what_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    Path("data/labels").mkdir(parents=True)
    Path("data/classes.txt").write_text("cell\n")
    Path("data/notes.json").write_text('{"categories": [{"id": 0, "name": "cell"}], "info": {}}')
    assert main(["check-data", "data"]) == 2
    assert re.search("Label Studio's export for YOLO, without a data.yaml; export 'JSON', or", capsys.readouterr().err)


def test_a_folder_of_the_old_labelme_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """``Annotations/COLLECTION/X.xml`` is recognised as the format of the old LabelMe web tool, and refused."""
    Path("data/Annotations/train").mkdir(parents=True)
    Path("data/Annotations/train/a.xml").write_bytes(REFUSED["old.xml"][0])
    assert main(["check-data", "data"]) == 2
    assert "old LabelMe web tool" in capsys.readouterr().err


def test_fiftyones_coco_is_found() -> None:
    """FiftyOne's COCO export, which is ``labels.json`` beside ``data/``, is recognised."""
    image_file(Path("export/data/a.png"))
    square = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[5, 5, 15, 5, 15, 15, 5, 15]], "score": 0.9}
    images = [{"id": 1, "file_name": "a.png", "height": H, "width": W, "license": None, "coco_url": None}]
    content = {"images": images, "categories": [{"id": 1, "name": "cell"}], "annotations": [square]}
    Path("export/labels.json").write_text(json.dumps(content))
    assert not check_data(Path("export"), num_workers=0).report.is_broken


def test_maps_in_colours_without_a_table_are_refused_with_their_colours(capsys: pytest.CaptureFixture[str]) -> None:
    make, _, _ = FORMATS["colours"]
    (make(Path("data")) / "class_dict.csv").unlink()
    assert main(["check-data", "data"]) == 2
    error = capsys.readouterr().err
    assert "drawn in colours (0 0 0, 0 128 64, 128 0 0)" in error
    assert "columns name, r, g, b" in error


def test_a_folder_of_arrays_without_images_is_refused_by_what_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("data").mkdir()
    Path("data/a_seg.npy").write_bytes(b"\x93NUMPY")
    assert main(["check-data", "data"]) == 2
    assert "a NumPy array, which is read as the map of an image" in capsys.readouterr().err


def test_maps_that_are_images_come_before_arrays_of_the_same_name() -> None:
    make, _, _ = FORMATS["cellpose-seg"]
    FORMATS["cellpose"][0](make(Path("data")))
    found = check_data(Path("data"), num_workers=0)
    assert isinstance(found.dataset, IdMapsConfig)
    assert found.dataset.label_name == "{stem}_cp_masks"


def test_every_row_of_the_page_is_a_data_set() -> None:
    rows = re.findall(r"^\|.*`(\{name: .*\})` \|$", PAGE.read_text(), flags=re.MULTILINE)
    names = [parse(DataConfig, {"dataset": yaml.safe_load(row)}, row).dataset.name for row in rows]
    assert {"coco-instance", "yolo", "coco-panoptic", *(kind for _, kind, _ in FORMATS.values())} == set(names)
