"""An exported model as a network: from images to the file's input arrays, and from its logits to predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from mask2former.errors import UserError
from mask2former.inference.exported.info import ExportedInfo
from mask2former.structures import Prediction

__all__ = ["SMALLEST", "ExportedNetwork", "Runtime", "file_inputs"]

SMALLEST = 33  # pixels of a side; the graphs of dynamic files need coarsest maps of at least two pixels


class Runtime(Protocol):
    """A library that runs files.

    Attributes:
        name: its name in messages and hashes.
        info: the metadata of the file.
        dtype: the precision of the computation.
    """

    name: str
    info: ExportedInfo
    dtype: torch.dtype

    def __call__(
        self, images: UInt8[np.ndarray, "B *T C H W"], sizes: Int64[np.ndarray, "B 2"], /
    ) -> Sequence[np.ndarray]:
        """The outputs named in ``info.outputs``, as new arrays at every call."""
        ...


def file_inputs(
    clips: Sequence[UInt8[Tensor, "T C h w"]], size_hw: tuple[int, int], info: ExportedInfo
) -> tuple[UInt8[np.ndarray, "B *T C H W"], Int64[np.ndarray, "B 2"]]:
    """Clips, or images as clips of one frame, in the input format of a file: at the top left of arrays of equal size.

    Args:
        clips: at most as many as the file accepts per call.
        size_hw: size of the arrays, into which all clips fit.
        info: metadata of the file.
    """
    count = info.batch or len(clips)
    pixels = np.zeros((count, *clips[0].shape[:2], *size_hw), np.uint8)
    for index, clip in enumerate(clips):
        pixels[index, ..., : clip.shape[2], : clip.shape[3]] = clip.cpu().numpy()
    sizes = [(clip.shape[2], clip.shape[3]) for clip in clips]
    given = np.array([*sizes, *[(1, 1)] * (count - len(clips))], np.int64)  # an incomplete batch is filled with black
    return pixels if info.frames else pixels[:, 0], given


class ExportedNetwork:
    """An exported file as a network of a predictor.

    Images smaller than the file's inputs are padded as the file itself pads: with zeros after normalisation. A file for
    one size pads every image to it, and padding changes predictions, so results differ a little from those of the model
    itself, which only pads to multiples of 32.

    Args:
        path: the file.
        runtime: the runtime that runs it.

    Attributes:
        info: the metadata of the file.
    """

    def __init__(self, path: Path, runtime: Runtime) -> None:
        self.info = runtime.info
        self._path, self._runtime = path, runtime
        self._sha256: str | None = None

    @property
    def dtype(self) -> torch.dtype:
        return self._runtime.dtype

    @property
    def runtime(self) -> str:
        """The library that runs it."""
        return self._runtime.name

    @property
    def num_bytes(self) -> int:
        """Size of the file, including the weights beside it."""
        return sum(path.stat().st_size for path in self._files())

    def _files(self) -> list[Path]:
        beside = [self._path.with_suffix(".bin")] if self._path.suffix.lower() == ".xml" else []
        return [self._path, *beside]

    @property
    def window(self) -> int:
        """Number of frames that it is meant to see at once."""
        return self.info.frames or 1

    @property
    def size_divisibility(self) -> int:
        return self.info.size_divisibility

    @property
    def largest_input(self) -> tuple[int, int] | None:
        """(height, width) into which images must fit, in pixels; None: any size."""
        return None if self.info.height is None or self.info.width is None else (self.info.height, self.info.width)

    def weights_sha256(self) -> str:
        """A hash of the file and its runtime, because runtimes round differently."""
        if self._sha256 is None:
            digest = hashlib.sha256(f"{self._runtime.name} {self.dtype} ".encode())
            for path in self._files():
                with path.open("rb") as file:
                    hashlib.file_digest(file, lambda: digest)
            self._sha256 = digest.hexdigest()
        return self._sha256

    def __call__(self, images: Sequence[UInt8[Tensor, "*frames C h w"]], /) -> list[Prediction]:
        """See :class:`~mask2former.inference.network.Network`.

        Raises:
            UserError: images are larger than the file accepts, or clips have another number of frames.
        """
        predictions: list[Prediction] = []
        step = self.info.batch or len(images)
        for start in range(0, len(images), step):
            predictions += self._batch(images[start : start + step])
        return predictions

    def _batch(self, images: Sequence[UInt8[Tensor, "*frames C h w"]]) -> list[Prediction]:
        clips = [image if image.ndim == 4 else image.unsqueeze(0) for image in images]
        frames = self.info.frames or 1
        for clip in clips:
            if len(clip) != frames:
                raise UserError(
                    f"{self._path} expects {'images' if frames == 1 else f'clips of {frames} frames'}, got a clip of "
                    f"{len(clip)}; set window={frames}, or export it with frames={len(clip)}"
                )
        sizes = [(clip.shape[2], clip.shape[3]) for clip in clips]
        height, width = self.largest_input or (
            max(SMALLEST, *(h for h, _ in sizes)),
            max(SMALLEST, *(w for _, w in sizes)),
        )
        if any(h > height or w > width for h, w in sizes):
            h, w = max(sizes)
            raise UserError(
                f"{self._path} supports images of up to {height}x{width} pixels (height x width), got {h}x{w}; set a "
                "smaller short_edge and long_edge, or export it for another size, or for any size"
            )
        pixels, given = file_inputs(clips, (height, width), self.info)
        class_logits, masks, features = self._runtime(pixels, given)
        step = self.info.size_divisibility
        padded = (-(-height // step) * step, -(-width // step) * step)
        return [
            Prediction(
                torch.from_numpy(class_logits[index]),
                torch.from_numpy(masks[index] if self.info.frames else masks[index][:, None]),
                size,
                padded,
                torch.from_numpy(features[index]),
            )
            for index, size in enumerate(sizes)
        ]
