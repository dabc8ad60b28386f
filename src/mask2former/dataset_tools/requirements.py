"""What ``train`` requires of a run file and its data before the first step; ``check-data`` requires that of a run file.

Every function raises one message or returns notes. Knows no training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mask2former.config import ClipSampling, MetricStyle, RunConfig, Task
from mask2former.data.annotated import AnnotatedSet
from mask2former.data.checks import Finding, between_findings, require, split_findings
from mask2former.data.clips import ClipSet
from mask2former.data.parts import Part, PartOfClips
from mask2former.errors import UserError
from mask2former.evaluation.cases import match_classes
from mask2former.evaluation.scores import Evaluation
from mask2former.structures.categories import Categories

__all__ = [
    "CLIP_TASKS",
    "batch_size_per_device",
    "check_monitor",
    "check_run",
    "check_tasks",
    "class_map_findings",
    "data_notes",
    "run_findings",
]


CLIP_TASKS: tuple[Task, ...] = ("instance",)  # tasks for which clips have ground truth in a run


def batch_size_per_device(config: RunConfig) -> int:
    """Images per forward pass; with ``auto``, the maximum.

    Raises:
        UserError: ``data.batch_size`` cannot be split evenly.
    """
    total, nodes = config.data.batch_size, config.trainer.num_nodes
    devices = nodes * config.trainer.devices
    if total % devices:
        split = f"trainer.devices {devices}"
        if nodes > 1:
            split = f"trainer.num_nodes {nodes} x trainer.devices {config.trainer.devices} = {devices}"
        raise UserError(f"data.batch_size {total} is not a multiple of {split}; change one of them")
    wanted = config.data.batch_size_per_device
    micro = wanted if isinstance(wanted, int) else total // devices
    if (total // devices) % micro:
        raise UserError(
            f"data.batch_size {total} over {devices} device(s) gives {total // devices} images each, which "
            f"data.batch_size_per_device {micro} does not divide"
        )
    return micro


def check_run(config: RunConfig) -> None:
    """Refuse settings that contradict each other, whatever the data.

    Raises:
        UserError: the message names them.
    """
    batch_size_per_device(config)
    trainer = config.trainer
    if trainer.strategy == "fsdp":
        if trainer.num_nodes * trainer.devices == 1:
            raise UserError(
                "trainer.strategy fsdp splits the weights among devices, but there is only one; set it to ddp"
            )
        if trainer.precision == "fp16" or trainer.channels_last:
            what = "precision fp16" if trainer.precision == "fp16" else "channels_last"
            raise UserError(f"trainer.strategy fsdp does not work with trainer.{what}; change that, or use ddp")
        if config.optim.freeze:
            raise UserError("trainer.strategy fsdp does not work with optim.freeze; set the strategy to ddp")
    inference, evaluation = config.model.inference, config.evaluation
    if evaluation.monitor.split("/")[0] not in evaluation.tasks:
        raise UserError(
            f"evaluation.monitor '{evaluation.monitor}' belongs to none of evaluation.tasks {evaluation.tasks}"
        )
    if config.model.transformer_decoder.queries is None and evaluation.tasks != ("semantic",):
        raise UserError(
            f"{config.model.transformer_decoder.name} classifies pixels, but evaluation.tasks are "
            f"{', '.join(evaluation.tasks)}; set evaluation.tasks=[semantic] and "
            "evaluation.monitor=semantic/mIoU"
        )
    if (inference.tile or inference.non_overlapping) and isinstance(config.data.dataset, ClipSampling):
        raise UserError(
            "model.inference.tile and non_overlapping are for images, but the data are clips; leave them out"
        )
    if others := [task for task in evaluation.tasks if task not in inference.tasks]:
        raise UserError(
            f"evaluation.tasks are {', '.join(evaluation.tasks)}, but the model does not predict "
            f"{others[0]}: model.inference.tasks are {', '.join(inference.tasks)}; make the two agree"
        )


def check_tasks(config: RunConfig, measured: Sequence[Task]) -> None:
    """Refuse tasks for which the validation data have no ground truth.

    Raises:
        UserError: the message names the first.
    """
    for task in config.evaluation.tasks:
        if task not in measured:
            known = ", ".join(measured)
            raise UserError(
                f"evaluation.tasks contains {task}, but the validation data has ground truth only for {known}"
            )


def check_monitor(config: RunConfig, categories: Categories, style: MetricStyle) -> None:
    """Refuse a misspelt metric, with which no validation would ever be the best.

    Raises:
        UserError: the message lists the metrics that exist.
    """
    wanted, metrics = config.evaluation.monitor, config.evaluation
    measured = Evaluation(metrics.tasks, categories, metrics, style).compute()
    if wanted not in measured:
        raise UserError(f"evaluation.monitor '{wanted}' is not measured; expected one of {', '.join(measured)}")


def run_findings(
    config: RunConfig, training: Categories | None, validation: AnnotatedSet | ClipSet | None
) -> list[Finding]:
    """Everything that is wrong with the settings of a run; the data are None where they cannot be read."""
    checks: list[Callable[[], Any]] = [lambda: check_run(config)]
    if validation is not None:
        classes, style = training or validation.categories, validation.metric_style
        tasks = CLIP_TASKS if isinstance(validation, ClipSet) else validation.tasks
        checks.append(lambda: check_tasks(config, tasks))
        if validation.has_ground_truth:  # otherwise nothing is measured
            checks.append(lambda: check_monitor(config, classes, style))
    findings: list[Finding] = []
    for check in checks:
        try:
            check()
        except UserError as error:
            findings.append(Finding("run", True, str(error)))
    return findings


def class_map_findings(training: Categories, validation: Categories) -> list[Finding]:
    """Whether what is measured can be matched to what is learned, and which parts of it are not measured."""
    notes: list[str] = []
    try:
        things_only = all(item.is_thing for item in validation)
        match_classes(training, validation, things_only=things_only, notes=notes)
    except UserError as error:
        return [Finding("validation", True, str(error))]
    return [Finding("validation", False, note) for note in notes]


def data_notes(training: AnnotatedSet | ClipSet, validation: AnnotatedSet | ClipSet | None) -> list[str]:
    """What a user should know about the data of a run before the first step.

    Raises:
        UserError: the run would learn or measure something other than intended.
    """
    # Parts of one data set have the same properties, and share no images.
    is_part = isinstance(training, Part | PartOfClips)
    findings = split_findings(training.whole if is_part else training, "train")
    if validation is not None and not is_part:
        findings += [Finding("validation", False, note) for note in validation.notes if note not in training.notes]
        findings += split_findings(validation, "validation")
        findings += between_findings(training, validation)
    return require(findings)
