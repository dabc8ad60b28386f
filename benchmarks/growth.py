"""How time and memory of a prediction grow with pixels, queries, frames, classes and objects, with a slope for each.

One quantity grows, and the others are constant. Every point is a separate process on the CPU (on Linux): seconds are
the median of at most three calls from the image to the result, memory is the peak of the process beyond its memory
before the call. The slope is that of a straight line through the points in logarithms: 1 is proportional growth, 0 is
none. The slope between the last two points is also given, as constant parts matter least there.

The model has the size of ``scenes-tiny`` (or ``--model r50``), with random weights and thresholds of 0, so every
query is a result. Objects come from a network that predicts any number of discs. It takes about eight minutes on two
cores; ``--limit`` sets how long each of the five quantities may take.

    python benchmarks/growth.py --output benchmarks/results/growth.json --image docs/images/growth.png
    python benchmarks/growth.py --axes queries --points 50 100        # one axis, two points
    python benchmarks/growth.py --table benchmarks/results/growth.json      # the table of the docs
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

AXES: dict[str, tuple[float, ...]] = {
    "megapixels": (0.1, 0.4, 1.5, 6, 24),
    "queries": (50, 100, 200, 400),
    "frames": (1, 4, 12, 36),
    "classes": (1, 20, 133, 847),
    "objects": (1, 20, 200, 2000),
}
CONDITIONS = {  # what is constant, and what the result is
    "megapixels": "panoptic, shown at its own size",
    "queries": "panoptic, 512x512",
    "frames": "tracks of a clip of 192x256",
    "classes": "semantic, 512x512",
    "objects": "instances, 1024x1024, no network",
}
REASONS = {
    "megapixels": "every layer and every result is computed per pixel; nothing compares pixels with pixels",
    "queries": "masks and masked attention are per query, backbone and pixel decoder are not; self-attention of "
    "queries alone is quadratic, and small",
    "frames": "frames are independent up to the queries, which attend to all of them at once",
    "classes": "scores per class and pixel are added up for semantic maps; the class head is small",
    "objects": "masks are resized a part at a time and kept as the bits inside their boxes",
}
LIMIT = 90.0  # seconds of an axis; points that would probably exceed it are left out
CALLS = 3
ENOUGH = 4.0  # seconds; longer calls are not repeated
INK, SOFT, LINE, COLOR = "#17171a", "#5d5d66", "#dddcd6", "#2a6fc9"


# --- a point ---


def predictor(model: str, queries: int | None = None, classes: int = 14) -> Any:
    """A predictor with random weights and thresholds of 0."""
    import torch

    from mask2former import Predictor, recipes
    from mask2former.config import InferenceConfig
    from mask2former.models.build import build_model
    from mask2former.structures import Categories

    torch.manual_seed(0)
    config = recipes.recipe("coco-panoptic/r50").model if model == "r50" else recipes.scenes_tiny().model
    if queries:
        decoder = config.transformer_decoder.model_copy(update={"num_queries": queries})
        config = config.model_copy(update={"transformer_decoder": decoder})
    network = build_model(config, classes).eval()
    network.categories = Categories.from_names([f"class {index}" for index in range(classes)])
    settings = InferenceConfig(tasks=("panoptic", "instance", "semantic"), score_threshold=0.0, short_edge=0)
    return Predictor(network, device="cpu", settings=settings)


def image(height: int, width: int) -> np.ndarray:
    """A drawn scene of any size."""
    from PIL import Image

    from mask2former.data.datasets.scenes import Scenes

    drawn = Scenes((240, 320), seed=0, length=1).image(0)
    return np.array(Image.fromarray(drawn).resize((width, height), Image.Resampling.BILINEAR))


def discs(count: int) -> Any:
    """A predictor whose network predicts ``count`` discs on a grid in a square, each a tenth of a cell or more."""
    import torch

    from mask2former import Predictor
    from mask2former.config import InferenceConfig
    from mask2former.structures import Categories, Prediction

    side, grid = 256, math.ceil(math.sqrt(count))
    cell = side / grid
    y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    masks = torch.stack(
        [
            0.4 * cell - ((y - (index // grid + 0.5) * cell) ** 2 + (x - (index % grid + 0.5) * cell) ** 2).sqrt()
            for index in range(count)
        ]
    )
    found = Prediction(torch.tensor([[8.0, 0.0]]).repeat(count, 1), masks.unsqueeze(1), (1024, 1024), (1024, 1024))
    settings = InferenceConfig(tasks=("instance",), instance_threshold=0.0, short_edge=0, max_instances=count)
    return Predictor(
        lambda images: [found], device="cpu", settings=settings, categories=Categories.from_names(["disc"])
    )


def call_of(axis: str, value: float, model: str) -> Callable[[], Any]:
    """The call to measure at a point."""
    if axis == "megapixels":
        height = 32 * round(math.sqrt(value * 1e6 * 3 / 4) / 32)
        seen, segment = image(height, round(height * 4 / 3)), predictor(model)
        return lambda: segment(seen, "panoptic")
    if axis == "frames":
        frames, segment = [image(192, 256)] * int(value), predictor(model)
        return lambda: segment.clip(frames)
    if axis == "objects":
        seen, segment = image(1024, 1024), discs(int(value))
        return lambda: segment(seen, "instance")
    seen = image(512, 512)
    segment = predictor(model, queries=int(value)) if axis == "queries" else predictor(model, classes=int(value))
    task = "panoptic" if axis == "queries" else "semantic"
    return lambda: segment(seen, task)


def memory(name: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process, in bytes."""
    [found] = re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found)


