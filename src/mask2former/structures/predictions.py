"""The output of a network for one image or clip, with what is needed to read it.

Post-processing, test-time augmentation and tracking start from it, whatever network produced it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mask2former.ops.mask_logits import MaskLogits, as_mask_logits

__all__ = ["Prediction"]

Size = tuple[int, int]


@dataclass(frozen=True, slots=True, repr=False)
class Prediction:
    """Class and mask logits per query of one image or clip (Mask2Former, Sec. 3.1).

    Attributes:
        class_logits: one score per class and query; the last of the K1 = K + 1 columns is "no object".
        masks: binary mask logits ``(Q, T, h, w)``, which cover the padded input at any resolution and are computed only
            as far as they are read; T is 1 for images. A tensor of logits is accepted.
        image_size: (height, width) of the network input in pixels, without padding at the bottom and on the right.
        padded_size: the same with padding.
        query_features: the decoder state behind the predictions, used to track objects from one window of a clip to the
            next; None if the network does not return it.
    """

    class_logits: Float[Tensor, "Q K1"]
    masks: MaskLogits
    image_size: Size
    padded_size: Size
    query_features: Float[Tensor, "Q C"] | None

    def __init__(
        self,
        class_logits: Float[Tensor, "Q K1"],
        masks: MaskLogits | Float[Tensor, "Q T h w"],
        image_size: Size,
        padded_size: Size,
        query_features: Float[Tensor, "Q C"] | None = None,
    ) -> None:
        object.__setattr__(self, "class_logits", class_logits)  # so, because the instance is frozen
        object.__setattr__(self, "masks", as_mask_logits(masks))
        object.__setattr__(self, "image_size", image_size)
        object.__setattr__(self, "padded_size", padded_size)
        object.__setattr__(self, "query_features", query_features)
        assert all(side <= padded for side, padded in zip(self.image_size, self.padded_size, strict=True)), (
            self.image_size,
            self.padded_size,
        )

    def __repr__(self) -> str:
        queries, columns = self.class_logits.shape
        masks = f"{queries} queries, {columns - 1} classes, mask logits {tuple(self.masks.shape)}"
        return f"Prediction({masks}, image_size={self.image_size}, padded_size={self.padded_size})"

    def __len__(self) -> int:
        """The number of queries."""
        return len(self.class_logits)

    @property
    def mask_logits(self) -> Float[Tensor, "Q T h w"]:
        """All mask logits, computed at every access."""
        return self.masks.all()

    @property
    def num_frames(self) -> int:
        """1 for images."""
        return self.masks.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the masks are."""
        return self.masks.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that results are computed in: that of the masks, at least float32."""
        return torch.promote_types(self.masks.dtype, torch.float32)

    @property
    def probabilities(self) -> Float[Tensor, "Q K1"]:
        """Class probabilities in 0..1, "no object" last, at least float32."""
        return self.class_logits.detach().to(self.device, self.dtype).softmax(dim=-1)

    def masks_of(self, queries: Int64[Tensor, " N"] | None = None) -> Float[Tensor, "N T h w"]:
        """Mask logits of some queries, or of all, at least float32. Results are made only from these."""
        masks = self.masks.detach()
        if masks.dtype == torch.float16:  # in whose range finite factors may have no finite product
            masks = masks.to(self.device, self.dtype)
        return (masks.all() if queries is None else masks.of_queries(queries)).to(self.dtype)

    def frame(self, index: int) -> Prediction:
        """The prediction for one frame of a clip, as for an image."""
        return replace(self, masks=self.masks.frame(index))

    def clone(self) -> Prediction:
        """A copy that owns its memory."""
        return replace(
            self,
            class_logits=self.class_logits.clone(),
            masks=self.masks.clone(),
            query_features=None if self.query_features is None else self.query_features.clone(),
        )

    def on_host(self) -> Prediction:
        """The same in main memory, at least float32."""
        host = torch.device("cpu")
        return replace(
            self,
            class_logits=self.class_logits.to(host, torch.promote_types(self.class_logits.dtype, torch.float32)),
            masks=self.masks.to(host, self.dtype),
            query_features=None if self.query_features is None else self.query_features.cpu(),
        )
