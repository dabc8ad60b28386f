"""Single queries on one image: their masks at every decoder depth, and what they attend to between depths.

Masks of learned queries are proposals even before the first layer (Mask2Former, the analysis of queries).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8

from mask2former.analysis.drawing import heat, spotlight, write_sheet
from mask2former.analysis.inside import attention_of, depth_names, predictions_of_depths
from mask2former.analysis.subjects import prepared
from mask2former.errors import UserError
from mask2former.inference.opening import ModelSource, open_predictor
from mask2former.inference.predictor import Predictor, to_pixels
from mask2former.media.images import ImageSource
from mask2former.ops.masks import Patch, iou
from mask2former.ops.resizing import resize_masks
from mask2former.structures import Prediction

__all__ = ["AttentionMaps", "Proposals", "QueryAttention", "QueryMasks", "attention_maps", "query_proposals"]

_ROWS = 6  # queries that are shown if none are named


@dataclass(frozen=True)
class QueryMasks:
    """A query at every depth.

    Attributes:
        query: its index.
        label: its final class.
        score: of that class, 0..1.
        areas: the share of the image that its mask covers, by depth.
        ious: IoU of its mask at each depth with its final mask.
        masks: its masks at the size of the image, by depth.
    """

    query: int
    label: str
    score: float
    areas: tuple[float, ...]
    ious: tuple[float, ...]
    masks: Bool[np.ndarray, "D H W"]


@dataclass(frozen=True)
class Proposals:
    """Masks of queries at every decoder depth, starting before the first layer if queries are supervised."""

    image: UInt8[np.ndarray, "H W 3"]
    depths: tuple[str, ...]
    queries: tuple[QueryMasks, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, without masks."""
        rows = [
            {"query": one.query, "label": one.label, "score": one.score, "areas": one.areas, "ious": one.ious}
            for one in self.queries
        ]
        return {"depths": self.depths, "queries": rows}

    def draw(self, path: str | Path) -> None:
        """A PNG with a row for each query and a column for each depth.

        Raises:
            UserError: the path cannot be written.
        """
        rows = [[spotlight(self.image, mask) for mask in one.masks] for one in self.queries]
        names = [f"{one.query}: {one.label} {one.score:.2f}" for one in self.queries]
        write_sheet(path, rows, self.depths, names, title="Masks of queries at every depth")


@dataclass(frozen=True)
class QueryAttention:
    """What a query attends to.

    Attributes:
        query: its index.
        label: its final class.
        score: of that class, 0..1.
        maps: weights of the tokens by layer, on the padded image; several scales are added up on the finest grid.
        inside: the share of the attention that is on the final mask of the query, by layer.
    """

    query: int
    label: str
    score: float
    maps: tuple[Float[np.ndarray, "h w"], ...]
    inside: tuple[float, ...]


