"""Training runs as a figure of curves: losses, learning rate and metrics over steps, for several runs at once.

Tables of figures become bar charts. This module has all drawing with matplotlib. It reads ``metrics.csv`` from run
directories, even during training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mask2former import limits
from mask2former.errors import UserError
from mask2former.evaluation.metrics_table import STEP, read_metrics, read_times
from mask2former.extras import need
from mask2former.files import check_outputs, write_whole
from mask2former.text import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Axis",
    "Series",
    "check_plot",
    "plot_bars",
    "plot_changes",
    "plot_rates",
    "plot_runs",
    "plot_series",
    "read_run",
    "run_names",
]

Series = Mapping[str, tuple[Sequence[float], list[float]]]
"""Steps, or hours, and values, by column name."""

Axis = Literal["steps", "hours"]

_TERMS = ("loss_ce", "loss_mask", "loss_dice")  # of the last layer; those of other layers are numbered
_METRICS = ("PQ", "AP", "mIoU")  # drawn for each task, with their parts
_DETAILS = {"PQ": ("SQ", "RQ"), "AP": ("AP50", "AP75"), "mIoU": ("pACC",)}
_COLORS = ("#2a6fc9", "#d9622b", "#168a63", "#8a5ac2", "#c23b6b", "#7a7a20", "#3a9aa8", "#6b6b74")
_INK, _SOFT, _LINE = "#17171a", "#5d5d66", "#dddcd6"
_SMOOTH_FROM = 60  # points; longer curves are drawn as noise behind a running mean
_WINDOW = 0.05  # of the points, for the running mean
_LARGEST = 1e30  # largest value that can be drawn
_FORMATS = ("png", "svg", "pdf")


def read_run(directory: Path) -> Series:
    """Everything that a run has logged so far, without rows that are still being written.

    Raises:
        UserError: there is no ``metrics.csv`` with values.
    """
    path = directory / "metrics.csv" if directory.is_dir() else directory
    hint = "expected a run directory written by training"
    series: dict[str, tuple[list[float], list[float]]] = {}
    for row in read_metrics(path, hint=hint).rows:
        for name, text in row.items():
            value = _number(text)
            if value is not None and name not in (STEP, ""):
                steps, values = series.setdefault(name, ([], []))
                steps.append(row[STEP])
                values.append(value)
    if not series:
        raise UserError(
            f"'{path}' contains no values yet; training logs the first ones after trainer.log_interval steps"
        )
    return series


def _number(text: object) -> float | None:
    """A finite number, or None for anything else."""
    try:
        value = float(text) if isinstance(text, str) else math.nan
    except ValueError:
        return None
    return value if abs(value) <= _LARGEST else None  # also excludes NaN


def _over_hours(directory: Path, series: Series) -> Series:
    """The same values over the hours that training, including validations, had taken at each step."""
    path = (directory if directory.is_dir() else directory.parent) / "times.csv"
    has_start = any(0 in steps for steps, _ in series.values())
    times = read_times(path, has_start=has_start, hint="draw the run over steps")
    rows = [(step, _number(seconds)) for step, seconds in times]
    if any(seconds is None for _, seconds in rows):
        raise UserError(f"'{path}' is not a table of steps and seconds; draw the run over steps")
    # If a step has several rows, use the last one, which includes its validation.
    hours = {step: seconds / 3600 for step, seconds in rows if seconds is not None}
    if missing := {step for steps, _ in series.values() for step in steps} - hours.keys():
        raise UserError(f"'{path}' lacks step {min(missing):.0f}; draw the run over steps")
    return {name: ([hours[int(step)] for step in steps], values) for name, (steps, values) in series.items()}


def plot_runs(runs: Sequence[str | Path], path: str | Path, over: Axis = "steps") -> None:
    """Draw the curves of one or several runs, each in its own colour, and write the image.

    Args:
        runs: run directories.
        path: PNG, SVG or PDF, by its suffix.
        over: the horizontal axis; hours are those of the training machine.

    Raises:
        UserError: a run has no values, or no times for hours; or the path has another suffix or cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    path, folders = Path(path), [Path(run) for run in runs]
    check_plot(path)
    if not folders:
        raise UserError("there is no run to plot; give at least one run directory")
    found = dict(zip(run_names(folders), map(read_run, folders), strict=True))
    if over == "hours":
        found = {name: _over_hours(run, series) for run, (name, series) in zip(folders, found.items(), strict=True)}
    panels = _panels(found)
    limits.check_limit("the runs have too many kinds of values:", len(panels), limits.PANELS, "are they training runs?")
    plot_series(found, panels, path, label="hours" if over == "hours" else "step")


