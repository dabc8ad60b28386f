"""Overlays and contact sheets: what is painted where, labels apart, nothing random."""

import time

import numpy as np
import pytest
from PIL import Image

from mask2former import drawing
from mask2former.drawing import Region
from mask2former.errors import RequestError

GREY = np.full((240, 320, 3), 120, dtype=np.uint8)


def discs(count: int, radius: tuple[int, int], size_hw: tuple[int, int] = (240, 320)) -> np.ndarray:
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]]
    return np.stack(
        [
            (rows - rng.integers(size_hw[0])) ** 2 + (columns - rng.integers(size_hw[1])) ** 2
            <= rng.integers(*radius) ** 2
            for _ in range(count)
        ]
    )


def dark_share(picture: Image.Image) -> float:
    """Share of pixels as dark as a label box; nothing else in these pictures is."""
    return float((np.asarray(picture).max(axis=2) < 60).mean())


def test_pixels_far_from_masks_stay_and_inside_is_tinted() -> None:
    masks = np.zeros((1, 240, 320), dtype=bool)
    masks[0, 100:140, 100:200] = True
    red = Region("box", (230, 30, 30))
    drawn = np.asarray(drawing.overlay_instances(GREY, masks, [red], labels=False))
    np.testing.assert_array_equal(drawn[:90], GREY[:90])
    assert drawn[120, 150, 0] > 150 > 100 > drawn[120, 150, 1]
    # the outline stands out from the tint
    edge, middle = drawn[100, 150].astype(int), drawn[120, 150].astype(int)
    assert abs(edge - middle).max() > 40


def test_no_outline_where_the_picture_ends() -> None:
    masks = np.zeros((1, 60, 80), dtype=bool)
    masks[0, :, :40] = True
    drawn = np.asarray(drawing.overlay_instances(GREY[:60, :80], masks, [Region("a", (230, 30, 30))], labels=False))
    np.testing.assert_array_equal(drawn[0, 10], drawn[30, 10])
    np.testing.assert_array_equal(drawn[30, 0], drawn[30, 10])


def test_small_objects_lie_on_large_ones() -> None:
    masks = np.zeros((2, 240, 320), dtype=bool)
    masks[0, 100:130, 100:130] = True
    masks[1, 20:220, 20:300] = True
    regions = [Region("small", (20, 220, 20), group=0), Region("large", (220, 20, 20), group=1)]
    drawn = np.asarray(drawing.overlay_instances(GREY, masks, regions, labels=False)).astype(int)
    assert drawn[115, 115, 1] > drawn[115, 115, 0]
    assert drawn[200, 200, 0] > drawn[200, 200, 1]


def test_members_of_a_class_differ_a_little_and_the_first_is_always_the_same() -> None:
    regions = [Region("cat", (200, 60, 40), group=1), Region("dog", (40, 60, 200), group=2)] * 3
    colors = np.asarray(drawing._spread_colors(regions)).astype(int)
    assert len({tuple(color) for color in colors}) == 6
    assert (colors[::2, 0] > colors[::2, 2]).all()  # cats stay red
    assert (colors[1::2, 2] > colors[1::2, 0]).all()  # dogs stay blue
    assert drawing._spread_colors(regions[:1])[0] == tuple(colors[0])


def test_labels_never_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes: list[tuple[int, int, int, int]] = []
    paste = drawing._Tag.paste

    def record(tag: drawing._Tag, canvas: np.ndarray, left: int, top: int) -> None:
        boxes.append((left, top, left + tag.size[0], top + tag.size[1]))
        paste(tag, canvas, left, top)

    monkeypatch.setattr(drawing._Tag, "paste", record)
    regions = [Region(f"thing {index % 7}", (200, 80, 40), 0.9, index % 7) for index in range(40)]
    drawing.overlay_instances(GREY, discs(40, (10, 60)), regions)
    assert 3 <= len(boxes) <= 40
    for index, first in enumerate(boxes):
        assert 0 <= first[0] < first[2] <= 320
        assert 0 <= first[1] < first[3] <= 240
        assert not any(drawing._touch(first, second, gap=0) for second in boxes[:index])


def test_no_label_storm_on_many_small_objects_but_a_few_are_named() -> None:
    def region(index: int) -> Region:
        return Region("nucleus", (80, 160, 230), 0.9)

    many = drawing.overlay_instances(GREY, discs(200, (4, 9)), [region(index) for index in range(200)])
    assert dark_share(many) < 0.001
    few = drawing.overlay_instances(GREY, discs(4, (4, 9)), [region(index) for index in range(4)])
    assert dark_share(few) > 0.003


