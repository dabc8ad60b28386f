"""Training steps per second and peak memory, compared with the Mask2Former of ``transformers``, in one run.

Both train ResNet-50, 100 queries, 133 classes, on one 512x512 or 1024x1024 image with ten objects per step, each with
its own loss and AdamW, from random weights, in float32 or with bfloat16 autocast. Steps alternate, so a slow phase of
the machine affects both. Memory is measured in separate processes.

    python benchmarks/training_step.py --steps 10 --output benchmarks/results/training_step.json
    python benchmarks/training_step.py --precision bf16 --output benchmarks/results/training_step_bf16.json
    python benchmarks/training_step.py --size 1024 --steps 7 --output benchmarks/results/training_step_1024.json
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from prediction import processor  # another script in this folder

OBJECTS, CLASSES = 10, 133
Step = Callable[[], float]
Precision = Literal["fp32", "bf16"]


def scene(size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A random image (3, H, W) in 0..255, labels and rectangular masks (N, H, W)."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, size, size, generator=generator) * 255
    masks = torch.zeros(OBJECTS, size, size, dtype=torch.bool)
    for index in range(OBJECTS):
        y, x, h, w = (int(value) for value in torch.randint(size * 5 // 64, size * 15 // 32, (4,), generator=generator))
        masks[index, y : y + h, x : x + w] = True
    return image, torch.randint(0, CLASSES, (OBJECTS,), generator=generator), masks


def ours(precision: Precision, size: int) -> Step:
    """A step of this library; for bf16 with ``half_pixel_decoder`` and ``channels_last``."""
    from mask2former.config import ModelConfig, OptimConfig
    from mask2former.losses import Criterion
    from mask2former.models.build import build_model
    from mask2former.structures import Target
    from mask2former.training.optim import build_optimizer

    torch.manual_seed(0)
    image, labels, masks = scene(size)
    model = build_model(ModelConfig(), CLASSES).train()
    if precision == "bf16":
        model.pixel_decoder.full_precision = False  # pyright: ignore[reportArgumentType]
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  (no overload has it)
    criterion, optimizer = Criterion(CLASSES), build_optimizer(model, OptimConfig())
    target = Target(labels, masks.unsqueeze(1))

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = criterion(model([image]), [target], torch.rand).total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
        return loss.item()

    return step


def theirs(precision: Precision, size: int) -> Step:
    """A step of ``transformers``."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig

    torch.manual_seed(0)
    image, labels, masks = scene(size)
    stages: dict[str, Any] = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
    config = Mask2FormerConfig(backbone_config=ResNetConfig(**stages), num_queries=100)
    config.num_labels = CLASSES
    model = Mask2FormerForUniversalSegmentation(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05)
    pixels = ((image - 116.0) / 58.0)[None]

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(pixel_values=pixels, mask_labels=[masks.float()], class_labels=[labels]).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
        return loss.item()

    return step


SIDES = {"ours": ours, "transformers": theirs}


def peak_gib(side: str, precision: Precision, size: int) -> float:
    """Peak resident memory of a process that takes two steps."""
    command = [sys.executable, __file__, "--peak", side, "--threads", str(torch.get_num_threads())]
    command += ["--precision", precision, "--size", str(size)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--size", type=int, default=512, help="height and width of the image")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--peak", choices=sorted(SIDES))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        step = SIDES[arguments.peak](arguments.precision, arguments.size)
        step()
        step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
        return

    # Before this process is large: a child's peak starts from its parent's.
    peaks = {side: round(peak_gib(side, arguments.precision, arguments.size), 2) for side in SIDES}
    steps = {side: make(arguments.precision, arguments.size) for side, make in SIDES.items()}
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    losses: dict[str, list[float]] = {side: [] for side in SIDES}
    for count in range(arguments.steps + 1):  # the first is not counted
        for side, step in steps.items():
            begin = time.perf_counter()
            loss = step()
            if count:
                times[side].append(time.perf_counter() - begin)
                losses[side].append(loss)
    ratios = [slow / fast for slow, fast in zip(times["transformers"], times["ours"], strict=True)]
    from importlib.metadata import version

    result = {
        "what": f"one training step: R50, batch 1, {arguments.size}x{arguments.size}, 10 objects, 100 queries, "
        "12544 points, " + {"fp32": "float32", "bf16": "bfloat16 autocast"}[arguments.precision],
        "machine": f"{processor()}, {arguments.threads} threads",
        "versions": {name: version(name) for name in ("torch", "transformers", "mask2former")},
        "steps": arguments.steps,
        "seconds_median": {side: round(statistics.median(values), 3) for side, values in times.items()},
        "seconds_min_max": {side: [round(min(values), 3), round(max(values), 3)] for side, values in times.items()},
        "ratio_median": round(statistics.median(ratios), 2),
        "ratio_min_max": [round(min(ratios), 2), round(max(ratios), 2)],
        "first_loss": {side: round(values[0], 2) for side, values in losses.items()},
        "peak_gib": peaks,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
