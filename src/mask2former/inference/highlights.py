"""Which pictures of an evaluation are worth a look: the best, the worst, and those the model was sure about and wrong.

Judges one picture at a time and keeps small drawings of a few, so memory does not grow with the data set. Knows no
page and no files.
"""

from __future__ import annotations

import heapq
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float64, Int, Int64, UInt8
from PIL import Image
from scipy import ndimage

from mask2former import drawing
from mask2former.config import Task
from mask2former.evaluation.cityscapes import plain_truth
from mask2former.evaluation.panoptic import count_matches
from mask2former.evaluation.semantic import confusion_matrix
from mask2former.inference.evaluate import Case
from mask2former.ops.sparse_masks import AnyMasks, SparseMasks, common_pixels
from mask2former.structures import (
    Categories,
    Instances,
    PanopticSegmentation,
    Segmentation,
    SemanticSegmentation,
    VideoInstances,
)
from mask2former.structures.truths import CityscapesTruth, ClipTruth, InstanceTruth, PanopticTruth

__all__ = ["Highlight", "Highlights", "Judgement", "Kind", "case_rows", "judge"]

Kind = Literal["best", "worst", "surprising"]

_MASKS_AT_ONCE = 64
_INSIDE = 0.01  # of the diagonal: so far from a border a pixel of a label map is inside its region
_SIDES = (320, 480)  # pixels: drawings of smaller images are enlarged by a whole number, those of larger ones reduced


class Judgement(NamedTuple):
    """How good the answer to one picture is, 0..1, how surprising its errors are, 0..1, and the largest in words.

    ``quality`` is NaN where nothing is true and nothing was answered.
    """

    quality: float
    surprise: float
    remark: str


@dataclass(frozen=True, slots=True)
class Highlight:
    """One picture that was kept: its judgement and WebP drawings of itself, its truth and the answer."""

    image_id: int | str
    judgement: Judgement
    pictures: tuple[bytes, bytes, bytes]


# --- one picture -----------------------------------------------------------------------------------------------------


def judge(answer: Segmentation, truth: object, categories: Categories) -> Judgement:
    """Quality and surprise of one answer.

    Quality: panoptic quality of the picture over all classes at once; the mean IoU of the classes that are true or
    predicted there; for instances the mean, over true objects and predicted ones, of the best IoU with something of
    the same class on the other side.

    Surprise: the share of the labelled picture with a wrong class times the score of its segment; for instances the
    largest product of the score of an answer and what its best IoU lacks to 1. Label maps have no scores, so wrong
    pixels count that lie well inside a region of the answer, where models are sure, unlike at borders.
    """
    if isinstance(answer, PanopticSegmentation):
        assert isinstance(truth, tuple)
        return _judge_panoptic(answer, PanopticTruth(*truth), categories)
    if isinstance(answer, Instances):
        assert isinstance(truth, tuple)
        return _judge_instances(answer, InstanceTruth(*truth), categories)
    assert isinstance(truth, np.ndarray)
    return _judge_semantic(answer, truth, categories)


def _judge_panoptic(answer: PanopticSegmentation, truth: PanopticTruth, categories: Categories) -> Judgement:
    listed = [(segment.id, segment.label) for segment in answer.segments]
    counts = count_matches(answer.ids, listed, truth, len(categories))
    matches, wrong, missed = (int(column.sum()) for column in counts[:3])
    weight = matches + 0.5 * (wrong + missed)
    quality = float(counts.iou_sums.sum()) / weight if weight else float("nan")
    true_labels = _looked_up(truth.ids, [(number, label) for number, label, _ in truth.segments])
    labels = _looked_up(answer.ids, listed)
    scores = np.array([0.0, *answer.scores])[1 + _looked_up(answer.ids, [(n, k) for k, (n, _) in enumerate(listed)])]
    return Judgement(quality, *_largest_confusion(labels, true_labels, scores, categories))


def _judge_semantic(answer: SemanticSegmentation, truth: Int[np.ndarray, "H W"], categories: Categories) -> Judgement:
    counts = confusion_matrix(answer.labels, truth, len(categories))[:, :-1]
    unions = counts.sum(axis=0) + counts[:-1].sum(axis=1) - np.diagonal(counts)
    present = unions > 0
    quality = float((np.diagonal(counts)[present] / unions[present]).mean()) if present.any() else float("nan")
    height, width = answer.labels.shape
    side = 2 * max(1, round(_INSIDE * (height**2 + width**2) ** 0.5)) + 1
    labels = answer.labels.astype(np.int32)
    inside = ndimage.minimum_filter(labels, side) == ndimage.maximum_filter(labels, side)
    return Judgement(quality, *_largest_confusion(labels, truth, inside.astype(np.float64), categories))


