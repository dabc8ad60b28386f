"""Data that is split for validation: by name, equally everywhere, and with groups kept together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mask2former.config import DataConfig, ValidationSplitConfig, parse
from mask2former.data.build import build_split, build_training_set
from mask2former.data.datasets.mask_folders import MaskFolders
from mask2former.data.parts import is_held_back, part_of
from mask2former.errors import UserError

names = st.text("aZ09 ._-/\\é語🐈\0", min_size=1, max_size=20)  # all of Unicode takes seconds to tabulate


@given(st.lists(names, max_size=8), st.integers(2, 9), st.integers(0, 2**31))
def test_every_name_is_in_one_fold(found: list[str], folds: int, seed: int) -> None:
    splits = [ValidationSplitConfig(fold=f"{k} of {folds}", seed=seed) for k in range(1, folds + 1)]
    for name in found:
        assert [is_held_back(name, split) for split in splits].count(True) == 1


@given(names, st.floats(0.01, 0.98), st.integers(0, 2**31))
def test_a_larger_share_has_what_a_smaller_one_has(name: str, share: float, seed: int) -> None:
    small, large = (ValidationSplitConfig(share=value, seed=seed) for value in (share, share + 0.01))
    assert is_held_back(name, large) >= is_held_back(name, small)


def test_shares_are_as_large_as_they_say_and_the_same_on_every_machine() -> None:
    split = ValidationSplitConfig(share=0.2)
    held = [is_held_back(f"image {index}", split) for index in range(5000)]
    assert np.mean(held) == pytest.approx(0.2, abs=0.02)
    first = np.flatnonzero(held)[:6].tolist()
    assert first == [1, 5, 12, 18, 19, 21]  # recorded: other numbers would mean another split
    other = [is_held_back(f"image {index}", ValidationSplitConfig(share=0.2, seed=1)) for index in range(5000)]
    assert np.mean(np.array(held) & np.array(other)) == pytest.approx(0.04, abs=0.01)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "set one of share"),
        ({"share": 0.2, "fold": "1 of 2"}, "set one of share"),
        ({"share": 1.0}, "above 0 and below 1"),
        ({"fold": "3 of 2"}, "fold must be k of N"),
        ({"fold": "1 of 1"}, "fold must be k of N"),
        ({"fold": "2/5"}, "text such as 2 of 5"),
        ({"share": 0.5, "groups": "("}, "groups is not a regular expression"),
    ],
)
def test_what_is_no_division(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(DataConfig, {"validation": values}, "test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three slides of each of eight patients, with label maps."""
    rng = np.random.default_rng(0)
    for patient in range(8):
        for slide in range(3):
            for kind, values in (("images", rng.integers(0, 255, (6, 8, 3))), ("labels", rng.integers(0, 2, (6, 8)))):
                path = tmp_path / kind / f"patient{patient}" / f"slide{slide}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values.astype(np.uint8)).save(path)
    (tmp_path / "names.txt").write_text("cell\nrest\n")
    return tmp_path


def data_of(folder: Path, **validation: Any) -> DataConfig:
    files = {"images": str(folder / "images"), "labels": str(folder / "labels")}
    dataset = {"name": "label-folder", "train": [files], "names": str(folder / "names.txt")}
    return parse(DataConfig, {"dataset": dataset, "validation": validation}, "test")


def test_both_parts_are_the_whole_and_groups_are_in_one_of_them(folder: Path) -> None:
    for validation in ({"share": 0.4}, {"share": 0.4, "groups": r"patient\d"}, {"fold": "1 of 2", "groups": r"(\d)/"}):
        data = data_of(folder, **validation)
        training, held = build_training_set(data).samples, build_split(data, "validation")
        ids = [[str(part.image_id(index)) for index in range(len(part))] for part in (training, held)]
        assert sorted(ids[0] + ids[1]) == sorted(f"patient{i}/slide{k}" for i in range(8) for k in range(3))
        if "groups" in validation:
            assert not {name.split("/")[0] for name in ids[0]} & {name.split("/")[0] for name in ids[1]}
        assert (training.annotated(0).image == training.image(0)).all()  # pyright: ignore
        assert np.shape(held.ground_truths(0, ["semantic"])["semantic"]) == (6, 8)  # pyright: ignore
        assert len(training.wide()) == len(training)
        assert training[0].name.startswith("patient")  # pyright: ignore


def test_a_division_does_not_depend_on_the_folder_or_on_other_images(folder: Path) -> None:
    def held(at: Path) -> set[str]:
        part = build_split(data_of(at, share=0.4), "validation")
        return {str(part.image_id(index)) for index in range(len(part))}

    before = held(folder)
    moved = folder.rename(folder.with_name("elsewhere"))
    assert held(moved) == before
    gone = sorted(before)[0]
    for kind in ("images", "labels"):
        (moved / kind / f"{gone}.png").unlink()
    assert held(moved) == before - {gone}


def test_parts_that_would_be_empty_and_names_without_a_group(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"leaves nothing for validation, of 24 images in 1 groups; set another"):
        build_split(data_of(folder, share=1e-9, groups="slide"), "validation")
    with pytest.raises(
        UserError, match=r"groups 'slide0' does not match the names of 16 of 24 images \('patient0/slide1.png'"
    ):
        build_split(data_of(folder, share=0.5, groups="slide0"), "validation")
    with pytest.raises(UserError, match="for drawn scenes set num_validation"):
        build_split(parse(DataConfig, {"validation": {"share": 0.5}}, "test"), "train")


def test_clips_are_divided_too(tmp_path: Path) -> None:
    for clip in range(6):
        for kind in ("images", "masks"):
            path = tmp_path / kind / f"clip{clip}" / "0.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(np.full((4, 6), clip + 1, dtype=np.uint8)).save(path)
    whole = MaskFolders(str(tmp_path / "images"), str(tmp_path / "masks"), None)
    parts = [part_of(whole, ValidationSplitConfig(share=0.5, seed=2), split) for split in ("train", "validation")]  # pyright: ignore
    assert sorted(str(part.image_id(index)) for part in parts for index in range(len(part))) == [
        f"clip{index}" for index in range(6)
    ]
    for part in parts:
        assert part.annotated(0, [0]).frames[0].image[0, 0, 0] == int(str(part.image_id(0))[-1]) + 1  # pyright: ignore
        assert part[0].image.shape == (1, 3, 4, 6)
