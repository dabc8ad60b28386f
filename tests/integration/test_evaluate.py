"""The evaluation loop and the verb on top of it."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask2former.cli import main
from mask2former.config import EvaluationConfig, InferenceConfig
from mask2former.data.scenes import SCENE_CATEGORIES, Scenes
from mask2former.errors import RequestError
from mask2former.evaluation.truths import InstanceTruth
from mask2former.inference.evaluate import (
    Case,
    Evaluation,
    ResultsFile,
    evaluate,
    evaluate_predictor,
    match_classes,
    sample_cases,
)
from mask2former.inference.predictor import Predictor
from mask2former.ops import masks as mask_ops
from mask2former.structures import Categories, Instances

TASKS = ("panoptic", "instance", "semantic")


@pytest.fixture
def predictor(tiny_file: Path) -> Predictor:
    return Predictor.from_pretrained(tiny_file, device="cpu")


def _identity() -> np.ndarray:
    return match_classes(SCENE_CATEGORIES, SCENE_CATEGORIES)


def test_a_predictor_at_the_size_of_the_samples_measures_what_the_model_does(predictor: Predictor) -> None:
    samples = Scenes((64, 80), seed=5, length=3)
    metrics = EvaluationConfig(boundary=True, pooled_threshold=0.1)
    seen: list[int] = []
    report = evaluate_predictor(
        predictor,
        sample_cases(samples, TASKS, predictor.categories, _identity()),
        TASKS,
        metrics,
        progress=seen.append,
        short_edge=0,
    )
    assert report.metrics == pytest.approx(evaluate(predictor.model, samples, TASKS, metrics=metrics), nan_ok=True)
    assert {"instance/boundary_AP", "instance/pooled_AP", "panoptic/PQ", "semantic/mIoU"} <= report.metrics.keys()
    assert (seen, report.num_images) == ([1, 2, 3], 3)
    assert set(report.per_class) == set(TASKS)
    json.dumps(report.to_dict(), allow_nan=False)


def test_parts_of_an_evaluation_add_up(predictor: Predictor) -> None:
    parts = [Evaluation(TASKS, SCENE_CATEGORIES, InferenceConfig()) for _ in range(3)]
    cases = list(sample_cases(Scenes((64, 64), seed=1, length=2), TASKS, SCENE_CATEGORIES, _identity()))
    for case, part in zip(cases, parts, strict=False):
        answers = predictor(case.image, TASKS)
        part.add(answers, case.truths)
        parts[2].add(answers, case.truths)
    parts[0].merge(parts[1])
    assert parts[0].compute() == pytest.approx(parts[2].compute(), nan_ok=True)


def test_pictures_are_resized_for_the_model_and_measured_at_their_own_size(predictor: Predictor) -> None:
    """What a predictor answers is a perfect truth, at a size that is not that of the network."""
    sample = Scenes((150, 200), seed=3, length=1)[0]
    image = np.ascontiguousarray(sample.image[0].permute(1, 2, 0).numpy())
    answer = predictor(image, "instance")
    filled = answer.masks.any(axis=(1, 2))
    assert filled.any()
    truth = InstanceTruth(answer.masks[filled], answer.labels[filled], np.zeros(filled.sum(), dtype=bool))
    report = evaluate_predictor(predictor, [Case(image, {"instance": truth}, 1)], ["instance"])
    assert report.metrics["instance/AP"] == pytest.approx(100.0)


def test_the_results_file_scores_the_same_with_the_official_tool(predictor: Predictor, tmp_path: Path) -> None:
    ids = {index: 7 * index + 3 for index in range(len(SCENE_CATEGORIES))}  # of a data set that counts otherwise
    samples = Scenes((64, 64), seed=11, length=4)
    cases = list(sample_cases(samples, ["instance"], SCENE_CATEGORIES, _identity()))
    # Moved truths are predictions of middling quality; scores fall.
    path = tmp_path / "new" / "results.json"
    evaluation = Evaluation(["instance"], SCENE_CATEGORIES, InferenceConfig())
    annotations = []
    with ResultsFile(path, ids) as results:
        for number, case in enumerate(cases, start=1):
            truth = case.truths["instance"]
            masks = np.roll(truth.masks, (0, 1, 2)[number % 3], axis=2)
            scores = np.linspace(0.9, 0.3, len(masks)) - number / 100
            empty = np.concatenate([masks, np.zeros_like(masks[:1])])
            boxes = mask_ops.boxes_xyxy(empty)
            labels = np.append(truth.labels, 0)
            instances = Instances(empty, labels, np.append(scores, 0.0), boxes, SCENE_CATEGORIES)
            evaluation.add({"instance": instances}, case.truths)
            results.add(number, instances)
            for rle, label, area in zip(
                mask_ops.encode(truth.masks), truth.labels, mask_ops.areas(truth.masks), strict=True
            ):
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
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": number, "height": 64, "width": 64} for number in range(1, 5)],
        "categories": [{"id": identifier} for identifier in ids.values()],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        official = COCOeval(truth, truth.loadRes(str(path)), "segm")
        official.evaluate()
        official.accumulate()
        official.summarize()
    got = evaluation.compute()
    for place, name in ((0, "AP"), (1, "AP50"), (3, "APs"), (4, "APm"), (8, "AR100")):
        assert official.stats[place] * 100 == pytest.approx(got[f"instance/{name}"])
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
    (case,) = sample_cases(Scenes((64, 64), seed=2, length=1), ["instance"], reordered, class_map)
    expected = [SCENE_CATEGORIES.names[label] for label in target.labels if SCENE_CATEGORIES[int(label)].is_thing]
    assert [reordered.names[label] for label in case.truths["instance"].labels] == expected


def test_classes_that_differ_are_named() -> None:
    model = Categories.from_names(["cat", "sky", "dog"], ["cat", "dog"])
    with pytest.raises(RequestError, match="only the model has 'dog', only the data has 'horse'"):
        match_classes(model, Categories.from_names(["cat", "horse"]), things_only=True)
    with pytest.raises(RequestError, match="only the model has 'sky'"):
        match_classes(model, Categories.from_names(["cat", "dog"]))
    twice = replace(model, items=(*model.items, replace(model.items[0], id=9)))
    with pytest.raises(RequestError, match="the model has several classes of one name: 'cat'"):
        match_classes(twice, model)


# --- the verb --------------------------------------------------------------------------------------------------------


def test_the_verb_measures_and_writes(tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics, results = tmp_path / "deep" / "metrics.json", tmp_path / "results.json"
    arguments = ["evaluate", str(tiny_file), "--data", "scenes", "--limit", "2", "--size", "64", "--boundary"]
    arguments += ["--tasks", "instance,semantic", "--max-detections", "120", "--pooled", "0.2"]
    assert main([*arguments, "--json", str(metrics), "--results", str(results), "--device", "cpu"]) == 0
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
    assert all(name in captured.out for name in (*SCENE_CATEGORIES.names, "boundary_AP", "instance/pooled_AP55"))
    assert captured.err == ""
    last = captured.out.splitlines()[-1]
    for word in ("2 pictures", "AP ", "mIoU ", str(metrics), f"{len(records)} results", str(results)):
        assert word in last


def test_more_detections_than_the_model_is_set_to_give_are_asked_for(tiny_file: Path, tmp_path: Path) -> None:
    """Ten queries times fourteen classes can give more than the usual hundred."""
    counts = []
    for limit in ("50", "140"):
        results = tmp_path / f"{limit}.json"
        arguments = ["evaluate", str(tiny_file), "--limit", "1", "--size", "64", "--tasks", "instance"]
        assert main([*arguments, "--max-detections", limit, "--results", str(results), "--device", "cpu"]) == 0
        counts.append(len(json.loads(results.read_text())))
    assert counts[0] < counts[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "depth"], "no task 'depth'"),
        (["--tasks", "panoptic", "--boundary"], "--boundary is about instances"),
        (["--tasks", "semantic", "--results", "x.json"], "--results is about instances"),
        (["--pooled", "50"], "pooled_threshold"),
        (["--area-limits", "100", "50"], "area_limits"),
        (["--json", "same.json", "--results", "same.json"], "name two files"),
        (["--limit", "0"], "--limit"),
    ],
)
def test_wrong_requests_are_one_sentence(
    arguments: list[str],
    message: str,
    tiny_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", str(tiny_file), *arguments]) == 2
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

    from mask2former.cli import _class_table

    rows = {f"name{index:03}": {"AP": float(index)} for index in range(100)} | {"gone": {"AP": float("nan")}}
    with io.StringIO() as text:
        Console(file=text, width=100).print(_class_table("instance", rows))
        shown = text.getvalue()
    assert all(name in shown for name in ("name099", "name088", "name011", "name000", "(76 between)", "1 more without"))
    assert "name050" not in shown
    assert shown.index("name099") < shown.index("name000")
