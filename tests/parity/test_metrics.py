"""Our evaluators compared with the numbers of the published ones, and COCO's with its original implementation."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask2former.metrics.average_precision import InstanceEvaluator, VideoInstanceEvaluator
from mask2former.metrics.panoptic import PanopticEvaluator, PanopticGroundTruth
from mask2former.metrics.semantic import SemanticEvaluator
from mask2former.ops import masks as mask_ops
from mask2former.structures import (
    Categories,
    Instances,
    PanopticSegmentation,
    Segment,
    SemanticSegmentation,
    VideoInstances,
)
from mask2former.structures.ground_truth import ClipGroundTruth, InstanceGroundTruth

METRICS = Path(__file__).parents[1] / "data" / "metrics"


def _read(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    values = json.loads((METRICS / f"{name}.json").read_text())
    arrays = METRICS / f"{name}.npz"
    if not arrays.exists():
        return values, {}
    with np.load(arrays) as loaded:
        return values, dict(loaded)


def _close(got: float, expected: float | None, tolerance: float = 1e-9) -> bool:
    """Whether two values in percent are equal; null and COCO's -1 mean undefined."""
    if expected is None or expected == -1:
        return math.isnan(got)
    return abs(got - expected) <= tolerance


def test_panoptic_quality_equals_the_published() -> None:
    values, arrays = _read("panoptic")
    categories = Categories.from_dict(values)
    index = categories.index_of_id()
    parts = [PanopticEvaluator(categories, boundary=True), PanopticEvaluator(categories, boundary=True)]
    for image, (ground_truths, predictions) in enumerate(
        zip(values["gt_segments"], values["pred_segments"], strict=True)
    ):
        ground_truth = [(entry["id"], index[entry["category_id"]], bool(entry["iscrowd"])) for entry in ground_truths]
        segments = [
            Segment(entry["id"], index[entry["category_id"]], categories[index[entry["category_id"]]].is_thing, 1.0, 0)
            for entry in predictions
        ]
        prediction = PanopticSegmentation(arrays["pred"][image], tuple(segments), categories)
        parts[image % 2].update(prediction, PanopticGroundTruth(arrays["gt"][image], ground_truth))
    evaluator = parts[0]
    evaluator.merge(parts[1])
    got, per_class = evaluator.compute(), evaluator.per_class()
    for prefix, expected in (("", values["expected"]), ("boundary_", values["expected_boundary_pq"])):
        for group, suffix in (("All", ""), ("Things", "_things"), ("Stuff", "_stuff")):
            for name in ("PQ", "SQ", "RQ"):
                value = 100 * expected["groups"][group][name.lower()]
                assert _close(got[f"panoptic/{prefix}{name}{suffix}"], value), (prefix, group, name)
        for identifier, entry in expected["per_class"].items():
            for name in ("PQ", "SQ", "RQ"):
                value = 100 * entry[name.lower()]
                assert _close(per_class[f"c{identifier}"][f"{prefix}{name}"], value), (prefix, identifier, name)


def test_semantic_scores_equal_the_published() -> None:
    values, arrays = _read("semantic")
    categories = Categories.from_names(values["class_names"])
    evaluator = SemanticEvaluator(categories, boundary=True)
    for prediction, ground_truth in zip(arrays["pred"], arrays["gt"], strict=True):
        evaluator.update(SemanticSegmentation(prediction, categories), ground_truth)
    np.testing.assert_array_equal(evaluator.confusion, values["confusion"])
    got, expected = evaluator.compute(), values["expected_percent"]
    for name in ("mIoU", "fwIoU", "mACC", "pACC"):
        assert _close(got[f"semantic/{name}"], expected[name]), name
    for category, entry in evaluator.per_class().items():
        for name in ("IoU", "ACC"):
            assert _close(entry[name], expected[f"{name}-{category}"]), (category, name)
        assert _close(entry["boundary_IoU"], expected[f"BoundaryIoU-{category}"]), category
        assert _close(entry["lesser_IoU"], expected[f"min(IoU, B-Iou)-{category}"]), category


