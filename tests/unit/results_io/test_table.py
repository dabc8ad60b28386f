"""Tables of a run: written row by row, read back by pandas."""

from pathlib import Path

import numpy as np
import pytest

from mask2former.errors import UserError
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
