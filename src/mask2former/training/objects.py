"""Objects given in Python instead of being built from the configuration of a run."""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import nn

from mask2former.data.annotated import AnnotatedSet
from mask2former.data.clips import ClipSet, MeasuredClips
from mask2former.data.sample_sets import SampleSet, as_reader
from mask2former.data.transforms import Augmentation
from mask2former.errors import UserError
from mask2former.models.mask2former import Mask2Former

__all__ = ["Data", "Objects"]

Data = SampleSet | AnnotatedSet | ClipSet


@dataclass(frozen=True)
class Objects:
    """The objects that were given instead of being built from the configuration."""

    model: Mask2Former | None = None
    train_data: AnnotatedSet | ClipSet | None = None
    validation_data: AnnotatedSet | ClipSet | None = None
    augmentation: Augmentation | None = None
    criterion: nn.Module | None = None

    @classmethod
    def checked(
        cls,
        model: Mask2Former | None,
        train_data: Data | None,
        validation_data: Data | None,
        augmentation: Augmentation | None,
        criterion: nn.Module | None,
    ) -> Objects:
        """Objects that a training can use; see :func:`~mask2former.training.run.train`.

        Raises:
            UserError: one of them cannot be used for training.
        """
        if (train_data is None) != (validation_data is None):
            given, missing = ("train", "validation") if validation_data is None else ("validation", "train")
            raise UserError(f"{given}_data was given without {missing}_data; give both, or neither")
        if criterion is not None and any(value.requires_grad for value in criterion.parameters()):
            raise UserError(
                f"the criterion {type(criterion).__name__} has parameters, but only those of the model are "
                "trained; move them into the model"
            )
        return cls(model, _reader(train_data), _reader(validation_data), augmentation, criterion)

    def names(self) -> list[str]:
        """Names of those that no configuration describes: they must be given again to continue the run."""
        names = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        if self.model is not None and self.model.info.architecture is not None:
            names.remove("model")
        return names


def _reader(data: Data | None) -> AnnotatedSet | ClipSet | None:
    reader = None if data is None else as_reader(data)
    if reader is not None and "instance" not in reader.tasks and isinstance(reader, MeasuredClips):
        raise UserError("clips with panoptic ground truth are for evaluation only; training needs tracks (a ClipSet)")
    return reader
