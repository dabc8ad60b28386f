"""Training samples per second for each published kind and one with options, and how the time is divided.

Loaders pass on packed samples (id maps, expanded in the main process), with 0, 1 and 2 worker processes of one
thread. All of them alternate, so a slow phase of the machine affects all of them, and figures are medians over the
rounds. If the environment variable MASK2FORMER_SHARED is set, images of COCO and ADE20K are read from its ``data``
folder; otherwise, and always for Cityscapes' size, drawn scenes are written to a folder first.

    python benchmarks/loading.py --rounds 5 --output benchmarks/results/loading.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from mask2former import recipes
from mask2former.config import DataConfig, parse
from mask2former.data.build import build_training_set
from mask2former.data.datasets.scenes import Scenes
from mask2former.data.label_maps import colors_of_ids
from mask2former.data.loading.collate import pack
from mask2former.data.loading.sampling import Draw, StepSampler
from mask2former.data.loading.training_set import TrainingSet
from mask2former.ops.masks import encode
from mask2former.scenes import SCENE_CATEGORIES
from mask2former.structures import Batch

BATCH, SKIPPED = 4, 4  # images per step; first steps of an iterator, prepared ahead, that are not counted
WORKERS = (0, 1, 2)
RECIPES = {
    "LSJ panoptic, 1024x1024": "coco-panoptic/r50",
    "LSJ instance, 1024x1024": "coco-instance/r50",
    "semantic, crop 512x512": "ade20k-semantic/r50",
    "semantic, crop 512x1024 (Cityscapes)": "cityscapes-semantic/r50",
    "semantic, crop 512x512, exposure and blur": "ade20k-semantic/r50",
}
OPTIONS: dict[str, dict[str, Any]] = {  # of the augmentation, where it is not as published
    "semantic, crop 512x512, exposure and blur": {"exposure": (0.1, 1.0), "blur": 2.0}
}


# --- data ------------------------------------------------------------------------------------------------------------


def write_scenes(folder: Path, size: tuple[int, int], suffix: str, count: int = 8) -> None:
    """Scenes as images, panoptic PNGs, label maps and COCO's two JSON files."""
    for name in ("images", "panoptic", "labels"):
        (folder / name).mkdir(parents=True)
    images, segments, annotations = [], [], []
    for number, sample in enumerate(Scenes(size, seed=0, length=count)[:count], start=1):
        assert sample.target is not None
        Image.fromarray(sample.image[0].permute(1, 2, 0).numpy()).save(folder / "images" / f"{number}{suffix}")
        masks, labels = sample.target.masks[:, 0].numpy(), sample.target.labels.tolist()
        ids = (masks * np.arange(1, len(masks) + 1)[:, None, None]).sum(axis=0)
        Image.fromarray(colors_of_ids(ids)).save(folder / "panoptic" / f"{number}.png")
        Image.fromarray(np.array([255, *labels], dtype=np.uint8)[ids]).save(folder / "labels" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}{suffix}", "height": size[0], "width": size[1]})
        infos = [
            {"id": index, "category_id": SCENE_CATEGORIES[label].id, "area": int(mask.sum()), "iscrowd": 0}
            for index, (label, mask) in enumerate(zip(labels, masks, strict=True), start=1)
        ]
        segments.append({"image_id": number, "file_name": f"{number}.png", "segments_info": infos})
        things = [index for index, label in enumerate(labels) if SCENE_CATEGORIES[label].is_thing]
        for index, rle in zip(things, encode(masks[things]), strict=True):
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": SCENE_CATEGORIES[labels[index]].id}
            annotations.append({**entry, "segmentation": rle, "iscrowd": 0})
    classes = [{"id": item.id, "name": item.name, "isthing": int(item.is_thing)} for item in SCENE_CATEGORIES]
    things = [{"id": item.id, "name": item.name} for item in SCENE_CATEGORIES if item.is_thing]
    contents: dict[str, Any] = {
        "panoptic.json": {"images": images, "annotations": segments, "categories": classes},
        "instances.json": {"images": images, "annotations": annotations, "categories": things},
        "names.json": {str(index): item.name for index, item in enumerate(SCENE_CATEGORIES)},
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))


