"""From the figures of a data set to a run file to start from, with a reason for every choice.

A suggestion is a :class:`RunConfig` like any other; settings that it cannot know (for the machine, or your patience)
have common values.
"""

from __future__ import annotations

import math
from typing import Any, Unpack

import numpy as np
import yaml

from mask2former import recipes
from mask2former.config import (
    AugmentationConfig,
    CriterionConfig,
    DataConfig,
    DatasetConfig,
    EvaluationConfig,
    InferenceConfig,
    LargeScaleJitterConfig,
    MaskedDecoderConfig,
    ModelConfig,
    OptimConfig,
    Reading,
    ResizeCropFlipConfig,
    RunConfig,
    Task,
    TrainerConfig,
)
from mask2former.dataset_tools.figures import COCO_AREAS, DataReport, SplitSummary, area_shares, cell_diameter
from mask2former.errors import UserError
from mask2former.structures.categories import Categories
from mask2former.text import count, listed, printable

__all__ = ["run_file", "suggest_config"]

_EPOCHS = 50
_BATCH = 16
_MOST_QUERIES = 500  # memory and training time grow with them

# Many small objects of one kind: what the packaged model of nuclei was trained on. It saw objects of 40 pixels in crops
# of 256.
_CELLS = "nuclei"
_CELL_BATCH, _CELL_EPOCHS = 4, 20
_EXPOSURE = (0.15, 1.0)


