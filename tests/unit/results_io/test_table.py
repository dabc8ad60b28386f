"""Tables of a run: written row by row, read back by pandas."""

import csv
from pathlib import Path

import numpy as np
import pytest

from mask2former.errors import UserError
from mask2former.notes import collect_notes, sentences
from mask2former.ops import masks as mask_ops
from mask2former.results_io.table import TableFiles, images_table, is_table
from mask2former.structures import Categories, Instances

CATEGORIES = Categories.from_names(["live", 'de,ad "x"'])


def result(count: int) -> Instances:
    masks = np.zeros((count, 20, 30), dtype=bool)
    for index in range(count):
        masks[index, 2 : 6 + index, 3:10] = True
    scores = np.linspace(0.9, 0.5, count)
    return Instances(masks, np.arange(count) % 2, scores, mask_ops.boxes_xyxy(masks), CATEGORIES)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_both_tables_are_read_by_pandas(tmp_path: Path, suffix: str) -> None:
    pd = pytest.importorskip("pandas")
    image = np.full((20, 30, 3), (10, 20, 30), dtype=np.uint8)
    path = tmp_path / f"new/table{suffix}"
    with TableFiles(path, CATEGORIES, {"a": "a.png"}, lambda name: image, "0.5um") as table:
        table.add("a", result(3))
        table.add("b", result(0))
        assert not path.exists()
    read = pd.read_csv if suffix == ".csv" else pd.read_parquet
    masks, images = read(path), read(images_table(path))
    expected = result(3).to_dataframe(image, pixel_size="0.5um")
    expected.insert(0, "image", ["a.png"] * 3)
    pd.testing.assert_frame_equal(masks, expected, check_dtype=False, atol=1e-6)
    assert images["image"].tolist() == ["a.png", "b"]
    assert images["num"].tolist() == [3, 0]
    assert images['num_de,ad "x"'].tolist() == [1, 0]
    assert np.isnan(images["mean_area"].tolist()[1])
    assert is_table(path)
    assert is_table(images_table(path))
    assert images_table(path).name == f"table_images{suffix}"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_appears_whole_or_not_at_all(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    path.write_text("mine")
    with pytest.raises(UserError, match="already has a result"):
        _write_twice(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "mine"
    assert not is_table(path)


def _write_twice(path: Path) -> None:
    with TableFiles(path, CATEGORIES) as table:
        table.add("a", result(1))
        table.add("a", result(1))


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in .csv or .parquet, got .*table.xlsx"):
        TableFiles(tmp_path / "table.xlsx", CATEGORIES)


STATED = {"a": (0.5, 0.5), "b": (0.5, 0.502), "c": (0.5, 0.6), "d": None}


def stated(image_id: int | str) -> tuple[float, float] | None:
    return STATED[str(image_id)]


def tables(path: Path, pixel_size: str | None) -> tuple[list[dict[str, str]], list[str], str]:
    """The rows of images, the columns of masks, and the notes."""
    with collect_notes() as notes, TableFiles(path, CATEGORIES, pixel_size=pixel_size, stated=stated) as table:
        for name in STATED:
            table.add(name, result(1))
    with images_table(path).open(encoding="utf-8", newline="") as file:
        images = list(csv.DictReader(file))
    return images, path.read_text().splitlines()[0].split(","), "\n".join(sentences(notes))


def test_units_may_be_those_that_each_file_states(tmp_path: Path) -> None:
    images, columns, notes = tables(tmp_path / "t.csv", "file")
    assert "area_um2" in columns
    assert [row["pixel_size_um"] for row in images] == ["0.5", "0.500999", "", ""]
    area = float(images[0]["total_area"])
    assert float(images[0]["total_area_um2"]) == area / 4
    assert float(images[1]["total_area_um2"]) == pytest.approx(area * 0.5 * 0.502)
    assert [row["total_area_um2"] for row in images[2:]] == ["", ""]
    assert notes.splitlines() == [
        "images whose pixels are not square according to their files, so that their values in units are empty "
        "(resample them) (1): 'c' (0.5 x 0.6 um, height x width)",
        "images whose files state no pixel size, so that their values in units are empty (1): 'd'",
    ]
    pyarrow = pytest.importorskip("pyarrow.parquet")
    with TableFiles(tmp_path / "t.parquet", CATEGORIES, pixel_size="file", stated=stated) as table:
        for name in STATED:
            table.add(name, result(1))
    rows = pyarrow.read_table(tmp_path / "t.parquet").to_pylist()
    assert [row["area_um2"] is None for row in rows] == [False, False, True, True]


def test_sizes_that_are_stated_but_not_used_are_noted(tmp_path: Path) -> None:
    _, columns, notes = tables(tmp_path / "none.csv", None)
    assert "area_um2" not in columns
    assert notes == (
        "images whose files state a pixel size, which is not used (--pixel-size file uses it, in Python "
        "pixel_size='file') (3): 'a' (0.5 um); 'b' (0.5 x 0.502 um); 'c' (0.5 x 0.6 um)"
    )
    for given in ("0.5um", "5e-4mm"):
        images, _, notes = tables(tmp_path / "given.csv", given)
        assert "size other than the given one, which is used (1): 'c' (0.5 x 0.6 um, not" in notes
        assert all(row[f"pixel_size_{given[-2:]}"] for row in images)


def test_what_is_no_pixel_size_says_what_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"one number with its unit.*or give 'file' for the size that each image file"):
        TableFiles(tmp_path / "t.csv", CATEGORIES, pixel_size="files")
