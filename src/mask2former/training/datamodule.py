"""From data sets to loaders: accumulations of micro-batches for training, single cases for validation.

Annotation files are read once per run, even if a loader is created several times.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import lightning
import numpy as np
import torch
from jaxtyping import Int64
from torch.utils.data import DataLoader, Dataset

from mask2former.config import LargeScaleJitterConfig, NoAugmentationConfig, ResizeCropFlipConfig, RunConfig
from mask2former.data.annotated import AnnotatedSet
from mask2former.data.build import build_split, build_training_set, read_as
from mask2former.data.clips import ClipSet
from mask2former.data.datasets.reader import notes_of_some
from mask2former.data.loading.collate import pack
from mask2former.data.loading.loader import training_loader
from mask2former.data.loading.sampling import StepSampler
from mask2former.data.loading.training_set import TrainingSet
from mask2former.data.mixed import Mixed
from mask2former.data.parts import Part, PartOfClips
from mask2former.data.transforms import Augmentation
from mask2former.dataset_tools.requirements import (
    CLIP_TASKS,
    batch_size_per_device,
    check_monitor,
    check_tasks,
    data_notes,
)
from mask2former.errors import UserError
from mask2former.evaluation.cases import Case, Cases, match_classes
from mask2former.structures.categories import Categories
from mask2former.structures.samples import Batch
from mask2former.text import count

__all__ = ["DataModule"]

_OTHER_SCALE = 1.5  # ratio between the scales of training and inference from which a note is added
_MOST_PADDING = 0.5  # share of a sample that is padding even if the crop is complete, from which a note is added


class _Share(Dataset[Case | tuple[()]]):
    """Cases by index; an empty one if there is none left for this rank."""

    def __init__(self, cases: Cases) -> None:
        self.cases = cases

    def __getitem__(self, index: int | None) -> Case | tuple[()]:
        return () if index is None else self.cases[index]


def _canvas(augmentation: ResizeCropFlipConfig) -> list[str]:
    """A remark on a canvas that is not that of the crops, as when an override sets only one of the two."""
    crop, pad = augmentation.crop_size, augmentation.pad_size
    if crop is None or pad is None:
        return []
    sizes = f"data.augmentation.crop_size is {crop[0]}x{crop[1]} and pad_size {pad[0]}x{pad[1]} (height x width)"
    if crop[0] > pad[0] or crop[1] > pad[1]:
        return [f"{sizes}: of each crop, the part beyond pad_size is cut off; set both to the same size"]
    share = 1 - crop[0] * crop[1] / (pad[0] * pad[1])
    if share < _MOST_PADDING:
        return []
    return [
        f"{sizes}: {share:.0%} or more of every training sample is padding, which costs as much time and memory as "
        "pixels; set both to the same size"
    ]


def _as_it_is(sample: Any) -> Any:
    return sample


class DataModule(lightning.LightningDataModule):
    """The loaders of a run.

    Args:
        config: settings of the complete run.
        training: training data that replaces the data described by ``config``.
        validation: validation data that replaces the data described by ``config``.
        augmentation: augmentation that replaces the one described by ``config``.

    Attributes:
        num_queries: of the model; None if unknown.
        size_divisibility: multiples that the sides of a batch are padded to, so that masks of the targets cover the
            same area as those of the model.
        unit: with ``data.group_by_aspect``, how many successive images belong to one group, see
            :class:`StepSampler`. A resumed run keeps its original value; otherwise images would be used twice.
    """

    def __init__(
        self,
        config: RunConfig,
        training: AnnotatedSet | ClipSet | None = None,
        validation: AnnotatedSet | ClipSet | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__()
        self.settle(config)
        self.notes: list[str] = []
        self.num_queries: int | None = config.model.transformer_decoder.queries
        self.size_divisibility = 32
        self._training, self._validation, self._augmentation = training, validation, augmentation

    def settle(self, config: RunConfig) -> None:
        """Use the batch sizes of these settings."""
        self.config = config
        self.unit = batch_size_per_device(config) if config.data.group_by_aspect else None

    @cached_property
    def training_set(self) -> TrainingSet:
        return build_training_set(
            self.config.data,
            self._training,
            self._augmentation,
            with_ignored=self.config.criterion.void == "ignored",
            **self.config.model.inference.reading,
        )

    @cached_property
    def validation_set(self) -> Cases:
        """Images or clips with ground truth, with the class indices of the training set.

        Empty without annotations, and if all data is for training.

        Raises:
            UserError: the data has classes that the training set lacks, or lacks ground truth for a task.
        """
        tasks = self.config.evaluation.tasks
        reading = self.config.model.inference.reading
        samples = self._validation
        if self._is_all_trained:
            samples = self.training_set.samples
        elif samples is None:
            samples = build_split(self.config.data, "validation", **reading)
        else:
            read_as(samples, reading)
        check_tasks(self.config, CLIP_TASKS if isinstance(samples, ClipSet) else samples.tasks)
        limit = 0 if self._is_all_trained or not samples.has_ground_truth else None
        return Cases(samples, tasks, self.categories, self._class_map(samples.categories), limit)

    def _class_map(self, data: Categories) -> Int64[np.ndarray, " K"]:
        """Classes matched by name, in any order, as ``evaluate`` matches those of a model and its data."""
        things_only = all(item.is_thing for item in data)
        return match_classes(self.categories, data, things_only=things_only, notes=self.notes)

    def check(self) -> None:
        """Reject data and metrics that would waste the run; other findings are added to :meth:`remarks`.

        Raises:
            UserError: data or metrics are unusable.
        """
        cases = self.validation_set
        if self.is_measured:
            check_monitor(self.config, self.categories, cases.style)
        patience = self.config.evaluation.patience
        if self._is_all_trained and patience is not None:
            raise UserError(
                f"evaluation.patience is {patience}, but there is no validation data (data.dataset.validation "
                "is []); set it to null, or add validation data"
            )
        others = None if self._is_all_trained else cases.samples
        self.notes += data_notes(self.training_set.samples, others)  # pyright: ignore[reportArgumentType]

    @property
    def _is_all_trained(self) -> bool:
        return self._validation is None and not self.config.data.is_validated

    @property
    def is_measured(self) -> bool:
        """Whether there are validation samples with ground truth."""
        return self.num_validation > 0

    @property
    def num_validation(self) -> int:
        """Number of validation samples with ground truth."""
        return len(self.validation_set)

    @property
    def categories(self) -> Categories:
        """The classes of the training set."""
        return self.training_set.categories

    @property
    def sample_name(self) -> str:
        """What the training samples are called in messages."""
        return "clip" if isinstance(self.training_set.samples, ClipSet) else "image"

    def batching(self) -> str:
        """How the images or clips of a step are divided, in one line."""
        total, micro = self.config.data.batch_size, batch_size_per_device(self.config)
        nodes, devices = self.config.trainer.num_nodes, self.config.trainer.devices
        machines = f"{nodes} nodes x " if nodes > 1 else ""
        text = f"{count(total, self.sample_name)} per step = {machines}{count(devices, 'device')} x {micro}"
        accumulations = total // (nodes * devices * micro)
        return text if accumulations == 1 else f"{text} x {accumulations} accumulated"

    def remarks(self) -> list[str]:
        """What a user should know about the data before the first step; remarks about validation data say so."""
        samples = self.training_set.samples
        seen = notes_of_some(samples)
        remarks = [*samples.notes, *self.notes, *seen]
        if isinstance(samples, Part | PartOfClips):
            held = self.num_validation
            remarks.append(
                f"data.validation: {held} of {held + len(samples)} {samples.counted}s are used for validation"
            )
        elif isinstance(samples, Mixed) and self.config.data.validation is not None:
            remarks.append(f"data.validation: {self.num_validation} images of the parts are used for validation")
        remarks += [f"validation: {line}" for line in notes_of_some(self.validation_set.samples) if line not in seen]
        remarks += self._crowded()
        inference = self.config.model.inference
        if (
            self._augmentation is None
            and isinstance(self.config.data.augmentation, NoAugmentationConfig)
            and inference.short_edge
            and not inference.tile
        ):
            side = min(self.sample_batch().images.sizes[0])  # as used in training
            if not 1 / _OTHER_SCALE < (ratio := inference.short_edge / side) < _OTHER_SCALE:
                remarks.append(
                    f"training uses images at their original size (the first has a short edge of {side} pixels), but "
                    f"validation and prediction resize them to model.inference.short_edge {inference.short_edge}, "
                    f"where objects appear {ratio:.1f} times as large as in training; short_edge=0 keeps the size"
                )
        if self._augmentation is None and isinstance(self.config.data.augmentation, ResizeCropFlipConfig):
            remarks += _canvas(self.config.data.augmentation)
        if inference.min_area:
            remarks.append(
                f"validation and prediction leave out results below {inference.min_area} pixels, which is "
                "model.inference.min_area; for smaller objects, lower it"
            )
        if not self.is_measured:
            reason = (
                "there is no validation data" if self._is_all_trained else "the validation clips have no annotations"
            )
            unchosen = ", no score threshold is chosen" if self.config.evaluation.choose_threshold else ""
            remarks.append(f"{reason}: no metrics are computed{unchosen}, and the model of the last step is kept")
        return remarks

    def _crowded(self) -> list[str]:
        """A remark on training images with more objects than queries, also if copy-paste joins two, or such clips."""
        samples, queries = self.training_set.samples, self.num_queries
        counts = samples.num_objects
        if queries is None or counts is None:
            return []
        most = int(counts.max(initial=0))
        crowded = int((counts > queries).sum())
        pasted = 2 * most if self.config.data.copy_paste else most
        if pasted <= queries:
            return []
        is_clips = isinstance(samples, ClipSet)
        what, hold = ("clips", "tracks") if is_clips else ("images", "objects")
        consequence = f"{hold} beyond the number of queries cannot be learned"
        if is_clips or self._crops:
            part = "a few frames" if is_clips else "a crop"
            consequence = (
                f"these are numbers for complete {what}, and a training sample is {part}, usually with fewer; where it "
                f"has more than {queries}, {consequence}"
            )
        if crowded:
            joined = f", and up to {pasted} with data.copy_paste" if pasted > most else ""
            remark = (
                f"{crowded} of {len(samples)} training {what} contain more {hold} than the model has queries "
                f"({queries}; up to {most} {hold}{joined})"
            )
        else:
            remark = (
                f"with data.copy_paste, a training image may contain up to {pasted} objects (twice the {most} of the "
                f"image with the most), but the model has {queries} queries"
            )
        return [f"{remark}: {consequence}; train on smaller crops, or raise model.transformer_decoder.num_queries"]

    @property
    def _crops(self) -> bool:
        """Whether training images may be cropped; an augmentation that was passed in Python may do anything."""
        augmentation = self.config.data.augmentation
        if self._augmentation is not None or isinstance(augmentation, LargeScaleJitterConfig):
            return True
        return isinstance(augmentation, ResizeCropFlipConfig) and augmentation.crop_size is not None

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        data = self.config.data
        sampler = self._sampler(self.trainer.global_rank, self.trainer.world_size, self.trainer.global_step)
        is_cuda = self.trainer.strategy.root_device.type == "cuda"
        micro = batch_size_per_device(self.config)
        return training_loader(
            self.training_set,
            sampler,
            micro,
            size_divisibility=self.size_divisibility,
            num_workers=data.num_workers,
            pin_memory=is_cuda,
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Training accumulations, with their masks created on the device; validation cases are not changed."""
        return [part.unpack() for part in batch] if isinstance(batch, list) else batch

    def sample_batch(self) -> Batch:
        """A batch of one or two training samples, with which memory is measured."""
        samples = [self.training_set.packed(draw) for draw in self._sampler().draws(0)[:2]]
        return pack(samples, self.size_divisibility).unpack()

    def _sampler(self, rank: int = 0, world_size: int = 1, first_step: int = 0) -> StepSampler:
        config, samples = self.config, self.training_set
        return StepSampler(
            len(samples),
            config.data.batch_size,
            config.seed,
            rank=rank,
            world_size=world_size,
            first_step=first_step,
            groups=samples.wide() if config.data.group_by_aspect else None,
            micro=batch_size_per_device(config),
            unit=self.unit,
        )

    def val_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        cases = self.validation_set
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        share: list[int | None] = [*range(rank, len(cases), ranks)]
        # A rank without a sample would skip the validation, and the others would wait for it.
        share += [None] * (-(-len(cases) // ranks) - len(share))
        # Read in this process: the model takes longer than loading its images, and workers would copy them.
        return DataLoader(_Share(cases), batch_size=None, sampler=share, collate_fn=_as_it_is)  # pyright: ignore

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Validation cases are not moved: the predictor moves what it needs.

        Raises:
            UserError: a sample cannot be read.
        """
        if isinstance(batch, UserError):
            raise batch
        return batch if isinstance(batch, Case) else super().transfer_batch_to_device(batch, device, dataloader_idx)
