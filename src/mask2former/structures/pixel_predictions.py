"""The output of a network without queries: a score for every class and pixel (MaskFormer's per-pixel baselines)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["PixelOutput", "PixelPrediction"]

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PixelPrediction:
    """Class scores of one image or clip, which replace a :class:`Prediction`; for semantic results only.

    Attributes:
        class_scores: one logit per class and pixel ``(K, T, h, w)``, covering the padded input at any resolution; T is
            1 for images. There is no "no object".
        image_size: (height, width) of the network input in pixels, without padding at the bottom and on the right.
        padded_size: the same with padding.
    """

    class_scores: Float[Tensor, "K T h w"]
    image_size: Size
    padded_size: Size

    def __repr__(self) -> str:
        scores = f"class scores {tuple(self.class_scores.shape)}"
        return f"PixelPrediction({scores}, image_size={self.image_size}, padded_size={self.padded_size})"

    @property
    def num_frames(self) -> int:
        """1 for images."""
        return self.class_scores.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the scores are."""
        return self.class_scores.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that results are computed in: that of the scores, at least float32."""
        return torch.promote_types(self.class_scores.dtype, torch.float32)

    def frame(self, index: int) -> PixelPrediction:
        """The prediction for one frame of a clip, as for an image."""
        return replace(self, class_scores=self.class_scores[:, index : index + 1])

    def clone(self) -> PixelPrediction:
        """A copy that owns its memory."""
        return replace(self, class_scores=self.class_scores.clone())

    def on_host(self) -> PixelPrediction:
        """The same in main memory, at least float32."""
        return replace(self, class_scores=self.class_scores.to("cpu", self.dtype))


@dataclass(frozen=True, slots=True)
class PixelOutput:
    """Class scores of a batch, which replace a :class:`MaskOutput`.

    Attributes:
        class_scores: logits ``(B, K, T, h, w)`` at stride 4 of the padded input.
        aux_outputs: the same for earlier layers, if any; empty in evaluation and inside auxiliary outputs.
    """

    class_scores: Float[Tensor, "B K T h w"]
    aux_outputs: list[PixelOutput] = field(default_factory=list)

    @property
    def padded_size(self) -> Size:
        """(height, width) of the network input in pixels: four times that of the scores."""
        return 4 * self.class_scores.shape[-2], 4 * self.class_scores.shape[-1]

    def predictions(self, image_sizes: Sequence[Size]) -> list[PixelPrediction]:
        """One prediction per image or clip of the batch.

        Args:
            image_sizes: (height, width) of each in pixels, before it was padded.
        """
        return [
            PixelPrediction(scores, size, self.padded_size)
            for scores, size in zip(self.class_scores, image_sizes, strict=True)
        ]
