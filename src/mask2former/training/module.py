"""The LightningModule: forward, loss, backward and step for accumulated batches. It delegates all work on masks."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.strategies import ParallelStrategy
from PIL import Image
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from mask2former.config import OptimConfig, RunConfig, Task
from mask2former.dataset_tools.requirements import batch_size_per_device
from mask2former.errors import UserError
from mask2former.evaluation.cases import Case, Cases
from mask2former.evaluation.evaluate import predict_case
from mask2former.evaluation.gallery import case_rows
from mask2former.evaluation.scores import Evaluation, Predictions
from mask2former.files import write_whole
from mask2former.inference.predictor import Predictor, predicted
from mask2former.losses import build_criterion
from mask2former.models.mask2former import Mask2Former
from mask2former.models.parts import FollowsTraining, targets_for
from mask2former.structures import Segmentation, VideoInstances
from mask2former.structures.samples import Batch
from mask2former.text import printable
from mask2former.training.checkpointing import at_step, figures, plain
from mask2former.training.cluster import say_once
from mask2former.training.ema import MovingAverage
from mask2former.training.freezing import Frozen
from mask2former.training.memory import estimate_memory
from mask2former.training.optim import build_optimizer, learning_rate_factor, regrouped
from mask2former.training.sharding import check_gradients, gathered, shard, whole
from mask2former.visualization import contact_sheet

__all__ = ["LOGGED_STEP", "TrainingModule"]

LOGGED_STEP = "step"  # the metric that Lightning passes to loggers as the step; its own count is lower by one

_OF_EARLIER_LAYERS = re.compile(r"_\d+$")  # names of loss terms
_SMALLEST_SCALE = 2.0**-10  # of the loss; if gradients overflow even with it, the cause is not the range of float16


class TrainingModule(lightning.LightningModule):
    """Trains a :class:`Mask2Former`.

    A training batch is an *accumulation*: the micro-batches of one optimizer step on this rank, fetched together so
    that the number of targets is known before the first backward pass.

    Attributes:
        record: information about the run in checkpoints, with plain values only.
        stored_optim: for a resumed run, the settings with which its optimizer was stored.
        validation_due: for a resumed run, whether the validation of its last step was interrupted.
    """

    record: dict[str, Any] | None = None
    stored_optim: OptimConfig | None = None
    validation_due: bool = False

    def __init__(
        self,
        model: Mask2Former,
        config: RunConfig,
        criterion: nn.Module | None = None,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.config = config
        architecture = model.info.architecture
        of_pixels = architecture is not None and architecture.transformer_decoder.queries is None
        classes = len(model.info.known_categories)
        self.criterion = criterion or build_criterion(
            classes, config.criterion, of_pixels=of_pixels, class_weights=class_weights
        )
        self.frozen = Frozen(model, config.optim.freeze)
        self.average = MovingAverage(model, config.optim.ema_decay) if config.optim.ema_decay else None
        self.class_thresholds: dict[str, float] = {}  # of the highest F1 of each class, if requested
        self.instance_threshold: float | None = None  # of the highest F1 in the last validation, if it was measured
        self._whole: tuple[Mask2Former, ...] = ()  # if ranks share the weights: a full copy (in a tuple to hide it)
        self._predictor: Predictor | None = None
        self.measured: dict[str, float] = {}  # metrics of the last validation, without NaN
        self._evaluation: Evaluation | None = None
        self._rows: list[list[Image.Image]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self.model, self.config.optim)

    def on_train_start(self) -> None:
        self.frozen.eval()  # not earlier: Lightning would warn; it restores modes after a validation
        data = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]  (Lightning sets it)
        batch, images = data.sample_batch().to(self.device), batch_size_per_device(self.config)
        validate = self._validate_first if data.is_measured else None  # shows errors now, not after hours
        # On every rank: synchronised norms wait for the other ranks in each forward pass.
        with self.trainer.precision_plugin.forward_context():  # as a step computes
            memory = estimate_memory(self.model, self.criterion, batch, images, self.config.optim, validate)
        if self.trainer.is_global_zero:
            say_once(data.batching())
            say_once(str(replace(memory, sample=data.sample_name)))
            for remark in data.remarks():
                say_once(f"note: {remark}")
        if self.validation_due:
            self._repeat_validation()

    def _repeat_validation(self) -> None:
        """Repeat an interrupted validation before the next step; it is logged for the previous step, as planned."""
        loop = self.trainer.fit_loop.epoch_loop.val_loop
        loop.restarting = False
        self.trainer.validating = True
        loop.run()
        self.trainer.training = True
        if self.global_step >= self.config.trainer.max_steps:
            self.trainer.should_stop = True

    def training_step(self, accumulation: Sequence[Batch], batch_idx: int) -> None:
        optimizer = self.optimizers(use_pl_optimizer=True)
        assert not isinstance(optimizer, list)
        step = self.global_step
        torch.manual_seed(self._step_seed(step))  # for stochastic depth and dropout, so that resuming needs no state
        length = self.config.optim.schedule_steps or self.config.trainer.max_steps
        factor = learning_rate_factor(step, length, self.config.optim)
        if isinstance(self.model.transformer_decoder, FollowsTraining):
            self.model.transformer_decoder.set_progress(min(1.0, step / length))
        for group in optimizer.param_groups:
            group["lr"] = self.config.optim.lr * group["lr_multiplier"] * factor
        optimizer.zero_grad()
        num_masks = self._num_masks(accumulation)
        uniform = self._points(step)
        terms: dict[str, Tensor] = {}
        total = torch.zeros((), device=self.device)
        for index, batch in enumerate(accumulation, start=1):
            try:
                given = targets_for(self.model.transformer_decoder, batch.targets)
                losses = self.criterion(self.model(batch.images, **given), batch.targets, uniform, num_masks)
            except FloatingPointError as error:
                raise FloatingPointError(f"step {step + 1}: {error}; {self._keep(batch, step + 1)}") from error
            with self._sent_later() if index < len(accumulation) else contextlib.nullcontext():
                self.manual_backward(losses.total / len(accumulation))
            total += losses.total.detach() / len(accumulation)
            for name, term in losses.terms.items():
                terms[name] = terms.get(name, torch.zeros_like(term.detach())) + term.detach() / len(accumulation)
        scaler = self._scaler
        if scaler is not None:
            scaler.unscale_(optimizer.optimizer)
        if self.trainer.world_size > 1:
            check_gradients(self.model, is_sharded=bool(self._whole))
        norm = whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_norm))
        finite = bool(norm.isfinite())
        if not finite and (scaler is None or scaler.get_scale() < _SMALLEST_SCALE):
            kept = self._keep(accumulation[0], step + 1)
            raise FloatingPointError(f"step {step + 1}: gradients are not finite; {kept}")
        optimizer.step()  # with scaling: if a gradient is not finite, only the scale changes
        if self.average is not None and finite:
            self.average.update(self.model)
        self.log(LOGGED_STEP, float(step + 1))
        self.log("loss", total, prog_bar=True)
        shown = {name: terms.pop(name) for name in list(terms) if not _OF_EARLIER_LAYERS.search(name)}
        self.log_dict(shown, prog_bar=True)
        # After the step: callbacks may have set other rates for it. If all that learns has a multiplier, as scheduled.
        rates = [group["lr"] for group in optimizer.param_groups if group["lr_multiplier"] == 1]
        rate = rates[0] if rates else self.config.optim.lr * factor
        self.log_dict({**terms, "gradient_norm": norm, "learning_rate": rate})

    @property
    def _scaler(self) -> torch.amp.GradScaler | None:
        """Scaler of the loss, for half precision."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def _sent_later(self) -> contextlib.AbstractContextManager[None]:
        """Gradients remain on this rank until the last backward pass of the step, which sends their sum."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else contextlib.nullcontext()

    def _num_masks(self, accumulation: Sequence[Batch]) -> float:
        """Targets per micro-batch, averaged over ranks and the accumulation (training specification, section 1.3)."""
        count = torch.tensor(float(sum(len(target.labels) for batch in accumulation for target in batch.targets)))
        if self.trainer.world_size > 1:
            reduced = self.trainer.strategy.reduce(count.to(self.device), reduce_op="sum")
            count = torch.as_tensor(reduced) / self.trainer.world_size
        return float(count) / len(accumulation)

    def _points(self, step: int) -> Any:
        """Uniform random numbers that depend only on seed, step and rank."""
        generator = torch.Generator(self.device)
        generator.manual_seed(self._step_seed(step))
        return lambda shape: torch.rand(shape, generator=generator, device=self.device)

    def _step_seed(self, step: int) -> int:
        numbers = np.random.SeedSequence([self.config.seed, 2, step, self.global_rank]).generate_state(1, np.uint64)
        return int(numbers[0] >> 1)

    def _keep(self, batch: Batch, step: int) -> str:
        """Save the batch of a step that cannot be taken; where it is, or why it could not be saved."""
        rank = f"-rank-{self.global_rank}" if self.trainer.world_size > 1 else ""
        path = Path(self.config.output) / f"failed-step-{step}{rank}.pt"
        content = {"pixels": batch.images.pixels, "sizes": batch.images.sizes, "names": batch.names}
        content["targets"] = [(target.labels, target.masks) for target in batch.targets]
        content["ignored"] = [target.ignored for target in batch.targets]
        try:
            write_whole(path, lambda file: torch.save(content, file))
        except (OSError, RuntimeError, UserError) as error:  # of torch, for instance about a full disk
            return f"the batch could not be saved in {path} ({printable(str(error), 200)})"
        return f"the batch is in {path}"

    # --- validation: the predictor that users get, with averaged weights when there are some ---

    def shard(self, mesh: DeviceMesh) -> None:
        """Keep only this rank's share of the weights and of their average; called when training begins."""
        self._whole = (copy.deepcopy(self.model).cpu(),)
        shard(self.model, mesh)
        if self.average is not None:
            self.average.shard_like(self.model)

    @torch.no_grad()
    def whole_model(self) -> Mask2Former:
        """The model with all weights; a copy if ranks share them, in which case all ranks must call it."""
        for model in self._whole:
            own = model.state_dict()
            for name, value in self.model.state_dict().items():
                own[name].copy_(whole(value))
            return model
        return self.model

    def predictor(self) -> Predictor:
        """A predictor for the model as it would be saved now: a copy, so that the trained model is not changed."""
        model = copy.deepcopy(self.whole_model())
        if self.average is not None:
            self.average.copy_to(model)
        return Predictor(model, device=self.device)

    def _validate_first(self) -> None:
        """Predict the first validation case to measure its memory; shared weights are not gathered for it."""
        own = [Predictor(copy.deepcopy(model), device=self.device) for model in self._whole] or [self.predictor()]
        self._predicted(own[0], self._cases[0])

    def _predicted(self, predictor: Predictor, case: Case) -> Predictions:
        with torch.autocast(self.device.type, enabled=False):  # training may use half precision, predictors do not
            return predict_case(predictor, case, self.config.evaluation.tasks)

    def on_validation_epoch_start(self) -> None:
        torch.manual_seed(self._step_seed(self.global_step))  # the same after a step and in a resumed run
        evaluation, cases = self.config.evaluation, self._cases
        self._predictor = self.predictor()
        self._evaluation = Evaluation(evaluation.tasks, self._predictor.categories, evaluation, cases.style)

    @property
    def _cases(self) -> Cases:
        return self.trainer.datamodule.validation_set  # pyright: ignore[reportAttributeAccessIssue]  (Lightning sets it)

    def validation_step(self, batch: Case | tuple[()], batch_idx: int) -> None:
        if not isinstance(batch, Case):
            return  # there are fewer samples than ranks, or some ranks have one sample less
        assert self._evaluation is not None
        assert self._predictor is not None
        predictions = self._predicted(self._predictor, batch)
        self._evaluation.add(predictions, batch.ground_truths)
        if self.trainer.is_global_zero and batch_idx < self.config.evaluation.num_images:
            task = self._shown_task
            shown = predicted(predictions[task], self._predictor.settings)
            assert isinstance(shown, Segmentation | VideoInstances)  # training measures no panoptic clips
            self._rows += case_rows(batch, shown, batch.ground_truths[task], self._predictor.categories)

    def on_validation_epoch_end(self) -> None:
        assert self._evaluation is not None
        self._predictor = None
        if self.trainer.world_size > 1:  # each rank has seen its share of the samples
            parts: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(parts, self._evaluation)
            self._evaluation, *others = parts  # the same order on all ranks, since it affects equal scores
            assert self._evaluation is not None
            for part in others:
                self._evaluation.merge(part)
        metrics = self._evaluation.compute()
        self.instance_threshold = self._evaluation.best_threshold()
        if self.config.evaluation.choose_threshold == "per-class":
            self.class_thresholds = self._evaluation.class_thresholds()
        # All ranks have the same numbers now; "sync" avoids Lightning's warning that they might differ.
        self.measured = {name: value for name, value in metrics.items() if value == value}
        if self.measured:
            self.log_dict({LOGGED_STEP: float(self.global_step), **self.measured}, sync_dist=True)
        self._evaluation = None
        if self._rows:
            titles = ("image", "ground truth", self._shown_task)
            subtitle = "   ".join(f"{name} {value:.1f}" for name, value in list(metrics.items())[:4])
            sheet = contact_sheet(self._rows, titles, title=f"step {self.global_step}", subtitle=subtitle)
            image = Path(self.config.output) / "images" / f"step-{self.global_step:07d}.png"
            write_whole(image, lambda file: sheet.save(file, format="PNG"))
            self._rows = []

    @property
    def _shown_task(self) -> Task:
        return self.config.evaluation.tasks[0]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.record is not None:
            checkpoint["run"] = self.record
        checkpoint["instance_threshold"] = self.instance_threshold
        if self.class_thresholds:
            checkpoint["class_thresholds"] = plain(self.class_thresholds)
        if self.average is not None:
            checkpoint["average"] = gathered(self.average.state_dict(), keep=self.trainer.is_global_zero)
        checkpoint["epoch"] = 0  # the only one; Lightning counts another at the end of the run
        checkpoint["loops"] = at_step(checkpoint["loops"], self.global_step)
        for name in ("loops", "callbacks", "optimizer_states", "run"):
            if name in checkpoint:
                checkpoint[name] = plain(checkpoint[name])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.instance_threshold = checkpoint.get("instance_threshold")
        self.class_thresholds = figures(checkpoint.get("class_thresholds", {}))
        if self.stored_optim is not None and self.stored_optim != self.config.optim:
            states, now = checkpoint["optimizer_states"], self.config.optim
            checkpoint["optimizer_states"] = [
                regrouped(one, self.model, self.stored_optim, now, self.frozen.names) for one in states
            ]
        if self.average is not None and "average" in checkpoint:
            self.average.load_state_dict(checkpoint["average"])
        elif self.average is not None:  # enabled when resuming: starts from the current weights
            self.average.begin({name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()})
