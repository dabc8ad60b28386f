"""Regions of interest of ImageJ: kinds of outlines, groups, planes of a stack, broken files."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import OTHER, SQUARE, H, W, box, check_disc
from PIL import Image

from mask2former import limits
from mask2former.config import ToolFilesConfig
from mask2former.data.datasets.imagej_rois import parse_rois, read_rois
from mask2former.data.datasets.tool_files import open_tool_files
from mask2former.data.datasets.tool_records import Source
from mask2former.dataset_tools.infer_format import infer_format
from mask2former.errors import UserError
from mask2former.media.archives import Archive
from mask2former.ops import masks as mask_ops
from mask2former.results_io.imagej import RoiFiles
from mask2former.structures import Categories, Instances

POLYGON, RECTANGLE, OVAL, LINE, TRACED = 0, 1, 2, 3, 8


def roi(
    corners: Any = SQUARE,
    kind: int = POLYGON,
    *,
    bounds: tuple[int, int, int, int] | None = None,
    exact: bool = False,
    path: Any = (),
    slice_: int = 0,
    position: tuple[int, int, int] = (0, 0, 0),
    group: int = 0,
    options: int = 0,
) -> bytes:
    """A region as ImageJ 1.54 lays it out; ``bounds`` are left, top, right and bottom."""
    points = np.array(corners, dtype=np.float64).reshape(-1, 2)
    left, top, right, bottom = bounds or (*np.floor(points.min(0)).astype(int), *np.ceil(points.max(0)).astype(int))
    body = (np.floor(points) - [left, top]).astype(">i2").T.tobytes()
    body += points.astype(">f4").T.tobytes() if exact else b""
    if len(path):
        body = np.array(path, dtype=">f4").tobytes()
    if kind in (RECTANGLE, OVAL, LINE) or len(path):
        points = points[:0]
        body = body if len(path) else b""
    head = struct.pack(">4shBx4hH", b"Iout", 228, kind, top, left, bottom, right, len(points)) + bytes(16)
    head += struct.pack(">hi8xhh4xii", 0, len(path), 0, options | (128 if exact else 0), slice_, 64 + len(body))
    return head + body + struct.pack(">4x3i12xhB33x", *position, 0, group)


def written(root: Path, *regions: bytes, name: str = "a_RoiSet.zip") -> Path:
    """A file of regions beside the image ``a.tif``."""
    root.mkdir(exist_ok=True)
    Image.new("L", (W, H)).save(root / "a.tif")
    with zipfile.ZipFile(root / name, "w") as archive:
        for number, region in enumerate(regions, start=1):
            archive.writestr(f"{number:04d}.roi", region)
    return root / name


def read(root: Path, *regions: bytes, name: str = "a_RoiSet.zip") -> tuple[list[Any], list[str]]:
    """Class and mask of each region, and the notes."""
    samples = open_tool_files("imagej", [(written(root, *regions, name=name), root)])
    target = samples[0].target
    assert target is not None
    labels = [samples.categories[label].name for label in target.labels.tolist()]
    return list(zip(labels, target.masks[:, 0].numpy(), strict=True)), samples.notes


RING = [0, 5, 5, 1, 15, 5, 1, 15, 15, 1, 5, 15, 4, 0, 8, 8, 1, 12, 8, 1, 12, 12, 1, 8, 12, 4]
PARTS: dict[str, tuple[bytes, np.ndarray]] = {
    "a polygon": (roi(), box(5, 5, 15, 15)),
    "a traced outline": (roi(OTHER, TRACED), box(30, 20, 50, 30)),
    "exact coordinates": (roi(np.array(SQUARE) + 0.25, exact=True), box(5, 5, 15, 15)),
    "a composite with a hole": (
        roi(kind=RECTANGLE, bounds=(5, 5, 15, 15), path=RING),
        box(5, 5, 15, 15) & ~box(8, 8, 12, 12),
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_outlines_become_their_masks(tmp_path: Path, name: str) -> None:
    region, expected = PARTS[name]
    found, _ = read(tmp_path, region)
    ((label, mask),) = found
    assert label == "object"
    np.testing.assert_array_equal(mask, expected)


def test_ovals_and_curves_are_the_pixels_inside_them(tmp_path: Path) -> None:
    (_, oval), *_ = read(tmp_path / "1", roi(kind=OVAL, bounds=(20, 10, 40, 30)))[0]
    check_disc(oval)
    near = 10 * 0.5523  # control points of a quarter of a circle
    curves = [0, 40, 20]
    for (x, y), (u, v) in (((30, 30), (40, 30)), ((20, 20), (20, 30)), ((30, 10), (20, 10)), ((40, 20), (40, 10))):
        (start_x, start_y), corner = curves[-2:], np.array([u, v])
        first = np.array([start_x, start_y]) + (corner - [start_x, start_y]) * near / 10
        second = np.array([x, y]) + (corner - [x, y]) * near / 10
        curves += [3, *first.tolist(), *second.tolist(), x, y]
    (_, curved), *_ = read(tmp_path / "2", roi(kind=RECTANGLE, bounds=(20, 10, 40, 30), path=[*curves, 4]))[0]
    check_disc(curved)


def test_coordinates_above_32767_are_read(tmp_path: Path) -> None:
    """ImageJ stores them in 16 bits all the same."""
    corners = np.add(SQUARE, [40_000, 0])
    stored = bytearray(roi())
    stored[10:12] = stored[14:16] = struct.pack(">H", 40_005)  # left, right
    written(tmp_path, bytes(stored))
    (record,) = parse_rois(Source(read_rois(tmp_path / "a_RoiSet.zip"), "", None, "a_RoiSet.zip"))
    np.testing.assert_array_equal(np.reshape(record.shapes[0].segmentation[0], (-1, 2)), corners)
    stored = bytearray(roi(kind=OVAL, bounds=(0, 10, 20, 30)))
    stored[10:12], stored[14:16] = struct.pack(">H", 40_000), struct.pack(">H", 40_020)
    written(tmp_path, bytes(stored))
    (record,) = parse_rois(Source(read_rois(tmp_path / "a_RoiSet.zip"), "", None, "a_RoiSet.zip"))
    assert np.mean(record.shapes[0].segmentation[0][::2]) == pytest.approx(40_010)


def test_groups_are_classes(tmp_path: Path) -> None:
    found, notes = read(tmp_path, roi(), roi(OTHER, group=3))
    assert [label for label, _ in found] == ["object", "group 3"]
    assert any("with groups of regions" in note and "'a_RoiSet.zip' (3)" in note for note in notes)
    assert any("in no group beside those of groups" in note and "(1 in no group, groups 3)" in note for note in notes)
    _, notes = read(tmp_path, roi(group=2), roi(OTHER, group=3))
    assert not any("no group" in note for note in notes)


def test_regions_of_a_stack_belong_to_one_plane(tmp_path: Path) -> None:
    _, notes = read(tmp_path / "1", roi(slice_=1), roi(OTHER))
    assert not any("plane" in note for note in notes)
    _, notes = read(tmp_path / "4", roi(position=(1, 1, 1)), roi(OTHER, position=(2, 1, 1)))  # two channels
    assert not any("plane" in note for note in notes)
    _, notes = read(tmp_path / "2", roi(position=(1, 3, 1)))
    assert any("another plane of a stack than the first" in note and "3/1" in note for note in notes)
    with pytest.raises(UserError, match="belong to 2 planes of a stack"):
        read(tmp_path / "3", roi(slice_=1), roi(OTHER, slice_=2))


def named(root: Path, *names: str) -> list[str]:
    """The notes on regions with these names."""
    root.mkdir()
    Image.new("L", (W, H)).save(root / "a.tif")
    with zipfile.ZipFile(root / "a.zip", "w") as archive:
        for name in names:
            archive.writestr(f"{name}.roi", roi())
    return open_tool_files("imagej", [(root / "a.zip", root)]).notes


def test_the_slice_is_read_from_the_name_where_imagej_stores_it_only_there(tmp_path: Path) -> None:
    for number, names in enumerate((["0001-0040-0030", "0030-0040"], ["0007-nucleus", "0008-nucleus"], ["1", "2"])):
        assert not any("plane" in note for note in named(tmp_path / str(number), *names))
    assert any("another plane of a stack than the first" in note for note in named(tmp_path / "3", "00002-10040-00030"))
    with pytest.raises(UserError, match=r"2 planes of a stack .*slice: 1, 3\).*if these are channels .*Remove Posi"):
        named(tmp_path / "4", "0001-0040-0030", "0003-0040-0030-1")


def test_a_spline_is_noted(tmp_path: Path) -> None:
    _, notes = read(tmp_path, roi(options=1))
    assert any("fitted to a spline" in note and "Interpolate" in note for note in notes)


REFUSED: dict[str, tuple[bytes, str]] = {
    "a rectangle": (roi(kind=RECTANGLE, bounds=(5, 5, 15, 15)), r"\(rectangle\).* no segmentation"),
    "a line": (roi(kind=LINE), r"\(line\).* no segmentation"),
    "a file that is cut short": (roi()[:40], r"region '0001\.roi': it is cut short \(40 bytes\)"),
    "corners that are missing": (
        roi()[:60] + bytes(4) + roi()[64:70],
        r"region '0001\.roi': it is cut short \(70 bytes\)",
    ),
    "exact corners that are missing": (
        roi(exact=True)[:60] + bytes(4) + roi(exact=True)[64:84],
        r"region '0001\.roi': it is cut short \(84 bytes\)",
    ),
    "steps that are missing": (
        roi(kind=RECTANGLE, bounds=(5, 5, 15, 15), path=RING)[:60].ljust(100, b"\0"),
        r"region '0001\.roi': it is cut short \(100 bytes\)",
    ),
    "a negative number of corners": (
        roi(exact=True)[:16] + struct.pack(">Hi", 0, -1) + roi(exact=True)[22:],
        r"region '0001\.roi': it has -1 corners",
    ),
    "something else": (b"PNG?" + roi()[4:], "expected Iout"),
    "an unknown step": (roi(kind=RECTANGLE, bounds=(5, 5, 15, 15), path=[0, 5, 5, 9, 1, 1]), "unknown step, 9"),
    "a step without its corner": (roi(kind=RECTANGLE, bounds=(5, 5, 15, 15), path=[0, 5, 5, 1, 1]), "unknown step"),
    "a step that is no number": (
        roi(kind=RECTANGLE, bounds=(5, 5, 15, 15), path=[0, 5, 5, float("nan"), 1, 1]),
        "unknown step, nan",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    region, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        read(tmp_path, region)


def test_a_zip_file_of_other_things_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(written(tmp_path), "a") as archive:
        archive.writestr("notes.txt", "nothing")
    with pytest.raises(UserError, match=r"contains no regions of ImageJ \(\.roi\)"):
        open_tool_files("imagej", [(tmp_path, tmp_path)])


def test_what_predict_wrote_is_read_back_with_images_without_objects(tmp_path: Path) -> None:
    pytest.importorskip("roifile")
    categories = Categories.from_names(["cell"])
    with RoiFiles(tmp_path) as writer:
        for name, number in (("a", 0), ("b", 1)):  # the first file, by which the folder is recognised, has none
            masks = box(5, 5, 15, 15)[None][:number]
            boxes = mask_ops.boxes_xyxy(masks)
            writer.add(name, Instances(masks, np.zeros(number, int), np.ones(number), boxes, categories))
            Image.new("L", (W, H)).save(tmp_path / f"{name}.tif")
    config, _ = infer_format(tmp_path)
    assert isinstance(config, ToolFilesConfig)
    assert config.name == "imagej"
    samples = open_tool_files("imagej", [(tmp_path, tmp_path)])
    assert samples.num_objects.tolist() == [0, 1]
    target = samples[1].target
    assert target is not None
    np.testing.assert_array_equal(target.masks[0, 0].numpy(), box(5, 5, 15, 15))


@pytest.mark.parametrize("name", ["REGION_BYTES", "REGIONS_BYTES"])
def test_regions_that_would_fill_the_memory_are_not_read(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is checked against sizes in the directory of the archive, before the first region is unpacked."""
    monkeypatch.setattr(limits, name, len(roi()) * 3 // 2)
    read(tmp_path / "1", roi())
    larger = [roi() + bytes(len(roi()))] if name == "REGION_BYTES" else [roi(), roi(OTHER)]
    with monkeypatch.context() as patch:
        patch.setattr(Archive, "read", lambda *_: pytest.fail("it was read"))
        with pytest.raises(UserError, match="too many bytes"):
            read(tmp_path / "2", *larger)


@pytest.mark.parametrize("name", ["a_rois.zip", "a.zip", "a-RoiSet.zip"])
@pytest.mark.parametrize("by_name", [True, False])
def test_check_data_finds_files_of_regions(tmp_path: Path, name: str, by_name: bool) -> None:
    for split in ("train", "val"):
        path = written(tmp_path / split, roi(), name=name)
    config, _ = infer_format(tmp_path / "train" / path.name if by_name else tmp_path)
    assert isinstance(config, ToolFilesConfig)
    assert config.name == "imagej"
    assert Path(config.train[0].images) == tmp_path / "train"
    assert Path(config.validation[0].images) == tmp_path / "val"
    samples = open_tool_files("imagej", [(config.train[0].annotations, config.train[0].images)])
    assert samples.num_objects.tolist() == [1]


def test_a_folder_of_single_regions(tmp_path: Path) -> None:
    (tmp_path / "a.roi").write_bytes(roi())
    Image.new("L", (W, H)).save(tmp_path / "a.tif")
    config, _ = infer_format(tmp_path)
    assert isinstance(config, ToolFilesConfig)
    assert open_tool_files("imagej", [(tmp_path, tmp_path)]).num_objects.tolist() == [1]
