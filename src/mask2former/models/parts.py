"""What a model is made of: three parts that it needs, and abilities that a part may have.

Any ``nn.Module`` of these shapes is a part; nothing has to be derived from here. A setting that needs an ability which
a part lacks is refused in a sentence.
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
    """Four maps to embeddings of pixels and three maps of one width."""

    def __call__(self, features: Sequence[Float[Tensor, "N _C_l _H_l _W_l"]], /) -> PixelFeatures: ...


class TransformerDecoder(Protocol):
    """Pixel features to the class and mask logits of each query."""

    def __call__(
        self, features: PixelFeatures, num_frames: int, /, *, aux_outputs: bool = True
    ) -> MaskOutput | PixelOutput:
        """Frames are folded clip-major into the first axis of ``features``; an image is a clip of one frame.

        With ``aux_outputs`` the output also holds the predictions of earlier layers, if there are some. What classifies
        pixels instead of masks returns a ``PixelOutput``.
        """
        ...


@runtime_checkable
class GradientCheckpointing(Protocol):
    """A part that can compute its activations again in the backward pass (``trainer.gradient_checkpointing``)."""

    def set_gradient_checkpointing(self, enable: bool) -> None: ...


@runtime_checkable
class Precision(Protocol):
    """A pixel decoder that can compute in float32 under autocast (``trainer.half_pixel_decoder`` turns it off)."""

    full_precision: bool


@runtime_checkable
class PreparesForInference(Protocol):
    """A part with a faster form for inference, for the device and the dtype that it has now."""

    def for_inference(self) -> nn.Module:
        """A module with the results of this one in evaluation, within rounding; or the part itself.

        The part stays as it is. Parameters that the form takes as they are, it shares with the part; what it folds,
        merges or packs is its own, and is not changed with them: a predictor asks for a new form then.
        The form is called without gradients, and hands everything else on to the part.
        """
        ...


@runtime_checkable
class ChoosesDecay(Protocol):
    """A part with parameters that do not decay, beside those of norms and embeddings."""

    def no_weight_decay(self) -> Collection[str]:
        """Their names within the part."""
        ...


@runtime_checkable
class ChoosesRates(Protocol):
    """A part with parameters that learn faster or slower than the rest of it."""

    def learning_rate_multipliers(self) -> Mapping[str, float]:
        """By name within the part, or by the beginning of names; of several that fit, the longest counts."""
        ...


@runtime_checkable
class StartsFromBackbone(Protocol):
    """A backbone that takes weights of a backbone alone (``model.init``) under other names than its own."""

    def start_from_backbone(self, state: Mapping[str, Tensor]) -> Sequence[str]:
        """Take what fits from entries named as in our backbones; a phrase for each thing that does not."""
        ...


@runtime_checkable
class TakesTargets(Protocol):
    """A transformer decoder whose call takes ``targets`` in training, if it says so."""

    takes_targets: bool


@runtime_checkable
class FollowsTraining(Protocol):
    """A transformer decoder whose training changes in its course."""

    def set_progress(self, share: float) -> None:
        """Before each step: how much of the training is done, 0..1."""
        ...


def targets_for(part: nn.Module, targets: Sequence[Target]) -> dict[str, Sequence[Target]]:
    """What a model whose transformer decoder is ``part`` is given in training beside the images."""
    return {"targets": targets} if isinstance(part, TakesTargets) and part.takes_targets else {}


def for_inference(part: nn.Module) -> nn.Module:
    """The form of a part for inference; the part itself where it has none.

    Also where the part, or a module within it, is in training mode or was altered, since what a user attached to
    it (hooks, another ``forward``) would not be called.
    """
    if not isinstance(part, PreparesForInference) or any(map(_is_altered, part.modules())):
        return part
    return part.for_inference()


def _is_altered(module: nn.Module) -> bool:
    hooks = module._forward_hooks or module._forward_pre_hooks  # what register_forward_hook and its like add to
    return module.training or bool(hooks) or "forward" in vars(module)


def set_gradient_checkpointing(name: str, part: nn.Module, enable: bool) -> None:
    """Switch it on or off.

    Raises:
        UserError: it is to be on, and the part cannot.
    """
    if isinstance(part, GradientCheckpointing):
        part.set_gradient_checkpointing(enable)
    elif enable:
        raise UserError(
            f"the {name} {type(part).__name__} has no method set_gradient_checkpointing(enable); add one, or leave "
            "gradient checkpointing out (trainer.gradient_checkpointing=false)"
        )


def set_precision(part: nn.Module, *, full: bool) -> None:
    """Whether a pixel decoder computes in float32 under autocast, if it can choose.

    Raises:
        UserError: it is to be in half precision on purpose, and the part has no choice.
    """
    if isinstance(part, Precision):
        part.full_precision = full
    elif not full:
        raise UserError(
            f"the pixel decoder {type(part).__name__} has no attribute full_precision, so it always computes in the "
            "precision of the run; leave trainer.half_pixel_decoder out"
        )