def test_panoptic_and_semantic_maps_leave_unknown_values_alone() -> None:
    ids = np.zeros((240, 320), dtype=np.int32)
    ids[:, 160:] = 9
    ids[200:, :100] = 5  # not among the numbers
    drawn = np.asarray(drawing.overlay_panoptic(GREY, ids, [9], [Region("sky", (40, 40, 220), is_thing=False)]))
    np.testing.assert_array_equal(drawn[100, :150], GREY[100, :150])
    np.testing.assert_array_equal(drawn[230, :90], GREY[230, :90])
    assert drawn[10, 300, 2] > 150
    classes = np.full((240, 320), 255)
    np.testing.assert_array_equal(drawing.overlay_semantic(GREY, classes, [Region("a", (1, 2, 3))]), GREY)


def test_the_same_arguments_give_the_same_picture() -> None:
    masks = discs(12, (10, 50))
    regions = [Region("a", (200, 40, 40), 0.7) for _ in range(12)]
    first, second = (np.asarray(drawing.overlay_instances(GREY, masks, regions)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("size_hw", [(1, 1), (3, 200), (200, 3), (17, 23)])
def test_tiny_and_thin_pictures(size_hw: tuple[int, int]) -> None:
    image = np.zeros((*size_hw, 3), dtype=np.uint8)
    masks = np.ones((2, *size_hw), dtype=bool)
    masks[1] = False
    regions = [Region("a long name of a class", (9, 9, 9), 0.5), Region("b", (0, 0, 0))]
    assert drawing.overlay_instances(image, masks, regions).size == size_hw[::-1]
    assert drawing.overlay_panoptic(image, masks[0].astype(np.int32), [1], regions[:1]).size == size_hw[::-1]
    assert drawing.overlay_semantic(image, masks[1].astype(int), regions, scale=2).width == 2 * size_hw[1]


@pytest.mark.parametrize("wrong", ["a.jpg", None])
def test_other_things_than_pictures_are_refused(wrong: object) -> None:
    with pytest.raises(RequestError, match="expected a Pillow image or an array"):
        drawing.overlay_semantic(wrong, np.zeros((240, 320), dtype=int), [])  # type: ignore[arg-type]


def test_a_contact_sheet_holds_every_picture() -> None:
    cells = [
        [Image.new("RGB", (100, 50 + 25 * row), (50 * row, 60 * column, 200)) for column in range(3)] for row in (0, 1)
    ]
    sheet = drawing.contact_sheet(
        cells,
        ["one", "two", "three"],
        ["first", "second"],
        title="Title",
        subtitle="what is seen",
        legend=[(f"class {index}", (index * 8, 100, 100)) for index in range(30)],
    )
    colors = {color for _, color in sheet.getcolors(sheet.width * sheet.height) or []}
    assert {cell.getpixel((0, 0)) for row in cells for cell in row} <= colors
    assert {(index * 8, 100, 100) for index in range(30)} <= colors
    assert sheet.getpixel((0, 0)) == (255, 255, 255)
    assert drawing.contact_sheet([[cells[0][0]], [cells[1][0], cells[1][1]]], cell_width=64).width > 128


@pytest.mark.slow
def test_fifty_instances_are_drawn_quickly() -> None:
    # processor time, so that a busy machine does not decide
    masks = discs(50, (15, 90), (480, 640))
    regions = [Region(f"class {index % 20}", (200, 80, 40), 0.9, index % 20) for index in range(50)]
    image = np.zeros((480, 640, 3), dtype=np.uint8)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        drawing.overlay_instances(image, masks, regions)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.15


def test_objects_between_the_points_of_the_coarse_search_have_labels_too() -> None:
    """On large pictures the place of a label is searched on a coarse grid, which can miss a small object."""
    ids = np.zeros((801, 801), dtype=np.int32)
    ids[2::3, 2] = 1  # the search looks at rows and columns 1, 4, 7, ...
    picture = drawing.overlay_panoptic(
        np.zeros((801, 801, 3), dtype=np.uint8), ids, [1], [Region("cell", (200, 40, 40))]
    )
    assert picture.size == (801, 801)


def test_a_track_keeps_the_colour_of_its_number() -> None:
    masks = np.zeros((2, 240, 320), dtype=bool)
    masks[0, 20:100, 20:100] = masks[1, 120:200, 120:200] = True
    regions = [Region("cat", (200, 30, 30), group=1, identity=number) for number in (3, 4)]
    both = np.asarray(drawing.overlay_instances(GREY, masks, regions, labels=False))
    second = np.asarray(drawing.overlay_instances(GREY, masks[1:], regions[1:], labels=False))
    assert (both[160, 160] == second[160, 160]).all()
    assert abs(both[60, 60].astype(int) - both[160, 160]).max() > 30
