"""One training run from its configuration: data, model, Lightning trainer, and what is left on disk at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import lightning
import torch
import yaml
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from mask2former import checkpoints
from mask2former.checkpoints.start import check_settings, with_settings_of
from mask2former.config import RunConfig
from mask2former.data.annotated import AnnotatedSet
from mask2former.data.clips import ClipSet, PanopticClips
from mask2former.data.sample_sets import SampleSet, as_reader
from mask2former.data.transforms import Augmentation
from mask2former.dataset_tools.requirements import check_run
from mask2former.errors import UserError
from mask2former.files import leftovers_note, write_whole
from mask2former.memory import is_lack_of_memory
from mask2former.models.mask2former import Mask2Former
from mask2former.models.parts import set_precision
from mask2former.structures import ModelInfo
from mask2former.text import printable, terminal_line
from mask2former.training.checkpointing import (
    Best,
    KeepCheckpoints,
    Patience,
    WholeFiles,
    best_of,
    figure,
    loaded,
    put_in_place,
)
from mask2former.training.datamodule import DataModule, batch_size_per_device
from mask2former.training.directory import about_objects, clear
from mask2former.training.lock import check_links, locked
from mask2former.training.metrics_log import MetricsLog, validations
from mask2former.training.module import TrainingModule
from mask2former.training.objects import Objects
from mask2former.training.progress import StepProgressBar
from mask2former.training.result import TrainingResult, best_at_the_end, how_it_ended, result_of
from mask2former.training.resume import Comparison, LastState, check_objects, compare, digest_of, record_of
from mask2former.training.start import initial_model, start_of, with_model
from mask2former.training.stopping import Stopping, died_reading
from mask2former.training.trainer import precision, tensorboard

__all__ = ["TrainingResult", "train"]


def train(
    config: RunConfig,
    *,
    model: Mask2Former | None = None,
    train_data: SampleSet | AnnotatedSet | ClipSet | None = None,
    validation_data: SampleSet | AnnotatedSet | ClipSet | None = None,
    augmentation: Augmentation | None = None,
    criterion: nn.Module | None = None,
    callbacks: Sequence[lightning.Callback] = (),
    loggers: Sequence[Logger] = (),
    resume: bool = False,
    overwrite: bool = False,
) -> TrainingResult:
    """Train as configured, or with objects instead of what the configuration describes.

    The directory ``config.output`` gets ``run.yaml``, ``checkpoints/last.ckpt`` and ``best.ckpt``, ``metrics.csv`` and
    ``model.safetensors``: the averaged weights if they are on, else those of the best validation.

    Args:
        config: the whole run.
        model: is trained in place, instead of one that is built, and ends with the weights of the file. Inference
            settings come from ``config.model.inference``; those that it leaves out, from ``model.info.inference``.
        train_data: images or clips to learn from; any :class:`~mask2former.data.sample_sets.SampleSet` will do.
        validation_data: images or clips to validate on; give it together with ``train_data``, and only then.
        augmentation: of training images and clips.
        criterion: is called like :class:`~mask2former.losses.Criterion`; without parameters to learn.
        callbacks: of Lightning, in addition to ours.
        loggers: of Lightning, in addition to ours.
        resume: go on from ``checkpoints/last.ckpt``.
        overwrite: use a directory that holds another run.

    Raises:
        UserError: the settings contradict each other or the directory, or the initial weights do not fit.
        FloatingPointError: a logit or gradient was not finite; the batch is saved and named.
        KeyboardInterrupt: the user, or SIGTERM, stopped the run; the last checkpoint stays as it was.
        MemoryError: the device or the machine is too small; the message names the settings that help.
        ChildProcessError: a process that reads samples died of another cause.
        OSError: a file cannot be written, for instance on a full disk; the message names it.
    """
    objects = Objects(model, _reader(train_data), _reader(validation_data), augmentation, criterion)
    objects.check()
    directory = Path(config.output)
    last = directory / "checkpoints" / "last.ckpt"
    if resume and not last.is_file():
        raise UserError(f"nothing to resume: {last} does not exist; start the run without resuming")
    check_links(directory)
    stopping = Stopping()
    with locked(directory) as notes, stopping.listening():
        extra = (list(callbacks), list(loggers))
        return _train(config, objects, extra, last, stopping, notes, resume=resume, overwrite=overwrite)


def _reader(data: SampleSet | AnnotatedSet | ClipSet | None) -> AnnotatedSet | ClipSet | None:
    reader = None if data is None else as_reader(data)
    if isinstance(reader, PanopticClips):
        raise UserError("clips with panoptic ground truth are for evaluation; training takes tracks (a ClipSet)")
    return reader


def _train(
    config: RunConfig,
    objects: Objects,
    extra: tuple[list[lightning.Callback], list[Logger]],
    last: Path,
    stopping: Stopping,
    notes: list[str],
    *,
    resume: bool,
    overwrite: bool,
) -> TrainingResult:
    directory = Path(config.output)
    if not resume and last.exists() and not overwrite:
        raise UserError(f"{directory} holds a run; resume it, choose another output, or pass overwrite")
    past = LastState.read(last) if resume else None
    if past is not None:
        check_objects(past, objects.names())
    if objects.model is not None:
        config = with_model(config, objects.model.info)
    begins = past is None or past.categories is None  # without a record the initial model tells the license
    start = start_of(config) if begins else None
    known = start.info if start is not None else None
    if known is not None and "model" in objects.names():
        known = replace(known, architecture=None)  # whether the weights fit parts of one's own, loading tells
    if known is not None and config.model.init is not None and past is None:
        check_settings(config.model, known, config.model.init, partial=config.model.init_partial)
    if past is not None:
        known = ModelInfo.of(past.config.model)
    if config.model.init is not None and known is not None:
        model_config = with_settings_of(config.model, known, config.model.init)
        config = config.model_copy(update={"model": model_config})
    check_run(config)
    lightning.seed_everything(config.seed, verbose=False)
    data = DataModule(config, objects.train_data, objects.validation_data, objects.augmentation)
    data.check()
    num_samples = (len(data.training_set), data.num_validation)
    digest = digest_of(data.validation_set)
    change = compare(past, config, data.categories, num_samples, digest) if past is not None else None
    notes += change.notes if change is not None else []
    path = directory / "model.safetensors"
    ended_with = None if past is None else best_at_the_end(past)
    is_newer = past is not None and ended_with is not None and ended_with.step > past.step  # of a run that went on
    if past is not None and not is_newer and (end := how_it_ended(past, config, path)):
        print(terminal_line(f"{directory} is finished: {end}; nothing was changed"))
        if change is not None and change.changes:
            ignored = ", ".join(change.changes)
            print(terminal_line(f"note: since it is finished, these other settings were ignored: {ignored}"))
        return result_of(past, ended_with, path)
    best = None
    if past is not None:
        best = best_of(last.parent, lambda state: past.is_comparable(state, config, num_samples[1], digest))
    model, is_measurable = initial_model(config, objects.model, data.categories, start, begins=begins)
    data.num_queries = getattr(model.transformer_decoder, "num_queries", None)
    set_precision(model.pixel_decoder, full=not config.trainer.half_pixel_decoder)
    model.set_gradient_checkpointing(config.trainer.gradient_checkpointing)
    if past is not None and past.license is not None:
        model.info = replace(model.info, license=past.license)
    directory.mkdir(parents=True, exist_ok=True)
    notes += leftovers_note((directory, directory / "checkpoints", directory / "images"))
    text = about_objects(objects.names()) + yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    write_whole(directory / "run.yaml", lambda file: file.write_text(text, encoding="utf-8"), durable=True)

    if not resume:
        clear(directory, config.model.init)
    if config.trainer.channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  (no overload has it)
    module = TrainingModule(model, config, objects.criterion)
    module.record = record_of(config, data.categories, num_samples, model.info.license, digest, objects=objects.names())
    module.stored_optim = past.config.optim if past is not None else None
    starts_over = change is not None and change.measured_anew
    monitor, start_value = config.evaluation.monitor, None
    if past is not None and change is not None:
        start_value = _start_value(past, change, monitor, directory / "metrics.csv")
        if start_value is None and best is not None:
            start_value = best.start
        aside = put_in_place(last.parent, best, past.step)
        notes += _about_best(past, change, best, aside, monitor, start_value)
    step, rows = (past.step, past.num_rows) if past is not None else (0, None)
    is_due = past is not None and past.validation_due and data.is_measured
    module.validation_due = is_due
    metrics_log = MetricsLog(directory / "metrics.csv", step, rows)
    keep = KeepCheckpoints(
        last.parent,
        config.trainer.checkpoint_interval,
        monitor,
        metrics_log,
        best=best,
        start_value=start_value,
        step=step,
        is_due=is_due,
    )
    callbacks: list[lightning.Callback] = [
        stopping,
        keep,
        StepProgressBar(config.trainer.max_steps, config.trainer.log_interval),
    ]
    patience = None
    if config.evaluation.patience is not None:
        patience = Patience(monitor, config.evaluation.patience, starts_over=starts_over)
        if starts_over and best is not None:
            patience.begin_at(best.value)
        callbacks.append(patience)
    callbacks += extra[0]
    loggers: list[Logger] = [metrics_log, *extra[1]]
    if config.trainer.tensorboard:
        loggers.append(tensorboard(directory))
    trainer = lightning.Trainer(
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        plugins=[precision(config), WholeFiles()],
        max_steps=max(config.trainer.max_steps, step + is_due),  # else Lightning would leave before the validation
        val_check_interval=min(config.evaluation.interval, config.trainer.max_steps),
        check_val_every_n_epoch=None,
        limit_val_batches=None if data.is_measured else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=config.trainer.log_interval,
        logger=loggers,
        enable_checkpointing=False,
        callbacks=callbacks,
        use_distributed_sampler=False,
        enable_model_summary=False,
    )
    if (note := _dead_steps(config)) is not None:
        notes.append(note)
    if is_due:
        notes.append(f"the validation after step {step} was interrupted and is done again")
    elif past is not None and step >= config.trainer.max_steps:
        notes.append(f"all {step} steps were taken before; only {path.name} was missing")
    if trainer.is_global_zero:
        for note in notes:
            print(terminal_line(f"note: {note}"))
    try:
        if is_measurable and data.is_measured and not resume:  # the figure that training has to beat
            with isolate_rng():
                trainer.validate(module, data, verbose=False)
            if patience is not None and keep.start_value is not None:
                patience.begin_at(keep.start_value)
        trainer.fit(module, data, ckpt_path=last if resume else None, weights_only=True)
    except SystemExit as stop:  # Lightning turns Ctrl-C into an exit, and ignores the next one until Stopping ends
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt from stop
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if (how := died_reading(error)) is not None:
            raise _death(how) from error
        if resume and str(error).startswith("Error(s) in loading state_dict"):
            raise UserError(
                f"cannot resume: {last} is damaged ({printable(str(error), 200)}); start the run again with "
                "--overwrite, or put back a copy of the file"
            ) from error
        if not is_lack_of_memory(error):
            raise
        raise MemoryError(
            f"out of memory with {batch_size_per_device(config)} images in one pass; what helps: a smaller "
            "data.batch_size_per_device (the total batch stays), trainer.gradient_checkpointing=true, smaller images "
            "in data.dataset"
        ) from error

    if module.average is not None:
        module.average.copy_to(model)
    elif keep.best.exists():
        _restore(module, keep.best)
    threshold = module.instance_threshold if config.evaluation.choose_threshold else None
    if threshold is not None:
        inference = model.info.inference.model_copy(update={"instance_threshold": threshold})
        model.info = replace(model.info, inference=inference)
    if trainer.is_global_zero:
        checkpoints.save_pretrained(model, path)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    best = (keep.best_value, keep.best_step) if keep.best_value > -math.inf else None
    return TrainingResult(
        directory,
        path,
        config.evaluation.monitor,
        metrics,
        keep.start_value,
        best,
        is_average=module.average is not None,
        instance_threshold=threshold,
    )


def _start_value(past: LastState, change: Comparison, monitor: str, table: Path) -> float | None:
    """The figure before the first step, as it is measured now: with another monitor alone, the table has it, too."""
    if past.start is None or not change.measured_anew:
        return past.start
    measured = validations(table, past.step)
    return measured[0].get(monitor) if measured and change.measured_otherwise == ("evaluation.monitor",) else None


def _about_best(
    past: LastState, change: Comparison, best: Best | None, aside: Path | None, monitor: str, start: float | None
) -> list[str]:
    """What becomes of the best validation where a run goes on."""
    notes = []
    if aside is not None:
        notes.append(f"best.ckpt was measured otherwise and is {aside.name} now")
    if best is not None and (change.measured_anew or best.path.name != "best.ckpt"):
        notes.append(
            f"{best.path.name} was measured as now: {monitor} {best.value:.1f} at step {best.step} is the best"
        )
    if best is None and past.has_best and not change.measured_anew:
        notes.append(f"no checkpoint of the best {monitor} is left: the search for the best validation starts over")
    if past.start is not None and start is None:
        notes.append("the figure before the first step was measured otherwise and is not reported any more")
    return notes


def _dead_steps(config: RunConfig) -> str | None:
    length, steps = config.optim.schedule_steps, config.trainer.max_steps
    if config.optim.schedule != "poly" or length is None or length >= steps:
        return None
    return (
        f"optim.schedule_steps {length} is less than trainer.max_steps {steps}: the learning rate is 0 from step "
        f"{length} on"
    )


def _death(how: str) -> BaseException:
    """What it means that a process that reads samples was ended by a signal."""
    if how == "Terminated":
        return KeyboardInterrupt()  # whoever stops the run has found this process first
    if how == "Killed":
        return MemoryError(
            "a process that reads training samples was killed, most likely because the memory of the machine was full; "
            "what helps: fewer data.num_workers, smaller images in data.dataset"
        )
    if how == "Bus error":
        return MemoryError(
            "a process that reads training samples found no more shared memory; what helps: more of it (docker run "
            "--shm-size), or data.num_workers=0"
        )
    return ChildProcessError(
        f"a process that reads training samples died ({how.lower()}); data.num_workers=0 may show on which file"
    )


def _restore(module: TrainingModule, path: Path) -> None:
    with loaded(path, "delete it and resume: the last weights are taken", device="cpu") as state:
        module.load_state_dict(state["state_dict"])
        module.instance_threshold = figure(state.get("instance_threshold"))  # 0.1.0 did not write it
