"""The evaluation loop and its command."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask2former.cli import main
from mask2former.config import EvaluationConfig, Task
from mask2former.data.datasets.coco import CocoInstances
from mask2former.data.datasets.scenes import Scenes
from mask2former.errors import UserError
from mask2former.evaluation.cases import Case, Cases, match_classes
from mask2former.evaluation.evaluate import evaluate_predictor, predict_case
from mask2former.evaluation.scores import Evaluation
from mask2former.inference.predictor import Predictor
from mask2former.ops import masks as mask_ops
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.postprocessing import segmentation
from mask2former.results_io.coco import ResultsFile
from mask2former.scenes import SCENE_CATEGORIES
from mask2former.structures import Categories, Instances, Segmentation
from mask2former.structures.ground_truth import InstanceGroundTruth

TASKS: tuple[Task, ...] = ("panoptic", "instance", "semantic")


@pytest.fixture
def predictor(tiny_file: Path) -> Predictor:
    return Predictor.from_pretrained(tiny_file, device="cpu")


def _official(contents: dict[str, Any], results: Path) -> dict[str, float]:
    """The metrics that the official tool computes from a results file."""
    ground_truth = COCO()
    ground_truth.dataset = {"info": {}, **contents}  # pyright: ignore[reportAttributeAccessIssue]
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth.createIndex()
        tool = COCOeval(ground_truth, ground_truth.loadRes(str(results)), "segm")
        tool.evaluate()
        tool.accumulate()
        tool.summarize()
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    return {name: 100 * v if v != -1 else math.nan for name, v in zip(names, tool.stats, strict=True)}


def _identity() -> np.ndarray:
    return match_classes(SCENE_CATEGORIES, SCENE_CATEGORIES)


def test_a_predictor_at_the_size_of_the_samples_measures_what_the_model_does(predictor: Predictor) -> None:
    samples = Scenes((64, 80), seed=5, length=3)
    metrics = EvaluationConfig(boundary=True, pooled_threshold=0.1)
    seen: list[int] = []
    report = evaluate_predictor(
        predictor,
        Cases(samples, TASKS, predictor.categories, _identity()),
        TASKS,
        metrics,
        progress=seen.append,
        short_edge=0,
    )
    by_hand = Evaluation(TASKS, predictor.categories, metrics)
    with torch.inference_mode():
        for index in range(len(samples)):
            output = predictor.model.prepare_for_inference()([samples[index].image], aux_outputs=False)
            [prediction] = output.predictions([(64, 80)])
            found: dict[Task, Segmentation] = {
                task: segmentation(prediction, (64, 80), predictor.categories, predictor.settings, task)
                for task in TASKS
            }
            by_hand.add(found, samples.ground_truths(index, TASKS))
    assert report.metrics == pytest.approx(by_hand.compute(), nan_ok=True)
    assert {"instance/boundary_AP", "instance/pooled_AP", "panoptic/PQ", "semantic/mIoU"} <= report.metrics.keys()
    assert (seen, report.num_images) == ([1, 2, 3], 3)
    assert set(report.per_class) == set(TASKS)
    json.dumps(report.to_dict(), allow_nan=False)


def test_metrics_count_all_candidates_and_observers_see_what_a_user_gets(predictor: Predictor) -> None:
    samples = Scenes((64, 80), seed=5, length=2)

    def measured(threshold: float) -> tuple[dict[str, float], list[float]]:
        shown: list[float] = []
        changed = copy.copy(predictor)
        changed.settings = predictor.settings.model_copy(update={"instance_threshold": threshold})
        report = evaluate_predictor(
            changed,
            Cases(samples, TASKS, predictor.categories, _identity()),
            TASKS,
            observe=lambda case, predictions: shown.extend(predictions["instance"].scores.tolist()),  # pyright: ignore
        )
        return report.metrics, shown

    (metrics, everything), (same, shown) = measured(0.0), measured(0.06)
    assert same == pytest.approx(metrics, nan_ok=True)
    assert shown == [score for score in everything if score >= 0.06]
    assert 0 < len(shown) < len(everything)


def test_parts_of_an_evaluation_add_up(predictor: Predictor) -> None:
    parts = [Evaluation(TASKS, SCENE_CATEGORIES) for _ in range(3)]
    cases = list(Cases(Scenes((64, 64), seed=1, length=2), TASKS, SCENE_CATEGORIES, _identity()))
    for case, part in zip(cases, parts, strict=False):
        predictions = predict_case(predictor, case, TASKS)
        part.add(predictions, case.ground_truths)
        parts[2].add(predictions, case.ground_truths)
    parts[0].merge(parts[1])
    assert parts[0].compute() == pytest.approx(parts[2].compute(), nan_ok=True)


def test_images_are_resized_for_the_model_and_measured_at_their_own_size(predictor: Predictor) -> None:
    """Predictions used as ground truth have an AP of 100, although the network sees the image at another size."""
    sample = Scenes((150, 200), seed=3, length=1)[0]
    image = np.ascontiguousarray(sample.image[0].permute(1, 2, 0).numpy())
    prediction = predictor(image, "instance")
    filled = prediction.masks.any(axis=(1, 2))
    assert filled.any()
    ground_truth = InstanceGroundTruth(
        prediction.masks[filled], prediction.labels[filled], np.zeros(filled.sum(), dtype=bool)
    )
    report = evaluate_predictor(predictor, [Case(image, {"instance": ground_truth}, 1)], ["instance"])
    assert report.metrics["instance/AP"] == pytest.approx(100.0)


def test_the_results_file_scores_the_same_with_the_official_tool(predictor: Predictor, tmp_path: Path) -> None:
    ids = {index: 7 * index + 3 for index in range(len(SCENE_CATEGORIES))}  # ids that are not indices
    samples = Scenes((128, 128), seed=11, length=4)
    cases = list(Cases(samples, ["instance"], SCENE_CATEGORIES, _identity()))
    # Moved ground truths are mediocre predictions; scores fall.
    path = tmp_path / "new" / "results.json"
    evaluation = Evaluation(["instance"], SCENE_CATEGORIES)
    annotations = []
    with ResultsFile(path, ids) as results:
        for number, case in enumerate(cases, start=1):
            ground_truth = case.ground_truths["instance"]
            true = SparseMasks.of(ground_truth.masks)
            masks = np.roll(true.dense(), (0, 1, 2)[number % 3], axis=2)
            scores = np.linspace(0.9, 0.3, len(masks)) - number / 100
            empty = np.concatenate([masks, np.zeros_like(masks[:1])])
            boxes = mask_ops.boxes_xyxy(empty)
            labels = np.append(ground_truth.labels, 0)
            instances = Instances(empty, labels, np.append(scores, 0.0), boxes, SCENE_CATEGORIES)
            evaluation.add({"instance": instances}, case.ground_truths)
            results.add(number, instances)
            for rle, label, area in zip(true.encode(), ground_truth.labels, true.areas, strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": ids[int(label)],
                        "segmentation": rle,
                        "area": int(area),
                        "iscrowd": 0,
                    }
                )
        assert not path.exists()  # it appears whole
    records = json.loads(path.read_text())
    assert len(records) == results.count == len(annotations)  # without the empty masks
    assert all(set(record) == {"image_id", "category_id", "segmentation", "score"} for record in records)
    assert list(path.parent.iterdir()) == [path]
    contents = {
        "images": [{"id": number, "height": 128, "width": 128} for number in range(1, 5)],
        "categories": [{"id": identifier} for identifier in ids.values()],
        "annotations": annotations,
    }
    official = _official(contents, path)
    got = evaluation.compute()
    assert {name: got[f"instance/{name}"] for name in official} == pytest.approx(official, nan_ok=True)
    assert 0 < got["instance/AP"] < 100


def test_a_results_file_without_results_is_an_empty_list_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with ResultsFile(tmp_path / "empty.json", {}):
        pass
    assert json.loads((tmp_path / "empty.json").read_text()) == []
    with pytest.raises(ValueError, match="broken"), ResultsFile(tmp_path / "half.json", {}):
        raise ValueError("broken")
    assert [path.name for path in tmp_path.iterdir()] == ["empty.json"]


def test_classes_are_matched_by_name_in_any_order() -> None:
    model = Categories.from_names(["cat", "sky", "dog"], ["cat", "dog"])
    assert match_classes(model, Categories.from_names(["dog", "cat"]), things_only=True).tolist() == [2, 0]
    reordered = Categories(tuple(reversed(SCENE_CATEGORIES.items)))
    target = Scenes((64, 64), seed=2, length=1)[0].target
    assert target is not None
    class_map = match_classes(reordered, SCENE_CATEGORIES)
    (case,) = Cases(Scenes((64, 64), seed=2, length=1), ["instance"], reordered, class_map)
    expected = [SCENE_CATEGORIES.names[label] for label in target.labels if SCENE_CATEGORIES[int(label)].is_thing]
    assert [reordered.names[label] for label in case.ground_truths["instance"].labels] == expected


def test_data_may_lack_classes_of_the_model_where_that_is_told() -> None:
    model, notes = Categories.from_names(["cat", "sky", "dog"], ["cat", "dog"]), list[str]()
    assert match_classes(model, Categories.from_names(["sky", "cat"]), notes=notes).tolist() == [1, 0]
    assert notes == [
        "classes that the data does not list are not measured (1 of 3): 'dog'; predictions of them count as wrong in "
        "PQ and mIoU"
    ]
    with pytest.raises(UserError, match="only the data has 'horse'"):
        match_classes(model, Categories.from_names(["cat", "horse"]), notes=notes)


def test_classes_that_differ_are_named() -> None:
    model = Categories.from_names(["cat", "sky", "dog"], ["cat", "dog"])
    with pytest.raises(UserError, match="only the model has 'dog', only the data has 'horse'"):
        match_classes(model, Categories.from_names(["cat", "horse"]), things_only=True)
    with pytest.raises(UserError, match="only the model has 'sky'"):
        match_classes(model, Categories.from_names(["cat", "dog"]))
    with pytest.raises(UserError, match=r"every object 'object'; .*, name it with class_name in 'd"):
        match_classes(model, Categories.from_names(["object"]), things_only=True)
    nucleus = Categories.from_names(["nucleus"])
    with pytest.raises(UserError, match="set class_name: nucleus in 'dataset' of the run file"):
        match_classes(nucleus, Categories.from_names(["object"]), things_only=True, notes=[])
    with pytest.raises(UserError, match="if both are the same, name the class 'nucleus' in the annotations"):
        match_classes(nucleus, Categories.from_names(["cell"]), things_only=True, notes=[])
    twice = replace(model, items=(*model.items, replace(model.items[0], id=9)))
    with pytest.raises(UserError, match="the model has several classes with the same name: 'cat'"):
        match_classes(twice, model)


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_measures_and_writes(tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics, results = tmp_path / "deep" / "metrics.json", tmp_path / "results.json"
    args = ["evaluate", str(tiny_file), "--data", "scenes", "--limit", "2", "--size", "64", "--boundary"]
    args += ["--tasks", "instance,semantic", "--max-detections", "120", "--pooled", "0.2"]
    assert main([*args, "--json", str(metrics), "--results", str(results), "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    document = json.loads(metrics.read_text())
    found = document["metrics"]
    assert {"instance/AP", "instance/AR120", "instance/boundary_AP50", "instance/pooled_AP90", "semantic/mIoU"} <= set(
        found
    )
    assert not any(name.startswith("panoptic") for name in found)
    assert (document["num_images"], document["tasks"]) == (2, ["instance", "semantic"])
    assert set(document["per_class"]["semantic"]) == set(SCENE_CATEGORIES.names)
    known = {item.id for item in SCENE_CATEGORIES}
    records = json.loads(results.read_text())
    assert records
    assert {record["image_id"] for record in records} <= {0, 1}
    assert {record["category_id"] for record in records} <= known
    present = [name for name, row in document["per_class"]["semantic"].items() if row["IoU"] is not None]
    assert present
    assert all(name in captured.out for name in (*present, "boundary_AP", "instance/pooled_AP55"))
    assert captured.err == ""
    last = captured.out.splitlines()[-1]
    for word in ("2 images", "AP ", "mIoU ", str(metrics), f"{len(records)} results", str(results)):
        assert word in last


@pytest.mark.parametrize(("task", "name"), [("panoptic", "p.json"), ("semantic", "maps"), ("semantic", "s.json")])
def test_results_of_every_task_are_written_as_test_servers_take_them(
    tiny_file: Path, tmp_path: Path, task: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["evaluate", str(tiny_file), "--limit", "2", "--size", "64", "--tasks", task, "--device", "cpu"]
    assert main([*args, "--boundary", "--results", str(tmp_path / name)]) == 0
    assert f"({task}): {tmp_path / name}" in capsys.readouterr().out.splitlines()[-1]
    if name == "maps":
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["000000000000.png", "000000000001.png"]
    else:
        written = json.loads((tmp_path / name).read_text())
        rows = written["annotations"] if task == "panoptic" else written
        assert {row["image_id"] for row in rows} == {0, 1}


def test_more_detections_than_the_model_is_set_to_give_are_requested(tiny_file: Path, tmp_path: Path) -> None:
    """A larger --max-detections gives more detections, up to ten queries times fourteen classes."""
    counts = []
    for limit in ("50", "140"):
        results = tmp_path / f"{limit}.json"
        args = ["evaluate", str(tiny_file), "--limit", "1", "--size", "64", "--tasks", "instance"]
        assert main([*args, "--max-detections", limit, "--results", str(results), "--device", "cpu"]) == 0
        counts.append(len(json.loads(results.read_text())))
    assert counts[0] < counts[1]


def test_what_half_precision_costs_can_be_measured(tiny_file: Path, tmp_path: Path) -> None:
    scores = []
    for dtype in ("float32", "bfloat16"):
        metrics, results = tmp_path / f"{dtype}.json", tmp_path / f"{dtype}-results.json"
        args = ["evaluate", str(tiny_file), "--limit", "1", "--size", "64", "--tasks", "instance"]
        args += ["--json", str(metrics), "--results", str(results), "--device", "cpu"]
        assert main([*args, "--dtype", dtype]) == 0
        assert json.loads(metrics.read_text())["dtype"] == dtype
        scores.append([record["score"] for record in json.loads(results.read_text())])
    assert scores[0] != scores[1]
    assert scores[0] == pytest.approx(scores[1], abs=0.05)
    assert main(["evaluate", str(tiny_file), "--dtype", "int8"]) == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--tasks", "depth"], "unknown task 'depth'"),
        (["--tasks", "panoptic", "--results", "folder"], "expected a name that ends in .json"),
        (["--pooled", "50"], "--pooled"),
        (["--max-detections", "2000000"], "--max-detections"),
        (["--area-limits", "100", "50"], "area_limits"),
        (["--json", "same.json", "--results", "same.json"], "choose two different files"),
        (["--limit", "0"], "--limit"),
    ],
)
def test_wrong_requests_are_one_sentence(
    args: list[str],
    message: str,
    tiny_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", str(tiny_file), *args]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_other_classes_is_refused(
    predictor: Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mask2former import checkpoints

    names = [f"class {index}" for index in range(len(SCENE_CATEGORIES))]
    predictor.model.categories = Categories.from_names(names)
    with torch.inference_mode():
        checkpoints.save(predictor.model, tmp_path / "other.safetensors")
    assert main(["evaluate", str(tmp_path / "other.safetensors")]) == 2
    assert "only the model has 'class 0'" in capsys.readouterr().err


def test_the_table_of_many_classes_shows_the_best_and_the_worst() -> None:
    from rich.console import Console

    from mask2former.cli.scores import class_table

    rows = {f"name{index:03}": {"AP": float(index)} for index in range(100)} | {"gone": {"AP": float("nan")}}
    with io.StringIO() as text:
        Console(file=text, width=100).print(class_table("instance", rows))
        shown = text.getvalue()
    assert all(name in shown for name in ("name099", "name088", "name011", "name000", "(76 between)", "1 more without"))
    assert "name050" not in shown
    assert shown.index("name099") < shown.index("name000")


# --- annotation files ------------------------------------------------------------------------------------------------


@pytest.fixture
def own_data(tmp_path: Path) -> tuple[Path, Path, dict[str, Any]]:
    """Write scenes as a user's COCO file: other order and ids of classes, one crowd, one image without objects."""
    folder = tmp_path / "images"
    folder.mkdir()
    things = [item for item in SCENE_CATEGORIES if item.is_thing][::-1]
    ids = {item.name: 1000 + 7 * number for number, item in enumerate(things)}
    images, annotations = [], []
    for number, sample in enumerate(Scenes((90, 120), seed=20, length=4), start=501):
        name = f"image {number}.png"
        Image.fromarray(np.ascontiguousarray(sample.image[0].permute(1, 2, 0).numpy())).save(folder / name)
        images.append({"id": number, "file_name": name, "height": 90, "width": 120})
        assert sample.target is not None
        for label, mask in zip(sample.target.labels.tolist(), sample.target.masks[:, 0].numpy(), strict=True):
            if SCENE_CATEGORIES[label].is_thing and mask.any() and number != 502:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": ids[SCENE_CATEGORIES[label].name],
                        "segmentation": mask_ops.encode(mask[None])[0],
                        "area": float(mask.sum()) + 0.5,
                        "bbox": _box(mask),
                        "iscrowd": int(len(annotations) == 2),
                    }
                )
    categories = [{"id": ids[item.name], "name": item.name} for item in things]
    contents = {"images": images, "annotations": annotations, "categories": categories}
    file = tmp_path / "objects.json"
    file.write_text(json.dumps(contents))
    return file, folder, contents


