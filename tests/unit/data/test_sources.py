"""Which data a source stands for."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from mask2former.config import DataConfig, SceneClipsConfig, ScenesConfig, parse
from mask2former.config.data import YouTubeVISConfig
from mask2former.data.sources import DataSource, dataset_by_name
from mask2former.errors import OptionError, UserError


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (DataSource(annotations="a.json"), "annotations FILE.json and images DIR belong together"),
        (DataSource("scenes", segments="s"), "segments is the folder of PNGs of an annotation file"),
        (DataSource(by="place"), "by is a key of images; give annotations FILE.json with it"),
        (DataSource("coco", annotations="a.json", images="a"), "data and annotations name different data"),
        (DataSource(root="x", annotations="a.json", images="a"), "root and annotations name different data"),
        (DataSource(annotations="a.json", images="a", size=64), "size applies to scenes, not to a.json"),
        (DataSource("run.yaml", root="x"), "root applies to published data sets given by name"),
    ],
)
def test_what_does_not_go_together_is_refused(source: DataSource, message: str) -> None:
    with pytest.raises(OptionError, match=f"^{message}"):
        source.open(lambda: "panoptic")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("youtube-vis", "expected youtube-vis:2019 or youtube-vis:2021"),
        (
            "scene",
            "youtube-vis:YEAR or a run file .*; evaluate and analyze also draw scenes and scene-clips",
        ),
    ],
)
def test_the_names_of_data_sets_are_listed(name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"there is no .*data set '{name}'; .*{message}"):
        DataSource(name).open(lambda: "panoptic")


def test_clips_are_named_like_images_for_check_data_too() -> None:
    config = dataset_by_name("youtube-vis:2021", None, lambda: "panoptic")
    assert isinstance(config, YouTubeVISConfig)
    assert config.year == 2021


def test_swapped_paths_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "valid.json").write_text("{}")
    (tmp_path / "frames" / "a").mkdir(parents=True)
    swapped = DataSource(annotations=tmp_path / "frames", images=tmp_path / "valid.json")
    with pytest.raises(OptionError, match=r"^images is the file '.*valid\.json' and annotations the folder .*swapped"):
        swapped.open(lambda: "instance")


def test_the_default_task_is_asked_for_where_it_matters() -> None:
    def unasked() -> str:
        raise AssertionError

    for name in ("scenes", "ade20k-full", "coco:instance"):
        with contextlib.suppress(UserError):  # there are no files
            DataSource(name, root="nowhere").open(unasked)  # pyright: ignore[reportArgumentType]
    with pytest.raises(AssertionError):
        DataSource("coco").open(unasked)  # pyright: ignore[reportArgumentType]


def test_scenes_are_drawn_as_requested() -> None:
    opened = DataSource(seed=5, size=64, limit=3).open(lambda: "panoptic")
    assert (len(opened.samples), opened.record, opened.as_drawn) == (3, {"data": "scenes", "seed": 5, "size": 64}, True)
    clips = DataSource("scene-clips", seed=5, size=64, limit=2).open(lambda: "panoptic")
    assert (len(clips.samples), clips.record) == (2, {"data": "scene-clips", "seed": 5, "size": 64})


def test_what_data_are_can_be_written_as_json() -> None:
    for config in (ScenesConfig(num_validation=1), SceneClipsConfig(num_validation=1)):
        record = DataSource(config).open(lambda: "panoptic").record
        assert json.loads(json.dumps(record))["data"]["name"] == config.name


def test_files_that_a_configuration_or_run_file_names_are_inputs(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    entry = {"annotations": str(tmp_path / "a.json"), "images": str(tmp_path)}
    values = {"name": "coco-instance", "train": [entry], "validation": []}
    config = parse(DataConfig, {"dataset": values}, "test").dataset
    assert DataSource(config).files() == [str(tmp_path / "a.json")]
    run = tmp_path / "run.yaml"
    run.write_text(json.dumps({"data": {"dataset": values}}))
    assert DataSource(str(run)).files() == [str(run), str(tmp_path / "a.json")]
    run.write_text("{")  # it is opened later
    assert DataSource(str(run)).files() == [str(run)]
