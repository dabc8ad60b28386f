"""Id maps, mask files and maps by colour: faults are reported by name and count, and nothing is guessed."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2former.config import DataConfig, parse
from mask2former.data.build import build_images
from mask2former.data.datasets.class_names import read_color_table, read_names
from mask2former.data.datasets.id_maps import IdMapFolders, IdMaps, object_categories, things_beside_background
from mask2former.data.datasets.label_folder import LabelFolder
from mask2former.data.datasets.mask_files import MaskFiles, MaskFolder
from mask2former.data.datasets.pairs import Names, pair_files, read_list
from mask2former.errors import UserError
from mask2former.media.archives import Folder
from mask2former.notes import collect_notes
from mask2former.structures import Categories

SIZE = (4, 6)


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def image(path: Path, size: tuple[int, int] = SIZE) -> Path:
    return save(path, np.full((*size, 3), 120, dtype=np.uint8))


def numbers(*values: int) -> np.ndarray:
    """A map with these numbers in its first row, and 0 elsewhere."""
    found = np.zeros(SIZE, dtype=np.uint16)
    found[0, : len(values)] = values
    return found


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_names_on_both_sides_and_a_split_list(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        image(tmp_path / "x" / "deep" / f"{name}_rgb.jpg")
        save(tmp_path / "y" / "deep" / f"gt_{name}_ids.png", numbers(1))
    image(tmp_path / "x" / "other.jpg")
    notes: list[str] = []
    names = Names("{stem}_rgb", "gt_{stem}_ids")
    images, labels = Folder(tmp_path / "x"), Folder(tmp_path / "y")
    found = pair_files(images, labels, names, None, notes)
    assert found == [(f"deep/{name}_rgb.jpg", f"deep/gt_{name}_ids.png") for name in "abc"]
    assert notes == [f"'{images}': skipped files whose names do not match {{stem}}_rgb: 1 (other.jpg)"]
    (tmp_path / "list.txt").write_text("deep/b 1\n\n/home/me/x/deep/c -1\n")
    assert [pair[0] for pair in pair_files(images, labels, names, tmp_path / "list.txt", notes)] == [
        "deep/b_rgb.jpg",
        "deep/c_rgb.jpg",
    ]
    (tmp_path / "list.txt").write_text("deep/b\ndeep/gone\n")
    with pytest.raises(UserError, match=r"lacks images of the split list '.*list.txt': 1 \(deep/gone\)"):
        pair_files(images, labels, names, tmp_path / "list.txt", notes)
    # Names with blanks, in quotes as Datumaro and CVAT write them; and an image without a map.
    image(tmp_path / "x" / "deep" / "d 1_rgb.jpg")
    image(tmp_path / "x" / "e f_rgb.jpg")
    save(tmp_path / "y" / "gt_e f_ids.png", numbers(1))
    (tmp_path / "list.txt").write_text('"e f"\ndeep/d 1\n')
    with pytest.raises(UserError, match=r"have no label map: 1 \(deep/d 1_rgb.jpg\); .* unpaired=skip"):
        pair_files(images, labels, names, tmp_path / "list.txt", notes)
    skipping = Names(names.image, names.label, unpaired="skip")
    assert [pair[0] for pair in pair_files(images, labels, skipping, tmp_path / "list.txt", notes)] == ["e f_rgb.jpg"]
    assert notes[-1].startswith("left out images of the split list")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="is empty"):
        read_list(tmp_path / "empty.txt")


def listed(root: Path, text: str, *names: str) -> tuple[list[str], list[str]]:
    """The images among ``names`` that a split list with this text selects, and the notes."""
    for name in names:
        image(root / "x" / f"{name}.jpg")
        save(root / "y" / f"{name}.png", numbers(1))
    (root / "list.txt").write_text(text)
    notes: list[str] = []
    pairs = pair_files(Folder(root / "x"), Folder(root / "y"), Names(), root / "list.txt", notes)
    return [Path(pair[0]).stem for pair in pairs], notes


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("cell 2\n", "cell 2"),
        ("cell\ncell 0\n", "cell 0"),  # not all lines end with a number
        ("cell 0\ncell 1\n", "cell 0"),  # an image has this name
        ('"cell\n', '"cell'),
        ('"cell" 2\n', '"cell" 2'),
        ('"cell"1"\n', '"cell"1"'),
        ("cell cell_ids.png\n", "cell cell_ids.png"),
    ],
)
def test_a_missing_image_of_a_split_list_is_never_another_one(tmp_path: Path, text: str, missing: str) -> None:
    with pytest.raises(UserError, match=re.escape(f": 1 ({missing}); check both (each line is one name; a final")):
        listed(tmp_path, text, "cell", "cell 1")


def test_files_of_one_folder_that_are_neither_images_nor_maps_are_noted(tmp_path: Path) -> None:
    for name in ("a_img", "a_mask", "other"):
        image(tmp_path / f"{name}.png")
    notes: list[str] = []
    pairs = pair_files(Folder(tmp_path), Folder(tmp_path), Names("{stem}_img", "{stem}_mask"), None, notes)
    assert pairs == [("a_img.png", "a_mask.png")]
    assert [note.partition("': ")[2] for note in notes] == [
        "skipped files whose names do not match {stem}_img: 1 (other.png)"
    ]


def test_lines_of_voc_and_repeated_lines_of_a_split_list(tmp_path: Path) -> None:
    assert listed(tmp_path, '2007_1  1\n2007_2 -1\n"a b" 0\n', "2007_1", "2007_2", "a b") == (
        ["2007_1", "2007_2", "a b"],
        [],
    )
    found, notes = listed(tmp_path, "2007_1\n2007_2\nold/2007_1.jpg\n2007_1\n")
    assert found == ["2007_1", "2007_2"]
    path = tmp_path / "list.txt"
    assert notes == [f"images of the split list '{path}' are listed more than once, but read once: 1 (2007_1.jpg)"]


def test_a_deep_line_of_a_split_list_costs_no_more_than_its_length(tmp_path: Path) -> None:
    start = time.process_time()
    found, _ = listed(tmp_path, f"{'a/' * 30_000}cell\n", "cell")
    assert found == ["cell"]
    assert time.process_time() - start < 3  # quadratic time took 9 s


@pytest.mark.parametrize("pattern", ["mask", "{stem}{stem}", "a/{stem}"])
def test_names_without_one_stem_are_refused(tmp_path: Path, pattern: str) -> None:
    image(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"must contain '\{stem\}' exactly once and no folder; expected"):
        pair_files(Folder(tmp_path), Folder(tmp_path), Names(label=pattern), None, [])


# --- colours ---------------------------------------------------------------------------------------------------------


def test_colours_that_the_table_lacks_are_counted(tmp_path: Path) -> None:
    (tmp_path / "n.csv").write_text("name,r,g,b\nsky,0,0,0\nroad,128,0,0\n")
    image(tmp_path / "x" / "a.jpg")
    painted = np.zeros((*SIZE, 3), dtype=np.uint8)
    painted[0] = (128, 0, 0)
    painted[1, :3], painted[1, 3] = (9, 9, 9), (1, 2, 3)
    save(tmp_path / "y" / "a.png", painted)
    classes, colors = read_names(tmp_path / "n.csv", by_color=True), read_color_table(tmp_path / "n.csv")
    samples = LabelFolder([(tmp_path / "x", tmp_path / "y")], classes, colors=colors)
    words = r"in 16.7 % of its pixels: 2 \(9 9 9 in 3 pixels; 1 2 3 in 1 pixels\); add them"
    with pytest.raises(UserError, match=words):
        samples.annotated(0)
    painted[1] = 0
    save(tmp_path / "y" / "a.png", painted)
    assert samples.counts(0).pixels == {0: 18, 1: 6}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("n.csv", "name,r,g,b\nsky,0,0,0\nroad,128,0,64\n"),
        ("n.csv", "id,name,red,green,blue\n0,sky,0,0,0\n1,road,128,0,64\n"),
        ("n.json", '[{"name": "sky", "color": [0, 0, 0]}, {"name": "road", "color": "#800040"}]'),
        ("n.yaml", "- {id: 0, name: sky, color: '0, 0, 0'}\n- {id: 1, name: road, color: 128 0 64}\n"),
        ("label_colors.txt", "0 0 0\tsky\n128 0 64 road\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nsky:0,0,0::\nroad:128,0,64::\n"),
    ],
)
def test_tables_of_colours_in_the_forms_of_their_tools(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_color_table(tmp_path / name).number_of == {0: 0, 128 | 64 << 16: 1}
    assert read_names(tmp_path / name, by_color=True).names == ("sky", "road")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,name\n0,sky\n", "gives no colour for the classes 1"),
        ("name,r,g,b\nsky,0,0,0\nroad,0,0,0\n", "to two classes"),
        ("name,r,g,b\nsky,0,0,256\n", "is not within 0..255"),
        ("name,r,g,b\nsky,0,0\n", "too few columns"),
    ],
)
def test_tables_that_do_not_tell_classes_apart_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "n.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        read_color_table(tmp_path / "n.csv")


def test_the_classes_of_voc_are_known() -> None:
    classes = read_names("pascal_voc")
    assert (len(classes), classes[15].name, classes[15].color) == (21, "person", (192, 128, 128))
    assert things_beside_background(classes, "pascal_voc").stuff_indices == (0,)


# --- id maps ---------------------------------------------------------------------------------------------------------


def id_maps(root: Path, ids: np.ndarray, classes: np.ndarray | None = None, ignore: tuple[int, ...] = ()) -> IdMaps:
    image(root / "x" / "a.png")
    save(root / "y" / "a.png", ids)
    if classes is None:
        return IdMaps([IdMapFolders(root / "x", root / "y")], object_categories("cell"), ignore=ignore)
    save(root / "z" / "a.png", classes)
    names = things_beside_background(Categories.from_names(["none", "cell", "dirt"]), "names")
    return IdMaps([IdMapFolders(root / "x", root / "y", root / "z")], names, ignore=ignore)


def test_numbers_of_16_bits_are_objects_and_ignored_ones_are_void(tmp_path: Path) -> None:
    samples = id_maps(tmp_path, numbers(7, 7, 40_000, 255), ignore=(255,))
    found = samples.annotated(0, with_ignored=True)
    assert samples.categories.names == ("cell",)
    assert found.labels.tolist() == [0, 0]
    assert found.ids is not None
    assert found.ids[0].tolist() == [1, 1, 2, 0, 0, 0]
    assert found.ignored is not None
    assert np.argwhere(found.ignored).tolist() == [[0, 3]]


def test_objects_have_the_classes_of_the_map_beside(tmp_path: Path) -> None:
    samples = id_maps(tmp_path, numbers(1, 2, 2), numbers(2, 1, 1))
    assert samples.annotated(0).labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("ids", "classes", "words"),
    [
        (numbers(1, 1), numbers(1, 2), r"have several classes in .*: 1 \(1\)"),
        (numbers(1, 1), numbers(0), r"have no class in .*: 1 \(1\)"),
        (numbers(1), numbers(1, 2), "1 pixels of .* have a class but belong to no object"),
        (numbers(1), numbers(9), r"numbers 1 \(9\), which are not classes"),
        (numbers(1), np.zeros((4, 5), np.uint8), "expected maps of the same size"),
    ],
)
def test_maps_that_do_not_agree_are_refused(tmp_path: Path, ids: np.ndarray, classes: np.ndarray, words: str) -> None:
    with pytest.raises(UserError, match=words):
        id_maps(tmp_path, ids, classes).annotated(0)


@pytest.mark.parametrize(
    ("classes", "ignore", "words"),
    [(None, (0,), r"numbers \[0\] are where no object is"), (numbers(1), (1,), r"numbers \[1\] are classes")],
)
def test_numbers_that_mean_something_cannot_be_ignored(
    tmp_path: Path, classes: np.ndarray | None, ignore: tuple[int, ...], words: str
) -> None:
    with pytest.raises(UserError, match=f"{words}.* and also ignored"):
        id_maps(tmp_path, numbers(1), classes, ignore)


def test_pixels_of_objects_on_the_background_of_a_class_map_are_noted(tmp_path: Path) -> None:
    samples = id_maps(tmp_path, numbers(1, 1, 1), numbers(1))
    with collect_notes() as notes:
        assert np.count_nonzero(samples.annotated(0).ids == 1) == 3
    assert [note.example.rpartition("' ")[2] for note in notes] == ["(2 pixels)"]


def test_ignored_colours_of_class_maps_are_void_and_no_classes(tmp_path: Path) -> None:
    """Their numbers, which count the colours, take nothing from the objects of the same numbers."""
    (tmp_path / "names.csv").write_text("name,r,g,b\nnone,0,0,0\ncell,9,9,9\nvoid,1,1,1\n")
    painted = np.zeros((*SIZE, 3), dtype=np.uint8)
    painted[0, :2], painted[0, 2] = 9, 1
    image(tmp_path / "x" / "a.png")
    save(tmp_path / "y" / "a.png", numbers(1, 2, 3))
    save(tmp_path / "z" / "a.png", painted)
    folders = {"images": str(tmp_path / "x"), "labels": str(tmp_path / "y"), "classes": str(tmp_path / "z")}
    values = {"name": "id-maps", "train": [folders], "validation": [], "names": str(tmp_path / "names.csv")}
    dataset = parse(DataConfig, {"dataset": {**values, "encoding": "colors", "ignore": [2]}}, "test").dataset
    first = parse(DataConfig, {"dataset": {**values, "encoding": "colors", "ignore": [0]}}, "test").dataset
    with pytest.raises(UserError, match=r"ignore contains 0, the background 'none' of .*names\.csv"):
        build_images(first, "train")
    with pytest.raises(UserError, match=r"have no class in .*: 1 \(3\)"):  # it is void alone
        build_images(dataset, "train").annotated(0)
    save(tmp_path / "y" / "a.png", numbers(1, 2, 2))
    samples = build_images(dataset, "train")
    assert samples.categories.names == ("cell",)
    found = samples.annotated(0, with_ignored=True)
    assert found.ids is not None
    assert found.ignored is not None
    assert (found.ids[0, :4].tolist(), np.argwhere(found.ignored).tolist()) == ([1, 2, 0, 0], [[0, 2]])


def test_colours_are_objects_and_that_is_said(tmp_path: Path) -> None:
    painted = np.zeros((*SIZE, 3), dtype=np.uint8)
    painted[0, 0], painted[1, 1] = (1, 0, 0), (0, 0, 200)
    samples = id_maps(tmp_path, painted)
    with collect_notes() as notes:
        assert len(samples.annotated(0).labels) == 2
    assert any("id maps in colours" in note.message for note in notes)


def test_maps_of_another_size_and_empty_ones(tmp_path: Path) -> None:
    samples = id_maps(tmp_path, numbers())
    assert len(samples.annotated(0).labels) == 0
    with pytest.raises(UserError, match="has no images with objects"):
        IdMaps([IdMapFolders(tmp_path / "x", tmp_path / "y")], object_categories("cell"), filter_empty=True)
    with pytest.raises(UserError, match="its label map is"):
        id_maps(tmp_path / "other", np.ones((5, 6), np.uint8)).annotated(0)


def test_signs_that_numbers_are_not_objects_are_noted(tmp_path: Path) -> None:
    apart = np.zeros((9, 30), np.uint8)
    apart[2:7, 2:7] = apart[2:7, 12:17] = apart[2:7, 22:27] = 1
    smooth = np.arange(apart.size, dtype=np.uint16).reshape(apart.shape)
    for name, wrong, words in (
        ("class", apart, "whose separate parts are read as one object"),
        ("background", np.where(apart == 0, 255, apart), "without 0: every pixel is part of an object"),
        ("smooth", smooth, "most objects are nowhere wider than two pixels"),
        ("objects", np.where(apart == 1, 1 + np.arange(30) // 10, 0).astype(np.uint8), ""),
    ):
        samples = id_maps(tmp_path / name, wrong)
        with collect_notes() as notes:
            samples.segments(0, "training")
        assert [words in note.message for note in notes] == ([True] if words else [])


# --- mask files ------------------------------------------------------------------------------------------------------


def test_masks_may_overlap_and_lie_in_either_layout(tmp_path: Path) -> None:
    masks = [np.zeros(SIZE, np.uint8) for _ in range(2)]
    masks[0][:2, :3], masks[1][1:3, 2:5] = 255, 255
    for name, folder in (("a/images/a.png", "a/masks"), ("b/images/b.png", "b/masks")):
        image(tmp_path / "dsb" / name)
        for number, mask in enumerate(masks):
            save(tmp_path / "dsb" / folder / f"{number}.png", mask)
    image(tmp_path / "x" / "a.png")
    for number, mask in enumerate(masks):
        save(tmp_path / "y" / "a" / f"{number}.png", mask)
    for source in (MaskFolder(tmp_path / "dsb"), MaskFolder(tmp_path / "x", tmp_path / "y")):
        samples = MaskFiles([source], "nucleus")
        target = samples[0].target
        assert target is not None
        assert (target.masks[:, 0].numpy() == np.stack(masks).astype(bool)).all()
        assert samples.categories.names == ("nucleus",)


def test_files_that_belong_to_no_object_are_noted(tmp_path: Path) -> None:
    image(tmp_path / "a" / "images" / "a.png")
    for name in ("a/masks/1.png", "a/masks/deep/2.png", "b/masks/1.png"):
        save(tmp_path / name, np.ones(SIZE, np.uint8))
    image(tmp_path / "c" / "c.jpg")
    [note] = MaskFiles([MaskFolder(tmp_path)]).notes
    assert note.endswith("beside it: 3 (a/masks/deep/2.png, b/masks/1.png, c/c.jpg)")


def test_files_in_folders_of_masks_that_are_no_masks_are_noted(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    for name in ("a/1.png", "a/2.jpg", "a/3.gif", "top.png"):
        save(tmp_path / "masks" / name, np.ones(SIZE, np.uint8))
    np.save(tmp_path / "masks" / "a" / "4.npy", np.ones(SIZE, np.uint8))
    with collect_notes() as found:
        samples = MaskFiles([MaskFolder(tmp_path / "images", tmp_path / "masks")])
    assert samples.num_objects.tolist() == [1]
    assert [note.split(": ", 1)[1] for note in samples.notes] == [
        "left out files that are not masks (.png, .tif, .tiff, .bmp) in the folder of an image: "
        "3 (a/2.jpg, a/4.npy, top.png)"
    ]
    assert any("a/3.gif" in note.example for note in found)


@pytest.mark.parametrize(
    ("palette", "words"),
    [
        ([0, 0, 0, 255, 255, 255], ""),
        ([0, 0, 0, 9, 0, 0], ""),
        ([255, 255, 255, 0, 0, 0], "(0 is (255, 255, 255), 1 is (0, 0, 0))"),
        ([255, 255, 255, 200, 0, 0], "(0 is (255, 255, 255), 1 is (200, 0, 0))"),
        ([0, 0, 0, 0, 0, 0], "(0 is (0, 0, 0), 1 is (0, 0, 0))"),
    ],
)
@pytest.mark.parametrize("bits", [1, 8])
def test_the_numbers_of_masks_count_not_their_palettes(
    tmp_path: Path, palette: list[int], words: str, bits: int
) -> None:
    image(tmp_path / "images" / "a.png")
    mask = Image.frombytes("P", (SIZE[1], SIZE[0]), (np.arange(24) > 11).astype(np.uint8).tobytes())
    mask.putpalette(palette)
    (tmp_path / "masks" / "a").mkdir(parents=True)
    mask.save(tmp_path / "masks" / "a" / "1.png", bits=bits)
    samples = MaskFiles([MaskFolder(tmp_path / "images", tmp_path / "masks")])
    with collect_notes() as notes:
        ids = samples.annotated(0).ids
    assert ids is not None
    assert ((ids > 0) == (np.arange(24) > 11).reshape(SIZE)).all()
    assert [note.example.partition("1.png' ")[2] for note in notes] == [words] * bool(words)
    assert not words or "everything except 0 is read as the object" in notes[0].message


def test_masks_without_a_pixel_are_noted_where_they_count_as_missed(tmp_path: Path) -> None:
    image(tmp_path / "a" / "images" / "a.png")
    for name in ("1", "2"):
        save(tmp_path / "a" / "masks" / f"{name}.png", np.full(SIZE, name == "1", np.uint8))
    with collect_notes() as notes:
        MaskFiles([MaskFolder(tmp_path)]).ground_truths(0, ["instance"])
    assert [note.example.rpartition("' ")[2] for note in notes] == ["(1 of 2 objects)"]


def test_what_is_odd_about_mask_files_is_told(tmp_path: Path) -> None:
    image(tmp_path / "a" / "images" / "a.png")
    image(tmp_path / "b" / "images" / "b.png")
    save(tmp_path / "a" / "masks" / "1.png", np.full(SIZE, 3, np.uint8) * (np.arange(6) > 2).astype(np.uint8))
    save(tmp_path / "a" / "masks" / "2.png", np.arange(24, dtype=np.uint8).reshape(SIZE))
    samples = MaskFiles([MaskFolder(tmp_path)])
    assert any("without mask files as empty: 1 (b/images/b.png)" in note for note in samples.notes)
    with collect_notes() as notes:
        samples.annotated(0)
    assert any("mask files with several values" in note.message for note in notes)
    save(tmp_path / "a" / "masks" / "3.png", np.ones((5, 6), np.uint8))
    with pytest.raises(UserError, match=r"its mask '.*3.png' is"):
        MaskFiles([MaskFolder(tmp_path)]).annotated(0)
    image(tmp_path / "a" / "images" / "second.png")
    with pytest.raises(UserError, match="expected one image per folder of masks"):
        MaskFiles([MaskFolder(tmp_path)])
    with pytest.raises(UserError, match="has mask files; expected the masks"):
        MaskFiles([MaskFolder(tmp_path / "b")])


def test_one_mask_file_in_several_parts_is_noted(tmp_path: Path) -> None:
    image(tmp_path / "a" / "images" / "a.png")
    save(tmp_path / "a" / "masks" / "1.png", np.tile(np.array([255, 0], np.uint8), (4, 3)))
    with collect_notes() as notes:
        MaskFiles([MaskFolder(tmp_path)]).annotated(0)
    assert [note.message for note in notes] == [
        "images with only one mask file, whose separate parts are read as one object"
    ]


def test_messages_about_id_maps_have_the_right_article(tmp_path: Path) -> None:
    samples = id_maps(tmp_path, numbers(1))
    image(tmp_path / "x" / "b.png")
    folders = IdMapFolders(tmp_path / "x", tmp_path / "y")
    with pytest.raises(UserError, match=r"images without an id map: 1 \(b\.png\)"):
        IdMaps([folders], samples.categories)
    with pytest.raises(UserError, match=r"no image of .* has an id map in"):
        IdMaps([folders], samples.categories, files=Names(label="{stem}_x"))
