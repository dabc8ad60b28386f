"""Data sets to loaders: windows of micro-batches for training, single samples for validation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import lightning
from torch.utils.data import DataLoader, Dataset

from mask2former.config import RunConfig
from mask2former.data.build import TrainingSet, build_dataset, build_training_set
from mask2former.data.collate import collate
from mask2former.data.datasets.coco import CocoInstances
from mask2former.data.sampling import StepSampler
from mask2former.errors import RequestError
from mask2former.structures.samples import Batch, Sample

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


class _Samples(Dataset[Sample]):
    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


class _Window:
    """Collates the samples of one step into micro-batches of equal count."""

    def __init__(self, micro: int) -> None:
        self.micro = micro

    def __call__(self, samples: list[Sample]) -> list[Batch]:
        return [collate(samples[start : start + self.micro]) for start in range(0, len(samples), self.micro)]


class DataModule(lightning.LightningDataModule):
    """Loaders of a run."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.config = config

    @cached_property
    def training_set(self) -> TrainingSet:
        return build_training_set(self.config.data)

    def remarks(self) -> list[str]:
        """What a user should know of the training data before the first step."""
        samples = self.training_set.samples
        if not isinstance(samples, CocoInstances):
            return []
        queries = self.config.model.transformer_decoder.num_queries
        crowded = int((samples.num_objects > queries).sum())
        remarks = list(samples.notes)
        if crowded:
            remarks.append(
                f"{crowded} of {len(samples)} training pictures hold more objects than the model has queries "
                f"({queries}; up to {int(samples.num_objects.max())} objects): the surplus cannot be learned from; "
                "raise model.transformer_decoder.num_queries or train on smaller crops"
            )
        return remarks

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        data, samples = self.config.data, self.training_set
        sampler = StepSampler(
            len(samples),
            data.total_batch,
            self.config.seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            first_step=self.trainer.global_step,
        )
        return DataLoader(
            samples,  # pyright: ignore[reportArgumentType]  (anything with __getitem__ works)
            batch_sampler=sampler,  # pyright: ignore[reportArgumentType]  (any iterable of index lists works)
            collate_fn=_Window(batch_per_device(self.config)),
            num_workers=data.num_workers,
            persistent_workers=data.num_workers > 0,
        )

    def sample_batch(self) -> Batch:
        """A training sample or two, as a batch: what memory is measured on."""
        samples = self.training_set
        draws = StepSampler(len(samples), self.config.data.total_batch, self.config.seed).draws(0)[:2]
        return collate([samples[draw] for draw in draws])

    def val_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        samples = build_dataset(self.config.data.dataset, "validation")
        share = range(self.trainer.global_rank, len(samples), self.trainer.world_size)
        return DataLoader(_Samples(samples), batch_size=None, sampler=share, num_workers=0)
