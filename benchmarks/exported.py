"""Exported files compared with their model: CPU seconds of the network, megabytes, and loss of the metric, in one run.

Only the network is timed, on one drawn scene at the model's input size, on one thread, with alternating calls; CPU
seconds are used, so other work on the machine matters little. Metrics are those of drawn scenes, for which the packaged
model ``scenes-tiny`` was trained. The files are written beforehand, for instance

    mask2former export scenes-tiny scenes.onnx
    mask2former export scenes-tiny scenes-int8.onnx --dtype int8 --calibration FOLDER
    OMP_NUM_THREADS=1 python benchmarks/exported.py scenes.onnx scenes-int8.onnx --output exported.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mask2former.config import Task
from mask2former.data.datasets.scenes import Scenes
from mask2former.data.sources import DataSource
from mask2former.data.transforms import resize_image
from mask2former.evaluation.evaluate import evaluate
from mask2former.inference.opening import open_predictor
from mask2former.inference.predictor import to_pixels

METRICS: dict[Task, str] = {"panoptic": "panoptic/PQ", "instance": "instance/AP"}


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--against", default="scenes-tiny")
    parser.add_argument("--calls", type=int, default=15)
    parser.add_argument("--side", type=int, default=128, help="of the drawn scene, before it is resized")
    parser.add_argument("--scenes", type=int, default=50, help="for the metric; 0: none")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = [options.against, *options.files]
    predictors = [open_predictor(name, device="cpu", quiet=True) for name in names]
    image = Scenes((options.side, options.side), seed=0, length=1).image(0)
    seconds: list[list[float]] = [[] for _ in names]
    shown = []
    for predictor in predictors:
        size = predictor.input_size((options.side, options.side), predictor.settings)
        shown.append([to_pixels(resize_image(image, size))])
    for call in range(options.calls + 2):  # the first two are warm-up
        for predictor, pixels, times in zip(predictors, shown, seconds, strict=True):
            start = time.process_time()
            predictor.predictions(pixels)
            if call >= 2:
                times.append(time.process_time() - start)
    rows: list[dict[str, Any]] = []
    for name, predictor, times in zip(names, predictors, seconds, strict=True):
        ratios = [mine / model for mine, model in zip(times, seconds[0], strict=True)]
        network: Any = predictor.network
        row: dict[str, Any] = {
            "name": Path(name).name,
            "runtime": getattr(network, "runtime", "torch"),
            "megabytes": round(getattr(network, "num_bytes", 0) / 1e6, 2) or None,
            "cpu_milliseconds": round(1000 * statistics.median(times), 2),
            "times_the_model": [round(value, 2) for value in (statistics.median(ratios), min(ratios), max(ratios))],
        }
        if options.scenes:
            data = DataSource("scenes", limit=options.scenes)
            found = evaluate(predictor, data, list(METRICS)).metrics
            row |= {metric: round(found[metric], 2) for metric in METRICS.values()}
        rows.append(row)
        print(row, flush=True)
    packages = {name: version(name) for name in ("torch", "onnxruntime", "openvino")}
    about = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "versions": packages}
    made = {"scene": options.side, "calls": options.calls, "scenes": options.scenes, **about, "rows": rows}
    options.output.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
