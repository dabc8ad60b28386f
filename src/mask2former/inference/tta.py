"""Test-time augmentation: one result from one image at several sizes, original and mirrored.

Semantic segmentation adds up class scores, as published. Panoptic and instance segmentation have no published rule;
ours (:func:`consensus`) matches queries across all views and averages them. It reads no files and has no metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mask2former.config import InferenceConfig, Resampling, Task
from mask2former.data.transforms import resize_image, shortest_edge_size
from mask2former.errors import UserError
from mask2former.inference.devices import with_room
from mask2former.inference.predicted_image import ReadScores, Shown
from mask2former.inference.predictor import Predictor, to_pixels
from mask2former.inference.tile_results import Results
from mask2former.media.frames import Frames
from mask2former.media.images import ImageSource
from mask2former.postprocessing import of_queries, semantic_scores
from mask2former.structures import PixelPrediction, Prediction, Segmentation, SemanticSegmentation, VideoInstances
from mask2former.structures.tracks import TrackedFrame

__all__ = ["AugmentedPredictor", "MultiScaleFlip", "View", "consensus", "through_views"]

Size = tuple[int, int]

# Parity: short edges and limit of the published configurations, by the (short edge, limit) of their plain test size.
# Those of COCO and Mapillary Vistas do not set any, so the defaults of their library apply; for Mapillary Vistas the
# zoo's multi-scale numbers were made with other values, which are not published.
_LIBRARY_SIZES = (tuple(range(400, 1201, 100)), 4000)
_PUBLISHED_SIZES = {
    (512, 2048): ((256, 384, 512, 640, 768, 896), 3584),  # ADE20K
    (640, 2560): ((320, 480, 640, 800, 960, 1120), 4480),  # ADE20K
    (1024, 2048): ((512, 768, 1024, 1280, 1536, 1792), 4096),  # Cityscapes
    (800, 1333): _LIBRARY_SIZES,  # COCO
    (2048, 2048): _LIBRARY_SIZES,  # Mapillary Vistas
}
_FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # the ratios in the published lists
_NO_CLIPS = "test-time augmentation applies to images; use the plain predictor for clips"
_SAME_OBJECT = 0.5  # IoU above which masks of two views can be one object, as in panoptic quality


class View(NamedTuple):
    """One view of an image: its size for the network, and whether it is mirrored."""

    size_hw: Size
    mirrored: bool

    def of(
        self, plain: UInt8[np.ndarray, "H W C"], resampling: Resampling = "antialiased"
    ) -> UInt8[np.ndarray, "h w C"]:
        """The image, resized for the model, then mirrored."""
        resized = resize_image(plain, self.size_hw, resampling)
        return np.ascontiguousarray(resized[:, ::-1]) if self.mirrored else resized


@dataclass(frozen=True, slots=True)
class MultiScaleFlip:
    """The choice of views: every size plain and, with ``flip``, mirrored (Mask2Former, Table 4: multi-scale).

    Args:
        short_edges: short edges in pixels. By default, for semantic segmentation those published for the plain size
            of the model, or for other models 0.5 to 1.75 times its plain size; for segments and instances only the
            plain size, because very different sizes reduced quality more than they improved it in our measurements.
        long_edge: limit of the long edge in pixels; by default the published one, or none.
        flip: also use horizontally mirrored views.

    Raises:
        UserError: a size is not positive or is repeated, or there is no size.
    """

    short_edges: tuple[int, ...] | None = None
    long_edge: int | None = None
    flip: bool = True

    def __post_init__(self) -> None:
        sizes = self.short_edges
        if sizes is not None and (not sizes or min(sizes) < 1 or len(set(sizes)) != len(sizes)):
            raise UserError(f"test-time augmentation needs different sizes in pixels, got {list(sizes)}")
        if self.long_edge is not None and self.long_edge < 1:
            raise UserError(f"the cap of the longer side must be at least 1 pixel, got {self.long_edge}")

    def views(self, plain_hw: Size, settings: InferenceConfig, task: Task = "semantic") -> list[View]:
        """The views of an image that the model would see at ``plain_hw``: the nearest size first, plain views first.

        Views that happen to be equal, for instance because of the limit, are kept: each counts, as published.
        """
        short, longest = min(plain_hw), None
        sizes = self.short_edges
        if sizes is None and task != "semantic":
            return [View(plain_hw, mirrored) for mirrored in ((False, True) if self.flip else (False,))]
        if sizes is None:
            published = _PUBLISHED_SIZES.get((settings.short_edge, settings.long_edge))
            sizes, longest = published or (tuple(max(1, round(factor * short)) for factor in _FACTORS), None)
        cap = self.long_edge or longest or 2**31
        nearest_first = sorted(sizes, key=lambda size: (abs(size - short), size))
        return [
            View(shortest_edge_size(plain_hw, size, cap), mirrored)
            for size in nearest_first
            for mirrored in ((False, True) if self.flip else (False,))
        ]


class AugmentedPredictor(Predictor):
    """A predictor that processes several views of every image; it is called like the predictor it is made from.

        predictor = AugmentedPredictor(Predictor.from_pretrained("cityscapes-semantic/swin-t"))
        result = predictor("street.jpg", "semantic")

    Time grows with the number of pixels of all views: twice for one size and its mirror image, about seventeen times
    for the six sizes of semantic segmentation. A single view at the plain size gives the plain result, bit for bit.

    Args:
        predictor: predictor whose network, device and settings are used.
        augmentation: the views.

    Attributes:
        augmentation: the views.
    """

    shares_batches: ClassVar[bool] = False  # each image already is a batch of views

    def __init__(self, predictor: Predictor, augmentation: MultiScaleFlip | None = None) -> None:
        super().__init__(
            predictor.network, predictor.device, settings=predictor.settings, categories=predictor.categories
        )
        self.augmentation = augmentation or MultiScaleFlip()

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        recipe: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        *,
        augmentation: MultiScaleFlip | None = None,
        **overrides: Any,
    ) -> AugmentedPredictor:
        """Like :meth:`Predictor.from_pretrained`, with views.

        Raises:
            UserError: see :meth:`Predictor.from_pretrained`.
        """
        return cls(Predictor.from_pretrained(source, recipe, device, dtype, **overrides), augmentation)

    def clip(self, frames: Sequence[ImageSource], **overrides: Any) -> VideoInstances:
        """Not supported: there is no published rule for clips.

        Raises:
            UserError: always.
        """
        raise UserError(_NO_CLIPS)

    def track_opened(
        self, frames: Frames, task: Task | None = None, **overrides: Any
    ) -> tuple[Iterator[TrackedFrame], dict[str, Any]]:
        """Not supported, like :meth:`clip`.

        Raises:
            UserError: always.
        """
        raise UserError(_NO_CLIPS)

    @property
    def recorded_settings(self) -> dict[str, Any]:
        return {**super().recorded_settings, "tta": asdict(self.augmentation)}

    def begin(self, images: Sequence[Shown], tasks: Sequence[Task]) -> list[ReadScores]:
        """Like :meth:`Predictor.begin`, with all views of each image, one image after the other."""
        return [self._through_views(shown, tasks) for shown in images]

    def _through_views(self, shown: Shown, tasks: Sequence[Task]) -> ReadScores:
        # Parity: the views are made from the image that was resized for the model, so it is resampled twice.
        plain = shown.resized
        views: dict[Task, list[View]] = {
            task: self.augmentation.views((plain.shape[0], plain.shape[1]), shown.settings, task) for task in tasks
        }
        found, scores = through_views(self.predictions, plain, shown.size_hw, views, shown.settings)
        return _Viewed(self, shown.size_hw, views, found, scores)


class _Viewed(NamedTuple):
    """An image that went through the network in several views."""

    predictor: Predictor
    size_hw: Size
    views: Mapping[Task, Sequence[View]]
    found: Mapping[View, Prediction]
    scores: Float[Tensor, "K H W"] | None

    def __call__(self, tasks: Sequence[Task], settings: InferenceConfig, /) -> Results:
        return {task: self._read(task, settings) for task in tasks}

    def class_scores(self, settings: InferenceConfig, /) -> Float[Tensor, "K H W"]:
        assert self.scores is not None
        return self.scores

    def _read(self, task: Task, settings: InferenceConfig) -> Segmentation:
        if task == "semantic":
            labels = self.class_scores(settings).argmax(0).to(torch.int32).cpu().numpy()
            return SemanticSegmentation(labels, self.predictor.categories)
        views = self.views[task]
        seen = [self.found[view] for view in views]
        agreed = with_room(lambda first: consensus([first, *seen[1:]], views), seen[0])
        return self.predictor.read_prediction(agreed, self.size_hw, task, settings)


def through_views(
    predictions: Callable[[Sequence[Tensor]], Sequence[Prediction | PixelPrediction]],
    plain: UInt8[np.ndarray, "H W C"],
    output_size: Size,
    views: Mapping[Task, Sequence[View]],
    settings: InferenceConfig,
) -> tuple[dict[View, Prediction], Float[Tensor, "K H W"] | None]:
    """Predictions of a network for the views of an image, each of which is processed once.

    Args:
        predictions: method of a network, see :meth:`Predictor.predictions`.
        plain: the image as it was resized for the network.
        output_size: height and width of class scores.
        views: the views of each task.
        settings: ``resampling`` and ``resize_masks_first`` are used.

    Returns:
        The predictions that panoptic and instance segmentation need, by view; for semantic segmentation the class
        scores averaged over its views, mirrored back, at the output size.
    """
    found: dict[View, Prediction] = {}
    scores: Float[Tensor, "K H W"] | None = None
    for view in dict.fromkeys(view for listed in views.values() for view in listed):
        [prediction] = predictions([to_pixels(view.of(plain, settings.resampling))])
        if any(view in listed for task, listed in views.items() if task != "semantic"):
            found[view] = of_queries(prediction)
        if times := list(views.get("semantic", ())).count(view):
            seen = times * with_room(lambda said: semantic_scores(said, output_size, settings), prediction)
            seen = seen.flip(-1) if view.mirrored else seen
            scores = seen if scores is None else scores.to(seen.device).add_(seen)
    return found, None if scores is None else scores.div_(len(views["semantic"]))


# --- one prediction from several -------------------------------------------------------------------------------------


class _Found(NamedTuple):
    """Queries that are matched across several views.

    ``probabilities`` are means over all views, where a view without the query counts as "no object". ``masks`` are mean
    probabilities over the views that have the query, of which there are ``seen``.
    """

    probabilities: Float[Tensor, "Q K1"]
    masks: Float[Tensor, "Q h w"]
    seen: Float[Tensor, " Q"]
    num_views: int


def consensus(predictions: Sequence[Prediction], views: Sequence[View]) -> Prediction:
    """The merged prediction of several views of one image, on the grid of the first.

    Query n of one view is unrelated to query n of another, and their order is arbitrary. Hence the views are
    merged two at a time: their queries are paired one to one so that the sum of IoU times class similarity (the
    Bhattacharyya coefficient of the class probabilities, "no object" included) is largest, and a pair whose masks have
    an IoU above 0.5 becomes one query. Its class probabilities and its mask probabilities are averaged, with equal
    weight for every view. A query without a partner is kept, but the other views count as "no object", so a single view
    is not enough for a confident object. First each size is merged with its mirror image, which makes the result of a
    mirrored image the mirrored result (exactly, if there is no padding), then the sizes are merged in the given order.

    Args:
        predictions: predictions for the views.
        views: the views; a mirrored view follows the plain one of its size.

    Returns:
        At most twice as many queries, those with the most probable classes, best first, without query features; for a
        single plain view, its prediction without changes.
    """
    grid = predictions[0]
    if len(predictions) == 1 and not views[0].mirrored:
        return grid
    most = 2 * len(grid)
    agreed: _Found | None = None
    group: _Found | None = None
    with torch.inference_mode(), torch.autocast(grid.device.type, enabled=False):
        for number, (prediction, view) in enumerate(zip(predictions, views, strict=True)):
            found = _on_grid(prediction, view.mirrored, grid)
            group = found if group is None else _merge(group, found, most)
            if number + 1 == len(views) or views[number + 1].size_hw != view.size_hw:
                agreed = group if agreed is None else _merge(agreed, group, most)
                group = None
        assert agreed is not None
        smallest = torch.finfo(agreed.masks.dtype).eps
        return Prediction(
            agreed.probabilities.clamp_min(torch.finfo(agreed.masks.dtype).tiny).log(),
            agreed.masks.clamp(smallest, 1 - smallest).logit()[:, None],
            grid.image_size,
            grid.padded_size,
        )


def _on_grid(prediction: Prediction, mirrored: bool, grid: Prediction) -> _Found:
    """Probabilities of a view, with its masks mirrored back and resampled to the grid of another."""
    masks = prediction.masks_of()[:, 0].to(grid.device, grid.dtype)
    rows, columns = (
        _resampling(_Side.of(prediction, axis), _Side.of(grid, axis), mirrored=mirrored and axis == 1)
        for axis in (0, 1)
    )
    masks = rows.to(masks) @ masks @ columns.to(masks).T
    return _Found(prediction.probabilities.to(masks), masks.sigmoid(), masks.new_ones(len(masks)), 1)


class _Side(NamedTuple):
    """Height or width: the cells of a mask, and the pixels of each."""

    cells: int
    pixels_per_cell: float
    size: int  # pixels without padding

    @classmethod
    def of(cls, prediction: Prediction, axis: int) -> _Side:
        cells = prediction.masks.shape[2 + axis]
        return cls(cells, prediction.padded_size[axis] / cells, prediction.image_size[axis])


def _resampling(side: _Side, grid: _Side, *, mirrored: bool) -> Float[Tensor, "grid cells"]:
    """Weights of linear interpolation from the cells of one side, padding included, to those of another.

    Both sides show the same part of the image, apart from padding.
    """
    indices = (torch.arange(grid.cells, dtype=torch.float64) + 0.5) * grid.pixels_per_cell / grid.size  # > 1: padding
    if mirrored:
        indices = 1 - indices
    positions = (indices * side.size / side.pixels_per_cell - 0.5).clamp(0, side.cells - 1)
    lower = positions.floor().clamp(max=max(0, side.cells - 2)).long()
    weights = torch.zeros(grid.cells, side.cells, dtype=torch.float64)
    weights.scatter_(1, lower[:, None], (1 - (positions - lower))[:, None])
    return weights.scatter_add_(1, (lower + 1).clamp(max=side.cells - 1)[:, None], (positions - lower)[:, None])


def _merge(one: _Found, other: _Found, most: int) -> _Found:
    """The queries of both sides, with pairs merged; at most ``most``, those with the most probable classes."""
    ious = _ious(one.masks > 0.5, other.masks > 0.5)
    similarity = ious * (one.probabilities.sqrt() @ other.probabilities.sqrt().T)
    left, right = (torch.as_tensor(index) for index in linear_sum_assignment(-similarity.cpu().numpy()))
    same = (ious.cpu() > _SAME_OBJECT)[left, right]
    left, right = left[same].to(ious.device), right[same].to(ious.device)

    # Both sides in the same order: first the pairs, then the rest of one side, then the rest of the other.
    alone_left, alone_right = (_others(index, len(side.seen)) for index, side in ((left, one), (right, other)))
    num_views = one.num_views + other.num_views
    probabilities = torch.cat(
        [
            (one.num_views * one.probabilities[left] + other.num_views * other.probabilities[right]) / num_views,
            _diluted(one.probabilities[alone_left], one.num_views / num_views),
            _diluted(other.probabilities[alone_right], other.num_views / num_views),
        ]
    )
    best = probabilities[:, :-1].amax(dim=1).argsort(descending=True, stable=True)[:most]
    seen = torch.cat([one.seen[left] + other.seen[right], one.seen[alone_left], other.seen[alone_right]])
    share = (one.seen[left] / seen[: len(left)])[:, None, None]
    masks = torch.cat(
        [share * one.masks[left] + (1 - share) * other.masks[right], one.masks[alone_left], other.masks[alone_right]]
    )
    return _Found(probabilities[best], masks[best], seen[best], num_views)


def _ious(one: Tensor, other: Tensor) -> Float[Tensor, "Q P"]:
    """Intersection over union of all pairs of masks; 0 for two empty ones."""
    left, right = one.flatten(1).float(), other.flatten(1).float()
    common = left @ right.T
    return common / (left.sum(1)[:, None] + right.sum(1) - common).clamp_min(1)


def _others(chosen: Tensor, count: int) -> Tensor:
    rest = torch.ones(count, dtype=torch.bool, device=chosen.device)
    rest[chosen] = False
    return rest.nonzero()[:, 0]


def _diluted(probabilities: Float[Tensor, "Q K1"], share: float) -> Float[Tensor, "Q K1"]:
    """The mean with views that predict "no object", where ``share`` is the share of the other views."""
    mean = probabilities * share
    mean[:, -1] += 1 - share
    return mean
