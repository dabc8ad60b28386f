"""The results of an evaluation, printed in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mask2former.cli.terminal import say
from mask2former.text import count

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from mask2former.evaluation.scores import EvaluationReport

__all__ = ["class_table", "headline", "print_scores"]

_HEADLINES = ("panoptic/PQ", "instance/AP", "instance/boundary_AP", "instance/pooled_AP", "semantic/mIoU")

_MOST_CLASSES = 24  # rows of the table
_GROUP_METRICS = {
    "panoptic": ("PQ",),
    "instance": ("AP", "AP50", "boundary_AP", "pooled_AP", "pooled_AP50"),
    "semantic": ("mIoU",),
}


def headline(model: str, report: EvaluationReport) -> str:
    """One line: what was measured, how fast, and the main metrics."""
    metrics, number = report.metrics, max(report.num_images, 1)
    if report.unit == "clip":
        line = f"{count(report.num_images, 'clip')} done ({model}), {report.seconds / number:.1f} s each"
        if "instance/AP" in metrics:
            line += f": AP {metrics['instance/AP']:.2f}"
        if "panoptic/VPQ" in metrics:
            switches = metrics["panoptic/id_switches"]
            line += f": VPQ {metrics['panoptic/VPQ']:.2f}, identity switches {switches:.0f}"
    else:
        rate = report.num_images / max(report.seconds, 1e-9)
        speed = f"{rate:.1f} per second" if rate >= 1 else f"{report.seconds / number:.1f} s each"
        numbers = ", ".join(f"{name.split('/')[1]} {metrics[name]:.2f}" for name in _HEADLINES if name in metrics)
        line = f"{count(report.num_images, 'image')} measured ({model}), {speed}: {numbers}"
    return line


def print_scores(console: Console, report: EvaluationReport) -> None:
    """Notes, a table of classes for each task, and a line for each metric."""
    limited = []
    if report.num_images < report.num_available:
        limited = [f"limited to the first {report.num_images} of {count(report.num_available, report.unit)} (--limit)"]
    for remark in [*report.notes, *limited, *_beyond_limit(report)]:
        say(f"note: {remark}")
    for task, rows in report.per_class.items():
        console.print(class_table(task, rows))
    for name, value in report.metrics.items():
        say(f"{name:<32}{value:6.2f}")
    if (points := report.operating_points()) is not None:
        best = points.best
        say(
            f"score threshold {points.scores[best]:.2f} gives the highest F1: {100 * points.f1[best]:.1f} at IoU 0.5 "
            f"(precision {100 * points.precision[best]:.1f}, recall {100 * points.recall[best]:.1f})"
        )
    if report.groups:
        console.print(_group_table(report))


def _beyond_limit(report: EvaluationReport) -> list[str]:
    """A remark if an image or a clip has more objects than the number of detections that count."""
    evaluator = report.evaluators.get("instance")
    most, limit = getattr(evaluator, "most_true", 0), getattr(evaluator, "max_detections", 0)
    if most <= limit:
        return []
    return [
        f"there are up to {most} objects in one image or clip, but AP counts at most {count(limit, 'detection')} per "
        f"image and class; --max-detections {most} counts all"
    ]


def _group_table(report: EvaluationReport) -> Table:
    """The first metrics of each task by group of images."""
    from rich.table import Table

    table = Table(title="groups of images, percent")
    names = [
        name
        for task, metrics in _GROUP_METRICS.items()
        for metric in metrics
        if (name := f"{task}/{metric}") in report.metrics
    ]
    for head in ("group", "images", *(name.split("/")[1] for name in names)):
        table.add_column(head, justify="left" if head == "group" else "right")
    for group, (metrics, size) in report.groups.items():
        cells = ("-" if metrics[name] != metrics[name] else f"{metrics[name]:.2f}" for name in names)
        table.add_row(group, str(size), *cells)
    return table


def class_table(task: str, rows: dict[str, dict[str, float]]) -> Table:
    """Metrics by class, in the order of the classes; if there are many, only the best and worst by the first metric."""
    from rich.table import Table

    defined = {name: values for name, values in rows.items() if any(value == value for value in values.values())}
    absent = len(rows) - len(defined)
    table = Table(title=f"{task}, percent", caption=f"{absent} more without true objects" if absent else None)
    table.add_column("class")
    for name in next(iter(rows.values()), {}):
        table.add_column(name, justify="right")
    shown: list[tuple[str, dict[str, float]] | None] = list(defined.items())
    if len(shown) > _MOST_CLASSES:
        falling = sorted(defined.items(), key=lambda row: -next(iter(row[1].values())))
        shown = [*falling[: _MOST_CLASSES // 2], None, *falling[-(_MOST_CLASSES // 2) :]]
    for row in shown:
        if row is None:
            table.add_row(f"({len(defined) - _MOST_CLASSES} between)", style="dim")
        else:
            table.add_row(row[0], *("-" if value != value else f"{value:.2f}" for value in row[1].values()))
    return table
