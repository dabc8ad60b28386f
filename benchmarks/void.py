"""The effect of ``criterion.void: ignored``: panoptic quality after short training on ground truth with holes.

Scenes are written in COCO's panoptic format. On 30 % of every training image, in random blobs, the ground
truth is replaced by void; validation scenes are complete. Each seed trains the same small model three times,
with the same weights, images and random points: on the complete ground truth, and on the one with holes with each
setting.

    python benchmarks/void.py --steps 500 --seeds 2 --output benchmarks/results/void.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from mask2former.config import RunConfig, parse
from mask2former.data.datasets.scenes import Scenes
from mask2former.data.label_maps import colors_of_ids
from mask2former.scenes import SCENE_CATEGORIES
from mask2former.training.run import train

SHARE = 0.3  # share of every training image that is void
VARIANTS = {
    "complete ground truth": ("complete", "background"),
    "void as background": ("holes", "background"),
    "void ignored": ("holes", "ignored"),
}


def holes(size: int, seed: int) -> np.ndarray:
    """Blobs that cover :data:`SHARE` of an image."""
    noise = np.random.default_rng(seed).standard_normal((size, size))
    smooth = ndimage.gaussian_filter(noise, size / 16, mode="wrap")
    return smooth > np.quantile(smooth, 1 - SHARE)


def write(folder: Path, scenes: Scenes, *, with_holes: bool) -> dict[str, str]:
    """Scenes as files; returns their paths for a run file. Segments that lie completely in a hole are not listed."""
    for name in ("images", "segments"):
        (folder / name).mkdir(parents=True)
    images, annotations = [], []
    for number in range(len(scenes)):
        annotated = scenes.annotated(number)
        assert annotated.ids is not None
        ids = np.where(holes(annotated.size_hw[0], number), 0, annotated.ids) if with_holes else annotated.ids
        Image.fromarray(annotated.image).save(folder / "images" / f"{number}.png")
        Image.fromarray(colors_of_ids(ids)).save(folder / "segments" / f"{number}.png")
        height, width = ids.shape
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        segments = [
            {"id": index, "category_id": SCENE_CATEGORIES[label].id, "iscrowd": 0}
            for index, label in enumerate(annotated.labels.tolist(), start=1)
            if (ids == index).any()
        ]
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": segments})
    categories = [
        {"id": item.id, "name": item.name, "isthing": int(item.is_thing), "color": list(item.color)}
        for item in SCENE_CATEGORIES
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "panoptic.json").write_text(json.dumps(content))
    return {
        "annotations": str(folder / "panoptic.json"),
        "segments": str(folder / "segments"),
        "images": str(folder / "images"),
    }


def run_of(training: Any, validation: Any, void: str, steps: int, size: int, seed: int, output: Path) -> RunConfig:
    """A small model without pretrained weights."""
    values = {
        "model": {
            "backbone": {
                "name": "timm",
                "model": "resnet10t",
                "norm": "batch",
                "kwargs": {"channels": [32, 64, 96, 128]},
            },
            "pixel_decoder": {"dim": 64, "mask_dim": 64, "num_layers": 1, "num_heads": 4, "feedforward_dim": 128},
            "transformer_decoder": {
                "dim": 64,
                "num_queries": 24,
                "num_layers": 3,
                "num_heads": 4,
                "feedforward_dim": 256,
            },
            "inference": {"tasks": ["panoptic"], "short_edge": 0, "score_threshold": 0.5, "overlap_threshold": 0.6},
        },
        "criterion": {"num_points": 512, "void": void},
        "data": {
            "dataset": {"name": "coco-panoptic", "train": [training], "validation": [validation]},
            "batch_size": 8,
            "num_workers": 0,
        },
        "optim": {"lr": 1e-3, "backbone_multiplier": 1.0, "warmup_steps": 50, "warmup_factor": 0.01},
        "trainer": {"max_steps": steps, "accelerator": "cpu", "log_interval": 100, "checkpoint_interval": steps},
        "evaluation": {"interval": steps, "tasks": ["panoptic"], "num_images": 0},
        "output": str(output),
        "seed": seed,
    }
    return parse(RunConfig, values, "benchmark")


def main() -> None:
    """Train all variants and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--size", type=int, default=64, help="side of an image in pixels")
    parser.add_argument("--images", type=int, default=1000, help="to train on")
    parser.add_argument("--validation", type=int, default=100, help="images to measure on")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scenes = Scenes(arguments.size, 0, arguments.images)
        files = {
            "complete": write(folder / "complete", scenes, with_holes=False),
            "holes": write(folder / "holes", scenes, with_holes=True),
        }
        clean = write(folder / "validation", Scenes(arguments.size, 1_000_000, arguments.validation), with_holes=False)
        for seed in range(arguments.seeds):
            for variant, (ground_truth, void) in VARIANTS.items():
                output = folder / f"{variant}-{seed}".replace(" ", "-")
                result = train(run_of(files[ground_truth], clean, void, arguments.steps, arguments.size, seed, output))
                found = {key: round(result.metrics[f"panoptic/{key}"], 2) for key in ("PQ", "SQ", "RQ")}
                rows.append({"ground_truth": variant, "seed": seed, **found})
                print(rows[-1], flush=True)
    if arguments.output is not None:
        facts = {"steps": arguments.steps, "size": arguments.size, "batch": 8, "images": arguments.images}
        facts |= {"validation": arguments.validation, "void_share": SHARE}
        arguments.output.write_text(json.dumps({"facts": facts, "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
