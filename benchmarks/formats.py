"""CPU seconds and memory of each table and format for an image with many objects.

Round objects of 24 pixels on a grid, in a TIFF of 10,000x10,000 pixels that is read in parts where a format needs the
image. Every figure is that of a process of its own, which has the result already: seconds are CPU time of writing,
memory is its peak beyond what the process held before. Of a whole run, reading the JSON file comes first.

    python benchmarks/formats.py --output benchmarks/results/formats.json
    python benchmarks/formats.py --formats geojson --counts 10000 40000
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import mask2former
from mask2former.config import InferenceConfig
from mask2former.inference.large_files import LargeImage, read_whole_or_parts
from mask2former.notes import collect_notes
from mask2former.ops.masks import Patch
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.results_io.formats import FORMATS, ImagesOfRun, open_format
from mask2former.results_io.table import TableFiles
from mask2former.structures import Categories, Instances

SIDE, DIAMETER = 10_000, 24  # pixels
COUNTS = (10_000, 40_000)
TABLE = "table"
LEFT_OUT = ("label-studio",)  # whose brush strokes describe every pixel of the image for each object
CATEGORIES = Categories.from_names(["live", "dead"])


def objects(count: int) -> Instances:
    """Round objects on a grid, moved at random."""
    rng = np.random.default_rng(0)
    axis = np.arange(DIAMETER) - (DIAMETER - 1) / 2
    mask = axis[:, None] ** 2 + axis**2 <= (DIAMETER / 2) ** 2
    side = int(np.ceil(count**0.5))
    step = SIDE / side
    places = np.stack(np.divmod(np.arange(count), side)) * step + rng.uniform(0, step - DIAMETER, (2, count))
    masks = SparseMasks([Patch(int(top), int(left), mask) for top, left in places.T], (SIDE, SIDE))
    return Instances(masks, rng.integers(0, 2, count), np.linspace(0.95, 0.5, count), masks.boxes, CATEGORIES)


def measured(name: str, count: int) -> dict[str, float]:
    """The figures of one format, in this process."""
    import tifffile

    settings = InferenceConfig(tasks=("instance",), tile=256)
    with tempfile.TemporaryDirectory() as folder, collect_notes():
        source, shape = Path(folder) / "a.tif", (SIDE, SIDE, 3)
        rng = np.random.default_rng(1)
        block = rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)
        blocks = (block for _ in range((-(-SIDE // 512)) ** 2))
        tifffile.imwrite(source, blocks, shape=shape, dtype=np.uint8, tile=(512, 512), compression="zlib")

        def read(_: int | str) -> Any:
            image = read_whole_or_parts(source, settings, overlay=False)
            return image.regions if isinstance(image, LargeImage) else image

        result = objects(count)
        names: dict[int | str, str] = {"a": "a.tif"}
        run = ImagesOfRun(CATEGORIES, names, read, rooted={"a": "images/a.tif"})
        target = Path(folder) / name
        writer: Any = (
            TableFiles(target.with_suffix(".csv"), CATEGORIES, names, read)
            if name == TABLE
            else open_format(target, run)
        )
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        with writer:
            writer.add("a", result)
        seconds = time.process_time() - start
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        written = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file() and file != source)
    more, size = (after - before) / 1024, written / 2**20
    return {"cpu seconds": round(seconds, 1), "memory, MiB": round(more), "written, MiB": round(size, 1)}


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/formats.json"))
    names = [TABLE, *(name for name in FORMATS if name not in LEFT_OUT)]
    parser.add_argument("--formats", nargs="+", choices=names, default=names)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="numbers of objects")
    parser.add_argument("--single", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.single:
        sys.stdout.write(json.dumps(measured(chosen.formats[0], chosen.counts[0])))
        return
    figures: dict[str, Any] = json.loads(chosen.output.read_text()) if chosen.output.exists() else {}
    figures |= {"version": mask2former.__version__, "machine": platform.processor() or platform.machine()}
    for name in chosen.formats:
        for count in chosen.counts:
            command = [sys.executable, __file__, "--single", "--formats", name, "--counts", str(count)]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            figures.setdefault(name, {})[f"{count} objects"] = json.loads(run.stdout)
            sys.stderr.write(f"{name} {count}: {run.stdout}\n")
    chosen.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
