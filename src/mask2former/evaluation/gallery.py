"""The images of an evaluation that are worth showing: the best, the worst, and those with the most confident errors.

It compares one image at a time and keeps small drawings of a few, so memory does not grow with the data set. It writes
no files.
"""

from __future__ import annotations

import heapq
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float64, Int, UInt8
from PIL import Image
from scipy import ndimage

from mask2former import visualization
from mask2former.config import Task
from mask2former.evaluation.cases import Case
from mask2former.metrics.cityscapes import plain_ground_truth
from mask2former.metrics.overlaps import looked_up
from mask2former.metrics.panoptic import count_matches
from mask2former.metrics.semantic import confusion_matrix
from mask2former.ops.sparse_masks import AnyMasks, SparseMasks, common_pixels
from mask2former.pixels import displayed
from mask2former.structures import (
    Categories,
    Instances,
    PanopticSegmentation,
    Segmentation,
    SemanticSegmentation,
    VideoInstances,
)
from mask2former.structures.ground_truth import (
    CityscapesGroundTruth,
    ClipGroundTruth,
    InstanceGroundTruth,
    PanopticGroundTruth,
)

__all__ = ["Comparison", "Gallery", "GalleryEntry", "Kind", "case_rows", "compare"]

Kind = Literal["best", "worst", "confident"]

_INSIDE = 0.01  # of the diagonal: pixels of a label map this far from a border are well inside their region
_SIDES = (320, 480)  # pixels: drawings of smaller images are enlarged by an integer, those of larger ones reduced


class Comparison(NamedTuple):
    """Quality of the prediction of one image, 0..1, confidence of its errors, 0..1, and the largest error in words.

    ``quality`` is NaN if nothing is true and nothing was predicted.
    """

    quality: float
    confidence: float
    remark: str


@dataclass(frozen=True, slots=True)
class GalleryEntry:
    """One image in the gallery: its comparison, and WebP drawings of the image, its ground truth and the prediction."""

    image_id: int | str
    comparison: Comparison
    images: tuple[bytes, bytes, bytes]


# --- one image -----------------------------------------------------------------------------------------------------


def compare(prediction: Segmentation, ground_truth: object, categories: Categories) -> Comparison:
    """Quality, and confidence of the errors, of one prediction.

    Quality: panoptic quality of the image over all classes at once; the mean IoU of the classes that are true or
    predicted in it; for instances, the best IoU with an object of the same class on the other side, averaged over true
    and predicted objects.

    Confidence of errors: the share of the labelled image with a wrong class times the score of its segment; for
    instances, the largest product of an instance's score and 1 minus its best IoU. Label maps have no scores, so only
    wrong pixels well inside a predicted region count, where models are confident, unlike at borders.
    """
    if isinstance(prediction, PanopticSegmentation):
        assert isinstance(ground_truth, tuple)
        return _compare_panoptic(prediction, PanopticGroundTruth(*ground_truth), categories)
    if isinstance(prediction, Instances):
        assert isinstance(ground_truth, tuple)
        return _compare_instances(prediction, InstanceGroundTruth(*ground_truth), categories)
    assert isinstance(ground_truth, np.ndarray)
    return _compare_semantic(prediction, ground_truth, categories)


def _compare_panoptic(
    prediction: PanopticSegmentation, ground_truth: PanopticGroundTruth, categories: Categories
) -> Comparison:
    listed = [(segment.id, segment.label) for segment in prediction.segments]
    counts = count_matches(prediction.ids, listed, ground_truth, len(categories))
    matches, wrong, missed = (int(column.sum()) for column in counts[:3])
    weight = matches + 0.5 * (wrong + missed)
    quality = float(counts.iou_sums.sum()) / weight if weight else float("nan")
    true_labels = looked_up(ground_truth.ids, {number: label for number, label, _ in ground_truth.segments}, missing=-1)
    labels = looked_up(prediction.ids, dict(listed), missing=-1)
    index_of = {number: index for index, (number, _) in enumerate(listed)}
    scores = np.array([*prediction.scores, 0.0])[looked_up(prediction.ids, index_of, missing=-1)]
    return Comparison(quality, *_largest_confusion(labels, true_labels, scores, categories))


def _compare_semantic(
    prediction: SemanticSegmentation, ground_truth: Int[np.ndarray, "H W"], categories: Categories
) -> Comparison:
    counts = confusion_matrix(prediction.labels, ground_truth, len(categories))[:, :-1]
    unions = counts.sum(axis=0) + counts[:-1].sum(axis=1) - np.diagonal(counts)
    present = unions > 0
    quality = float((np.diagonal(counts)[present] / unions[present]).mean()) if present.any() else float("nan")
    height, width = prediction.labels.shape
    side = 2 * max(1, round(_INSIDE * (height**2 + width**2) ** 0.5)) + 1
    labels = prediction.labels.astype(np.int32)
    inside = ndimage.minimum_filter(labels, side) == ndimage.maximum_filter(labels, side)
    return Comparison(quality, *_largest_confusion(labels, ground_truth, inside.astype(np.float64), categories))