def _box(mask: np.ndarray) -> list[float]:
    left, top, right, bottom = mask_ops.boxes_xyxy(mask[None])[0].tolist()
    return [left, top, right - left, bottom - top]


def test_own_data_is_measured_as_the_official_tool_does(
    own_data: tuple[Path, Path, dict[str, Any]], tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder, contents = own_data
    metrics, results = tmp_path / "metrics.json", tmp_path / "results.json"
    args = ["evaluate", str(tiny_file), "--annotations", str(file), "--images", str(folder), "--device", "cpu"]
    assert main([*args, "--json", str(metrics), "--results", str(results), "--pooled", "0.1"]) == 0
    document = json.loads(metrics.read_text())
    assert (document["num_images"], document["tasks"], document["data"]) == (4, ["instance"], "coco")
    records = json.loads(results.read_text())
    assert {record["image_id"] for record in records} == {501, 502, 503, 504}
    assert {record["category_id"] for record in records} <= {entry["id"] for entry in contents["categories"]}
    assert all(record["segmentation"]["size"] == [90, 120] for record in records)
    got = {name: math.nan if value is None else value for name, value in document["metrics"].items()}
    official = _official(contents, results)
    assert {name: got[f"instance/{name}"] for name in official} == pytest.approx(official, nan_ok=True)
    capsys.readouterr()
    assert main([*args, "--limit", "2"]) == 0
    assert "2 images" in capsys.readouterr().out.splitlines()[-1]


def test_groups_of_images_are_measured_as_if_they_were_alone(
    own_data: tuple[Path, Path, dict[str, Any]], tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder, contents = own_data
    for index, image in enumerate(contents["images"]):
        image["camera"] = ("north", "south", "north", 7)[index]
    file.write_text(json.dumps(contents))
    args = ["evaluate", str(tiny_file), "--images", str(folder), "--device", "cpu", "--pooled", "0.01"]
    assert main([*args, "--annotations", str(file), "--by", "camera", "--json", str(tmp_path / "all.json")]) == 0
    assert "groups of images" in capsys.readouterr().out
    groups = json.loads((tmp_path / "all.json").read_text())["groups"]
    assert {name: group["num_images"] for name, group in groups.items()} == {"7": 1, "north": 2, "south": 1}
    north = [image for image in contents["images"] if image["camera"] == "north"]
    ids = {image["id"] for image in north}
    rows = [entry for entry in contents["annotations"] if entry["image_id"] in ids]
    alone = tmp_path / "north.json"
    alone.write_text(json.dumps({**contents, "images": north, "annotations": rows}))
    assert main([*args, "--annotations", str(alone), "--json", str(tmp_path / "north-metrics.json")]) == 0
    assert json.loads((tmp_path / "north-metrics.json").read_text())["metrics"] == groups["north"]["metrics"]

    for image, name in zip(contents["images"], ("[/raw] x", "a\x1b[31m", "b", 2.5), strict=True):
        image["camera"] = name
    file.write_text(json.dumps(contents))
    assert main([*args, "--annotations", str(file), "--by", "camera"]) == 0
    shown = capsys.readouterr().out
    assert "[/raw] x" in shown
    assert "\x1b" not in shown
    contents["images"][0]["id"] = [1]
    (tmp_path / "odd.json").write_text(json.dumps(contents))
    assert main([*args, "--annotations", str(tmp_path / "odd.json"), "--by", "camera"]) == 2
    assert "neither a number nor text" in capsys.readouterr().err

    assert main([*args, "--annotations", str(file), "--by", "place"]) == 2
    assert "4 of 4 images have no name or number under 'place'" in capsys.readouterr().err
    assert main(["evaluate", str(tiny_file), "--by", "camera"]) == 2
    assert "--annotations" in capsys.readouterr().err


def test_the_annotation_itself_as_prediction_scores_100_with_crowds_and_areas(
    own_data: tuple[Path, Path, dict[str, Any]],
) -> None:
    file, folder, _ = own_data
    samples = CocoInstances([(file, folder)])
    class_map = match_classes(SCENE_CATEGORIES, samples.categories, things_only=True)
    evaluation = Evaluation(["instance"], SCENE_CATEGORIES, EvaluationConfig(pooled_threshold=0.5))
    cases = list(Cases(samples, ["instance"], SCENE_CATEGORIES, class_map))
    assert [case.image_id for case in cases] == [501, 502, 503, 504]
    ground_truths = [case.ground_truths["instance"] for case in cases]
    assert sum(int(ground_truth.iscrowd.sum()) for ground_truth in ground_truths) == 1
    assert len(ground_truths[1].masks) == 0
    for case, ground_truth in zip(cases, ground_truths, strict=True):
        true = SparseMasks.of(ground_truth.masks)
        assert ground_truth.areas.tolist() == (true.areas + 0.5).tolist()
        kept = ~ground_truth.iscrowd
        masks = true.take(kept)
        prediction = Instances(
            masks, ground_truth.labels[kept], np.full(kept.sum(), 0.9), masks.boxes, SCENE_CATEGORIES
        )
        evaluation.add({"instance": prediction}, case.ground_truths)
    got = evaluation.compute()
    assert got["instance/AP"] == pytest.approx(100.0)
    assert got["instance/pooled_AP"] == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--images", "x"], "belong together"),
        (["--annotations", "x", "--images", "x", "--data", "scenes"], "--data and --annotations name different data"),
        (["--annotations", "x", "--images", "x", "--size", "64"], "--size applies to scenes"),
        (["--annotations", "absent.json", "--images", "x"], "there is no annotation file 'absent.json'"),
    ],
)
def test_wrong_requests_about_own_data_are_one_sentence(
    args: list[str], message: str, tiny_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(tiny_file), *args]) == 2
    assert message in capsys.readouterr().err