def _twice(name: str, files: dict[str, str], **settings: object) -> dict[str, Any]:
    return {"name": name, "train": [files], "validation": [files], **settings}


def datasets(shared: Path | None, scratch: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """For each kind, the data as a description and as settings."""
    write_scenes(scratch / "large", (1024, 2048), ".png")
    labels = {"images": str(scratch / "large" / "images"), "labels": str(scratch / "large" / "labels")}
    large = _twice("label-folder", labels, names=str(scratch / "large" / "names.json"))
    found = {"semantic, crop 512x1024 (Cityscapes)": ("8 drawn scenes of 1024x2048 (PNG)", large)}
    if shared is None:
        write_scenes(scratch / "small", (480, 640), ".jpg")
        words, folder = "8 drawn scenes of 480x640 (JPEG)", scratch / "small"
        images, panoptic, instances = folder / "images", folder / "panoptic", folder / "instances.json"
        panoptic_json, maps, names = folder / "panoptic.json", folder / "labels", str(folder / "names.json")
        texts, ignore = (words, words, words), (255,)
        all_images = (images, images, images)
    else:
        coco, ade = shared / "data" / "coco_mini", shared / "data" / "ade_mini" / "ADEChallengeData2016"
        panoptic, panoptic_json = coco / "panoptic_val2017", coco / "annotations" / "panoptic_val2017.json"
        instances, maps = coco / "annotations" / "instances_train2017.json", ade / "annotations" / "training"
        names = str(scratch / "ade.json")
        Path(names).write_text(json.dumps({str(number): f"class {number}" for number in range(1, 151)}))
        texts, ignore = ("3 images of COCO", "16 images of COCO", "3 images of ADE20K"), (0,)
        all_images = (coco / "val2017", coco / "train2017", ade / "images" / "training")
    files = {"annotations": str(panoptic_json), "segments": str(panoptic), "images": str(all_images[0])}
    found["LSJ panoptic, 1024x1024"] = (texts[0], _twice("coco-panoptic", files))
    files = {"annotations": str(instances), "images": str(all_images[1])}
    found["LSJ instance, 1024x1024"] = (texts[1], _twice("coco-instance", files))
    files = {"images": str(all_images[2]), "labels": str(maps)}
    for kind in ("semantic, crop 512x512", *OPTIONS):
        found[kind] = (texts[2], _twice("label-folder", files, names=names, ignore=ignore))
    return {kind: found[kind] for kind in RECIPES}


def training_set(kind: str, dataset: dict[str, Any]) -> TrainingSet:
    """A training set with the augmentation of the published recipe, and options."""
    data = recipes.recipe(RECIPES[kind]).run.data
    augmentation = data.augmentation.model_dump() | OPTIONS.get(kind, {})
    settings = {"augmentation": augmentation, "filter_empty": data.filter_empty}
    samples = build_training_set(parse(DataConfig, {"dataset": dataset, **settings}, kind))
    assert isinstance(samples, TrainingSet)
    return samples


# --- loaders ---------------------------------------------------------------------------------------------------------


class Samples(Dataset[Any]):
    """Packed samples by draw."""

    def __init__(self, samples: TrainingSet) -> None:
        self.samples = samples

    def __getitem__(self, draw: Draw) -> Any:
        return self.samples.packed(draw)


def batches(samples: TrainingSet, workers: int, seed: int) -> Iterator[Batch]:
    """Endless batches in the form for the criterion."""
    sampler: Any = StepSampler(len(samples), BATCH, seed)
    loader = DataLoader(Samples(samples), batch_sampler=sampler, collate_fn=pack, num_workers=workers)
    for batch in loader:
        yield batch.unpack()


def samples_per_second(samples: TrainingSet, workers: int, steps: int, seed: int) -> float:
    """Samples per second of one iterator, without its start."""
    iterator = batches(samples, workers, seed)
    for _ in range(SKIPPED):
        next(iterator)
    begin = time.perf_counter()
    for _ in range(steps):
        next(iterator)
    return steps * BATCH / (time.perf_counter() - begin)


def breakdown(samples: TrainingSet, count: int, seed: int) -> dict[str, float]:
    """Milliseconds of processor time per sample for each part, in one process, averaged over ``count`` draws."""
    parts = ("read and decode", "geometry", "exposure", "colour jitter", "blur", "masks", "pack", "expand")
    spent: dict[str, float] = dict.fromkeys(parts, 0.0)

    def timed(part: str, action: Callable[..., Any], *arguments: Any) -> Any:
        begin = time.process_time()  # excludes other processes
        result = action(*arguments)
        spent[part] += time.process_time() - begin
        return result

    assert samples.augmentation is not None
    draws = [draw for step in range(-(-count // BATCH)) for draw in StepSampler(len(samples), BATCH, seed).draws(step)]
    for draw in draws:
        annotated = timed("read and decode", samples.samples.annotated, draw.index)
        plan = samples.augmentation.draw(annotated.size_hw, np.random.default_rng(draw.seed))
        image = timed("geometry", plan.geometry.image, annotated.image)
        # Changes of values come before the padding, so their input has the size after the other steps.
        height, width = (min(a, b) for a, b in zip(plan.geometry.stepped_hw, plan.geometry.output_hw, strict=True))
        pixels = np.ascontiguousarray(image[:, :height, :width].permute(1, 2, 0).numpy())
        if plan.exposure is not None:
            exposed = timed("exposure", plan.exposure.around, None, annotated.image)
            pixels = timed("exposure", exposed, pixels)
        for part, change in (("colour jitter", plan.color), ("blur", plan.blur)):
            if change is not None:
                pixels = timed(part, change, pixels)
        timed("masks", plan.target, annotated)
        packed = timed("pack", pack, [plan.packed(annotated)])
        timed("expand", packed.unpack)
    return {part: 1000 * seconds / len(draws) for part, seconds in spent.items()}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shared = os.environ.get("MASK2FORMER_SHARED")
    with tempfile.TemporaryDirectory() as scratch:
        sources = datasets(Path(shared) if shared else None, Path(scratch))
        sets = {kind: training_set(kind, settings) for kind, (_, settings) in sources.items()}
        rates: dict[tuple[str, int], list[float]] = {(kind, workers): [] for kind in sets for workers in WORKERS}
        parts: dict[str, list[dict[str, float]]] = {kind: [] for kind in sets}
        for turn in range(arguments.rounds):
            for kind, samples in sets.items():
                parts[kind].append(breakdown(samples, arguments.steps * BATCH, turn))
                for workers in WORKERS:
                    rates[kind, workers].append(samples_per_second(samples, workers, arguments.steps, turn))
    from importlib.metadata import version

    def figures(kind: str) -> dict[str, Any]:
        return {
            f"{workers} workers": {
                "median": round(statistics.median(rates[kind, workers]), 1),
                "min_max": [round(min(rates[kind, workers]), 1), round(max(rates[kind, workers]), 1)],
            }
            for workers in WORKERS
        }

    result = {
        "what": f"training samples per second, {BATCH} images per batch, masks expanded in the main process",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread per process",
        "versions": {name: version(name) for name in ("torch", "pillow", "numpy", "mask2former")},
        "rounds": arguments.rounds,
        "samples_per_round": arguments.steps * BATCH,
        "kinds": {
            kind: {
                "data": sources[kind][0],
                "recipe": RECIPES[kind],
                "options": OPTIONS.get(kind, {}),
                "packed": figures(kind),
                "processor_milliseconds_per_sample": {
                    part: round(statistics.median(found[part] for found in parts[kind]), 2) for part in parts[kind][0]
                },
            }
            for kind in sets
        },
    }
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
