"""Mask logits as products of query and pixel embeddings, with a backward pass that leaves out unmatched queries.

The loss reads the masks of matched queries only, often a tenth of them, at every decoder depth. Knows neither
queries' meaning nor losses: which rows have a gradient is read from the gradient itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["mask_product", "with_gradient"]


def mask_product(
    embeddings: Float[Tensor, "B Q C"], features: Float[Tensor, "B T C h w"]
) -> Float[Tensor, "B Q T h w"]:
    """One logit per query and pixel (Mask2Former, Sec. 3.2)."""
    return torch.einsum("bqc,btchw->bqthw", embeddings, features)


def with_gradient(
    logits: Sequence[Float[Tensor, "B Q T h w"]],
    embeddings: Sequence[Float[Tensor, "B Q C"]],
    features: Float[Tensor, "B T C h w"],
) -> tuple[Float[Tensor, "B Q T h w"], ...]:
    """``logits``, computed without a graph by :func:`mask_product`, as differentiable products, all depths at once.

    Values are those given. Gradients are those of :func:`mask_product`, in one product over all rows of all depths
    whose gradient is not zero, so the pixel embeddings get theirs once and not per depth.
    """
    return _Products.apply(features, torch.stack(tuple(embeddings)), *logits)  # pyright: ignore[reportReturnType]


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, embeddings: Tensor, *logits: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(features, embeddings)
        ctx.set_materialize_grads(False)
        return tuple(depth.view_as(depth) for depth in logits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        features, embeddings = ctx.saved_tensors  # (B, T, C, h, w), (D, B, Q, C)
        grad_features, grad_embeddings = torch.zeros_like(features), torch.zeros_like(embeddings)
        touched = {depth: grad.flatten(2).any(2) for depth, grad in enumerate(grads) if grad is not None}
        for clip, maps in enumerate(features):
            rows = {depth: some[clip].nonzero().flatten() for depth, some in touched.items()}
            chosen = [grads[depth][clip, queries].to(maps.dtype) for depth, queries in rows.items()]  # pyright: ignore[reportOptionalSubscript]
            if not chosen:
                continue
            grad = torch.cat(chosen).flatten(2)  # (R, T, h*w)
            vectors = torch.cat([embeddings[depth, clip, queries] for depth, queries in rows.items()])  # (R, C)
            pixels = maps.flatten(2)  # (T, C, h*w)
            grad_features[clip] = torch.einsum("rc,rts->tcs", vectors, grad).view_as(maps)
            grad_vectors = torch.einsum("rts,tcs->rc", grad, pixels)
            pieces = grad_vectors.split([len(queries) for queries in rows.values()])
            for (depth, queries), piece in zip(rows.items(), pieces, strict=True):
                grad_embeddings[depth, clip, queries] = piece
        return grad_features, grad_embeddings, *(None for _ in grads)
