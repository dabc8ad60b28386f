"""Training passes of timm backbones in bfloat16, with depthwise convolutions in bfloat16 and in float32, in one run.

Both forms have the same weights and images (four crops of 256x256, channels last) and alternate, so a slow phase of the
machine affects both. Times are CPU seconds of one thread. The difference of all gradients from those of the same
backbone in float32 is given as a share of their norm, since a faster form must not be a worse one.

    python benchmarks/depthwise.py --rounds 7 --output benchmarks/results/depthwise.json
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from mask2former.models.depthwise import set_depthwise_precision

BACKBONES = ("tf_efficientnet_lite0", "mobilenetv3_large_100", "convnext_atto")


def passes(backbone: nn.Module, images: Tensor, *, half: bool = True) -> tuple[float, Tensor]:
    """CPU seconds of a forward and a backward pass, and all gradients as one vector."""
    backbone.zero_grad()
    begin = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = sum((features.float().square().mean() for features in backbone(images)), torch.zeros(()))
    loss.backward()
    seconds = time.process_time() - begin
    found = [parameter.grad.flatten() for parameter in backbone.parameters() if parameter.grad is not None]
    return seconds, torch.cat(found)


def measure(name: str, rounds: int, side: int) -> dict[str, object]:
    """Median seconds of both forms, the median ratio of the pairs with its range, and the errors of their gradients."""
    torch.manual_seed(0)
    plain = timm.create_model(name, features_only=True).train().to(memory_format=torch.channels_last)
    ours = copy.deepcopy(plain)
    set_depthwise_precision(ours)
    images = torch.randn(4, 3, side, side).to(memory_format=torch.channels_last)
    _, exact = passes(copy.deepcopy(plain), images, half=False)
    forms, seconds, errors = {"bfloat16": plain, "float32": ours}, dict[str, list[float]](), dict[str, float]()
    for form, backbone in forms.items():  # the first call also chooses kernels
        _, gradients = passes(backbone, images)
        errors[form] = float((gradients - exact).norm() / exact.norm())
        seconds[form] = []
    for _ in range(rounds):
        for form, backbone in forms.items():
            seconds[form].append(passes(backbone, images)[0])
    ratios = sorted(half / full for half, full in zip(seconds["bfloat16"], seconds["float32"], strict=True))
    return {
        "seconds": {form: round(statistics.median(times), 3) for form, times in seconds.items()},
        "ratio": round(statistics.median(ratios), 2),
        "range": [round(ratios[0], 2), round(ratios[-1], 2)],
        "gradient_error": {form: float(f"{error:.2g}") for form, error in errors.items()},
    }


def main() -> None:
    """Measure the backbones, print a line for each, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, object] = {
        "torch": torch.__version__,
        "timm": timm.__version__,
        "processor": platform.processor() or platform.machine(),
        "rounds": args.rounds,
    }
    for name in args.backbones:
        found[name] = row = measure(name, args.rounds, args.side)
        print(name, row, flush=True)
    if args.output is not None:
        args.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
