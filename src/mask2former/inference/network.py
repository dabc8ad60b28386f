"""The seam of every predictor: what a network is, and a :class:`Mask2Former` as one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from jaxtyping import UInt8
from torch import Tensor

from mask2former.inference.compiling import CompiledModel
from mask2former.memory import available_memory, check_memory
from mask2former.models.mask2former import Mask2Former
from mask2former.ops.peak_memory import peak_memory
from mask2former.structures import Prediction

__all__ = ["ModelNetwork", "Network", "hash_weights"]

_CLIP_WINDOW = 8  # frames, for models of clips
_MOST_BYTES = 640  # for each pixel shown, of published models on a CPU; those with ResNet-50 take 490
_SURELY_FITS = 1 << 30


class Network(Protocol):
    """Any callable from images to predictions: a model, an exported file, a server, an ensemble.

    It is given images or clips that were resized for it, on the device of the predictor, as RGB in 0..255; those of one
    call may differ in size. It normalises and pads them as it likes, and says so in each prediction
    (``image_size``, ``padded_size``).

    Four attributes are read where there are any: ``dtype``, which is recorded with results; ``window``, the number of
    frames that tracking shows it at once by default; ``size_divisibility``, where heights and widths are padded to its
    multiples, so that images of almost one size share a batch; and ``weights_sha256()``, which says whether results in
    files are its own. Without the last one, unless it is an ``nn.Module``, every predictor counts as another network.
    """

    def __call__(self, images: Sequence[UInt8[Tensor, "*frames 3 h w"]], /) -> Sequence[Prediction]:
        """One prediction per image or clip, in their order."""
        ...


class ModelNetwork:
    """A model as a network: one batch per call.

    Args:
        model: it is not copied, but moved to the device, laid out for it and set to evaluation.
        device: where it runs.
        dtype: of all its parameters; None leaves them as they are.
        compile: compile it for every size, of the first eight that it is shown; see :class:`Predictor`.
    """

    def __init__(
        self, model: Mask2Former, device: torch.device, dtype: torch.dtype | None = None, *, compile: bool = False
    ) -> None:
        self.model = model.to(device=device, dtype=dtype).eval()
        self._compiled = CompiledModel(self.model) if compile else None
        self._bytes_per_pixel: float | None = None  # that the model takes on a CPU; measured when it matters
        if device.type == "cpu":  # spares convolutions their reordering: 4 % of ResNet-50, 17 % of ``nuclei``
            self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  (no overload has it)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def window(self) -> int:
        """Frames that it is meant to see at once."""
        return _CLIP_WINDOW if getattr(self.model.transformer_decoder, "temporal", False) else 1

    @property
    def size_divisibility(self) -> int:
        return self.model.size_divisibility

    def weights_sha256(self) -> str:
        return hash_weights(self.model.state_dict())

    def __call__(self, images: Sequence[UInt8[Tensor, "*frames 3 h w"]], /) -> list[Prediction]:
        """See :class:`Network`.

        Raises:
            UserError: the images would not fit the memory of a CPU.
        """
        if self.model.device.type == "cpu":  # others say it themselves, and survive it
            self._check_room(images)
        forward = self.model if self._compiled is None else self._compiled
        output = forward(images, aux_outputs=False)  # bytes; the model converts
        return output.predictions([(image.shape[-2], image.shape[-1]) for image in images])

    def _check_room(self, images: Sequence[UInt8[Tensor, "*frames 3 h w"]]) -> None:
        """Refuse what would not fit the memory, before the kernel ends the process.

        Raises:
            UserError: naming the size.
        """
        pixels = sum(image.numel() // 3 for image in images)
        available = available_memory() if pixels * _MOST_BYTES > _SURELY_FITS else None
        if available is None or pixels * _MOST_BYTES < available:
            return
        if self._bytes_per_pixel is None:  # of this model, on a small image
            side = 256
            small = torch.zeros((3, side, side), dtype=torch.uint8)
            self._bytes_per_pixel = peak_memory(lambda: self.model([small], aux_outputs=False)) / side**2
        height, width = images[0].shape[-2:]
        what = f"{len(images)} images of" if len(images) > 1 else "an image of"
        what = f"a clip of {len(images[0])} frames of" if images[0].ndim > 3 else what
        check_memory(
            f"the model on {what} {height}x{width} pixels (height x width, after resizing)",
            int(pixels * self._bytes_per_pixel),
            "set a smaller short_edge, take fewer frames, cut the image into parts, or use a GPU",
        )


def hash_weights(weights: Mapping[str, object]) -> str:
    """A hash of all tensors of a state dict as they are, whatever file they come from."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
