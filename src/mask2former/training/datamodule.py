"""Data sets to loaders: windows of micro-batches for training, single samples for validation.

Annotation files are read once per run, however often a loader is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import lightning
from torch.utils.data import DataLoader, Dataset

from mask2former.config import ClipSampling, MetricStyle, RunConfig, Task
from mask2former.data.annotated import AnnotatedSet
from mask2former.data.build import TrainingSet, build_clips, build_pictures, build_training_set
from mask2former.data.clips import ClipSet, ClipTrainingSet, whole_clip
from mask2former.data.collate import PackedBatch, pack
from mask2former.data.packed import PackedSample
from mask2former.data.sampling import Draw, StepSampler
from mask2former.errors import RequestError
from mask2former.structures.categories import Categories
from mask2former.structures.samples import Batch, Sample
from mask2former.structures.truths import Truth

__all__ = ["DataModule", "batch_per_device"]


def batch_per_device(config: RunConfig) -> int:
    """Pictures per forward pass.

    Raises:
        RequestError: ``data.total_batch`` cannot be split evenly.
    """
    total, devices = config.data.total_batch, config.trainer.devices
    if total % devices:
        raise RequestError(f"data.total_batch {total} is no multiple of trainer.devices {devices}; change one of them")
    micro = config.data.batch_per_device or total // devices
    if (total // devices) % micro:
        raise RequestError(
            f"data.total_batch {total} over {devices} device(s) gives {total // devices} pictures each, which "
            f"data.batch_per_device {micro} does not divide"
        )
    return micro


Validation = tuple[Sample, dict[Task, Truth]]


class _Pictures(Dataset[Validation]):
    def __init__(self, samples: AnnotatedSet, tasks: Sequence[Task]) -> None:
        self.samples = samples
        self.tasks = tasks

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Validation:
        return self.samples[index], self.samples.truths(index, self.tasks)


class _Clips(Dataset[Validation]):
    def __init__(self, samples: ClipSet) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples) if self.samples.has_truth else 0

    def __getitem__(self, index: int) -> Validation:
        return whole_clip(self.samples, index), {"instance": self.samples.truth(index)}


def _as_it_is(sample: Any) -> Any:
    return sample


class _Packed(Dataset[PackedSample]):
    def __init__(self, samples: TrainingSet | ClipTrainingSet) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> PackedSample:
        return self.samples.packed(draw)


class _Window:
    """Packs the samples of one step into micro-batches of equal count."""

    def __init__(self, micro: int) -> None:
        self.micro = micro

    def __call__(self, samples: list[PackedSample]) -> list[PackedBatch]:
        return [pack(samples[start : start + self.micro]) for start in range(0, len(samples), self.micro)]


class DataModule(lightning.LightningDataModule):
    """Loaders of a run."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.config = config

    @cached_property
    def training_set(self) -> TrainingSet | ClipTrainingSet:
        return build_training_set(self.config.data, with_ignored=self.config.criterion.void == "ignored")

    @cached_property
    def validation_set(self) -> Dataset[Validation]:
        """Raises a RequestError where the data set has other classes than the training set, or no truth of a task."""
        config, tasks = self.config.data.dataset, self.config.evaluation.tasks
        if isinstance(config, ClipSampling):
            clips = build_clips(config, "validation")
            self._check_validation(clips.categories, ("instance",))
            return _Clips(clips)
        samples = build_pictures(config, "validation")
        self._check_validation(samples.categories, samples.tasks)
        return _Pictures(samples, tasks)

    def _check_validation(self, categories: Categories, measured: Sequence[Task]) -> None:
        for task in self.config.evaluation.tasks:
            if task not in measured:
                known = ", ".join(measured)
                raise RequestError(f"evaluation.tasks has {task}, but the validation data have truths for {known} only")
        if categories.names != self.categories.names:
            raise RequestError(
                "the classes of the training data and of the validation data differ, or are in another order: "
                f"{', '.join(self.categories.names[:5])}... and {', '.join(categories.names[:5])}..."
            )

    @property
    def is_measured(self) -> bool:
        """Whether there are validation samples with truths; test sets of clips have none."""
        samples = self.validation_set
        assert isinstance(samples, (_Pictures, _Clips))
        return len(samples) > 0

    @property
    def num_validation(self) -> int:
        """Validation samples with a truth."""
        samples = self.validation_set
        assert isinstance(samples, (_Pictures, _Clips))
        return len(samples)

    @property
    def metric_style(self) -> MetricStyle:
        """Whose rules measure the validation set."""
        samples = self.validation_set
        return samples.samples.metric_style if isinstance(samples, _Pictures) else "youtube-vis"

    @property
    def categories(self) -> Categories:
        """The classes of the training set."""
        return self.training_set.categories

    def batching(self) -> str:
        """How the pictures of a step are divided, in one line."""
        total, devices, micro = self.config.data.total_batch, self.config.trainer.devices, batch_per_device(self.config)
        pictures, kind = "picture" if total == 1 else "pictures", "device" if devices == 1 else "devices"
        text = f"{total} {pictures} per step = {devices} {kind} x {micro}"
        windows = total // (devices * micro)
        return text if windows == 1 else f"{text} x {windows} accumulated"

    def remarks(self) -> list[str]:
        """What a user should know of the training data before the first step."""
        samples = self.training_set.samples
        remarks = list(samples.notes)
        counts = samples.num_objects if isinstance(self.training_set, TrainingSet) else None
        queries = self.config.model.transformer_decoder.num_queries
        if counts is not None and (counts > queries).any():
            remarks.append(
                f"{int((counts > queries).sum())} of {len(samples)} training pictures hold more objects than the model "
                f"has queries ({queries}; up to {int(counts.max())} objects): the surplus cannot be learned from; "
                "raise model.transformer_decoder.num_queries or train on smaller crops"
            )
        if not self.is_measured:
            remarks.append(
                "the validation clips have no annotations, so nothing is measured and the last model is kept"
            )
        return remarks

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        data = self.config.data
        sampler = self._sampler(self.trainer.global_rank, self.trainer.world_size, self.trainer.global_step)
        return DataLoader(
            _Packed(self.training_set),
            batch_sampler=sampler,  # pyright: ignore[reportArgumentType]  (any iterable of index lists works)
            collate_fn=_Window(batch_per_device(self.config)),
            num_workers=data.num_workers,
            persistent_workers=data.num_workers > 0,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Training windows with their masks, which are made on the device; validation samples as they are."""
        return [part.unpack() for part in batch] if isinstance(batch, list) else batch

    def sample_batch(self) -> Batch:
        """A training sample or two, as a batch: what memory is measured on."""
        return pack([self.training_set.packed(draw) for draw in self._sampler().draws(0)[:2]]).unpack()

    def _sampler(self, rank: int = 0, world_size: int = 1, first_step: int = 0) -> StepSampler:
        config, samples = self.config, self.training_set
        return StepSampler(
            len(samples),
            config.data.total_batch,
            config.seed,
            rank=rank,
            world_size=world_size,
            first_step=first_step,
            groups=samples.wide() if config.data.group_by_aspect else None,
            micro=batch_per_device(config),
        )

    def val_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        samples = self.validation_set
        assert isinstance(samples, (_Pictures, _Clips))
        share = range(self.trainer.global_rank, len(samples), self.trainer.world_size)
        return DataLoader(samples, batch_size=None, sampler=share, num_workers=0, collate_fn=_as_it_is)
