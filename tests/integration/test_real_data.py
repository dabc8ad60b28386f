"""A few real images of each published data set, which are outside the repository."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import config_of, table

from mask2former.config import DataConfig, DatasetConfig, parse
from mask2former.data.build import build_images, build_training_set
from mask2former.data.label_maps import read_id_colors, read_label_map
from mask2former.data.loading.sampling import Draw
from mask2former.structures.ground_truth import CityscapesGroundTruth, InstanceGroundTruth, PanopticGroundTruth

pytestmark = pytest.mark.skipif(
    "MASK2FORMER_SHARED" not in os.environ, reason="MASK2FORMER_SHARED names no folder of shared data"
)

KINDS = {  # number of images in training and validation
    "coco-panoptic": (3, 3),
    "coco-instance": (16, 29),
    "coco-semantic": (3, 3),
    "ade20k-panoptic": (3, 3),
    "ade20k-instance": (3, 3),
    "ade20k-semantic": (3, 3),
    "cityscapes-panoptic": (1, 1),
    "cityscapes-instance": (1, 1),
    "cityscapes-semantic": (1, 1),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Official layouts made of links to the sample data; a missing split is replaced by the other one."""
    data = Path(os.environ["MASK2FORMER_SHARED"]) / "data"
    coco, streets = tmp_path / "coco", tmp_path / "cityscapes"
    (coco / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (coco / f"{split}2017").mkdir()
        for source in (data / "coco_mini" / "val2017", data / "coco_mini" / f"{split}2017"):
            for file in source.iterdir():
                link = coco / f"{split}2017" / file.name
                if not link.exists():
                    link.symlink_to(file)
        (coco / f"panoptic_{split}2017").symlink_to(data / "coco_mini" / "panoptic_val2017")
        annotations = data / "coco_mini" / "annotations"
        (coco / "annotations" / f"panoptic_{split}2017.json").symlink_to(annotations / "panoptic_val2017.json")
        (coco / "annotations" / f"instances_{split}2017.json").symlink_to(annotations / f"instances_{split}2017.json")
        for kind in ("leftImg8bit", "gtFine"):
            (streets / kind).mkdir(parents=True, exist_ok=True)
            (streets / kind / split).symlink_to(data / "cityscapes_mini" / kind / "val")
    (tmp_path / "ADEChallengeData2016").symlink_to(data / "ade_mini" / "ADEChallengeData2016")
    return tmp_path


def dataset_of(kind: str, root: Path) -> dict[str, Any]:
    name, task = kind.split("-")
    base = root / "ADEChallengeData2016"
    if kind == "ade20k-panoptic":  # derived files, not in the official layout
        files = {"annotations": base / "panoptic_training.json", "segments": base / "panoptic_training"}
        files = [{key: str(path) for key, path in {**files, "images": base / "images" / "training"}.items()}]
        return {"name": "coco-panoptic", "train": files, "validation": files}
    if kind == "ade20k-instance":
        files = [{"annotations": str(base / "instance_training.json"), "images": str(base / "images" / "training")}]
        return {"name": "coco-instance", "train": files, "validation": files}
    return {"name": name, "task": task, "root": str(root)}


def config_for(kind: str, root: Path) -> DatasetConfig:
    return parse(DataConfig, {"dataset": dataset_of(kind, root)}, "test").dataset


@pytest.mark.parametrize("kind", KINDS)
def test_real_images_and_their_ground_truths_are_read(kind: str, root: Path) -> None:
    for split, expected in zip(("train", "validation"), KINDS[kind], strict=True):
        samples = build_images(config_for(kind, root), split)  # type: ignore[arg-type]
        assert len(samples) == expected
        assert len(samples.wide()) == expected
        for index in range(expected):
            sample = samples[index]
            assert sample.target is not None
            assert len(sample.target.labels)
            assert (sample.target.labels < len(samples.categories)).all()
            assert sample.target.masks.any()
            size = tuple(sample.image.shape[2:])
            for ground_truth in samples.ground_truths(index, samples.tasks).values():
                shape = (
                    ground_truth.masks.shape[1:]
                    if isinstance(ground_truth, InstanceGroundTruth)
                    else np.shape(_map(ground_truth))
                )
                assert shape == size


def _map(ground_truth: Any) -> np.ndarray:
    if isinstance(ground_truth, PanopticGroundTruth):
        return ground_truth.ids
    return ground_truth.instance_ids if isinstance(ground_truth, CityscapesGroundTruth) else ground_truth


def test_cityscapes_agrees_with_the_files_that_its_own_tools_made(root: Path) -> None:
    samples = build_images(config_for("cityscapes-panoptic", root), "validation")
    base = Path(os.environ["MASK2FORMER_SHARED"]) / "data" / "cityscapes_mini" / "gtFine"
    name = "frankfurt_000000_000294"
    ground_truth = samples.ground_truths(0, ["panoptic"])["panoptic"]
    assert isinstance(ground_truth, PanopticGroundTruth)
    official = read_id_colors(base / "cityscapes_panoptic_val" / f"{name}_gtFine_panoptic.png")
    assert len(ground_truth.segments) == len(np.unique(official)) - 1
    pairs = {tuple(pair) for pair in np.stack([ground_truth.ids, official], axis=-1).reshape(-1, 2).tolist()}
    assert len(pairs) == len(ground_truth.segments) + 1  # one to one, void with void
    labels = read_label_map(base / "val" / "frankfurt" / f"{name}_gtFine_labelIds.png")
    by_class = np.array([0] + [samples.categories[label].id for _, label, _ in ground_truth.segments])[ground_truth.ids]
    np.testing.assert_array_equal(
        by_class, np.where(np.isin(labels, list(samples.categories.index_of_id())), labels, 0)
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Lightning gives advice as warnings
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("augmentation", ["large-scale-jitter", "resize-crop-flip"])
def test_ten_steps_of_every_task(kind: str, augmentation: str, root: Path, tmp_path: Path) -> None:
    from mask2former.training.run import train

    task = kind.split("-")[1]
    values: dict[str, Any] = {"name": augmentation}
    if augmentation == "large-scale-jitter":
        values["image_size"] = [128, 128]
    else:
        values |= {"short_edges": [96, 128, 160], "crop_size": [96, 128], "pad_size": [128, 128]}
    monitor = {"panoptic": "PQ", "instance": "AP", "semantic": "mIoU"}[task]
    if kind.startswith("cityscapes") and task == "semantic":
        monitor = "IoU"
    config = config_of(
        tmp_path / "run",
        data={
            "dataset": dataset_of(kind, root),
            "augmentation": values,
            "batch_size": 2,
            "num_workers": 0,
        },
        model__inference={"tasks": [task], "short_edge": 0},
        trainer={"max_steps": 10, "accelerator": "cpu", "log_interval": 1, "checkpoint_interval": 10},
        evaluation={"interval": 10, "tasks": [task], "monitor": f"{task}/{monitor}", "num_images": 1},
    )
    result = train(config)
    assert result.model.is_file()
    losses = [float(row["loss"]) for row in table(tmp_path / "run") if row.get("loss")]
    assert len(losses) == 10
    assert np.isfinite(losses).all()
    training = build_training_set(config.data)
    assert training[Draw(0, 1)].image.shape == (1, 3, 128, 128)
