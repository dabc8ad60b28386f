from __future__ import annotations

import contextlib
import json
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2former.config import MetricStyle, Task
from mask2former.errors import UserError
from mask2former.metrics.panoptic import PanopticEvaluator
from mask2former.notes import collect_notes
from mask2former.ops import masks as mask_ops
from mask2former.results_io import result_writer
from mask2former.results_io.table import TableFiles
from mask2former.results_io.writing import ListFile
from mask2former.structures import Categories, Category, Instances, PanopticSegmentation, Segment, SemanticSegmentation
from mask2former.structures.ground_truth import PanopticGroundTruth

CATEGORIES = Categories(
    (Category(7, "road", False, (1, 2, 3)), Category(26, "car", True, (4, 5, 6)), Category(33, "bike", True, (7, 8, 9)))
)


def _panoptic() -> PanopticSegmentation:
    ids = np.zeros((6, 8), dtype=np.int32)
    ids[:, 2:4], ids[:, 4:6], ids[:, 6:] = 1, 300, 70000  # of one, two and three bytes
    segments = tuple(Segment(n, label, label > 0, 0.9, 12) for n, label in zip((1, 300, 70000), (0, 1, 2), strict=True))
    return PanopticSegmentation(ids, segments, CATEGORIES)


def _semantic() -> SemanticSegmentation:
    return SemanticSegmentation(np.array([[0, 0, 1], [2, 255, 1]]), CATEGORIES)


def _instances() -> Instances:
    masks = np.zeros((4, 6, 8), dtype=bool)
    masks[0, :3], masks[1, 2:, 1:5], masks[3, 5, 7] = True, True, True  # the third is empty
    labels, scores = np.array([1, 2, 1, 1]), np.array([0.9, 1 / 3, 0.2, 0.1])
    return Instances(masks, labels, scores, mask_ops.boxes_xyxy(masks), CATEGORIES)


RESULTS = {"panoptic": _panoptic, "instance": _instances, "semantic": _semantic}


def _ids(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file)).astype(np.int64) @ np.array([1, 256, 65536])


def test_panoptic_files_read_back_are_what_was_measured(tmp_path: Path) -> None:
    result = _panoptic()
    with result_writer("panoptic", tmp_path / "val.json", CATEGORIES) as writer:
        writer.add(139, result)
        writer.add("street", result)
        assert not (tmp_path / "val.json").exists()  # the list comes last
    assert writer.count == 2
    first, second = json.loads((tmp_path / "val.json").read_text())["annotations"]
    assert (first["image_id"], first["file_name"]) == (139, "000000000139.png")
    assert (second["image_id"], second["file_name"]) == ("street", "street.png")
    assert sorted(path.name for path in (tmp_path / "val").iterdir()) == ["000000000139.png", "street.png"]
    ids, index = _ids(tmp_path / "val" / first["file_name"]), CATEGORIES.index_of_id()
    ground_truth = PanopticGroundTruth(
        ids, [(entry["id"], index[entry["category_id"]], False) for entry in first["segments_info"]]
    )
    evaluator = PanopticEvaluator(CATEGORIES)
    evaluator.update(result, ground_truth)
    assert evaluator.compute()["panoptic/PQ"] == 100.0


def test_segments_of_classes_that_the_data_does_not_have_become_void(tmp_path: Path) -> None:
    with result_writer("panoptic", tmp_path / "val.json", CATEGORIES, category_ids={0: 90, 2: 91}) as writer:
        writer.add(1, _panoptic())
    (entry,) = json.loads((tmp_path / "val.json").read_text())["annotations"]
    assert entry["segments_info"] == [{"id": 1, "category_id": 90}, {"id": 70000, "category_id": 91}]
    assert set(np.unique(_ids(tmp_path / "val" / entry["file_name"]))) == {0, 1, 70000}


def test_run_lengths_of_label_maps_decode_to_the_maps(tmp_path: Path) -> None:
    path = tmp_path / "sem_seg_predictions.json"
    with result_writer("semantic", path, CATEGORIES, category_ids={0: 7, 1: 260}) as writer:
        writer.add("a.jpg", _semantic())
        writer.add(5, _semantic())
    records = json.loads(path.read_text())
    assert [(record["image_id"], record["category_id"]) for record in records] == [
        (image, identifier) for image in ("a.jpg", 5) for identifier in (7, 260)
    ]
    assert [record.get("file_name") for record in records] == ["a.jpg", "a.jpg", None, None]
    np.testing.assert_array_equal(mask_ops.decode(records[1]["segmentation"])[0], _semantic().labels == 1)


