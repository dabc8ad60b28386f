"""Seconds and peak memory from an image to its result, compared with the Mask2Former of ``transformers``, in one run.

Both have the same random weights (ours, converted), ResNet-50 or Swin-T, 100 queries, 133 classes, and process the same
drawn image of 480x640, which both enlarge to 800x1067, in float32 or bfloat16. Measured from the pixels to the
user's result: for us that of ``mask2former.Predictor``, for them that of the image processor's ``post_process_*``.
Thresholds are 0 on both sides, because random weights have low scores: all queries are results, more than in
practice. Calls alternate, so a slow phase of the machine affects both. Memory is measured in separate processes.
With bfloat16 the other side is also measured in float32.

The agreement of both models is given as the largest difference between their logits, for the same pixels.

    python benchmarks/prediction.py --calls 7 --output benchmarks/results/prediction.json
    python benchmarks/prediction.py --backbone swin-t --output benchmarks/results/prediction_swin_t.json
    python benchmarks/prediction.py --dtype bfloat16 --output benchmarks/results/prediction_bf16.json
    python benchmarks/prediction.py --backbone swin-t --dtype bfloat16 --output prediction_swin_t_bf16.json
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

SIZE, CLASSES = (480, 640), 133
TASKS = ("panoptic", "instance", "semantic")
Call = Callable[[str], Any]


def image() -> np.ndarray:
    """A drawn scene as RGB bytes."""
    from PIL import Image

    from mask2former.data.datasets.scenes import Scenes

    drawn = Scenes((240, 320), seed=0, length=1).image(0)
    return np.array(Image.fromarray(drawn).resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC))


def prepare(folder: Path, backbone: str) -> None:
    """Write one model with random weights in both layouts."""
    from mask2former import recipes
    from mask2former.checkpoints.targets import write
    from mask2former.models.build import build_model
    from mask2former.structures import Categories

    torch.manual_seed(0)
    config = recipes.recipe(f"coco-panoptic/{backbone}").model
    model = build_model(config, CLASSES).eval()
    model.categories = Categories.from_names([f"class {index}" for index in range(CLASSES)])
    write(model, folder / "ours.safetensors", "ours")
    write(model, folder / "theirs", "huggingface")


def ours(folder: Path, dtype: str) -> Call:
    """A call of this library."""
    from mask2former import Predictor

    predictor = Predictor.from_pretrained(folder / "ours.safetensors", device="cpu", dtype=dtype, score_threshold=0.0)
    seen = image()
    return lambda task: predictor(seen, task)  # pyright: ignore[reportArgumentType, reportCallIssue]


def theirs(folder: Path, dtype: str) -> Call:
    """A call of ``transformers``."""
    from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

    kind = getattr(torch, dtype)
    model = Mask2FormerForUniversalSegmentation.from_pretrained(folder / "theirs", dtype=kind).eval()
    processor = AutoImageProcessor.from_pretrained(folder / "theirs")
    seen = image()

    def call(task: str) -> Any:
        inputs = processor(seen, return_tensors="pt").to(kind)
        with torch.inference_mode():
            outputs = model(**inputs)
            if task == "semantic":
                return processor.post_process_semantic_segmentation(outputs, target_sizes=[SIZE])[0]
            if task == "instance":
                return processor.post_process_instance_segmentation(outputs, threshold=0.0, target_sizes=[SIZE])[0]
            return processor.post_process_panoptic_segmentation(outputs, threshold=0.0, target_sizes=[SIZE])[0]

    return call


SIDES = {"ours": ours, "transformers": theirs}


def processor() -> str:
    """Name of the processor, if the system reports it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def largest_difference(folder: Path) -> dict[str, float]:
    """Largest difference between the logits of both, for the same pixels, and the size of the logits."""
    from transformers import Mask2FormerForUniversalSegmentation

    from mask2former import checkpoints

    one = checkpoints.from_pretrained(folder / "ours.safetensors")
    two = Mask2FormerForUniversalSegmentation.from_pretrained(folder / "theirs").eval()
    pixels = torch.from_numpy(image()).permute(2, 0, 1)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (one.mean, one.std))
    with torch.inference_mode():
        mine = one([pixels], aux_outputs=False)
        other = two(pixel_values=((pixels - mean) / std)[None])
    masks = mine.mask_logits[:, :, 0]
    return {
        "class_logits": (mine.class_logits - other.class_queries_logits).abs().max().item(),
        "mask_logits": (masks - other.masks_queries_logits).abs().max().item(),
        "largest_class_logit": mine.class_logits.abs().max().item(),
        "largest_mask_logit": masks.abs().max().item(),
    }


def peak_gib(side: str, folder: Path, arguments: argparse.Namespace) -> float:
    """Peak resident memory of a process that predicts one image for all tasks."""
    command = [sys.executable, __file__, "--peak", side, "--folder", str(folder), "--dtype", arguments.dtype]
    command += ["--threads", str(arguments.threads), "--tasks", *arguments.tasks]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backbone", choices=("r50", "swin-t"), default="r50")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--peak", choices=sorted(SIDES))
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.prepare:
        prepare(arguments.folder, arguments.backbone)
        return
    if arguments.peak:
        call = SIDES[arguments.peak](arguments.folder, arguments.dtype)
        for task in arguments.tasks:
            call(task)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
        return

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a separate process, before this one is large: a child's peak starts from its parent's.
        command = [sys.executable, __file__, "--prepare", "--folder", name, "--backbone", arguments.backbone]
        subprocess.run(command, check=True)
        peaks = {side: round(peak_gib(side, folder, arguments), 2) for side in SIDES}
        calls = {side: make(folder, arguments.dtype) for side, make in SIDES.items()}
        if arguments.dtype != "float32":
            calls["transformers in float32"] = theirs(folder, "float32")
        times: dict[str, dict[str, list[float]]] = {task: {side: [] for side in calls} for task in arguments.tasks}
        for count in range(arguments.calls + 1):  # the first is not counted
            for task in arguments.tasks:
                for side, call in calls.items():
                    begin = time.perf_counter()
                    call(task)
                    if count:
                        times[task][side].append(time.perf_counter() - begin)
        difference = largest_difference(folder)

    def figures(sides: dict[str, list[float]]) -> dict[str, Any]:
        ratios = {
            side: [slow / fast for slow, fast in zip(values, sides["ours"], strict=True)]
            for side, values in sides.items()
            if side != "ours"
        }
        return {
            "seconds_median": {side: round(statistics.median(values), 3) for side, values in sides.items()},
            "seconds_min_max": {side: [round(min(values), 3), round(max(values), 3)] for side, values in sides.items()},
            "times_as_fast_median": {side: round(statistics.median(values), 2) for side, values in ratios.items()},
            "times_as_fast_min_max": {
                side: [round(min(values), 2), round(max(values), 2)] for side, values in ratios.items()
            },
        }

    result = {
        "what": f"an image of 480x640 to its result: {arguments.backbone}, 100 queries, {arguments.dtype}, 800x1067",
        "machine": f"{processor()}, {arguments.threads} threads",
        "versions": {name: version(name) for name in ("torch", "transformers", "mask2former")},
        "calls": arguments.calls,
        **{task: figures(sides) for task, sides in times.items()},
        "peak_gib": peaks,
        "largest_difference_float32": difference,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
