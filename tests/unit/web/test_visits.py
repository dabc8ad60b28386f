"""Open images of visitors: one pass through the network, bounded memory, and separation of visitors."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former import Predictor, limits
from mask2former.config import Task
from mask2former.errors import UserError
from mask2former.web.visits import Visits, threshold_of


@pytest.fixture
def visits(predictor: Predictor) -> Visits:
    return Visits({"tiny": predictor})


def test_tasks_and_thresholds_are_read_from_one_pass(
    predictor: Predictor, scene: Path, visits: Visits, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    network = predictor.network
    monkeypatch.setattr(predictor, "network", lambda images: passes.append(len(images)) or network(images))
    visit = visits.open("a", scene, "tiny")
    assert (visit.task, visit.least_score) == ("panoptic", predictor.settings.score_threshold)
    assert passes == [1]
    shown = {}
    for task in ("instance", "panoptic", "semantic"):
        visit.read_as(task)
        assert visit.threshold is None
        assert visit.least_score == threshold_of(predictor, task)
        for threshold in (0.3, 0.9):
            visit.threshold = threshold
            shown[task, threshold] = visit.every_class().rows()
    assert passes == [1]
    for (task, threshold), rows in shown.items():
        assert rows == predictor(str(scene), task, score_threshold=threshold).rows()
    assert len(shown["instance", 0.3]) > len(shown["instance", 0.9])


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_tiles_are_those_of_predict_whatever_the_threshold(task: Task, scene: Path) -> None:
    """Results in tiles equal those of the predictor at any threshold, on which joining panoptic tiles depends."""
    tiled = Predictor.from_pretrained("scenes-tiny", device="cpu", quiet=True, tile=96, short_edge=96)
    visit = Visits({"tiled": tiled}).open("a", scene, "tiled", task)
    own = visit.every_class().rows()
    assert own == tiled(str(scene), task).rows()
    visit.threshold = 0.3
    assert visit.every_class().rows() == tiled(str(scene), task, score_threshold=0.3).rows()
    visit.read_as(task)
    assert visit.every_class().rows() == own


def test_an_image_in_tiles_that_is_gone_is_said_when_it_is_needed_again(tmp_path: Path, scene: Path) -> None:
    tiled = Predictor.from_pretrained("scenes-tiny", device="cpu", quiet=True, tile=64, short_edge=96)
    copy = tmp_path / "copy.png"
    copy.write_bytes(scene.read_bytes())
    visit = Visits({"tiled": tiled}).open("a", copy, "tiled")
    copy.unlink()
    assert visit.every_class().rows()
    visit.threshold = 0.3
    with pytest.raises(UserError, match="no longer available"):
        visit.every_class()


def test_thresholds_of_classes_count_until_one_is_set_for_all(scene: Path) -> None:
    predictor = Predictor.from_pretrained("scenes-tiny", device="cpu", quiet=True)
    name = predictor(str(scene), "instance")[0].name
    strict = Predictor.from_pretrained("scenes-tiny", device="cpu", quiet=True, class_thresholds={name: 1.0})
    visit = Visits({"strict": strict}).open("a", scene, "strict", "instance")
    shown = visit.every_class().rows()
    assert shown == strict(str(scene), "instance").rows()
    assert name not in {row["category_name"] for row in shown}
    assert json.loads(visit.download("json")[1])["settings"]["class_thresholds"] == {name: 1.0}
    visit.threshold = visit.least_score
    assert visit.every_class().rows() == predictor(str(scene), "instance").rows() != shown
    assert json.loads(visit.download("json")[1])["settings"]["class_thresholds"] == {}
    visit.read_as("instance")
    assert visit.every_class().rows() == shown


def test_classes_are_switched_off_in_what_is_shown_and_downloaded(scene: Path, visits: Visits) -> None:
    visit = visits.open("a", scene, "tiny")
    every = visit.every_class()
    label = int(every.labels.flat[0])
    visit.hide([label])
    name = every.categories[label].name
    assert name in {row["category_name"] for row in every.rows()}
    assert name not in {row["category_name"] for row in visit.visible(every).rows()}
    document = json.loads(visit.download("json")[1])
    assert name not in {item["category_name"] for item in document["segments"]}
    assert (document["hidden_classes"], document["model"]) == ([name], "tiny")
    visit.hide([])
    assert visit.visible(every).rows() == every.rows()


@pytest.mark.parametrize("labels", [None, "0", [-1], [10**6], ["sky"], {"labels": 1}])
def test_only_classes_that_exist_are_switched_off(scene: Path, visits: Visits, labels: Any) -> None:
    visit = visits.open("a", scene, "tiny")
    with pytest.raises(UserError, match="expected class indices, 0 to"):
        visit.hide(labels)
    assert visit.hidden == frozenset()


def test_downloads_are_what_is_shown(scene: Path, visits: Visits) -> None:
    visit = visits.open("a", scene, "tiny")
    visit.read_as("instance")
    visit.threshold = 0.2
    name, content = visit.download("png")
    assert name == "scene.png"
    with Image.open(io.BytesIO(content)) as overlay, Image.open(scene) as image:
        assert overlay.width % image.width == overlay.height % image.height == 0  # enlarged by a whole number
    document = json.loads(visit.download("json")[1])
    assert document["settings"]["instance_threshold"] == 0.2
    rows = list(csv.DictReader(io.StringIO(visit.download("csv")[1].decode(), newline="")))
    assert [row["category_name"] for row in rows] == [item["category_name"] for item in document["instances"]]
    assert [int(row["area"]) for row in rows] == [item["area"] for item in document["instances"]]
    with pytest.raises(UserError, match="there is no MP4 for an image"):
        visit.download("mp4")


def test_visitors_are_apart_and_the_idle_ones_are_forgotten(predictor: Predictor, scene: Path) -> None:
    now = [0.0]
    visits = Visits({"tiny": predictor}, most=2, seconds=60, clock=lambda: now[0])
    first, second = visits.open("a", scene, "tiny"), visits.open("b", scene, "tiny")
    first.hide([0])
    assert (visits.get("a"), visits.get("b")) == (first, second)
    assert second.hidden == frozenset()
    visits.get("a")
    third = visits.open("c", scene, "tiny")  # replaces b, who was idle longest
    assert len(visits) == 2
    with pytest.raises(UserError, match="your image is no longer available"):
        visits.get("b")
    now[0] = 50
    assert visits.get("c") is third
    now[0] = 70  # a was last seen at 0
    assert visits.find("a") is None
    assert visits.get("c") is third
    visits.close("c")
    visits.close("c")
    assert len(visits) == 0


def test_a_clip_is_tracked_and_its_files_are_kept_in_memory_alone(
    clip: Path, visits: Visits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    told: list[tuple[int, int | None]] = []
    visit = visits.open("a", clip, "tiny", "panoptic", 0.4, lambda step, done, total: told.append((done, total)))
    assert list(tmp_path.iterdir()) == []
    assert told[-1] == (6, 6)
    assert visit.clip is not None
    assert (visit.task, visit.clip.num_frames, visit.clip.size_hw) == ("panoptic", 6, (96, 128))
    document = json.loads(visit.download("json")[1])
    assert (document["source"], document["model"], len(document["frames"])) == ("clip.mp4", "tiny", 6)
    assert document["settings"]["score_threshold"] == 0.4
    rows = list(csv.DictReader(io.StringIO(visit.download("csv")[1].decode(), newline="")))
    assert len(rows) == sum(len(frame["objects"]) for frame in document["frames"])
    assert visit.download("mp4")[1][4:8] == b"ftyp"
    with pytest.raises(UserError, match="there is no PNG for a clip"):
        visit.download("png")


def test_a_task_that_clips_do_not_have_gives_way(clip: Path, visits: Visits) -> None:
    assert visits.tasks("tiny", is_clip=True) == ("instance", "panoptic")
    assert visits.open("a", clip, "tiny", "semantic").task == "instance"


def test_long_clips_are_refused_in_words(predictor: Predictor, clip: Path) -> None:
    visits = Visits({"tiny": predictor}, clip_frames=5)
    with pytest.raises(UserError, match=r"the clip has too many frames: 6; at most 5 are supported; cut it") as caught:
        visits.open("a", clip, "tiny")
    assert str(clip.parent) not in str(caught.value)


def test_files_that_are_no_images_are_refused_by_their_name(visits: Visits, tmp_path: Path) -> None:
    for name in ("a.png", "a.mp4", "a"):
        (tmp_path / name).write_text("nothing of the kind")
        with pytest.raises(UserError, match=f"'{name}'") as caught:
            visits.open("a", tmp_path / name, "tiny")
        assert str(tmp_path) not in str(caught.value)
    visit = visits.get("a")  # still there, for another model
    for task in ("png", "json"):
        with pytest.raises(UserError, match="no longer available"):
            visit.download(task)


def test_large_images_are_refused_before_they_are_decoded(
    visits: Visits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PAGE_PIXELS", 99)
    Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(tmp_path / "large.png")
    with pytest.raises(UserError, match="the image has too many pixels: 100; at most 99"):
        visits.open("a", tmp_path / "large.png", "tiny")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(UserError, match=r"pixels, the safety limit; make it smaller$"):  # visitors cannot raise it
        visits.open("a", tmp_path / "large.png", "tiny")


def test_an_upload_that_was_removed_meanwhile_is_said(visits: Visits, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="drop it again"):
        visits.open("a", tmp_path / "gone.png", "tiny")


def test_a_model_that_is_not_offered_is_refused(scene: Path, visits: Visits) -> None:
    with pytest.raises(UserError, match="no model '/etc/passwd' here"):
        visits.open("a", scene, "/etc/passwd")
