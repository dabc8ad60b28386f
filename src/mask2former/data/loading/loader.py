"""From training samples to accumulations of batches: what one optimizer step processes, read by several processes.

An accumulation is a list of micro-batches, fetched together so that the number of targets is known before the first
backward pass; without accumulation it contains one.
"""

from __future__ import annotations

from torch.utils.data import DataLoader, Dataset

from mask2former.data.loading.collate import PackedBatch, pack
from mask2former.data.loading.sampling import Draw, StepSampler
from mask2former.data.loading.training_set import TrainingSet
from mask2former.data.packed import PackedSample
from mask2former.errors import UserError

__all__ = ["training_loader"]


def training_loader(
    samples: TrainingSet,
    sampler: StepSampler,
    batch_size: int,
    *,
    size_divisibility: int,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[list[PackedBatch] | UserError]:
    """Endless accumulations; ``batch.to(device).unpack()`` turns each of their parts into the input of the loss.

    In place of an accumulation with a sample that cannot be read there is the error, to be raised: raised in a reading
    process, its message would be a traceback.

    Args:
        samples: images or clips.
        sampler: decides which of them a step processes.
        batch_size: of a micro-batch.
        size_divisibility: heights and widths are padded to multiples of it, like those in the model, whose property has
            the same name.
        num_workers: number of reading processes; 0: this process.
        pin_memory: for faster transfers to a CUDA device.
    """
    return DataLoader(  # pyright: ignore[reportReturnType]  (of what the function for accumulations makes of samples)
        _Packed(samples),
        batch_sampler=sampler,  # pyright: ignore[reportArgumentType]  (any iterable of index lists works)
        collate_fn=_Accumulation(batch_size, size_divisibility),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
    )


class _Packed(Dataset[PackedSample | UserError]):
    def __init__(self, samples: TrainingSet) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> PackedSample | UserError:
        try:
            return self.samples.packed(draw)
        except UserError as error:
            return error


class _Accumulation:
    """Packs the samples of one step into micro-batches of equal count."""

    def __init__(self, micro: int, size_divisibility: int) -> None:
        self.micro, self.size_divisibility = micro, size_divisibility

    def __call__(self, samples: list[PackedSample | UserError]) -> list[PackedBatch] | UserError:
        packed: list[PackedSample] = []
        for sample in samples:
            if isinstance(sample, UserError):
                return sample
            packed.append(sample)
        starts = range(0, len(packed), self.micro)
        return [pack(packed[start : start + self.micro], self.size_divisibility) for start in starts]
