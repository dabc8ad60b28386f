"""Readers of the published data sets, with miniatures of their official layouts."""

from __future__ import annotations

import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import LAYOUTS, SPLITS, Drawn, H, W, pack
from PIL import Image
from torch.utils.data import DataLoader

from mask2former.config import DataConfig, DatasetConfig, Task, parse
from mask2former.data.annotated import AnnotatedSet
from mask2former.data.build import build_images, build_training_set
from mask2former.data.loading.sampling import Draw
from mask2former.dataset_tools.prepare import prepare
from mask2former.errors import UserError
from mask2former.media.folders import data_root
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.structures import Categories
from mask2former.structures.ground_truth import CityscapesGroundTruth, InstanceGroundTruth, PanopticGroundTruth

TASKS: dict[str, tuple[Task, ...]] = {
    "coco": ("panoptic", "instance", "semantic"),
    "coco-stuff-10k": ("semantic",),
    "ade20k": ("panoptic", "instance", "semantic"),
    "ade20k-full": ("semantic",),
    "cityscapes": ("panoptic", "instance", "semantic"),
    "mapillary-vistas": ("panoptic", "semantic"),
}
CASES = [(name, task) for name, tasks in TASKS.items() for task in tasks]
TABLES = {
    "coco": "coco_panoptic",
    "coco-stuff-10k": "coco_stuff_10k_171",
    "ade20k": "ade20k_150",
    "ade20k-full": "ade20k_full_847",
    "cityscapes": "cityscapes",
    "mapillary-vistas": "mapillary_vistas_v1.2",
}


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, list[Drawn]]]:
    """A function that returns the root of a miniature data set, prepared if needed, and what was drawn."""
    made: dict[str, tuple[Path, list[Drawn]]] = {}

    def make(name: str) -> tuple[Path, list[Drawn]]:
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            drawn = LAYOUTS[name](root)
            if name == "ade20k":
                prepare(name, root)
            made[name] = root, drawn
        return made[name]

    return make


def config_of(name: str, task: Task, root: Path | None) -> DatasetConfig:
    values: dict[str, Any] = {"name": name, "root": None if root is None else str(root)}
    if len(TASKS[name]) > 1:
        values["task"] = task
    return parse(DataConfig, {"dataset": values}, "test").dataset


def images_of(samples: AnnotatedSet, drawn: list[Drawn], split: str) -> list[Drawn]:
    """The drawn images of a split, in the order of the data set."""
    by_number = {image.name[-6:]: image for image in drawn if image.split == split}
    return [by_number[str(samples[index].name).split(".")[0].replace("_leftImg8bit", "")[-6:]] for index in range(2)]


