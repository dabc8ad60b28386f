"""The output of a model for a batch: class and mask logits per query, of all decoder depths if a loss needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from mask2former.ops.mask_logits import MaskLogits, as_mask_logits
from mask2former.structures.predictions import Prediction

__all__ = ["MaskOutput", "PilotOutput"]


@dataclass(frozen=True, slots=True, repr=False)
class MaskOutput:
    """Predictions of one decoder depth (Mask2Former, Sec. 3.1).

    Attributes:
        class_logits: one score per class and query; the last of the K1 = K + 1 columns is "no object".
        masks: binary mask logits ``(B, Q, T, h, w)`` at stride 4 of the padded input, computed only as far as they are
            read; T is 1 for images. A tensor of logits is accepted.
        query_features: the decoder state behind the predictions, after the shared norm (used to link clips).
        aux_outputs: the same from the query features before layer 0, then after each layer but the last; empty in
            evaluation and inside auxiliary outputs.
        pilots: in mask-piloted training, the predictions of the queries that were given ground truth.
    """

    class_logits: Float[Tensor, "B Q K1"]
    masks: MaskLogits
    query_features: Float[Tensor, "B Q C"]
    aux_outputs: list[MaskOutput]
    pilots: PilotOutput | None

    def __init__(
        self,
        class_logits: Float[Tensor, "B Q K1"],
        masks: MaskLogits | Float[Tensor, "B Q T h w"],
        query_features: Float[Tensor, "B Q C"],
        aux_outputs: list[MaskOutput] | None = None,
        pilots: PilotOutput | None = None,
    ) -> None:
        object.__setattr__(self, "class_logits", class_logits)  # so, because the instance is frozen
        object.__setattr__(self, "masks", as_mask_logits(masks))
        object.__setattr__(self, "query_features", query_features)
        object.__setattr__(self, "aux_outputs", [] if aux_outputs is None else aux_outputs)
        object.__setattr__(self, "pilots", pilots)

    def __repr__(self) -> str:
        shapes = f"class_logits {tuple(self.class_logits.shape)}, masks {tuple(self.masks.shape)}"
        return f"MaskOutput({shapes}, aux_outputs={len(self.aux_outputs)})"

    @property
    def mask_logits(self) -> Float[Tensor, "B Q T h w"]:
        """All mask logits, computed at every access."""
        return self.masks.all()

    @property
    def padded_size(self) -> tuple[int, int]:
        """(height, width) of the network input in pixels: four times the mask size."""
        return 4 * self.masks.shape[-2], 4 * self.masks.shape[-1]

    def predictions(self, image_sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """One prediction per image or clip of the batch.

        Args:
            image_sizes: (height, width) of each in pixels, before it was padded.
        """
        rows = zip(self.class_logits, self.masks.clips(), self.query_features, image_sizes, strict=True)
        return [
            Prediction(class_logits, masks, size, self.padded_size, query_features)
            for class_logits, masks, query_features, size in rows
        ]


@dataclass(frozen=True, slots=True)
class PilotOutput:
    """Predictions of queries whose objects are known, so that no matching is needed.

    Attributes:
        output: of only the pilots.
        matches: for each clip, pilots and their targets.
        groups: how often each target is repeated.
    """

    output: MaskOutput
    matches: Sequence[tuple[Int64[Tensor, " _n"], Int64[Tensor, " _n"]]]
    groups: int
