"""Label maps that could be learned in an unintended way: each is read correctly, noted or rejected.

The rows of the tables are one example of each kind and its variants.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former.cli import main
from mask2former.config import DataConfig, LabelFolderConfig, parse
from mask2former.data.build import build_images
from mask2former.data.checks import require, split_findings
from mask2former.data.datasets.class_names import read_names
from mask2former.data.datasets.mask_folders import MaskFolders
from mask2former.dataset_tools.check import check_dataset
from mask2former.dataset_tools.requirements import data_notes
from mask2former.errors import UserError

H, W = 32, 40
BLOB = np.zeros((H, W), dtype=bool)
BLOB[8:20, 10:30] = True


def folder(
    root: Path,
    maps: list[Any],
    names: str = "background\nnucleus\n",
    names_file: str = "names.txt",
    suffix: str = ".png",
    **settings: Any,
) -> LabelFolderConfig:
    """Write both splits with these label maps, arrays or Pillow images, and return the settings of the data set."""
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for number, values in enumerate(maps):
            pixels = np.random.default_rng([number, split == "val"]).integers(0, 256, (H, W, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / split / f"{number}.png")
            image = values if isinstance(values, Image.Image) else Image.fromarray(values)
            image.save(root / "labels" / split / f"{number}{suffix}")
    (root / names_file).write_text(names)
    pairs = {
        name: [{"images": str(root / "images" / split), "labels": str(root / "labels" / split)}]
        for name, split in (("train", "train"), ("validation", "val"))
    }
    values = {"name": "label-folder", **pairs, "names": str(root / names_file), **settings}
    config = parse(DataConfig, {"dataset": values}, "test").dataset
    assert isinstance(config, LabelFolderConfig)
    return config


def mask(low: int, high: int, dtype: Any = np.uint8, where: np.ndarray = BLOB) -> np.ndarray:
    return np.where(where, high, low).astype(dtype)


def palette(values: np.ndarray, *colors: tuple[int, int, int]) -> Image.Image:
    image = Image.frombytes("P", (W, H), values.tobytes())
    image.putpalette([channel for color in colors for channel in color])
    return image


def border(values: np.ndarray, number: int = 255) -> np.ndarray:
    """A copy with a frame one pixel wide, which is 10.9 % of all pixels."""
    values = values.copy()
    values[0], values[-1], values[:, 0], values[:, -1] = number, number, number, number
    return values


def stray(values: np.ndarray, number: int = 1) -> np.ndarray:
    """A copy with one pixel of another number."""
    values = values.copy()
    values[2, 2] = number
    return values


def smooth(values: np.ndarray) -> np.ndarray:
    """A copy that was halved and enlarged again with interpolation."""
    return np.asarray(Image.fromarray(values).resize((W // 2, H // 2)).resize((W, H), Image.Resampling.BILINEAR))


BLACK, WHITE, RED, GREEN = (0, 0, 0), (255, 255, 255), (200, 0, 0), (0, 200, 0)
HALF = np.zeros((H, W), dtype=np.uint8)
HALF[:, W // 2 :] = 1

REFUSED: dict[str, tuple[Callable[[Path], LabelFolderConfig], str]] = {
    "0 and 255, and a stray pixel of the class": (
        lambda root: folder(root, [stray(mask(0, 255))] * 3),
        r"'background' is the only class with pixels apart from stray ones \('nucleus' has 3\), 255, .* 255 means 'n",
    ),
    "three classes, one of them but for a stray pixel 255": (
        lambda root: folder(root, [stray(border(HALF), 2)], "road\ncar\nsky\n"),
        r"without any pixel apart from stray ones \('sky' has 1\) \(1 \(sky\)\), while 255",
    ),
    "binary masks of 0 and 255": (
        lambda root: folder(root, [mask(0, 255)]),
        r"'background' is the only class with pixels, 255, which is ignored, covers 18.8 % of the pixels; if 255 "
        r"means 'nucleus', give the class that number in the names file \(its lines may be '0 background', '255 nuc",
    ),
    "the same, ignored in so many words": (
        lambda root: folder(root, [mask(0, 255)], ignore=[255]),
        "if 255 means 'nucleus'",
    ),
    "a thin crack of 255": (
        lambda root: folder(root, [mask(0, 255, where=np.eye(H, W, dtype=bool))]),
        r"covers 2.5 % of the pixels; if 255 means 'nucleus'",
    ),
    "only some maps are 0 and 255": (lambda root: folder(root, [mask(0, 0), mask(0, 255)]), "if 255 means 'nucleus'"),
    "as a palette": (
        lambda root: folder(root, [palette(mask(0, 255), *[BLACK] * 255, WHITE)]),
        "if 255 means 'nucleus'",
    ),
    "the background is 255": (lambda root: folder(root, [mask(255, 1)]), "if 255 means 'background'"),
    "three classes, the third is 255": (
        lambda root: folder(root, [border(HALF)], "road\ncar\nsky\n"),
        r"classes without any pixel \(1 \(sky\)\), while 255, .* covers 10.9 % .*unseen_classes=keep",
    ),
    "one class and the rest ignored": (
        lambda root: folder(root, [mask(0, 1)], "1 nucleus\n", ignore=[0]),
        r"'nucleus' is the only class with pixels, 0, .*; name the rest, too \('0 back",
    ),
    "the background is ignored": (
        lambda root: folder(root, [mask(0, 1)], "background\nnucleus\n", ignore=[0]),
        r"\[0\] are classes \(background\) and also ignored; .*number and name: '1 background'",
    ),
    "everything is ignored": (
        lambda root: folder(root, [mask(255, 255)]),
        "nothing is annotated: 255, which is ignored, covers 100 % of the pixels",
    ),
    "only the background is ever painted": (
        lambda root: folder(root, [mask(0, 0)]),
        "'background' is the only class with pixels: there is no other class to distinguish it from",
    ),
    "0, 128 and 255": (
        lambda root: folder(root, [border(mask(0, 128))]),
        r"(the numbers|are not classes).*128",
    ),
    "0 and 255 where nothing is ignored": (lambda root: folder(root, [mask(0, 255)], ignore=[]), "255"),
    "sixteen bits, stretched": (lambda root: folder(root, [mask(0, 65535, np.uint16)]), "65535"),
    "classes times 1000": (lambda root: folder(root, [mask(1000, 1001, np.uint16)]), "1000"),
    "numbers of another tool, from 1": (lambda root: folder(root, [mask(1, 2)]), "2"),
    "colours": (
        lambda root: folder(root, [np.stack([mask(0, 200)] * 3, axis=-1)]),
        "class numbers instead of colours",
    ),
    "JPEG files": (
        lambda root: folder(root, [mask(0, 1)], suffix=".jpg"),
        r"are \.jpg files .*export them again as PNG",
    ),
    "smoothed edges": (lambda root: folder(root, [smooth(mask(0, 99))], "0 background\n99 nucleus\n"), "not classes"),
    "palettes sorted by file": (
        lambda root: folder(root, [palette(HALF, BLACK, RED), palette(HALF, RED, BLACK)]),
        r"whose palettes differ.*0 is \(200, 0, 0\) in '1.png', but \(0, 0, 0\) in '0.png'",
    ),
    "palettes with other colours": (
        lambda root: folder(root, [palette(HALF, BLACK, RED), palette(HALF, BLACK, GREEN)]),
        r"1 is \(0, 200, 0\) in '1.png', but \(200, 0, 0\) in '0.png'",
    ),
    "one colour has two numbers": (
        lambda root: folder(
            root,
            [palette(HALF, BLACK, RED), palette(2 * HALF, BLACK, GREEN, RED)],
            "background\nnucleus\nborder\n",
        ),
        r"\(200, 0, 0\) is 2 in '1.png', but 1 in '0.png'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_check_data_training_and_evaluation_refuse(tmp_path: Path, case: str) -> None:
    make, words = REFUSED[case]
    config = make(tmp_path)
    report = check_dataset(config)
    assert report.is_broken
    said = [finding.sentence() for finding in report.findings if finding.broken]
    with pytest.raises(UserError, match=words):
        raise UserError(" | ".join(said))
    with pytest.raises(UserError):
        require(split_findings(build_images(config, "train"), "train"))


ACCEPTED: dict[str, tuple[Callable[[Path], LabelFolderConfig], list[int], str]] = {
    "0 and 255 by number": (lambda root: folder(root, [mask(0, 255)], "0 background\n255 nucleus\n"), [1040, 240], ""),
    "the same with nothing ignored": (
        lambda root: folder(root, [mask(0, 255)], "0 background\n255 nucleus\n", ignore=[]),
        [1040, 240],
        "",
    ),
    "the same in JSON": (
        lambda root: folder(root, [mask(0, 255)], '{"0": "background", "255": "nucleus"}', "names.json"),
        [1040, 240],
        "",
    ),
    "0 and 1": (lambda root: folder(root, [mask(0, 1)]), [1040, 240], ""),
    "one bit": (lambda root: folder(root, [BLOB]), [1040, 240], ""),
    "0 and 1 with a border of 255": (lambda root: folder(root, [border(mask(0, 1))]), [900, 240], ""),
    "background and 255 in some, all classes in others": (
        lambda root: folder(root, [mask(0, 255), mask(0, 1)]),
        [2080, 240],
        "that contain 255, which is ignored, but not 'nucleus' (1), which occurs only on maps without 255 (1 of them); "
        "if 255 means 'nucleus' there, write 1 instead (1): 0.png",
    ),
    "sixteen bits by number": (
        lambda root: folder(root, [mask(0, 65535, np.uint16)], "0 background\n65535 nucleus\n"),
        [1040, 240],
        "",
    ),
    "a class that is absent": (
        lambda root: folder(root, [HALF], "road\ncar\nsky\n"),
        [640, 640],
        "classes without any pixel (1): sky",
    ),
    "a class that is absent beside a thin border": (
        lambda root: folder(root, [np.where(np.eye(H, W, dtype=bool), 255, HALF).astype(np.uint8)], "road\ncar\nsky\n"),
        [620, 628],
        "classes without any pixel (255, which is ignored, covers 2.5 % of the pixels) (1): sky",
    ),
    "a class that is said to be absent": (
        lambda root: folder(root, [border(HALF)], "road\ncar\nsky\n", unseen_classes="keep"),
        [570, 570],
        "255, which is ignored, covers 10.9 %",
    ),
    "palettes alike, one cut short": (
        lambda root: folder(root, [palette(HALF, BLACK, RED, GREEN), palette(HALF, BLACK, RED)]),
        [1280, 1280],
        "",
    ),
    "void where a palette has no colours of its own": (
        lambda root: folder(root, [palette(border(HALF), BLACK, RED, *[BLACK] * 254)] * 2),
        [1140, 1140],
        "",
    ),
    "255 in places beside the class and where there is none": (
        lambda root: folder(root, [mask(0, 255), border(mask(0, 1))]),
        [1940, 240],
        "",
    ),
    "a thin class beside much that is ignored": (
        lambda root: folder(root, [np.where(np.eye(H, W, dtype=bool), 1, mask(0, 255)).astype(np.uint8)]),
        [],
        "",
    ),
    "in-between numbers that are classes": (
        lambda root: folder(root, [smooth(mask(0, 4))], "a\nb\nc\nd\ne\n"),
        [],
        "classes that are nowhere wider than two pixels",
    ),
}


def test_what_follows_from_a_fault_is_no_fault_of_its_own(tmp_path: Path) -> None:
    config = folder(tmp_path, [mask(0, 1).T.copy()] * 3)  # no map has the size of its image
    broken = [finding.sentence(1) for finding in check_dataset(config).findings if finding.broken]
    assert len(broken) == 2, broken  # one in each split
    config = folder(tmp_path, [np.stack([mask(0, 200)] * 3, axis=-1)] * 3)
    broken = [finding.sentence(1) for finding in check_dataset(config).findings if finding.broken]
    assert len(broken) == 2, broken

    config = folder(tmp_path, [mask(1, 2)] * 3, names="a, b, c\n")  # one class, and none of its pixels
    broken = [finding.sentence(1) for finding in check_dataset(config).findings if finding.broken]
    assert len(broken) == 2, broken
    config = folder(tmp_path, [mask(0, 1)], names="; classes\na\nb\n")  # one file for both splits
    broken = [finding.sentence(1) for finding in check_dataset(config).findings if finding.broken]
    assert len(broken) == 1, broken


@pytest.mark.parametrize(
    ("val", "words"),
    [
        (palette(1 - HALF, RED, BLACK), r"0 is \(200, 0, 0\) in '0\S*, but \(0, 0, 0\) in train's '0"),
        (palette(HALF, BLACK, GREEN), r"1 is \(0, 200, 0\) in '0\S*, but \(200, 0, 0\) in train's '0"),
        (palette(HALF, BLACK, RED, GREEN), None),
    ],
)
def test_palettes_of_both_splits_are_compared(tmp_path: Path, val: Image.Image, words: str | None) -> None:
    config = folder(tmp_path, [palette(HALF, BLACK, RED)] * 2)
    for number in range(2):
        val.save(tmp_path / "labels" / "val" / f"{number}.png")
    broken = [finding.sentence() for finding in check_dataset(config).findings if finding.broken]
    samples = build_images(config, "train"), build_images(config, "validation")
    if words is None:
        assert not broken
        data_notes(*samples)
    else:
        assert len(broken) == 1
        assert re.search(f"validation: label maps whose palettes differ from those of train.*{words}", broken[0])
        with pytest.raises(UserError, match=f"differ from those of train.*{words}"):
            data_notes(*samples)


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_is_right_is_read(tmp_path: Path, case: str) -> None:
    make, pixels, note = ACCEPTED[case]
    config = make(tmp_path)
    report = check_dataset(config)
    said = [finding.sentence() for finding in report.findings]
    assert not report.is_broken, said
    if pixels:
        assert report.splits["train"].pixels_of.tolist()[: len(pixels)] == pixels
    if note:
        assert any(note in sentence for sentence in said), said
    else:
        assert not [sentence for sentence in said if "several times" not in sentence]
    for split in ("train", "validation"):
        require(split_findings(build_images(config, split), split))


def test_a_validation_set_may_lack_what_is_rare_but_not_all_but_one_class(tmp_path: Path) -> None:
    config = folder(tmp_path, [mask(0, 1), mask(0, 2)], "background\nnucleus\nmitosis\n")
    for number in range(2):
        Image.fromarray(border(mask(0, 1))).save(tmp_path / "labels" / "val" / f"{number}.png")
    report = check_dataset(config)
    assert not report.is_broken
    assert any("validation: classes without any pixel" in finding.sentence() for finding in report.findings)
    for number in range(2):
        Image.fromarray(mask(0, 255)).save(tmp_path / "labels" / "val" / f"{number}.png")
    assert check_dataset(config).is_broken
    with pytest.raises(UserError, match="validation: 'background' is the only class with pixels"):
        require(split_findings(build_images(config, "validation"), "validation"))


def test_a_class_on_one_of_many_maps_is_found(tmp_path: Path) -> None:
    """Some of many maps are read at first, and all of them if a class seems to be missing."""
    maps: list[Any] = [mask(0, 255, where=np.eye(H, W, dtype=bool))] * 150
    maps[149 * 50 // 99 + 1] = mask(0, 1)
    config = folder(tmp_path, maps)
    require(split_findings(build_images(config, "train"), "train"))


def test_the_commands_say_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path, [mask(0, 255)] * 2)
    monkeypatch.chdir(tmp_path)
    assert main(["check-data", str(tmp_path), "--workers", "0"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "if 255 means 'nucleus', give the class that number in the names file" in error


# --- names files -----------------------------------------------------------------------------------------------------

NAMES = [
    ("n.txt", "# classes\nroad\ncar\n", [(0, "road"), (1, "car")]),
    ("n.txt", "\ufeff# classes\r\nroad \r\ncar\t\r\n\r\n", [(0, "road"), (1, "car")]),
    ("n.txt", "road\ncar\n# the end\n", [(0, "road"), (1, "car")]),
    ("n.txt", "0 road\n1 car\n", [(0, "road"), (1, "car")]),
    ("n.txt", "0: road\n\n# things\n255: car\n", [(0, "road"), (255, "car")]),
    ("n.txt", "1,road\n2,car\n", [(1, "road"), (2, "car")]),
    ("n.txt", "0\troad\n7\tcar\n", [(0, "road"), (7, "car")]),
    ("n.txt", "1. road\n2. car\n", [(1, "road"), (2, "car")]),
    ("n.txt", "road\n3 wheeler\ncar\n", [(0, "road"), (1, "3 wheeler"), (2, "car")]),
    ("n.txt", "no\nyes\n", [(0, "no"), (1, "yes")]),
    ("n.txt", "road: 3\ncar: 0\n", [(3, "road"), (0, "car")]),
    ("n.txt", "road=3\ncar = 0\n", [(3, "road"), (0, "car")]),
    ("n.txt", "road\t3\ncar\t0\n", [(3, "road"), (0, "car")]),
    ("n.txt", "- road\n- car\n", [(0, "road"), (1, "car")]),
    ("n.txt", "* 1 road\n* 4 car\n", [(1, "road"), (4, "car")]),
    ("n.txt", "grade 1\ngrade 2\n", [(0, "grade 1"), (1, "grade 2")]),
    ("n.txt", "rest\ngrade 1\nKi-67\nH2O\n", [(0, "rest"), (1, "grade 1"), (2, "Ki-67"), (3, "H2O")]),
    ("n.txt", "0 part 7\n1 cell 9\n", [(0, "part 7"), (1, "cell 9")]),
    ("n.txt", "part no.1\npart no.2\nC#\n", [(0, "part no.1"), (1, "part no.2"), (2, "C#")]),
    ("n.txt", "_bg_\n(rest)\nt-shirt\n", [(0, "_bg_"), (1, "(rest)"), (2, "t-shirt")]),
    (
        "labelmap.txt",
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:128,0,0::\n",
        [(0, "background"), (1, "car")],
    ),
    ("labelmap.txt", "background:::\ncar:128,0,0:wheel,door:\n", [(0, "background"), (1, "car")]),
    ("n.json", '{"road": 0, "car": 255}', [(0, "road"), (255, "car")]),
    ("n.json", '{"id2label": {"1": "car", "0": "road"}}', [(1, "car"), (0, "road")]),
    ("n.json", '{"classes": ["road", "car"]}', [(0, "road"), (1, "car")]),
    ("n.json", '[{"id": "4", "name": "road"}, {"id": 9.0, "name": "car"}]', [(4, "road"), (9, "car")]),
    ("n.yaml", "7: road\n3: car\n", [(7, "road"), (3, "car")]),
    ("n.csv", "0,road,128,64,128\n1,car,0,0,142\n", [(0, "road"), (1, "car")]),
    ("n.csv", "Id, Name\n4,road\n\n9,car\n", [(4, "road"), (9, "car")]),
]


@pytest.mark.parametrize(("name", "text", "expected"), NAMES)
def test_names_and_their_numbers(tmp_path: Path, name: str, text: str, expected: list[tuple[int, str]]) -> None:
    (tmp_path / name).write_bytes(text.encode())
    notes: list[str] = []
    assert [(item.id, item.name) for item in read_names(tmp_path / name, notes)] == expected
    assert bool(notes) == (re.search("^#", text.lstrip("\ufeff"), re.MULTILINE) is not None)
    if notes:
        number, first = expected[0]
        assert f"the first class is {number} '{first}'" in notes[0]


def test_the_colours_of_a_label_map_file_are_kept(tmp_path: Path) -> None:
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:128,0,0::\n")
    assert [item.color for item in read_names(tmp_path / "labelmap.txt")] == [(0, 0, 0), (128, 0, 0)]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "n.txt",
            "road\n# bus\ncar\n",
            r"line 2 is a comment \('# bus'\), not a name, so the numbers .*number all lines",
        ),
        ("n.txt", "road\n\ncar\n", "line 2 is empty, .*number all lines"),
        ("n.txt", "classes\nroad\ncar\n", "line 1, 'classes', looks like a heading"),
        ("n.txt", "# c\nid name\n0 road\n1 car\n", "line 2, 'id name', looks like a heading"),
        ("n.txt", "cell 1\nbg 0\n", r"end in numbers \('cell 1'\).*in front \('1 cell'\); .*\('0 cell 1'\)"),
        ("n.txt", "road: 0\ncar: 0\n", "more than once"),
        ("n.txt", "name id\nbg 0\ncell 1\n", "line 1, 'name id', looks like a heading"),
        ("n.txt", "- bg\ncell\n", "line 1, '- bg', begins with a bullet"),
        ("n.txt", "bg  # the rest\ncell\n", "line 1, 'bg # the rest', seems to end in a comment"),
        ("n.txt", "0 bg\n1 cell // all\n", "line 2, '1 cell // all', seems to end in a comment"),
        ("n.txt", "// classes\nbg\ncell\n", "line 1, '// classes', does not look like a name"),
        ("n.txt", "; classes\nbg\n", "line 1, '; classes', does not look like a name"),
        ("n.txt", '["bg", "cell"]\n', "does not look like a name"),
        ("n.txt", "0 road\ncar\n2 sky\n", "line 2, 'car', has no number but others do"),
        ("n.txt", "0 road\n0 car\n", "more than once"),
        ("n.txt", "road\ncar\nroad\n", "names must be unique"),
        ("n.txt", "road\nca\u200br\n", "contains invisible characters"),
        ("n.txt", "# nothing\n", "at least one category"),
        ("n.json", '{"0": "road", "0": "car"}', "more than once"),
        ("n.json", '[{"id": 1.5, "name": "road"}]', "not a class number"),
        ("n.json", '[{"name": "road"}]', "id"),
        ("n.json", '{"road": [0, 0, 0], "car": [1, 1, 1]}', "'road' is not a class number"),
        ("n.json", '["road", null]', "None is not a name"),
        ("n.yaml", "0: road\n0: car\n", "more than once"),
        ("n.csv", "0,128,64,128,road\n1,0,0,142,car\n", "second column contains numbers"),
        ("n.csv", "name,r,g,b\nroad,1,2,3\n", "gives no class numbers; add them"),
        ("n.csv", "0;road\n1;car\n", "not 'id' and 'name'"),
    ],
)
def test_names_files_that_can_be_read_in_two_ways_are_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words):
        read_names(tmp_path / name)


def test_names_in_another_encoding_are_refused(tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_bytes("straße\n".encode("latin-1"))
    with pytest.raises(UserError, match="save it as UTF-8"):
        read_names(tmp_path / "n.txt")


def test_comment_lines_are_told_by_check_data(tmp_path: Path) -> None:
    config = folder(tmp_path, [mask(0, 1)], "# classes\nbackground\nnucleus\n")
    (finding,) = [finding for finding in check_dataset(config).findings if "comment" in finding.message][:1]
    assert "skipped comment lines: 1 (# classes); the first class is 0 'background'" in finding.message
    assert json.loads(json.dumps(check_dataset(config).to_dict()))["broken"] is False


# --- id maps of clips ------------------------------------------------------------------------------------------------


def clip(root: Path, maps: list[Any]) -> MaskFolders:
    """A data set of one clip with these id maps."""
    for kind in ("images", "masks"):
        (root / kind / "a").mkdir(parents=True)
    for number, values in enumerate(maps):
        Image.new("RGB", (W, H)).save(root / "images" / "a" / f"{number}.png")
        image = values if isinstance(values, Image.Image) else Image.fromarray(values)
        image.save(root / "masks" / "a" / f"{number}.png")
    return MaskFolders(root / "images", root / "masks")


@pytest.mark.parametrize(
    ("swapped", "words"),
    [
        (palette(HALF + 1, BLACK, GREEN, RED), r"1 is \(0, 200, 0\) in '\d.png', but \(200, 0, 0\) in '0.png'"),
        (palette(2 * HALF, BLACK, GREEN, RED), r"\(200, 0, 0\) is 2 in '\d.png', but 1 in '0.png'"),
    ],
)
def test_id_maps_of_a_clip_whose_palettes_differ_are_refused(tmp_path: Path, swapped: Image.Image, words: str) -> None:
    first = palette(HALF, BLACK, RED, GREEN)
    with pytest.raises(UserError, match=rf"id maps in '.*a' differ, .*{words}; save all id maps"):
        clip(tmp_path / "last", [first, first, swapped])
    clips = clip(tmp_path / "between", [first, swapped, first, first])  # which is not checked beforehand
    assert clips.annotated(0, [0, 2]).annotated.tolist() == [[True, True]]
    for read in (lambda: clips.annotated(0, [0, 1]), lambda: clips.ground_truths(0, ["instance"])):
        with pytest.raises(UserError, match=words):
            read()


@pytest.mark.parametrize(
    ("maps", "note"),
    [
        (
            [border(HALF), HALF, border(2 * HALF)],
            r"255 occurs on 2 of 3 id maps .*\(clips 1 \(a\)\), whose other ids end at 2",
        ),
        ([mask(0, 255)] * 2, None),  # an object, as in binary masks
        ([border(mask(0, 200))], None),  # one of many
        ([HALF, palette(HALF, BLACK, RED), palette(2 * HALF, BLACK, GREEN, GREEN)], None),
    ],
)
def test_255_beside_small_ids_is_noted(tmp_path: Path, maps: list[Any], note: str | None) -> None:
    notes = clip(tmp_path, maps).notes
    assert len(notes) == (note is not None)
    assert note is None or re.search(note, notes[0])