def test_own_data_are_for_one_task_and_need_the_classes_of_the_model(
    own_data: tuple[Path, Path, dict[str, Any]], tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder, contents = own_data
    args = ["evaluate", str(tiny_file), "--images", str(folder), "--annotations"]
    assert main([*args, str(file), "--tasks", "semantic"]) == 2
    assert "not semantic" in capsys.readouterr().err
    other = tmp_path / "other.json"
    contents["categories"][0]["name"] = "zebra"
    other.write_text(json.dumps(contents))
    assert main([*args, str(other)]) == 2
    assert "only the data has 'zebra'" in capsys.readouterr().err


def test_objects_beyond_the_limit_are_told(
    own_data: tuple[Path, Path, dict[str, Any]], tiny_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder, _ = own_data
    args = ["evaluate", str(tiny_file), "--annotations", str(file), "--images", str(folder), "--device", "cpu"]
    assert main([*args, "--max-detections", "1"]) == 0
    assert "note: there are up to" in capsys.readouterr().out


@pytest.mark.skipif("MASK2FORMER_SHARED" not in os.environ, reason="MASK2FORMER_SHARED names no folder of shared data")
def test_ground_truths_of_real_images_are_those_of_the_official_tool(tmp_path: Path) -> None:
    """With polygons, crowds and annotated areas of COCO, moved objects have the official tool's metrics."""
    root = Path(os.environ["MASK2FORMER_SHARED"]) / "data" / "coco_mini"
    file = root / "annotations" / "instances_val2017.json"
    samples = CocoInstances([(file, root / "val2017")])
    categories = samples.categories
    class_map = match_classes(categories, categories)
    evaluation = Evaluation(["instance"], categories)
    with ResultsFile(tmp_path / "results.json", {index: item.id for index, item in enumerate(categories)}) as results:
        for case in Cases(samples, ["instance"], categories, class_map):
            ground_truth = case.ground_truths["instance"]
            masks = np.roll(SparseMasks.of(ground_truth.masks).dense(), 2, axis=2)
            order = np.argsort([-mask.sum() % 97 for mask in masks], kind="stable")
            scores = np.linspace(0.9, 0.1, len(masks))
            boxes = mask_ops.boxes_xyxy(masks)
            prediction = Instances(masks[order], ground_truth.labels[order], scores, boxes[order], categories)
            evaluation.add({"instance": prediction}, case.ground_truths)
            results.add(case.image_id, prediction)
    got = evaluation.compute()
    official = _official(json.loads(file.read_text()), tmp_path / "results.json")
    assert {name: got[f"instance/{name}"] for name in official} == pytest.approx(official, abs=1e-9)
    assert 0 < got["instance/AP"] < 100


def test_images_that_share_a_batch_are_measured_as_those_that_go_alone(predictor: Predictor) -> None:
    """Batches change neither metrics nor the order of cases, here of two sizes, so that some wait for others."""

    def measured(batch_size: int) -> tuple[dict[str, float], list[tuple[int | str, int]]]:
        cases = [
            Case(case.image, case.ground_truths, f"{side}-{case.image_id}")
            for pair in zip(
                *(
                    Cases(Scenes((side, 64), seed=1, length=3), TASKS, SCENE_CATEGORIES, _identity())
                    for side in (64, 96)
                ),
                strict=True,
            )
            for side, case in zip((64, 96), pair, strict=True)
        ]
        seen: list[tuple[int | str, int]] = []
        report = evaluate_predictor(
            predictor,
            cases,
            TASKS,
            batch_size=batch_size,
            observe=lambda case, found: seen.append((case.image_id, len(found["panoptic"].segments))),  # pyright: ignore
            short_edge=0,
        )
        return report.metrics, seen

    (alone, seen), (together, seen_together) = measured(1), measured(2)
    assert together == pytest.approx(alone, abs=1e-6, nan_ok=True)
    assert seen_together == seen
    assert [name for name, _ in seen] == [f"{side}-{index}" for index in range(3) for side in (64, 96)]


def test_an_image_that_cannot_be_read_ends_the_evaluation_with_its_own_error(predictor: Predictor) -> None:
    class Broken(Scenes):
        def image(self, index: int) -> np.ndarray:
            if index == 2:
                raise UserError("'c.png' is damaged")
            return super().image(index)

    cases = Cases(Broken((64, 64), seed=1, length=4), TASKS, SCENE_CATEGORIES, _identity())
    told: list[int] = []
    with pytest.raises(UserError, match=r"^'c\.png' is damaged$"):
        evaluate_predictor(predictor, cases, TASKS, progress=told.append, short_edge=0)
    assert told == [1, 2]
