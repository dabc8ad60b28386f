"""Several data sets that are trained on together: which images and classes, how often, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former.config import DataConfig, MixedConfig, parse
from mask2former.data.build import build_samples, build_split
from mask2former.data.checks import split_findings
from mask2former.data.mixed import Mixed
from mask2former.data.sources import reading_outside
from mask2former.dataset_tools.check import check_dataset
from mask2former.errors import UserError
from mask2former.structures.ground_truth import InstanceGroundTruth


def coco(folder: Path, classes: list[str], count: int) -> dict[str, Any]:
    """Images with one object each, of the last class; image i is filled with the value 10 + i."""
    folder.mkdir()
    for index in range(count):
        Image.new("RGB", (12, 8 + 8 * (index % 2)), (10 + index,) * 3).save(folder / f"{index}.png")
    images = [
        {"id": index, "file_name": f"{index}.png", "width": 12, "height": 8 + 8 * (index % 2)} for index in range(count)
    ]
    box = {"bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0, "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]]}
    annotations = [{"id": index + 1, "image_id": index, "category_id": len(classes), **box} for index in range(count)]
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    path = folder.with_suffix(".json")
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    files = [{"annotations": str(path), "images": str(folder)}]
    return {"name": "coco-instance", "train": files, "validation": []}


def masks(folder: Path, class_name: str, count: int) -> dict[str, Any]:
    for index in range(count):
        for kind, value in (("images", 100 + index), ("masks", 255)):
            path = folder / f"sample{index}" / kind / f"{index}.png"
            path.parent.mkdir(parents=True)
            image = np.zeros((8, 12), np.uint8)
            image[2:5, 2:9] = value
            Image.fromarray(image).save(path)
    return {"name": "mask-files", "train": [{"images": str(folder)}], "validation": [], "class_name": class_name}


def labels(folder: Path, number: int = 1) -> dict[str, Any]:
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(folder / kind / "a.png")
    (folder / "names.txt").write_text("cell\ndebris\n")
    files = [{"images": str(folder / "images"), "labels": str(folder / "labels")}]
    return {"name": "label-folder", "train": files, "validation": files, "names": str(folder / "names.txt")}


def mixed(*parts: dict[str, Any], **values: Any) -> DataConfig:
    return parse(DataConfig, {"dataset": {"name": "mixed", "parts": list(parts)}, **values}, "test")


@pytest.fixture
def both(tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return coco(tmp_path / "coco", ["cell", "debris"], 3), masks(tmp_path / "masks", "debris", 2)


def values_of(samples: Mixed) -> list[int]:
    return [int(samples.image(index).max()) for index in range(len(samples))]


def test_images_of_all_parts_as_often_as_configured(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    samples = build_samples(mixed({"dataset": both[0], "repeat": 2}, {"dataset": both[1]}).dataset, "train")
    assert isinstance(samples, Mixed)
    assert values_of(samples) == [10, 11, 12, 10, 11, 12, 100, 101]
    assert samples.num_objects is not None
    assert samples.num_objects.tolist() == [1] * 8
    assert samples.wide().tolist() == [True, False, True] * 2 + [True] * 2
    assert samples.file(7).name == "1.png"
    assert samples.notes == [
        "8 images: 3 x 2 of part 1 (coco-instance), 2 of part 2 (mask-files)",
        "part 2 (mask-files) does not have the classes 'cell': where its images show them, they are learned as "
        "background or as what its annotations say instead",
    ]


def test_repeating_is_the_same_as_listing_files_twice(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    twice = {**both[0], "train": both[0]["train"] * 2}
    listed = build_samples(mixed({"dataset": twice}, {"dataset": both[1]}).dataset, "train")
    repeated = build_samples(mixed({"dataset": both[0], "repeat": 2}, {"dataset": both[1]}).dataset, "train")
    assert isinstance(listed, Mixed)
    assert isinstance(repeated, Mixed)
    assert values_of(listed) == values_of(repeated)


def test_classes_are_matched_by_name(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    samples = build_samples(mixed({"dataset": both[0]}, {"dataset": both[1]}).dataset, "train")
    assert isinstance(samples, Mixed)
    assert samples.categories.names == ("cell", "debris")
    for index in range(5):  # everything is debris, the second class, which is the only one of part 2
        target = samples[index].target
        assert target is not None
        assert target.labels.tolist() == [1]
        truth = samples.ground_truths(index, ["instance"])["instance"]
        assert isinstance(truth, InstanceGroundTruth)
        assert truth.labels.tolist() == [1]


def test_how_images_are_read_applies_to_all_parts(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    stored = {**both[1], "exif": "ignore"}
    samples = build_samples(mixed({"dataset": both[0]}, {"dataset": stored}).dataset, "train", value_range=(0.0, 500.0))
    assert isinstance(samples, Mixed)
    assert [part.reading for part in samples.parts] == [samples.reading] * 2 == [{"value_range": (0.0, 500.0)}] * 2
    assert [part.exif for part in samples.parts] == ["apply", "ignore"]


def test_validation_images_are_held_back_once_and_from_the_chosen_parts(tmp_path: Path) -> None:
    own, drawn = coco(tmp_path / "own", ["cell"], 40), masks(tmp_path / "drawn", "cell", 10)
    for values in (own, drawn):
        del values["validation"]  # the training files are divided
    data = mixed({"dataset": own, "repeat": 3}, {"dataset": drawn, "held_back": False}, validation={"share": 0.25})
    assert data.is_validated
    training, validation = build_split(data, "train"), build_split(data, "validation")
    assert isinstance(training, Mixed)
    assert isinstance(validation, Mixed)
    held, used = values_of(validation), values_of(training)
    assert 0 < len(held) == len(set(held)) < 40
    assert not set(held) & set(used)
    assert sorted(used) == sorted(3 * [value for value in range(10, 50) if value not in held] + list(range(100, 110)))


def test_own_validation_images_are_those_of_the_parts_that_have_some(
    both: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    assert not mixed({"dataset": both[0]}, {"dataset": both[1]}).is_validated
    data = mixed({"dataset": both[0]}, {"dataset": {**both[1], "validation": both[1]["train"]}, "repeat": 4})
    assert data.is_validated
    samples = build_samples(data.dataset, "validation")
    assert isinstance(samples, Mixed)
    assert values_of(samples) == [100, 101]
    assert samples.names == ("part 2 (mask-files)",)


def test_parts_that_do_not_belong_together_are_refused(
    tmp_path: Path, both: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    semantic = labels(tmp_path / "labels")
    with pytest.raises(UserError, match=r"part 1 \(coco-instance\) is for the tasks instance, part 2 .* semantic"):
        build_samples(mixed({"dataset": both[0]}, {"dataset": semantic}).dataset, "train")
    with pytest.raises(UserError, match=r"part 2 \(coco-instance\) has the classes 'cell', which part 1 .*mask-files"):
        build_samples(mixed({"dataset": both[1]}, {"dataset": both[0]}).dataset, "train")
    missing = {**both[0], "train": [{"annotations": "missing.json", "images": "."}]}
    with pytest.raises(UserError, match=r"part 2 \(coco-instance\): .*missing\.json"):
        build_samples(mixed({"dataset": both[1]}, {"dataset": missing}).dataset, "train")
    with pytest.raises(UserError, match="held_back is false for all"):
        build_split(mixed({"dataset": both[0], "held_back": False}, validation={"share": 0.5}), "train")
    with pytest.raises(UserError, match="parts"):
        mixed()
    with pytest.raises(UserError, match="mixed"):  # no mixtures of mixtures
        mixed({"dataset": {"name": "mixed", "parts": [{"dataset": both[0]}]}})


def test_a_part_may_be_images_without_objects(tmp_path: Path, both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    empty = coco(tmp_path / "empty", ["debris"], 2)
    path = Path(empty["train"][0]["annotations"])
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    found = split_findings(build_samples(mixed({"dataset": both[0]}, {"dataset": empty}).dataset, "train"), "train")
    assert [finding.broken for finding in found] == [False]
    assert found[0].message.startswith("part 2 (coco-instance): nothing is annotated")
    found = split_findings(build_samples(mixed({"dataset": empty}).dataset, "train"), "train")
    assert [finding.broken for finding in found] == [True]


def test_label_maps_of_each_part_are_checked(tmp_path: Path) -> None:
    good, wrong = labels(tmp_path / "good", 1), labels(tmp_path / "wrong", 7)
    data = mixed({"dataset": good}, {"dataset": wrong})
    found = split_findings(build_samples(data.dataset, "train"), "train")
    assert any(
        finding.broken and finding.message.startswith("part 2 (label-folder): numbers on label maps that are not")
        for finding in found
    )
    report = check_dataset(data.dataset)
    assert any("part 1 (label-folder): 'debris' is the only class with pixels" in f.message for f in report.findings)


def test_a_check_counts_each_image_once(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    data = mixed({"dataset": both[0], "repeat": 8}, {"dataset": both[1], "repeat": 2})
    report = check_dataset(data.dataset)
    assert report.splits["train"].num_images == 5
    assert report.splits["train"].objects_of.tolist() == [0, 5]


def test_names_outside_of_folders_are_allowed_where_files_are_named(
    both: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    dataset = reading_outside(mixed({"dataset": both[0]}, {"dataset": both[1]}).dataset, "test")
    assert isinstance(dataset, MixedConfig)
    assert [getattr(part.dataset, "allow_outside", None) for part in dataset.parts] == [True, None]


def with_modality(data: dict[str, Any], *values: Any) -> dict[str, Any]:
    """The same data set, with a value under "modality" for each image."""
    path = Path(data["train"][0]["annotations"])
    content = json.loads(path.read_text())
    for entry, value in zip(content["images"], values, strict=True):
        entry["modality"] = value
    path.write_text(json.dumps(content))
    return data


def test_rare_kinds_of_images_are_selected_and_repeated(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    files = with_modality(both[0], "pink", "grey", "pink")
    rare = {"dataset": files, "select": {"modality": ["pink"]}, "repeat": 2, "held_back": False}
    config = mixed({"dataset": files}, rare, validation={"share": 0.5})
    samples = build_samples(config.dataset, "train")
    assert isinstance(samples, Mixed)
    assert values_of(samples) == [10, 11, 12, 10, 12, 10, 12]
    assert samples.notes[0] == "7 images: 3 of part 1 (coco-instance), 2 x 2 of part 2 (coco-instance)"
    held = build_split(config, "validation")
    assert isinstance(held, Mixed)
    assert set(values_of(held)) < {10, 11, 12}
    assert len(held) == len(set(values_of(held)))


def test_numbers_and_several_keys_select(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    files = with_modality(both[0], 1, 2, 1)
    part = {"dataset": files, "select": {"modality": [1], "height": [8]}}
    assert values_of(build_samples(mixed(part).dataset, "train")) == [10, 12]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ({"site": ["a"]}, r"part 1 \(coco-instance\): .*3 of 3 images have no name or number under 'site'.*modality"),
        ({"modality": ["Pink"]}, r"select: no image has 'Pink' under 'modality'; its values are 'grey', 'pink'"),
        ({"modality": ["grey"], "height": ["8"]}, r"select: none of 3 images has wanted values under all of modality"),
    ],
)
def test_a_selection_without_images_is_refused(
    both: tuple[dict[str, Any], dict[str, Any]], select: dict[str, list[str]], message: str
) -> None:
    files = with_modality(both[0], "pink", "grey", "pink")
    with pytest.raises(UserError, match=message):
        build_samples(mixed({"dataset": files, "select": select}).dataset, "train")


def test_selections_that_cannot_be_are_refused(tmp_path: Path, both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    with pytest.raises(UserError, match=r"select is for data sets .* not for 'mask-files'"):
        mixed({"dataset": both[1], "select": {"modality": ["pink"]}})
    with pytest.raises(UserError, match="no value under 'modality'; expected a list of values"):
        mixed({"dataset": both[0], "select": {"modality": []}})
    first = with_modality(both[0], "pink", "grey", "pink")
    second = with_modality(coco(tmp_path / "second", ["cell", "debris"], 3), "pink", "pink", "pink")
    together = {**first, "train": [*first["train"], *second["train"]]}
    with pytest.raises(UserError, match=r"select: 1 images \(ids 1\) have another value .* make a part of each"):
        build_samples(mixed({"dataset": together, "select": {"modality": ["pink"]}}).dataset, "train")
