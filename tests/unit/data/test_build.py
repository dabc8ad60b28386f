"""From configuration to data sets, and training samples that depend only on their draw."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former.config import CocoInstanceConfig, DataConfig, ScenesConfig, parse
from mask2former.data.build import build_images, build_training_set
from mask2former.data.datasets.scenes import Scenes
from mask2former.data.loading.collate import pack
from mask2former.data.loading.sampling import Draw
from mask2former.errors import UserError
from mask2former.ops.masks import typical_diameter
from mask2former.scenes import SCENE_CATEGORIES
from mask2former.structures import Sample

JITTER = {"name": "large-scale-jitter", "image_size": [64, 64]}
RESIZE = {"name": "resize-crop-flip", "short_edges": [48, 64], "crop_size": [48, 48], "pad_size": [64, 64]}


@pytest.fixture
def coco(tmp_path: Path) -> dict[str, object]:
    """``dataset`` settings with the same two images, one without objects, for training and validation."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    values = {
        "images": [
            {"id": k, "file_name": name, "height": 40, "width": 60} for k, name in enumerate(["a.png", "b.png"])
        ],
        "categories": [{"id": 5, "name": "cell"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 5, "segmentation": [[5, 5, 50, 5, 50, 35, 5, 35]], "iscrowd": 0}
        ],
    }
    (tmp_path / "all.json").write_text(json.dumps(values))
    files = [{"annotations": str(tmp_path / "all.json"), "images": str(tmp_path)}]
    return {"name": "coco-instance", "train": files, "validation": files}


def settings(values: dict[str, object]) -> DataConfig:
    return parse(DataConfig, values, "test")


def equal(first: Sample, second: Sample) -> bool:
    assert first.target is not None
    assert second.target is not None
    return (
        torch.equal(first.image, second.image)
        and torch.equal(first.target.labels, second.target.labels)
        and torch.equal(first.target.masks, second.target.masks)
    )


def test_scenes_are_the_default_and_stay_as_they_are() -> None:
    config = DataConfig(dataset=ScenesConfig(image_size=(32, 48)))
    training = build_training_set(config)
    assert training.categories is SCENE_CATEGORIES
    assert len(training) == 1_000_000
    assert equal(training[Draw(3, 1)], Scenes((32, 48))[3])
    assert equal(training[Draw(3, 1)], training[Draw(3, 2)])


