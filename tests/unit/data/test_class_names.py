"""Names files in every form; ambiguous ones are in tests/silence/test_labels.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from mask2former.data.datasets.class_names import read_names
from mask2former.errors import UserError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("n.txt", "road\ncar\nsky\n"),
        ("n.json", '["road", "car", "sky"]'),
        ("n.json", '{"0": "road", "1": "car", "2": "sky"}'),
        ("n.json", '[{"id": 0, "name": "road"}, {"id": 1, "name": "car"}, {"id": 2, "name": "sky"}]'),
        ("n.yaml", "0: road\n1: car\n2: sky\n"),
        ("n.yaml", "names: [road, car, sky]\n"),
        ("n.csv", "0,road\n1,car\n2,sky\n"),
        ("n.csv", "color,Name,ID\nred,road,0\nblue,car,1\ngrey,sky,2\n"),
    ],
)
def test_names_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    categories = read_names(tmp_path / name)
    assert [(item.id, item.name, item.is_thing) for item in categories] == [
        (0, "road", False),
        (1, "car", False),
        (2, "sky", False),
    ]
    assert categories.ignore_label == 255


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("n.txt", "", "at least one category"),
        ("n.txt", "road\n\ncar\n", "not a name"),
        ("n.json", "{", "not a list of class names"),
        ("n.json", '{"zero": "road"}', "zero"),
        ("n.json", '{"0": "road", "1": "road"}', "names must be unique"),
        ("n.json", '[{"id": 4, "name": "a"}, {"id": 4, "name": "b"}]', "more than once"),
        ("n.json", "3", "it contains int"),
        ("n.yaml", "a: [", "not valid YAML"),
        ("n.csv", "number,label\n0,road\n", "'id' and 'name'"),
        ("n.csv", "0,road\n1\n", "too few columns"),
        ("n.json", '{"-1": "road"}', "0 to 65535"),
    ],
)
def test_broken_names_files_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_names(tmp_path / name)
    assert name in str(error.value)


@pytest.mark.parametrize("text", ["- no\n- yes\n", "0: no\n"])
def test_names_that_yaml_takes_for_truth_values_are_asked_for_in_quotes(tmp_path: Path, text: str) -> None:
    (tmp_path / "names.yaml").write_text(text)
    with pytest.raises(UserError, match="put such names in quotes"):
        read_names(tmp_path / "names.yaml")
