"""One training run from its configuration: data, model, Lightning trainer, and what is left on disk at the end."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch
import yaml
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins.precision import MixedPrecision, Precision

from mask2former import checkpoints
from mask2former.atomic import write_whole
from mask2former.checkpoints.convert.backbones import is_backbone_file, start_from_backbone
from mask2former.config import RunConfig
from mask2former.errors import MissingExtraError, RequestError
from mask2former.inference.data_checks.requirements import check_run
from mask2former.models.build import build_model
from mask2former.models.mask2former import Mask2Former
from mask2former.structures.categories import Categories
from mask2former.training.checkpointing import KeepCheckpoints
from mask2former.training.datamodule import DataModule, batch_per_device
from mask2former.training.metrics_log import MetricsLog
from mask2former.training.module import TrainingModule
from mask2former.training.progress import StepProgressBar

__all__ = ["TrainingResult", "train"]


def _precision(config: RunConfig) -> Precision:
    """What Lightning calls a precision plugin, made here because by itself it turns fp16 on a CPU into bf16."""
    wanted = config.trainer.precision
    if wanted == "fp32":
        return Precision()
    on_gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return MixedPrecision("16-mixed" if wanted == "fp16" else "bf16-mixed", "cuda" if on_gpu else "cpu")


@dataclass(frozen=True)
class TrainingResult:
    """Where a run has put its results, the metric it was judged by, and its last metrics in percent."""

    directory: Path
    model: Path
    monitor: str
    metrics: dict[str, float]

    def __str__(self) -> str:
        value = self.metrics.get(self.monitor)
        figure = "not measured" if value is None else f"{value:.1f}"
        return (
            f"Model: {self.model} ({self.monitor} {figure}). "
            f"Checkpoints, metrics.csv, pictures and run.yaml: {self.directory}"
        )


def train(config: RunConfig, *, resume: bool = False, overwrite: bool = False) -> TrainingResult:
    """Train as configured.

    The directory ``config.output`` gets ``run.yaml``, ``checkpoints/last.ckpt`` and ``best.ckpt``, ``metrics.csv`` and
    ``model.safetensors``: the averaged weights if they are on, else those of the best validation.

    Args:
        config: the whole run.
        resume: go on from ``checkpoints/last.ckpt``.
        overwrite: use a directory that holds another run.

    Raises:
        RequestError: the settings contradict each other or the directory, or the initial weights do not fit.
        FloatingPointError: a logit or gradient was not finite; the batch is saved and named.
        KeyboardInterrupt: the user stopped the run; the last checkpoint is what it was.
        MemoryError: the device is too small; the message names the settings that help.
    """
    check_run(config)
    directory = Path(config.output)
    last = directory / "checkpoints" / "last.ckpt"
    if resume and not last.is_file():
        raise RequestError(f"nothing to resume: {last} does not exist")
    if not resume and last.exists() and not overwrite:
        raise RequestError(f"{directory} holds a run; resume it, choose another output, or pass overwrite")
    lightning.seed_everything(config.seed, verbose=False)
    data = DataModule(config)
    data.check()
    model = _initial_model(config, data.categories)
    directory.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    write_whole(directory / "run.yaml", lambda file: file.write_text(text, encoding="utf-8"))

    if not resume:
        _clear(directory, config.model.init)
    model.pixel_decoder.full_precision = not config.trainer.half_pixel_decoder  # pyright: ignore[reportArgumentType]
    if config.trainer.channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  (no overload has it)
    module = TrainingModule(model, config)
    keep = KeepCheckpoints(last.parent, config.trainer.checkpoint_every, config.evaluation.monitor)
    module.model.set_gradient_checkpointing(config.trainer.gradient_checkpointing)
    callbacks: list[lightning.Callback] = [keep, StepProgressBar(refresh_rate=config.trainer.log_every)]
    if config.evaluation.patience is not None:
        patience = config.evaluation.patience
        callbacks.append(EarlyStopping(config.evaluation.monitor, mode="max", patience=patience, check_finite=False))
    loggers: list[Logger] = [MetricsLog(directory / "metrics.csv", _step_of(last) if resume else 0)]
    if config.trainer.tensorboard:
        loggers.append(_tensorboard(directory))
    trainer = lightning.Trainer(
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        plugins=[_precision(config)],
        max_steps=config.trainer.max_steps,
        val_check_interval=min(config.evaluation.every, config.trainer.max_steps),
        check_val_every_n_epoch=None,
        limit_val_batches=None if data.is_measured else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=config.trainer.log_every,
        logger=loggers,
        enable_checkpointing=False,
        callbacks=callbacks,
        use_distributed_sampler=False,
        enable_model_summary=False,
    )
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, data, ckpt_path=last if resume else None, weights_only=True)
    except SystemExit as stop:  # Lightning turns Ctrl-C into an exit and ignores the next one
        if not trainer.interrupted:
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, on_interrupt)
        raise KeyboardInterrupt from stop
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise MemoryError(
            f"out of memory with {batch_per_device(config)} pictures in one pass; what helps: a smaller "
            "data.batch_per_device (the total batch stays), trainer.gradient_checkpointing=true, smaller pictures in "
            "data.dataset"
        ) from error

    if module.average is not None:
        module.average.copy_to(model)
    elif keep.best.exists():
        _restore(module, keep.best)
    path = directory / "model.safetensors"
    if trainer.is_global_zero:
        checkpoints.save_pretrained(model, path)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return TrainingResult(directory, path, config.evaluation.monitor, metrics)


def _clear(directory: Path, init: str | None) -> None:
    """Nothing of another run may pass for a result of this one, should it be stopped; what it starts from stays."""
    checkpoints_of_it = [directory / "checkpoints" / name for name in ("last.ckpt", "best.ckpt")]
    model = directory / "model.safetensors"
    is_start = init is not None and Path(init).resolve() == model.resolve()
    stale = [*checkpoints_of_it, model] if checkpoints_of_it[0].exists() and not is_start else checkpoints_of_it
    for path in stale:
        path.unlink(missing_ok=True)


def _initial_model(config: RunConfig, categories: Categories) -> Mask2Former:
    model = build_model(config.model, len(categories))
    model.categories = categories
    if config.model.init is not None and is_backbone_file(config.model.init):
        print(f"Starts from {config.model.init}: {'; '.join(start_from_backbone(model, config.model.init))}")
    elif config.model.init is not None:
        source = Mask2Former.from_pretrained(config.model.init)
        notes = checkpoints.start_from(model, source, config.model.init, partial=config.model.init_partial)
        print(f"Starts from {config.model.init}: {'; '.join(('all that fits', *notes)) if notes else 'all of it'}")
    return model


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _tensorboard(directory: Path) -> Logger:
    try:
        import tensorboard  # noqa: F401  (Lightning's logger would fall back to another package)
    except ImportError as error:
        raise MissingExtraError("tensorboard", "train") from error
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(directory, name="tensorboard", version="")


def _step_of(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, map_location="meta", weights_only=True)["global_step"])


def _restore(module: TrainingModule, path: Path) -> None:
    state = torch.load(path, map_location="cpu", weights_only=True)
    module.load_state_dict(state["state_dict"])
