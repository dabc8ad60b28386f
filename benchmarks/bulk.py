"""Images per second with one and two actors of Ray Data, compared with ``predict`` in one process.

``scenes-tiny`` segments the same drawn scenes each time, without overlays, one image at a time. The methods alternate,
so a slow phase of the machine affects all of them. For each: seconds of the complete call (for actors including the
start of Ray and loading the model), and images per second once all actors are working: from the moment at which as many
shards are done as there are actors, to the end. Also the bytes of results per image on the disk.

    python benchmarks/bulk.py --output benchmarks/results/bulk.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import torch
from PIL import Image

from mask2former import Predictor, predict_files
from mask2former.bulk import predict_bulk
from mask2former.data.datasets.scenes import Scenes

SIZE, TASK, MODEL = (240, 320), "panoptic", "scenes-tiny"


def in_one_process(images: Path, output: Path, shard_size: int) -> tuple[float, float]:
    """Seconds, and images per second after the first ones, of ``predict_files``."""
    start = time.perf_counter()
    done: list[float] = []
    predictor = Predictor.from_pretrained(MODEL, device="cpu", quiet=True)
    report = predict_files(
        predictor, images, output, TASK, overlays=False, observe=lambda _: done.append(time.perf_counter())
    )
    assert report.outcomes["done"] == report.num_images
    return time.perf_counter() - start, (len(done) - shard_size) / (done[-1] - done[shard_size - 1])


def by_actors(images: Path, output: Path, shard_size: int, actors: int) -> tuple[float, float]:
    """The same for ``predict_bulk``."""
    start = time.perf_counter()
    done: list[tuple[float, int]] = []

    def tell(step: str, number: int, total: int | None) -> None:
        if step == TASK and number:
            done.append((time.perf_counter(), number))

    report = predict_bulk(
        MODEL, images, output, TASK, actors=actors, shard_size=shard_size, device="cpu", progress=tell
    )
    assert report.num_done == report.num_images
    (first, before), (last, total) = done[actors - 1], done[-1]
    return time.perf_counter() - start, (total - before) / (last - first)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--shard-size", type=int, default=10)
    parser.add_argument("--actors", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = ["one process", *(f"actors: {count}" for count in arguments.actors)]
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as name:
        images, output = Path(name, "images"), Path(name, "results")
        images.mkdir()
        scenes = Scenes(SIZE, seed=5, length=arguments.images)
        for index in range(arguments.images):
            Image.fromarray(scenes.image(index)).save(images / f"{index:04}.png")
        for turn in range(arguments.turns):
            for way in names[turn % len(names) :] + names[: turn % len(names)]:
                shutil.rmtree(output, ignore_errors=True)
                actors = int(way.rpartition(" ")[2]) if way != names[0] else 0
                if actors:
                    seconds, rate = by_actors(images, output, arguments.shard_size, actors)
                else:
                    seconds, rate = in_one_process(images, output, arguments.shard_size)
                written = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
                found[way].append((seconds, rate, written / arguments.images))
                print(way, found[way][-1], flush=True)
    one = [rate for _, rate, _ in found[names[0]]]
    rows: list[dict[str, Any]] = [
        {
            "way": way,
            "seconds": [round(seconds, 1) for seconds, _, _ in turns],
            "images_per_second": [round(rate, 2) for _, rate, _ in turns],
            "times_one_process": round(statistics.mean(rate for _, rate, _ in turns) / statistics.mean(one), 2),
            "bytes_per_image": round(turns[0][2]),
        }
        for way, turns in found.items()
    ]
    result = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "ray": ray.__version__,
        "model": MODEL,
        "size": SIZE,
        "images": arguments.images,
        "shard_size": arguments.shard_size,
        "turns": arguments.turns,
        "rows": rows,
    }
    for row in rows:
        print(row)
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
