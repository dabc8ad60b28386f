"""The interface of a predictor to its network, and a :class:`Mask2Former` as a network."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from mask2former.errors import UserError
from mask2former.inference.compiling import CompiledModel
from mask2former.memory import available_memory, check_memory
from mask2former.models.mask2former import Mask2Former
from mask2former.notes import note
from mask2former.ops.mask_logits import as_mask_logits
from mask2former.ops.peak_memory import peak_memory
from mask2former.structures import PixelPrediction, Prediction

__all__ = ["ModelNetwork", "Network", "check_predictions", "fitting_size", "hash_weights"]

_CLIP_WINDOW = 8  # frames, for models of clips
_MOST_BYTES = 640  # per input pixel, for published models on a CPU; those with ResNet-50 need 490
_SURELY_FITS = 1 << 30
_SAMPLES = 16  # values of each parameter and buffer
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Network(Protocol):
    """Any callable from images to predictions: a model, an exported file, a server, an ensemble.

    Its inputs are images or clips that were resized for it, on the device of the predictor, as RGB in 0..255; those of
    one call may differ in size. It normalises and pads them in its own way, and reports the padding in each prediction
    (``image_size``, ``padded_size``).

    Five optional attributes are used if present: ``dtype``, which is recorded with results; ``window``, the number of
    frames that tracking passes at once by default; ``size_divisibility``, if heights and widths are padded to multiples
    of it, so that images of similar sizes can share a batch; ``largest_input``, the height and width into which images
    must fit; and ``weights_sha256()``, which identifies results in files as its own. Without the last one, unless
    the network is an ``nn.Module``, every predictor counts as another network.
    """

    def __call__(self, images: Sequence[UInt8[Tensor, "*frames C h w"]], /) -> Sequence[Prediction | PixelPrediction]:
        """One prediction per image or clip, in order: for queries, or for pixels if it only has semantic results."""
        ...


class ModelNetwork:
    """A model as a network: one batch per call.

    Args:
        model: not copied, but moved to the device, laid out for it and set to evaluation mode.
        device: device to run on.
        dtype: type of all its parameters; None leaves them unchanged.
        compile: compile it for each of the first eight input sizes; see :class:`Predictor`.

    Attributes:
        model: the model. It can be changed at any time: predictions always use its current weights.
    """

    def __init__(
        self, model: Mask2Former, device: torch.device, dtype: torch.dtype | None = None, *, compile: bool = False
    ) -> None:
        self.model = model.to(device=device, dtype=dtype).eval()
        self._compiled = CompiledModel(self.model, self.prepared) if compile else None
        self._prepared: tuple[_Snapshot, Mask2Former] | None = None
        self._bytes_per_pixel: float | None = None  # memory of the model on a CPU; measured when needed
        self._process = os.getpid()
        if device.type == "cpu":  # avoids reordering for convolutions: saves 4 % for ResNet-50, 17 % for ``nuclei``
            self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  (missing overload)

    def __getstate__(self) -> Mapping[str, object]:
        return self.__dict__ | {"_prepared": None, "_process": None}  # recreated where it is needed

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state, _process=os.getpid())

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def window(self) -> int:
        """Number of frames that it is meant to see at once."""
        return _CLIP_WINDOW if getattr(self.model.transformer_decoder, "temporal", False) else 1

    @property
    def size_divisibility(self) -> int:
        return self.model.size_divisibility

    def weights_sha256(self) -> str:
        self.check_process()
        return hash_weights(self.model.state_dict())

    def check_process(self) -> None:
        """Use one thread, with a warning, if this process was forked from the one that created the network.

        The threads of PyTorch do not survive a fork, and the first operation that shared its work with them would wait
        for them forever. Predictors call this before their first operation.
        """
        if os.getpid() == self._process or torch.get_num_threads() == 1:
            return
        torch.set_num_threads(1)  # as PyTorch does in its forked workers that load data
        warnings.warn(
            "this process was forked from the one that loaded the model, whose threads do not exist here: PyTorch uses "
            "one thread in this process from now on; to use more, load the model in this process, or start processes "
            "with multiprocessing.get_context('spawn')",
            RuntimeWarning,
            stacklevel=2,
        )

    def __call__(self, images: Sequence[UInt8[Tensor, "*frames C h w"]], /) -> Sequence[Prediction | PixelPrediction]:
        """See :class:`Network`.

        Raises:
            UserError: the images would not fit into the memory of a CPU.
        """
        self.check_process()
        if self.model.device.type == "cpu":  # other devices report it themselves, and survive it
            self._check_room(images)
        forward = self.prepared() if self._compiled is None else self._compiled
        output = forward(images, aux_outputs=False)  # bytes; the model converts
        return output.predictions([(image.shape[-2], image.shape[-1]) for image in images])

    def prepared(self) -> Mask2Former:
        """The form of the model to call: the prepared one or, if gradients are enabled, the model itself.

        The prepared form is recreated when the model changes. Changes to weights, modules, modes and hooks that PyTorch
        counts are detected. Changes that bypass its counter (``weight.data.mul_(2)``) are detected in 16 values of each
        parameter; a change that leaves these values alone needs a new network.
        """
        if torch.is_grad_enabled():
            return self.model
        current = self._prepared
        if current is None or not current[0].is_of(self.model):
            self._prepared = None  # frees its copies before new ones are created
            prepared = self.model.prepare_for_inference()
            self._prepared = current = (_Snapshot(self.model, prepared), prepared)
        return current[1]

    def _check_room(self, images: Sequence[UInt8[Tensor, "*frames C h w"]]) -> None:
        """Reject inputs that would not fit into memory, before the kernel ends the process.

        Raises:
            UserError: they do not fit; the message names the size.
        """
        pixels = sum(image.numel() // image.shape[-3] for image in images)
        available = available_memory() if pixels * _MOST_BYTES > _SURELY_FITS else None
        if available is None or pixels * _MOST_BYTES < available:
            return
        if self._bytes_per_pixel is None:  # measured for this model, on a small image
            side = 256
            small = torch.zeros((self.model.channels, side, side), dtype=torch.uint8)
            model = self.prepared()
            self._bytes_per_pixel = peak_memory(lambda: model([small], aux_outputs=False)) / side**2
        height, width = images[0].shape[-2:]
        what = f"{len(images)} images of" if len(images) > 1 else "an image of"
        what = f"a clip of {len(images[0])} frames of" if images[0].ndim > 3 else what
        check_memory(
            f"the model on {what} {height}x{width} pixels (height x width, after resizing)",
            int(pixels * self._bytes_per_pixel),
            "set a smaller short_edge, use fewer frames, cut the image into parts, or use a GPU",
        )


class _Snapshot:
    """The state of a model when it was prepared, with which a change is detected in half a millisecond.

    All objects are kept alive, so that no other object gets the address of one of them.

    Args:
        model: the model.
        prepared: its prepared form, which determines what was copied.
    """

    def __init__(self, model: Mask2Former, prepared: Mask2Former) -> None:
        self._modules = list(model.modules())
        self._entries = [
            entries for module in self._modules for entries in (module._parameters, module._buffers) if entries
        ]
        self._tensors = [tensor for entries in self._entries for tensor in entries.values()]
        held = [tensor for tensor in self._tensors if tensor is not None]
        self._held, self._with_version = held, [tensor for tensor in held if not tensor.is_inference()]
        copied = [part for name, part in model.named_children() if getattr(prepared, name) is not part]
        copies = [tensor for part in copied for tensor in (*part.parameters(), *part.buffers())]
        self._samples = [_sample(tensor) for tensor in copies if tensor.is_cpu and _has_bits(tensor)]
        self._children, self._modes, self._marks = self._look(model)
        self._values = self._read()

    def is_of(self, model: Mask2Former) -> bool:
        """Whether the model is unchanged."""
        tensors = [tensor for entries in self._entries for tensor in entries.values()]
        return (
            list(map(id, tensors)) == list(map(id, self._tensors))
            and self._look(model) == (self._children, self._modes, self._marks)
            and np.array_equal(self._read(), self._values)
        )

    def _look(self, model: Mask2Former) -> tuple[list[object], list[object], list[object]]:
        children: list[object] = [child for module in self._modules for child in module._modules.values()]
        modes: list[object] = [
            (module.training, len(module._forward_hooks), len(module._forward_pre_hooks), "forward" in module.__dict__)
            for module in self._modules
        ]
        marks: list[object] = [model, model.mean, model.std, model.size_divisibility]
        marks += [tensor.data_ptr() for tensor in self._held]
        marks += [tensor.stride() for tensor in self._held]
        marks += [tensor._version for tensor in self._with_version]
        return children, modes, marks

    def _read(self) -> np.ndarray:
        return np.concatenate(self._samples) if self._samples else np.zeros(0)


def _has_bits(tensor: Tensor) -> bool:
    return tensor.numel() > 0 and tensor.element_size() in _BITS


def _sample(tensor: Tensor) -> np.ndarray:
    """The bits of some values, spread over the tensor, or of the first ones if it is not contiguous; a view."""
    dense = tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
    count = min(_SAMPLES, tensor.numel()) if dense else 1
    values = tensor.detach().as_strided((count,), (max(1, tensor.numel() // _SAMPLES),))
    return values.view(_BITS[tensor.element_size()]).numpy()


def hash_weights(weights: Mapping[str, object]) -> str:
    """A hash of all tensors of a state dict, independent of the file they come from."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fitting_size(network: Network, wanted: tuple[int, int], size_hw: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which a network processes an image: as requested, if that fits its largest input.

    Larger images are reduced, keeping their proportions (``size_hw``); a note counts them by size.
    """
    largest = getattr(network, "largest_input", None)
    if largest is None or all(side <= most for side, most in zip(wanted, largest, strict=True)):
        return wanted
    scale = min(most / side for side, most in zip(size_hw, largest, strict=True))
    note(
        "sizes of images that are resized to less than the settings specify, because the exported model supports at "
        f"most {largest[0]}x{largest[1]} pixels (height x width)",
        f"{size_hw[0]}x{size_hw[1]}",
    )
    height, width = (max(1, min(most, int(side * scale + 0.5))) for side, most in zip(size_hw, largest, strict=True))
    return height, width


def check_predictions(predictions: Sequence[Prediction | PixelPrediction], num_images: int, num_classes: int) -> None:
    """Check the output of a network.

    Raises:
        UserError: the number of predictions or classes is wrong, or logits are NaN or infinite, which would give
            results that look valid.
    """
    if len(predictions) != num_images:
        raise UserError(f"the network returned {len(predictions)} predictions for {num_images} images")
    for prediction in predictions:
        _check_shapes(prediction, num_classes)
        _check_finite(prediction)


def _check_shapes(prediction: Prediction | PixelPrediction, num_classes: int) -> None:
    """Check the number of classes, and that masks or scores have a frame axis.

    Raises:
        UserError: a shape is wrong; the message has the expected one.
    """
    if isinstance(prediction, PixelPrediction):
        expected = f"one for each of the {num_classes} classes; pass the categories that it was trained on"
        count, has_frames = len(prediction.class_scores), prediction.class_scores.dim() == 4
        if count != num_classes or not has_frames:
            shape = tuple(prediction.class_scores.shape)
            raise UserError(f"the network returned class scores of shape {shape}; expected (K, T, h, w), {expected}")
        return
    if (count := prediction.class_logits.shape[1]) != num_classes + 1:
        raise UserError(
            f"the network returned {count} class logits; expected {num_classes + 1}: one for each of the classes, "
            "then one for 'no object'; pass the categories that it was trained on"
        )
    if len(prediction.masks.shape) != 4:
        raise UserError(
            f"the network returned mask logits of shape {tuple(prediction.masks.shape)}; expected 4 axes: queries, "
            "frames (1 for images), height and width"
        )


def _check_finite(prediction: Prediction | PixelPrediction) -> None:
    """One pass over the logits, or over what they are computed from; takes far less than 1 % of the model's time.

    Raises:
        UserError: some are NaN or infinite, or may be; with float16 the cause is nearly always its range.
    """
    if isinstance(prediction, PixelPrediction):
        dtype = prediction.class_scores.dtype
        bounds = {"class": as_mask_logits(prediction.class_scores).bound}
    else:
        dtype = prediction.masks.dtype
        bounds = {"class": as_mask_logits(prediction.class_logits).bound, "mask": prediction.masks.bound}
    finite = torch.stack([bound.isfinite() for bound in bounds.values()]).tolist()  # a single wait for a GPU
    for name, is_finite in zip(bounds, finite, strict=True):
        if not is_finite:
            cause = (
                "values exceeded the range of float16: use bfloat16 or float32"
                if dtype == torch.float16
                else "the weights are damaged, or too large for this input: load them again, or use another checkpoint"
            )
            raise UserError(f"the model returned {name} logits that are not finite (in {str(dtype)[6:]}); {cause}")
