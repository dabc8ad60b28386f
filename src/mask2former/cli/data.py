"""Data sets before training: ``mask2former check-data`` and ``mask2former prepare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mask2former import limits
from mask2former.cli.shared import (
    AllowOutside,
    BandRanges,
    Bands,
    DataRoot,
    ValueRange,
    ValueRule,
    chosen_bands,
    chosen_range,
    renamed,
    working,
)
from mask2former.cli.terminal import make_console, say
from mask2former.errors import FailedError
from mask2former.text import count

if TYPE_CHECKING:
    from rich.table import Table

    from mask2former.dataset_tools.figures import DataReport, SplitSummary

__all__ = ["check_data", "prepare"]

_FOUND = "searched for near DATA"
_MOST_CLASSES = 30  # rows of the table
_MOST_OFFENDERS = 5  # files listed per remark; faults are listed as in the report


def check_data(
    source: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="RUN.yaml, a COCO file (.json), YOLO's data.yaml, a file or folder of LabelMe, VIA, CVAT, Label "
            "Studio, Supervisely, QuPath (GeoJSON) or ImageJ (.roi, .zip), a folder of images with label maps, id maps "
            "or mask files, or the name of a published data set (ade20k, coco:instance, ...).",
        ),
    ],
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the images.", show_default=_FOUND)
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder of the label maps, id maps or panoptic PNG files.", show_default=_FOUND
        ),
    ] = None,
    names: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the names of the classes.", show_default=_FOUND)
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Validation data, in the same format as DATA.", show_default=_FOUND),
    ] = None,
    allow_outside: AllowOutside = False,
    data_root: DataRoot = None,
    queries: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=limits.INTEGER,
            help="Number of queries of the model to train.",
            show_default="as in the run file, or 100",
        ),
    ] = None,
    value_range: ValueRange = None,
    value_rule: ValueRule = None,
    band_ranges: BandRanges = None,
    bands: Bands = None,
    sheet: Annotated[
        Path, typer.Option(metavar="FILE.png", help="Where to write the contact sheet of annotated images.")
    ] = Path("contact-sheet.png"),
    suggest: Annotated[Path | None, typer.Option(metavar="RUN.yaml", help="Also write a suggested run file.")] = None,
    propose: Annotated[
        Path | None, typer.Option("--propose", metavar="RUN.yaml", help="The former name of --suggest.", hidden=True)
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write all statistics and findings as JSON.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=limits.WORKERS,
            help="Number of processes that read images.",
            show_default="all processors but one, at most 8",
        ),
    ] = None,
) -> None:
    """Check a data set before training: statistics, faults, and a contact sheet.

    Every image and annotation is read. The exit code is 1 if something is broken.
    """
    from mask2former.dataset_tools.check_data import check_data as check
    from mask2former.dataset_tools.infer_format import DataPaths

    suggest = renamed("--propose", propose, "--suggest", suggest)
    console = make_console()
    with working(console, lambda: "nothing was written") as tell:
        checked = check(
            source,
            DataPaths(images, labels, names, validation),
            allow_outside=allow_outside,
            root=data_root,
            num_queries=queries,
            value_range=chosen_range(value_range, value_rule, band_ranges),
            bands=chosen_bands(bands),
            sheet=sheet,
            suggest=suggest,
            json=json,
            num_workers=workers,
            progress=tell,
        )
    report = checked.report
    for split, summary in report.splits.items():
        console.print(_class_table(split, summary, report))
        for line in _lines(summary, report):
            say(f"  {line}")
    for remark in checked.notes:
        say(f"note: {remark}")
    for finding in report.findings:
        kind = "broken" if finding.broken else "note"
        say(f"{kind}: {finding.sentence(20 if finding.broken else _MOST_OFFENDERS)}")
    if checked.sheet is not None:
        say(f"Contact sheet: {checked.sheet}")
    if checked.suggested is not None:
        for reason in checked.reasons:
            say(f"suggested: {reason}")
        say(f"Run file: {checked.suggested}   (mask2former train {checked.suggested})")
    image_files = sum(summary.num_images for summary in report.splits.values())
    if report.is_broken:
        kinds = [finding for finding in report.findings if finding.broken]
        faults = sum(max(1, finding.count) for finding in kinds)
        could = f"{count(image_files, report.unit)} could be read"
        several = "" if len(kinds) == 1 else f", of {len(kinds)} kinds"
        raise FailedError(
            f"{count(faults, 'fault')} in '{source}'{several} ({could}); the first: {kinds[0].sentence(1)}; fix what "
            "is reported as broken above, then run this again"
        )
    say(f"{count(image_files, report.unit)} read, nothing is broken")


def _class_table(split: str, summary: SplitSummary, report: DataReport) -> Table:
    """Counts by class, in the order of the classes; if there are many, only the most frequent ones."""
    from rich.table import Table

    is_semantic = report.task == "semantic"
    rows = list(range(len(summary.categories)))
    if len(rows) > _MOST_CLASSES:
        rows = sorted(rows, key=lambda row: -int(summary.images_of[row]))[:_MOST_CLASSES]
    hidden = len(summary.categories) - len(rows)
    table = Table(title=split, caption=f"{hidden} more classes" if hidden else None)
    table.add_column("id", justify="right")
    table.add_column("class")
    for name in (f"{report.unit}s", *(() if is_semantic else ("objects",)), "% of pixels"):
        table.add_column(name, justify="right")
    for row in rows:
        item = summary.categories[row]
        objects = () if is_semantic else (str(summary.objects_of[row]),)
        share = 100 * float(summary.pixels_of[row]) / max(summary.num_pixels, 1)
        table.add_row(str(item.id), item.name, str(summary.images_of[row]), *objects, f"{share:.2f}")
    return table


def _lines(summary: SplitSummary, report: DataReport) -> list[str]:
    from mask2former.dataset_tools.figures import quantiles

    if not summary.num_images:
        return [f"no {report.unit} could be read"]
    sizes = [f"{width}x{height} ({number})" for (height, width), number in summary.sizes_hw[:4]]
    more = len(summary.sizes_hw) - len(sizes)
    lines = [
        f"{count(summary.num_images, report.unit)}, width x height: {', '.join(sizes)}"
        + (f" and {count(more, 'more size')}" if more else "")
    ]
    if summary.channel_mean:
        means, stds = (", ".join(f"{value:.2f}" for value in v) for v in (summary.channel_mean, summary.channel_std))
        lines.append(f"channels, in 0..255: mean {means}; deviation {stds}")
    per_image = ", ".join(f"{name} {value:.0f}" for name, value in quantiles(summary.objects).items())
    if report.task == "semantic":
        void = 100 * (1 - float(summary.pixels_of.sum()) / max(summary.num_pixels, 1))
        return [*lines, f"classes per image: {per_image}", f"ignored: {void:.2f} % of the pixels"]
    most = int(summary.objects.max())
    each = " for each tile" if report.is_tiled else ""
    lines.append(f"objects per {report.unit}: {per_image}; the model has {report.num_queries} queries{each}")
    if len(summary.areas):
        areas = ", ".join(f"{name} {value:.0f}" for name, value in quantiles(summary.areas).items())
        small, medium, large = (100 * share for share in summary.size_shares)
        lines.append(f"area in pixels: {areas}; small {small:.0f} %, medium {medium:.0f} %, large {large:.0f} % (COCO)")
    if most > report.num_queries and not report.is_tiled:
        lines.append(
            f"up to {most} objects in one image: train on smaller crops, or raise model.transformer_decoder.num_queries"
        )
    return lines


def prepare(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="ade20k, ade20k-full, cityscapes, coco-stuff-10k or drawn-cells.")
    ],
    data_root: DataRoot = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, max=limits.WORKERS, help="Number of processes.", show_default="one per processor"),
    ] = None,
) -> None:
    """Convert a published data set into the files that training and evaluation read, or draw images of cells.

    Complete files are skipped, so you can resume an interrupted conversion. Cityscapes is read as downloaded; for it,
    only the panoptic files for the official evaluation are written. drawn-cells needs no download.
    """
    from mask2former.dataset_tools.prepare import prepare as run

    made: dict[str, int] = {}

    def so_far() -> str:
        listed = ", ".join(f"{title}: {done}" for title, done in made.items())
        return f"{listed or 'nothing was written'}; run the same command again to continue"

    with working(make_console(), so_far) as tell:

        def tell_and_remember(title: str, done: int, total: int | None) -> None:
            made[title] = done
            tell(title, done, total)

        outcomes, notes = run(dataset, data_root, workers, tell_and_remember)
    for outcome in outcomes:
        line = f"{outcome.title}: {outcome.made} made, {outcome.there} already there"
        if outcome.note:
            line += f"; {outcome.note}"
        elif outcome.official is not None:
            line += f": all {outcome.official} of the official set"
        say(line)
    for note in notes:
        say(f"note: {note}")
