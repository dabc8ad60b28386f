"""The deformable sampling kernel compared with ``grid_sample`` and the portable path, forward and backward, in one run.

The size is that of the pixel decoder for an 800x1216 image: 19,950 queries, 8 heads, 3 levels, 4 points. Kernels
alternate, so a slow phase of the machine affects all of them. Every time comes with the largest difference from the
reference, as a share of its largest value. Then the same for self-attention in inference, from
projections on, in float32 and bfloat16: in one pass, and in the steps of its readable form around the same kernel.

    python benchmarks/sampling_kernel.py --rounds 9 --output benchmarks/results/sampling_kernel.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mask2former.ops.deform_attn import deformable_sampling, deformable_self_attention
from mask2former.ops.deform_attn.api import Kernel
from mask2former.ops.deform_attn.projected import samples_of
from mask2former.ops.points import pixel_centers

SHAPES = ((25, 38), (50, 76), (100, 152))
HEADS, CHANNELS, POINTS = 8, 32, 4
KERNELS: tuple[Kernel, ...] = ("native", "portable", "reference")


def inputs(shapes: Sequence[tuple[int, int]] = SHAPES) -> list[Tensor]:
    """Values, locations near the queries' own positions, and weights that sum to 1."""
    generator = torch.Generator().manual_seed(0)
    queries = sum(height * width for height, width in shapes)
    value = torch.randn((1, queries, HEADS, CHANNELS), generator=generator)
    center = torch.cat([pixel_centers(shape, value) for shape in shapes], dim=1)
    offsets = 0.03 * torch.randn((1, queries, HEADS, len(shapes), POINTS, 2), generator=generator)
    weights = torch.randn((1, queries, HEADS, len(shapes) * POINTS), generator=generator).softmax(3)
    locations = center[:, :, None, None, None, :] + offsets
    return [value, locations, weights.unflatten(3, (len(shapes), POINTS))]


def run(kernel: Kernel, leaves: list[Tensor], upstream: Tensor) -> tuple[float, float, list[Tensor]]:
    """Seconds of the forward pass, of both passes, and the result with its three gradients."""
    begin = time.perf_counter()
    result = deformable_sampling(leaves[0], SHAPES, leaves[1], leaves[2], kernel)
    middle = time.perf_counter()
    gradients = torch.autograd.grad(result, leaves, upstream)
    return middle - begin, time.perf_counter() - begin, [result.detach(), *gradients]


def self_attention(rounds: int) -> dict[str, dict[str, object]]:
    """For each dtype, milliseconds of both methods, the median ratio, and the difference of their results."""
    generator = torch.Generator().manual_seed(2)
    queries = sum(height * width for height, width in SHAPES)
    wide = torch.randn((1, queries, HEADS, CHANNELS), generator=generator)
    projections = 3 * torch.randn((1, queries, 3 * HEADS * len(SHAPES) * POINTS), generator=generator)
    rows: dict[str, dict[str, object]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        value, projected = wide.to(dtype), projections.to(dtype)
        times, results = [], []
        for _ in range(rounds + 1):
            begin = time.perf_counter()
            one_pass = deformable_self_attention(value, SHAPES, projected, "native")
            middle = time.perf_counter()
            steps = deformable_sampling(value, SHAPES, *samples_of(projected, SHAPES, HEADS), "native")
            times.append((middle - begin, time.perf_counter() - middle))
            results = [one_pass.double(), steps.double()]
        fused, readable = (1e3 * statistics.median(column) for column in zip(*times[1:], strict=True))
        rows[str(dtype)] = {
            "one_pass_ms": round(fused, 1),
            "in_steps_ms": round(readable, 1),
            "times_faster": round(statistics.median(steps / one for one, steps in times[1:]), 2),
            "largest_difference_by_largest_value": float(
                f"{(results[0] - results[1]).abs().max() / results[1].abs().max():.1e}"
            ),
        }
    return rows


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    leaves = [tensor.requires_grad_() for tensor in inputs()]
    upstream = torch.randn((1, leaves[0].shape[1], HEADS * CHANNELS), generator=torch.Generator().manual_seed(1))
    times: dict[str, list[tuple[float, float]]] = {kernel: [] for kernel in KERNELS}
    predictions: dict[str, list[Tensor]] = {}
    for count in range(arguments.rounds + 1):  # the first is not counted
        for kernel in KERNELS:
            forward, both, predictions[kernel] = run(kernel, leaves, upstream)
            if count:
                times[kernel].append((forward, both))
    names = ("result", "value gradient", "location gradient", "weight gradient")
    rows = {}
    for kernel in KERNELS:
        forward, both = (1e3 * statistics.median(column) for column in zip(*times[kernel], strict=True))
        slower = [
            [r / k for r, k in zip(*pair, strict=True)] for pair in zip(times["reference"], times[kernel], strict=True)
        ]
        rows[kernel] = {
            "forward_ms": round(forward, 1),
            "forward_and_backward_ms": round(both, 1),
            "times_faster_than_grid_sample": [
                round(statistics.median(column), 2) for column in zip(*slower, strict=True)
            ],
            "largest_difference_by_largest_value": {
                name: float(f"{(ours - theirs).abs().max() / theirs.abs().max():.1e}")
                for name, ours, theirs in zip(names, predictions[kernel], predictions["reference"], strict=True)
            },
        }
    result = {
        "what": f"{leaves[0].shape[1]} queries, {HEADS} heads, {len(SHAPES)} levels, {POINTS} points, float32; medians",
        "machine": f"{platform.machine()}, {arguments.threads} threads",
        "torch": torch.__version__,
        "rounds": arguments.rounds,
        "kernels": rows,
        "self_attention": self_attention(arguments.rounds),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