@pytest.mark.parametrize(("style", "no_class"), [("coco", 255), ("cityscapes", 0)])
def test_label_images_hold_the_ids_of_the_data_set(tmp_path: Path, style: MetricStyle, no_class: int) -> None:
    with result_writer("semantic", tmp_path / "maps", CATEGORIES, style=style) as writer:
        writer.add("aachen_000000_000019", _semantic())
    image = Image.open(tmp_path / "maps" / "aachen_000000_000019.png")
    assert image.mode == "L"
    assert np.asarray(image).tolist() == [[7, 7, 26], [33, no_class, 26]]


def test_label_images_have_16_bits_where_an_id_needs_them_and_no_class_is_no_id(tmp_path: Path) -> None:
    ids = {0: 255, 1: 300, 2: 1}
    with result_writer("semantic", tmp_path / "maps", CATEGORIES, category_ids=ids) as writer:
        writer.add(3, _semantic())
    image = Image.open(tmp_path / "maps" / "000000000003.png")
    assert image.mode == "I;16"
    assert np.asarray(image).tolist() == [[255, 255, 300], [1, 65535, 300]]


def test_cityscapes_instances_are_a_text_file_and_a_image_per_object(tmp_path: Path) -> None:
    result = _instances()
    with result_writer("instance", tmp_path, CATEGORIES, style="cityscapes") as writer:
        writer.add("aachen_000000_000019", result)
        writer.add("aachen_000001_000019", result.above(1.0))
    assert writer.count == 3
    lines = (tmp_path / "aachen_000000_000019_pred.txt").read_text().splitlines()
    assert (tmp_path / "aachen_000001_000019_pred.txt").read_text() == ""
    for line, index in zip(lines, (0, 1, 3), strict=True):
        name, label, score = line.split(" ")
        assert (int(label), float(score)) == (CATEGORIES[result.labels[index]].id, result.scores[index])
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / name)), result.masks[index] * 255)


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_a_broken_run_leaves_no_list_and_nothing_temporary(tmp_path: Path, task: Task) -> None:
    def broken() -> None:
        with result_writer(task, tmp_path / "x.json", CATEGORIES) as writer:
            writer.add(1, RESULTS[task]())
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        broken()
    assert not list(tmp_path.rglob("*.json"))
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]


