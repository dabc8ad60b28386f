"""Class lists: packaged tables, round trips, faults."""

import pytest

from mask2former.errors import UserError
from mask2former.structures import Categories, Category


@pytest.mark.parametrize(
    ("table", "count", "things"),
    [
        ("coco_panoptic", 133, 80),
        ("coco_instance", 80, 80),
        ("cityscapes", 19, 8),
        ("ade20k_150", 150, 100),
        ("mapillary_vistas_v1.2", 65, 37),
    ],
)
def test_packaged_tables(table: str, count: int, things: int) -> None:
    categories = Categories.load(table)
    assert len(categories) == count
    assert len(categories.thing_indices) == things
    assert sorted(categories.thing_indices + categories.stuff_indices) == list(range(count))


def test_an_unknown_table_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="coco_panoptic"):
        Categories.load("coco")


def test_round_trip() -> None:
    categories = Categories.load("cityscapes")
    assert Categories.from_dict(categories.to_dict()) == categories


def test_from_names_marks_things_and_spreads_colors() -> None:
    categories = Categories.from_names(["a", "b", "c"], things=["b"])
    assert categories.thing_indices == (1,)
    assert categories.index_of_id() == {0: 0, 1: 1, 2: 2}
    assert len({item.color for item in categories}) == 3


def test_the_label_of_no_class_is_never_that_of_a_class() -> None:
    assert Categories.from_names([f"{number}" for number in range(255)]).ignore_label == 255
    many = Categories.from_names([f"{number}" for number in range(256)])
    assert many.ignore_label == 65535
    # As 0.1.0 wrote it.
    assert Categories.from_dict(many.to_dict() | {"ignore_label": 255}).ignore_label == 65535
    for wrong in (-1, 65536):
        with pytest.raises(UserError, match=f"the ignore label is {wrong}; expected 0 to 65535"):
            Categories(many.items, wrong)
    with pytest.raises(UserError, match=r"254\.5 is not a whole number"):
        Categories.from_dict(many.to_dict() | {"ignore_label": 254.5})


def test_faults() -> None:
    with pytest.raises(UserError, match="unique"):
        Categories((Category(1, "a", True, (0, 0, 0)), Category(1, "b", True, (0, 0, 0))))
    with pytest.raises(UserError, match="at least one"):
        Categories(())
    for wrong in ({}, {"categories": [{"id": 1}]}, {"categories": 3}, None, {"categories": [{"id": "x", "name": "a"}]}):
        with pytest.raises(UserError, match="class table"):
            Categories.from_dict(wrong)


def test_colours_are_bytes() -> None:
    for color in ([256, 0, 0], [0, -1, 0]):
        with pytest.raises(UserError, match=r"not within 0\.\.255"):
            Categories.from_dict({"categories": [{"id": 1, "name": "a", "color": color}]})
    for color in ("#4c0fd2", "76, 15, 210"):  # the first as Label Studio writes it
        (item,) = Categories.from_dict({"categories": [{"id": 1, "name": "a", "color": color}]})
        assert item.color == (76, 15, 210)
    with pytest.raises(UserError, match="'red' is not a colour"):
        Categories.from_dict({"categories": [{"id": 1, "name": "a", "color": "red"}]})


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"isthing": "0"}, "'isthing' of 'a' is '0'; expected 0 or 1"),
        ({"isthing": None}, "expected 0 or 1"),
        ({"isthing": 2}, "expected 0 or 1"),
        ({"name": None}, "not a valid class name"),
        ({"name": " "}, "not a valid class name"),
        ({"color": [0.2, 0.4, 0.6]}, "in whole numbers"),
        ({"id": 1.5}, "1.5 is not a whole number"),
        ({"id": float("inf")}, "inf is not a whole number"),
    ],
)
def test_entries_that_would_be_bent_are_refused(entry: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Categories.from_dict({"categories": [{"id": 1, "name": "a", **entry}]})
    for thing in (0, 1, True, False):
        (item,) = Categories.from_dict({"categories": [{"id": 1, "name": "a", "isthing": thing}]})
        assert item.is_thing == thing
