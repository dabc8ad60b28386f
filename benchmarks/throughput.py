"""Images per second from a folder to files: one step after the other, in overlapping stages, and in batches.

``scenes-tiny`` segments drawn scenes, with and without overlays. The methods alternate over parts of the folder, so a
slow phase of the machine affects all of them; figures are medians over the parts, per second of elapsed time and of all
cores together.

- ``in a row``: read, predict and ``save`` each image, like a loop with a predictor.
- ``stages``: like ``mask2former predict``, with reading ahead and encoding and writing behind in threads.
- ``batches of N``: the same with ``--batch-size N``.
- ``compiled``: ``stages`` with ``--compile`` (only with the flag of this script, since compiling takes a minute).

Also the cost of an overlay as a PNG file: time on one core and size for some settings of the encoder.

    python benchmarks/throughput.py --output benchmarks/results/throughput.json
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import shutil
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mask2former import Predictor
from mask2former.data.datasets.scenes import Scenes
from mask2former.inference.predict_files import Job, plan, segment_files
from mask2former.media.images import read_image

SIZE, TASK = (240, 320), "panoptic"
ENCODERS: dict[str, dict[str, Any]] = {
    "level 6 (Pillow's default)": {},
    "level 4 (before)": {"compress_level": 4},
    "level 1": {"compress_level": 1},
    "runs only (now)": {"compress_type": zlib.Z_RLE},
    "no matches": {"compress_type": zlib.Z_HUFFMAN_ONLY},
}
Way = Callable[[list[Job], bool], None]


def in_a_row(predictor: Predictor) -> Way:
    """One image after the other, without stages."""

    def work(jobs: list[Job], overlay: bool) -> None:
        for job in jobs:
            image = read_image(job.source)
            predictor(image, TASK).save(job.document, image if overlay else None)

    return work


def in_stages(predictor: Predictor, batch_size: int) -> Way:
    """Like the command."""

    def work(jobs: list[Job], overlay: bool) -> None:
        options = {"overlay": overlay, "overwrite": True, "batch_size": batch_size}
        for outcome in segment_files(predictor, jobs, TASK, **options):
            assert outcome.status == "done", outcome

    return work


def encoders(predictor: Predictor, jobs: list[Job]) -> dict[str, dict[str, float]]:
    """Milliseconds on one core and kilobytes of an overlay."""
    overlays = []
    for job in jobs[:6]:
        image = read_image(job.source)
        overlays.append(predictor(image, TASK).plot(image, scale=None))
    found = {}
    for name, options in ENCODERS.items():
        times, sizes = [], []
        for overlay in overlays:
            stream = io.BytesIO()
            start = time.thread_time()
            overlay.save(stream, format="PNG", **options)
            times.append(time.thread_time() - start)
            sizes.append(len(stream.getvalue()))
        found[name] = {
            "milliseconds": round(1000 * statistics.median(times), 1),
            "kilobytes": round(statistics.mean(sizes) / 1000, 1),
        }
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--part", type=int, default=20, help="images of a turn")
    parser.add_argument("--batches", type=int, nargs="*", default=[2, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    predictor = Predictor.from_pretrained("scenes-tiny", device=arguments.device, quiet=True)
    ways = {"in a row": in_a_row(predictor), "stages": in_stages(predictor, 1)}
    if arguments.compile:
        ways["compiled"] = in_stages(Predictor(predictor.model, arguments.device, compile=True), 1)
    ways |= {f"batches of {count}": in_stages(predictor, count) for count in arguments.batches}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scenes = Scenes(SIZE, seed=5, length=arguments.images)
        (folder / "images").mkdir()
        for index in range(arguments.images):
            Image.fromarray(scenes.image(index)).save(folder / "images" / f"{index:04}.png")
        jobs = plan([folder / "images"], folder / "results")
        for work in ways.values():
            work(jobs[:2], True)
        rates: dict[tuple[str, bool], list[tuple[float, float]]] = {}
        for turn, first in enumerate(range(0, len(jobs), arguments.part)):
            part = jobs[first : first + arguments.part]
            turned = list(ways.items())
            for overlay in (True, False):
                for way, work in turned[turn % len(turned) :] + turned[: turn % len(turned)]:
                    shutil.rmtree(folder / "results", ignore_errors=True)
                    clock, cores = time.perf_counter(), time.process_time()
                    work(part, overlay)
                    clock, cores = time.perf_counter() - clock, time.process_time() - cores
                    rates.setdefault((way, overlay), []).append((len(part) / clock, 1000 * cores / len(part)))
        rows = [
            {
                "way": way,
                "overlays": overlay,
                "images_per_second": round(statistics.median(rate for rate, _ in turns), 2),
                "times_in_a_row": round(
                    statistics.median(a / b for (a, _), (b, _) in zip(turns, rates["in a row", overlay], strict=True)),
                    2,
                ),
                "core_milliseconds_per_image": round(statistics.median(cores for _, cores in turns), 1),
            }
            for (way, overlay), turns in rates.items()
        ]
        result = {
            "machine": platform.processor() or platform.machine(),
            "device": arguments.device,
            "threads": arguments.threads,
            "torch": torch.__version__,
            "model": "scenes-tiny",
            "size": SIZE,
            "images": arguments.images,
            "turns": -(-arguments.images // arguments.part),
            "rows": rows,
            "overlay_as_png": encoders(predictor, jobs),
        }
    for row in rows:
        print(row)
    for encoder, figures in result["overlay_as_png"].items():
        print(encoder, figures)
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