def check(samples: AnnotatedSet, drawn: list[Drawn], split: str, name: str, task: Task) -> None:
    table = Categories.load(TABLES[name])
    indices = table.index_of_id()
    own = [indices[item.id] for item in samples.categories]  # in the whole table
    assert len(samples) == 2
    for index, image in enumerate(images_of(samples, drawn, split)):
        masks, classes, crowds = image.masks(), np.array(image.classes), np.array(image.crowds)
        is_thing = np.array([table[label].is_thing for label in image.classes])
        sample = samples[index]
        assert sample.target is not None
        got = sample.target.masks[:, 0].numpy(), np.array(own)[sample.target.labels.numpy()]
        if task == "semantic":
            present = sorted(set(classes.tolist()))
            expected = [masks[classes == label].any(axis=0) for label in present], present
        else:
            kept = np.flatnonzero(~crowds & (is_thing | (task == "panoptic")))
            expected = masks[kept], classes[kept]
        # The order of segments is that of the file, which a preparation may choose.
        assert sorted(got[1].tolist()) == sorted(list(expected[1]))
        key = {(label, mask.tobytes()) for label, mask in zip(got[1].tolist(), got[0], strict=True)}
        assert key == {(int(k), np.asarray(m).tobytes()) for m, k in zip(expected[0], expected[1], strict=True)}
        assert abs(samples.image(index).astype(int) - image.image).mean() < 40  # JPEG

        ground_truths = samples.ground_truths(index, samples.tasks)
        assert set(ground_truths) == set(samples.tasks)
        for kind, ground_truth in ground_truths.items():
            if name == "cityscapes" and kind != "panoptic":
                assert isinstance(ground_truth, CityscapesGroundTruth)
                ids = ground_truth.instance_ids
                assert set(np.unique(np.where(ids < 1000, ids, ids // 1000))) - {1, 4} == {table[k].id for k in classes}
            elif kind == "semantic":
                assert isinstance(ground_truth, np.ndarray)
                np.testing.assert_array_equal(ground_truth, image.labels(table.ignore_label))
            elif kind == "panoptic":
                assert isinstance(ground_truth, PanopticGroundTruth)
                found = {((ground_truth.ids == n).tobytes(), k, crowd) for n, k, crowd in ground_truth.segments}
                assert found == {(m.tobytes(), int(k), bool(c)) for m, k, c in zip(masks, classes, crowds, strict=True)}
                np.testing.assert_array_equal(ground_truth.ids == 0, image.ids == 0)
            else:
                assert isinstance(ground_truth, InstanceGroundTruth)
                found = {
                    (m.tobytes(), own[k], bool(c))
                    for m, k, c in zip(
                        SparseMasks.of(ground_truth.masks).dense(),
                        ground_truth.labels,
                        ground_truth.iscrowd,
                        strict=True,
                    )
                }
                things = zip(masks[is_thing], classes[is_thing], crowds[is_thing], strict=True)
                assert found == {(m.tobytes(), int(k), bool(c)) for m, k, c in things}
                if name == "coco":  # as its instance file says
                    assert ground_truth.areas is not None
                    assert sorted(ground_truth.areas) == sorted(
                        SparseMasks.of(ground_truth.masks).dense().sum(axis=(1, 2)) + 0.5
                    )


@pytest.mark.parametrize(("name", "task"), CASES)
@pytest.mark.parametrize("split", SPLITS)
def test_what_is_read_is_what_was_drawn(name: str, task: Task, split: Any, layout: Any) -> None:
    root, drawn = layout(name)
    config = config_of(name, task, root)
    samples = build_images(config, split)
    assert samples.metric_style == ("cityscapes" if name == "cityscapes" else "coco")
    assert samples.wide().tolist() == [True, True]
    assert list(samples.notes) == []
    check(samples, drawn, split, name, task)
    if samples.num_objects is not None:
        found = [samples[index].target for index in range(2)]
        assert samples.num_objects.tolist() == [len(target.labels) for target in found if target is not None]


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file."""
    found = ((str(path), path.stat()) for path in folder.rglob("*") if path.is_file())
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in found}


@pytest.mark.parametrize("name", ["coco", "ade20k", "cityscapes", "mapillary-vistas"])
def test_downloads_are_read_as_they_are(
    name: str, layout: Any, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zip archives are read directly, also in worker processes that inherit or receive an open data set.

    Nothing is unpacked: no file is written beside them or among the temporary ones.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(temporary := tmp_path_factory.mktemp("temporary")))
    _, drawn = layout(name)
    shutil.copytree(layout(name)[0], tmp_path, dirs_exist_ok=True)
    pack(tmp_path, name)
    before = files_of(tmp_path)
    assert {Path(file).suffix for file in before} == {".zip"}
    for task in TASKS[name]:
        samples = build_images(config_of(name, task, tmp_path), "validation")
        check(samples, drawn, "validation", name, task)
        check(pickle.loads(pickle.dumps(samples)), drawn, "validation", name, task)
    training = build_training_set(DataConfig(dataset=config_of(name, TASKS[name][0], tmp_path)))
    draws = [Draw(index % 2, index) for index in range(8)]
    alone = [training[draw] for draw in draws]
    loader: Any = DataLoader(training, sampler=draws, batch_size=None, num_workers=2, collate_fn=lambda sample: sample)  # type: ignore[arg-type]
    for one, other in zip(alone, loader, strict=True):
        assert (one.image == other.image).all()
        assert (one.target.masks == other.target.masks).all()  # type: ignore[union-attr]
    assert files_of(tmp_path) == before
    assert not files_of(temporary)


def test_the_root_is_the_setting_or_what_the_environment_names(
    layout: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root, _ = layout("cityscapes")
    monkeypatch.delenv("MASK2FORMER_DATA", raising=False)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    assert data_root(None) == Path("datasets")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    assert len(build_images(config_of("cityscapes", "panoptic", None), "train")) == 2
    monkeypatch.setenv("MASK2FORMER_DATA", str(tmp_path))
    with pytest.raises(UserError, match=r"Cityscapes: there is no folder .*leftImg8bit/train.* --data-root"):
        build_images(config_of("cityscapes", "panoptic", None), "train")
    assert len(build_images(config_of("cityscapes", "panoptic", root), "train")) == 2


def test_ade20k_label_maps_need_no_preparation(tmp_path: Path) -> None:
    drawn = LAYOUTS["ade20k"](tmp_path)
    samples = build_images(config_of("ade20k", "semantic", tmp_path), "train")
    check(samples, drawn, "train", "ade20k", "semantic")
    with pytest.raises(UserError, match="mask2former prepare ade20k"):
        build_images(config_of("ade20k", "panoptic", tmp_path), "train")


def test_things_that_only_the_label_map_of_ade20k_has_are_void_for_panoptic_quality_alone(tmp_path: Path) -> None:
    LAYOUTS["ade20k"](tmp_path)
    for path in (tmp_path / "ADEChallengeData2016" / "annotations_instance").rglob("*.png"):
        with Image.open(path) as image:
            objects = np.array(image)
        objects[20:36, :16] = 0
        Image.fromarray(objects).save(path)
    prepare("ade20k", tmp_path)
    samples = build_images(config_of("ade20k", "panoptic", tmp_path), "validation")
    ground_truths = samples.ground_truths(0, ["panoptic", "semantic"])
    panoptic, semantic = ground_truths["panoptic"], ground_truths["semantic"]
    assert isinstance(panoptic, PanopticGroundTruth)
    assert isinstance(semantic, np.ndarray)
    assert not panoptic.ids[20:36, :16].any()
    assert (semantic[20:36, :16] == Categories.load("ade20k_150").thing_indices[0]).all()


def test_without_its_instance_file_the_things_of_coco_are_the_true_instances(layout: Any, tmp_path: Path) -> None:
    root, _ = layout("coco")
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    (tmp_path / "coco" / "annotations" / "instances_val2017.json").unlink()
    samples = build_images(config_of("coco", "panoptic", tmp_path), "validation")
    assert "instances_val2017.json" in samples.notes[0]
    ground_truth = samples.ground_truths(0, ["instance"])["instance"]
    assert isinstance(ground_truth, InstanceGroundTruth)
    assert ground_truth.areas is None
    assert ground_truth.iscrowd.tolist() == [False, False, True, False]


def test_images_without_targets_can_be_left_out(tmp_path: Path) -> None:
    LAYOUTS["cityscapes"](tmp_path)
    labels = tmp_path / "cityscapes" / "gtFine" / "train" / "aachen" / "aachen_000000_000000_gtFine_instanceIds.png"
    Image.fromarray(np.full((H, W), 7, dtype=np.uint16)).save(labels)
    for task, filter_empty, left in (("instance", False, 2), ("instance", True, 1), ("panoptic", True, 2)):
        config = config_of("cityscapes", task, tmp_path)  # type: ignore[arg-type]
        assert len(build_images(config, "train", filter_empty=filter_empty)) == left


def test_a_missing_label_file_of_cityscapes_is_named(tmp_path: Path) -> None:
    LAYOUTS["cityscapes"](tmp_path)
    missing = tmp_path / "cityscapes" / "gtFine" / "val" / "bochum"
    shutil.rmtree(missing)
    with pytest.raises(UserError, match=r"gtFine/val' lacks Cityscapes files: 1 \(bochum/.*instanceIds.png\)"):
        build_images(config_of("cityscapes", "semantic", tmp_path), "validation")