def test_coco_files_by_configuration(coco: dict[str, object]) -> None:
    config = settings({"dataset": coco})
    assert isinstance(config.dataset, CocoInstanceConfig)
    samples = build_images(config.dataset, "train")
    assert (samples.categories.names, len(samples)) == (("cell",), 2)
    assert len(build_images(config.dataset, "validation")) == 2
    assert len(build_training_set(config)) == 2
    assert len(build_training_set(settings({"dataset": coco, "filter_empty": True}))) == 1
    sample = build_training_set(config)[Draw(1, 0)]
    assert equal(sample, build_images(config.dataset, "train")[1])
    assert settings(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize("augmentation", [JITTER, RESIZE], ids=["jitter", "resize"])
@pytest.mark.parametrize("kind", ["coco", "scenes"])
def test_augmented_samples_depend_on_their_draw_only(
    coco: dict[str, object], augmentation: dict[str, object], kind: str
) -> None:
    dataset = coco if kind == "coco" else {"name": "scenes", "image_size": [40, 60]}
    config = settings({"dataset": dataset, "augmentation": augmentation})
    training, again = build_training_set(config), build_training_set(config)
    samples = [training[Draw(1, seed)] for seed in range(6)]
    np.random.default_rng(0).random(3)
    assert all(equal(sample, again[Draw(1, seed)]) for seed, sample in reversed(list(enumerate(samples))))
    assert sum(equal(samples[0], other) for other in samples) < 3
    assert {tuple(sample.image.shape) for sample in samples} == {(1, 3, 64, 64)}
    assert pack([*samples, training[Draw(0, 3)]]).pixels.shape == (7, 1, 3, 64, 64)


@pytest.mark.parametrize("augmentation", [JITTER, RESIZE], ids=["jitter", "resize"])
def test_augmented_images_are_resized_as_the_settings_say(augmentation: dict[str, object]) -> None:
    def images(**changes: object) -> list[Sample]:
        dataset = {"name": "scenes", "image_size": [80, 120]}
        training = build_training_set(settings({"dataset": dataset, "augmentation": augmentation | changes}))
        return [training[Draw(1, seed)] for seed in range(3)]

    plain, same, other = images(), images(resampling="antialiased"), images(resampling="bilinear")
    assert all(equal(one, two) for one, two in zip(plain, same, strict=True))
    assert any(not torch.equal(one.image, two.image) for one, two in zip(plain, other, strict=True))
    masks = [(one.target, two.target) for one, two in zip(plain, other, strict=True)]
    assert all(one is not None and two is not None and torch.equal(one.masks, two.masks) for one, two in masks)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": {"name": "coco-instance"}}, r"train' is missing"),
        ({"dataset": {"name": "coco"}}, r"task' is missing"),
        ({"dataset": {"name": "kitti"}}, r"coco-instance.*cityscapes"),
        ({"augmentation": {"name": "flip"}}, "large-scale-jitter"),
        ({"augmentation": {**JITTER, "min_scale": 3.0}}, "min_scale 3.0"),
        ({"augmentation": {**RESIZE, "short_edges": []}}, "short_edges"),
        ({"augmentation": {**JITTER, "crop": 3}}, r"unknown key .*crop"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings(values)


SCALED = {
    "name": "resize-crop-flip",
    "scale_range": [1, 1],
    "diameter": 16,
    "crop_size": None,
    "pad_size": None,
    "flip": "none",
}


def test_the_diameter_is_that_of_things() -> None:
    dataset = {"name": "scenes", "image_size": [96, 96]}
    training = build_training_set(settings({"dataset": dataset, "augmentation": SCALED}))
    is_thing = torch.tensor([item.is_thing for item in training.categories])
    for index in range(6):
        target = training[Draw(index, 0)].target
        assert target is not None
        areas = target.masks[is_thing[target.labels]].flatten(1).sum(1).numpy()
        assert typical_diameter(areas) == pytest.approx(16, rel=0.1)


def test_label_maps_have_no_diameter(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "names.txt").write_text("sky\n")
    folders = {"images": str(tmp_path), "labels": str(tmp_path), "split": None}
    dataset = {"name": "label-folder", "train": [folders], "validation": [], "names": str(tmp_path / "names.txt")}
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"data\.augmentation\.diameter is that of objects, .* task semantic"):
        build_training_set(settings({"dataset": dataset, "augmentation": SCALED}))


@pytest.mark.parametrize("augmentation", ["large-scale-jitter", "resize-crop-flip"])
def test_real_images_become_batches(augmentation: str) -> None:
    folder = os.environ.get("MASK2FORMER_SHARED")
    if not folder:
        pytest.skip("MASK2FORMER_SHARED does not name the folder of shared data")
    data = Path(folder) / "data"
    mini, nuclei = data / "coco_mini", data / "nuclei"
    for file, images in (
        (mini / "annotations" / "instances_train2017.json", mini / "train2017"),
        (nuclei / "annotations" / "instances_val.json", nuclei / "val"),
    ):
        files = [{"annotations": str(file), "images": str(images)}]
        dataset = {"name": "coco-instance", "train": files, "validation": files}
        training = build_training_set(settings({"dataset": dataset, "augmentation": {"name": augmentation}}))
        for index in range(6):
            sample = training[Draw(index, index)]
            assert sample.target is not None
            if augmentation == "large-scale-jitter":
                assert sample.image.shape == (1, 3, 1024, 1024)
            else:
                assert len(sample.target.labels) == training.samples.num_objects[index]  # type: ignore[attr-defined]