def _compare_instances(prediction: Instances, ground_truth: InstanceGroundTruth, categories: Categories) -> Comparison:
    single = ~ground_truth.iscrowd
    true, areas = SparseMasks.of(ground_truth.masks), prediction.sparse.areas
    common = np.where(prediction.labels[:, None] == ground_truth.labels, common_pixels(prediction.sparse, true), 0)
    ious = (common / np.maximum(areas[:, None] + true.areas - common, 1))[:, single]
    # Pixels on a crowd region of the same class are neither right nor wrong.
    on_crowd = common[:, ground_truth.iscrowd].max(axis=1, initial=0)
    counted = (2 * on_crowd <= areas) & (areas > 0)
    best, found = ious.max(axis=1, initial=0.0)[counted], ious.max(axis=0, initial=0.0)
    total = len(best) + len(found)
    quality = float(best.sum() + found.sum()) / total if total else float("nan")
    errors = prediction.scores[counted] * (1 - best)
    if not errors.size or errors.max() <= 0:
        return Comparison(quality, 0.0, "")
    index = int(errors.argmax())
    name, score = categories[prediction.labels[counted][index]].name, prediction.scores[counted][index]
    remark = f"{name}, {100 * score:.0f} % sure, best IoU with a true one {100 * best[index]:.0f} %"
    return Comparison(quality, float(errors[index]), remark)


def _largest_confusion(
    labels: Int[np.ndarray, "H W"],
    ground_truth: Int[np.ndarray, "H W"],
    weights: Float64[np.ndarray, "H W"],
    categories: Categories,
) -> tuple[float, str]:
    """The weighted share of labelled pixels with a wrong class, and the most frequent pair of classes among them."""
    count = len(categories)
    labelled = (ground_truth >= 0) & (ground_truth < count)
    wrong = labelled & (labels != ground_truth) & (labels >= 0) & (labels < count)
    total = int(np.count_nonzero(labelled))
    if not total:
        return 0.0, ""
    pairs, indices = np.unique(ground_truth[wrong].astype(np.int64) * count + labels[wrong], return_inverse=True)
    shares = np.bincount(indices, weights=weights[wrong]) / total
    if shares.max(initial=0.0) <= 0:
        return 0.0, ""
    true, predicted = divmod(int(pairs[shares.argmax()]), count)
    share = 100 * np.count_nonzero(indices == shares.argmax()) / total
    part = f"{share:.0f} %" if share >= 1 else "less than 1 %"
    names = f"{categories[true].name} taken for {categories[predicted].name}"
    return float(shares.sum()), f"{names}: {part} of the image"


# --- a few of many ---------------------------------------------------------------------------------------------------


class Gallery:
    """Keeps drawings of the best and worst images and the most confident errors of each task.

    Pass :meth:`add` to the evaluation loop, see :func:`~mask2former.evaluation.evaluate.evaluate_predictor`.

    Args:
        categories: the classes of the model.
        keep: number of images of each kind.
    """

    def __init__(self, categories: Categories, keep: int = 3) -> None:
        self.categories = categories
        self.keep = keep
        self._heaps: dict[tuple[Task, Kind], list[tuple[float, int, GalleryEntry]]] = {}
        self._count = 0

    def add(self, case: Case, predictions: Mapping[Task, Segmentation]) -> None:
        """Compare the predictions of one image with its ground truth, and keep it if it is among the selected few."""
        self._count += 1
        for task, prediction in predictions.items():
            ground_truth = case.ground_truths[task]
            if isinstance(ground_truth, CityscapesGroundTruth):
                ground_truth = plain_ground_truth(ground_truth, task, self.categories)
            comparison = compare(prediction, ground_truth, self.categories)
            ranks: dict[Kind, float] = {"confident": comparison.confidence} if comparison.confidence > 0 else {}
            if comparison.quality == comparison.quality:
                ranks |= {"best": comparison.quality, "worst": -comparison.quality}
            entry: GalleryEntry | None = None
            for kind, rank in ranks.items():
                heap = self._heaps.setdefault((task, kind), [])
                if len(heap) == self.keep and rank <= heap[0][0]:
                    continue
                if entry is None:
                    assert isinstance(case.image, np.ndarray)
                    image, true, found = _comparison(case.image, ground_truth, prediction, self.categories)
                    entry = GalleryEntry(case.image_id, comparison, (_webp(image), _webp(true), _webp(found)))
                heapq.heappush(heap, (rank, -self._count, entry))  # of equal entries the first is kept
                if len(heap) > self.keep:
                    heapq.heappop(heap)

    def of(self, task: Task, kind: Kind) -> list[GalleryEntry]:
        """The entries of one kind, the most extreme first."""
        assert kind in get_args(Kind), kind
        return [entry for _, _, entry in sorted(self._heaps.get((task, kind), []), key=lambda item: item[:2])[::-1]]


