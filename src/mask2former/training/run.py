"""One training run from its configuration: data, model, Lightning trainer, and the files at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from mask2former import checkpoints
from mask2former.config import RunConfig, leaves
from mask2former.data.transforms import Augmentation
from mask2former.dataset_tools.requirements import check_run
from mask2former.errors import OptionError, UserError
from mask2former.models.mask2former import Mask2Former
from mask2former.progress import DetailedProgress
from mask2former.training.batch_size import check_auto, with_batch_size
from mask2former.training.checkpointing import KeepCheckpoints, date_after, figure, figures, loaded
from mask2former.training.class_weights import class_weights
from mask2former.training.cluster import Rank, say_once
from mask2former.training.data_state import digest_of
from mask2former.training.datamodule import DataModule
from mask2former.training.directory import check_vacant, prepare_directory
from mask2former.training.lock import check_links, locked
from mask2former.training.loggers import Loggers
from mask2former.training.meeting import Meeting
from mask2former.training.metrics_log import MetricsLog, validations
from mask2former.training.module import TrainingModule
from mask2former.training.objects import Data, Objects
from mask2former.training.optim import schedule_notes
from mask2former.training.progress import StepProgress
from mask2former.training.result import TrainingResult, finished
from mask2former.training.resume import LastState, check_objects, compare, record_of
from mask2former.training.resume_point import ResumePoint, patience_of, put_best_in_place, resume_point
from mask2former.training.start import initial_model, with_start
from mask2former.training.stopping import Stopping, explained
from mask2former.training.time_limit import TimeLimit
from mask2former.training.trainer import build_trainer, quiet

__all__ = ["TrainingResult", "train"]


def train(
    config: RunConfig,
    *,
    model: Mask2Former | None = None,
    train_data: Data | None = None,
    validation_data: Data | None = None,
    augmentation: Augmentation | None = None,
    criterion: nn.Module | None = None,
    callbacks: Sequence[lightning.Callback] = (),
    loggers: Sequence[Logger] = (),
    resume: bool = False,
    overwrite: bool = False,
    progress: DetailedProgress | None = None,
) -> TrainingResult:
    """Train a model as configured, or with your own objects in place of what the configuration describes.

    The directory ``config.output`` receives ``run.yaml``, ``checkpoints/last.ckpt`` and ``best.ckpt``, ``metrics.csv``
    and ``model.safetensors``: the averaged weights if they are on, else those of the best validation.

    Args:
        config: settings of the complete run.
        model: trained in place, instead of a newly built one. At the end it has the weights of the file (except with
            ``trainer.strategy`` fsdp, which leaves a share of them in it). Inference settings come from
            ``config.model.inference``; those that it leaves out, from ``model.info.inference``.
        train_data: images or clips to learn from; any :class:`~mask2former.data.sample_sets.SampleSet` will do.
        validation_data: images or clips to validate on; pass it if and only if you pass ``train_data``.
        augmentation: of training images and clips.
        criterion: called like :class:`~mask2former.losses.Criterion`; must have no parameters to learn.
        callbacks: of Lightning, in addition to ours.
        loggers: of Lightning, in addition to ours.
        resume: continue from ``checkpoints/last.ckpt``.
        overwrite: use a directory that holds another run.
        progress: receives every step, with the losses every ``trainer.log_interval``; None: these are printed.

    Raises:
        UserError: the settings contradict each other or the directory, or the initial weights do not fit.
        MissingExtraError: the package of a logger is not installed.
        FloatingPointError: a logit or gradient was not finite; the batch is saved and named.
        KeyboardInterrupt: the user, or SIGTERM, stopped the run; the last checkpoint has not changed. Or
            ``trainer.max_hours`` have passed; then the last checkpoint is that of the last step.
        MemoryError: the device or the machine has too little memory; the message names settings that help.
        ChildProcessError: a process that reads samples died for another reason, or another rank of the run has ended.
        OSError: a file cannot be written, for instance on a full disk; the message names it.
    """
    if resume and overwrite:
        raise OptionError(
            lambda name: f"{name('resume')} continues a run and {name('overwrite')} replaces it; give only one of them"
        )
    rank = Rank.of(config.trainer)
    rank.take()
    objects = Objects.checked(model, train_data, validation_data, augmentation, criterion)
    directory, monitor = Path(config.output), config.evaluation.monitor
    last = directory / "checkpoints" / "last.ckpt"
    if resume and not last.is_file():
        where = f" for {rank}" if rank.world_size > 1 else ""
        raise UserError(f"nothing to resume: {last} does not exist{where}; start the run without resuming")
    check_links(directory)
    stopping = Stopping()
    limit = None if config.trainer.max_hours is None else TimeLimit(config.trainer.max_hours)
    with locked(directory) as notes, stopping.listening(), quiet():
        if not resume:
            check_vacant(directory, config.model.init, overwrite=overwrite)
        replaces = last.exists() and not resume
        past = LastState.read(last) if resume else None
        if past is not None:
            check_objects(past, objects.names())
        config, start = with_start(config, objects.model, past)
        config = check_auto(config, past)
        check_run(config)
        if objects.train_data is not None and config.data.validation is not None:
            raise UserError(
                "data.validation splits the training data of the run file, but validation_data was given; "
                "leave out one of the two"
            )

        lightning.seed_everything(config.seed, verbose=False)
        data = DataModule(config, objects.train_data, objects.validation_data, objects.augmentation)
        data.check()
        num_samples = len(data.training_set), data.num_validation
        digest = digest_of(data.validation_set.samples, data.num_validation)
        learned = digest_of(data.training_set.samples, num_samples[0])
        point = ResumePoint()
        if past is not None:
            change = compare(past, config, data.categories, num_samples, digest, learned)
            if (result := finished(past, change, config)) is not None:
                return result
            point = resume_point(past, change, config, data.num_validation, digest)
            data.unit = data.unit if change.drawn_anew else past.unit
            notes += change.notes

        model, is_measurable = initial_model(config, objects.model, data.categories, start, past)
        data.num_queries = getattr(model.transformer_decoder, "num_queries", None)
        data.size_divisibility = math.lcm(model.size_divisibility, 4)  # masks are predicted at stride 4
        if objects.criterion is not None and config.criterion.class_weights is not None:
            raise UserError("criterion.class_weights applies only to the built-in criterion, but another one was given")
        weights, said = class_weights(config.criterion.class_weights, data.training_set.samples)
        notes += said
        module = TrainingModule(model, config, objects.criterion, weights)
        if config.data.batch_size_per_device == "auto":
            config, told = with_batch_size(config, module, data.sample_batch())
            data.settle(config)
            module.config = config
            notes.append(told)
        if config.optim.freeze:
            notes.append(str(module.frozen))
        names, license = objects.names(), model.info.license
        module.record = record_of(config, data.categories, num_samples, license, digest, names, data.unit, learned)
        module.stored_optim = past.config.optim if past is not None else None
        module.validation_due = point.is_due

        table = MetricsLog(directory / "metrics.csv", point.step, point.num_rows)
        keep = KeepCheckpoints(
            last.parent,
            config.trainer.checkpoint_interval,
            monitor,
            table,
            best=point.best,
            start_value=point.start_value,
            step=point.step,
            is_due=point.is_due,
            limit=limit,
        )
        patience = patience_of(config, point)
        bar = StepProgress(config.trainer.max_steps, config.trainer.log_interval, monitor, progress)

        def prepare() -> None:
            said = [*notes, *prepare_directory(config, names, resume=resume)]
            said += [] if past is None else put_best_in_place(past, point, config)
            said += table.open()
            said += ours_by_name.begin(leaves(config))
            said += schedule_notes(config)
            for note in said:
                say_once(f"note: {note}")

        ours_by_name = Loggers(config, loggers, resume=resume, replaces=replaces)
        meeting = Meeting(directory, _facts(config, num_samples, digest), prepare)
        ours = [stopping, meeting, keep, bar, *([] if patience is None else [patience])]
        logs = [table, *ours_by_name, *loggers]
        trainer = build_trainer(config, point, rank, [*ours, *callbacks], logs, is_measured=data.is_measured)
        with explained(trainer, config, last if resume else None, rank), module.frozen.held(), ours_by_name.closing():
            if is_measurable and data.is_measured and not resume:  # the metric that training has to improve
                with isolate_rng():
                    trainer.validate(module, data, verbose=False)
                if patience is not None and keep.start_value is not None:
                    patience.begin_at(keep.start_value)
            trainer.fit(module, data, ckpt_path=last if resume else None, weights_only=True)
            return _saved(trainer, module, keep)


def _facts(config: RunConfig, num_samples: tuple[int, int], validation: str) -> dict[str, Any]:
    """Values that must be equal on all ranks, except for the directory, which may have several names."""
    settings = {name: value for name, value in leaves(config).items() if name != "output"}
    data = {"the number of training samples": num_samples[0], "the digest of the validation data": validation}
    return {**settings, **data, "the version of torch": torch.__version__}


def _saved(trainer: lightning.Trainer, module: TrainingModule, keep: KeepCheckpoints) -> TrainingResult:
    """Write the model of a finished training run, with the best or the averaged weights."""
    config, model, path = module.config, module.whole_model(), Path(module.config.output) / "model.safetensors"
    best = (keep.best_value, keep.best_step) if keep.best_value > -math.inf else None
    if module.average is not None:
        module.average.copy_to(model)
    elif keep.best.exists():
        _restore(module, model, keep.best)
    elif best is not None:
        best = None
        say_once(
            f"note: {keep.best}, of the best validation (step {keep.best_step}), no longer exists: {path.name} holds "
            "the weights of the last step"
        )
    threshold = module.instance_threshold if config.evaluation.choose_threshold else None
    if threshold is not None:
        chosen = {"instance_threshold": threshold, "class_thresholds": module.class_thresholds}
        inference = model.info.inference.model_copy(update=chosen)
        model.info = replace(model.info, inference=inference)
    if trainer.is_global_zero:
        checkpoints.save_pretrained(model, path)
        date_after(path, keep.last)
    # Not those that Lightning has: they are gone in a resumed run, and may be those of several validations.
    measured = validations(path.with_name("metrics.csv"), trainer.global_step)
    return TrainingResult(
        path.parent,
        path,
        config.evaluation.monitor,
        measured[-1] if measured else {},
        keep.start_value,
        best,
        is_average=module.average is not None,
        instance_threshold=threshold,
        class_thresholds={} if threshold is None else module.class_thresholds,
    )


def _restore(module: TrainingModule, model: Mask2Former, path: Path) -> None:
    with loaded(path, "delete it and resume: the last weights are used", device="cpu") as state:
        weights = state["state_dict"].items()
        own = {name.removeprefix("model."): value for name, value in weights if name.startswith("model.")}
        model.load_state_dict(own)
        module.instance_threshold = figure(state.get("instance_threshold"))  # 0.1.0 did not write it
        module.class_thresholds = figures(state.get("class_thresholds", {}))
