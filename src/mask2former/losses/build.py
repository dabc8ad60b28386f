"""The loss for a model, depending on what it predicts."""

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
    """A :class:`Criterion` with these settings; of a model that classifies pixels, a :class:`PixelCriterion`.

    Args:
        num_classes: K.
        config: its ``void`` is not used here, but for what targets tell the criterion.
        of_pixels: whether the model has no queries.
        class_weights: of each class, which ``config`` has by name.
    """
    if of_pixels:
        return PixelCriterion(num_classes, class_weights)
    return Criterion(num_classes, **config.model_dump(exclude={"void", "class_weights"}), class_weights=class_weights)