def measure(axis: str, value: float, model: str) -> dict[str, float]:
    """Seconds and bytes of a point; memory is from the first call, which is only timed if there is no other."""
    call = call_of(axis, value, model)
    predictor(model)(image(64, 64), "panoptic")  # loads what any first call loads
    # Memory freed by creating the inputs is returned first; otherwise the call would reuse it and seem to need none.
    getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = memory("VmRSS")
    begin = time.perf_counter()
    call()
    times = [time.perf_counter() - begin]
    peak = memory("VmHWM") - before
    if times[0] < ENOUGH:
        times = []
        for _ in range(CALLS):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
    return {axis: value, "seconds": float(f"{statistics.median(times):.4g}"), "mib": round(peak / 2**20, 1)}


# --- all points ---


def slope(xs: list[float], ys: list[float]) -> float:
    """Slope of the straight line through the logarithms."""
    return round(float(np.polyfit(np.log(xs), np.log(np.maximum(ys, 1e-3)), 1)[0]), 2)


def grow(axis: str, points: list[float], arguments: argparse.Namespace) -> dict[str, Any]:
    """All points of an axis, as far as time permits."""
    rows: list[dict[str, float]] = []
    left_out: dict[str, str] = {}
    begin = time.perf_counter()
    for value in points:
        used = time.perf_counter() - begin
        expected = rows[-1]["seconds"] * value / rows[-1][axis] if rows else 0.0
        if used + expected > arguments.limit:
            left_out[f"{value:g}"] = f"would take {expected:.0f} s, and {used:.0f} of {arguments.limit:.0f} are used"
            continue
        command = [sys.executable, __file__, "--point", axis, "--points", str(value), "--model", arguments.model]
        command += ["--threads", str(arguments.threads)]
        allowed = arguments.limit - used + 10.0
        try:
            process = subprocess.run(command, capture_output=True, text=True, timeout=allowed)
        except subprocess.TimeoutExpired:
            left_out[f"{value:g}"] = f"not ready after {allowed:.0f} s"
            continue
        if process.returncode:
            left_out[f"{value:g}"] = (process.stderr.strip().splitlines() or [f"ended by {-process.returncode}"])[-1]
            continue
        rows.append(json.loads(process.stdout.splitlines()[-1]))
    result: dict[str, Any] = {"what": CONDITIONS[axis], "points": rows, "left_out": left_out}
    if len(rows) > 1:
        xs = [row[axis] for row in rows]
        for name in ("seconds", "mib"):
            ys = [row[name] for row in rows]
            result[f"slope_of_{name}"] = {"all": slope(xs, ys), "last_two": slope(xs[-2:], ys[-2:])}
    return result


