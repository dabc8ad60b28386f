"""What loaders hand over for samples that cannot be read."""

from __future__ import annotations

import pytest
import torch

from mask2former.config import RunConfig
from mask2former.data.loading.loader import training_loader
from mask2former.errors import MissingExtraError, OptionError, UserError
from mask2former.training.datamodule import DataModule

ERRORS = (
    UserError("'a.png' is damaged"),
    OptionError(lambda name: f"use {name('bands')}"),
    MissingExtraError("tifffile", "microscopy", "read this TIFF"),
)


class Unreadable:
    def __len__(self) -> int:
        return len(ERRORS)

    def packed(self, draw: int) -> None:
        raise ERRORS[draw]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_errors_of_reading_processes_keep_their_sentence(num_workers: int) -> None:
    sampler = [[index] for index in range(len(ERRORS))]
    loader = training_loader(Unreadable(), sampler, 1, size_divisibility=32, num_workers=num_workers)  # pyright: ignore[reportArgumentType]
    data = DataModule(RunConfig())
    for batch, error in zip(loader, ERRORS, strict=True):
        with pytest.raises(UserError) as raised:
            data.transfer_batch_to_device(batch, torch.device("cpu"), 0)
        assert str(raised.value) == str(error)