@dataclass(frozen=True)
class AttentionMaps:
    """Cross-attention of queries by decoder layer, averaged over heads."""

    image: UInt8[np.ndarray, "H W 3"]
    layers: tuple[str, ...]
    queries: tuple[QueryAttention, ...]
    shown: tuple[float, float]  # share of the height and width of the padded image that is image, not padding

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; maps are lists of rows."""
        rows = [asdict(one) | {"maps": [weights.round(6).tolist() for weights in one.maps]} for one in self.queries]
        return {"layers": self.layers, "queries": rows}

    def draw(self, path: str | Path) -> None:
        """A PNG with a row for each query and a column for each layer.

        Raises:
            UserError: the path cannot be written.
        """
        rows = [[heat(self.image, self._visible(weights)) for weights in one.maps] for one in self.queries]
        names = [f"{one.query}: {one.label} {one.score:.2f}" for one in self.queries]
        write_sheet(path, rows, self.layers, names, title="Attention of queries, by decoder layer")

    def _visible(self, weights: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
        """The weights without the tokens of the padding."""
        height, width = (max(1, round(share * side)) for share, side in zip(self.shown, weights.shape, strict=True))
        return weights[:height, :width]


def query_proposals(
    model: ModelSource,
    image: ImageSource | None = None,
    queries: Sequence[int] = (),
    *,
    device: str | None = None,
) -> Proposals:
    """The masks of queries before the first decoder layer and after each layer.

    Args:
        model: a name, file or folder, a model, or a predictor.
        image: used as a single input, without tiles; None: a drawn scene.
        queries: their indices; if empty, the six with the highest final score as instances or segments.
        device: see :class:`Predictor`.

    Raises:
        UserError: the image cannot be read, there is no such query, or the model has no queries.
    """
    predictor = open_predictor(model, device=device, quiet=True)
    shown = prepared(predictor, image)
    depths = [one[0] for one in predictions_of_depths(predictor.model, [to_pixels(shown.resized)])]
    found = []
    for query in _chosen(depths[-1], queries):
        masks = np.stack([_mask(depth, query, shown.size_hw) for depth in depths])
        areas = tuple(float(mask.mean()) for mask in masks)
        label, score = _label(predictor, depths[-1], query)
        ious = tuple(iou(Patch(0, 0, mask), Patch(0, 0, masks[-1])) for mask in masks)
        found.append(QueryMasks(query, label, score, areas, ious, masks))
    return Proposals(shown.rgb, tuple(depth_names(predictor.model, len(depths))), tuple(found))


def attention_maps(
    model: ModelSource,
    image: ImageSource | None = None,
    queries: Sequence[int] = (),
    *,
    device: str | None = None,
) -> AttentionMaps:
    """What queries attend to in every decoder layer. Arguments are those of :func:`query_proposals`.

    Raises:
        UserError: see :func:`query_proposals`; or the decoder is not the masked one.
    """
    predictor = open_predictor(model, device=device, quiet=True)
    shown = prepared(predictor, image)
    depths, layers = attention_of(predictor.model, shown)
    last = depths[-1]
    found = []
    for query in _chosen(last, queries):
        maps = []
        for layer in layers:
            sizes = [height * width for height, width in layer.grids]
            parts = layer.weights[query].split(sizes)
            finest = max(layer.grids)
            on_one_grid = [
                F.interpolate(part.view(1, 1, *grid), finest, mode="nearest")[0, 0]
                * (len(part) / (finest[0] * finest[1]))
                for part, grid in zip(parts, layer.grids, strict=True)
            ]
            maps.append(torch.stack(on_one_grid).sum(0).numpy())
        inside = [_share_inside(last, query, weights) for weights in maps]
        found.append(QueryAttention(query, *_label(predictor, last, query), tuple(maps), tuple(inside)))
    names = [f"{index}: 1/{_strides(last, layer.grids)}" for index, layer in enumerate(layers, start=1)]
    visible = (last.image_size[0] / last.padded_size[0], last.image_size[1] / last.padded_size[1])
    return AttentionMaps(shown.rgb, tuple(names), tuple(found), visible)


def _strides(prediction: Prediction, grids: Sequence[tuple[int, int]]) -> str:
    return ", ".join(str(prediction.padded_size[0] // height) for height, _ in grids)


def _chosen(last: Prediction, queries: Sequence[int]) -> list[int]:
    """The queries that are named, or the best ones.

    Raises:
        UserError: the query does not exist.
    """
    if wrong := [query for query in queries if not 0 <= query < len(last)]:
        raise UserError(f"there is no query {wrong[0]}; the model has {len(last)}, counted from 0")
    if queries:
        return list(queries)
    logits = last.masks.all().flatten(1)
    inside = logits > 0
    certain = (logits.sigmoid() * inside).sum(1) / (inside.sum(1) + 1e-6)  # 0 for an empty mask
    scores = last.probabilities[:, :-1].amax(1) * certain
    return scores.topk(min(_ROWS, len(last))).indices.tolist()


def _label(predictor: Predictor, last: Prediction, query: int) -> tuple[str, float]:
    score, label = last.probabilities[query, :-1].max(0)
    return predictor.categories[int(label)].name, float(score)


def _mask(prediction: Prediction, query: int, size_hw: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """The mask of a query at the size of the image."""
    height, width = prediction.image_size
    with torch.inference_mode():
        logits = prediction.masks.of_queries(torch.tensor([query], device=prediction.device))[:, 0]
        seen = resize_masks(logits, prediction.padded_size)[..., :height, :width]
        return (resize_masks(seen, size_hw)[0] > 0).cpu().numpy()


def _share_inside(last: Prediction, query: int, weights: Float[np.ndarray, "h w"]) -> float:
    with torch.inference_mode():
        logits = last.masks.of_queries(torch.tensor([query], device=last.device))[:, 0]
        inside = (resize_masks(logits, weights.shape)[0] > 0).cpu().numpy()
    return float((weights * inside).sum())