def table(result: dict[str, Any]) -> str:
    """The table for the docs."""
    lines = ["| grows | from to | seconds | slope | MiB | slope | why |", "|---|---|---|---|---|---|---|"]
    for axis, found in result["axes"].items():
        points = found["points"]
        if len(points) < 2:
            continue
        ends = {axis: f"{points[0][axis]:,.6g} to {points[-1][axis]:,.6g}"}
        for name in ("seconds", "mib"):
            largest = max(points, key=lambda point: point[axis] if name == "seconds" else point["mib"])
            ends[name] = " to ".join(f"{v:,.0f}" if v >= 100 else f"{v:.2g}" for v in (points[0][name], largest[name]))
        slopes = [
            f"{found[key]['all']:.2f}, at the end {found[key]['last_two']:.2f}"
            for key in ("slope_of_seconds", "slope_of_mib")
        ]
        lines.append(
            f"| {axis} ({found['what']}) | {ends[axis]} | {ends['seconds']} | {slopes[0]} | {ends['mib']} "
            f"| {slopes[1]} | {REASONS[axis]} |"
        )
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """Seconds above, memory below, one column per axis, both on logarithmic scales."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes = {axis: found for axis, found in result["axes"].items() if found["points"]}
    figure, cells = plt.subplots(2, len(axes), figsize=(2.9 * len(axes), 5.4), squeeze=False, layout="constrained")
    for column, (axis, found) in enumerate(axes.items()):
        xs = [row[axis] for row in found["points"]]
        for row, (name, label) in enumerate((("seconds", "seconds"), ("mib", "MiB"))):
            cell = cells[row, column]
            ys = [max(point[name], 1e-3) for point in found["points"]]
            cell.set(xscale="log", yscale="log")
            middle = len(xs) // 2
            cell.plot(xs, [ys[middle] * x / xs[middle] for x in xs], color=LINE, linewidth=1.2, zorder=1)
            cell.plot(xs, ys, color=COLOR, marker="o", markersize=4.5, linewidth=1.8, zorder=2)
            low, high = min(ys), max(ys)
            cell.set_ylim(low / 2.5, high * 2.5)
            cell.set_xticks(xs, [f"{x:,g}" for x in xs])
            cell.xaxis.set_minor_locator(plt.NullLocator())
            cell.yaxis.set_major_locator(LogLocator(numticks=5))
            cell.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            cell.yaxis.set_minor_formatter(NullFormatter())
            cell.spines[["top", "right"]].set_visible(False)
            cell.spines[["left", "bottom"]].set_color(LINE)
            cell.tick_params(colors=SOFT, labelsize=8, which="both", color=LINE)
            slopes = found.get(f"slope_of_{name}")
            if slopes:
                text = f"slope {slopes['all']:.2f}, at the end {slopes['last_two']:.2f}"
                cell.text(0.03, 0.95, text, transform=cell.transAxes, fontsize=8, color=INK, va="top")
            if column == 0:
                cell.set_ylabel(label, color=INK, fontsize=9)
            if row == 0:
                cell.set_title(axis, color=INK, fontsize=10, loc="left", pad=18)
                cell.text(0, 1.03, found["what"], transform=cell.transAxes, fontsize=8, color=SOFT)
    figure.supxlabel("grey: proportional growth", x=0.995, ha="right", color=SOFT, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, draw, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("tiny", "r50"), default="tiny")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds of each axis (default: %(default)g)")
    parser.add_argument("--axes", nargs="+", choices=sorted(AXES), default=list(AXES), help="these alone")
    parser.add_argument("--points", nargs="+", type=float, help="of every axis, instead of the usual ones")
    parser.add_argument("--output", type=Path, help="JSON file")
    parser.add_argument("--image", type=Path, help="PNG, SVG or PDF file")
    parser.add_argument("--table", type=Path, help="print the table of these figures, and measure nothing")
    parser.add_argument("--point", choices=sorted(AXES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.table:
        result = json.loads(arguments.table.read_text())
        print(table(result))
        if arguments.image:
            draw(result, arguments.image)
        return
    if arguments.point:
        import torch

        torch.set_num_threads(arguments.threads)
        print(json.dumps(measure(arguments.point, arguments.points[0], arguments.model)))
        return
    result: dict[str, Any] = {
        "what": f"growth of time and memory of a prediction, model {arguments.model}, float32",
        "machine": f"{platform.machine()}, {arguments.threads} threads",
        "versions": {name: version(name) for name in ("torch", "mask2former")},
        "axes": {},
    }
    for axis in arguments.axes:
        result["axes"][axis] = grow(axis, sorted(arguments.points or AXES[axis]), arguments)
        if arguments.output:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    print(table(result))
    if arguments.image:
        draw(result, arguments.image)


if __name__ == "__main__":
    main()
