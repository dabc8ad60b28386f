"""Tables, other formats and filters of a run over files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from mask2former.errors import UserError
from mask2former.inference.plan_files import plan
from mask2former.inference.predict_files import predict_files
from mask2former.inference.predictor import Predictor
from mask2former.inference.segment_files import segment_files
from mask2former.media.images import read_image
from mask2former.models.mask2former import Mask2Former
from mask2former.notes import collect_notes
from mask2former.results_io.formats import FORMATS
from mask2former.results_io.json import result_of, saved_document

pytestmark = pytest.mark.usefixtures("small_overlays")
TASKS = ("panoptic", "instance", "semantic")


@pytest.fixture
def predictor(tiny_model: Mask2Former) -> Predictor:
    return Predictor(tiny_model, device="cpu")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with two images, a.jpg and deep/b.png, and a broken file."""
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.jpg")
    Image.fromarray(pixels[:, ::-1]).save(folder / "deep" / "b.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("task", TASKS)
def test_a_result_is_read_back_as_it_was(predictor: Predictor, images: Path, tmp_path: Path, task: Any) -> None:
    result = predictor(images / "a.jpg", task)
    document = saved_document(result.save(tmp_path / "x"), task)
    assert document is not None
    again = result_of(document, predictor.categories)
    assert again.to_dict() == result.to_dict()
    assert again.rows() == result.rows()
    document["size"] = [41, 60]
    with pytest.raises(UserError, match="not a result with these classes: ValueError: masks and image differ"):
        result_of(document, predictor.categories)
    with pytest.raises(UserError, match=f"results of the task '{task}', not 'other'"):
        saved_document(tmp_path / "x.json", "other")


@pytest.mark.parametrize("task", TASKS)
def test_the_tables_of_a_resumed_run_are_those_of_a_whole_one(
    predictor: Predictor, images: Path, tmp_path: Path, task: Any
) -> None:
    pd = pytest.importorskip("pandas")
    table = tmp_path / "t.csv"
    options: dict[str, Any] = {"overlays": False, "pixel_size": "2mm"}
    predict_files(predictor, images / "a.jpg", tmp_path / "out", task, overlays=False)
    report = predict_files(predictor, images, tmp_path / "out", task, table=table, **options)
    assert report.outcomes == {"done": 1, "skipped": 1, "refused": 1, "failed": 0}
    written = table.read_bytes(), (tmp_path / "t_images.csv").read_bytes()
    predict_files(predictor, images, tmp_path / "out", task, table=table, **options)
    assert (table.read_bytes(), (tmp_path / "t_images.csv").read_bytes()) == written
    rows = pd.read_csv(table)
    expected = [
        predictor(images / name, task).to_dataframe(read_image(images / name), pixel_size="2mm").assign(image=name)
        for name in ("a.jpg", "deep/b.png")
    ]
    expected = pd.concat([frame for frame in expected if len(frame)], ignore_index=True)[rows.columns]
    pd.testing.assert_frame_equal(rows, expected, check_dtype=False, atol=2e-6)
    assert pd.read_csv(tmp_path / "t_images.csv")["image"].tolist() == ["a.jpg", "deep/b.png"]


def test_the_pixel_sizes_of_tables_may_be_those_of_the_files(predictor: Predictor, tmp_path: Path) -> None:
    folder, table = tmp_path / "images", tmp_path / "t.csv"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 60), dtype=np.uint8)
    tifffile.imwrite(folder / "a.tif", pixels, imagej=True, resolution=(4, 4), metadata={"unit": "um"})
    Image.fromarray(pixels[0]).save(folder / "b.png", dpi=(300, 300))
    options: dict[str, Any] = {"table": table, "overlays": False, "page": "all"}
    report = predict_files(predictor, folder, tmp_path / "out", "semantic", pixel_size="file", **options)
    assert [note for note in report.notes if "pixel size" in note] == [
        "images whose files state no pixel size, so that their values in units are empty (1): 'b.png'"
    ]
    with (tmp_path / "t_images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["a_page1.tif", "a_page2.tif", "b.png"]
    for row in rows[:2]:
        assert float(row["total_area_um2"]) == float(row["total_area"]) / 16 > 0
    assert rows[2]["total_area_um2"] == ""
    report = predict_files(predictor, folder, tmp_path / "out", "semantic", **options)
    assert any(
        "a pixel size, which is not used" in note and "(2): 'a_page1.tif' (0.25 um)" in note for note in report.notes
    )


def test_results_that_are_there_become_other_formats_without_the_network(
    predictor: Predictor, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    predict_files(predictor, images, output, "instance", overlays=False)
    before = _files(output)
    monkeypatch.setattr(predictor, "run", lambda *_: pytest.fail("the network is not needed"))
    predict_files(predictor, images, output, "instance", overlays=False, also=list(FORMATS))
    after = _files(output)
    assert before.items() <= after.items()
    for name in ("geojson/a.geojson", "geojson/deep/b.geojson", "yolo/labels/deep/b.txt", "label-tiff/a.tif"):
        assert name in after
    tasks = json.loads(after["label-studio/tasks.json"])
    # A local storage of Label Studio is a folder below its root, never the root itself.
    assert [task["data"]["image"].partition("=")[2] for task in tasks] == ["images/a.jpg", "images/deep/b.png"]
    with collect_notes() as notes:  # no result file is taken for an image
        assert [job.stem.name for job in plan([images, output], tmp_path / "new")] == ["a", "broken", "b"]
    assert len(notes) >= 4


def test_a_writer_of_a_users_own_gets_every_result(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    class Sizes:
        path, count = tmp_path, 0

        def __enter__(self) -> Sizes:
            self.found: dict[Any, int] = {}
            return self

        def add(self, image_id: int | str, result: Any) -> None:
            self.found[image_id] = len(result)

        def __exit__(self, *_: object) -> None:
            self.count = len(self.found)

    sizes = Sizes()
    report = predict_files(predictor, images, tmp_path / "out", "panoptic", writers=[sizes])
    assert (sizes.count, sum(sizes.found.values())) == (2, report.num_found)
    assert sizes.found.keys() == {"a", "deep/b"}


def test_results_made_otherwise_are_left_out_and_counted(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    settings = predictor.settings
    predictor.settings = settings.model_copy(update={"min_area": 5})
    predict_files(predictor, images / "a.jpg", tmp_path / "out", "semantic", overlays=False)
    predictor.settings = settings
    report = predict_files(predictor, images, tmp_path / "out", "semantic", table=table, overlays=False)
    assert any("left out of tables" in note for note in report.notes)
    assert {line.partition(",")[0] for line in table.read_text().splitlines()[1:]} == {"deep/b.png"}


@pytest.mark.parametrize("task", TASKS)
def test_classes_and_areas_are_settings_of_results(
    predictor: Predictor, images: Path, tmp_path: Path, task: Any
) -> None:
    every = predictor(images / "a.jpg", task)
    some = predictor(images / "a.jpg", task, classes="dog", min_area=30)
    assert some.to_dict() == every.filter("dog", min_area=30).to_dict()
    [found] = predictor.run([predictor.prepare(images / "a.jpg")])
    assert found(task, classes=["dog"], min_area=30).to_dict() == some.to_dict()
    narrow = Predictor(predictor.network, settings=predictor.settings, categories=predictor.categories)
    narrow.settings = narrow.settings.model_copy(update={"classes": ("dog",), "min_area": 30})
    [outcome] = segment_files(narrow, plan([images / "a.jpg"], tmp_path / "out"), task)
    document = json.loads((tmp_path / "out/a.json").read_text())
    assert outcome.found == len(some)
    assert (document["settings"]["classes"], document["settings"]["min_area"]) == (["dog"], 30)
    with pytest.raises(UserError, match="no class 'fox'; it has: cat, dog"):
        predictor.prepare(images / "a.jpg", classes=["dog", "fox"])


def test_what_cannot_be_written_is_refused_before_anything_is(
    predictor: Predictor, images: Path, tmp_path: Path
) -> None:
    output, table = tmp_path / "out", tmp_path / "t.csv"
    table.write_text("mine")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"table": table}, "contains no table of mask2former predict"),
        ({"table": tmp_path / "t.xlsx"}, r"must end in \.csv or \.parquet"),
        ({"table": images / "a.jpg"}, "a.jpg' is an input"),
        ({"pixel_size": "1um"}, "pixel_size applies to tables; give table too"),
        (
            {"table": tmp_path / "new.csv", "pixel_size": "1"},
            "a pixel size is one number with its unit.*or give 'file'",
        ),
        ({"also": ["voc"]}, "no format 'voc'"),
        ({"also": ["yolo"], "sources": tmp_path}, "yolo' contains results of images"),
    ]
    (tmp_path / "yolo").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "yolo/x.png")
    for options, message in cases:
        given: dict[str, Any] = {"sources": images, **options}
        with pytest.raises(UserError, match=message):
            predict_files(predictor, output=output, task="instance", **given)
        assert not output.exists(), options
    assert table.read_text() == "mine"