@contextlib.contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """Files cannot become larger than this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_in_the_middle_names_the_list(tmp_path: Path) -> None:
    def write() -> None:
        with ListFile(tmp_path / "list.json") as file:
            for _ in range(100):
                file.write("x" * 1_000)

    with full_disk(10_000), pytest.raises(OSError, match=r"File too large: '.*list\.json'"):
        write()
    assert not list(tmp_path.iterdir())


def test_so_it_does_the_table(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    masks = np.ones((20, 8, 8), dtype=bool)
    categories = Categories.from_names(["cat"])
    result = Instances(masks, np.zeros(20, dtype=np.int64), np.ones(20), mask_ops.boxes_xyxy(masks), categories)

    def write() -> None:
        with TableFiles(tmp_path / "table.csv", result.categories) as table:
            for number in range(20):
                table.add(number, result)

    with full_disk(1_000), pytest.raises(OSError, match=r"File too large: '.*table\w*\.csv'"):
        write()
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_run_keeps_its_words_on_a_full_disk(tmp_path: Path) -> None:
    """Closing the list writes what is left, which fails, too."""

    def write() -> None:
        with ListFile(tmp_path / "list.json") as file:
            file.write("x")
            raise ValueError("unrelated")

    with full_disk(0), pytest.raises(ValueError, match="unrelated"):
        write()
    assert not list(tmp_path.iterdir())


def test_a_list_goes_where_a_link_points_and_an_error_of_the_run_keeps_its_words(tmp_path: Path) -> None:
    (tmp_path / "x.json").symlink_to(tmp_path / "elsewhere.json")
    for error in (OSError("image file is truncated"), PermissionError(13, "Permission denied", "a.png")):
        context = pytest.raises(OSError, match=r"truncated|a\.png")
        with context as caught, result_writer("instance", tmp_path / "x.json", CATEGORIES):
            raise error
        assert caught.value is error
    assert not (tmp_path / "elsewhere.json").exists()
    with result_writer("instance", tmp_path / "x.json", CATEGORIES):
        pass
    assert json.loads((tmp_path / "elsewhere.json").read_text()) == []
    assert (tmp_path / "x.json").is_symlink()


@pytest.mark.parametrize(
    ("task", "name", "style"),
    [
        ("panoptic", "x.json", "coco"),
        ("instance", "x.json", "coco"),
        ("semantic", "x.json", "coco"),
        ("semantic", "x", "coco"),
        ("instance", "x", "cityscapes"),
        ("semantic", "x", "cityscapes"),
        ("panoptic", "x.json", "cityscapes"),
    ],
)
def test_a_image_comes_once(tmp_path: Path, task: Task, name: str, style: MetricStyle) -> None:
    with result_writer(task, tmp_path / name, CATEGORIES, style=style) as writer:
        assert writer.task == task
        writer.add("a", RESULTS[task]())
        with pytest.raises(UserError, match="already has a result"):
            writer.add("a", RESULTS[task]())


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "", "a\\..\\b", "C:\\a", "a\0b"])
def test_ids_that_lead_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with (
        result_writer("semantic", tmp_path / "maps", CATEGORIES) as writer,
        pytest.raises(UserError, match="be usable as a file name"),
    ):
        writer.add(name, _semantic())
    assert [path.name for path in tmp_path.rglob("*")] == ["maps"]


@pytest.mark.parametrize(
    ("task", "name", "style", "message"),
    [
        ("panoptic", "folder", "coco", "ends in .json"),
        ("instance", "folder", "coco", "ends in .json"),
        ("instance", "x.json", "cityscapes", "leave out .json"),
        ("semantic", "x.json", "cityscapes", "leave out .json"),
    ],
)
def test_files_and_folders_are_not_mixed_up(
    tmp_path: Path, task: Task, name: str, style: MetricStyle, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        result_writer(task, tmp_path / name, CATEGORIES, style=style)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "maps").write_text("")
    with (
        pytest.raises(UserError, match="is a file"),
        result_writer("semantic", tmp_path / "maps", CATEGORIES),
    ):
        pass


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_a_folder_in_place_of_the_file_is_refused_before_anything_is_measured(tmp_path: Path, task: Task) -> None:
    (tmp_path / "val.json").mkdir()
    with (
        pytest.raises(UserError, match="is a folder; expected the name of a file"),
        result_writer(task, tmp_path / "val.json", CATEGORIES),
    ):
        pass
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="choose another path"),
        result_writer(task, tmp_path / "file" / "val.json", CATEGORIES),
    ):
        pass


def test_label_images_refuse_ids_that_they_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"numbers from 0 to 65535, got the class id 70000"):
        result_writer("semantic", tmp_path, CATEGORIES, category_ids={0: 1, 1: 70000})
    with pytest.raises(UserError, match="got the class id -1"):
        result_writer("semantic", tmp_path, CATEGORIES, category_ids={0: -1})
    with result_writer("semantic", tmp_path, CATEGORIES, category_ids={0: 255, 1: 65535}) as writer:
        writer.add("a", _semantic())
    assert np.asarray(Image.open(tmp_path / "a.png")).tolist() == [[255, 255, 65535], [0, 0, 65535]]


@pytest.mark.parametrize("task", ["instance", "semantic"])
def test_files_of_earlier_runs_in_a_folder_for_a_server_are_noted(tmp_path: Path, task: Task) -> None:
    def write(*ids: str) -> str:
        with collect_notes() as found, result_writer(task, tmp_path / "out", CATEGORIES, style="cityscapes") as writer:
            for image_id in ids:
                writer.add(image_id, RESULTS[task]())
        return "; ".join(f"{message}: {example}" for message, example in found)

    assert write("a/one", "two") == ""
    (tmp_path / "out" / ".DS_Store").write_bytes(b"")
    assert write("a/one", "two") == ""
    assert "with further files, as of an earlier run" in (told := write("two"))
    assert ("(4, such as 'a/one_000_26.png')" if task == "instance" else "(1, such as 'a/one.png')") in told
