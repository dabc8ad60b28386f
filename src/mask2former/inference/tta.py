"""Test-time augmentation: one image at several sizes, plain and mirrored, answered together.

Semantic segmentation adds up class scores, as published. Panoptic and instance segmentation have no published rule;
ours (:func:`consensus`) finds the same query in all views and averages it. Knows no files and no metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mask2former.config import InferenceConfig, Task
from mask2former.data.frames import Frames
from mask2former.data.images import ImageSource
from mask2former.data.transforms import resize_shortest_edge, shortest_edge_size
from mask2former.errors import UserError
from mask2former.inference.predictor import Results, Predictor, with_room
from mask2former.postprocessing import semantic_scores
from mask2former.structures import Instances, MaskOutput, Segmentation, SemanticSegmentation, VideoInstances
from mask2former.structures.tracks import TrackedFrame

__all__ = ["AugmentedPredictor", "MultiScaleFlip", "View", "consensus"]

Size = tuple[int, int]

# Parity: shorter sides and cap of the published configurations, by the (shorter side, cap) of their plain test size.
# Those of COCO and Mapillary Vistas do not set any and so have their library's; for Mapillary Vistas the zoo's
# multi-scale numbers were made with others, which are not published.
_LIBRARY_SIZES = (tuple(range(400, 1201, 100)), 4000)
_PUBLISHED_SIZES = {
    (512, 2048): ((256, 384, 512, 640, 768, 896), 3584),  # ADE20K
    (640, 2560): ((320, 480, 640, 800, 960, 1120), 4480),  # ADE20K
    (1024, 2048): ((512, 768, 1024, 1280, 1536, 1792), 4096),  # Cityscapes
    (800, 1333): _LIBRARY_SIZES,  # COCO
    (2048, 2048): _LIBRARY_SIZES,  # Mapillary Vistas
}
_FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # which the published lists amount to
_NO_CLIPS = "test-time augmentation is for images; ask the plain predictor for the tracks of a clip"
_SAME_OBJECT = 0.5  # IoU above which masks of two views can be one, as in panoptic quality


class View(NamedTuple):
    """One way to look at an image: its size for the network, and whether it is mirrored."""

    size_hw: Size
    mirrored: bool

    def image(self, plain: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """The image, resized as the published models expect it, then mirrored."""
        height, width = self.size_hw
        if plain.shape[:2] != self.size_hw:
            # Parity: Pillow's bilinear filter on bytes, as for the plain size.
            plain = np.array(Image.fromarray(plain).resize((width, height), Image.Resampling.BILINEAR))
        return np.ascontiguousarray(plain[:, ::-1]) if self.mirrored else plain


@dataclass(frozen=True, slots=True)
class MultiScaleFlip:
    """Which views are taken: every size plain and, with ``flip``, mirrored (Mask2Former, Table 4: multi-scale).

    Args:
        short_edges: shorter sides in pixels. By default, for semantic segmentation those published for the plain size
            of the model, or for other models 0.5 to 1.75 times its plain size; for segments and instances the plain
            size alone, because far sizes cost them more than they gave where it was measured.
        long_edge: cap of the longer side in pixels; by default the published one, or none.
        flip: also mirrored left and right.

    Raises:
        UserError: a size that is no positive number, twice the same, or no size at all.
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
        """The views of an image that the model would see at ``plain_hw``: the nearest size first, plain first.

        Views that turn out equal, for instance through the cap, stay: each counts, as published.
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
    """A predictor that looks at every image several times; it is called and asked like the one it is made from.

        predictor = AugmentedPredictor(Predictor.from_pretrained("cityscapes-semantic/swin-t"))
        result = predictor("street.jpg", "semantic")

    Time grows with the number of pixels of all views: twice for one size and its mirror image, about seventeen times
    for the six sizes of semantic segmentation. A single view at the plain size gives the plain answer, bit for bit.

    Args:
        predictor: whose model, device and settings are used.
        augmentation: the views.

    Attributes:
        augmentation: the views.
    """

    def __init__(self, predictor: Predictor, augmentation: MultiScaleFlip | None = None) -> None:
        super().__init__(predictor.model, predictor.device, settings=predictor.settings)
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
        """As :meth:`Predictor.from_pretrained`, with views.

        Raises:
            UserError: likewise.
        """
        return cls(Predictor.from_pretrained(source, recipe, device, dtype, **overrides), augmentation)

    def clip(self, frames: Sequence[ImageSource], **overrides: Any) -> VideoInstances:
        """Refused: there is no published rule for clips.

        Raises:
            UserError: always.
        """
        raise UserError(_NO_CLIPS)

    def track_opened(
        self, frames: Frames, task: Task | None = None, **overrides: Any
    ) -> tuple[Iterator[TrackedFrame], dict[str, Any]]:
        """Refused as :meth:`clip` is.

        Raises:
            UserError: always.
        """
        raise UserError(_NO_CLIPS)

    @property
    def recorded_settings(self) -> dict[str, Any]:
        return {**super().recorded_settings, "tta": asdict(self.augmentation)}

    def _segment(
        self, image: UInt8[np.ndarray, "H W 3"], tasks: tuple[Task, ...], settings: InferenceConfig
    ) -> Results:
        if settings.tile:
            return super()._segment(image, tasks, settings)  # every window is looked at several times
        size_hw = (image.shape[0], image.shape[1])
        views, outputs, scores = self._look(image, tasks, settings)
        predictions: Results = {}
        for task in tasks:
            if task == "semantic":
                assert scores is not None
                predictions[task] = SemanticSegmentation(scores.argmax(0).to(torch.int32).cpu().numpy(), self.categories)
            else:
                found = [outputs[view] for view in views[task]]
                predictions[task] = self._agreed(found, views[task], task, size_hw, settings)
        return predictions

    def _segment_windows(
        self, parts: Sequence[UInt8[np.ndarray, "h w 3"]], size_hw: tuple[int, int], settings: InferenceConfig
    ) -> list[Instances]:
        sized = settings.model_copy(update={"short_edge": 0})  # they have the size of the plain view already
        found = []
        for part in parts:
            views, outputs, _ = self._look(part, ("instance",), sized)
            seen = [outputs[view] for view in views["instance"]]
            instances = self._agreed(seen, views["instance"], "instance", size_hw, settings)
            assert isinstance(instances, Instances)
            found.append(instances)
        return found

    def _look(
        self, image: UInt8[np.ndarray, "H W 3"], tasks: Sequence[Task], settings: InferenceConfig
    ) -> tuple[dict[Task, list[View]], dict[View, MaskOutput], Float[Tensor, "K H W"] | None]:
        """The views of each task, what the model says about those of segments and instances, and mean class scores."""
        # Parity: the views are made from the image that was resized for the model, so it is resampled twice.
        plain = resize_shortest_edge(image, settings.short_edge, settings.long_edge)
        views: dict[Task, list[View]] = {
            task: self.augmentation.views((plain.shape[0], plain.shape[1]), settings, task) for task in tasks
        }
        outputs: dict[View, MaskOutput] = {}
        scores: Float[Tensor, "K H W"] | None = None
        for view in dict.fromkeys(view for listed in views.values() for view in listed):
            output = self._run(view.image(plain))
            if any(view in listed for task, listed in views.items() if task != "semantic"):
                outputs[view] = output
            if times := views.get("semantic", []).count(view):
                found = times * self._scores(output, view, (image.shape[0], image.shape[1]), settings)
                scores = found if scores is None else scores.to(found.device).add_(found)
        return views, outputs, None if scores is None else scores.div_(len(views["semantic"]))

    def _scores(
        self, output: MaskOutput, view: View, size_hw: Size, settings: InferenceConfig
    ) -> Float[Tensor, "K H W"]:
        """Class scores of one view at the size of the image, mirrored back."""

        def step(predictions: MaskOutput) -> Float[Tensor, "K H W"]:
            return semantic_scores(
                predictions, 0, view.size_hw, size_hw, resize_masks_first=settings.resize_masks_first
            )

        found = with_room(step, output)
        return found.flip(-1) if view.mirrored else found

    def _agreed(
        self, outputs: Sequence[MaskOutput], views: Sequence[View], task: Task, size_hw: Size, settings: InferenceConfig
    ) -> Segmentation:
        output = with_room(lambda first: consensus([first, *outputs[1:]], views), outputs[0])
        return self._predict(output, task, views[0].size_hw, size_hw, settings)


# --- one answer from several -----------------------------------------------------------------------------------------


class _Found(NamedTuple):
    """Queries that several views agree on.

    ``probabilities`` are means over all views, where one that lacks the query says "no object"; ``masks`` are mean
    probabilities over the views that have it, of which there are ``seen``.
    """

    probabilities: Float[Tensor, "Q K1"]
    masks: Float[Tensor, "Q h w"]
    seen: Float[Tensor, " Q"]
    num_views: int


def consensus(outputs: Sequence[MaskOutput], views: Sequence[View]) -> MaskOutput:
    """What several views of one image say together, on the grid of the first.

    Query n of one view has nothing to do with query n of another, and their order means nothing. Hence the views are
    merged two at a time: their queries are paired one to one so that the sum of IoU times class similarity (the
    Bhattacharyya coefficient of the class probabilities, "no object" included) is largest, and a pair whose masks have
    an IoU above 0.5 becomes one query. Its class probabilities and its mask probabilities are averaged, every view
    counting once. A query without partner stays, but the other views count as having said "no object": one view alone
    convinces nobody. First each size is merged with its mirror image, which makes the answer to a mirrored image the
    mirrored answer (exactly so where there is no padding), then the sizes are merged in the order given.

    Args:
        outputs: of a batch of one image each.
        views: how each was made; a mirrored view follows the plain one of its size.

    Returns:
        At most twice as many queries, those with the most probable classes, best first; for a single plain view its
        output as it is.
    """
    if len(outputs) == 1 and not views[0].mirrored:
        return outputs[0]
    grid, num_queries = outputs[0], outputs[0].class_logits.shape[1]
    agreed: _Found | None = None
    group: _Found | None = None
    with torch.inference_mode(), torch.autocast(grid.mask_logits.device.type, enabled=False):
        for number, (output, view) in enumerate(zip(outputs, views, strict=True)):
            found = _on_grid(output, view, grid, views[0].size_hw)
            group = found if group is None else _merge(group, found, 2 * num_queries)
            if number + 1 == len(views) or views[number + 1].size_hw != view.size_hw:
                agreed = group if agreed is None else _merge(agreed, group, 2 * num_queries)
                group = None
        assert agreed is not None
        smallest = torch.finfo(agreed.masks.dtype).eps
        return MaskOutput(
            agreed.probabilities.clamp_min(torch.finfo(agreed.masks.dtype).tiny).log()[None],
            agreed.masks.clamp(smallest, 1 - smallest).logit()[None, :, None],
            grid.query_features.new_zeros((1, len(agreed.seen), grid.query_features.shape[2])),
        )


def _on_grid(output: MaskOutput, view: View, grid: MaskOutput, grid_hw: Size) -> _Found:
    """Probabilities of a view, its masks mirrored back and resampled to the mask cells of another."""
    wide = torch.promote_types(grid.mask_logits.dtype, torch.float32)
    masks = output.mask_logits[0, :, 0].to(grid.mask_logits.device, wide)
    rows = _resampling(masks.shape[1], view.size_hw[0], grid.mask_logits.shape[3], grid_hw[0], False)
    columns = _resampling(masks.shape[2], view.size_hw[1], grid.mask_logits.shape[4], grid_hw[1], view.mirrored)
    masks = rows.to(masks) @ masks @ columns.to(masks).T
    probabilities = output.class_logits[0].to(masks).softmax(dim=-1)
    return _Found(probabilities, masks.sigmoid(), masks.new_ones(len(masks)), 1)


def _resampling(cells: int, size: int, grid_cells: int, grid_size: int, mirrored: bool) -> Float[Tensor, "grid cells"]:
    """Weights of linear interpolation from the cells of one side (4 pixels each, padding included) to those of another.

    ``size`` and ``grid_size`` are the pixels of the side without padding, which show the same part of the image.
    """
    indices = (torch.arange(grid_cells, dtype=torch.float64) + 0.5) * 4 / grid_size  # share of the side; > 1: padding
    if mirrored:
        indices = 1 - indices
    positions = (indices * size / 4 - 0.5).clamp(0, cells - 1)
    lower = positions.floor().clamp(max=max(0, cells - 2)).long()
    weights = torch.zeros(grid_cells, cells, dtype=torch.float64)
    weights.scatter_(1, lower[:, None], (1 - (positions - lower))[:, None])
    return weights.scatter_add_(1, (lower + 1).clamp(max=cells - 1)[:, None], (positions - lower)[:, None])


def _merge(one: _Found, other: _Found, most: int) -> _Found:
    """Both sides' queries, pairs as one; at most ``most``, those with the most probable classes."""
    ious = _ious(one.masks > 0.5, other.masks > 0.5)
    similarity = ious * (one.probabilities.sqrt() @ other.probabilities.sqrt().T)
    left, right = (torch.as_tensor(index) for index in linear_sum_assignment(-similarity.cpu().numpy()))
    same = (ious.cpu() > _SAME_OBJECT)[left, right]
    left, right = left[same].to(ious.device), right[same].to(ious.device)

    # Both sides laid out alike: first the pairs, then those of one side, then those of the other.
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
    """The mean with views that say "no object", where ``share`` of all views do not."""
    mean = probabilities * share
    mean[:, -1] += 1 - share
    return mean
