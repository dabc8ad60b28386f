"""Cityscapes' metrics against its official tools: stored numbers, and the tools themselves on files that we write."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former.metrics.build import evaluators
from mask2former.metrics.cityscapes import CityscapesInstanceEvaluator, CityscapesPixelEvaluator
from mask2former.metrics.panoptic import PanopticEvaluator
from mask2former.ops import masks as mask_ops
from mask2former.results_io import result_writer
from mask2former.structures import Categories, Instances, PanopticSegmentation, Segment, SemanticSegmentation
from mask2former.structures.ground_truth import CityscapesGroundTruth, PanopticGroundTruth

METRICS = Path(__file__).parents[1] / "data" / "metrics"
CATEGORIES = Categories.load("cityscapes")
INDEX = CATEGORIES.index_of_id()
NO_CLASS = CATEGORIES.ignore_label


def _close(got: float, expected: float | None) -> bool:
    """Whether our value, in percent, equals theirs, which is a fraction, or null or NaN if it is undefined."""
    if expected is None or math.isnan(expected):
        return math.isnan(got)
    return abs(got - 100 * expected) <= 1e-9


def _instances(masks: np.ndarray, label_ids: list[int], scores: list[float]) -> Instances:
    labels = np.array([INDEX[label] for label in label_ids], dtype=np.int64)
    order = np.argsort(-np.array(scores), kind="stable")
    masks = masks[order]
    return Instances(masks, labels[order], np.array(scores)[order], mask_ops.boxes_xyxy(masks), CATEGORIES)


def _semantic(label_ids: np.ndarray) -> SemanticSegmentation:
    table = np.full(256, NO_CLASS, dtype=np.int64)
    table[list(INDEX)] = list(INDEX.values())
    return SemanticSegmentation(table[label_ids], CATEGORIES)


def _stored() -> tuple[dict[str, Any], list[Instances], list[SemanticSegmentation], list[CityscapesGroundTruth]]:
    values = json.loads((METRICS / "cityscapes.json").read_text())
    with np.load(METRICS / "cityscapes.npz") as arrays:
        ground_truths = [CityscapesGroundTruth(ids) for ids in arrays["instance_ids"]]
        pixels = [_semantic(labels) for labels in arrays["semantic_pred_label_ids"]]
    found = [
        _instances(
            mask_ops.decode([entry["mask"] for entry in entries]),
            [entry["label_id"] for entry in entries],
            [entry["score"] for entry in entries],
        )
        for entries in values["instance_predictions"]
    ]
    return values, found, pixels, ground_truths


def test_instance_precision_equals_the_published() -> None:
    values, found, _, ground_truths = _stored()
    parts = [CityscapesInstanceEvaluator(CATEGORIES) for _ in range(3)]
    for part, prediction, ground_truth in zip(parts, found, ground_truths, strict=True):
        part.update(prediction, ground_truth)
    evaluator = parts[2]  # in another order than the images
    for part in parts[:2]:
        evaluator.merge(part)
    expected, got = values["expected_instance"], evaluator.compute()
    assert _close(got["instance/AP"], expected["allAp"])
    assert _close(got["instance/AP50"], expected["allAp50%"])
    per_class = evaluator.per_class()
    assert set(per_class) == set(expected["classes"])
    for name, entry in expected["classes"].items():
        assert _close(per_class[name]["AP"], entry["ap"]), name
        assert _close(per_class[name]["AP50"], entry["ap50%"]), name


def test_a_model_of_the_things_alone_has_the_same_precision() -> None:
    _, found, _, ground_truths = _stored()
    things = CATEGORIES.things()
    index = things.index_of_id()
    whole, alone = CityscapesInstanceEvaluator(CATEGORIES), CityscapesInstanceEvaluator(things)
    for prediction, ground_truth in zip(found, ground_truths, strict=True):
        whole.update(prediction, ground_truth)
        labels = np.array([index[CATEGORIES[label].id] for label in prediction.labels], dtype=np.int64)
        alone.update(Instances(prediction.masks, labels, prediction.scores, prediction.boxes, things), ground_truth)
    assert alone.compute() == whole.compute()


def test_pixel_scores_equal_the_published() -> None:
    values, _, pixels, ground_truths = _stored()
    parts = [CityscapesPixelEvaluator(CATEGORIES) for _ in range(3)]
    for part, prediction, ground_truth in zip(parts, pixels, ground_truths, strict=True):
        part.update(prediction, ground_truth)
    evaluator = parts[0]
    for part in parts[1:]:
        evaluator.merge(part)
    _check_pixels(evaluator, values["expected_semantic"])


def _check_pixels(evaluator: CityscapesPixelEvaluator, expected: dict[str, Any]) -> None:
    got, per_class = evaluator.compute(), evaluator.per_class()
    for name, official in {
        "IoU": "averageScoreClasses",
        "iIoU": "averageScoreInstClasses",
        "IoU_sup": "averageScoreCategories",
        "iIoU_sup": "averageScoreInstCategories",
    }.items():
        assert _close(got[f"semantic/{name}"], expected[official]), name
    for category in CATEGORIES.names:
        assert _close(per_class[category]["IoU"], expected["classScores"][category]), category
        assert _close(per_class[category]["iIoU"], expected["classInstScores"][category]), category


def _scene(generator: np.random.Generator) -> tuple[CityscapesGroundTruth, Instances, SemanticSegmentation]:
    """A random scene: void, stuff, objects of all sizes, groups, objects of a void class, and shifted predictions."""
    size = (96, 160)
    ids = np.full(size, 7, dtype=np.int32)
    ids[:30] = generator.choice([0, 3, 23])
    masks, labels, scores = [], [], []
    for number in range(int(generator.integers(6, 16))):
        label = int(generator.choice([24, 25, 26, 29, 33]))
        top, left = int(generator.integers(0, 70)), int(generator.integers(0, 130))
        height, width = (int(side) for side in generator.integers(5, 40, size=2))
        is_group = generator.random() < 0.2
        ids[top : top + height, left : left + width] = label if is_group else label * 1000 + number
        for _ in range(int(generator.integers(0, 4))):
            mask = np.zeros(size, dtype=bool)
            down, right = (int(shift) for shift in generator.integers(-2, 3, size=2))
            mask[max(top + down, 0) : top + down + height, max(left + right, 0) : left + right + width] = True
            masks.append(mask)
            labels.append(26 if label == 29 else label)
            scores.append(float(np.round(generator.random(), 1)))  # with ties
    noisy = np.where(generator.random(size) < 0.2, generator.choice([7, 23, 24, 26, 33], size=size), ids)
    label_ids = np.where(noisy < 1000, noisy, noisy // 1000)
    found = _instances(np.stack(masks) if masks else np.zeros((0, *size), dtype=bool), labels, scores)
    return CityscapesGroundTruth(ids), found, _semantic(label_ids)


def _tool(name: str) -> Any:
    pytest.importorskip("cityscapesscripts", reason="the official tools are not installed: cityscapesscripts")
    return importlib.import_module(f"cityscapesscripts.evaluation.eval{name}")


@pytest.mark.parametrize("seed", range(3))
def test_the_official_tools_say_the_same_of_the_files_we_write(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance_tool, pixel_tool = (_tool(f"{kind}LevelSemanticLabeling") for kind in ("Instance", "Pixel"))
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # the tool still calls it by its old name
    monkeypatch.setattr(instance_tool, "writeDict2JSON", lambda *_: None)  # it cannot write integers of NumPy 2
    generator = np.random.default_rng(seed)
    built = evaluators(("instance", "semantic"), CATEGORIES, style="cityscapes")
    with (
        result_writer("instance", tmp_path / "instances", CATEGORIES, style="cityscapes") as instance_files,
        result_writer("semantic", tmp_path / "pixels", CATEGORIES, style="cityscapes") as pixel_files,
    ):
        for number in range(4):
            ground_truth, found, pixels = _scene(generator)
            built["instance"].update(found, ground_truth)
            built["semantic"].update(pixels, ground_truth)
            name = f"town_{number:06d}_000019"
            instance_files.add(name, found)
            pixel_files.add(name, pixels)
            ids = ground_truth.instance_ids
            labels = np.where(ids < 1000, ids, ids // 1000).astype(np.uint8)
            Image.fromarray(ids.astype(np.uint16)).save(tmp_path / f"{name}_gtFine_instanceIds.png")
            Image.fromarray(labels).save(tmp_path / f"{name}_gtFine_labelIds.png")
    for tool in (instance_tool, pixel_tool):
        monkeypatch.setattr(tool.args, "quiet", True)
        monkeypatch.setattr(tool.args, "JSONOutput", False)
        monkeypatch.setattr(tool.args, "predictionWalk", None)
    monkeypatch.setattr(instance_tool.args, "gtInstancesFile", str(tmp_path / "truth.json"))

    monkeypatch.setattr(instance_tool.args, "predictionPath", str(tmp_path / "instances"))
    ground_truths = sorted(map(str, tmp_path.glob("*_instanceIds.png")))
    predictions = [instance_tool.getPrediction(ground_truth, instance_tool.args) for ground_truth in ground_truths]
    official = instance_tool.evaluateImgLists(predictions, ground_truths, instance_tool.args)["averages"]
    got = built["instance"].compute()
    assert 0 < official["allAp"] < 1
    assert _close(got["instance/AP"], float(official["allAp"]))
    assert _close(got["instance/AP50"], float(official["allAp50%"]))
    for name, row in built["instance"].per_class().items():
        assert _close(row["AP"], float(official["classes"][name]["ap"])), name

    monkeypatch.setattr(pixel_tool.args, "predictionPath", str(tmp_path / "pixels"))
    ground_truths = sorted(map(str, tmp_path.glob("*_labelIds.png")))
    predictions = [pixel_tool.getPrediction(pixel_tool.args, ground_truth) for ground_truth in ground_truths]
    evaluator = built["semantic"]
    assert isinstance(evaluator, CityscapesPixelEvaluator)
    _check_pixels(evaluator, pixel_tool.evaluateImgLists(predictions, ground_truths, pixel_tool.args))


def _panoptic_scene(generator: np.random.Generator) -> tuple[PanopticGroundTruth, PanopticSegmentation]:
    """A random map of segments, void and crowds; the prediction is shifted, and some of its classes are others."""
    ids = np.kron(generator.integers(0, 9, (5, 6)), np.ones((8, 8), dtype=np.int64)) * 301  # of two bytes
    things = CATEGORIES.thing_indices
    label_of = {n: int(generator.choice([0, 10, 11, 13])) for n in np.unique(ids).tolist() if n}
    segments = [(n, label, label in things and bool(generator.random() < 0.3)) for n, label in label_of.items()]
    moved = np.roll(ids, tuple(generator.integers(-2, 3, 2)), axis=(0, 1)).astype(np.int32)
    moved[generator.random(moved.shape) < 0.02] = 0
    found = []
    for n in np.unique(moved).tolist():
        if n:
            label = label_of[n] if generator.random() < 0.8 else int(generator.choice([0, 10, 11, 13]))
            found.append(Segment(n, label, label in things, 1.0, int((moved == n).sum())))
    return PanopticGroundTruth(ids, segments), PanopticSegmentation(moved, tuple(found), CATEGORIES)


@pytest.mark.parametrize("seed", range(3))
def test_the_official_tool_says_the_same_panoptic_quality_of_the_files_we_write(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Its rules, and largely its code, are those of COCO's panopticapi, which is on no package index.
    tool = _tool("PanopticSemanticLabeling")
    generator = np.random.default_rng(seed)
    evaluator = PanopticEvaluator(CATEGORIES)
    annotations = []
    (tmp_path / "true").mkdir()
    with result_writer("panoptic", tmp_path / "found.json", CATEGORIES, style="cityscapes") as writer:
        for number in range(4):
            ground_truth, prediction = _panoptic_scene(generator)
            evaluator.update(prediction, ground_truth)
            writer.add(number, prediction)
            channels = np.stack([ground_truth.ids >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)
            Image.fromarray(channels).save(tmp_path / "true" / f"{number}.png")
            info = [
                {
                    "id": n,
                    "category_id": CATEGORIES[label].id,
                    "iscrowd": int(crowd),
                    "area": int((ground_truth.ids == n).sum()),
                }
                for n, label, crowd in ground_truth.segments
            ]
            annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": info})
    results = json.loads((tmp_path / "found.json").read_text())["annotations"]
    categories = {item.id: {"isthing": int(item.is_thing)} for item in CATEGORIES}
    pairs = list(zip(annotations, results, strict=True))
    counts = tool.pq_compute_single_core(0, pairs, str(tmp_path / "true"), str(tmp_path / "found"), categories)
    capsys.readouterr()
    official, got = tool.average_pq(counts, categories), evaluator.compute()
    assert 0 < official["All"]["pq"] < 1
    for group, suffix in (("All", ""), ("Things", "_things"), ("Stuff", "_stuff")):
        for name in ("PQ", "SQ", "RQ"):
            assert _close(got[f"panoptic/{name}{suffix}"], float(official[group][name.lower()])), (group, name)
