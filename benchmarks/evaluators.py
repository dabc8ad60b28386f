"""Images per second of the evaluators and of reference code, and peak memory of evaluating a complete data set.

The images are synthetic, of COCO's size, with blobs as segments. Both sides get the same id maps and masks in memory,
unless stated otherwise. Passes over all images alternate in one process, so a slow phase of the machine affects both.
All run on one thread, and its seconds are measured, so other programs affect neither. The first pass is not counted,
and both sides must give the same numbers.

- Average precision: pycocotools, the official code, with the same masks, which it needs run-length encoded.
- Panoptic quality: the official tool of Cityscapes, whose rules are those of COCO, with PNG files that both sides read,
  and with the same files decoded beforehand. COCO's own, panopticapi, is on no package index. To measure the metric
  without files, ``reference_panoptic_quality`` below is a literal implementation of the definition (one dictionary
  entry per pair of segments, ``numpy.unique`` per image), written here; it is not an official program.
- Boundary average precision: faster-coco-eval, which computes the same; the official code is on no package index.

Memory is that of a separate run (``--memory``) with all tasks and all options. It cycles through a few images, which
stay in memory, until the requested number has been added; what evaluators keep of an image does not depend on that.

    python benchmarks/evaluators.py --output benchmarks/results/evaluators.json
    python benchmarks/evaluators.py --memory 5000 --output benchmarks/results/evaluators_memory.json
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from PIL import Image

from mask2former.config import EvaluationConfig
from mask2former.data.label_maps import read_id_colors
from mask2former.metrics.average_precision import InstanceEvaluator
from mask2former.metrics.build import evaluators
from mask2former.metrics.panoptic import PanopticEvaluator
from mask2former.ops import masks as mask_ops
from mask2former.structures import Categories, Instances, PanopticSegmentation, Segment, SemanticSegmentation
from mask2former.structures.ground_truth import InstanceGroundTruth, PanopticGroundTruth

SIZE = (480, 640)
OBJECTS, DETECTIONS = 7, 100  # per image; COCO has 7.3 objects, and AP uses 100 detections
CATEGORIES = Categories.load("coco_panoptic")
THINGS, STUFF = CATEGORIES.thing_indices, CATEGORIES.stuff_indices


class ImageLike(NamedTuple):
    """Ground truth and results of one image for all tasks."""

    panoptic: tuple[PanopticSegmentation, PanopticGroundTruth]
    instance: tuple[Instances, InstanceGroundTruth]
    semantic: tuple[SemanticSegmentation, np.ndarray]


def blob(generator: np.random.Generator, center: tuple[float, float], radius: float) -> np.ndarray:
    """A mask with a wavy outline."""
    ranges = [
        slice(max(int(middle - 2 * radius), 0), min(int(middle + 2 * radius) + 1, side))
        for middle, side in zip(center, SIZE, strict=True)
    ]
    rows, columns = np.ogrid[ranges[0], ranges[1]]
    y, x = rows - center[0], columns - center[1]
    angle = np.arctan2(y, x)
    waves = 1 + 0.2 * np.sin(generator.integers(2, 7) * angle + generator.random() * 6)
    mask = np.zeros(SIZE, dtype=bool)
    mask[ranges[0], ranges[1]] = np.hypot(y, x * generator.uniform(0.6, 1.4)) < radius * waves
    return mask


def image(seed: int) -> ImageLike:
    """Objects over three regions of stuff and some void; detections around the objects and elsewhere."""
    generator = np.random.default_rng(seed)
    ids = np.zeros(SIZE, dtype=np.int32)
    segments: list[tuple[int, int, bool]] = []
    for number, label in enumerate(generator.choice(STUFF, 3, replace=False).tolist()):
        ids[40 + 140 * number : 180 + 140 * number] = number + 1  # the top is void
        segments.append((number + 1, label, False))
    centers = generator.uniform((0, 0), SIZE, size=(OBJECTS, 2))
    radii = np.exp(generator.uniform(np.log(8), np.log(160), size=OBJECTS))
    few = generator.choice(THINGS, 3, replace=False)  # images hold few classes
    labels = generator.choice(few, OBJECTS)
    masks = np.stack([blob(generator, (y, x), radius) for (y, x), radius in zip(centers, radii, strict=True)])
    is_crowd = generator.random(OBJECTS) < 0.02
    for number, (mask, label) in enumerate(zip(masks, labels.tolist(), strict=True)):
        ids[mask] = 10 + number
        segments.append((10 + number, label, bool(is_crowd[number])))
    visible = set(np.unique(ids).tolist())
    ground_truth = PanopticGroundTruth(ids, [entry for entry in segments if entry[0] in visible])

    moved = np.roll(ids, tuple(generator.integers(-4, 5, size=2)), axis=(0, 1))
    label_of = {identifier: label for identifier, label, _ in ground_truth.segments}
    found = tuple(
        Segment(n, label_of[n], label_of[n] in THINGS, 1.0, int((moved == n).sum()))
        for n in np.unique(moved).tolist()
        if n
    )
    detected, detected_labels = [], []
    for number in range(DETECTIONS):
        near = number % OBJECTS
        close = number < 3 * OBJECTS
        center = centers[near] + generator.normal(0, 4, 2) if close else generator.uniform((0, 0), SIZE)
        radius = radii[near] * generator.uniform(0.8, 1.2) if close else np.exp(generator.uniform(2, 5))
        detected.append(blob(generator, (center[0], center[1]), radius))
        detected_labels.append(labels[near] if close else generator.choice(THINGS))
    scores = np.sort(generator.random(DETECTIONS))[::-1].copy()
    stack = np.stack(detected)
    instances = Instances(
        stack, np.array(detected_labels, dtype=np.int64), scores, mask_ops.boxes_xyxy(stack), CATEGORIES
    )
    table = np.full(10 + OBJECTS, CATEGORIES.ignore_label, dtype=np.int64)
    for identifier, label in label_of.items():
        table[identifier] = label
    return ImageLike(
        (PanopticSegmentation(moved, found, CATEGORIES), ground_truth),
        (instances, InstanceGroundTruth(masks, labels.astype(np.int64), is_crowd)),
        (SemanticSegmentation(np.where(moved > 0, table[moved], STUFF[0]), CATEGORIES), table[ids]),
    )


# --- reference code --------------------------------------------------------------------------------------------------


def reference_panoptic_quality(images: list[ImageLike]) -> dict[str, float]:
    """PQ over all classes in percent, computed from the definition; not the official program."""
    sums = {index: [0.0, 0, 0, 0] for index in range(len(CATEGORIES))}  # IoU, TP, FP, FN
    for result, ground_truth in (entry.panoptic for entry in images):
        true = {identifier: (label, crowd) for identifier, label, crowd in ground_truth.segments}
        predicted = {segment.id: segment.label for segment in result.segments}
        true_areas = dict(
            zip(*(part.tolist() for part in np.unique(ground_truth.ids, return_counts=True)), strict=True)
        )
        areas = dict(zip(*(part.tolist() for part in np.unique(result.ids, return_counts=True)), strict=True))
        codes = ground_truth.ids.astype(np.uint64) * np.uint64(1 << 24) + result.ids.astype(np.uint64)
        pairs = {
            (code >> 24, code & 0xFFFFFF): count
            for code, count in zip(*(part.tolist() for part in np.unique(codes, return_counts=True)), strict=True)
        }
        matched_true, matched = set(), set()
        for (one, other), common in pairs.items():
            if one in true and other in predicted and not true[one][1] and true[one][0] == predicted[other]:
                iou = common / (true_areas[one] + areas[other] - common - pairs.get((0, other), 0))
                if iou > 0.5:
                    sums[predicted[other]][0] += iou
                    sums[predicted[other]][1] += 1
                    matched_true.add(one)
                    matched.add(other)
        crowds = {}
        for identifier, (label, crowd) in true.items():
            if crowd:
                crowds[label] = identifier
            elif identifier not in matched_true:
                sums[label][3] += 1
        for identifier, label in predicted.items():
            if identifier not in matched:
                ignored = pairs.get((0, identifier), 0) + pairs.get((crowds.get(label, -1), identifier), 0)
                sums[label][2] += ignored / areas[identifier] <= 0.5
    qualities = [iou / (tp + fp / 2 + fn / 2) for iou, tp, fp, fn in sums.values() if tp + fp + fn]
    return {"PQ": 100 * sum(qualities) / len(qualities)}


def write_panoptic(images: list[ImageLike], folder: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """PNG files of ground truth and results in ``folder``, and their annotations; not part of the timing."""
    annotations = []
    for number, entry in enumerate(images):
        result, ground_truth = entry.panoptic
        for side, ids in (("true", ground_truth.ids), ("found", result.ids)):
            (folder / side).mkdir(exist_ok=True)
            channels = np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)
            Image.fromarray(channels).save(folder / side / f"{number}.png")
        areas = np.bincount(ground_truth.ids.ravel())
        true: list[dict[str, Any]] = [
            {"id": identifier, "category_id": label, "iscrowd": int(crowd), "area": int(areas[identifier])}
            for identifier, label, crowd in ground_truth.segments
        ]
        found = [{"id": segment.id, "category_id": segment.label} for segment in result.segments]
        head = {"image_id": number, "file_name": f"{number}.png"}
        annotations.append(({**head, "segments_info": true}, {**head, "segments_info": found}))
    return annotations


def decoded(annotations: list[tuple[dict[str, Any], dict[str, Any]]], folder: Path) -> dict[str, np.ndarray]:
    """The colours of all PNG files by path."""
    paths = [str(folder / side / entry["file_name"]) for entry, _ in annotations for side in ("true", "found")]
    return {path: np.asarray(Image.open(path)) for path in paths}


def official_panoptic_quality(
    annotations: list[tuple[dict[str, Any], dict[str, Any]]],
    folder: Path,
    colors: dict[str, np.ndarray] | None = None,
) -> dict[str, float]:
    """PQ over all classes in percent, from files or from their decoded ``colors``; one process."""
    from cityscapesscripts.evaluation import evalPanopticSemanticLabeling as tool  # noqa: N813

    categories = {index: {"isthing": int(item.is_thing)} for index, item in enumerate(CATEGORIES)}
    opening = contextlib.nullcontext() if colors is None else mock.patch.object(tool.Image, "open", colors.__getitem__)
    with opening, contextlib.redirect_stdout(io.StringIO()):
        counts = tool.pq_compute_single_core(0, annotations, str(folder / "true"), str(folder / "found"), categories)
    return {"PQ": 100 * tool.average_pq(counts, categories)["All"]["pq"]}


def coco_annotations(images: list[ImageLike]) -> dict[str, Any]:
    """The annotation file of the images for the official code; not part of the timing."""
    annotations = []
    for number, entry in enumerate(images, start=1):
        ground_truth = entry.instance[1]
        assert isinstance(ground_truth.masks, np.ndarray)  # as made above
        rows = zip(
            ground_truth.labels.tolist(),
            ground_truth.iscrowd.tolist(),
            mask_ops.encode(ground_truth.masks),
            strict=True,
        )
        for (label, crowd, rle), area in zip(rows, mask_ops.areas(ground_truth.masks).tolist(), strict=True):
            annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": label, "area": area}
            annotations.append(annotation | {"iscrowd": int(crowd), "segmentation": rle, "bbox": [0, 0, 1, 1]})
    return {
        "info": {},
        "images": [{"id": n, "height": SIZE[0], "width": SIZE[1]} for n in range(1, len(images) + 1)],
        "categories": [{"id": index, "name": CATEGORIES[index].name} for index in THINGS],
        "annotations": annotations,
    }


def official_average_precision(images: list[ImageLike], annotations: dict[str, Any]) -> dict[str, float]:
    """AP and the time of its two parts: encoding masks, and scoring."""
    from pycocotools import mask as tool
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    begin = time.process_time()
    results = []
    for number, entry in enumerate(images, start=1):
        found = entry.instance[0]
        for mask, label, score in zip(found.masks, found.labels.tolist(), found.scores.tolist(), strict=True):
            rle = tool.encode(np.asfortranarray(mask, dtype=np.uint8))
            results.append({"image_id": number, "category_id": label, "score": score, "segmentation": rle})
    encoded = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth: Any = COCO()
        ground_truth.dataset = annotations
        ground_truth.createIndex()
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    seconds = {"encoding": encoded - begin, "scoring": time.process_time() - encoded}
    return {"AP": 100 * float(evaluation.stats[0]), **seconds}


def faster_coco_eval_boundary(images: list[ImageLike], annotations: dict[str, Any]) -> dict[str, float]:
    """Boundary AP of faster-coco-eval, with one worker."""
    from faster_coco_eval.core.coco import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    results = []
    for number, entry in enumerate(images, start=1):
        found = entry.instance[0]
        rows = zip(found.labels.tolist(), found.scores.tolist(), mask_ops.encode(found.masks), strict=True)
        for (label, score, rle), area in zip(rows, mask_ops.areas(found.masks).tolist(), strict=True):
            result = {"id": len(results) + 1, "image_id": number, "category_id": label, "score": score, "iscrowd": 0}
            results.append(result | {"segmentation": rle, "area": area})
    ground_truth = COCO({**annotations, "annotations": [dict(entry) for entry in annotations["annotations"]]})
    found = COCO({**annotations, "annotations": results})
    evaluation = COCOeval_faster(ground_truth, found, "boundary", boundary_cpu_count=1, rle_iou_max_workers=1)
    evaluation.evaluate()
    evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"]).reshape(evaluation.eval["counts"])[:, :, :, 0, -1]
    return {"AP": 100 * float(precision[precision > -1].mean())}


# --- ours ------------------------------------------------------------------------------------------------------------


def our_panoptic_quality(images: list[ImageLike]) -> dict[str, float]:
    """Add all images and compute the final numbers."""
    evaluator = PanopticEvaluator(CATEGORIES)
    for entry in images:
        evaluator.update(*entry.panoptic)
    return {"PQ": evaluator.compute()["panoptic/PQ"]}


def our_panoptic_quality_of_files(
    images: list[ImageLike], folder: Path, colors: dict[str, np.ndarray] | None = None
) -> dict[str, float]:
    """The same with id maps from PNG files, or from their decoded ``colors``."""
    evaluator = PanopticEvaluator(CATEGORIES)
    for number, entry in enumerate(images):
        paths = (folder / side / f"{number}.png" for side in ("true", "found"))
        true, found = (read_id_colors(path) if colors is None else ids_of(colors[str(path)]) for path in paths)
        result, ground_truth = entry.panoptic
        evaluator.update(
            PanopticSegmentation(found, result.segments, CATEGORIES), PanopticGroundTruth(true, ground_truth.segments)
        )
    return {"PQ": evaluator.compute()["panoptic/PQ"]}


def ids_of(colors: np.ndarray) -> np.ndarray:
    """R + 256 G + 65536 B."""
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    return red + (green << 8) + (blue << 16)


def our_average_precision(images: list[ImageLike]) -> dict[str, float]:
    """Add all images and compute the final numbers."""
    evaluator = InstanceEvaluator(CATEGORIES)
    for entry in images:
        evaluator.update(*entry.instance)
    return {"AP": evaluator.compute()["instance/AP"]}


def our_boundary_precision(images: list[ImageLike]) -> dict[str, float]:
    """Both kinds of AP."""
    evaluator = InstanceEvaluator(CATEGORIES, boundary=True)
    for entry in images:
        evaluator.update(*entry.instance)
    return {"AP": evaluator.compute()["instance/boundary_AP"]}


# --- measuring -------------------------------------------------------------------------------------------------------


def compare(
    images: list[ImageLike],
    ours: Callable[[], dict[str, float]],
    theirs: Callable[[], dict[str, float]],
    repeats: int,
) -> dict[str, Any]:
    """Alternating passes over all images, with parts of the time that the reference reports."""
    sides = {"ours": ours, "reference": theirs}
    times: dict[str, list[float]] = {side: [] for side in sides}
    scoring: list[float] = []
    values: dict[str, dict[str, float]] = {}
    for count in range(repeats + 1):  # the first is not counted
        for side, run in sides.items():
            begin = time.process_time()
            values[side] = run()
            if count:
                times[side].append(time.process_time() - begin)
        if count and "scoring" in values["reference"]:
            scoring.append(values["reference"]["scoring"])
    name = next(iter(values["ours"]))
    difference = abs(values["ours"][name] - values["reference"][name])
    assert difference < 1e-9, values
    ratios = [slow / fast for slow, fast in zip(times["reference"], times["ours"], strict=True)]
    found = {
        "images_per_second_median": {
            side: round(len(images) / statistics.median(seconds), 1) for side, seconds in times.items()
        },
        "ratio_median": round(statistics.median(ratios), 2),
        "ratio_min_max": [round(min(ratios), 2), round(max(ratios), 2)],
        name: round(values["ours"][name], 4),
        "difference_percent": difference,
    }
    if scoring:
        alone = [slow / fast for slow, fast in zip(scoring, times["ours"], strict=True)]
        found["ratio_median_if_its_masks_came_encoded"] = round(statistics.median(alone), 2)
    return found


def everything(count: int, distinct: int) -> dict[str, Any]:
    """All tasks with all options for ``count`` images; peak memory of this process."""
    options = EvaluationConfig(boundary=True, pooled_threshold=0.5, semantic_segments=True)
    built = evaluators(("panoptic", "instance", "semantic"), CATEGORIES, options)
    pool = [image(seed) for seed in range(distinct)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    begin = time.process_time()
    for number in range(count):
        entry = pool[number % distinct]
        for task, evaluator in built.items():
            evaluator.update(*getattr(entry, task))
    added = time.process_time()
    for evaluator in built.values():
        evaluator.compute()
    return {
        "what": f"all tasks and options, {SIZE[1]}x{SIZE[0]}, {OBJECTS} objects, {DETECTIONS} detections each",
        "images": count,
        "distinct_images": distinct,
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "peak_gib_before_the_first": round(before, 2),
        "images_per_second": round(count / (added - begin), 1),
        "seconds_of_final_numbers": round(time.process_time() - added, 1),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", type=int, metavar="IMAGES", help="measure memory instead")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    result = everything(arguments.memory, 20) if arguments.memory else speed(arguments.images, arguments.repeats)
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text + "\n")


def speed(images: int, repeats: int) -> dict[str, Any]:
    """All comparisons."""
    image_files = [image(seed) for seed in range(images)]
    annotations = coco_annotations(image_files)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        panoptic = write_panoptic(image_files, folder)
        of_files, of_colors = (
            compare(
                image_files,
                lambda: our_panoptic_quality_of_files(image_files, folder, colors),  # noqa: B023
                lambda: official_panoptic_quality(panoptic, folder, colors),  # noqa: B023
                repeats,
            )
            for colors in (None, decoded(panoptic, folder))
        )
    names = ("mask2former", "numpy", "pycocotools", "cityscapesscripts", "faster-coco-eval")
    return {
        "what": f"{images} images of {SIZE[1]}x{SIZE[0]}, {OBJECTS} objects, {DETECTIONS} detections each",
        "machine": f"{platform.machine()}, one thread",
        "versions": {name: version(name) for name in names},
        "passes": repeats,
        "average_precision_beside_pycocotools": compare(
            image_files,
            lambda: our_average_precision(image_files),
            lambda: official_average_precision(image_files, annotations),
            repeats,
        ),
        "panoptic_quality_of_decoded_png_files_beside_the_tool_of_cityscapes": of_colors,
        "panoptic_quality_of_png_files_beside_the_tool_of_cityscapes": of_files,
        "panoptic_quality_beside_a_reading_of_the_definition": compare(
            image_files,
            lambda: our_panoptic_quality(image_files),
            lambda: reference_panoptic_quality(image_files),
            repeats,
        ),
        "boundary_and_mask_precision_beside_boundary_precision_of_faster_coco_eval": compare(
            image_files,
            lambda: our_boundary_precision(image_files),
            lambda: faster_coco_eval_boundary(image_files, annotations),
            max(1, repeats // 2),
        ),
    }


if __name__ == "__main__":
    main()
