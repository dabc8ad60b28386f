"""Choice of the loss by what a model predicts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from mask2former.config import CriterionConfig
from mask2former.losses.criterion import Criterion
from mask2former.losses.per_pixel import PixelCriterion

__all__ = ["build_criterion"]


def build_criterion(
    num_classes: int,
    config: CriterionConfig,
    *,
    of_pixels: bool = False,
    class_weights: Sequence[float] | None = None,
) -> nn.Module:
    """A :class:`Criterion` with these settings, or a :class:`PixelCriterion` for a model that classifies pixels.

    Args:
        num_classes: K.
        config: settings of the loss. ``void`` is not used here; it affects how targets are made.
        of_pixels: whether the model classifies pixels and has no queries.
        class_weights: one weight per class in class order; ``config`` has them by class name.
    """
    if of_pixels:
        return PixelCriterion(num_classes, class_weights)
    return Criterion(num_classes, **config.model_dump(exclude={"void", "class_weights"}), class_weights=class_weights)