def _add_coco(evaluator: InstanceEvaluator, ground_truth: dict[str, Any], detections: list[dict[str, Any]]) -> None:
    categories = evaluator.categories
    index = categories.index_of_id()
    for image in ground_truth["images"]:
        size = (image["height"], image["width"])
        true = [entry for entry in ground_truth["annotations"] if entry["image_id"] == image["id"]]
        found = [entry for entry in detections if entry["image_id"] == image["id"]]
        found.sort(key=lambda entry: -entry["score"])
        masks = _decoded(found, size)
        prediction = Instances(
            masks,
            np.array([index[entry["category_id"]] for entry in found], dtype=np.int64),
            np.array([entry["score"] for entry in found], dtype=np.float64),
            mask_ops.boxes_xyxy(masks),
            categories,
        )
        evaluator.update(
            prediction,
            InstanceGroundTruth(
                _decoded(true, size),
                np.array([index[entry["category_id"]] for entry in true], dtype=np.int64),
                np.array([entry["iscrowd"] for entry in true], dtype=bool),
                np.array([entry["area"] for entry in true], dtype=np.float64),
            ),
        )


def _decoded(entries: list[dict[str, Any]], size: tuple[int, int]) -> np.ndarray:
    if not entries:
        return np.zeros((0, *size), dtype=bool)
    return mask_ops.decode([entry["segmentation"] for entry in entries])


def test_instance_precision_and_boundary_precision_equal_the_published() -> None:
    values, _ = _read("instances_coco")
    categories = Categories.from_dict(values["ground_truth"])
    parts = [InstanceEvaluator(categories, boundary=True) for _ in range(2)]
    for part, parity in zip(parts, (0, 1), strict=True):
        images = [image for image in values["ground_truth"]["images"] if image["id"] % 2 == parity]
        _add_coco(part, {**values["ground_truth"], "images": images}, values["detections"])
    evaluator = parts[0]
    evaluator.merge(parts[1])
    got, per_class = evaluator.compute(), evaluator.per_class()
    names = {"": values["expected_segm"], "boundary_": values["expected_boundary"]}
    assert set(got) == {f"instance/{kind}{name}" for kind, expected in names.items() for name in expected["stats"]}
    for kind, expected in names.items():
        for name, value in expected["stats"].items():
            assert _close(got[f"instance/{kind}{name}"], 100 * value if value != -1 else -1), (kind, name)
        for identifier, value in expected["per_category_AP"].items():
            assert _close(per_class[f"c{identifier}"][f"{kind}AP"], None if value is None else 100 * value), identifier


