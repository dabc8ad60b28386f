"""Names and counts: never overlapping, beside small things, and left out if they add no information."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image

from mask2former import visualization
from mask2former.visualization import Region, labels
from mask2former.visualization.labels import counts

GREY = np.full((240, 320, 3), 120, dtype=np.uint8)


Box = tuple[int, int, int, int]


@dataclass
class Drawn:
    """The positions of drawn tags and plates, and the text on the plates."""

    tags: list[Box] = field(default_factory=list)
    plates: list[Box] = field(default_factory=list)
    lines: list[list[str]] = field(default_factory=list)


@pytest.fixture
def boxes(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    seen = Drawn()
    for indices, label in ((seen.tags, labels._Tag), (seen.plates, labels.Plate)):

        def record(self, canvas, left, top, indices=indices, paste=label.paste) -> None:
            indices.append((left, top, left + self.size[0], top + self.size[1]))
            if indices is seen.plates:
                seen.lines.append(self.lines)
            paste(self, canvas, left, top)

        monkeypatch.setattr(label, "paste", record)
    return seen


def discs(indices: list[tuple[int, int]], radius: int, size_hw: tuple[int, int] = (240, 320)) -> np.ndarray:
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]]
    return np.stack([(rows - y) ** 2 + (columns - x) ** 2 <= radius**2 for y, x in indices])


def scattered(count: int, radius: int, size_hw: tuple[int, int] = (240, 320)) -> np.ndarray:
    rng = np.random.default_rng(3)
    indices = [(int(rng.integers(size_hw[0])), int(rng.integers(size_hw[1]))) for _ in range(count)]
    return discs(indices, radius, size_hw)


def test_labels_never_overlap(boxes: Drawn) -> None:
    regions = [Region(f"thing {index % 7}", (200, 80, 40), 0.9, index % 7) for index in range(40)]
    visualization.overlay_instances(GREY, np.concatenate([scattered(20, 15), scattered(20, 50)]), regions)
    assert 3 <= len(boxes.tags) <= 40
    for index, first in enumerate(boxes.tags):
        assert 0 <= first[0] < first[2] <= 320
        assert 0 <= first[1] < first[3] <= 240
        for second in boxes.tags[:index]:
            assert first[2] <= second[0] or second[2] <= first[0] or first[3] <= second[1] or second[3] <= first[1]


@pytest.mark.parametrize("count", [1, 2, 4, 150])
@pytest.mark.parametrize("panoptic", [False, True])
def test_one_class_is_counted_in_a_plate_that_hides_nothing(boxes: Drawn, count: int, panoptic: bool) -> None:
    size_hw = (480, 640)
    rng = np.random.default_rng(5)
    indices = [
        (int(y), int(x)) for y, x in zip(rng.integers(10, 400, count), rng.integers(10, 630, count), strict=True)
    ]
    masks = discs(indices, 6, size_hw)
    regions = [Region("nucleus", (80, 160, 230), 0.9)] * count
    image = np.full((*size_hw, 3), 200, np.uint8)
    if panoptic:
        ids = (masks * np.arange(1, count + 1)[:, None, None]).max(axis=0)
        drawn = visualization.overlay_panoptic(image, ids, range(1, count + 1), regions)
    else:
        drawn = visualization.overlay_instances(image, masks, regions)
    assert boxes.tags == []
    assert boxes.lines == [[f"nucleus: {count}"]]
    ((left, top, right, bottom),) = boxes.plates
    assert not masks[:, top:bottom, left:right].any()
    assert 0 <= left < right <= 640
    assert 0 <= top < bottom <= 480
    # and it is visible
    assert (np.asarray(drawn)[top:bottom, left:right].max(axis=2) < 80).mean() > 0.4


def test_a_plate_in_a_crowd_lies_where_it_hides_least(boxes: Drawn) -> None:
    masks = discs(
        [(y, x) for y in range(15, 480, 30) for x in range(15, 640, 30) if not (y > 400 and 200 < x < 420)],
        9,
        (480, 640),
    )
    visualization.overlay_instances(
        np.zeros((480, 640, 3), np.uint8), masks, [Region("cell", (200, 80, 40))] * len(masks)
    )
    ((left, top, right, bottom),) = boxes.plates
    assert top > 400
    assert not masks[:, top:bottom, left:right].any()


def test_a_crowd_of_some_classes_is_counted_by_class(boxes: Drawn) -> None:
    regions = [
        Region(["lymphocyte", "tumour"][index % 3 == 0], (200, 80, 40), 0.9, index % 3 == 0) for index in range(60)
    ]
    visualization.overlay_instances(np.zeros((480, 640, 3), np.uint8), scattered(60, 7, (480, 640)), regions)
    assert boxes.tags == []
    assert boxes.lines == [["lymphocyte: 40", "tumour: 20"]]


def test_stuff_is_named_beside_counted_things(boxes: Drawn) -> None:
    ids = np.ones((480, 640), dtype=np.int32)
    things = discs([(100, 100), (300, 400), (200, 250)], 30, (480, 640))
    for index, mask in enumerate(things):
        ids[mask] = index + 2
    regions = [Region("tissue", (200, 150, 180), 0.8, 1, is_thing=False), *[Region("cell", (80, 90, 200), 0.9, 0)] * 3]
    visualization.overlay_panoptic(np.zeros((480, 640, 3), np.uint8), ids, [1, 2, 3, 4], regions)
    assert boxes.lines == [["cell: 3"]]
    ((left, top, right, bottom),) = boxes.tags
    assert not things[:, top:bottom, left:right].any()


def test_what_is_counted() -> None:
    cell, dog = Region("cell", (1, 2, 3)), Region("dog", (4, 5, 6), group=1)
    sky = Region("sky", (7, 8, 9), group=2, is_thing=False)
    assert counts([]) == counts([sky]) == []
    assert counts([cell]) == [(cell, 1)]
    assert counts([cell, sky]) == []  # a single thing among named stuff has a name too
    assert counts([cell, sky, cell]) == [(cell, 2)]
    assert counts([cell, dog]) == []
    assert counts([dog, cell, dog], most=2) == [(dog, 2), (cell, 1)]
    tracks = [Region(f"cell {number}", (1, 2, 3), identity=number) for number in (1, 2)]
    assert counts(tracks) == counts(tracks[:1]) == []  # their names tell them apart


def test_two_classes_of_a_few_large_things_have_names(boxes: Drawn) -> None:
    masks = discs([(100, 100), (300, 400)], 80, (480, 640))
    visualization.overlay_instances(
        np.zeros((480, 640, 3), np.uint8), masks, [Region("cat", (200, 80, 40)), Region("dog", (40, 80, 200), group=1)]
    )
    assert (len(boxes.tags), boxes.lines) == (2, [])


def test_labels_can_be_left_out(boxes: Drawn) -> None:
    visualization.overlay_instances(GREY, scattered(5, 9), [Region("cell", (200, 80, 40))] * 5, labels=False)
    assert boxes == Drawn()


@pytest.mark.parametrize("name", ["two\nlines", "tab\tbed", "", " ", "\x07bell", "x" * 300])
@pytest.mark.parametrize("count", [1, 3])
def test_odd_names_are_drawn_in_one_line(name: str, count: int) -> None:
    regions = [Region(name, (200, 80, 40), 0.9, index) for index in range(count)]
    drawn = visualization.overlay_instances(GREY, scattered(count, 40), regions)
    assert drawn.size == (320, 240)
    assert isinstance(visualization.contact_sheet([[drawn]], legend=[(name, (1, 2, 3))], title=name), Image.Image)


def test_what_a_reduced_image_has_no_pixel_for_is_counted(boxes: Drawn) -> None:
    masks = scattered(9, 5, (480, 640))
    masks[4:6] = False
    visualization.overlay_instances(np.zeros((480, 640, 3), np.uint8), masks, [Region("cell", (200, 80, 40))] * 9)
    ids = (masks * np.arange(1, 10)[:, None, None]).max(axis=0)
    visualization.overlay_panoptic(
        np.zeros((480, 640, 3), np.uint8), ids, range(1, 10), [Region("cell", (2, 8, 4))] * 9
    )
    assert boxes.lines == [["cell: 9"], ["cell: 9"]]
    visualization.overlay_instances(GREY, np.zeros((2, 240, 320), bool), [Region("cell", (200, 80, 40))] * 2)
    assert len(boxes.lines) == 2  # where nothing is drawn nothing is written


def test_classes_for_whose_names_there_is_no_room_are_in_a_legend(boxes: Drawn) -> None:
    masks = np.concatenate([discs([(200, 200)], 60, (480, 640)), scattered(300, 4, (480, 640))])
    regions = [Region("whale", (200, 80, 40), 0.9, 99)]
    regions += [Region(f"kind {index % 10}", (40, 20 * (index % 10), 90), 0.9, index % 10) for index in range(300)]
    visualization.overlay_instances(np.zeros((480, 640, 3), np.uint8), masks, regions)
    assert len(boxes.tags) == 1  # the whale
    [lines] = boxes.lines
    assert lines[:2] == ["kind 0: 30", "kind 1: 30"]
    assert lines[7] == "others: 90"
    ((left, top, right, bottom),), ((x1, y1, x2, y2),) = boxes.plates, boxes.tags
    assert left >= x2 or right <= x1 or top >= y2 or bottom <= y1


def test_stuff_without_room_for_its_name_is_listed_without_a_number(boxes: Drawn) -> None:
    labels = np.zeros((240, 320), dtype=np.int64)
    labels[:, 100:103] = 1
    regions = [Region(name, (9, 99, 9 + index), None, index, False) for index, name in enumerate(["field", "hedge"])]
    labels[:, 200:202] = 2
    regions.append(Region("ditch", (99, 9, 9), None, 2, False))
    visualization.overlay_semantic(GREY, labels, regions)
    named = len(boxes.tags)
    assert named + sum(map(len, boxes.lines)) == 3
    assert all(":" not in line for lines in boxes.lines for line in lines)


@pytest.mark.parametrize(("side", "least", "most"), [(200, 8, 20), (700, 20, 40), (3000, 60, 110)])
def test_names_grow_with_large_images_which_are_seen_smaller(boxes: Drawn, side: int, least: int, most: int) -> None:
    ids = np.zeros((side, side), dtype=np.int32)
    ids[side // 3 : side // 2, side // 4 : side // 2] = 1
    regions = [Region("field", (9, 99, 9), 0.8, 0, is_thing=False), Region("barn", (99, 9, 9), 0.9, 1)]
    visualization.overlay_panoptic(np.zeros((side, side, 3), np.uint8), ids, [0, 1], regions)
    assert all(least <= bottom - top <= most for _, top, _, bottom in boxes.tags)
    assert len(boxes.tags) == 2


@pytest.mark.parametrize("side", [60, 120, 200, 320, 640])
def test_a_legend_hides_at_most_a_twelfth_and_names_a_class(boxes: Drawn, side: int) -> None:
    masks = scattered(12, side // 64 or 1, (side, side))
    regions = [Region(f"class {index}", (40, 20 * index, 90), 0.9, index) for index in range(12)]
    visualization.overlay_instances(np.zeros((side, side, 3), np.uint8), masks, regions)
    for (left, top, right, bottom), lines in zip(boxes.plates, boxes.lines, strict=True):
        assert (right - left) * (bottom - top) <= side * side / 12
        assert lines[0].startswith("class ")
    assert bool(boxes.plates) == (side >= 200)