def suggest_config(
    dataset: DatasetConfig, report: DataReport, **reading: Unpack[Reading]
) -> tuple[RunConfig, list[str]]:
    """A run on the data set that was checked, and one sentence for each choice based on its figures.

    Args:
        dataset: the data set that was checked.
        report: the result of the check.
        reading: how its images were read for the check, which the run keeps.

    Raises:
        UserError: there is no annotated training image.
    """
    summary = report.splits.get("train")
    if summary is None or not summary.objects.sum():
        raise UserError("no run can be suggested: the training data has no annotated images")
    task = report.task
    if task == "instance" and (diameter := cell_diameter(summary)) is not None:
        return _cells(dataset, report, summary, diameter, reading)
    reasons: list[str] = []

    median_short, median_long = float(np.median(summary.short_sides())), float(np.median(summary.long_sides()))
    short = _multiple(median_short, 256, 1024)
    scale = short / median_short
    typical = _multiple(median_long * scale, short, 1024)
    longest = _multiple(float(np.quantile(summary.long_sides(), 0.95)) * scale, short, 2048)
    reasons.append(
        f"images have a median shorter side of {median_short:.0f} pixels: they are resized to {short} pixels"
    )

    most = _most_objects(report)
    queries = 100
    if task != "semantic" and most > 80:
        queries = min(_MOST_QUERIES, 50 * math.ceil(1.2 * most / 50))
        reasons.append(f"up to {most} objects in an image: {queries} queries")
    detections = max(100, 50 * math.ceil(most / 50)) if task != "semantic" else 100
    if detections > 100:
        reasons.append(f"so {detections} objects per image are kept and measured, instead of 100")

    limits = _area_limits(report, reasons) if task == "instance" else COCO_AREAS
    steps = _two_digits(min(100_000, max(1_000, _EPOCHS * summary.num_images / _BATCH)))
    reasons.append(f"{summary.num_images} training images: {steps} steps of {_BATCH}")
    exposure = _EXPOSURE if task == "semantic" and summary.num_dark else None
    if exposure is not None:
        reasons.append(
            f"{summary.num_dark} of {summary.num_images} training images are dark: half of the training samples are "
            "made darker or brighter, as if exposed differently"
        )
    monitor = {"panoptic": "panoptic/PQ", "instance": "instance/AP", "semantic": "semantic/mIoU"}[task]
    reasons.append(f"the best model is chosen by {monitor}")

    tasks: tuple[Task, ...] = (task,) if task != "panoptic" else ("panoptic", "instance", "semantic")
    init = "coco-instance/r50" if task == "instance" else "coco-panoptic/r50"
    model = ModelConfig(
        inference=InferenceConfig(
            **_read_as(reading),
            tasks=tasks,
            short_edge=short,
            long_edge=longest,
            resize_masks_first=task != "semantic",
            things_only=task == "panoptic",
            max_instances=detections,
        ),
        init=init,
        init_partial=True,
        **_known_classes(summary, init, reasons),
        **_channels(summary, reading, reasons),
    )
    if queries > 100:  # otherwise those of the initial model
        model = model.model_copy(update={"transformer_decoder": MaskedDecoderConfig(num_queries=queries)})
    augmentation = _augmentation(task, short, typical, exposure)
    measured = EvaluationConfig(
        interval=max(1, steps // 20), tasks=(task,), monitor=monitor, max_detections=detections, area_limits=limits
    )
    data = DataConfig(dataset=dataset, augmentation=augmentation, batch_size=_BATCH)
    return _run(model, data, steps, measured), reasons


def _cells(
    dataset: DatasetConfig, report: DataReport, summary: SplitSummary, diameter: float, reading: Reading
) -> tuple[RunConfig, list[str]]:
    """Continues from the packaged model of nuclei, whose architecture and tiles the run adopts."""
    steps = _two_digits(min(5_000, max(200, _CELL_EPOCHS * summary.num_images / _CELL_BATCH)))
    most = _most_objects(report)
    detections = max(400, 50 * math.ceil(1.2 * most / 50))
    name = summary.categories[0].name
    reasons = [
        f"one class, '{name}', with many small objects (median diameter {diameter:.0f} pixels): training starts from "
        f"the packaged model '{_CELLS}', which was trained on such objects and segments tile by tile",
        "every image is resized so that its objects have about the diameter of the model's training data",
        "half of the training samples are made darker or brighter, as if exposed differently",
        "objects are assumed not to overlap; if yours do: model.inference.non_overlapping=false",
        f"{summary.num_images} training images: {steps} steps of {_CELL_BATCH} crops, at a learning rate that "
        "preserves what the model has learned; if the metric at step 0 is poor, your objects look different: set "
        "optim.lr=1.0e-4 and raise trainer.max_steps",
        "the best model is chosen by instance/AP, which is also measured before the first step",
    ]
    if detections > 400:
        reasons.append(f"up to {most} objects in an image: {detections} are kept and measured, instead of 400")
    limits = _area_limits(report, reasons)
    settings: dict[str, Any] = {**_read_as(reading)}
    if detections > 400:  # otherwise as many as the packaged model keeps
        settings["max_instances"] = detections
    least = recipes.nuclei().model.inference.min_area
    if (smallest := _smallest_object(report, least)) < least:  # otherwise those that the packaged model keeps
        settings["min_area"] = smallest
        reasons.append(
            f"the smallest object has {count(smallest, 'pixel')}: only smaller instances are left out, not "
            f"all below {least} pixels as by the packaged model"
        )
    given = {"inference": InferenceConfig(**settings)} if settings else {}
    model = ModelConfig(init=_CELLS, **given, **_channels(summary, reading, reasons))
    augmentation = ResizeCropFlipConfig(
        scale_range=(0.7, 1.5),
        diameter=40,
        exposure=_EXPOSURE,
        flip="both",
        crop_size=(256, 256),
        pad_size=(256, 256),
        keep_lost=False,
    )
    measured = EvaluationConfig(
        interval=max(1, steps // 10),
        tasks=("instance",),
        monitor="instance/AP",
        max_detections=detections,
        area_limits=limits,
    )
    data = DataConfig(dataset=dataset, augmentation=augmentation, batch_size=_CELL_BATCH)
    run = _run(model, data, steps, measured, lr=2e-5, backbone_multiplier=0.5, ema_decay=0.99)
    return run.model_copy(update={"criterion": CriterionConfig(num_points=2048)}), reasons


def _run(model: ModelConfig, data: DataConfig, steps: int, evaluation: EvaluationConfig, **optim: Any) -> RunConfig:
    """What all suggestions have in common: a short warmup, and a checkpoint whenever the model is measured."""
    return RunConfig(
        model=model,
        data=data,
        optim=OptimConfig(warmup_steps=min(100, steps // 10), warmup_factor=0.01, **optim),
        trainer=TrainerConfig(max_steps=steps, checkpoint_interval=evaluation.interval),
        evaluation=evaluation,
        output="runs/mine",
    )


def _smallest_object(report: DataReport, most: int) -> int:
    areas = np.concatenate([split.areas for split in report.splits.values()])
    return int(areas[areas > 0].min(initial=most))


def _most_objects(report: DataReport) -> int:
    return max(int(split.objects.max(initial=0)) for split in report.splits.values())


def _read_as(reading: Reading) -> dict[str, Any]:
    """The settings that are set."""
    return {name: value for name, value in reading.items() if value is not None}


def _known_classes(summary: SplitSummary, init: str, reasons: list[str]) -> dict[str, Any]:
    """Classes that the initial model knows by name keep what it has learned about them."""
    theirs = set(Categories.load(recipes.recipe(init).categories).names)
    known = [name for name in summary.categories.names if name in theirs]
    if not known:
        return {}
    reasons.append(
        f"the initial model has {len(known)} of {len(summary.categories)} classes, to judge by their names "
        f"({listed(known, 4)}), and keeps what it has learned about them"
    )
    return {"init_classes": "by-name"}


def _channels(summary: SplitSummary, reading: Reading, reasons: list[str]) -> dict[str, Any]:
    """Mean and deviation of the data where the initial model has none for this number of channels."""
    channels = len(summary.channel_mean)
    if reading.get("bands") is None or channels in (0, 3):
        return {}
    constant = [str(band) for band, std in enumerate(summary.channel_std, start=1) if std < 1]
    reasons.append(
        f"images of {count(channels, 'channel')}, normalised with the mean and deviation of the training "
        "images; the weights of the initial model's first convolution, which expect three, are "
        f"{'summed' if channels == 1 else 'repeated'}"
    )
    if constant:
        reasons.append(f"nearly the same value everywhere: channel {', '.join(constant)}, which is divided by 1")
    return {
        "pixel_mean": summary.channel_mean,
        "pixel_std": tuple(max(1.0, std) for std in summary.channel_std),
        "init_channels": "repeat",
    }


def _area_limits(report: DataReport, reasons: list[str]) -> tuple[int, int]:
    """Where small ends and large begins: COCO's limits, unless nearly all objects would have the same size."""
    areas = np.sort(np.concatenate([split.areas for split in report.splits.values()]))
    if max(area_shares(areas)) <= 0.9:
        return COCO_AREAS
    small, large = (_two_digits(float(np.quantile(areas, share))) for share in (1 / 3, 2 / 3))
    if small >= large:
        return COCO_AREAS
    reasons.append(
        "with COCO's limits, nine out of ten objects would have the same size: small and large are therefore "
        f"separated at {small} and {large} pixels (AP itself does not change)"
    )
    return small, large


_ABOUT_START = {
    True: (
        "- init: comes with this package (MIT). Faster if the processor or GPU supports it: trainer.precision=bf16",
        "  trainer.half_pixel_decoder=true trainer.channels_last=true.",
    ),
    False: (
        "- init: official weights of COCO, downloaded at the first use; their license is CC BY-NC 4.0 (with mmdet/",
        "  before the name: Apache-2.0). What model leaves out comes from it. Without them: init: null (a ResNet-50",
        "  from scratch: far more steps), or init: a model of your own.",
    ),
}


def run_file(run: RunConfig, reasons: list[str], source: str) -> str:
    """The suggestion as YAML, preceded by its reasons; complete except for what comes from the initial model."""
    comments = [
        f"Suggested by mask2former check-data for {source}; change what you know better.",
        *(f"- {reason}" for reason in reasons),
        *_ABOUT_START[run.model.init == _CELLS],
        "- out of memory: data.batch_size_per_device=2 (or 1), trainer.gradient_checkpointing=true, "
        "smaller images in data.augmentation.",
    ]
    values = run.model_dump(mode="json")
    values["model"] = run.model.model_dump(mode="json", exclude_unset=True)  # the rest comes from the initial model
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    # Class names and paths are untrusted text: a line break in them would end the comment.
    return "".join(f"# {printable(line, spaces=True)}\n" for line in comments) + text


def _augmentation(task: Task, short: int, typical: int, exposure: tuple[float, float] | None) -> AugmentationConfig:
    if task == "semantic":
        return ResizeCropFlipConfig(
            short_edges=tuple(round(short * share / 10) for share in range(5, 21)),
            long_edge=4 * typical,
            crop_size=(short, short),
            max_category_share=0.75,
            exposure=exposure,
            pad_size=(short, short),
        )
    # An image at scale 1 is as large as at inference.
    return LargeScaleJitterConfig(
        image_size=(typical, typical), min_scale=0.5, max_scale=2.0, keep_lost=task == "panoptic"
    )


def _multiple(value: float, low: int, high: int) -> int:
    """The nearest multiple of 32 within limits."""
    return min(high, max(low, 32 * round(value / 32)))


def _two_digits(value: float) -> int:
    digits = max(0, math.floor(math.log10(max(value, 1))) - 1)
    return max(1, round(value / 10**digits) * 10**digits)
