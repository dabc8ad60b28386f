"""One training run from its configuration: data, model, Lightning trainer, and what is left on disk at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from mask2former import checkpoints, recipes
from mask2former.checkpoints.formats.backbones import is_backbone_file, start_from_backbone
from mask2former.checkpoints.start import check_settings, filled_in, takes_class_head, with_settings_of
from mask2former.config import InferenceConfig, RunConfig, parse
from mask2former.data.annotated import AnnotatedSet
from mask2former.data.clips import ClipSet, PanopticClips
from mask2former.data.sample_sets import SampleSet, as_reader
from mask2former.data.transforms import Augmentation
from mask2former.dataset_tools.requirements import check_run
from mask2former.errors import MissingExtraError, UserError
from mask2former.files import leftovers_note, write_whole
from mask2former.memory import is_lack_of_memory
from mask2former.models.build import build_model
from mask2former.models.mask2former import Mask2Former
from mask2former.models.parts import set_precision
from mask2former.structures import Categories, ModelInfo
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
from mask2former.training.lock import check_links, locked
from mask2former.training.metrics_log import MetricsLog, validations
from mask2former.training.module import TrainingModule
from mask2former.training.progress import StepProgressBar
from mask2former.training.resume import Comparison, LastState, check_objects, compare, digest_of, record_of
from mask2former.training.stopping import Stopping, died_reading

__all__ = ["TrainingResult", "completed", "train"]


def _precision(config: RunConfig) -> Precision:
    """What Lightning calls a precision plugin, made here because by itself it turns fp16 on a CPU into bf16."""
    wanted = config.trainer.precision
    if wanted == "fp32":
        return Precision()
    on_gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return MixedPrecision("16-mixed" if wanted == "fp16" else "bf16-mixed", "cuda" if on_gpu else "cpu")


@dataclass(frozen=True)
class TrainingResult:
    """Where a run has put its results, and its validation figures.

    Attributes:
        directory: of the run.
        model: the file of weights.
        monitor: name of the metric that tells which validation is best.
        metrics: of the last validation, percent.
        start: the monitor before the first step; None where it was not measured.
        best: the best monitor of a validation, and the steps before it; None where nothing was measured.
        is_average: whether ``model`` holds averaged weights, which are those of the last step, not the best ones.
        instance_threshold: what was stored with the model, where it was chosen on the validation data.
    """

    directory: Path
    model: Path
    monitor: str
    metrics: dict[str, float]
    start: float | None = None
    best: tuple[float, int] | None = None
    is_average: bool = False
    instance_threshold: float | None = None

    def __str__(self) -> str:
        lines = [
            f"Model: {self.model} ({self._of_model()}). Checkpoints, metrics.csv, images and run.yaml: {self.directory}"
        ]
        last = self.metrics.get(self.monitor)
        if self.best is not None and last is not None:
            value, step = self.best
            when = f"best {value:.1f} (step {step}), last {last:.1f}"
            lines.append(f"{self.monitor} " + (when if self.start is None else f"started at {self.start:.1f}, {when}"))
        if self.instance_threshold is not None:
            lines.append(
                f"Instances of a score of {self.instance_threshold:g} or more are predicted, which gave the highest F1 "
                "on the validation data (evaluation.choose_threshold)"
            )
        if self.start is not None and self.best is not None and self.best[1] == 0:
            holds = "the averaged weights of the last step" if self.is_average else "the weights of the start"
            lines.append(
                f"warning: no validation was better than the start, and {self.model.name} holds {holds}; try a lower "
                "optim.lr, more trainer.max_steps or more training data"
            )
        return "\n".join(lines)

    def _of_model(self) -> str:
        last = self.metrics.get(self.monitor)
        if self.best is not None and not self.is_average:
            return f"{self.monitor} {self.best[0]:.1f}"
        return f"{self.monitor} {'not measured' if last is None else f'{last:.1f}'}"


@dataclass(frozen=True)
class _Objects:
    """What was given instead of being built from the configuration."""

    model: Mask2Former | None = None
    train_data: AnnotatedSet | ClipSet | None = None
    validation_data: AnnotatedSet | ClipSet | None = None
    augmentation: Augmentation | None = None
    criterion: nn.Module | None = None

    def check(self) -> None:
        """Refuse what could not be trained with.

        Raises:
            UserError: naming it.
        """
        if (self.train_data is None) != (self.validation_data is None):
            given, missing = ("train", "validation") if self.validation_data is None else ("validation", "train")
            raise UserError(f"{given}_data was given without {missing}_data; give both, or neither")
        if self.criterion is not None and any(value.requires_grad for value in self.criterion.parameters()):
            raise UserError(
                f"the criterion {type(self.criterion).__name__} has parameters, but those of the model alone are "
                "learned; put them into the model"
            )

    def names(self) -> list[str]:
        """Of those that no configuration describes: who goes on with the run has to give them again."""
        names = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        if self.model is not None and self.model.info.architecture is not None:
            names.remove("model")
        return names


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
    objects = _Objects(model, _reader(train_data), _reader(validation_data), augmentation, criterion)
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
    objects: _Objects,
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
        config = _with_model(config, objects.model.info)
    begins = past is None or past.categories is None  # without a record the initial model tells the license
    start = _start_of(config) if begins else None
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
    ended_with = None if past is None else _best_at_the_end(past)
    is_newer = past is not None and ended_with is not None and ended_with.step > past.step  # of a run that went on
    if past is not None and not is_newer and (end := _how_it_ended(past, config, path)):
        print(terminal_line(f"{directory} is finished: {end}; nothing was changed"))
        if change is not None and change.changes:
            ignored = ", ".join(change.changes)
            print(terminal_line(f"note: since it is finished, these other settings were ignored: {ignored}"))
        return _result_of(past, ended_with, path)
    best = None
    if past is not None:
        best = best_of(last.parent, lambda state: past.is_comparable(state, config, num_samples[1], digest))
    model, is_measurable = _initial_model(config, objects.model, data.categories, start, begins=begins)
    data.num_queries = getattr(model.transformer_decoder, "num_queries", None)
    set_precision(model.pixel_decoder, full=not config.trainer.half_pixel_decoder)
    model.set_gradient_checkpointing(config.trainer.gradient_checkpointing)
    if past is not None and past.license is not None:
        model.info = replace(model.info, license=past.license)
    directory.mkdir(parents=True, exist_ok=True)
    notes += leftovers_note((directory, directory / "checkpoints", directory / "images"))
    text = _about_objects(objects.names()) + yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    write_whole(directory / "run.yaml", lambda file: file.write_text(text, encoding="utf-8"), durable=True)

    if not resume:
        _clear(directory, config.model.init)
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
        loggers.append(_tensorboard(directory))
    trainer = lightning.Trainer(
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        plugins=[_precision(config), WholeFiles()],
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


def _how_it_ended(past: LastState, config: RunConfig, model: Path) -> str | None:
    """Why there is nothing left to do; None where there is."""
    if past.validation_due:
        return None
    if not model.is_file() or model.stat().st_mtime < past.path.stat().st_mtime:
        return None  # interrupted before its end
    steps, patience = config.trainer.max_steps, config.evaluation.patience
    if past.step >= steps:
        return f"it has taken {past.step} steps of {steps} (a larger trainer.max_steps goes on)"
    if patience is not None and past.waited >= patience:
        return (
            f"it was stopped at step {past.step}, since {past.waited} validations had not been better (a larger "
            "evaluation.patience, or null, goes on)"
        )
    return None


def _best_at_the_end(past: LastState) -> Best | None:
    """The best validation as the run was measured, whatever is wanted now."""
    count = None if past.num_samples is None else past.num_samples[1]
    return best_of(past.path.parent, lambda state: past.is_comparable(state, past.config, count, past.validation))


def _result_of(past: LastState, best: Best | None, model: Path) -> TrainingResult:
    """Of a run that is finished, from its files."""
    config, directory = past.config, past.path.parents[1]
    measured = validations(directory / "metrics.csv", past.step)
    chosen = config.evaluation.choose_threshold and best is not None and best.threshold is not None
    return TrainingResult(
        directory,
        model,
        config.evaluation.monitor,
        measured[-1] if measured else {},
        past.start,
        None if best is None else (best.value, best.step),
        is_average=config.optim.ema_decay > 0,
        instance_threshold=checkpoints.open_checkpoint(model).info.inference.instance_threshold if chosen else None,
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


def completed(values: dict[str, Any], resume: Path | None = None) -> dict[str, Any]:
    """The settings of a run file with those of the model that it starts from, where it leaves some out.

    :func:`train` does this by itself; it is for settings that contradict themselves without the others, for instance a
    diameter where the tiles are those of the initial model.

    Args:
        values: as they stand in the file.
        resume: the directory of a run that goes on: its settings are taken then.

    Raises:
        UserError: the initial model, or the last checkpoint, cannot be read.
    """
    model = values.get("model")
    init = model.get("init") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(init, str) or is_backbone_file(init):
        return values
    last = None if resume is None else resume / "checkpoints" / "last.ckpt"
    if last is not None and last.is_file():
        return {**values, "model": filled_in(model, ModelInfo.of(LastState.read(last).config.model))}
    return {**values, "model": filled_in(model, checkpoints.open_checkpoint(init).info)}


def _clear(directory: Path, init: str | None) -> None:
    """Nothing of another run may pass for a result of this one, should it be stopped; what it starts from stays."""
    checkpoints_of_it = [directory / "checkpoints" / name for name in ("last.ckpt", "best.ckpt")]
    model = directory / "model.safetensors"
    is_start = init is not None and Path(init).resolve() == model.resolve()
    stale = [*checkpoints_of_it, model] if checkpoints_of_it[0].exists() and not is_start else checkpoints_of_it
    stale += (directory / "checkpoints").glob("best-before-step-*.ckpt")
    for path in stale:
        path.unlink(missing_ok=True)


def _start_of(config: RunConfig) -> checkpoints.Checkpoint | None:
    """The model that training starts from; None where it starts from random weights or from a backbone alone."""
    init = config.model.init
    if init is None or is_backbone_file(init):
        return None
    maker = Path(init).parent.name
    if Path(init).name == "model.safetensors" and not Path(init).exists() and maker in recipes.run_recipes():
        raise UserError(
            f"model.init: {init} does not exist; a run of the recipe '{maker}' leaves it (mask2former recipe {maker}), "
            "so train that first, or start from a model that comes with the package, for instance model.init=nuclei"
        )
    return checkpoints.open_checkpoint(init)


def _with_model(config: RunConfig, info: ModelInfo) -> RunConfig:
    """The run of a model that was given: its architecture, and its inference settings where the run sets none."""
    model = config.model
    settings = filled_in(
        {"inference": model.inference.model_dump(exclude_unset=True)}, replace(info, architecture=None)
    )
    inference = parse(InferenceConfig, settings["inference"], "model.inference, with the settings of the model")
    parts = {} if info.architecture is None else dict(info.architecture)
    return config.model_copy(update={"model": model.model_copy(update={**parts, "inference": inference})})


def _about_objects(names: list[str]) -> str:
    """The head of a run file that does not say all."""
    if not names:
        return ""
    return f"# Given in Python, whatever is below: {', '.join(names)}\n"


def _initial_model(
    config: RunConfig,
    given: Mask2Former | None,
    categories: Categories,
    start: checkpoints.Checkpoint | None,
    *,
    begins: bool,
) -> tuple[Mask2Former, bool]:
    """The model, and whether it is whole already, so that validation before the first step says something."""
    model, is_whole = given or build_model(config.model, len(categories)), False
    if given is not None:
        is_whole = begins and given.categories is not None
        if given.categories is not None and given.categories.names != categories.names:
            raise UserError(
                f"the model has other classes ({_some(given.categories)}) than the training data "
                f"({_some(categories)}); start from the file of its weights instead (model.init, model.init_partial)"
            )
        given.train()
    model.info = replace(model.info, inference=config.model.inference, categories=categories, metrics={})
    init = config.model.init
    if init is None or not begins:  # a checkpoint brings the weights
        return model, is_whole
    if start is None:
        print(terminal_line(f"Starts from {init}: {'; '.join(start_from_backbone(model, init))}"))
        return model, False
    notes = checkpoints.start_from(model, start, init, partial=config.model.init_partial)
    print(terminal_line(f"Starts from {init}: {'; '.join(('all that fits', *notes)) if notes else 'all of it'}"))
    is_whole = takes_class_head(categories, start.categories, partial=config.model.init_partial)
    if not is_whole:
        print("Not measured before the first step, since the class head is newly initialised")
    return model, is_whole


def _some(categories: Categories) -> str:
    return f"{len(categories)}: {', '.join(printable(name, 80) for name in categories.names[:4])}"


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


def _tensorboard(directory: Path) -> Logger:
    try:
        import tensorboard  # noqa: F401  (Lightning's logger would fall back to another package)
    except ImportError as error:
        raise MissingExtraError("tensorboard", "train") from error
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(directory, name="tensorboard", version="")


def _restore(module: TrainingModule, path: Path) -> None:
    with loaded(path, "delete it and resume: the last weights are taken", device="cpu") as state:
        module.load_state_dict(state["state_dict"])
        module.instance_threshold = figure(state.get("instance_threshold"))  # 0.1.0 did not write it
