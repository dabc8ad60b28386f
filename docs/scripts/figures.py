"""Draws the images of ``docs/how-it-works.md`` from a pass of the packaged model over one drawn scene.

    python docs/scripts/figures.py docs/images

The attention masks are the inputs of the layers, captured at their calls; nothing is recomputed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from mask2former import Mask2Former, PanopticSegmentation, Prediction, Predictor
from mask2former.data.datasets.scenes import Scenes
from mask2former.models.pixel_decoders import PixelFeatures

SCENE = 2_000_016
SIZE = (192, 256)
STRIDES = (32, 16, 8)
plt.rcParams.update({"font.size": 9, "axes.titlesize": 9})


@dataclass
class Pass:
    """One pass of the network: inputs and outputs of its parts."""

    image: np.ndarray  # (H, W, 3)
    features: PixelFeatures
    blocked: list[np.ndarray]  # of each layer: (Q, h, w), where a query must not attend
    prediction: Prediction
    result: PanopticSegmentation


def one_pass() -> Pass:
    """Segment the scene and record intermediate values."""
    image = Scenes(SIZE, seed=SCENE, length=1).image(0)
    model = Mask2Former.from_pretrained("scenes-tiny").eval()
    caught: dict[str, PixelFeatures] = {}
    blocked: list[np.ndarray] = []
    model.pixel_decoder.register_forward_hook(lambda module, given, found: caught.update(features=found))

    def keep(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        guide = given[4][0].numpy()  # (Q, S)
        stride = STRIDES[len(blocked) % 3]
        blocked.append(guide.reshape(-1, SIZE[0] // stride, SIZE[1] // stride))

    for layer in model.transformer_decoder.layers:
        layer.register_forward_pre_hook(keep)
    with torch.inference_mode():
        output = model([torch.from_numpy(image.copy()).permute(2, 0, 1)])
    [prediction] = output.predictions([SIZE])
    predictor = Predictor(Mask2Former.from_pretrained("scenes-tiny"), device="cpu")
    return Pass(image, caught["features"], blocked, prediction, predictor(image, "panoptic", short_edge=0))


def queries_of(seen: Pass, things: int, stuff: int) -> list[tuple[int, str, float]]:
    """Query, class and probability of the most certain segments, each a different object of sufficient size."""
    masks = seen.prediction.masks_of()[:, 0] > 0
    scores, labels = seen.prediction.probabilities[:, :-1].max(1)
    found: dict[bool, list[tuple[int, str, float]]] = {True: [], False: []}
    for query in scores.argsort(descending=True).tolist():
        category = seen.result.categories[int(labels[query])]
        others = [other for some in found.values() for other, *_ in some]
        apart = all((masks[query] & masks[other]).sum() < 0.5 * (masks[query] | masks[other]).sum() for other in others)
        if masks[query].float().mean() > 0.01 and apart:
            found[category.is_thing].append((query, category.name, float(scores[query])))
    return [*found[True][:things], *found[False][:stuff]]


def enlarged(values: np.ndarray) -> np.ndarray:
    """A map enlarged to the size of the image, with each of its pixels as a square."""
    factor = SIZE[0] // values.shape[0]
    return values.repeat(factor, axis=0).repeat(factor, axis=1)


def colors_of(features: torch.Tensor) -> np.ndarray:
    """Channels as colours: the three principal components of a map ``(C, h, w)``, each stretched to 0..1."""
    rows = features.flatten(1).T  # (h*w, C)
    rows = rows - rows.mean(0)
    _, _, directions = torch.linalg.svd(rows, full_matrices=False)
    found = (rows @ directions[:3].T).numpy()
    low, high = np.percentile(found, [2, 98], axis=0)
    return ((found - low) / (high - low)).clip(0, 1).reshape(*features.shape[1:], 3)


def grid(rows: int, columns: int, width: float) -> tuple[Figure, np.ndarray]:
    """Axes without ticks, with the proportions of the image."""
    height = width / columns * SIZE[0] / SIZE[1]
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, rows * height + 0.35), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        for side in axis.spines.values():
            side.set_color("#999999")
    return figure, axes


def draw_pixel_decoder(seen: Pass) -> Figure:
    """The image, the three maps to which queries attend, and the pixel embeddings."""
    figure, axes = grid(1, 5, 11)
    maps = [*seen.features.multi_scale, seen.features.mask_features]
    titles = ["stride 32", "stride 16", "stride 8", "embeddings, stride 4"]
    axes[0, 0].imshow(seen.image)
    axes[0, 0].set_title(f"image, {SIZE[0]}x{SIZE[1]}")
    for axis, features, title in zip(axes[0, 1:], maps, titles, strict=True):
        axis.imshow(enlarged(colors_of(features[0])), interpolation="nearest")
        axis.set_title(f"{title}: {features.shape[2]}x{features.shape[3]}")
    return figure


def draw_attention(seen: Pass) -> Figure:
    """For some queries, where each layer lets them attend; the rest of the image is dark."""
    chosen = queries_of(seen, things=3, stuff=1)
    layers = len(seen.blocked)
    figure, axes = grid(len(chosen), layers + 1, 9)
    for row, (query, name, score) in zip(axes, chosen, strict=True):
        for index, axis in enumerate(row[:-1]):
            open_to = ~enlarged(seen.blocked[index][query])
            axis.imshow(np.where(open_to[..., None], seen.image, seen.image // 6))
        mask = seen.prediction.masks_of()[query, 0].sigmoid().numpy() > 0.5
        row[-1].imshow(np.where(enlarged(mask)[..., None], seen.image, seen.image // 6))
        row[0].set_ylabel(f"query {query}\n{name} {score:.2f}")
    for index, axis in enumerate(axes[0, :-1]):
        axis.set_title(f"layer {index + 1}, stride {STRIDES[index % 3]}")
    axes[0, -1].set_title("mask in the end")
    return figure


def draw_masks(seen: Pass) -> Figure:
    """The outputs of queries: mask probabilities and class, and the panoptic result of all of them."""
    chosen = queries_of(seen, things=2, stuff=1)
    figure, axes = grid(1, 5, 11)
    axes[0, 0].imshow(seen.image)
    axes[0, 0].set_title("image")
    for axis, (query, name, score) in zip(axes[0, 1:4], chosen, strict=True):
        mask = seen.prediction.masks_of()[query, 0].sigmoid().numpy()
        axis.imshow(enlarged(mask), cmap="viridis", vmin=0, vmax=1)
        axis.set_title(f"query {query}: {name} {score:.2f}")
    axes[0, 4].imshow(np.asarray(seen.result.plot(seen.image)))
    axes[0, 4].set_title("panoptic result")
    return figure


def main() -> None:
    """Write all figures into the given folder."""
    folder = Path(sys.argv[1])
    seen = one_pass()
    for name, draw in (("pixel-decoder", draw_pixel_decoder), ("attention", draw_attention), ("queries", draw_masks)):
        figure = draw(seen)
        figure.savefig(folder / f"how-{name}.jpg", dpi=110, pil_kwargs={"quality": 90})


if __name__ == "__main__":
    main()
