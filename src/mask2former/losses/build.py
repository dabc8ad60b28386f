"""The loss of a model, by what it predicts."""

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
        config: whose ``void`` says what targets tell the criterion, and is not for it.
        of_pixels: whether the model has no queries.
        class_weights: of each class, which ``config`` has by name.
    """
    if of_pixels:
        return PixelCriterion(num_classes, class_weights)
    return Criterion(num_classes, **config.model_dump(exclude={"void", "class_weights"}), class_weights=class_weights)