def plot_series(
    found: Mapping[str, Series],
    panels: Sequence[tuple[str, tuple[str, ...]]],
    path: str | Path,
    *,
    label: str = "step",
    ticks: Sequence[str] = (),
) -> None:
    """Draw columns of values as curves, with a panel for each group of columns.

    Args:
        found: the series by name, each in its own colour; names are shown if there are several.
        panels: titles, and the columns in each panel; columns that a series lacks are left out.
        path: PNG, SVG or PDF, by its suffix.
        label: label of the horizontal axis; not shown with ``ticks``.
        ticks: names of the positions 0, 1, 2 and so on.

    Raises:
        UserError: the path has another suffix, or cannot be written; or there is no panel.
        MissingExtraError: matplotlib is not installed.
    """
    path = Path(path)
    kind = check_plot(path)
    if not panels:
        raise UserError(f"there is nothing to draw into '{path}', since no value is defined; use more data")
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = _figure(4.6 * columns, 3.1 * rows + (0.4 if len(found) > 1 else 0))
    for number, (title, names) in enumerate(panels):
        _draw(figure.add_subplot(rows, columns, number + 1), title, names, found, "" if ticks else label)
    last = max(step for series in found.values() for steps, _ in series.values() for step in steps)
    for axes in figure.axes:  # the same steps in all panels, so that they can be compared
        axes.set_xlim(-0.02 * (last or 1), 1.02 * (last or 1))
        if ticks:
            axes.set_xticks(range(len(ticks)), [_plain(name) for name in ticks])
    if len(found) > 1:
        handles = [
            figure.axes[0].plot([], [], color=_COLORS[index % len(_COLORS)], linewidth=2, label=_plain(name))[0]
            for index, name in enumerate(found)
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=min(4, len(found)), frameon=False, fontsize=9)
    write_whole(path, lambda file: figure.savefig(file, format=kind))


