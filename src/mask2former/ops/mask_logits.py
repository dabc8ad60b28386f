"""Mask logits that are computed on access, and only as far as they are read.

A mask logit is the product of a query embedding and a pixel embedding (Mask2Former, Sec. 3.2), so masks can be taken at
points, at another size or for some queries without the masks of all queries at full size: sampling and resizing are
linear, and act on the pixel embeddings instead. Knows neither the meaning of queries nor losses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from mask2former.ops.points import sample_pixels, sample_points

__all__ = ["DenseMasks", "MaskLogits", "MaskProduct", "as_mask_logits", "masks_of_queries"]


class MaskLogits(ABC):
    """Mask logits ``(Q, T, h, w)`` of a clip, or ``(B, Q, T, h, w)`` of a batch of clips."""

    __slots__ = ()

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """That of :meth:`all`."""

    @property
    @abstractmethod
    def factors(self) -> tuple[Tensor, ...]:
        """The tensors that logits are computed from."""

    @property
    @abstractmethod
    def bound(self) -> Float[Tensor, ""]:
        """A bound on the absolute value of all logits, in at least float32; infinite or NaN if some logit may be."""

    @property
    def device(self) -> torch.device:
        return self.factors[0].device

    @property
    def dtype(self) -> torch.dtype:
        return self.factors[0].dtype

    @abstractmethod
    def all(self) -> Float[Tensor, "*batch Q T h w"]:
        """Every logit."""

    @abstractmethod
    def of_queries(self, queries: Int64[Tensor, " N"]) -> Float[Tensor, "N T h w"]:
        """The logits of some queries of a clip."""

    @abstractmethod
    def at_points(self, points: Float[Tensor, "1 P 2"]) -> Float[Tensor, "Q T P"]:
        """All queries of a clip at the same points of every frame, as :func:`sample_points` reads them."""

    @abstractmethod
    def clips(self) -> Sequence[MaskLogits]:
        """The clips of a batch."""

    @abstractmethod
    def frame(self, index: int) -> MaskLogits:
        """One frame (T = 1) of a clip."""

    @abstractmethod
    def detach(self) -> MaskLogits:
        """The same without gradient."""

    @abstractmethod
    def clone(self) -> MaskLogits:
        """A copy that owns its memory."""

    @abstractmethod
    def to(self, device: torch.device, dtype: torch.dtype) -> MaskLogits:
        """The same on another device, or in another precision."""


@dataclass(frozen=True, slots=True)
class MaskProduct(MaskLogits):
    """Products of query and pixel embeddings.

    Attributes:
        embeddings: of the queries.
        features: of the pixels; fast in channels-last layout.
    """

    embeddings: Float[Tensor, "*batch Q C"]
    features: Float[Tensor, "*batch T C h w"]

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.embeddings.shape[:-1], self.features.shape[-4], *self.features.shape[-2:])

    @property
    def factors(self) -> tuple[Tensor, ...]:
        return self.embeddings, self.features

    @property
    def bound(self) -> Float[Tensor, ""]:
        return self.embeddings.shape[-1] * _largest(self.embeddings) * _largest(self.features)

    def all(self) -> Float[Tensor, "*batch Q T h w"]:
        if self.embeddings.ndim == 2:
            return _product(self.embeddings, self.features)
        if torch.compiler.is_exporting():  # slower, but the number of clips stays open
            return torch.einsum("bqc,btchw->bqthw", self.embeddings, self.features)
        return torch.stack([clip.all() for clip in self.clips()])

    def of_queries(self, queries: Int64[Tensor, " N"]) -> Float[Tensor, "N T h w"]:
        return _product(self.embeddings[queries], self.features)

    def at_points(self, points: Float[Tensor, "1 P 2"]) -> Float[Tensor, "Q T P"]:
        sampled = sample_pixels(self.features, points)  # (T, P, C)
        return F.linear(sampled, self.embeddings).movedim(2, 0)

    def clips(self) -> list[MaskProduct]:
        # unbind and not indices: its gradient is one stack, theirs are as many whole batches.
        return [MaskProduct(*both) for both in zip(self.embeddings.unbind(0), self.features.unbind(0), strict=True)]

    def frame(self, index: int) -> MaskProduct:
        return MaskProduct(self.embeddings, self.features[index : index + 1])

    def detach(self) -> MaskProduct:
        return MaskProduct(self.embeddings.detach(), self.features.detach())

    def clone(self) -> MaskProduct:
        return MaskProduct(self.embeddings.clone(), self.features.clone())

    def to(self, device: torch.device, dtype: torch.dtype) -> MaskProduct:
        return MaskProduct(self.embeddings.to(device, dtype), self.features.to(device, dtype))


@dataclass(frozen=True, slots=True)
class DenseMasks(MaskLogits):
    """Logits that exist, as exported networks and other decoders give them."""

    logits: Float[Tensor, "*batch Q T h w"]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.logits.shape)

    @property
    def factors(self) -> tuple[Tensor, ...]:
        return (self.logits,)

    @property
    def bound(self) -> Float[Tensor, ""]:
        return _largest(self.logits)

    def all(self) -> Float[Tensor, "*batch Q T h w"]:
        return self.logits

    def of_queries(self, queries: Int64[Tensor, " N"]) -> Float[Tensor, "N T h w"]:
        return self.logits[queries]

    def at_points(self, points: Float[Tensor, "1 P 2"]) -> Float[Tensor, "Q T P"]:
        return sample_points(self.logits.flatten(0, 1).unsqueeze(0), points)[0].unflatten(0, self.logits.shape[:2])

    def clips(self) -> list[DenseMasks]:
        return [DenseMasks(clip) for clip in self.logits.unbind(0)]

    def frame(self, index: int) -> DenseMasks:
        return DenseMasks(self.logits[:, index : index + 1])

    def detach(self) -> DenseMasks:
        return DenseMasks(self.logits.detach())

    def clone(self) -> DenseMasks:
        return DenseMasks(self.logits.clone())

    def to(self, device: torch.device, dtype: torch.dtype) -> DenseMasks:
        return DenseMasks(self.logits.to(device, dtype))


def as_mask_logits(masks: MaskLogits | Tensor) -> MaskLogits:
    """A tensor of logits as :class:`DenseMasks`; anything else as it is."""
    return DenseMasks(masks) if isinstance(masks, Tensor) else masks


def masks_of_queries(
    depths: Sequence[MaskLogits], queries: Sequence[Int64[Tensor, " _N"]]
) -> list[Float[Tensor, "_N T h w"]]:
    """The logits of some queries of one clip at several depths, those of products in one product.

    The pixel embeddings, which all depths share, so get their gradient at once, and queries that nobody reads cost
    nothing.

    Args:
        depths: of the clip.
        queries: of each depth.
    """
    products = [masks for masks in depths if isinstance(masks, MaskProduct)]
    if len(products) < len(depths) or any(masks.features is not products[0].features for masks in products):
        return [masks.of_queries(chosen) for masks, chosen in zip(depths, queries, strict=True)]
    chosen = [masks.embeddings[some] for masks, some in zip(products, queries, strict=True)]
    logits = _product(torch.cat(chosen), products[0].features)
    return list(logits.split([len(some) for some in chosen]))


def _largest(values: Tensor) -> Float[Tensor, ""]:
    """The largest absolute value in at least float32; NaN passes through. ``aminmax`` would copy channels-last maps."""
    extremes = torch.stack((values.detach().amin(), values.detach().amax()))
    return extremes.to(torch.promote_types(values.dtype, torch.float32)).abs().amax()


def _product(embeddings: Float[Tensor, "N C"], features: Float[Tensor, "T C h w"]) -> Float[Tensor, "N T h w"]:
    """One logit per query and pixel (Mask2Former, Sec. 3.2).

    Pixels are the rows of the product, as channels-last features have them in memory; the result is a view of it.
    """
    return F.linear(features.movedim(1, -1), embeddings).movedim(-1, 0)
