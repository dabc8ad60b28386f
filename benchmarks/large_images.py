"""Images in tiles: quality compared with separate parts, objects that are duplicated at seams, and memory.

No large image with ground truth that these small models can segment is available, so large ones are composed of parts
with known results: drawn scenes, and (``--nuclei``) microscope images of one kind. Tiles lie across the parts.

- ``panoptic quality`` against the ground truth, for four methods: separate parts, pasted together; the complete image
  at once; tiles that are pasted, each up to the middle of its overlap with neighbours; tiles that are joined. Stuff
  of one class is one segment in all of them, as in the ground truth.
- ``doubled``: pairs of predicted things of one class that touch (with at most one pixel between them), each more than
  half on the same true object. ``at seams``: pairs that touch where two tiles show the same pixels.
- ``memory`` (``--memory``): peak resident memory of a separate process that predicts a TIFF file, beyond its memory
  after an image of one tile.
- ``objects`` (``--objects``): the same for 105 megapixels with various numbers of round objects. No network runs: each
  tile has the objects that it shows, and 80 candidates that are none, as many as ``nuclei`` predicts (60 to 80 % of its
  100 queries have a score below 0.05 on fluorescence, with 8 kB of masks per tile).

    python benchmarks/large_images.py --output benchmarks/results/large_images.json
    python benchmarks/large_images.py --output benchmarks/results/large_images.json --nuclei FOLDER
    python benchmarks/large_images.py --output benchmarks/results/large_images.json --memory
    python benchmarks/large_images.py --output benchmarks/results/large_images.json --objects
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import mask2former
from mask2former import Predictor
from mask2former.config import InferenceConfig, Task
from mask2former.inference.tile_grid import Grid, Tile
from mask2former.inference.tile_results import TilePrediction
from mask2former.media.images import read_image
from mask2former.metrics.panoptic import PanopticEvaluator
from mask2former.ops.masks import Patch, decode_patch
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.postprocessing import remove_overlaps
from mask2former.scenes import SCENE_CATEGORIES, draw_scene
from mask2former.structures import Categories, Instances, PanopticSegmentation, Segment
from mask2former.structures.ground_truth import PanopticGroundTruth

FIRST_SEED = 1_000_000  # of scenes that are not used in training


class Composed(NamedTuple):
    """An image composed of parts, with its ground truth."""

    image: np.ndarray
    truth: PanopticGroundTruth
    part: int  # side of its parts, pixels


def composed_scenes(number: int, side: int, part: int) -> Composed:
    """Scenes in rows and columns; stuff of one class is one segment."""
    image, ids = np.empty((side, side, 3), np.uint8), np.empty((side, side), np.int32)
    segments: dict[int, int] = {}
    count = side // part
    for index in range(count**2):
        row, column = divmod(index, count)
        scene = draw_scene(FIRST_SEED + number * count**2 + index, (part, part))
        id_of = np.zeros(max(number for number, _ in scene.segments) + 1, np.int32)
        for own, label in scene.segments:
            is_thing = SCENE_CATEGORIES[label].is_thing
            id_of[own] = 100 + len(segments) if is_thing else 1 + label
            segments[int(id_of[own])] = label
        rows, columns = slice(row * part, row * part + part), slice(column * part, column * part + part)
        image[rows, columns], ids[rows, columns] = scene.image, id_of[scene.ids]
    return Composed(image, PanopticGroundTruth(ids, [(n, label, False) for n, label in segments.items()]), part)


def composed_nuclei(folder: Path, side: int, part: int, modality: str) -> list[Composed]:
    """Images of one kind and size in rows and columns; as many as possible, each used once."""
    files: list[tuple[Path, list[Any]]] = []
    for split in ("val", "train"):
        document = json.loads((folder / "annotations" / f"instances_{split}.json").read_text())
        masks: dict[int, list[Any]] = {}
        for entry in document["annotations"]:
            masks.setdefault(entry["image_id"], []).append(entry["segmentation"])
        files += [
            (folder / split / entry["file_name"], masks[entry["id"]])
            for entry in document["images"]
            if (entry["height"], entry["width"], entry["modality"]) == (part, part, modality)
        ]
    count, made = side // part, []
    for start in range(0, len(files) - count**2 + 1, count**2):
        image, ids, number = np.empty((side, side, 3), np.uint8), np.zeros((side, side), np.int32), 0
        for index, (path, masks_of_image) in enumerate(files[start : start + count**2]):
            top, left = (part * place for place in divmod(index, count))
            image[top : top + part, left : left + part] = read_image(path)
            for rle in masks_of_image:
                y, x, mask = decode_patch(rle)
                number += 1
                ids[top + y : top + y + mask.shape[0], left + x : left + x + mask.shape[1]][mask] = number
        made.append(Composed(image, PanopticGroundTruth(ids, [(n, 0, False) for n in range(1, number + 1)]), part))
    return made


def as_panoptic(result: PanopticSegmentation | Instances, overlap_threshold: float) -> PanopticSegmentation:
    """Instances as segments: those above the threshold, with overlaps removed."""
    if isinstance(result, PanopticSegmentation):
        return result
    alone = remove_overlaps(result, overlap_threshold)
    ids = alone.sparse.numbered().astype(np.int32)
    rows = zip(alone.labels.tolist(), alone.scores.tolist(), alone.sparse.areas.tolist(), strict=True)
    segments = tuple(Segment(number, label, True, score, area) for number, (label, score, area) in enumerate(rows, 1))
    return PanopticSegmentation(ids, segments, result.categories)


def pasted(
    size: tuple[int, int], pieces: Sequence[tuple[Tile, Tile, PanopticSegmentation]], categories: Categories
) -> PanopticSegmentation:
    """Results of tiles, each cropped to a part of its tile; things are not joined; stuff of a class is one segment."""
    ids, found = np.zeros(size, np.int32), dict[int, tuple[int, float]]()
    for tile, core, result in pieces:
        id_of = np.zeros(max((segment.id for segment in result.segments), default=0) + 1, np.int32)
        for segment in result.segments:
            id_of[segment.id] = len(categories) + 1 + len(found) if segment.is_thing else 1 + segment.label
            found[int(id_of[segment.id])] = (segment.label, segment.score)
        inside = Tile(core.top - tile.top, core.left - tile.left, core.bottom - tile.top, core.right - tile.left)
        core.of(ids)[...] = inside.of(id_of[result.ids])
    areas = np.bincount(ids.ravel(), minlength=max(found, default=0) + 1)
    segments = tuple(
        Segment(number, label, categories[label].is_thing, score, int(areas[number]))
        for number, (label, score) in found.items()
        if areas[number]
    )
    return PanopticSegmentation(ids, segments, categories)


def middles(starts: Sequence[int], side: int, length: int) -> dict[int, tuple[int, int]]:
    """By the start of a tile, the part along one axis that is nearer to its centre than to any other's."""
    ends = [(after + before + side) // 2 for before, after in itertools.pairwise(starts)]
    return dict(zip(starts, zip([0, *ends], [*ends, length], strict=True), strict=True))


def tiled_both_ways(
    predictor: Predictor, image: np.ndarray, settings: dict[str, Any]
) -> tuple[PanopticSegmentation, PanopticSegmentation, Grid]:
    """Results with tiles, joined and pasted, from the same predictions."""
    task = predictor.choose_tasks()[0]
    seen: list[PanopticSegmentation] = []
    predict = predictor.predict_tiles
    chosen = predictor.settings

    def watched(*request: Any) -> list[TilePrediction]:
        found = predict(*request)
        for prediction in found:
            result = prediction.results[task]
            if isinstance(result, Instances):
                result = result.at_least(predictor.settings.instance_threshold)
            assert isinstance(result, PanopticSegmentation | Instances)
            seen.append(as_panoptic(result, predictor.settings.overlap_threshold))
        return found

    predictor.predict_tiles = watched  # pyright: ignore[reportAttributeAccessIssue]
    try:
        joined = predictor(image, task, **settings)
    finally:
        del predictor.predict_tiles
    assert isinstance(joined, PanopticSegmentation | Instances)
    size = (image.shape[0], image.shape[1])
    grid = Grid.over(size, settings["tile"], settings["tile_overlap"])
    rows, columns = (
        middles(starts, side, length)
        for starts, side, length in zip((grid.tops, grid.lefts), grid.tile_hw, size, strict=True)
    )
    pieces = []
    for tile, result in zip(grid, seen, strict=True):
        (top, bottom), (left, right) = rows[tile.top], columns[tile.left]
        pieces.append((tile, Tile(top, left, bottom, right), result))
    return as_panoptic(joined, chosen.overlap_threshold), pasted(size, pieces, predictor.categories), grid


def parts_alone(predictor: Predictor, item: Composed, settings: dict[str, Any]) -> PanopticSegmentation:
    """Results of separate parts, pasted together."""
    task, part, size = predictor.choose_tasks()[0], item.part, (item.image.shape[0], item.image.shape[1])
    pieces = []
    for top in range(0, size[0], part):
        for left in range(0, size[1], part):
            tile = Tile(top, left, top + part, left + part)
            result = predictor(tile.of(item.image), task, **settings)
            assert isinstance(result, PanopticSegmentation | Instances)
            pieces.append((tile, tile, as_panoptic(result, predictor.settings.overlap_threshold)))
    return pasted(size, pieces, predictor.categories)


def shared_pixels(grid: Grid) -> np.ndarray:
    """The pixels that two tiles share."""
    axes = []
    for starts, side, length in zip((grid.tops, grid.lefts), grid.tile_hw, grid.size_hw, strict=True):
        times = np.zeros(length, int)
        for start in starts:
            times[start : start + side] += 1
        axes.append(times > 1)
    return axes[0][:, None] | axes[1]


def doubled(result: PanopticSegmentation, truth: PanopticGroundTruth, shared: np.ndarray) -> tuple[int, int]:
    """Pairs of things of one class that touch, each more than half on the same true object: all, and those at seams."""
    label_of = {segment.id: segment.label for segment in result.segments if segment.is_thing}
    is_object = {number for number, label, _ in truth.segments if result.categories[label].is_thing}
    pairs, at_seams = set[tuple[int, int]](), set[tuple[int, int]]()
    for step in (1, 2):
        for one, other, where in (
            (result.ids[:-step], result.ids[step:], shared[:-step]),
            (result.ids[:, :-step], result.ids[:, step:], shared[:, :-step]),
        ):
            y, x = np.nonzero(one != other)
            meeting = np.sort(np.stack([one[y, x], other[y, x]]), axis=0)
            pairs |= set(zip(*meeting.tolist(), strict=True))
            at_seams |= set(zip(*meeting[:, where[y, x]].tolist(), strict=True))
    pairs = {pair for pair in pairs if label_of.get(pair[0], -1) == label_of.get(pair[1], -2)}
    owners: dict[int, int] = {}
    for number in {number for pair in pairs for number in pair}:
        found, counts = np.unique(truth.ids[result.ids == number], return_counts=True)
        best = int(found[counts.argmax()])
        owners[number] = best if best in is_object and counts.max() > counts.sum() / 2 else -number
    pairs = {(one, other) for one, other in pairs if owners[one] == owners[other]}
    return len(pairs), len(pairs & at_seams)


def quality(
    predictor: Predictor, items: Iterable[Composed], tiled: dict[str, Any], alone: dict[str, Any], whole: dict[str, Any]
) -> dict[str, Any]:
    """The figures of several images together."""
    evaluators: dict[str, PanopticEvaluator] = {}
    counts: dict[str, int] = {}
    seconds: dict[str, float] = {}

    def add(name: str, result: PanopticSegmentation, truth: PanopticGroundTruth, shared: np.ndarray) -> None:
        evaluators.setdefault(name, PanopticEvaluator(predictor.categories)).update(result, truth)
        for kind, number in zip(("anywhere", "at seams"), doubled(result, truth, shared), strict=True):
            counts[f"{name}, {kind}"] = counts.get(f"{name}, {kind}", 0) + number

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = call()
        seconds[name] = seconds.get(name, 0.0) + time.process_time() - start
        return result

    sizes: list[tuple[tuple[int, int], int, int]] = []
    for item in items:
        height, width = item.image.shape[:2]
        sizes.append(((height, width), item.part, len(item.truth.segments)))
        joined, cut, grid = timed("tiles", lambda item=item: tiled_both_ways(predictor, item.image, tiled))
        shared = shared_pixels(grid)
        add("tiles joined", joined, item.truth, shared)
        add("tiles pasted", cut, item.truth, shared)
        add("parts alone", timed("parts", lambda item=item: parts_alone(predictor, item, alone)), item.truth, shared)
        result = timed("whole", lambda item=item: predictor(item.image, **whole))
        add("whole", as_panoptic(result, predictor.settings.overlap_threshold), item.truth, shared)
    scores = {
        name: {key.removeprefix("panoptic/"): round(value, 2) for key, value in evaluator.compute().items()}
        for name, evaluator in evaluators.items()
    }
    return {
        "images": len(sizes),
        "size": list(sizes[0][0]),
        "part": sizes[0][1],
        "segments": sum(number for *_, number in sizes),
        "tiles": tiled,
        "panoptic quality": scores,
        "doubled": counts,
        "cpu seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


# --- memory ----------------------------------------------------------------------------------------------------------

PICTURED = 205  # number of the image of four scenes in the figure
MEMORY_SIDES = (1024, 2048, 4096, 8448, 10_240, 14_336)  # the last three are read in parts: 71, 105 and 206 megapixels
MEMORY_PART = 1024  # pixels: side of the scenes of such an image, and of its tiles


def write_tiff(path: Path, side: int) -> None:
    """A tiled TIFF of scenes, which are drawn while it is written."""
    import tifffile

    scenes = [draw_scene(FIRST_SEED + index, (MEMORY_PART, MEMORY_PART)).image for index in range(16)]

    def parts() -> Any:
        count = -(-side // 256)
        for row in range(count):
            for column in range(count):
                index = (7 * (row // 4) + 3 * (column // 4)) % len(scenes)
                yield scenes[index][row % 4 * 256 :, column % 4 * 256 :][:256, :256]

    shape = (side, side, 3)
    tifffile.imwrite(path, parts(), shape=shape, dtype=np.uint8, tile=(256, 256), photometric="rgb")


def of_file(path: Path, task: Any) -> dict[str, float]:
    """Peak memory of this process while it predicts a file, beyond that for one tile."""
    from mask2former.inference.predict_files import predict_files

    settings = {"tile": MEMORY_PART, "device": "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(draw_scene(FIRST_SEED, (MEMORY_PART, MEMORY_PART)).image).save(Path(folder) / "small.png")
        predict_files("scenes-tiny", Path(folder) / "small.png", Path(folder) / "out", task, **settings)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        report = predict_files("scenes-tiny", path, Path(folder) / "out", task, **settings)
        assert report.outcomes["done"] == 1, report
        seconds = time.process_time() - start
        written = sum(file.stat().st_size for file in (Path(folder) / "out").iterdir())
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "model and one tile, MiB": round(before / 1024),
        "more for the image, MiB": round((after - before) / 1024),
        "cpu seconds": round(seconds, 1),
        "found": report.num_found,
        "written, MiB": round(written / 2**20, 1),
    }


def memory(sides: Sequence[int], tasks: Sequence[str]) -> dict[str, Any]:
    """The figures of :func:`of_file` in separate processes."""
    found: dict[str, Any] = {}
    for side in sides:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "image.tif"
            write_tiff(path, side)
            for task in tasks:
                command = [sys.executable, __file__, "--file", str(path), "--task", task, "--output", "-"]
                run = subprocess.run(command, capture_output=True, text=True, check=True)
                found.setdefault(task, {})[f"{side}x{side}, {side**2 / 1e6:.0f} megapixels"] = json.loads(run.stdout)
                sys.stderr.write(f"{task} {side}: {run.stdout}\n")
    return found


# --- memory for objects ----------------------------------------------------------------------------------------------

OBJECTS = (1_000, 40_000)
OBJECTS_SIDE, OBJECTS_TILE, OBJECTS_OVERLAP = 10_240, 256, 64  # pixels
DIAMETER = 24  # pixels
NO_OBJECTS = 80  # false candidates of a tile with scores below 0.05, of 8 to 16 pixels


def disc(diameter: int) -> np.ndarray:
    """A round mask."""
    axis = np.arange(diameter) - (diameter - 1) / 2
    return axis[:, None] ** 2 + axis**2 <= (diameter / 2) ** 2


class KnownObjects:
    """Replaces :meth:`Predictor.predict_tiles`: objects on a grid, of which each tile has those that it shows.

    Args:
        count: number of objects in the image.
    """

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(0)
        side = int(np.ceil(count**0.5))
        step = OBJECTS_SIDE / side
        rows, columns = np.divmod(np.arange(count), side)
        moved = rng.uniform(0, max(0.0, step - DIAMETER), (2, count))
        self.corners = (np.stack([rows, columns]) * step + moved).astype(int)
        self.tiles = iter(Grid.over((OBJECTS_SIDE, OBJECTS_SIDE), OBJECTS_TILE, OBJECTS_OVERLAP))
        self.rng = rng

    def __call__(
        self, images: Sequence[np.ndarray], _: Any, tasks: Sequence[Task], settings: InferenceConfig
    ) -> list[TilePrediction]:
        """See :meth:`Predictor.predict_tiles`; tiles come in the order of the grid."""
        return [
            TilePrediction({task: self.of_tile(next(self.tiles), task, settings) for task in tasks}) for _ in images
        ]

    def of_tile(self, tile: Tile, task: Task, settings: InferenceConfig) -> Instances | PanopticSegmentation:
        """The output of a network for a tile."""
        height, width = tile.bottom - tile.top, tile.right - tile.left
        top, left = self.corners[0] - tile.top, self.corners[1] - tile.left
        shown = np.flatnonzero((top > -DIAMETER) & (left > -DIAMETER) & (top < height) & (left < width))
        patches, mask = [], disc(DIAMETER)
        for y, x in zip(top[shown].tolist(), left[shown].tolist(), strict=True):
            part = mask[max(0, -y) : height - y, max(0, -x) : width - x].copy()
            patches.append(Patch(max(0, y), max(0, x), part))
        scores = [0.9] * len(patches)
        if task == "panoptic":
            ids = SparseMasks(patches, (height, width)).numbered().astype(np.int32)
            areas = np.bincount(ids.ravel(), minlength=len(patches) + 1)
            things = tuple(Segment(n, 0, True, 0.9, int(areas[n])) for n in range(1, len(patches) + 1) if areas[n])
            return PanopticSegmentation(ids, things, OF_OBJECTS)
        for diameter in self.rng.integers(8, 17, NO_OBJECTS).tolist():
            y, x = self.rng.integers(0, (height - diameter, width - diameter)).tolist()
            patches.append(Patch(y, x, disc(diameter)))
        masks = SparseMasks(patches, (height, width))
        labels = np.zeros(len(masks), np.int64)
        found = Instances(masks, labels, np.array(scores + [0.01] * NO_OBJECTS), masks.boxes, OF_OBJECTS)
        return found.at_least(settings.instance_threshold)


OF_OBJECTS = Categories.from_names(["nucleus"])


def of_objects(count: int, task: Any) -> dict[str, float]:
    """Peak memory of this process while it predicts a file with ``count`` objects, beyond its memory before."""
    import tifffile

    from mask2former.inference.plan_files import plan
    from mask2former.inference.predict_files import segment_files

    settings = InferenceConfig(
        tasks=(task,),
        tile=OBJECTS_TILE,
        tile_overlap=OBJECTS_OVERLAP,
        short_edge=0,
        max_instances=1_000_000,
        instance_threshold=0.5,
    )
    predictor = Predictor(lambda images: [], device="cpu", settings=settings, categories=OF_OBJECTS)
    with tempfile.TemporaryDirectory() as folder:
        path, output = Path(folder) / "a.tif", Path(folder) / "out"
        shape = (OBJECTS_SIDE, OBJECTS_SIDE)
        blocks = (np.zeros((512, 512), np.uint8) for _ in range((OBJECTS_SIDE // 512) ** 2))
        tifffile.imwrite(path, blocks, shape=shape, dtype=np.uint8, tile=(512, 512), compression="zlib")
        predictor.predict_tiles = KnownObjects(count)  # pyright: ignore[reportAttributeAccessIssue]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        [outcome] = segment_files(predictor, plan([path], output), task, overlay=False)
        assert (outcome.status, outcome.found) == ("done", count), outcome
        seconds = time.process_time() - start
        written = sum(file.stat().st_size for file in output.iterdir())
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "before, MiB": round(before / 1024),
        "more for the image, MiB": round((after - before) / 1024),
        "cpu seconds": round(seconds, 1),
        "written, MiB": round(written / 2**20, 1),
    }


def objects(counts: Sequence[int]) -> dict[str, Any]:
    """The figures of :func:`of_objects` in separate processes."""
    found: dict[str, Any] = {}
    for task, count in itertools.product(("instance", "panoptic"), counts):
        command = [sys.executable, __file__, "--count", str(count), "--task", task, "--output", "-"]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        found.setdefault(task, {})[f"{count} objects"] = json.loads(run.stdout)
        sys.stderr.write(f"{task} {count}: {run.stdout}\n")
    return found


# --- the picture -----------------------------------------------------------------------------------------------------


def picture(path: Path) -> None:
    """Four scenes through nine tiles, pasted (left) and joined (right); a line marks each seam."""
    predictor = Predictor.from_pretrained("scenes-tiny", device="cpu", quiet=True)
    item = composed_scenes(PICTURED, 768, 384)
    settings = {"tile": 384, "tile_overlap": 192, "short_edge": predictor.settings.short_edge}
    joined, cut, grid = tiled_both_ways(predictor, item.image, settings)
    seams = item.image.copy()
    for axis, starts in enumerate((grid.tops, grid.lefts)):
        for start, _ in list(middles(starts, grid.tile_hw[axis], grid.size_hw[axis]).values())[1:]:
            line = (slice(None), slice(start - 1, start + 1)) if axis else (slice(start - 1, start + 1), slice(None))
            seams[line] = 255
    both = [np.asarray(result.plot(Image.fromarray(seams), scale=1)) for result in (cut, joined)]
    gap = np.full((both[0].shape[0], 16, 3), 255, np.uint8)
    Image.fromarray(np.hstack([both[0], gap, both[1]])).quantize(256).save(path, optimize=True)


# --- the program -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Measure the requested parts, and add them to the output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="benchmarks/results/large_images.json")
    parser.add_argument("--side", type=int, default=4096, help="of the scenes")
    parser.add_argument("--images", type=int, default=4, help="of each kind")
    parser.add_argument("--nuclei", type=Path, help="folder with annotations/, train/ and val/")
    parser.add_argument("--nuclei-side", type=int, default=4096)
    parser.add_argument("--memory", type=int, nargs="*", help="sides of the images; none: all")
    parser.add_argument("--picture", type=Path, help="only draw a result with and without joining")
    parser.add_argument("--objects", type=int, nargs="*", help="numbers of objects; none: 1,000 and 40,000")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.file is not None:
        sys.stdout.write(json.dumps(of_file(chosen.file, chosen.task)))
        return
    if chosen.count is not None:
        sys.stdout.write(json.dumps(of_objects(chosen.count, chosen.task)))
        return
    if chosen.picture is not None:
        picture(chosen.picture)
        return
    path = Path(chosen.output)
    figures: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    figures |= {"version": mask2former.__version__, "machine": platform.processor() or platform.machine()}
    if chosen.memory is not None:
        figures["memory"] = memory(chosen.memory or MEMORY_SIDES, ("panoptic", "semantic"))
    elif chosen.objects is not None:
        figures["objects"] = objects(chosen.objects or OBJECTS)
    elif chosen.nuclei is not None:
        figures["nuclei"] = of_nuclei(chosen.nuclei, chosen.nuclei_side)
    else:
        figures["scenes"] = of_scenes(chosen.side, chosen.images)
    path.write_text(json.dumps(figures, indent=1) + "\n")


def of_scenes(side: int, images: int) -> dict[str, Any]:
    """Scenes as large as the image, cut by tiles of five sixths of it, and images of 64 scenes."""
    predictor = Predictor.from_pretrained("scenes-tiny", device="cpu", quiet=True)
    whole = predictor.settings.short_edge
    tile, part = side * 5 // 6, side // 8
    one = (composed_scenes(number, side, side) for number in range(images))
    tiled = {"tile": tile, "tile_overlap": tile // 2, "short_edge": whole * 5 // 6}
    found = {"one scene in an image": quality(predictor, one, tiled, {}, {})}
    many = (composed_scenes(100 + number, side, part) for number in range(-(-images // 4)))
    tiled = {"tile": part, "tile_overlap": part // 2, "short_edge": whole}
    at_once = {"short_edge": 4 * whole, "long_edge": 4 * whole}
    return found | {"64 scenes in an image": quality(predictor, many, tiled, {}, at_once)}


def of_nuclei(folder: Path, side: int) -> dict[str, Any]:
    """Images of one kind, of 256 x 256 pixels; the model was trained on most of them."""
    predictor = Predictor.from_pretrained("nuclei", device="cpu", quiet=True)
    items = composed_nuclei(folder, side, 256, "fluorescence_small")
    tiled = {"tile": 128, "tile_overlap": 32, "max_instances": 100_000}
    at_once = {"tile": 0, "short_edge": 0, "max_instances": 100_000}
    return quality(predictor, items[:1], tiled, {"tile": 128, "tile_overlap": 32}, at_once)


if __name__ == "__main__":
    main()
