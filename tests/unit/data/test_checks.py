"""What is found in the splits of a run without reading them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mask2former.data.checks import between_findings, class_findings, split_findings
from mask2former.data.datasets.class_names import read_color_table, read_names
from mask2former.data.datasets.label_folder import LabelFolder
from mask2former.data.datasets.scenes import SceneClips, Scenes
from mask2former.structures import Categories


def test_scenes_of_both_splits_are_found_by_their_seeds() -> None:
    [finding] = between_findings(Scenes(64, 0, 1_000_003), Scenes(128, 1_000_000, 50))
    assert finding.sentence() == ("validation: scenes that are also training data (3): 1000000; 1000001; 1000002")
    assert between_findings(Scenes(64, 0, 10), Scenes(64, 10, 10)) == []
    assert [one.count for one in between_findings(SceneClips(64, 2, 3, 4), SceneClips(64, 2, 0, 100))] == [4]


def test_ignored_colours_are_not_taken_for_missing_classes(tmp_path: Path) -> None:
    """They are in the table of colours only to be ignored, however many pixels they have."""
    (tmp_path / "names.csv").write_text("name,r,g,b\nsky,9,9,9\nroad,1,1,1\nrare,5,5,5\nvoid,0,0,0\n")
    painted = np.zeros((8, 8, 3), dtype=np.uint8)
    painted[:3], painted[3:5] = 9, 1
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        Image.fromarray(painted).save(tmp_path / folder / "a.png")
    samples = LabelFolder(
        [(tmp_path / "images", tmp_path / "labels")],
        Categories(read_names(tmp_path / "names.csv", by_color=True)[:3]),
        ignore=[3],
        colors=read_color_table(tmp_path / "names.csv"),
        unseen_classes="error",
    )
    assert [finding for finding in split_findings(samples, "train") if finding.broken] == []


def test_label_maps_of_ignored_colours_alone_are_broken(tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("name,r,g,b\nsky,9,9,9\nvoid,0,0,0\n")
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / folder / "a.png")
    samples = LabelFolder(
        [(tmp_path / "images", tmp_path / "labels")],
        Categories(read_names(tmp_path / "names.csv", by_color=True)[:1]),
        ignore=[1],
        colors=read_color_table(tmp_path / "names.csv"),
    )
    [finding] = [finding for finding in split_findings(samples, "train") if finding.broken]
    assert "nothing is annotated" in finding.sentence()


def test_classes_that_differ_only_in_spelling_are_noted() -> None:
    [found] = class_findings(Categories.from_names(["T cell", "dirt", "t-cell", "Dirt 2"]), "train")
    assert not found.broken
    assert found.sentence(5).endswith("if they are one class, rename them (1): 'T cell' and 't-cell'")