def test_tables_of_results_that_were_made_otherwise_are_not_claimed(images: Path) -> None:
    output, table = images.parent / "results", images.parent / "table.csv"
    predict_files("scenes-tiny", images, output, "semantic", overlays=False, classes="car")
    with pytest.raises(UserError, match=r"no table or other format was written.*use overwrite"):
        predict_files("scenes-tiny", images, output, "semantic", overlays=False, classes="sky", table=table)
    assert not table.exists()


def test_two_files_of_one_name_are_refused(images: Path) -> None:
    output, table = images.parent / "results", images.parent / "table.csv"
    for coco in (table, table.with_name("table_images.csv")):
        with pytest.raises(UserError, match="would both write"):
            predict_files("scenes-tiny", images, output, "instance", table=table, coco=coco)
    assert not output.exists()


def test_files_of_other_formats_are_kept_and_named_where_an_image_has_changed(
    predictor: Predictor, images: Path
) -> None:
    output, table, coco = images.parent / "out", images.parent / "t.csv", images.parent / "coco.json"
    lists: dict[str, Any] = {"table": table, "coco": coco}
    predict_files(predictor, images, output, "instance", overlays=False, also=list(FORMATS), **lists)
    before = _files(output)

    def of_image(name: str) -> set[str]:
        found = _files(output)
        return {file for file in found if name in (Path(file).stem, *Path(file).parts)}

    of_a, of_b = of_image("a"), of_image("b")
    assert {Path(file).parts[0] for file in of_a} >= {"a.json", "geojson", "imagej", "label-tiff", "yolo"}
    (images / "a.jpg").write_bytes(b"\xff\xd8\xff broken since")
    Image.new("RGB", (60, 40), "red").save(images / "deep" / "b.png")
    report = predict_files(predictor, images, output, "instance", overlays=False)
    assert report.outcomes == {"done": 1, "skipped": 0, "refused": 2, "failed": 0}
    assert before.keys() - _files(output).keys() == {"a.json"}  # the others may have been edited since
    stale = {"removed because": (of_a, "a.json"), "replaced (1)": (of_b, "b.json")}
    for words, (files, document) in stale.items():
        [note] = [note for note in report.notes if words in note]
        assert f"{document}' (its files of other formats (also) are kept: " in note
        assert any(Path(file).name in note for file in files if not file.endswith(".json"))

    (images / "deep" / "b.png").unlink()
    report = predict_files(predictor, images, output, "instance", overlays=False, also=["cvat"], **lists)
    assert report.outcomes["refused"] == report.num_images
    [note] = [note for note in report.notes if "files of an earlier run that were kept" in note]
    assert "(4)" in note  # coco.json, t.csv, t_images.csv and that of cvat
