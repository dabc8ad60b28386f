"""Progress people can look at, and more views of a picture: ``mask2former plot``, ``--report`` and ``--tta``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mask2former.cli.shared import count
from mask2former.errors import RequestError

if TYPE_CHECKING:
    from mask2former.inference.evaluate import EvaluationReport
    from mask2former.inference.highlights import Highlights
    from mask2former.inference.predictor import Predictor

__all__ = ["Tta", "TtaSizes", "augmented", "plot", "write_page"]

Tta = Annotated[
    bool,
    typer.Option(
        "--tta", help="Look at each picture at several sizes, also mirrored; slower.", rich_help_panel="Settings"
    ),
]
TtaSizes = Annotated[
    str | None,
    typer.Option(
        metavar="PX,PX,...",
        help="The same with these shorter sides.",
        show_default="semantic: those published, or 0.5 to 1.75 of its own; else its own",
        rich_help_panel="Settings",
    ),
]


def plot(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories of training, also unfinished.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture: .png, .svg or .pdf.")] = Path("runs.png"),
) -> None:
    """Draw losses, learning rate and metrics over steps, several runs on top of each other."""
    from mask2former.inference.curves import plot_runs
    from mask2former.inference.files import check_file

    check_file(output)
    plot_runs(runs, output)
    print(f"Curves of {count(len(runs), 'run')}: {output}")


def augmented(predictor: Predictor, tta: bool, sizes: str | None) -> Predictor:
    """The predictor, with more views of each picture where they are asked for; sizes imply them.

    Raises:
        RequestError: sizes that are no numbers of pixels.
    """
    if not tta and sizes is None:
        return predictor
    from mask2former.inference.tta import AugmentedPredictor, MultiScaleFlip

    try:
        edges = None if sizes is None else tuple(int(part) for part in sizes.split(","))
    except ValueError:
        raise RequestError(f"--tta-sizes: expected numbers of pixels like 256,384,512, got '{sizes}'") from None
    return AugmentedPredictor(predictor, MultiScaleFlip(edges))


def write_page(
    path: Path, report: EvaluationReport, predictor: Predictor, highlights: Highlights, request: Mapping[str, Any]
) -> None:
    """The page of an evaluation, with what was asked and how the model was used."""
    import mask2former
    from mask2former.inference.report import write_report

    settings = {
        **request,
        "inference": predictor.recorded_settings | request.get("inference", {}),
        "device": predictor.device,
        "version": f"mask2former {mask2former.__version__}",
    }
    write_report(path, report, predictor.categories, highlights, title=f"{request['model']}", settings=settings)
