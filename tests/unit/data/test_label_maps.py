"""Images of numbers: every kind of file, segment ids in colours, and arbitrary numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from mask2former.data.label_maps import (
    colors_of_ids,
    count_labels,
    read_id_colors,
    read_ids,
    read_label_map,
    remap,
    runs_of,
)
from mask2former.errors import UserError
from mask2former.notes import collect_notes


@pytest.mark.parametrize("highest", [1, 255, 65535])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_numbers_come_back(tmp_path: Path, highest: int, suffix: str) -> None:
    numbers = np.random.default_rng(0).integers(0, highest + 1, (5, 7)).astype(np.uint8 if highest < 256 else np.uint16)
    Image.fromarray(numbers).save(tmp_path / f"a{suffix}")
    found = read_label_map(tmp_path / f"a{suffix}")
    assert found.dtype == np.int32
    assert (found == numbers).all()


def test_a_palette_gives_indices_not_colours(tmp_path: Path) -> None:
    numbers = np.array([[0, 3], [1, 2]], dtype=np.uint8)
    image = Image.fromarray(numbers).convert("P")
    image.frombytes(numbers.tobytes())
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    image.save(tmp_path / "a.png")
    assert read_label_map(tmp_path / "a.png").tolist() == numbers.tolist()


@pytest.mark.parametrize(
    ("palette", "words"),
    [
        ([0, 0, 0, 1, 1, 1, 2, 2, 2], ""),  # a grey image as such
        ([0, 0, 0, 128, 0, 0, 9, 9, 9], ""),  # colours, one of which is grey
        ([0, 0, 0, 7, 7, 7, 255, 255, 255], "(1 is (7, 7, 7), 2 is (255, 255, 255))"),
        ([255, 255, 255, 0, 0, 0, 2, 2, 2], "(0 is (255, 255, 255), 1 is (0, 0, 0))"),
    ],
)
def test_palettes_of_greys_may_have_been_grey_images(tmp_path: Path, palette: list[int], words: str) -> None:
    """Tools that shrink PNG files store a grey image with few values with a palette."""
    numbers = np.array([[0, 1], [1, 2]], dtype=np.uint8)
    image = Image.frombytes("P", (2, 2), numbers.tobytes())
    image.putpalette(palette)
    image.save(tmp_path / "a.png")
    for read in (read_label_map, lambda file: read_ids(file)[0]):
        with collect_notes() as notes:
            assert read(tmp_path / "a.png").tolist() == numbers.tolist()
        assert [note.example.partition("a.png' ")[2] for note in notes] == [words] * bool(words)
        assert not words or "the indices are read, not the greys" in notes[0].message


def test_a_mask_with_a_palette_of_black_and_white_is_usual(tmp_path: Path) -> None:
    image = Image.frombytes("P", (2, 1), b"\x00\x01")
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(tmp_path / "a.png")
    with collect_notes() as notes:
        assert read_label_map(tmp_path / "a.png").tolist() == [[0, 1]]
    assert notes == []


def test_ids_travel_through_colours(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 255], [256, 65_536, 2**24 - 1]])
    Image.fromarray(colors_of_ids(ids)).save(tmp_path / "a.png")
    assert read_id_colors(tmp_path / "a.png").tolist() == ids.tolist()
    with pytest.raises(UserError, match=r"a\.png' is an image of mode RGB"):
        read_label_map(tmp_path / "a.png")


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    for read in (read_label_map, read_id_colors):
        with pytest.raises(UserError, match=r"a\.png"):
            read(tmp_path / "a.png")


def test_tables_of_any_numbers() -> None:
    rng = np.random.default_rng(0)
    values = rng.choice([-3, 0, 7, 2**30], (6, 9))
    table = {7: 1, 2**30: 0, 5: 9}
    expected = [[table.get(value, -1) for value in row] for row in values.tolist()]
    assert remap(values, table, -1).tolist() == expected
    assert remap(values, {}, 4).tolist() == np.full((6, 9), 4).tolist()


def test_runs_are_the_map() -> None:
    values = np.random.default_rng(1).integers(0, 2, (5, 6))
    numbers, lengths = runs_of(values)
    assert np.repeat(numbers, lengths).tolist() == values.ravel().tolist()
    assert (numbers[1:] != numbers[:-1]).all()


def test_counts_of_a_label_map(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).integers(0, 2, (12, 15), dtype=np.uint8) * 7
    numbers[3:9, 4:11] = 3
    Image.fromarray(numbers).save(tmp_path / "a.png")
    found = count_labels(tmp_path / "a.png")
    assert found.pixels == {number: int((numbers == number).sum()) for number in (0, 3, 7)}
    inner: dict[int, int] = dict.fromkeys((0, 3, 7), 0)
    for y in range(1, 11):
        for x in range(1, 14):
            around = {numbers[y - 1, x], numbers[y + 1, x], numbers[y, x - 1], numbers[y, x + 1]}
            inner[int(numbers[y, x])] += around == {numbers[y, x]}
    assert found.inner == inner
    assert inner[3] >= 4 * 5
    assert found.colors == {}
    image = Image.frombytes("P", (15, 12), numbers.tobytes())
    image.putpalette([value for number in range(9) for value in (number, 2 * number, 200)])
    image.save(tmp_path / "b.png")
    assert count_labels(tmp_path / "b.png").colors == {0: (0, 0, 200), 3: (3, 6, 200), 7: (7, 14, 200)}


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 2)])
def test_counts_of_the_smallest_label_maps(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.fromarray(np.full(size, 5, dtype=np.uint8)).save(tmp_path / "a.png")
    assert count_labels(tmp_path / "a.png") == ({5: size[0] * size[1]}, {5: 0}, {})


def test_formats_that_change_numbers_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png' is in JPEG, a format that changes pixel values"):
        read_label_map(tmp_path / "a.png")


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_avif_and_jpeg_2000_may_have_changed_numbers(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.avif")
    with pytest.raises(UserError, match=r"a\.avif' is in AVIF, a format that changes pixel values"):
        read_ids(tmp_path / "a.avif")
    Image.new("L", (8, 8), 3).save(tmp_path / "a.jp2")
    with collect_notes() as notes:
        assert (read_label_map(tmp_path / "a.jp2") == 3).all()
    assert "unless it was saved without losses" in notes[0].message


def test_whole_numbers_may_be_stored_as_floats(tmp_path: Path) -> None:
    """As ImageJ and MorphoLibJ store labels; probabilities are refused."""
    numbers = np.array([[0, 1, 2], [70_000, 2, 0]], dtype=np.float32)
    path = tmp_path / "a.tif"
    Image.fromarray(numbers).save(path)
    np.testing.assert_array_equal(read_label_map(path), numbers)
    Image.fromarray(np.where(numbers == 2, np.float32(2**24 - 1), numbers)).save(path)
    assert read_label_map(path).max() == 2**24 - 1
    for wrong in (2**24, 2**31):  # for which a larger number may have been rounded
        Image.fromarray(np.where(numbers == 2, np.float32(wrong), numbers)).save(path)
        with pytest.raises(
            UserError, match=rf"number {wrong}; expected whole numbers from 0 to 16777215 \(floats of 32"
        ):
            read_label_map(path)
    for wrong in (0.5, -1.0, np.nan, np.inf):
        Image.fromarray(np.where(numbers == 2, np.float32(wrong), numbers)).save(path)
        with pytest.raises(UserError, match=r"expected whole numbers from 0 to 16777215 \(is it a map of prob"):
            read_label_map(path)


@pytest.mark.parametrize(("kind", "highest"), [(np.uint8, 255), (np.uint8, 15), (np.uint16, 65535)])
def test_numbers_of_which_0_is_white_are_read_as_stored(tmp_path: Path, kind: type, highest: int) -> None:
    """As ImageJ saves masks with an inverting lookup table: Pillow would make objects background, and the reverse."""
    tifffile = pytest.importorskip("tifffile", reason="needs the extra microscopy")
    numbers = np.array([[0, 1, highest], [0, 0, 2]], dtype=kind)
    bits = {"bitspersample": 4} if highest == 15 else {}
    tifffile.imwrite(tmp_path / "a.tif", numbers, photometric="miniswhite", **bits)
    with collect_notes() as notes:
        assert read_label_map(tmp_path / "a.tif").tolist() == numbers.tolist()
    assert ["read as stored, not as they look" in note.message for note in notes] == [True]


def test_bits_of_which_0_is_white_are_read_as_they_look(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile", reason="needs the extra microscopy")
    tifffile.imwrite(tmp_path / "a.tif", np.eye(9, dtype=bool), photometric="miniswhite")
    with collect_notes() as notes:
        assert (read_label_map(tmp_path / "a.tif") == 1 - np.eye(9)).all()
    assert ["white is 1" in note.message for note in notes] == [True]


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32])
def test_numbers_below_0_are_refused(tmp_path: Path, kind: type) -> None:
    tifffile = pytest.importorskip("tifffile", reason="needs the extra microscopy")
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, 1, -1]], dtype=kind))
    with pytest.raises(UserError, match="contains the number -1; expected numbers from 0"):
        read_label_map(tmp_path / "a.tif")
