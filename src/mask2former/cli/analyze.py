"""Analyses of the inside of a model, and of its cost: ``mask2former analyze``.

Each command calls :mod:`mask2former.analysis`, prints the main figures, and writes a drawing and all figures.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer

from mask2former import limits
from mask2former.cli.names import complete_model
from mask2former.cli.shared import (
    DEFAULT_MODEL,
    DataRoot,
    Device,
    ModelArgument,
    Recipe,
    size_hw_of,
    working,
)
from mask2former.cli.terminal import aligned, make_console, say, say_document
from mask2former.errors import UserError
from mask2former.text import count, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mask2former.analysis.queries import QueryAttention, QueryMasks
    from mask2former.data.sources import DataSource

__all__ = ["analyze", "attention", "convergence", "flops", "focus", "layers", "proposals", "sampling"]

_T = TypeVar("_T")

analyze = typer.Typer(
    help="Analyze a model: the cost of its parts, the effect of its layers, and what it attends to.",
    epilog="Example: mask2former analyze flops coco-instance/r50",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_Data = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[:TASK]",
        help="Images with ground truth: scenes, a published data set, or RUN.yaml, as for mask2former evaluate.",
        show_default="scenes",
    ),
]
_Annotations = Annotated[
    Path | None, typer.Option(metavar="FILE.json", help="Your own data: a file in COCO format, with --images.")
]
_Images = Annotated[Path | None, typer.Option(metavar="DIR", help="Your own data: the folder of the images.")]
_Limit = Annotated[
    int | None,
    typer.Option(
        "--limit", min=1, max=limits.INTEGER, help="Maximum number of images.", show_default="all; of scenes 50"
    ),
]
_Image = Annotated[Path | None, typer.Option(metavar="FILE", help="The image.", show_default="a drawn scene")]
_Queries = Annotated[
    list[int] | None,
    typer.Option(
        "--query",
        min=0,
        help="Index of a query, from 0; can be repeated. The best queries have the most certain classes and masks.",
        show_default="the six best",
    ),
]


_Output = Annotated[
    Path, typer.Option("--output", "-o", help="The drawing (PNG); all figures are in a JSON file beside it.")
]


class _Report(Protocol):
    def to_dict(self) -> dict[str, Any]: ...
    def draw(self, path: Path) -> None: ...


def _check(output: Path, model: str | None = None, inputs: Iterable[str | Path | None] = ()) -> None:
    """Check, before any computation, that the drawing and the figures beside it can be written.

    Raises:
        UserError: they cannot be written or are inputs, or the path is not an image file.
    """
    from mask2former.files import check_outputs
    from mask2former.inference.opening import model_files

    if output.suffix.lower() != ".png":
        raise UserError(f"--output {output}: expected a file that ends in .png")
    read = [*([] if model is None else model_files(model)), *(path for path in inputs if path is not None)]
    check_outputs([("output", output), ("output", output.with_suffix(".json"))], read)


def _write(report: _Report, output: Path) -> None:
    from mask2former.results_io.json import write_json

    report.draw(output)
    write_json(output.with_suffix(".json"), report.to_dict())
    say(f"Drawing: {output}; all figures: {output.with_suffix('.json')}")


def _measured(measure: Callable[..., _T], model: str, source: DataSource, output: Path, device: str) -> _T:
    """The result of an analysis on images with ground truth."""
    _check(output, model, source.files())
    with working(make_console(), lambda: "nothing was written") as tell:
        return measure(model, source, device=device, progress=tell)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    for line in aligned([head, *rows]):
        say(line)


def layers(
    model: ModelArgument = DEFAULT_MODEL,
    data: _Data = None,
    data_root: DataRoot = None,
    annotations: _Annotations = None,
    images: _Images = None,
    limit: _Limit = None,
    output: _Output = Path("layers.png"),
    device: Device = "auto",
) -> None:
    """Measure the predictions before the first decoder layer and after each.

    AR@100 is the average recall of masks, regardless of class: before any layer, the learned queries are proposals.
    """
    from mask2former.analysis import layer_metrics
    from mask2former.analysis.layers import RECALL
    from mask2former.data.sources import DataSource

    source = DataSource(data, data_root, annotations, images, limit=limit)
    found = _measured(layer_metrics, model, source, output, device)
    names = [
        name for name in (RECALL, "panoptic/PQ", "instance/AP", "semantic/mIoU") if name in found.depths[0].metrics
    ]
    rows = [[one.name, *(_percent(one.metrics[name]) for name in names)] for one in found.depths]
    _table(["depth", *names], rows)
    _write(found, output)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def focus(
    model: ModelArgument = DEFAULT_MODEL,
    data: _Data = None,
    data_root: DataRoot = None,
    annotations: _Annotations = None,
    images: _Images = None,
    limit: _Limit = None,
    output: _Output = Path("focus.png"),
    device: Device = "auto",
) -> None:
    """Measure the share of attention on the objects, for each decoder layer, with and without the mask.

    Queries are matched with the ground truth as for the loss. "Without mask" is the attention that the scores of this
    model give unmasked; the paper compares with a model trained without masks (ablation/coco-instance/attention-full).
    """
    from mask2former.analysis import attention_focus
    from mask2former.data.sources import DataSource

    source = DataSource(data, data_root, annotations, images, limit=limit)
    found = _measured(attention_focus, model, source, output, device)
    rows = []
    for one in found.layers:
        shares = (one.share, one.everywhere, one.area)
        rows.append([one.name, ", ".join(map(str, one.strides)), *(_percent(100 * share) for share in shares)])
    _table(["layer", "stride", "on objects, %", "without mask, %", "area, %"], rows)
    say(f"Mean over {count(found.objects, 'object')} of {count(found.data['images'], 'image')}.")
    _write(found, output)


def attention(
    model: ModelArgument = DEFAULT_MODEL,
    image: _Image = None,
    query: _Queries = None,
    output: _Output = Path("attention.png"),
    device: Device = "auto",
) -> None:
    """Draw what queries attend to in every decoder layer."""
    from mask2former.analysis import attention_maps

    _check(output, model, [image])
    found = attention_maps(model, image, query or (), device=device)
    say("Share of attention on the mask that the query has at the end, percent, by layer and stride:")
    _query_table(found.layers, [(one, one.inside) for one in found.queries])
    _write(found, output)


def proposals(
    model: ModelArgument = DEFAULT_MODEL,
    image: _Image = None,
    query: _Queries = None,
    output: _Output = Path("proposals.png"),
    device: Device = "auto",
) -> None:
    """Draw the masks of queries before the first decoder layer and after each."""
    from mask2former.analysis import query_proposals

    _check(output, model, [image])
    found = query_proposals(model, image, query or (), device=device)
    say("IoU with the mask that the query has at the end, percent:")
    _query_table(found.depths, [(one, one.ious) for one in found.queries])
    _write(found, output)


def _query_table(columns: Sequence[str], found: Iterable[tuple[QueryMasks | QueryAttention, Sequence[float]]]) -> None:
    """A row of shares for each query."""
    rows = [
        [str(one.query), one.label, f"{one.score:.2f}", *(_percent(100 * share) for share in shares)]
        for one, shares in found
    ]
    _table(["query", "class", "score", *columns], rows)


def sampling(
    model: ModelArgument = DEFAULT_MODEL,
    image: _Image = None,
    at: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="X Y", help="The point, in pixels of the image.", show_default="its centre"),
    ] = None,
    output: _Output = Path("sampling.png"),
    device: Device = "auto",
) -> None:
    """Draw where each encoder layer of the pixel decoder samples for one point of an image."""
    from mask2former.analysis import sampling_points

    _check(output, model, [image])
    found = sampling_points(model, image, at, device=device)
    rows = [[one.name, f"{one.distance:.1f}", f"{one.reach:.1f}"] for one in found.layers]
    say("Distance of samples in pixels of the image, by weight:")
    _table(["", "of this point", "of all points"], rows)
    _write(found, output)


def convergence(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Run directories of finished or running trainings.")
    ],
    metric: Annotated[
        str | None, typer.Option(help="For example panoptic/PQ.", show_default="PQ, else AP, else mIoU")
    ] = None,
    output: _Output = Path("convergence.png"),
) -> None:
    """Compare how many steps trainings need to reach a metric, from their metrics.csv files."""
    from mask2former.analysis import convergence as compare

    _check(output)
    found = compare(runs, metric)
    shares = sorted({share for one in found.runs for share in one.reached})
    rows = [
        [one.name, f"{one.best:.1f}", str(one.best_step), *(str(one.reached.get(share, "-")) for share in shares)]
        for one in found.runs
    ]
    _table(["run", f"best {found.metric}", "at step", *(f"{share} % at" for share in shares)], rows)
    _write(found, output)


def flops(
    model: Annotated[
        str,
        typer.Argument(
            help="Model: a name (see: mask2former models), a recipe of an ablation, file, folder, or hf://owner/name.",
            autocompletion=complete_model,
        ),
    ],
    size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HxW",
            help="Height and width of the input in pixels, for example 800x1216; can be repeated, for the mean.",
            show_default="those of the paper, for its models; others need one",
        ),
    ] = None,
    frames: Annotated[int, typer.Option(min=1, max=limits.CLIP_FRAMES, help="Frames of a clip.")] = 1,
    depth: Annotated[int, typer.Option(min=0, max=20, help="Depth of the table of modules.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print all modules and operators as JSON.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Also draw the table (PNG); all figures are in a JSON file beside it."),
    ] = None,
    recipe: Recipe = None,
) -> None:
    """Count the multiply-adds, parameters and activations of a model, per module, without running it.

    Published models are not downloaded. The last line is the cost of the published code for the same input, as reported
    in the paper: that code computes all masks at full resolution after every layer.
    """
    from mask2former.analysis import count_flops, paper_sizes, skeleton

    if output is not None and as_json:
        raise UserError("--json prints what --output writes beside its drawing; give only one of the two")
    if output is not None:
        _check(output, model)
    sizes = [size_hw_of(text) for text in size or ()]
    network = skeleton(model, recipe)
    cost = count_flops(network, sizes or paper_sizes(network), frames)
    if as_json:
        say_document(json.dumps({"model": model, **cost.to_dict()}, indent=1))
        return
    rows = [
        [_indented(one.name), f"{one.parameters:,}", f"{one.multiply_adds / 1e9:.2f}", f"{one.activations / 1e6:.1f}"]
        for one in cost.modules
        if not one.name or one.name.count(".") < depth
    ]
    _table(["module", "parameters", "G multiply-adds", "M activations"], rows)
    shown = {f"{height}x{width}": None for height, width in cost.sizes}
    mean = f"mean of {count(len(cost.sizes), 'image')} of " if len(cost.sizes) > 1 else ""
    say(f"Input: {mean}{listed(list(shown), 5)} pixels, padded{f', {frames} frames' if frames > 1 else ''}.")
    if cost.published is not None:
        say(f"As the paper counts, with the masks of the published code: {cost.published / 1e9:.1f} G.")
    if output is not None:
        _write(cost, output)


def _indented(name: str) -> str:
    """The last part of a name, indented by its depth."""
    depth, leaf = name.count("."), name.rpartition(".")[2]
    return f"  {'  ' * depth}{leaf}" if name else "model"