# --- drawings --------------------------------------------------------------------------------------------------------


def case_rows(
    case: Case, prediction: Segmentation | VideoInstances, ground_truth: object, categories: Categories
) -> list[list[Image.Image]]:
    """An image, its ground truth and its prediction, drawn in the same style; for a clip the first and the last frame.

    Args:
        case: the image or clip.
        prediction: the result of one task.
        ground_truth: the ground truth of the same task.
        categories: the classes of the model.
    """
    if isinstance(prediction, VideoInstances):
        assert isinstance(ground_truth, ClipGroundTruth)
        rows = []
        for index in sorted({0, prediction.num_frames - 1}):
            objects = InstanceGroundTruth(ground_truth.masks[:, index], ground_truth.labels, ground_truth.iscrowd)
            rows.append(_comparison(case.image[index], objects, prediction.frame(index), categories, of_clip=True))
        return rows
    assert isinstance(case.image, np.ndarray)
    if isinstance(ground_truth, CityscapesGroundTruth):
        ground_truth = plain_ground_truth(
            ground_truth, "semantic" if isinstance(prediction, SemanticSegmentation) else "instance", categories
        )
    return [_comparison(case.image, ground_truth, prediction, categories)]


def _comparison(
    image: UInt8[np.ndarray, "H W C"],
    ground_truth: object,
    prediction: Segmentation,
    categories: Categories,
    of_clip: bool = False,
) -> list[Image.Image]:
    """The image, its ground truth and the prediction as small drawings in the same style.

    ``of_clip``: whether the colour of an object depends only on its index, so that a track keeps its colour.
    """
    step = -(-max(image.shape[:2]) // _SIDES[1])
    image = small = displayed(image)
    if step > 1:  # reduced before drawing, so that names stay readable
        height, width = (len(range(0, side, step)) for side in image.shape[:2])
        small = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))
    scale = -(-_SIDES[0] // max(small.shape[:2]))
    true, found = _layers(ground_truth, prediction, categories, step, of_clip)
    return [visualization.enlarged(small, scale), true(small, scale), found(small, scale)]


_Draw = Callable[[UInt8[np.ndarray, "H W 3"], int], Image.Image]


def _layers(
    ground_truth: object, prediction: Segmentation, categories: Categories, step: int, of_clip: bool
) -> tuple[_Draw, _Draw]:
    """Drawings of ground truth and prediction, with every ``step``-th pixel of them."""

    def region(label: int, score: float | None = None, variant: int | None = None) -> visualization.Region:
        item = categories[label]
        return visualization.Region(item.name, item.color, score, label, item.is_thing, variant=variant)

    def panoptic(ids: np.ndarray, segments: Sequence[tuple[int, visualization.Region]]) -> _Draw:
        numbers, regions = [number for number, _ in segments], [entry for _, entry in segments]
        return lambda image, scale: visualization.overlay_panoptic(
            image, ids[::step, ::step], numbers, regions, scale=scale
        )

    def instances(masks: AnyMasks, labels: np.ndarray, scores: Sequence[float | None]) -> _Draw:
        classes = labels.tolist()
        thinned = SparseMasks.of(masks).thinned(step)
        ranks: Sequence[int | None] = visualization.ranks(classes) if of_clip else [None] * len(classes)
        regions = [region(*values) for values in zip(classes, scores, ranks, strict=True)]
        return lambda image, scale: visualization.overlay_instances(image, thinned, regions, scale=scale)

    def semantic(labels: np.ndarray) -> _Draw:
        regions = [region(index) for index in range(len(categories))]
        return lambda image, scale: visualization.overlay_semantic(image, labels[::step, ::step], regions, scale=scale)

    if isinstance(prediction, PanopticSegmentation):
        assert isinstance(ground_truth, tuple)
        ids, segments, *_ = ground_truth
        true = [(number, region(label)) for number, label, _ in segments]
        return panoptic(ids, true), panoptic(
            prediction.ids, [(segment.id, region(segment.label, segment.score)) for segment in prediction.segments]
        )
    if isinstance(prediction, Instances):
        assert isinstance(ground_truth, tuple)
        masks, labels, *_ = ground_truth
        return instances(masks, labels, [None] * len(labels)), instances(
            prediction.sparse, prediction.labels, prediction.scores.tolist()
        )
    assert isinstance(ground_truth, np.ndarray)
    return semantic(ground_truth), semantic(prediction.labels)


def _webp(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.convert("RGB").save(stream, format="WEBP", quality=75)
    return stream.getvalue()