def plot_bars(names: Sequence[str], columns: Mapping[str, Sequence[float | None]], path: str | Path) -> None:
    """Draw a table of figures as bars, with a row for each name and a panel for each column.

    Args:
        names: names of the rows, from the top.
        columns: the figures of each column by its title; None leaves a row empty.
        path: PNG, SVG or PDF, by its suffix.

    Raises:
        UserError: the path has another suffix, or cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    path = Path(path)
    kind = check_plot(path)
    figure = _figure(1.8 + 2.2 * len(columns), 0.9 + 0.5 * len(names))
    rows = range(len(names))
    for number, (title, values) in enumerate(columns.items()):
        axes = _rows(figure, number, len(columns), title, names)
        lengths = [0.0 if value is None or not math.isfinite(value) else value for value in values]
        colors = [_COLORS[0], *[_COLORS[1]] * (len(names) - 1)]
        axes.barh(rows, lengths, height=0.6, color=colors)
        for row, value in zip(rows, values, strict=True):
            text = "–" if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"  # noqa: RUF001
            axes.text(lengths[row], row, f" {text}", va="center", fontsize=9, color=_INK)
        axes.set_xlim(0, 1.4 * max(lengths) or 1)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
    write_whole(path, lambda file: figure.savefig(file, format=kind))


def plot_changes(
    names: Sequence[str],
    columns: Mapping[str, Sequence[tuple[Sequence[float], float | None]]],
    spreads: Mapping[str, float],
    path: str | Path,
) -> None:
    """Draw the effects of changes to a method: a row for each change, a panel for each metric, and zero for no effect.

    Args:
        names: names of the rows, from the top.
        columns: for each metric, by its title, and each row: the effect in each repetition, whose mean is a bar, and
            the published effect, if there is one.
        spreads: for each metric, by its title: the largest distance of unchanged repetitions from their mean.
        path: PNG, SVG or PDF, by its suffix.

    Raises:
        UserError: the path has another suffix, or cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    path = Path(path)
    kind = check_plot(path)
    figure = _figure(1.9 + 2.5 * len(columns), 1.3 + 0.34 * len(names))
    for number, (title, rows) in enumerate(columns.items()):
        axes = _rows(figure, number, len(columns), title, names)
        axes.axvspan(-spreads[title], spreads[title], color=_LINE, alpha=0.5, linewidth=0)
        axes.axvline(0, color=_SOFT, linewidth=1)
        for row, (values, published) in enumerate(rows):
            if values:
                axes.barh(row, sum(values) / len(values), height=0.5, color=_COLORS[0], alpha=0.35)
                axes.plot(values, [row] * len(values), "o", markersize=4, color=_COLORS[0], clip_on=False)
            if published is not None:
                axes.plot([published], [row], "D", markersize=6, color=_COLORS[1], markerfacecolor="none")
        axes.spines["left"].set_visible(False)
    has_published = any(published is not None for rows in columns.values() for _, published in rows)
    marks = ["each seed (dot)", "mean (bar)", *["the paper (diamond)"] * has_published]
    between = " " if len(columns) > 1 else "\n"  # a single panel is narrower than the line
    legend = f"change in points: {', '.join(marks)};{between}grey: seeds of the baseline"
    figure.supxlabel(legend, fontsize=9, color=_SOFT)
    write_whole(path, lambda file: figure.savefig(file, format=kind))


def plot_rates(
    rates: Sequence[float], losses: Sequence[float], means: Sequence[float], suggested: float | None, path: str | Path
) -> None:
    """Draw losses, and their running mean, over rising learning rates.

    Args:
        rates: learning rates of the steps.
        losses: losses of the steps.
        means: running mean of the losses.
        suggested: the rate to mark, if any.
        path: PNG, SVG or PDF, by its suffix.

    Raises:
        UserError: the path has another suffix, or cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    path = Path(path)
    kind = check_plot(path)
    figure = _figure(6.4, 3.8)
    axes = figure.add_subplot(1, 1, 1)
    axes.plot(rates, losses, color=_LINE, linewidth=1, label="loss")
    axes.plot(rates, means, color=_COLORS[0], linewidth=2, label="running mean")
    if suggested is not None:
        label = f"falls most steeply: {suggested:.2g}"
        axes.axvline(suggested, color=_COLORS[1], linewidth=1.5, linestyle="--", label=label)
    axes.set_xscale("log")
    low, high = min(means), max(means[: len(means) // 2 + 1])
    axes.set_ylim(low - 0.15 * (high - low), high + 0.35 * (high - low))  # cuts off the divergence
    axes.set_xlabel("learning rate", color=_SOFT, fontsize=9)
    axes.set_ylabel("loss", color=_SOFT, fontsize=9)
    axes.tick_params(colors=_SOFT, labelsize=8.5)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    write_whole(path, lambda file: figure.savefig(file, format=kind))


def check_plot(path: Path, inputs: Iterable[str | Path] = ()) -> str:
    """Check that a figure can be written later, and return its format, by the suffix.

    Raises:
        UserError: the path has another suffix, cannot be written, or would replace an input.
        MissingExtraError: matplotlib is not installed.
    """
    kind = path.suffix[1:].lower()
    if kind not in _FORMATS:
        raise UserError(f"'{path}': expected a file that ends in .{', .'.join(_FORMATS)}")
    check_outputs([("plot", path)], inputs)
    need("report", "matplotlib", to="draw figures")
    return kind


def _figure(width: float, height: float) -> Figure:
    """An empty figure; ``width`` and ``height`` are in inches."""
    from matplotlib.figure import Figure  # without pyplot, so there is no window and no global state

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def _rows(figure: Figure, number: int, count: int, title: str, names: Sequence[str]) -> Axes:
    """Panel ``number`` of ``count`` side by side, with a row per name from the top; the first panel shows the names."""
    axes = figure.add_subplot(1, count, number + 1)
    axes.set_title(_plain(title), loc="left", fontsize=9.5, color=_INK)
    axes.set_yticks(range(len(names)), [_plain(name) for name in names] if number == 0 else [""] * len(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(length=0, labelsize=9, labelcolor=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_LINE)
    return axes


def run_names(runs: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that distinguish the runs, numbered where even the paths are equal."""
    parts = [run.resolve().parts for run in runs]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{run} ({number})" for number, run in enumerate(runs, start=1)]


