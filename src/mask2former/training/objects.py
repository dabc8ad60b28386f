"""What is given in Python instead of being built from the configuration of a run."""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import nn

from mask2former.data.annotated import AnnotatedSet
from mask2former.data.clips import ClipSet
from mask2former.data.transforms import Augmentation
from mask2former.errors import UserError
from mask2former.models.mask2former import Mask2Former

__all__ = ["Objects"]


@dataclass(frozen=True)
class Objects:
    """What was given instead of being built from the configuration."""

    model: Mask2Former | None = None
    train_data: AnnotatedSet | ClipSet | None = None
    validation_data: AnnotatedSet | ClipSet | None = None
    augmentation: Augmentation | None = None
    criterion: nn.Module | None = None

    def check(self) -> None:
        """Refuse what could not be trained with.

        Raises:
            UserError: naming it.
        """
        if (self.train_data is None) != (self.validation_data is None):
            given, missing = ("train", "validation") if self.validation_data is None else ("validation", "train")
            raise UserError(f"{given}_data was given without {missing}_data; give both, or neither")
        if self.criterion is not None and any(value.requires_grad for value in self.criterion.parameters()):
            raise UserError(
                f"the criterion {type(self.criterion).__name__} has parameters, but those of the model alone are "
                "learned; put them into the model"
            )

    def names(self) -> list[str]:
        """Of those that no configuration describes: who goes on with the run has to give them again."""
        names = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        if self.model is not None and self.model.info.architecture is not None:
            names.remove("model")
        return names
