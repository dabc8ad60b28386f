"""Where the pixel decoder samples for one point of an image (Deformable DETR, Sec. 4.1), by encoder layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from mask2former.analysis.drawing import CELL, points_on, write_sheet
from mask2former.analysis.inside import sampling_of
from mask2former.analysis.subjects import prepared
from mask2former.errors import UserError
from mask2former.inference.opening import ModelSource, open_predictor
from mask2former.media.images import ImageSource

__all__ = ["LayerPoints", "SamplingPoints", "sampling_points"]

_COLUMNS = 3
_COLORS = ((217, 98, 43), (90, 170, 255), (60, 200, 140), (240, 200, 60))  # by level


@dataclass(frozen=True)
class LayerPoints:
    """The sampling points of the token at a point in one encoder layer.

    Attributes:
        name: ``layer 1`` and so on.
        points: (x, y) in pixels of the image; they may be outside.
        strides: stride of the level of each point.
        heads: head of each point.
        weights: weight of each point; those of a head sum to 1.
        distance: weighted mean distance from the token's point, in pixels of the image.
        reach: the same for all tokens of that level.
    """

    name: str
    points: Float[np.ndarray, "P 2"]
    strides: tuple[int, ...]
    heads: tuple[int, ...]
    weights: tuple[float, ...]
    distance: float
    reach: float


@dataclass(frozen=True)
class SamplingPoints:
    """Sampling locations around a point of an image, for the token of the finest level at this point."""

    image: UInt8[np.ndarray, "H W 3"]
    point: tuple[float, float]
    layers: tuple[LayerPoints, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        names = ("name", "strides", "heads", "distance", "reach")
        rows = [
            {name: getattr(one, name) for name in names}
            | {"points": one.points.round(3).tolist(), "weights": [round(weight, 6) for weight in one.weights]}
            for one in self.layers
        ]
        return {"point": self.point, "layers": rows}

    def draw(self, path: str | Path) -> None:
        """A PNG with an image for each layer; the size of a point shows its weight.

        Raises:
            UserError: the path cannot be written.
        """
        height, width = self.image.shape[:2]
        strides = sorted({stride for one in self.layers for stride in one.strides}, reverse=True)
        color = {stride: _COLORS[index % len(_COLORS)] for index, stride in enumerate(strides)}
        cells = []
        for one in self.layers:
            rows = zip(one.points, one.weights, one.strides, strict=True)
            points = [(x / width, y / height, weight, color[stride]) for (x, y), weight, stride in rows]
            cells.append(points_on(self.image, points, (self.point[0] / width, self.point[1] / height)))
        starts = range(0, len(cells), _COLUMNS)
        rows = [cells[start : start + _COLUMNS] for start in starts]
        names = [f"layers {start + 1} to {min(start + _COLUMNS, len(cells))}" for start in starts]
        write_sheet(
            path,
            rows,
            (),
            names,
            title="Where the pixel decoder samples",
            subtitle=f"for the token at x = {self.point[0]:.0f}, y = {self.point[1]:.0f}, by encoder layer",
            legend=[(f"stride {stride}", color[stride]) for stride in strides],
            cell_width=2 * CELL,
        )


def sampling_points(
    model: ModelSource,
    image: ImageSource | None = None,
    point: tuple[float, float] | None = None,
    *,
    device: str | None = None,
) -> SamplingPoints:
    """Where each encoder layer of the pixel decoder samples for a point.

    Args:
        model: a name, file or folder, a model, or a predictor.
        image: used as a single input, without tiles; None: a drawn scene.
        point: (x, y) in pixels of the image; None: its centre.
        device: see :class:`~mask2former.Predictor`.

    Raises:
        UserError: the image cannot be read, the point is outside, or the pixel decoder has no deformable attention.
    """
    predictor = open_predictor(model, device=device, quiet=True)
    shown = prepared(predictor, image)
    height, width = shown.size_hw
    x, y = point or (width / 2, height / 2)
    if not (0 <= x < width and 0 <= y < height):
        raise UserError(f"the point {x:g}, {y:g} is outside the image of {width}x{height} pixels (width x height)")
    resized, step = shown.resized.shape[:2], predictor.model.size_divisibility
    padded = np.array([-(-side // step) * step for side in resized[::-1]])  # width, height
    scale = np.array([width, height]) / resized[::-1]  # from pixels of the input to those of the image
    found = []
    for number, layer in enumerate(sampling_of(predictor.model, shown), start=1):
        grid = layer.grids[-1]
        spacing = padded / grid[::-1]
        column, row = (int(value) for value in np.array([x, y]) / scale // spacing)
        first = sum(rows * columns for rows, columns in layer.grids[:-1])
        places = layer.locations[first:].numpy() * padded * scale  # (S, M, L, P, 2), pixels of the image
        weights = layer.weights[first:].numpy()
        rows, columns = np.mgrid[: grid[0], : grid[1]]
        centers = (np.stack((columns, rows), axis=-1).reshape(-1, 2) + 0.5) * spacing * scale
        distances = np.linalg.norm(places - centers[:, None, None, None], axis=-1)
        mean = (weights * distances).sum((1, 2, 3)) / weights.sum((1, 2, 3))
        token = row * grid[1] + column
        strides = [round(float(padded[1]) / rows) for rows, _ in layer.grids]
        of_head, of_level = np.indices(weights.shape[1:])[:2]
        found.append(
            LayerPoints(
                f"layer {number}",
                places[token].reshape(-1, 2),
                tuple(strides[level] for level in of_level.ravel()),
                tuple(of_head.ravel().tolist()),
                tuple(weights[token].ravel().tolist()),
                float(mean[token]),
                float(mean.mean()),
            )
        )
    return SamplingPoints(shown.rgb, (float(x), float(y)), tuple(found))