def _judge_instances(answer: Instances, truth: InstanceTruth, categories: Categories) -> Judgement:
    single = ~truth.iscrowd
    true, areas = SparseMasks.of(truth.masks), answer.sparse.areas
    common = np.where(answer.labels[:, None] == truth.labels, common_pixels(answer.sparse, true), 0)
    ious = (common / np.maximum(areas[:, None] + true.areas - common, 1))[:, single]
    # What lies on a crowd region of its class is neither right nor wrong.
    on_crowd = common[:, truth.iscrowd].max(axis=1, initial=0)
    counted = (2 * on_crowd <= areas) & (areas > 0)
    best, found = ious.max(axis=1, initial=0.0)[counted], ious.max(axis=0, initial=0.0)
    total = len(best) + len(found)
    quality = float(best.sum() + found.sum()) / total if total else float("nan")
    errors = answer.scores[counted] * (1 - best)
    if not errors.size or errors.max() <= 0:
        return Judgement(quality, 0.0, "")
    index = int(errors.argmax())
    name, score = categories[answer.labels[counted][index]].name, answer.scores[counted][index]
    remark = f"{name}, {100 * score:.0f} % sure, best IoU with a true one {100 * best[index]:.0f} %"
    return Judgement(quality, float(errors[index]), remark)


def _looked_up(ids: Int[np.ndarray, "H W"], values: Sequence[tuple[int, int]]) -> Int64[np.ndarray, "H W"]:
    """The value of every id; -1 for ids that are not listed."""
    numbers = np.array([number for number, _ in values], dtype=np.int64)
    order = np.argsort(numbers)
    numbers, targets = numbers[order], np.array([value for _, value in values], dtype=np.int64)[order]
    if not len(numbers):
        return np.full(ids.shape, -1, dtype=np.int64)
    places = np.searchsorted(numbers, ids).clip(max=len(numbers) - 1)
    return np.where(numbers[places] == ids, targets[places], -1)


def _largest_confusion(
    labels: Int[np.ndarray, "H W"],
    truth: Int[np.ndarray, "H W"],
    weights: Float64[np.ndarray, "H W"],
    categories: Categories,
) -> tuple[float, str]:
    """The weighted share of labelled pixels that have another class than the true one, and the pair that has most."""
    count = len(categories)
    labelled = (truth >= 0) & (truth < count)
    wrong = labelled & (labels != truth) & (labels >= 0) & (labels < count)
    total = int(np.count_nonzero(labelled))
    if not total:
        return 0.0, ""
    pairs, places = np.unique(truth[wrong].astype(np.int64) * count + labels[wrong], return_inverse=True)
    shares = np.bincount(places, weights=weights[wrong]) / total
    if shares.max(initial=0.0) <= 0:
        return 0.0, ""
    true, predicted = divmod(int(pairs[shares.argmax()]), count)
    share = 100 * np.count_nonzero(places == shares.argmax()) / total
    part = f"{share:.0f} %" if share >= 1 else "less than 1 %"
    names = f"{categories[true].name} taken for {categories[predicted].name}"
    return float(shares.sum()), f"{names}: {part} of the image"


# --- a few of many ---------------------------------------------------------------------------------------------------


class Highlights:
    """Keeps the best, the worst and the most surprising pictures of each task, drawn; pass :meth:`add` to the loop.

    Args:
        categories: the classes of the model.
        keep: how many of each kind.
    """

    def __init__(self, categories: Categories, keep: int = 3) -> None:
        self.categories = categories
        self.keep = keep
        self._heaps: dict[tuple[Task, Kind], list[tuple[float, int, Highlight]]] = {}
        self._count = 0

    def add(self, case: Case, answers: Mapping[Task, Segmentation]) -> None:
        """Judge the answers to one picture and keep those that belong to the few."""
        self._count += 1
        for task, answer in answers.items():
            truth = case.truths[task]
            if isinstance(truth, CityscapesTruth):
                truth = plain_truth(truth, task, self.categories)
            judgement = judge(answer, truth, self.categories)
            ranks: dict[Kind, float] = {"surprising": judgement.surprise} if judgement.surprise > 0 else {}
            if judgement.quality == judgement.quality:
                ranks |= {"best": judgement.quality, "worst": -judgement.quality}
            highlight: Highlight | None = None
            for kind, rank in ranks.items():
                heap = self._heaps.setdefault((task, kind), [])
                if len(heap) == self.keep and rank <= heap[0][0]:
                    continue
                if highlight is None:
                    assert isinstance(case.image, np.ndarray)
                    image, true, found = _comparison(case.image, truth, answer, self.categories)
                    highlight = Highlight(case.image_id, judgement, (_webp(image), _webp(true), _webp(found)))
                heapq.heappush(heap, (rank, -self._count, highlight))  # of equals the first stays
                if len(heap) > self.keep:
                    heapq.heappop(heap)

    def of(self, task: Task, kind: Kind) -> list[Highlight]:
        """Those of one kind, the most extreme first."""
        assert kind in get_args(Kind), kind
        return [entry for _, _, entry in sorted(self._heaps.get((task, kind), []), key=lambda item: item[:2])[::-1]]