def _panels(found: Mapping[str, Series]) -> list[tuple[str, tuple[str, ...]]]:
    """Titles and columns, the main ones first: the total loss, its terms, the learning rate, then metrics."""
    columns = {name for series in found.values() for name in series}
    panels: list[tuple[str, tuple[str, ...]]] = []
    if "loss" in columns:
        panels.append(("loss, all layers together", ("loss",)))
    panels += [(f"{term}, last layer", (term,)) for term in _TERMS if term in columns]
    panels += [(name.replace("_", " "), (name,)) for name in ("learning_rate", "gradient_norm") if name in columns]
    for name in sorted(columns):
        task, _, metric = name.rpartition("/")
        if task and metric in _METRICS:
            details = [f"{task}/{part}" for part in _DETAILS[metric] if f"{task}/{part}" in columns]
            panels.append((f"{task} {metric}, %", (name, *details)))
    return panels or [(name, (name,)) for name in sorted(columns)]


def _draw(axes: Axes, title: str, names: Sequence[str], found: Mapping[str, Series], label: str) -> None:
    """One panel: the first column as a solid line, its parts dashed."""
    labelled: set[str] = set()
    for index, series in enumerate(found.values()):
        for part, name in enumerate(names):
            if name not in series:
                continue
            steps, values = series[name]
            color = _COLORS[(index if len(found) > 1 else part) % len(_COLORS)]
            style = {"color": color, "linewidth": 1.8 if part == 0 else 1.2, "linestyle": ("-", "--", ":")[part % 3]}
            named = _plain(name.rpartition("/")[2]) if len(names) > 1 and name not in labelled else None
            labelled.add(name)
            if len(values) > _SMOOTH_FROM and "/" not in name and name != "learning_rate":
                axes.plot(steps, values, color=color, linewidth=0.7, alpha=0.25)
                values = _running_mean(values, max(3, int(_WINDOW * len(values))))
            axes.plot(steps, values, label=named, marker="o" if len(values) < 25 else None, markersize=3, **style)
    axes.set_title(_plain(title), loc="left", fontsize=10, color=_INK)
    axes.set_xlabel(label, fontsize=8.5, color=_SOFT)
    axes.tick_params(labelsize=8.5, colors=_SOFT, length=0)
    axes.ticklabel_format(axis="y", scilimits=(-3, 5))
    axes.yaxis.get_offset_text().set(size=8, color=_SOFT)
    axes.grid(color=_LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    if len(names) > 1:
        axes.legend(fontsize=8, frameon=False, labelcolor=_SOFT)
    if "/" in names[0]:
        axes.set_ylim(bottom=0)


def _running_mean(values: Sequence[float], window: int) -> list[float]:
    """The mean of up to ``window`` values around each, fewer at the ends."""
    half = window // 2
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    ranges = [(max(0, index - half), min(len(values), index + half + 1)) for index in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in ranges]


def _plain(text: str) -> str:
    """Text without special meaning for matplotlib, where $ starts a formula and a leading _ hides a label."""
    return shortened(text, 60).replace("$", r"\$").removeprefix("_")
