"""The parts of a model: three required ones, and optional abilities of a part.

Any ``nn.Module`` with these inputs and outputs is a part; nothing needs to be derived from here. A setting that
requires an ability that a part lacks is refused with a message.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from mask2former.errors import UserError
from mask2former.models.pixel_decoders.features import PixelFeatures
from mask2former.structures.outputs import MaskOutput
from mask2former.structures.pixel_predictions import PixelOutput
from mask2former.structures.samples import Target

__all__ = [
    "Backbone",
    "ChoosesDecay",
    "ChoosesRates",
    "FollowsTraining",
    "GradientCheckpointing",
    "PixelDecoder",
    "Precision",
    "PreparesForInference",
    "StartsFromBackbone",
    "TakesTargets",
    "TransformerDecoder",
    "for_inference",
    "set_gradient_checkpointing",
    "set_precision",
    "targets_for",
]


class Backbone(Protocol):
    """Images to four maps."""

    def __call__(self, images: Float[Tensor, "N C H W"], /) -> Sequence[Float[Tensor, "N _C_l _H_l _W_l"]]:
        """Maps of strides 4, 8, 16 and 32, finest first; ``images`` are normalised, their sides multiples of 32."""
        ...


class PixelDecoder(Protocol):
    """Four maps to pixel embeddings and three maps of the same width."""

    def __call__(self, features: Sequence[Float[Tensor, "N _C_l _H_l _W_l"]], /) -> PixelFeatures: ...


class TransformerDecoder(Protocol):
    """Pixel features to the class and mask logits of each query."""

    def __call__(
        self, features: PixelFeatures, num_frames: int, /, *, aux_outputs: bool = True
    ) -> MaskOutput | PixelOutput:
        """Frames are folded clip-major into the first axis of ``features``; an image is a clip of one frame.

        With ``aux_outputs`` the output also contains the predictions of earlier layers, if any. A part that classifies
        pixels instead of masks returns a ``PixelOutput``.
        """
        ...


@runtime_checkable
class GradientCheckpointing(Protocol):
    """A part that can recompute its activations in the backward pass (``trainer.gradient_checkpointing``)."""

    def set_gradient_checkpointing(self, enable: bool) -> None: ...


@runtime_checkable
class Precision(Protocol):
    """A pixel decoder that can compute in float32 under autocast (``trainer.half_pixel_decoder`` turns it off)."""

    full_precision: bool


@runtime_checkable
class PreparesForInference(Protocol):
    """A part with a faster form for inference on its current device and in its current dtype."""

    def for_inference(self) -> nn.Module:
        """A module with the same results as this one in evaluation mode, within rounding; or the part itself.

        The part is not changed. The form shares the parameters that it uses unchanged with the part; what it folds,
        merges or packs is its own copy, which does not follow later changes: a predictor requests a new form then. The
        form is called without gradients, and passes everything else on to the part.
        """
        ...


@runtime_checkable
class ChoosesDecay(Protocol):
    """A part with parameters that have no weight decay, beside those of norms and embeddings."""

    def no_weight_decay(self) -> Collection[str]:
        """Their names within the part; names that no parameter has are noted."""
        ...


@runtime_checkable
class ChoosesRates(Protocol):
    """A part with parameters whose learning rate is higher or lower than that of the rest."""

    def learning_rate_multipliers(self) -> Mapping[str, float]:
        """Multipliers by dotted name of a module or parameter of the part; of several that contain it, the longest."""
        ...


@runtime_checkable
class StartsFromBackbone(Protocol):
    """A backbone that loads the weights of a backbone alone (``model.init``) under names other than its own."""

    def start_from_backbone(self, state: Mapping[str, Tensor]) -> Sequence[str]:
        """Load what fits from entries named as in our backbones; a phrase for each thing that does not fit."""
        ...


@runtime_checkable
class TakesTargets(Protocol):
    """A transformer decoder whose call accepts ``targets`` in training, if it says so."""

    takes_targets: bool


@runtime_checkable
class FollowsTraining(Protocol):
    """A transformer decoder that changes in the course of training."""

    def set_progress(self, share: float) -> None:
        """Called before each step with the completed share of the training, 0..1."""
        ...


def targets_for(part: nn.Module, targets: Sequence[Target]) -> dict[str, Sequence[Target]]:
    """What a model with the transformer decoder ``part`` receives in training beside the images."""
    return {"targets": targets} if isinstance(part, TakesTargets) and part.takes_targets else {}


def for_inference(part: nn.Module) -> nn.Module:
    """The inference form of a part; the part itself where it has none.

    Also the part itself where it, or a module within it, is in training mode or was modified, since what a user
    attached to it (hooks, another ``forward``) would not be called.
    """
    if not isinstance(part, PreparesForInference) or any(map(_is_altered, part.modules())):
        return part
    return part.for_inference()


def _is_altered(module: nn.Module) -> bool:
    hooks = module._forward_hooks or module._forward_pre_hooks  # what register_forward_hook and similar methods add to
    return module.training or bool(hooks) or "forward" in vars(module)


def set_gradient_checkpointing(name: str, part: nn.Module, enable: bool) -> None:
    """Switch it on or off.

    Raises:
        UserError: it is to be switched on, but the part does not support it.
    """
    if isinstance(part, GradientCheckpointing):
        part.set_gradient_checkpointing(enable)
    elif enable:
        raise UserError(
            f"the {name} {type(part).__name__} does not support gradient checkpointing (it has no method "
            "set_gradient_checkpointing); switch it off (trainer.gradient_checkpointing=false)"
        )


def set_precision(part: nn.Module, *, full: bool) -> None:
    """Sets whether a pixel decoder computes in float32 under autocast, if it supports the choice.

    Raises:
        UserError: half precision is requested, but the part does not support the choice.
    """
    if isinstance(part, Precision):
        part.full_precision = full
    elif not full:
        raise UserError(
            f"the pixel decoder {type(part).__name__} has no attribute full_precision, so it always computes in the "
            "precision of the run; leave trainer.half_pixel_decoder out"
        )
