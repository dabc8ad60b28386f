"""Building blocks of settings: strict, frozen models, and numbers with their ranges."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mask2former import limits
from mask2former.config.old_names import with_new_names

__all__ = [
    "Batch",
    "ConfigT",
    "Decay",
    "Detections",
    "Frames",
    "NonNegativeFloat",
    "NonNegativeInt",
    "PixelMean",
    "PixelStd",
    "PositiveFloat",
    "PositiveInt",
    "Probability",
    "Resampling",
    "SceneNumber",
    "Strict",
    "Task",
]

Task = Literal["panoptic", "instance", "semantic"]
# How images are resized: bilinear either way. Antialiased, the filter widens where images shrink, as in Pillow;
# otherwise a pixel is computed from four, whatever the size, as in OpenCV.
Resampling = Literal["antialiased", "bilinear"]
ConfigT = TypeVar("ConfigT", bound=BaseModel)
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
# Values that no run needs, and values that would fill the memory or the day, are refused before anything starts: see
# limits.py.
PositiveInt = Annotated[int, Field(gt=0, le=limits.INTEGER)]
NonNegativeInt = Annotated[int, Field(ge=0, le=limits.INTEGER)]
Batch = Annotated[int, Field(gt=0, le=limits.BATCH)]
Frames = Annotated[int, Field(gt=0, le=limits.CLIP_FRAMES)]
Detections = Annotated[int, Field(gt=0, le=limits.DETECTIONS)]
SceneNumber = Annotated[int, Field(ge=0, le=limits.SCENE)]
# Of R, G, B in 0..255. Both far beyond published values (means of 0 to 127.5, deviations of 36 to 255): a deviation
# below 1 is meant for values in 0..1.
PixelMean = Annotated[float, Field(ge=0.0, le=255.0, allow_inf_nan=False)]
PixelStd = Annotated[float, Field(ge=1.0, le=1000.0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class Strict(BaseModel):
    """Settings that never change, and accept only their own names; those used up to 0.1.0 are read as current ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _read_old_names(cls, values: Any) -> Any:
        return with_new_names(values, cls.model_fields) if isinstance(values, dict) else values
