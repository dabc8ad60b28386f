"""The entry points to multi-scale deformable sampling and attention: they choose the kernel and log the choice once.

No arithmetic here. Models call these functions and know nothing of the kernels behind them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mask2former.errors import UserError
from mask2former.ops.deform_attn import native, triton
from mask2former.ops.deform_attn.gather import deformable_sampling_gather
from mask2former.ops.deform_attn.portable import deformable_sampling_portable
from mask2former.ops.deform_attn.projected import samples_of
from mask2former.ops.deform_attn.reference import deformable_sampling_reference

__all__ = ["Kernel", "deformable_sampling", "deformable_self_attention"]

Kernel = Literal["auto", "native", "triton", "portable", "gather", "reference"]

_KERNELS = {
    "native": native.deformable_sampling_native,
    "triton": triton.deformable_sampling_triton,
    "portable": deformable_sampling_portable,
    "gather": deformable_sampling_gather,
    "reference": deformable_sampling_reference,
}
_LOGGER = logging.getLogger("mask2former")


def deformable_sampling(
    value: Float[Tensor, "B S M D"],
    shapes: Sequence[tuple[int, int]],
    locations: Float[Tensor, "B Q M L P 2"],
    weights: Float[Tensor, "B Q M L P"],
    kernel: Kernel = "auto",
) -> Float[Tensor, "B Q MD"]:
    """Attention-weighted sum of bilinear samples from several levels, heads concatenated.

    Sampling equals ``grid_sample`` at ``2 * location - 1`` with zero padding and ``align_corners=False``: pixel centres
    lie at ``(index + 0.5) / size`` and whatever is outside a level is zero. The result has the dtype of ``value``;
    positions and sums are computed in at least float32 whatever the inputs, so a bf16 ``value`` with float32
    ``locations`` and ``weights`` is the accurate way to run in bf16.

    Args:
        value: Values of all levels, each flattened row-major, concatenated in the order of ``shapes``.
        shapes: Height and width of every level in pixels, as Python integers; S is the sum of their products.
        locations: Normalised xy, [0, 1] spans a level. May lie anywhere outside.
        weights: Attention weights, usually a softmax over the last two axes together.
        kernel: ``auto`` uses the compiled kernel on a CPU if it was built, ``portable`` on a CPU otherwise, ``triton``
            on a CUDA device if Triton is available, ``reference`` on other devices, and ``gather`` while exporting, so
            that exported graphs contain only standard operators. Under ``torch.use_deterministic_algorithms`` CUDA
            devices use ``portable``, because the backward passes of the other two are not deterministic there.

    Raises:
        UserError: ``kernel`` is unknown, or is ``native`` or ``triton`` and cannot run here.

    Reference: Deformable DETR (Zhu et al., 2021), Eq. 3; Mask2Former, Sec. 3.2.1.
    """
    name = _choose(value, kernel)
    if not torch.compiler.is_compiling():  # a logger would break fullgraph=True
        _announce(name, value.device.type)
    return _KERNELS[name](value, shapes, locations, weights)


def deformable_self_attention(
    value: Float[Tensor, "B S M D"],
    shapes: Sequence[tuple[int, int]],
    projected: Float[Tensor, "B S MLP3"],
    kernel: Kernel = "auto",
) -> Float[Tensor, "B S MD"]:
    """``deformable_sampling`` where the queries are the pixels themselves, from a projection of each.

    A query samples around its own centre: L * P points for each head, at offsets in pixels of the level that is
    sampled, weighted with a softmax of logits over levels and points. The compiled kernel does all that in one pass
    where both tensors have one dtype; elsewhere locations and weights are made first (:func:`samples_of`). In both,
    arithmetic is in at least float32, and the result has the dtype of ``value``.

    Args:
        value: As in :func:`deformable_sampling`.
        shapes: As there.
        projected: For each pixel its offsets (M, L, P, 2), xy, then its logits (M, L, P); P follows from the size.
        kernel: As there.

    Raises:
        UserError: As there.

    Reference: Deformable DETR (Zhu et al., 2021), Sec. 4.1.
    """
    if _choose(value, kernel) == "native" and projected.dtype == value.dtype:
        if not torch.compiler.is_compiling():
            _announce("native", value.device.type)
        return native.deformable_self_attention_native(value, shapes, projected)
    locations, weights = samples_of(projected, shapes, value.shape[2])
    return deformable_sampling(value, shapes, locations, weights, kernel)


def _choose(value: Tensor, kernel: Kernel) -> str:
    if kernel == "auto":
        if torch.compiler.is_exporting():
            return "gather"
        if value.device.type == "cuda":
            if torch.are_deterministic_algorithms_enabled():
                return "portable"
            return "triton" if triton.available() and triton.supports(value) else "reference"
        if value.device.type != "cpu":
            return "reference"
        return "native" if native.available() and native.supports(value) else "portable"
    if kernel not in _KERNELS:
        raise UserError(f"kernel {kernel!r} is unknown; choose one of auto, {', '.join(_KERNELS)}")
    if kernel == "native":
        if not native.available():
            raise UserError(
                f"kernel 'native' cannot run: {native.why_unavailable()}. Install a C compiler and reinstall"
                " mask2former (in a source tree: python setup.py build_ext --inplace), or use kernel='auto'"
            )
        if not native.supports(value):
            raise UserError(
                f"kernel 'native' supports float32, float64 or bfloat16 on the CPU; got {value.dtype} on "
                f"{value.device}. Convert the tensors, or use kernel='auto'"
            )
    if kernel == "triton":
        if not triton.available():
            raise UserError(f"kernel 'triton' cannot run: {triton.why_unavailable()}; use kernel='auto'")
        if not triton.supports(value):
            raise UserError(
                "kernel 'triton' supports float16, bfloat16, float32 or float64 on a CUDA device of compute "
                f"capability 8.0 or newer; got {value.dtype} on {value.device}. Move the tensors there, or use "
                "kernel='auto'"
            )
        if torch.are_deterministic_algorithms_enabled():
            raise UserError(
                "kernel 'triton' cannot run: its backward pass is not deterministic, but "
                "torch.use_deterministic_algorithms is on; turn that off, or use kernel='auto'"
            )
    return kernel


@cache
def _announce(name: str, device_type: str) -> None:
    missing = {("portable", "cpu"): native.why_unavailable(), ("reference", "cuda"): triton.why_unavailable()}.get(
        (name, device_type), ""
    )
    reason = f" ({missing})" if missing else ""
    _LOGGER.info("deformable sampling on %s uses the %s kernel%s", device_type, name, reason)
