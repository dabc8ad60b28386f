"""From the figures of a data set to a run file to start from, with the reason for every choice.

A proposal is a :class:`RunConfig` like any other; what it cannot know (the machine, the patience) has common values.
"""

from __future__ import annotations

import math

import numpy as np
import yaml

from mask2former.config import (
    AugmentationConfig,
    DataConfig,
    DatasetConfig,
    EvaluationConfig,
    InferenceConfig,
    LargeScaleJitterConfig,
    MaskedDecoderConfig,
    ModelConfig,
    OptimConfig,
    ResizeCropFlipConfig,
    RunConfig,
    Task,
    TrainerConfig,
)
from mask2former.errors import RequestError
from mask2former.inference.data_checks.check import DataReport, area_shares

__all__ = ["propose", "run_file"]

_EPOCHS = 50
_BATCH = 16
_MOST_QUERIES = 500  # memory and time of training grow with them
_COCO_AREAS = (32**2, 96**2)


def propose(dataset: DatasetConfig, report: DataReport, output: str = "runs/mine") -> tuple[RunConfig, list[str]]:
    """A run on the data set that was checked, and one sentence for each choice that comes from its figures.

    Args:
        dataset: what was checked.
        report: what was found.
        output: the run directory.

    Raises:
        RequestError: there is no training picture with an annotation.
    """
    facts = report.splits.get("train")
    if facts is None or not facts.objects.sum():
        raise RequestError("no run can be proposed: the training data has no picture with an annotation")
    task = report.task
    reasons = []

    median_short, median_long = float(np.median(facts.short_sides())), float(np.median(facts.long_sides()))
    short = _multiple(median_short, 256, 1024)
    scale = short / median_short
    typical = _multiple(median_long * scale, short, 1024)
    longest = _multiple(float(np.quantile(facts.long_sides(), 0.95)) * scale, short, 2048)
    reasons.append(
        f"pictures have a median shorter side of {median_short:.0f} pixels: they are shown to the "
        f"model with a shorter side of {short}"
    )

    most = max(int(split.objects.max(initial=0)) for split in report.splits.values())
    queries = 100
    if task != "semantic" and most > 80:
        queries = min(_MOST_QUERIES, 50 * math.ceil(1.2 * most / 50))
        reasons.append(f"up to {most} objects in a picture: {queries} queries")
    detections = max(100, 50 * math.ceil(most / 50)) if task != "semantic" else 100
    if detections > 100:
        reasons.append(f"so {detections} objects of a picture are kept and measured, not 100")

    limits = _COCO_AREAS
    if task == "instance":
        areas = np.sort(np.concatenate([split.areas for split in report.splits.values()]))
        if max(area_shares(areas, limits)) > 0.9:
            thirds = [_two_digits(float(np.quantile(areas, share))) for share in (1 / 3, 2 / 3)]
            if thirds[0] < thirds[1]:
                limits = thirds[0], thirds[1]
                reasons.append(
                    f"nine of ten objects would be of one size by COCO's limits: small and large are told apart at "
                    f"{limits[0]} and {limits[1]} pixels (AP itself does not change)"
                )

    steps = _steps(facts.num_pictures)
    every = max(1, steps // 20)
    reasons.append(f"{facts.num_pictures} training pictures: {steps} steps of {_BATCH}")
    monitor = {"panoptic": "panoptic/PQ", "instance": "instance/AP", "semantic": "semantic/mIoU"}[task]
    reasons.append(f"the best model is told by {monitor}")

    tasks: tuple[Task, ...] = (task,) if task != "panoptic" else ("panoptic", "instance", "semantic")
    model = ModelConfig(
        transformer_decoder=MaskedDecoderConfig(num_queries=queries),
        inference=InferenceConfig(
            tasks=tasks,
            short_edge=short,
            long_edge=longest,
            resize_masks_first=task != "semantic",
            things_only=task == "panoptic",
            max_instances=detections,
        ),
        init="coco-instance/r50" if task == "instance" else "coco-panoptic/r50",
        init_partial=True,
    )
    run = RunConfig(
        model=model,
        data=DataConfig(dataset=dataset, augmentation=_augmentation(task, short, typical), total_batch=_BATCH),
        optim=OptimConfig(warmup_steps=min(100, steps // 10), warmup_factor=0.01),
        trainer=TrainerConfig(max_steps=steps, checkpoint_every=every),
        evaluation=EvaluationConfig(
            every=every, tasks=(task,), monitor=monitor, max_detections=detections, area_limits=limits
        ),
        output=output,
    )
    return run, reasons


def run_file(run: RunConfig, reasons: list[str], source: str) -> str:
    """The proposal as YAML, complete, with its reasons on top."""
    comments = [
        f"Proposed by mask2former check-data for {source}; change what you know better.",
        *(f"- {reason}" for reason in reasons),
        "- init: official weights of COCO, downloaded at the first use; their licence is CC BY-NC 4.0. Without them:",
        "  init: null (from scratch: far more steps), or init: a checkpoint of your own.",
        "- memory short: data.batch_per_device=2 (or 1), trainer.gradient_checkpointing=true, a smaller augmentation.",
    ]
    text = yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return "".join(f"# {line}\n" for line in comments) + text


def _augmentation(task: Task, short: int, typical: int) -> AugmentationConfig:
    if task == "semantic":
        return ResizeCropFlipConfig(
            short_edges=tuple(round(short * share / 10) for share in range(5, 21)),
            long_edge=4 * typical,
            crop_size=(short, short),
            max_category_share=0.75,
            pad_size=(short, short),
        )
    # A picture at scale 1 is as large as when the model is asked.
    return LargeScaleJitterConfig(
        image_size=(typical, typical), min_scale=0.5, max_scale=2.0, keep_lost=task == "panoptic"
    )


def _multiple(value: float, low: int, high: int) -> int:
    """The nearest multiple of 32 within limits."""
    return min(high, max(low, 32 * round(value / 32)))


def _two_digits(value: float) -> int:
    digits = max(0, math.floor(math.log10(max(value, 1))) - 1)
    return max(1, round(value / 10**digits) * 10**digits)


def _steps(num_pictures: int) -> int:
    """Fifty passes, but not less than 1,000 steps nor more than 100,000; two digits."""
    return _two_digits(min(100_000, max(1_000, _EPOCHS * num_pictures / _BATCH)))