@pytest.mark.parametrize(("max_detections", "area_limits"), [(100, (32**2, 96**2)), (15, (300, 2000))])
@pytest.mark.parametrize("seed", range(3))
def test_instance_precision_equals_pycocotools_on_random_data(
    seed: int, max_detections: int, area_limits: tuple[int, int]
) -> None:
    generator = np.random.default_rng(seed)
    size, names = (120, 150), ["a", "b", "c", "never"]
    ground_truth: dict[str, Any] = {
        "images": [{"id": number, "height": size[0], "width": size[1]} for number in range(1, 9)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
        "annotations": [],
    }
    detections: list[dict[str, Any]] = []
    for image in ground_truth["images"]:
        masks = _rectangles(generator, size, int(generator.integers(0, 12)))
        shifted = np.roll(masks, generator.integers(-4, 5, size=2), axis=(1, 2))
        for mask, moved in zip(masks, shifted, strict=True):
            label = int(generator.integers(1, 4))
            entry = {"image_id": image["id"], "category_id": label}
            ground_truth["annotations"].append(
                {
                    **entry,
                    "id": len(ground_truth["annotations"]) + 1,
                    "segmentation": mask_ops.encode(mask[None])[0],
                    "area": float(mask.sum()),
                    "bbox": [0, 0, 1, 1],
                    "iscrowd": int(generator.random() < 0.1),
                }
            )
            for _ in range(int(generator.integers(0, 3))):
                score = float(np.round(generator.random(), 1))  # with ties
                detections.append({**entry, "segmentation": mask_ops.encode(moved[None])[0], "score": score})
    evaluator = InstanceEvaluator(
        Categories.from_dict(ground_truth), max_detections=max_detections, area_limits=area_limits
    )
    _add_coco(evaluator, ground_truth, detections)
    got = evaluator.compute()
    limits = [1, 10, max_detections]
    results = [
        {**entry, "id": number, "iscrowd": 0, "area": float(mask_ops.decode(entry["segmentation"]).sum())}
        for number, entry in enumerate(detections, 1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        oracle = COCOeval(
            _original_coco(ground_truth), _original_coco({**ground_truth, "annotations": results}), "segm"
        )
        oracle.params.maxDets = limits
        small, medium = area_limits
        oracle.params.areaRng = [[0, 1e10], [0, small], [small, medium], [medium, 1e10]]
        oracle.evaluate()
        oracle.accumulate()
    # Only what its summary would print: it hard-codes 100 detections for the mean.
    precision, recall = oracle.eval["precision"], oracle.eval["recall"]
    curves = evaluator.curves()
    assert list(curves) == [name for index, name in enumerate(names) if precision[0, 0, index, 0, 2] > -1]
    for name, curve in curves.items():
        published = precision[:, :, names.index(name), 0, 2]
        np.testing.assert_array_equal(curve.recall, oracle.params.recThrs)
        np.testing.assert_allclose(curve.at_50, published[0], rtol=0, atol=1e-12)
        np.testing.assert_allclose(curve.at_75, published[5], rtol=0, atol=1e-12)
        np.testing.assert_allclose(curve.mean, published.mean(axis=0), rtol=0, atol=1e-12)
    expected = {"AP": precision[..., 0, 2], "AP50": precision[0, ..., 0, 2], "AP75": precision[5, ..., 0, 2]}
    expected |= {f"AP{letter}": precision[..., 1 + number, 2] for number, letter in enumerate("sml")}
    expected |= {f"AR{limit}": recall[..., 0, number] for number, limit in enumerate(limits)}
    expected |= {f"AR{letter}": recall[..., 1 + number, 2] for number, letter in enumerate("sml")}
    assert set(got) == {f"instance/{name}" for name in expected}
    for name, entries in expected.items():
        defined = entries[entries > -1]
        assert _close(got[f"instance/{name}"], 100 * defined.mean() if defined.size else None), name


def _original_coco(data: Any) -> COCO:
    coco = COCO()
    coco.dataset = data
    coco.createIndex()
    return coco


def _rectangles(generator: np.random.Generator, size: tuple[int, int], count: int) -> np.ndarray:
    masks = np.zeros((count, *size), dtype=bool)
    for mask in masks:
        top, left = (int(generator.integers(0, side - 10)) for side in size)
        height, width = (int(side) for side in generator.integers(4, 110, size=2))
        mask[top : top + height, left : left + width] = True
    return masks


def test_tracks_equal_youtube_vis() -> None:
    values, _ = _read("video_ytvis")
    ground_truth, detections = values["ground_truth"], values["detections"]
    categories = Categories.from_dict(ground_truth)
    index = categories.index_of_id()
    parts = [VideoInstanceEvaluator(categories), VideoInstanceEvaluator(categories)]
    for number, video in enumerate(ground_truth["videos"]):
        size = (video["length"], video["height"], video["width"])
        true = [entry for entry in ground_truth["annotations"] if entry["video_id"] == video["id"]]
        found = [entry for entry in detections if entry["video_id"] == video["id"]]
        found.sort(key=lambda entry: -entry["score"])
        prediction = VideoInstances(
            _tracks(found, size),
            np.array([index[entry["category_id"]] for entry in found], dtype=np.int64),
            np.array([entry["score"] for entry in found], dtype=np.float64),
            categories,
        )
        parts[number // 2].update(
            prediction,
            ClipGroundTruth(
                _tracks(true, size),
                np.array([index[entry["category_id"]] for entry in true], dtype=np.int64),
                np.array([entry["iscrowd"] for entry in true], dtype=bool),
                np.array([np.mean([area for area in entry["areas"] if area is not None]) for entry in true]),
            ),
        )
    evaluator = parts[0]
    evaluator.merge(parts[1])
    got, expected = evaluator.compute(), values["expected"]
    for name, value in zip(expected["names_in_order"], expected["stats_in_order"], strict=True):
        assert _close(got[f"instance/{name}"], 100 * value if value >= 0 else None), name
    for identifier, value in expected["per_category_AP"].items():
        assert _close(evaluator.per_class()[categories[index[int(identifier)]].name]["AP"], 100 * value), identifier


def _tracks(entries: list[dict[str, Any]], size: tuple[int, int, int]) -> np.ndarray:
    masks = np.zeros((len(entries), *size), dtype=bool)
    for track, entry in zip(masks, entries, strict=True):
        for frame, rle in zip(track, entry["segmentations"], strict=True):
            if rle is not None:
                frame[:] = mask_ops.decode(rle)[0]
    return masks