# --- drawings --------------------------------------------------------------------------------------------------------


def case_rows(
    case: Case, prediction: Segmentation | VideoInstances, truth: object, categories: Categories
) -> list[list[Image.Image]]:
    """An image, its ground truth and its prediction, drawn alike; of a clip the first and the last frame.

    Args:
        case: what was measured.
        prediction: the result of one task.
        truth: that of the same task.
        categories: the classes of the model.
    """
    if isinstance(prediction, VideoInstances):
        assert isinstance(truth, ClipTruth)
        rows = []
        for index in sorted({0, prediction.num_frames - 1}):
            objects = InstanceTruth(truth.masks[:, index], truth.labels, truth.iscrowd)
            rows.append(_comparison(case.image[index], objects, prediction.frame(index), categories, of_clip=True))
        return rows
    assert isinstance(case.image, np.ndarray)
    if isinstance(truth, CityscapesTruth):
        truth = plain_truth(
            truth, "semantic" if isinstance(prediction, SemanticSegmentation) else "instance", categories
        )
    return [_comparison(case.image, truth, prediction, categories)]


def _comparison(
    image: UInt8[np.ndarray, "H W 3"],
    truth: object,
    prediction: Segmentation,
    categories: Categories,
    of_clip: bool = False,
) -> list[Image.Image]:
    """The image, its ground truth and the prediction as small drawings that look alike.

    ``of_clip``: the colour of an object depends on its index only, so that a track keeps it.
    """
    step = -(-max(image.shape[:2]) // _SIDES[1])
    small = image
    if step > 1:  # before drawing, so that names stay readable
        height, width = (len(range(0, side, step)) for side in image.shape[:2])
        small = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))
    scale = -(-_SIDES[0] // max(small.shape[:2]))
    plain = Image.fromarray(small)
    plain = plain.resize((plain.width * scale, plain.height * scale), Image.Resampling.BICUBIC)
    true, found = _layers(truth, prediction, categories, step, of_clip)
    return [plain, true(small, scale), found(small, scale)]


_Draw = Callable[[UInt8[np.ndarray, "H W 3"], int], Image.Image]


def _layers(
    truth: object, answer: Segmentation, categories: Categories, step: int, of_clip: bool = False
) -> tuple[_Draw, _Draw]:
    """Drawings of truth and answer, with every ``step``-th pixel of them."""

    def region(label: int, score: float | None = None, variant: int | None = None) -> drawing.Region:
        item = categories[label]
        return drawing.Region(item.name, item.color, score, label, item.is_thing, variant=variant)

    def panoptic(ids: np.ndarray, segments: Sequence[tuple[int, drawing.Region]]) -> _Draw:
        numbers, regions = [number for number, _ in segments], [entry for _, entry in segments]
        return lambda image, scale: drawing.overlay_panoptic(image, ids[::step, ::step], numbers, regions, scale=scale)

    def instances(masks: AnyMasks, labels: np.ndarray, scores: Sequence[float | None]) -> _Draw:
        classes = labels.tolist()
        thinned = SparseMasks.of(masks).thinned(step)
        ranks: Sequence[int | None] = drawing.ranks(classes) if of_clip else [None] * len(classes)
        regions = [region(*values) for values in zip(classes, scores, ranks, strict=True)]
        return lambda image, scale: drawing.overlay_instances(image, thinned, regions, scale=scale)

    def semantic(labels: np.ndarray) -> _Draw:
        regions = [region(index) for index in range(len(categories))]
        return lambda image, scale: drawing.overlay_semantic(image, labels[::step, ::step], regions, scale=scale)

    if isinstance(answer, PanopticSegmentation):
        assert isinstance(truth, tuple)
        ids, segments, *_ = truth
        true = [(number, region(label)) for number, label, _ in segments]
        return panoptic(ids, true), panoptic(
            answer.ids, [(segment.id, region(segment.label, segment.score)) for segment in answer.segments]
        )
    if isinstance(answer, Instances):
        assert isinstance(truth, tuple)
        masks, labels, *_ = truth
        return instances(masks, labels, [None] * len(labels)), instances(
            answer.sparse, answer.labels, answer.scores.tolist()
        )
    assert isinstance(truth, np.ndarray)
    return semantic(truth), semantic(answer.labels)


def _webp(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.convert("RGB").save(stream, format="WEBP", quality=75)
    return stream.getvalue()
